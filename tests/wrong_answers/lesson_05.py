"""Wrong answers of lesson 05 on no list of known mistakes: the cases must reject them too."""

import torch.nn.functional as F

from course_utils.pretraining import MlmHead, choose_words, mask_tokens, mlm_loss, nsp_pairs


def masks_the_end_only(
    input_ids, special_tokens_mask, mask_token_id, vocab_size, probability=0.15, generator=None
):
    """Nothing in a sentence's first half is ever chosen."""
    special = special_tokens_mask.clone().bool()
    special[:, : special.shape[1] // 2] = True
    return mask_tokens(input_ids, special, mask_token_id, vocab_size, probability, generator)


def random_tokens_from_the_lower_half(
    input_ids, special_tokens_mask, mask_token_id, vocab_size, probability=0.15, generator=None
):
    return mask_tokens(
        input_ids, special_tokens_mask, mask_token_id, vocab_size // 2, probability, generator
    )


def masks_in_float(
    input_ids, special_tokens_mask, mask_token_id, vocab_size, probability=0.15, generator=None
):
    masked, labels = mask_tokens(
        input_ids, special_tokens_mask, mask_token_id, vocab_size, probability, generator
    )
    return masked, labels.float()


def chooses_half_as_many_words(
    special_tokens_mask, continues_word, probability=0.15, generator=None
):
    return choose_words(special_tokens_mask, continues_word, probability / 2, generator)


def chooses_short_words_only(special_tokens_mask, continues_word, probability=0.15, generator=None):
    chosen = choose_words(special_tokens_mask, continues_word, probability, generator)
    next_continues = F.pad(continues_word, (0, 1), value=False)[:, 1:]
    return chosen & ~continues_word & ~next_continues


def pairs_with_themselves(documents, generator=None, max_length=128):
    return [
        (first, first if label == 0 else second, label)
        for first, second, label in nsp_pairs(documents, generator, max_length)
    ]


def pairs_the_wrong_way_round(documents, generator=None, max_length=128):
    pairs = nsp_pairs(documents, generator, max_length)
    return [(second, first, label) for first, second, label in pairs]


def only_real_pairs(documents, generator=None, max_length=128):
    return [pair for pair in nsp_pairs(documents, generator, max_length) if pair.label == 0]


def loss_with_smoothing(logits, labels):
    asked = labels != -100
    losses = F.cross_entropy(logits[asked], labels[asked], reduction="sum", label_smoothing=0.1)
    return losses / asked.sum().clamp(min=1)


def loss_clipped(logits, labels):
    return mlm_loss(logits, labels).clamp(max=2.0)


class HeadWithActivationLast(MlmHead):
    def forward(self, hidden_states):
        x = self.dense(self.norm(self.activation(hidden_states)))
        return x @ self.token_embedding_weight.T + self.bias


class HeadWithCosine(MlmHead):
    def forward(self, hidden_states):
        x = self.norm(self.activation(self.dense(hidden_states)))
        rows = F.normalize(self.token_embedding_weight, dim=-1)
        return F.normalize(x, dim=-1) @ rows.T + self.bias


def falls_to_a_tenth(step, warmup_steps, total_steps):
    if step < warmup_steps:
        return step / warmup_steps
    left = (total_steps - step) / max(1, total_steps - warmup_steps)
    return max(0.1, left)


def climbs_as_a_square(step, warmup_steps, total_steps):
    if step < warmup_steps:
        return (step / warmup_steps) ** 2
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


WRONG = {
    "pretraining/mask-tokens": [
        masks_the_end_only,
        random_tokens_from_the_lower_half,
        masks_in_float,
    ],
    "pretraining/whole-words": [chooses_half_as_many_words, chooses_short_words_only],
    "pretraining/nsp-pairs": [pairs_with_themselves, pairs_the_wrong_way_round, only_real_pairs],
    "pretraining/mlm-loss": [loss_with_smoothing, loss_clipped],
    "pretraining/mlm-head": [HeadWithActivationLast, HeadWithCosine],
    "pretraining/warmup-decay": [falls_to_a_tenth, climbs_as_a_square],
}
