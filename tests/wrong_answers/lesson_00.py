"""Wrong answers of lesson 00 that are on no list of known mistakes; the cases reject them too."""


def median_pooling(hidden_states, attention_mask):
    return hidden_states.median(dim=1).values


def pooled_with_inverted_mask(hidden_states, attention_mask):
    mask = (1 - attention_mask).unsqueeze(-1)
    return (hidden_states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def absolute_cosine(left, right):
    left = left / left.norm(dim=-1, keepdim=True)
    right = right / right.norm(dim=-1, keepdim=True)
    return (left @ right.T).abs()


def manhattan_cosine(left, right):
    left = left / left.abs().sum(dim=-1, keepdim=True)
    right = right / right.abs().sum(dim=-1, keepdim=True)
    return left @ right.T


WRONG = {
    "start/mean-pooling": [median_pooling, pooled_with_inverted_mask],
    "start/cosine-similarity": [absolute_cosine, manhattan_cosine],
}
