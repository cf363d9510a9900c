"""Lesson 03: the decoder, the full Transformer, and the cache that makes decoding cheap.

Built from lesson 01's attention and lesson 02's layers. As there, a mask is boolean and True means
"this query may look at this key".
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_utils.attention import (
    MultiHeadAttention,
    causal_mask,
    fused_attention,
    merge_heads,
    padding_mask,
    split_heads,
)
from course_utils.encoder import Encoder
from course_utils.layers import FeedForward, LayerNorm
from course_utils.positions import sinusoidal_positions


def target_mask(token_ids: Tensor, pad_token_id: int = 0) -> Tensor:
    """Who may look at whom in the decoder's self-attention, for a padded batch.

    token_ids  (batch, tokens), the sequences that the decoder reads, padded at their end or start
    returns    (batch, 1, tokens, tokens), bool, True = may attend: the key is no padding, and it is
               the query itself or stands before it

    With padding at the end the causal mask alone would do for every real token: padding comes
    later. With padding at the start, as when texts of several lengths are continued, it would not.
    Raises ValueError unless token_ids is (batch, tokens) of integers.
    Source: Vaswani et al. 2017, section 3.2.3, third point.
    """
    if token_ids.dim() != 2 or token_ids.is_floating_point():
        raise ValueError(
            "token_ids must be (batch, tokens) of integers, "
            f"not {tuple(token_ids.shape)} of {token_ids.dtype}"
        )
    real = padding_mask(token_ids != pad_token_id)  # (batch, 1, 1, keys)
    return real & causal_mask(token_ids.size(1), token_ids.device)  # & (queries, keys)


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; around each a residual and a LayerNorm.

    Post-norm, as in the original Transformer. The first attention looks at what has been written so
    far, the second at the source; only the second one's keys and values come from the encoder.

        x = LayerNorm(x + attention(x, x, x))
        x = LayerNorm(x + cross_attention(x, memory, memory))
        x = LayerNorm(x + feed_forward(x))

    Args:
        hidden_size: width of a token's vector; num_heads must divide it.
        num_heads, intermediate_size, dropout, activation, eps: as for `EncoderLayer`.

    Raises:
        ValueError: unknown activation; num_heads does not divide hidden_size.

    Source: Vaswani et al. 2017, sections 3.1 and 3.2.3.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        dropout: float = 0.1,
        activation: str = "gelu",
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(hidden_size, num_heads, dropout)
        self.attention_norm = LayerNorm(hidden_size, eps)
        self.cross_attention = MultiHeadAttention(hidden_size, num_heads, dropout)
        self.cross_norm = LayerNorm(hidden_size, eps)
        self.feed_forward = FeedForward(hidden_size, intermediate_size, activation, dropout)
        self.feed_forward_norm = LayerNorm(hidden_size, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """One layer, for all target tokens at once.

        x            (batch, tokens, hidden_size), the target so far
        memory       (batch, source tokens, hidden_size), the encoder's output
        mask         for the self-attention, broadcastable to (batch, heads, tokens, tokens): causal
        memory_mask  for the cross-attention, (batch, 1, 1, source tokens): the source's padding
        returns      output (batch, tokens, hidden_size); the weights of both attentions,
                     (batch, heads, tokens, tokens) and (batch, heads, tokens, source tokens), or
                     None
        """
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = self.attention_norm(x + self.dropout(attended))
        looked, cross_weights = self.cross_attention(x, memory, memory, memory_mask, need_weights)
        x = self.cross_norm(x + self.dropout(looked))
        x = self.feed_forward_norm(x + self.feed_forward(x))  # it ends with its own dropout
        return x, weights, cross_weights


class DecoderOutput(NamedTuple):
    """What a `Decoder` returns.

    `last_hidden_state` (batch, tokens, hidden_size); `attentions` every layer's
    (batch, heads, tokens, tokens) and `cross_attentions` every layer's
    (batch, heads, tokens, source tokens), or None.
    """

    last_hidden_state: Tensor
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class Decoder(nn.Module):
    """A stack of decoder layers. All of them look at the same memory: the encoder's last output.

    Args: as for `Encoder`, post-norm only.
    Source: Vaswani et al. 2017, section 3.1.
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        dropout: float = 0.1,
        activation: str = "gelu",
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(hidden_size, num_heads, intermediate_size, dropout, activation, eps)
            for _ in range(num_layers)
        )

    def forward(
        self,
        hidden_states: Tensor,
        memory: Tensor,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> DecoderOutput:
        """Shapes and masks as for `DecoderLayer`; the masks are the same for all layers."""
        own, cross = [], []
        for layer in self.layers:
            hidden_states, weights, cross_weights = layer(
                hidden_states, memory, mask, memory_mask, output_attentions
            )
            own.append(weights)
            cross.append(cross_weights)
        if not output_attentions:
            return DecoderOutput(hidden_states)
        return DecoderOutput(hidden_states, tuple(own), tuple(cross))


# --- The cache ------------------------------------------------------------------------------------


class KeyValues(NamedTuple):
    """Keys and values that an attention has computed: each (batch, heads, tokens, d_k)."""

    key: Tensor
    value: Tensor


class LayerCache(NamedTuple):
    """What one decoder layer keeps between steps: of the target so far (grows by one token a step;
    None before the first), and of the source (computed once)."""

    target: KeyValues | None
    memory: KeyValues


class Cache(NamedTuple):
    """What a `Transformer` keeps between steps: one entry a layer, the source's mask, and how many
    target tokens it holds."""

    layers: tuple[LayerCache, ...]
    memory_mask: Tensor
    length: int

    def select(self, rows: Tensor) -> "Cache":
        """The cache of other rows of the batch: rows (new batch,), indices. Beam search needs it
        when a hypothesis goes on from another one."""

        def pick(pair: KeyValues | None) -> KeyValues | None:
            return pair and KeyValues(pair[0][rows], pair[1][rows])

        layers = tuple(LayerCache(pick(one.target), pick(one.memory)) for one in self.layers)
        return Cache(layers, self.memory_mask[rows], self.length)


def keys_and_values(attention: MultiHeadAttention, x: Tensor, num_heads: int) -> KeyValues:
    """The keys and values that `attention` computes from x (batch, tokens, hidden_size)."""
    return KeyValues(
        split_heads(attention.key(x), num_heads),  # (batch, heads, tokens, d_k)
        split_heads(attention.value(x), num_heads),  # (batch, heads, tokens, d_k)
    )


def attend(
    attention: MultiHeadAttention, x: Tensor, known: KeyValues, mask: Tensor | None = None
) -> Tensor:
    """What `attention` gives to queries from x (batch, queries, hidden_size), where the keys and
    values are known already. → (batch, queries, hidden_size). Without dropout: for inference."""
    num_heads = known.key.size(1)
    q = split_heads(attention.query(x), num_heads)  # (batch, heads, queries, d_k)
    return attention.output(merge_heads(fused_attention(q, known.key, known.value, mask)))


def cached_attention(
    attention: MultiHeadAttention, x: Tensor, num_heads: int, past: KeyValues | None = None
) -> tuple[Tensor, KeyValues]:
    """Causal self-attention for new tokens only; what came before is in the cache.

    attention  whose linear layers `query`, `key`, `value` and `output` are used
    x          (batch, new tokens, hidden_size), the tokens after those of `past`
    num_heads  of the attention
    past       keys and values of all earlier tokens, each (batch, heads, past tokens, d_k); None at
               the start
    returns    output (batch, new tokens, hidden_size), and keys and values of all tokens, old and
               new

    The same numbers as causal attention over the whole sequence, at its last positions. It is exact
    because no earlier token's key or value depends on a later token.
    Source: Shazeer 2019 (Fast Transformer Decoding), section 2.4.
    """
    key, value = keys_and_values(attention, x, num_heads)
    if past is not None:
        key = torch.cat([past[0], key], dim=2)  # (batch, heads, past + new tokens, d_k)
        value = torch.cat([past[1], value], dim=2)
    new, total = x.size(1), key.size(2)
    mask = causal_mask(total, x.device)[total - new :]  # its last rows: (new, past + new)
    known = KeyValues(key, value)
    return attend(attention, x, known, mask), known


def layer_step(
    layer: DecoderLayer, x: Tensor, cache: LayerCache, memory_mask: Tensor | None = None
) -> tuple[Tensor, LayerCache]:
    """`DecoderLayer.forward` for new tokens only: x (batch, new tokens, hidden_size) → the same
    shape, and the cache with the new tokens in it. For inference: no dropout."""
    num_heads = cache.memory.key.size(1)
    attended, target = cached_attention(layer.attention, x, num_heads, cache.target)
    x = layer.attention_norm(x + attended)
    x = layer.cross_norm(x + attend(layer.cross_attention, x, cache.memory, memory_mask))
    return layer.feed_forward_norm(x + layer.feed_forward(x)), LayerCache(target, cache.memory)


# --- The whole model ------------------------------------------------------------------------------


class TokenEmbedding(nn.Module):
    """Token ids to vectors: a table, times √hidden_size, plus sinusoidal positions, then dropout.

    The factor brings a table whose rows have length about 1, as tied weights want it, to the size
    of the positions, whose features are sines.
    Source: Vaswani et al. 2017, sections 3.4 and 3.5.
    """

    def __init__(self, vocab_size: int, hidden_size: int, max_length: int, dropout: float = 0.1):
        super().__init__()
        self.table = nn.Embedding(vocab_size, hidden_size)
        nn.init.normal_(self.table.weight, std=hidden_size**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer(
            "positions", sinusoidal_positions(max_length, hidden_size), persistent=False
        )

    def forward(self, token_ids: Tensor, start: int = 0) -> Tensor:
        """token_ids (batch, tokens), the first of them at position `start` → (batch, tokens,
        hidden_size). Raises ValueError where a position lies beyond max_length."""
        end = start + token_ids.size(1)
        if end > len(self.positions):
            raise ValueError(
                f"{end} tokens are more than the {len(self.positions)} positions of this model; "
                "shorten the text or build the model with a larger max_length"
            )
        x = self.table(token_ids) * math.sqrt(self.table.embedding_dim)
        return self.dropout(x + self.positions[start:end])


class Transformer(nn.Module):
    """Encoder and decoder: reads one sequence and writes another, token by token.

    source_vocab_size, target_vocab_size  sizes of the two vocabularies
    num_layers         of the encoder, and as many of the decoder
    max_length         the longest sequence, on either side
    tie_output         True: the output layer is the target's embedding table, transposed; False: a
                       table of its own
    pad_token_id, bos_token_id, eos_token_id  padding; what the decoder reads first; what it writes
                       last

    The paper's base model is 6 layers, 512, 8 heads, 2048, with one table for source, target and
    output, where both sides share a vocabulary. Matrices start as Xavier's uniform, as in
    `nn.Transformer`. Raises ValueError for sizes that do not fit.
    Source: Vaswani et al. 2017, section 3; Press and Wolf 2017 (tied output), section 3.
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        num_layers: int = 2,
        hidden_size: int = 64,
        num_heads: int = 4,
        intermediate_size: int = 256,
        max_length: int = 64,
        dropout: float = 0.1,
        activation: str = "relu",
        tie_output: bool = True,
        pad_token_id: int = 0,
        bos_token_id: int = 1,
        eos_token_id: int = 2,
    ) -> None:
        super().__init__()
        self.pad_token_id, self.bos_token_id = pad_token_id, bos_token_id
        self.eos_token_id, self.max_length = eos_token_id, max_length
        self.num_heads = num_heads
        sizes = num_layers, hidden_size, num_heads, intermediate_size, dropout, activation
        self.source_embedding = TokenEmbedding(source_vocab_size, hidden_size, max_length, dropout)
        self.target_embedding = TokenEmbedding(target_vocab_size, hidden_size, max_length, dropout)
        self.encoder = Encoder(*sizes)
        self.decoder = Decoder(*sizes)
        self.output = nn.Linear(hidden_size, target_vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and "table" not in name:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        if tie_output:
            self.output.weight = self.target_embedding.table.weight

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """source (batch, source tokens) → memory (batch, source tokens, hidden_size) and its mask
        (batch, 1, 1, source tokens)."""
        mask = padding_mask(source != self.pad_token_id)
        return self.encoder(self.source_embedding(source), mask).last_hidden_state, mask

    def decode(
        self, target: Tensor, memory: Tensor, memory_mask: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, DecoderOutput]:
        """target (batch, tokens), beginning with bos → logits (batch, tokens, target vocabulary):
        at each token, what comes after it; and the decoder's output."""
        decoded = self.decoder(
            self.target_embedding(target),
            memory,
            target_mask(target, self.pad_token_id),
            memory_mask,
            output_attentions,
        )
        return self.output(decoded.last_hidden_state), decoded

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """source (batch, source tokens), target (batch, tokens) beginning with bos → logits
        (batch, tokens, target vocabulary). Position t's logits depend on target[:, : t + 1]."""
        return self.decode(target, *self.encode(source))[0]

    def start(self, source: Tensor) -> Cache:
        """Read the source once: the cache from which `step` goes on."""
        memory, mask = self.encode(source)
        layers = tuple(
            LayerCache(None, keys_and_values(layer.cross_attention, memory, self.num_heads))
            for layer in self.decoder.layers
        )
        return Cache(layers, mask, 0)

    def step(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """tokens (batch, new tokens): those after the cache's, no padding among them → logits
        (batch, new tokens, target vocabulary), and the cache with the new tokens in it."""
        x = self.target_embedding(tokens, start=cache.length)  # (batch, new tokens, hidden_size)
        layers = []
        for layer, one in zip(self.decoder.layers, cache.layers, strict=True):
            x, one = layer_step(layer, x, one, cache.memory_mask)
            layers.append(one)
        return self.output(x), Cache(
            tuple(layers), cache.memory_mask, cache.length + tokens.size(1)
        )
