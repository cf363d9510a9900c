"""Lesson 01: attention, from one dot product to many heads.

Everything follows section 3.2 of Vaswani et al., "Attention Is All You Need" (2017). One convention
holds throughout: a mask is boolean, and True means "this query may look at this key".
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attention_scores(query: Tensor, key: Tensor) -> Tensor:
    """How well each query matches each key: query · key / √d_k.

    query  (..., queries, d_k)
    key    (..., keys, d_k)
    returns scores (..., queries, keys), before any softmax

    A dot product adds up d_k terms, so its standard deviation grows as √d_k; the division takes
    that growth out again. Raises ValueError where the two widths differ.
    Source: Vaswani et al. 2017, section 3.2.1.
    """
    if query.size(-1) != key.size(-1):
        raise ValueError(
            f"query and key need the same last size d_k, not {query.size(-1)} and {key.size(-1)}"
        )
    d_k = query.size(-1)
    return query @ key.transpose(-2, -1) * d_k**-0.5  # (..., queries, keys)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A soft lookup: each query gets a mix of the values, weighted by how well their keys match.

    query  (..., queries, d_k)
    key    (..., keys, d_k)
    value  (..., keys, d_v)
    mask   bool, True = may attend, broadcastable to (..., queries, keys); None = all may attend
    returns output (..., queries, d_v) and weights (..., queries, keys)

    Each row of the weights sums to 1. A row whose mask has no True has nothing to look at: its
    weights and its output are 0, and no NaN appears, neither forward nor backward.
    Raises ValueError for widths that do not fit and for a mask of the wrong dtype or shape.
    Source: Vaswani et al. 2017, equation 1.
    """
    scores = attention_scores(query, key)  # (..., queries, keys)
    if mask is None:
        weights = torch.softmax(scores, dim=-1)
    else:
        check_mask(mask, scores.shape)
        empty = ~mask.any(dim=-1, keepdim=True)  # (..., queries or 1, 1): rows with nothing to see
        # softmax over -inf alone is 0/0: let an empty row see all, then take its weights away
        scores = scores.masked_fill(~(mask | empty), float("-inf"))
        weights = torch.softmax(scores, dim=-1).masked_fill(empty, 0.0)
    return weights @ value, weights  # (..., queries, d_v), (..., queries, keys)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """The output of `scaled_dot_product_attention`, from PyTorch's fused kernel.

    The kernel works through the keys in blocks and never stores the (queries, keys) matrix, so it
    can not return the weights. `dropout` is the probability of dropping one weight.
    Shapes, mask and errors as in `scaled_dot_product_attention`.
    Source: Dao et al. 2022 (FlashAttention), section 3.1.
    """
    if mask is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    check_mask(mask, (*query.shape[:-1], key.size(-2)))
    empty = ~mask.any(dim=-1, keepdim=True)  # (..., queries or 1, 1)
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask | empty, dropout_p=dropout
    )
    return output.masked_fill(empty, 0.0)  # (..., queries, d_v)


def check_mask(mask: Tensor, scores_shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `mask` is boolean and broadcasts to exactly `scores_shape`."""
    if mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be boolean (True = may attend), not {mask.dtype}: use mask.bool()"
        )
    sizes = zip(reversed(mask.shape), reversed(scores_shape), strict=False)
    fits = all(have == want or have == 1 for have, want in sizes)
    if mask.dim() > len(scores_shape) or not fits:
        raise ValueError(
            f"mask {tuple(mask.shape)} does not broadcast to the scores {tuple(scores_shape)}: "
            "for padding it should be (batch, 1, 1, keys), see padding_mask"
        )


def padding_mask(attention_mask: Tensor) -> Tensor:
    """Turn a tokenizer's attention mask into one that the scores of all heads and queries can use.

    attention_mask  (batch, keys), integers or bool, 1 = a token, 0 = padding
    returns         (batch, 1, 1, keys), bool, True = may attend

    The two axes of size 1 stand for heads and queries: padding is the same for all of them.
    """
    if attention_mask.dim() != 2 or attention_mask.is_floating_point():
        raise ValueError(
            "attention_mask must be (batch, keys) of integers or bool (1 = token, 0 = padding), "
            f"not {tuple(attention_mask.shape)} of {attention_mask.dtype}"
        )
    return attention_mask.bool()[:, None, None, :]  # (batch, 1, 1, keys)


def causal_mask(length: int, device: torch.device | str | None = None) -> Tensor:
    """Each position sees itself and what came before: bool (length, length), True = may attend."""
    position = torch.arange(length, device=device)
    return position[None, :] <= position[:, None]  # key (1, length) <= query (length, 1)


def sliding_window_mask(
    length: int, window: int, device: torch.device | str | None = None
) -> Tensor:
    """Each position sees itself and `window` neighbours on either side: bool (length, length).

    The simplest sparse attention: a row has at most 2 · window + 1 True, whatever the length.
    Source: Beltagy et al. 2020 (Longformer), section 3.1, which counts the window over both sides.
    """
    if window < 0:
        raise ValueError(f"window must be 0 or more neighbours on either side, not {window}")
    position = torch.arange(length, device=device)
    return (position[None, :] - position[:, None]).abs() <= window  # (length, length)


def split_heads(hidden_states: Tensor, num_heads: int) -> Tensor:
    """(batch, length, hidden) → (batch, heads, length, d_k), where d_k = hidden / heads.

    Head h gets the h-th run of d_k neighbouring features of every token. Raises ValueError where
    the heads do not divide the hidden size.
    """
    batch, length, hidden = hidden_states.shape
    if num_heads < 1 or hidden % num_heads:
        raise ValueError(f"{num_heads} heads do not divide a hidden size of {hidden}")
    per_head = hidden_states.view(batch, length, num_heads, hidden // num_heads)
    return per_head.transpose(1, 2)  # (batch, length, heads, d_k) -> (batch, heads, length, d_k)


def merge_heads(per_head: Tensor) -> Tensor:
    """(batch, heads, length, d_k) → (batch, length, heads · d_k): undoes `split_heads`."""
    batch, heads, length, d_k = per_head.shape
    # transpose only changes how the memory is read: copy, so that view can join the axes
    side_by_side = per_head.transpose(1, 2).contiguous()  # (batch, length, heads, d_k)
    return side_by_side.view(batch, length, heads * d_k)


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each in its own slice of the hidden size.

    hidden_size  width of the inputs and of the output
    num_heads    must divide hidden_size; each head is d_k = hidden_size / num_heads wide
    dropout      probability of dropping one attention weight, in training only

    Parameters: `query`, `key`, `value`, `output`, each a Linear(hidden_size, hidden_size). Their
    number, 4 · hidden_size · (hidden_size + 1), does not depend on num_heads.
    Source: Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        if num_heads < 1 or hidden_size % num_heads:
            raise ValueError(f"{num_heads} heads do not divide a hidden size of {hidden_size}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        need_weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend with every head at once. Self-attention passes the same tensor three times.

        query  (batch, queries, hidden_size)
        key    (batch, keys, hidden_size)
        value  (batch, keys, hidden_size)
        mask   bool, True = may attend, broadcastable to (batch, heads, queries, keys)
        returns output (batch, queries, hidden_size) and weights (batch, heads, queries, keys),
        before dropout; with need_weights=False the weights are None and PyTorch's fused kernel
        does the work
        """
        q = split_heads(self.query(query), self.num_heads)  # (batch, heads, queries, d_k)
        k = split_heads(self.key(key), self.num_heads)  # (batch, heads, keys, d_k)
        v = split_heads(self.value(value), self.num_heads)  # (batch, heads, keys, d_k)
        dropout = self.dropout if self.training else 0.0

        if need_weights:
            mixed, weights = scaled_dot_product_attention(q, k, v, mask)
            if dropout:
                mixed = F.dropout(weights, dropout) @ v
        else:
            mixed, weights = fused_attention(q, k, v, mask, dropout), None
        # mixed (batch, heads, queries, d_k) -> (batch, queries, hidden)
        return self.output(merge_heads(mixed)), weights
