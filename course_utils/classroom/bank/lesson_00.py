"""Lesson 00, start here: two small exercises that show how exercises work."""

import torch

from course_utils import similarity
from course_utils.classroom.exercises import Case, Exercise, Mistake

# --- start/mean-pooling ---------------------------------------------------------------------------


def mean_pooling_stub(hidden_states, attention_mask):
    """hidden_states (batch, tokens, hidden_size), attention_mask (batch, tokens) of 1 and 0
    → (batch, hidden_size): the mean over the real tokens (1), padding (0) left out"""
    raise NotImplementedError("your turn")


def _padded(implementation, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    hidden_states = torch.randn(3, 5, 4, generator=generator, dtype=dtype)
    attention_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    return implementation(hidden_states, attention_mask)


def _by_hand(implementation):
    hidden_states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [90.0, 90.0]]])
    return implementation(hidden_states, torch.tensor([[1, 1, 0]]))


def _mean_of_everything(hidden_states, attention_mask):
    return hidden_states.mean(dim=1)


def _divided_by_length(hidden_states, attention_mask):
    return (hidden_states * attention_mask.unsqueeze(-1)).mean(dim=1)


def _sum_only(hidden_states, attention_mask):
    return (hidden_states * attention_mask.unsqueeze(-1)).sum(dim=1)


def _wrong_axis(hidden_states, attention_mask):
    masked = hidden_states * attention_mask.unsqueeze(-1)
    return masked.sum(dim=2) / attention_mask.sum(dim=1, keepdim=True)


def _one_count_for_the_batch(hidden_states, attention_mask):
    masked = hidden_states * attention_mask.unsqueeze(-1)
    return masked.sum(dim=1) / attention_mask.sum(dim=1).max()


def _first_token(hidden_states, attention_mask):
    return hidden_states[:, 0]


def _mask_without_axis(hidden_states, attention_mask):
    return (hidden_states * attention_mask).sum(dim=1) / attention_mask.sum(dim=1, keepdim=True)


def _count_without_axis(hidden_states, attention_mask):
    return (hidden_states * attention_mask.unsqueeze(-1)).sum(dim=1) / attention_mask.sum(dim=1)


def _overwrites_its_input(hidden_states, attention_mask):
    hidden_states[attention_mask == 0] = 0
    return hidden_states.sum(dim=1) / attention_mask.sum(dim=1, keepdim=True)


def _input_kept(implementation):
    hidden_states = torch.arange(12.0).view(1, 4, 3)
    implementation(hidden_states, torch.tensor([[1, 1, 1, 0]]))
    return hidden_states


MEAN_POOLING = Exercise(
    id="start/mean-pooling",
    title="One vector for a sentence",
    lesson="00",
    difficulty=1,
    minutes=5,
    reference=similarity.mean_pooling,
    stub=mean_pooling_stub,
    cases=[
        Case("two real tokens by hand: (1, 2) and (3, 4) give (2, 3)", _by_hand),
        Case("three sentences of 5, 2 and 3 tokens", _padded),
        Case("the same in float64", lambda f: _padded(f, torch.float64)),
        Case("the vectors that came in are left as they were", _input_kept),
    ],
    hints=[
        "Multiply by the mask first: padding becomes zero. What must you divide the sum by then?",
        "attention_mask.unsqueeze(-1) has shape (batch, tokens, 1) and multiplies every number of "
        "a token's vector; divide the sum over dim=1 by attention_mask.sum(dim=1, keepdim=True).",
    ],
    mistakes=[
        Mistake(_mean_of_everything, "You averaged over padding as well: the mask is not used."),
        Mistake(
            _divided_by_length,
            "The padding adds nothing to your sum, but you still divide by all tokens: divide by "
            "the number of real ones.",
        ),
        Mistake(
            _mask_without_axis,
            "The mask has one number a token, the vectors have hidden_size of them: give the mask "
            "a last axis of size 1, attention_mask.unsqueeze(-1).",
        ),
        Mistake(
            _count_without_axis,
            "The counts have shape (batch,) and would divide along the vector: keep their axis, "
            "sum(dim=1, keepdim=True).",
        ),
        Mistake(
            _overwrites_its_input,
            "Right, but you wrote zeros into the caller's hidden_states. Multiply instead: that "
            "makes a new tensor.",
        ),
        Mistake(_sum_only, "That is the sum: it still has to be divided by the number of tokens."),
        Mistake(
            _one_count_for_the_batch,
            "You divided every sentence by the longest one's length; each has its own.",
        ),
        Mistake(
            _wrong_axis,
            "You added up along the vector; add up along the tokens (dim=1). "
            "Yours came out as {shape}.",
        ),
        Mistake(
            _first_token,
            "You took the first token's vector, [CLS]. Some models are trained for that; here it "
            "is the mean of all real tokens.",
        ),
    ],
)

# --- start/cosine-similarity ----------------------------------------------------------------------


def cosine_similarity_stub(left, right):
    """left (n, hidden_size), right (m, hidden_size)
    → (n, m): the cosine of each row with each row"""
    raise NotImplementedError("your turn")


def _two_sets(implementation):
    generator = torch.Generator().manual_seed(2)
    left = torch.randn(3, 4, generator=generator)
    right = 5 * torch.randn(2, 4, generator=generator)
    return implementation(left, right)


def _right_angles(implementation):
    left = torch.tensor([[2.0, 0.0]])
    return implementation(left, torch.tensor([[3.0, 0.0], [0.0, 5.0], [-7.0, 0.0]]))


def _dot_product(left, right):
    return left @ right.T


def _only_left_normalised(left, right):
    return (left / left.norm(dim=-1, keepdim=True)) @ right.T


def _columns_normalised(left, right):
    return (left / left.norm(dim=0, keepdim=True)) @ (right / right.norm(dim=0, keepdim=True)).T


def _squared_norms(left, right):
    return left @ right.T / (left.pow(2).sum(-1)[:, None] * right.pow(2).sum(-1)[None, :])


def _lengths_without_axis(left, right):
    return (left / left.norm(dim=-1)) @ (right / right.norm(dim=-1)).T


def _one_length_for_all(left, right):
    return (left / left.norm()) @ (right / right.norm()).T


def _row_by_row(left, right):
    return torch.nn.functional.cosine_similarity(left, right)


def _distance(left, right):
    return torch.cdist(left, right)


COSINE_SIMILARITY = Exercise(
    id="start/cosine-similarity",
    title="How alike are two vectors?",
    lesson="00",
    difficulty=1,
    minutes=5,
    reference=similarity.cosine_similarity,
    stub=cosine_similarity_stub,
    cases=[
        Case("the same way, a right angle, the opposite way: 1, 0, −1", _right_angles),
        Case("three vectors with two", _two_sets),
    ],
    hints=[
        "A cosine does not care how long the vectors are: bring every row to length 1 first.",
        "x / x.norm(dim=-1, keepdim=True) brings the rows to length 1; left @ right.T multiplies "
        "every row with every row.",
    ],
    mistakes=[
        Mistake(
            _dot_product,
            "That is the dot product: long vectors win whatever their direction. Bring the rows to "
            "length 1.",
        ),
        Mistake(_only_left_normalised, "The rows of `right` still have their own lengths."),
        Mistake(
            _columns_normalised,
            "You normalised columns (dim=0), which mixes different sentences; a row is one vector.",
        ),
        Mistake(_squared_norms, "You divided by squared lengths: the square root is missing."),
        Mistake(
            _lengths_without_axis,
            "The lengths have shape (n,) and would divide along the vector: keep their axis, "
            "norm(dim=-1, keepdim=True).",
        ),
        Mistake(
            _one_length_for_all,
            "norm() without dim is one length for the whole matrix; every row has its own.",
        ),
        Mistake(
            _row_by_row,
            "F.cosine_similarity compares row i with row i; here every row meets every row.",
        ),
        Mistake(_distance, "That is the distance between the tips; alike should give 1, not 0."),
    ],
)

EXERCISES = [MEAN_POOLING, COSINE_SIMILARITY]
CLAIMS = []
