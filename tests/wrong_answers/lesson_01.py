"""Wrong answers of lesson 01 on no list of known mistakes: the cases must reject them too."""

import math

import torch
from torch import nn

from course_utils import attention, positions


def scores_of_cosines(query, key):
    return torch.cosine_similarity(query[..., :, None, :], key[..., None, :, :], dim=-1)


def scores_rounded_root(query, key):
    return query @ key.transpose(-2, -1) / math.isqrt(query.size(-1))


def mask_for_all_queries(attention_mask):
    batch, keys = attention_mask.shape
    return attention_mask.bool()[:, None, None, :].expand(batch, 1, keys, keys)


def mask_that_always_sees_the_first(attention_mask):
    mask = attention_mask.bool().clone()
    mask[:, 0] = True
    return mask[:, None, None, :]


def attention_without_max(query, key, value, mask=None):
    """Sigmoid in place of softmax."""
    weights = attention.attention_scores(query, key).sigmoid()
    if mask is not None:
        weights = weights * mask
    return weights @ value, weights


def attention_with_detached_weights(query, key, value, mask=None):
    output, weights = attention.scaled_dot_product_attention(query, key, value, mask)
    return weights.detach() @ value, weights.detach()


def split_backwards(hidden_states, num_heads):
    return attention.split_heads(hidden_states, num_heads).flip(1)


def split_and_scaled(hidden_states, num_heads):
    return attention.split_heads(hidden_states, num_heads) / math.sqrt(num_heads)


def merge_backwards(per_head):
    return attention.merge_heads(per_head.flip(1))


def merge_first_head_repeated(per_head):
    return per_head[:, 0].repeat(1, 1, per_head.size(1))


class WithoutOutputBias(nn.Module):
    def __init__(self, hidden_size, num_heads, dropout=0.0):
        super().__init__()
        self.num_heads, self.dropout = num_heads, nn.Dropout(dropout)
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(hidden_size, hidden_size, bias=name != "output"))

    def forward(self, query, key, value, mask=None, need_weights=True):
        q = attention.split_heads(self.query(query), self.num_heads)
        k = attention.split_heads(self.key(key), self.num_heads)
        v = attention.split_heads(self.value(value), self.num_heads)
        _, weights = attention.scaled_dot_product_attention(q, k, v, mask)
        output = self.output(attention.merge_heads(self.dropout(weights) @ v))
        return output, weights if need_weights else None


class WithResidual(attention.MultiHeadAttention):
    def forward(self, query, key, value, mask=None, need_weights=True):
        output, weights = super().forward(query, key, value, mask, need_weights)
        return output + query, weights


def sinusoids_of_positions_halved(length, hidden_size, base=10_000.0):
    return positions.sinusoidal_positions(2 * length, hidden_size, base)[::2]


def sinusoids_in_degrees(length, hidden_size, base=10_000.0):
    frequency = base ** (-torch.arange(0, hidden_size, 2) / hidden_size)
    angle = torch.deg2rad(torch.arange(length)[:, None] * frequency)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


WRONG = {
    "attention/scores": [scores_of_cosines, scores_rounded_root],
    "attention/padding-mask": [mask_for_all_queries, mask_that_always_sees_the_first],
    "attention/scaled-dot-product": [attention_without_max, attention_with_detached_weights],
    "attention/split-heads": [split_backwards, split_and_scaled],
    "attention/merge-heads": [merge_backwards, merge_first_head_repeated],
    "attention/multi-head-attention": [WithoutOutputBias, WithResidual],
    "attention/sinusoidal-positions": [sinusoids_of_positions_halved, sinusoids_in_degrees],
}
