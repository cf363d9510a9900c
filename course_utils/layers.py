"""Lesson 02: what a Transformer layer holds besides attention: GELU, LayerNorm, feed-forward.

GELU and layer normalization are written twice: once as the formula, once as PyTorch's single
kernel. The two give the same numbers (tests/test_layers.py); the kernel reads and writes memory
once where the formula does four or five times. `FUSED = False` makes this module compute by the
formulas.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FUSED = True


def gelu(x: Tensor) -> Tensor:
    """x · Φ(x), where Φ(x) is the chance that a draw from a standard normal is below x.

    Args:
        x: any shape, floating point.

    Returns:
        The same shape and dtype.

    Source: Hendrycks and Gimpel 2016, *Gaussian Error Linear Units*, section 2.
    """
    if FUSED:
        return F.gelu(x)  # the formula below, in one pass over memory
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU with Φ approximated through tanh: within 5e-4 of `gelu`; what Google's BERT computes.

    Args:
        x: any shape, floating point.

    Returns:
        The same shape and dtype.

    Source: Hendrycks and Gimpel 2016, section 2; google-research/bert, `modeling.py`, `gelu`.
    """
    if FUSED:
        return F.gelu(x, approximate="tanh")
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """The activation of that name: "gelu", "gelu_tanh" or "relu". Raises ValueError for others."""
    functions = {"gelu": gelu, "gelu_tanh": gelu_tanh, "relu": torch.relu}
    if name not in functions:
        raise ValueError(f"activation {name!r} is unknown; take one of {', '.join(functions)}.")
    return functions[name]


class LayerNorm(nn.Module):
    """Give each token's vector mean 0 and variance 1, then a learned scale and shift a feature.

    The statistics are those of one token's features: no other token and no other sentence enters.

    Args:
        hidden_size: length of the last axis.
        eps: added to the variance, inside the root. BERT uses 1e-12, `nn.LayerNorm` 1e-5.

    Shapes: (..., hidden_size) → (..., hidden_size).

    Source: Ba, Kiros and Hinton 2016, *Layer Normalization*, section 3, equation 3.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-12) -> None:
        super().__init__()
        if hidden_size < 1:
            raise ValueError(f"hidden_size is {hidden_size}; a vector needs at least one feature.")
        self.hidden_size = hidden_size
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.hidden_size:
            raise ValueError(
                f"LayerNorm({self.hidden_size}) got vectors of length {x.shape[-1]}; "
                "the last axis must be hidden_size."
            )
        if FUSED:
            return F.layer_norm(x, (self.hidden_size,), self.weight, self.bias, self.eps)
        mean = x.mean(-1, keepdim=True)  # (..., 1)
        variance = x.var(-1, keepdim=True, correction=0)  # (..., 1); biased: divided by hidden_size
        normalized = (x - mean) / torch.sqrt(variance + self.eps)  # (..., hidden_size)
        return self.weight * normalized + self.bias


class FeedForward(nn.Module):
    """Two linear layers with an activation between, applied to every token on its own.

    Args:
        hidden_size: width of a token's vector (768 in BERT-base).
        intermediate_size: width in between (3072, four times as wide).
        activation: "gelu", "gelu_tanh" or "relu".
        dropout: probability after the second layer, as in BERT. (`nn.TransformerEncoderLayer` has
            another dropout between the two.)

    Shapes: (..., hidden_size) → (..., hidden_size).

    Raises:
        ValueError: unknown activation.

    Source: Vaswani et al. 2017, *Attention Is All You Need*, section 3.3 (with ReLU); Devlin et al.
    2019, *BERT*, appendix A.2 (GELU).
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: str = "gelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.expand = nn.Linear(hidden_size, intermediate_size)
        self.contract = nn.Linear(intermediate_size, hidden_size)
        self.activation = activation_function(activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.activation(self.expand(x))  # (..., intermediate_size)
        return self.dropout(self.contract(wide))  # (..., hidden_size)
