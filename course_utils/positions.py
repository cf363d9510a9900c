"""Lesson 01: where is the order? Four ways to tell attention the positions of its tokens.

Learned positions, which BERT uses, need no code here: they are nn.Embedding(max_length, hidden).
"""

import torch
from torch import Tensor


def sinusoidal_positions(length: int, hidden_size: int, base: float = 10_000.0) -> Tensor:
    """Each position as a set of clock hands, from fast ones to slow ones.

    returns (length, hidden_size), float32; feature 2i is sin(position / base^(2i / hidden_size))
    and feature 2i + 1 the cosine of the same angle. Wavelengths run from 2π to nearly base · 2π.
    Raises ValueError for an odd hidden_size. Source: Vaswani et al. 2017, section 3.5.
    """
    if hidden_size < 2 or hidden_size % 2:
        raise ValueError(f"hidden_size must be even (a sine and a cosine each), not {hidden_size}")
    angle = _angles(torch.arange(length), hidden_size, base)  # (length, hidden_size / 2)
    pairs = torch.stack([angle.sin(), angle.cos()], dim=-1)  # (length, hidden_size / 2, 2)
    return pairs.flatten(-2)  # (length, hidden_size): sin, cos, sin, cos, …


def apply_rotary(x: Tensor, positions: Tensor | None = None, base: float = 10_000.0) -> Tensor:
    """Rotate queries or keys by an angle that grows with their position.

    x          (..., length, d_k), queries or keys after the split into heads
    positions  (length,), default 0, 1, 2, …
    returns    the same shape and dtype; each pair of features (2i, 2i + 1) turned by
               position / base^(2i / d_k)

    A rotated query · a rotated key depends on the difference of their positions only. The values
    stay as they are. Raises ValueError for an odd d_k.
    Source: Su et al. 2021 (RoFormer), section 3.2.2.
    """
    length, d_k = x.shape[-2:]
    if d_k % 2:
        raise ValueError(f"rotary positions turn pairs of features: d_k must be even, not {d_k}")
    if positions is None:
        positions = torch.arange(length, device=x.device)
    angle = _angles(positions, d_k, base)  # (length, d_k / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., 0::2], x[..., 1::2]  # (..., length, d_k / 2) each
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return turned.flatten(-2)  # (..., length, d_k / 2, 2) -> (..., length, d_k)


def alibi_slopes(num_heads: int) -> Tensor:
    """One slope for each head, a geometric sequence: 2^(−8/heads), 2^(−16/heads), …, 2^(−8).

    returns (heads,). Source: Press et al. 2022 (ALiBi), section 3. (The authors' code departs from
    this formula where num_heads is no power of two.)
    """
    head = torch.arange(1, num_heads + 1)
    return 2.0 ** (-8.0 * head / num_heads)


def alibi_bias(num_heads: int, queries: int, keys: int) -> Tensor:
    """What ALiBi adds to the scores before the softmax: −slope · |query position − key position|.

    returns (heads, queries, keys), 0 where a token looks at itself and more negative with distance.
    The paper is causal; the absolute value is the form for an encoder, which looks both ways.
    Source: Press et al. 2022, section 3.
    """
    distance = (torch.arange(queries)[:, None] - torch.arange(keys)[None, :]).abs()
    return -alibi_slopes(num_heads)[:, None, None] * distance  # (heads, 1, 1) · (queries, keys)


def _angles(positions: Tensor, width: int, base: float) -> Tensor:
    """position / base^(2i / width) for each i below width / 2: (length, width / 2), float32."""
    exponent = torch.arange(0, width, 2, device=positions.device) / width  # 2i / width
    return positions[:, None] * base**-exponent  # (length, 1) · (width / 2,)
