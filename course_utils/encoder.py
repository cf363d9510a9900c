"""Lesson 02: the Transformer encoder layer, the stack of them, and what they cost."""

from typing import NamedTuple

from torch import Tensor, nn

from course_utils.attention import MultiHeadAttention
from course_utils.layers import FeedForward, LayerNorm


class EncoderOutput(NamedTuple):
    """What an `Encoder` returns.

    `last_hidden_state` (batch, tokens, hidden_size); `hidden_states` the input and every layer's
    output, num_layers + 1 of them, or None; `attentions` every layer's (batch, heads, queries,
    keys), or None.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward; around each a residual connection and a LayerNorm.

    Post-norm, as in BERT and the original Transformer: the LayerNorm stands on the main road, after
    the residual sum.

        x = LayerNorm(x + attention(x));   x = LayerNorm(x + feed_forward(x))

    Args:
        hidden_size: width of a token's vector; num_heads must divide it.
        num_heads: attention heads.
        intermediate_size: width inside the feed-forward part.
        dropout: probability on the attention weights and on what each part adds.
        activation: "gelu", "gelu_tanh" or "relu".
        eps: LayerNorm's.
        attention_dropout: another probability for the attention weights; None = the same.

    Raises:
        ValueError: unknown activation; num_heads does not divide hidden_size.

    Source: Vaswani et al. 2017, sections 3.1 and 5.4; Devlin et al. 2019, section 3.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        dropout: float = 0.1,
        activation: str = "gelu",
        eps: float = 1e-12,
        attention_dropout: float | None = None,
    ) -> None:
        super().__init__()
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.attention = MultiHeadAttention(hidden_size, num_heads, attention_dropout)
        self.attention_norm = LayerNorm(hidden_size, eps)
        self.feed_forward = FeedForward(hidden_size, intermediate_size, activation, dropout)
        self.feed_forward_norm = LayerNorm(hidden_size, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x (batch, tokens, hidden_size), mask as for MultiHeadAttention (True = may attend)
        → output (batch, tokens, hidden_size), weights (batch, heads, queries, keys) or None."""
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = self.attention_norm(x + self.dropout(attended))
        x = self.feed_forward_norm(x + self.feed_forward(x))  # it ends with its own dropout
        return x, weights


class PreNormEncoderLayer(EncoderLayer):
    """The same parts in another order, as in GPT-2: LayerNorm on what each part reads.

        x = x + attention(LayerNorm(x));   x = x + feed_forward(LayerNorm(x))

    Arguments, parameters and shapes are `EncoderLayer`'s.

    Source: Xiong et al. 2020, *On Layer Normalization in the Transformer Architecture*, figure 1.
    """

    def forward(
        self, x: Tensor, mask: Tensor | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        normed = self.attention_norm(x)
        attended, weights = self.attention(normed, normed, normed, mask, need_weights)
        x = x + self.dropout(attended)
        x = x + self.feed_forward(self.feed_forward_norm(x))
        return x, weights


class Encoder(nn.Module):
    """A stack of encoder layers, initialised as BERT's.

    Args:
        num_layers, hidden_size, num_heads, intermediate_size: BERT-base is 12, 768, 12, 3072.
        dropout, activation, eps, attention_dropout: see `EncoderLayer`.
        norm: "post", BERT's, or "pre", GPT-2's.
        initializer_range: standard deviation of the linear layers' first weights.

    With norm="pre" a last LayerNorm follows the stack: without it nothing would bound the sum of
    all residuals.

    Source: Devlin et al. 2019, section 3; Vaswani et al. 2017, section 3.1.
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        dropout: float = 0.1,
        activation: str = "gelu",
        norm: str = "post",
        eps: float = 1e-12,
        initializer_range: float = 0.02,
        attention_dropout: float | None = None,
    ) -> None:
        super().__init__()
        if norm not in ("post", "pre"):
            raise ValueError(f'norm is {norm!r}; take "post" (BERT) or "pre" (GPT-2).')
        layer = EncoderLayer if norm == "post" else PreNormEncoderLayer
        # passed on only where it is asked for: a reader's own layer does without it
        extra = {} if attention_dropout is None else {"attention_dropout": attention_dropout}
        self.layers = nn.ModuleList(
            layer(hidden_size, num_heads, intermediate_size, dropout, activation, eps, **extra)
            for _ in range(num_layers)
        )
        self.final_norm = LayerNorm(hidden_size, eps) if norm == "pre" else nn.Identity()
        initialize(self, initializer_range)

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """hidden_states (batch, tokens, hidden_size); mask as for MultiHeadAttention, one for all
        layers (True = may attend)."""
        all_states, all_weights = [hidden_states], []
        for layer in self.layers:
            hidden_states, weights = layer(hidden_states, mask, need_weights=output_attentions)
            all_states.append(hidden_states)
            all_weights.append(weights)
        hidden_states = all_states[-1] = self.final_norm(hidden_states)
        return EncoderOutput(
            hidden_states,
            tuple(all_states) if output_hidden_states else None,
            tuple(all_weights) if output_attentions else None,
        )


def initialize(module: nn.Module, initializer_range: float = 0.02) -> None:
    """Give each linear layer and embedding BERT's first weights: normal(0, 0.02), biases zero.

    LayerNorm starts as weight 1, bias 0 by itself. Google's code draws from a normal cut at two
    standard deviations, Hugging Face's (and this) from the whole normal.

    Source: google-research/bert, `modeling.py`, `create_initializer`; Hugging Face Transformers,
    `BertPreTrainedModel`.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, mean=0.0, std=initializer_range)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def encoder_layer_parameters(hidden_size: int, intermediate_size: int) -> int:
    """Learned numbers in one encoder layer; 7,087,872 for BERT-base (768, 3072)."""
    # query, key, value and output projection: weights + biases
    attention = 4 * (hidden_size * hidden_size + hidden_size)
    expand = hidden_size * intermediate_size + intermediate_size
    contract = intermediate_size * hidden_size + hidden_size
    norms = 2 * (hidden_size + hidden_size)  # two LayerNorms, each a scale and a shift
    return attention + expand + contract + norms


def encoder_layer_flops(tokens: int, hidden_size: int, intermediate_size: int) -> int:
    """FLOPs of one layer's matrix products, forward, for one sequence of `tokens` tokens.

    A product (n × a) · (a × b) is n·a·b multiplications and as many additions: 2·n·a·b. Softmax,
    LayerNorm, GELU, biases and residuals are left out, as profilers do: they are about 1 % at
    BERT's sizes. The number of heads does not appear: h heads of width d/h cost what one of width
    d costs.
    """
    projections = 4 * 2 * tokens * hidden_size * hidden_size
    feed_forward = 2 * 2 * tokens * hidden_size * intermediate_size
    scores = 2 * tokens * tokens * hidden_size
    mixing = 2 * tokens * tokens * hidden_size
    return projections + feed_forward + scores + mixing
