"""Lesson 00, start here: from a vector for each token to one for the sentence, and how alike two
are.
"""

import torch
from torch import Tensor


def mean_pooling(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    """Average the vectors of a sentence's real tokens; padding does not count.

    hidden_states (batch, tokens, hidden_size), attention_mask (batch, tokens), 1 or True for a real
    token, 0 or False for padding -> (batch, hidden_size). A row without a real token gives zeros.

    Raises ValueError if the two do not have the same batch and tokens.
    Source: Reimers and Gurevych (2019), Sentence-BERT, section 3 (the MEAN strategy).
    """
    if hidden_states.shape[:2] != attention_mask.shape:
        raise ValueError(
            f"the mask is {tuple(attention_mask.shape)}, the vectors are "
            f"{tuple(hidden_states.shape)}: the mask needs one entry for each token"
        )
    mask = attention_mask.unsqueeze(-1).to(hidden_states.dtype)  # (batch, tokens, 1)
    total = (hidden_states * mask).sum(dim=1)  # (batch, hidden_size)
    return total / mask.sum(dim=1).clamp(min=1)  # (batch, hidden_size) / (batch, 1)


def cosine_similarity(left: Tensor, right: Tensor) -> Tensor:
    """The cosine of the angle between every row of one matrix and every row of another.

    left (n, hidden_size), right (m, hidden_size) -> (n, m), from -1 (opposite) over 0 (at a right
    angle) to 1 (the same direction). A row of zeros gives zeros.

    Raises ValueError if the rows have different lengths.
    """
    if left.shape[-1] != right.shape[-1]:
        raise ValueError(
            f"vectors of {left.shape[-1]} and of {right.shape[-1]} numbers cannot be compared"
        )
    left = left / left.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(left.dtype).tiny)
    right = right / right.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(right.dtype).tiny)
    return left @ right.transpose(-2, -1)  # (n, hidden_size) @ (hidden_size, m) -> (n, m)
