"""Lesson 03, decoder and full Transformer: its exercises, their known mistakes, and its claims."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course_utils import decoder, generation, training
from course_utils.attention import (
    MultiHeadAttention,
    attention_scores,
    causal_mask,
    merge_heads,
    split_heads,
)
from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise, fill_
from course_utils.layers import FeedForward, LayerNorm


def _draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- decoder/target-mask --------------------------------------------------------------------------


def target_mask_stub(token_ids, pad_token_id=0):
    """token_ids (batch, tokens), padded at the end or at the start → bool mask
    (batch, 1, tokens, tokens), True = this query may look at this key: no padding, nothing later
    """
    raise NotImplementedError("your turn")


_TOKENS = torch.tensor([[1, 5, 6, 7], [1, 4, 0, 0], [1, 0, 0, 0]])


def _parts(token_ids, pad_token_id=0):
    """The padding of the keys (batch, 1, 1, tokens) and the causal mask (tokens, tokens)."""
    return (token_ids != pad_token_id)[:, None, None, :], causal_mask(token_ids.size(1))


def _tm_causal_only(token_ids, pad_token_id=0):
    batch, tokens = token_ids.shape
    return causal_mask(tokens).expand(batch, 1, tokens, tokens)


def _tm_padding_only(token_ids, pad_token_id=0):
    batch, tokens = token_ids.shape
    return _parts(token_ids, pad_token_id)[0].expand(batch, 1, tokens, tokens)


def _tm_either(token_ids, pad_token_id=0):
    real, causal = _parts(token_ids, pad_token_id)
    return real | causal


def _tm_inverted(token_ids, pad_token_id=0):
    real, causal = _parts(token_ids, pad_token_id)
    return ~(real & causal)


def _tm_queries(token_ids, pad_token_id=0):
    return (token_ids != pad_token_id)[:, None, :, None] & _parts(token_ids)[1]


def _tm_both_axes(token_ids, pad_token_id=0):
    real, causal = _parts(token_ids, pad_token_id)
    return real & real.transpose(-2, -1) & causal


def _tm_upside_down(token_ids, pad_token_id=0):
    real, causal = _parts(token_ids, pad_token_id)
    return real & causal.T


def _tm_strict(token_ids, pad_token_id=0):
    real, causal = _parts(token_ids, pad_token_id)
    return real & causal.tril(-1)


def _tm_without_heads(token_ids, pad_token_id=0):
    real, causal = _parts(token_ids, pad_token_id)
    return (real & causal)[:, 0]


def _tm_numbers(token_ids, pad_token_id=0):
    real, causal = _parts(token_ids, pad_token_id)
    return (real & causal).long()


def _tm_added(token_ids, pad_token_id=0):
    real, causal = _parts(token_ids, pad_token_id)
    return torch.zeros(()).masked_fill(~(real & causal), float("-inf"))


def _tm_always_zero(token_ids, pad_token_id=0):
    real, causal = _parts(token_ids)
    return real & causal


TARGET_MASK = Exercise(
    id="decoder/target-mask",
    lesson="03",
    title="The decoder's mask, for a padded batch",
    difficulty=2,
    minutes=5,
    reference=decoder.target_mask,
    stub=target_mask_stub,
    cases=[
        Case("four tokens, two, and one", lambda f: f(_TOKENS)),
        Case("padded at the start", lambda f: f(torch.tensor([[0, 0, 1, 5], [0, 1, 5, 6]]))),
        Case("nothing padded", lambda f: f(torch.tensor([[1, 3, 4], [1, 4, 3]]))),
        Case("another padding id", lambda f: f(torch.tensor([[1, 0, 9, 9]]), pad_token_id=9)),
        Case("one token", lambda f: f(torch.tensor([[1]]))),
    ],
    hints=[
        "Two conditions on the key: it is no padding (the same for every query of a sentence), and "
        "it does not come after the query (the same for every sentence). Both must hold.",
        "padding_mask wants 1 for a token: padding_mask(token_ids != pad_token_id) is "
        "(batch, 1, 1, tokens). causal_mask(tokens) is (tokens, tokens). & broadcasts.",
    ],
    mistakes=[
        Mistake(_tm_causal_only, "Padding is not hidden: your mask is the causal one alone."),
        Mistake(_tm_padding_only, "The future is not hidden: your mask is the padding mask alone."),
        Mistake(
            _tm_either,
            "You joined the two by “or”: a key passes that meets one condition. It must meet both.",
        ),
        Mistake(
            _tm_inverted,
            "Upside down: here True means “may look”. PyTorch's own layers read True as “hidden”.",
        ),
        Mistake(
            _tm_queries,
            "You masked padding as a query. It is as a key that padding must not be seen.",
        ),
        Mistake(
            _tm_both_axes,
            "You also emptied the rows of padding queries. Nobody reads those rows (the loss "
            "ignores them), and a mask for the keys alone is enough.",
        ),
        Mistake(
            _tm_upside_down,
            "Each token looks at itself and the *later* ones: the triangle is the wrong one.",
        ),
        Mistake(
            _tm_strict,
            "No token sees itself, and the first sees nothing. What a token predicts is the next "
            "one, so it may look at itself.",
        ),
        Mistake(
            _tm_without_heads,
            "The shape is {shape}: the axis for the heads is missing, (batch, 1, tokens, tokens).",
        ),
        Mistake(_tm_numbers, "Numbers instead of booleans: lesson 01's attention takes bool."),
        Mistake(
            _tm_added,
            "You made a mask to add to the scores, 0 and −∞. Lesson 01's attention takes bool.",
        ),
        Mistake(_tm_always_zero, "You took 0 for padding: use the pad_token_id that is given."),
    ],
)

# --- decoder/cross-attention ----------------------------------------------------------------------


class DecoderLayerStub(nn.Module):
    """x (batch, tokens, hidden_size), memory (batch, source tokens, hidden_size) → output like x,
    and the weights of self- and cross-attention (or None, None). Post-norm, three times:
    x = LayerNorm(x + part(x)) for self-attention, cross-attention, feed-forward
    """

    def __init__(
        self, hidden_size, num_heads, intermediate_size, dropout=0.1, activation="gelu", eps=1e-12
    ):
        super().__init__()
        self.attention = MultiHeadAttention(hidden_size, num_heads, dropout)
        self.attention_norm = LayerNorm(hidden_size, eps)
        self.cross_attention = MultiHeadAttention(hidden_size, num_heads, dropout)
        self.cross_norm = LayerNorm(hidden_size, eps)
        self.feed_forward = FeedForward(hidden_size, intermediate_size, activation, dropout)
        self.feed_forward_norm = LayerNorm(hidden_size, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, memory, mask=None, memory_mask=None, need_weights=False):
        raise NotImplementedError("your turn")


def _layer(
    batch, tokens, source, hidden=8, heads=2, masked=False, need_weights=False, dtype=torch.float32
):
    def run(implementation):
        module = fill_(implementation(hidden, heads, 2 * hidden + 1), seed=5).to(dtype)
        x = _draw(6, batch, tokens, hidden, dtype=dtype)
        memory = _draw(7, batch, source, hidden, dtype=dtype)
        real = torch.arange(source) < torch.arange(source, 0, -1)[:batch, None]  # fewer each
        masks = (causal_mask(tokens), real[:, None, None, :]) if masked else (None, None)
        return module(x, memory, *masks, need_weights)

    return run


def _layer_all_dropped(implementation):
    module = fill_(implementation(8, 2, 16, dropout=1.0), seed=7).train()
    return module(_draw(8, 2, 3, 8), _draw(9, 2, 3, 8), need_weights=True)


def _layer_gradient(implementation):
    module = fill_(implementation(8, 2, 16), seed=3)
    x, memory = _draw(4, 1, 3, 8).requires_grad_(), _draw(5, 1, 4, 8).requires_grad_()
    module(x, memory)[0].pow(2).mul(_draw(6, 8)).sum().backward()
    return x.grad, memory.grad


def _layer_input_kept(implementation):
    module, x = fill_(implementation(8, 4, 16), seed=9), _draw(10, 2, 4, 8)
    before = x.clone()
    module(x, _draw(11, 2, 3, 8))
    return torch.equal(x, before)


def _share_left(adds_one):
    """How much is left, in training and with dropout ½, of the ones that a part adds to x = 0:
    ½ after one dropout, ¼ after two. Only that part adds anything (see lesson 02's bank)."""

    def run(implementation):
        module = fill_(implementation(64, 2, 96, dropout=0.5), seed=11)
        last = ("attention.output.", "cross_attention.output.", "feed_forward.contract.")
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name.startswith(last):
                    parameter.fill_(float(name == f"{adds_one}.bias"))
                if "norm" in name:
                    parameter.fill_(float(name.endswith("weight")))
        output = module.train()(torch.zeros(1, 64, 64), torch.zeros(1, 5, 64))[0]
        return round(4 * (output > 0.1).double().mean().item()) / 4

    return run


class _Layer(DecoderLayerStub):
    """The right forward, in steps that each mistake can replace."""

    def forward(self, x, memory, mask=None, memory_mask=None, need_weights=False):
        x, weights = self.own(x, memory, mask, memory_mask, need_weights)
        x, cross_weights = self.cross(x, memory, mask, memory_mask, need_weights)
        return self.last(x), weights, cross_weights

    def own(self, x, memory, mask, memory_mask, need_weights):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        return self.attention_norm(x + self.dropout(attended)), weights

    def cross(self, x, memory, mask, memory_mask, need_weights):
        looked, weights = self.look(x, memory, mask, memory_mask, need_weights)
        return self.cross_norm(x + self.dropout(looked)), weights

    def look(self, x, memory, mask, memory_mask, need_weights):
        return self.cross_attention(x, memory, memory, memory_mask, need_weights)

    def last(self, x):
        return self.feed_forward_norm(x + self.feed_forward(x))


class _LayerSwapped(_Layer):
    def look(self, x, memory, mask, memory_mask, need_weights):
        return self.cross_attention(memory, x, x, mask, need_weights)


class _LayerSelfTwice(_Layer):
    def look(self, x, memory, mask, memory_mask, need_weights):
        return self.cross_attention(x, x, x, mask, need_weights)


class _LayerValuesOfX(_Layer):
    def look(self, x, memory, mask, memory_mask, need_weights):
        return self.cross_attention(x, memory, x, memory_mask, need_weights)


class _LayerOneAttention(_Layer):
    def look(self, x, memory, mask, memory_mask, need_weights):
        return self.attention(x, memory, memory, memory_mask, need_weights)


class _LayerNoMemoryMask(_Layer):
    def look(self, x, memory, mask, memory_mask, need_weights):
        return self.cross_attention(x, memory, memory, None, need_weights)


class _LayerCausalCross(_Layer):
    def look(self, x, memory, mask, memory_mask, need_weights):
        return self.cross_attention(x, memory, memory, mask, need_weights)


class _LayerNoMask(_Layer):
    def own(self, x, memory, mask, memory_mask, need_weights):
        return super().own(x, memory, None, None, need_weights)


class _LayerNoCrossResidual(_Layer):
    def cross(self, x, memory, mask, memory_mask, need_weights):
        looked, weights = self.look(x, memory, mask, memory_mask, need_weights)
        return self.cross_norm(self.dropout(looked)), weights


class _LayerNoCrossNorm(_Layer):
    def cross(self, x, memory, mask, memory_mask, need_weights):
        looked, weights = self.look(x, memory, mask, memory_mask, need_weights)
        return x + self.dropout(looked), weights


class _LayerOneNorm(_Layer):
    def cross(self, x, memory, mask, memory_mask, need_weights):
        looked, weights = self.look(x, memory, mask, memory_mask, need_weights)
        return self.attention_norm(x + self.dropout(looked)), weights


class _LayerNoCrossDropout(_Layer):
    def cross(self, x, memory, mask, memory_mask, need_weights):
        looked, weights = self.look(x, memory, mask, memory_mask, need_weights)
        return self.cross_norm(x + looked), weights


class _LayerNoOwnDropout(_Layer):
    def own(self, x, memory, mask, memory_mask, need_weights):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        return self.attention_norm(x + attended), weights


class _LayerNoDropout(_LayerNoOwnDropout, _LayerNoCrossDropout):
    pass


class _LayerDroppedTwice(_Layer):
    def last(self, x):
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class _LayerCrossFirst(_Layer):
    def forward(self, x, memory, mask=None, memory_mask=None, need_weights=False):
        x, cross_weights = self.cross(x, memory, mask, memory_mask, need_weights)
        x, weights = self.own(x, memory, mask, memory_mask, need_weights)
        return self.last(x), weights, cross_weights


class _LayerPreNorm(_Layer):
    def forward(self, x, memory, mask=None, memory_mask=None, need_weights=False):
        n = self.attention_norm(x)
        attended, weights = self.attention(n, n, n, mask, need_weights)
        x = x + self.dropout(attended)
        looked, cross_weights = self.look(
            self.cross_norm(x), memory, mask, memory_mask, need_weights
        )
        x = x + self.dropout(looked)
        return x + self.feed_forward(self.feed_forward_norm(x)), weights, cross_weights


class _LayerNoFeedForward(_Layer):
    def last(self, x):
        return x


class _LayerWeightsSwapped(_Layer):
    def forward(self, x, memory, mask=None, memory_mask=None, need_weights=False):
        x, own, cross = super().forward(x, memory, mask, memory_mask, need_weights)
        return x, cross, own


class _LayerOutputOnly(_Layer):
    def forward(self, x, memory, mask=None, memory_mask=None, need_weights=False):
        return super().forward(x, memory, mask, memory_mask, need_weights)[0]


class _LayerTwoThings(_Layer):
    def forward(self, x, memory, mask=None, memory_mask=None, need_weights=False):
        return super().forward(x, memory, mask, memory_mask, need_weights)[::2]


CROSS_ATTENTION = Exercise(
    id="decoder/cross-attention",
    lesson="03",
    title="The decoder layer, with cross-attention in its middle",
    difficulty=3,
    minutes=15,
    reference=decoder.DecoderLayer,
    stub=DecoderLayerStub,
    cases=[
        Case("three target tokens, five of the source", _layer(2, 3, 5)),
        Case("as many target as source tokens", _layer(2, 4, 4)),
        Case("with the weights of both attentions", _layer(2, 4, 3, need_weights=True)),
        Case("causal, and a padded source", _layer(3, 4, 5, masked=True)),
        Case(
            "masks and weights, as many target as source tokens",
            _layer(3, 4, 4, masked=True, need_weights=True),
        ),
        Case("one token, one head, float64", _layer(1, 1, 1, 6, 1, dtype=torch.float64)),
        Case("gradients to the target and to the source", _layer_gradient),
        Case("dropout of everything that is added", _layer_all_dropped),
        Case("dropout ½ on what attention adds", _share_left("attention.output")),
        Case("dropout ½ on what cross-attention adds", _share_left("cross_attention.output")),
        Case("dropout ½ on what feed-forward adds", _share_left("feed_forward.contract")),
        Case("the input stays as it was", _layer_input_kept),
    ],
    hints=[
        "Lesson 02's encoder layer, with one step more between its two. Who asks in that step, and "
        "who answers? Queries come from what is being written, keys and values from the source.",
        "Each attention has its own mask: `mask` is for the target (causal), `memory_mask` for the "
        "source (its padding). Each step has its own norm.",
        "looked, cross_weights = self.cross_attention(x, memory, memory, memory_mask, "
        "need_weights)\nx = self.cross_norm(x + self.dropout(looked))",
    ],
    mistakes=[
        Mistake(
            _LayerSwapped,
            "The source asks and the target answers: swap them. Queries come from x, keys and "
            "values from memory.",
        ),
        Mistake(
            _LayerSelfTwice,
            "Your second attention looks at x again: nothing of the source gets in. Its keys and "
            "values come from memory.",
        ),
        Mistake(
            _LayerValuesOfX,
            "Keys from memory and values from x: what is found must be handed over by the same "
            "tokens. Both come from memory.",
        ),
        Mistake(
            _LayerOneAttention,
            "You used self.attention for both. Cross-attention has weights of its own.",
        ),
        Mistake(
            _LayerNoMemoryMask,
            "memory_mask does not reach the cross-attention: the source's padding is looked at.",
        ),
        Mistake(
            _LayerCausalCross,
            "You gave the cross-attention the target's causal mask. The whole source is known: "
            "only its padding is hidden, by memory_mask.",
        ),
        Mistake(
            _LayerNoMask,
            "mask does not reach the self-attention: each token sees those that are yet to be "
            "written.",
        ),
        Mistake(
            _LayerNoCrossResidual,
            "What was written so far is lost: add x to what cross-attention returns.",
        ),
        Mistake(
            _LayerNoCrossNorm, "The sum after cross-attention is not normalised: cross_norm(…)."
        ),
        Mistake(
            _LayerOneNorm,
            "You used attention_norm twice; cross-attention has a norm of its own.",
        ),
        Mistake(
            _LayerNoCrossDropout,
            "In training nothing is dropped from what cross-attention adds: self.dropout(looked).",
        ),
        Mistake(
            _LayerNoOwnDropout,
            "In training nothing is dropped from what self-attention adds: self.dropout(attended).",
        ),
        Mistake(
            _LayerNoDropout,
            "In training nothing is dropped from what the two attentions add: self.dropout(…).",
        ),
        Mistake(_LayerDroppedTwice, "You dropped twice: feed_forward ends with its own dropout."),
        Mistake(_LayerCrossFirst, "The order is self-attention first, then cross-attention."),
        Mistake(
            _LayerPreNorm,
            "This is pre-norm: you normalised what goes into each part. The original decoder "
            "normalises after the sum.",
        ),
        Mistake(_LayerNoFeedForward, "The third part is missing: feed_forward and its norm."),
        Mistake(
            _LayerWeightsSwapped,
            "The weights are swapped: self-attention's come first, cross-attention's second.",
        ),
        Mistake(
            _LayerOutputOnly,
            "Return three things: the output, the weights of self-attention and of cross-attention "
            "(None when they are not asked for).",
        ),
        Mistake(_LayerTwoThings, "The weights of the self-attention are missing: return three."),
    ],
)

# --- decoder/label-smoothing ----------------------------------------------------------------------


def label_smoothed_cross_entropy_stub(logits, labels, smoothing=0.1, ignore_index=-100):
    """logits (..., classes), labels (...) → scalar, the mean over the labels that are not
    ignore_index. The target: 1 − smoothing on the label, plus smoothing spread evenly over all
    classes, the label included
    """
    raise NotImplementedError("your turn")


def _smooth(seed, *shape, classes, ignore=None, smoothing=0.1, dtype=torch.float32):
    def run(implementation):
        generator = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(*shape, classes, generator=generator, dtype=dtype)
        labels = torch.randint(1, classes, shape, generator=generator)
        if ignore is None:
            return implementation(logits, labels, smoothing)
        labels = labels.masked_fill(torch.rand(shape, generator=generator) < 0.4, ignore)
        return implementation(logits, labels, smoothing, ignore)

    return run


def _smooth_by_hand(implementation):
    return implementation(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([0]), 0.3)


def _smooth_default(implementation):
    return implementation(2 * _draw(8, 5, 4), torch.tensor([3, -100, 0, 1, -100]))


def _smooth_gradient(implementation):
    logits = _draw(9, 4, 5).requires_grad_()
    implementation(logits, torch.tensor([4, 0, 2, 0]), 0.2, 0).backward()
    return logits.grad


def _flat(logits, labels, ignore_index):
    """log-probabilities (labels that count, classes) and those labels."""
    counts = labels != ignore_index
    return torch.log_softmax(logits, -1)[counts], labels[counts]


def _target(log_probs, labels, on_label, elsewhere):
    """A target with on_label at the label, elsewhere at all others: like log_probs."""
    return torch.full_like(log_probs, elsewhere).scatter_(-1, labels[:, None], on_label)


def _ls_plain(logits, labels, smoothing=0.1, ignore_index=-100):
    return (
        F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=ignore_index)
        + 0 * logits.sum()
    )


def _ls_others_only(logits, labels, smoothing=0.1, ignore_index=-100):
    log_probs, labels = _flat(logits, labels, ignore_index)
    classes = log_probs.size(-1)
    target = _target(log_probs, labels, 1 - smoothing, smoothing / (classes - 1))
    return -(target * log_probs).sum(-1).mean()


def _ls_nothing_for_label(logits, labels, smoothing=0.1, ignore_index=-100):
    log_probs, labels = _flat(logits, labels, ignore_index)
    target = _target(log_probs, labels, 1 - smoothing, smoothing / log_probs.size(-1))
    return -(target * log_probs).sum(-1).mean()


def _ls_sum_over_classes(logits, labels, smoothing=0.1, ignore_index=-100):
    log_probs, labels = _flat(logits, labels, ignore_index)
    of_label = -log_probs.gather(-1, labels[:, None])[:, 0]
    return ((1 - smoothing) * of_label - smoothing * log_probs.sum(-1)).mean()


def _ls_full_label(logits, labels, smoothing=0.1, ignore_index=-100):
    log_probs, labels = _flat(logits, labels, ignore_index)
    of_label = -log_probs.gather(-1, labels[:, None])[:, 0]
    return (of_label - smoothing * log_probs.mean(-1)).mean()


def _ls_swapped(logits, labels, smoothing=0.1, ignore_index=-100):
    log_probs, labels = _flat(logits, labels, ignore_index)
    of_label = -log_probs.gather(-1, labels[:, None])[:, 0]
    return (smoothing * of_label - (1 - smoothing) * log_probs.mean(-1)).mean()


def _ls_kl(divisor):
    def loss(logits, labels, smoothing=0.1, ignore_index=-100):
        log_probs, labels = _flat(logits, labels, ignore_index)
        even = smoothing / log_probs.size(-1)
        target = _target(log_probs, labels, 1 - smoothing + even, even)
        return F.kl_div(log_probs, target, reduction="none").sum() / divisor(log_probs)

    return loss


def _ls_mean_of_all(logits, labels, smoothing=0.1, ignore_index=-100):
    log_probs, kept = _flat(logits, labels, ignore_index)
    of_label = -log_probs.gather(-1, kept[:, None])[:, 0]
    loss = (1 - smoothing) * of_label - smoothing * log_probs.mean(-1)
    return loss.sum() / labels.numel()


def _ls_counts_ignored(logits, labels, smoothing=0.1, ignore_index=-100):
    return F.cross_entropy(
        logits.flatten(0, -2), labels.clamp(min=0).flatten(), label_smoothing=smoothing
    )


def _ls_half_ignored(logits, labels, smoothing=0.1, ignore_index=-100):
    log_probs, kept = _flat(logits, labels, ignore_index)
    of_label = -log_probs.gather(-1, kept[:, None]).mean()
    return (1 - smoothing) * of_label - smoothing * torch.log_softmax(logits, -1).mean()


def _ls_sum(logits, labels, smoothing=0.1, ignore_index=-100):
    log_probs, labels = _flat(logits, labels, ignore_index)
    of_label = -log_probs.gather(-1, labels[:, None])[:, 0]
    return ((1 - smoothing) * of_label - smoothing * log_probs.mean(-1)).sum()


def _ls_each(logits, labels, smoothing=0.1, ignore_index=-100):
    log_probs, labels = _flat(logits, labels, ignore_index)
    of_label = -log_probs.gather(-1, labels[:, None])[:, 0]
    return (1 - smoothing) * of_label - smoothing * log_probs.mean(-1)


LABEL_SMOOTHING = Exercise(
    id="decoder/label-smoothing",
    lesson="03",
    title="Label smoothing",
    difficulty=3,
    minutes=10,
    reference=training.label_smoothed_cross_entropy,
    stub=label_smoothed_cross_entropy_stub,
    cases=[
        Case("[0.5 0.25 0.25] with smoothing 0.3, by hand", _smooth_by_hand),
        Case("six labels, seven classes", _smooth(1, 6, classes=7)),
        Case("some labels are −100, the default", _smooth_default),
        Case("two sentences, padding 0 ignored", _smooth(2, 2, 6, classes=5, ignore=0)),
        Case("no smoothing", _smooth(3, 4, classes=6, smoothing=0.0)),
        Case("nothing but smoothing", _smooth(4, 4, classes=6, smoothing=1.0)),
        Case(
            "float64, three axes", _smooth(5, 2, 3, classes=4, smoothing=0.4, dtype=torch.float64)
        ),  # fmt: skip
        Case("gradient, padding 0 ignored", _smooth_gradient),
    ],
    hints=[
        "Cross-entropy is −Σ target · log-probability. The target has two parts: a one-hot part of "
        "weight 1 − smoothing, and an even part of weight smoothing.",
        "log_probs = torch.log_softmax(logits, -1). The one-hot part needs log_probs at the label "
        "(gather), the even part the *mean* of log_probs over the classes.",
        "Pick what counts first: counts = labels != ignore_index, then logits[counts] and "
        "labels[counts] are flat, and the mean at the end runs over them.",
    ],
    mistakes=[
        Mistake(_ls_plain, "smoothing has no effect: this is plain cross-entropy."),
        Mistake(
            _ls_others_only,
            "You spread smoothing over the *other* classes, V − 1 of them. Szegedy and others, and "
            "F.cross_entropy, spread it over all V, the label included.",
        ),
        Mistake(
            _ls_nothing_for_label,
            "Your target does not sum to 1: the label gets 1 − smoothing *plus* its even share, "
            "smoothing / V.",
        ),
        Mistake(
            _ls_sum_over_classes,
            "You added up log_probs over the classes: an even spread is their mean.",
        ),
        Mistake(
            _ls_full_label,
            "The label keeps its full weight: it gets 1 − smoothing before the even share.",
        ),
        Mistake(
            _ls_swapped,
            "The two weights are swapped: smoothing is what is spread evenly, 1 − smoothing stays "
            "on the label.",
        ),
        Mistake(
            _ls_kl(len),
            "This is the KL divergence: smaller by the target's own entropy. Same gradient, "
            "another number; the cross-entropy was asked for.",
        ),
        Mistake(
            _ls_kl(torch.numel),
            "F.kl_div's default reduction divides by the number of classes as well. And KL is "
            "smaller by the target's entropy.",
        ),
        Mistake(
            _ls_mean_of_all,
            "You left out ignored labels and then divided by all of them: divide by those that "
            "count.",
        ),
        Mistake(
            _ls_counts_ignored, "Ignored labels count: leave out every label equal to ignore_index."
        ),
        Mistake(
            _ls_half_ignored,
            "Ignored labels are left out of the one-hot part, and still count in the even part.",
        ),
        Mistake(_ls_sum, "You added the losses up: return their mean."),
        Mistake(_ls_each, "One loss a label, shape {shape}: return their mean, a scalar."),
    ],
)

# --- decoder/noam-rate ----------------------------------------------------------------------------


def noam_rate_stub(step, hidden_size, warmup_steps=4000):
    """step, counted from 1 → the learning rate (float):
    hidden_size^(−1/2) · min(step^(−1/2), step · warmup_steps^(−3/2))
    """
    raise NotImplementedError("your turn")


def _rates(hidden_size, warmup_steps, *steps):
    return lambda f: [f(step, hidden_size, warmup_steps) for step in steps]


NOAM_RATE = Exercise(
    id="decoder/noam-rate",
    lesson="03",
    title="The Noam schedule",
    difficulty=1,
    minutes=5,
    reference=training.noam_rate,
    stub=noam_rate_stub,
    cases=[
        Case("the paper's base model, default warm-up", lambda f: f(4000, 512)),
        Case("hidden 64, warm-up 100, five steps", _rates(64, 100, 1, 50, 100, 200, 400)),
        Case("hidden 16, warm-up 9, four steps", _rates(16, 9, 1, 8, 9, 16)),
        Case("no warm-up to speak of", _rates(4, 1, 1, 4)),
    ],
    hints=[
        "x ** -0.5 is 1/√x. Two curves meet at step = warmup_steps; the lower one counts.",
        "hidden_size**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)",
    ],
    mistakes=[
        Mistake(
            lambda step, hidden_size, warmup_steps=4000: (
                hidden_size**-0.5 * max(step**-0.5, step * warmup_steps**-1.5)
            ),
            "You took the larger of the two curves: it starts high and ends higher. The lower one "
            "counts.",
        ),
        Mistake(
            lambda step, hidden_size, warmup_steps=4000: (
                hidden_size**0.5 * min(step**-0.5, step * warmup_steps**-1.5)
            ),
            "hidden_size^(+1/2): wider models get a *lower* rate, hidden_size^(−1/2).",
        ),
        Mistake(
            lambda step, hidden_size, warmup_steps=4000: min(step**-0.5, step * warmup_steps**-1.5),
            "hidden_size^(−1/2) is missing.",
        ),
        Mistake(
            lambda step, hidden_size, warmup_steps=4000: (
                hidden_size**-0.5 * min(step**-0.5, step * warmup_steps**-0.5)
            ),
            "The exponent of warmup_steps is −3/2, so that the two curves meet at the end of the "
            "warm-up.",
        ),
        Mistake(
            lambda step, hidden_size, warmup_steps=4000: (
                hidden_size**-0.5 * min((step + 1) ** -0.5, (step + 1) * warmup_steps**-1.5)
            ),
            "One step ahead: steps are counted from 1 already.",
        ),
        Mistake(
            lambda step, hidden_size, warmup_steps=4000: (
                hidden_size**-0.5 * min(warmup_steps**-0.5, step * warmup_steps**-1.5)
            ),
            "After the warm-up your rate stays where it is; it falls as 1/√step.",
        ),
        Mistake(
            lambda step, hidden_size, warmup_steps=4000: (
                hidden_size**-0.5 * min(step**-0.5, step * 4000**-1.5)
            ),
            "The warm-up is always 4000: use warmup_steps.",
        ),
    ],
    tolerance=1e-9,
)

# --- decoder/kv-cache -----------------------------------------------------------------------------


def cached_attention_stub(attention, x, num_heads, past=None):
    """x (batch, new, hidden): the tokens after those in past. past: None or a pair (keys, values)
    of all earlier tokens, each (batch, heads, past tokens, d_k). attention has the linear layers
    query, key, value, output → output (batch, new, hidden), and the pair with the new tokens in it
    """
    raise NotImplementedError("your turn")


def _cached(batch, past, new, hidden=8, heads=2, dtype=torch.float32):
    def run(implementation):
        attention = fill_(MultiHeadAttention(hidden, heads), seed=1).to(dtype)
        known = None
        if past:
            shape = (batch, heads, past, hidden // heads)
            known = (_draw(2, *shape, dtype=dtype), _draw(3, *shape, dtype=dtype))
        return implementation(attention, _draw(4, batch, new, hidden, dtype=dtype), heads, known)

    return run


def _cached_one_by_one(implementation):
    attention, x, past = fill_(MultiHeadAttention(6, 3), seed=5), _draw(6, 2, 4, 6), None
    outputs = []
    for token in range(4):
        output, past = implementation(attention, x[:, token : token + 1], 3, past)
        outputs.append(output)
    return torch.cat(outputs, dim=1)


def _kv(attention, x, num_heads):
    return [split_heads(part(x), num_heads) for part in (attention.key, attention.value)]


def _finish(attention, x, num_heads, key, value, mask, merge=merge_heads, output=True):
    query = split_heads(attention.query(x), num_heads)
    scores = attention_scores(query, key)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    mixed = merge(scores.softmax(-1) @ value)
    return attention.output(mixed) if output else mixed


def _last_rows(new, total):
    return causal_mask(total)[total - new :]


def _joined(past, key, value):
    if past is None:
        return key, value
    return torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)


def _kv_forgets(attention, x, num_heads, past=None):
    key, value = _kv(attention, x, num_heads)
    return _finish(attention, x, num_heads, key, value, causal_mask(x.size(1))), (key, value)


def _kv_not_kept(attention, x, num_heads, past=None):
    new = _kv(attention, x, num_heads)
    key, value = _joined(past, *new)
    mask = _last_rows(x.size(1), key.size(2))
    return _finish(attention, x, num_heads, key, value, mask), tuple(new)


def _kv_in_front(attention, x, num_heads, past=None):
    key, value = _kv(attention, x, num_heads)
    if past is not None:
        key, value = torch.cat([key, past[0]], 2), torch.cat([value, past[1]], 2)
    mask = _last_rows(x.size(1), key.size(2))
    return _finish(attention, x, num_heads, key, value, mask), (key, value)


def _kv_no_mask(attention, x, num_heads, past=None):
    key, value = _joined(past, *_kv(attention, x, num_heads))
    return _finish(attention, x, num_heads, key, value, None), (key, value)


def _kv_first_rows(attention, x, num_heads, past=None):
    key, value = _joined(past, *_kv(attention, x, num_heads))
    mask = causal_mask(key.size(2))[: x.size(1)]
    return _finish(attention, x, num_heads, key, value, mask), (key, value)


def _kv_swapped(attention, x, num_heads, past=None):
    key, value = _joined(past, *_kv(attention, x, num_heads))
    mask = _last_rows(x.size(1), key.size(2))
    return _finish(attention, x, num_heads, key, value, mask), (value, key)


def _kv_no_output(attention, x, num_heads, past=None):
    key, value = _joined(past, *_kv(attention, x, num_heads))
    mask = _last_rows(x.size(1), key.size(2))
    return _finish(attention, x, num_heads, key, value, mask, output=False), (key, value)


def _kv_key_twice(attention, x, num_heads, past=None):
    key = split_heads(attention.key(x), num_heads)
    key, value = _joined(past, key, key)
    mask = _last_rows(x.size(1), key.size(2))
    return _finish(attention, x, num_heads, key, value, mask), (key, value)


def _kv_viewed(attention, x, num_heads, past=None):
    batch, new, hidden = x.shape
    view = lambda part: part(x).view(batch, num_heads, new, hidden // num_heads)  # noqa: E731
    key, value = _joined(past, view(attention.key), view(attention.value))
    scores = attention_scores(view(attention.query), key)
    scores = scores.masked_fill(~_last_rows(new, key.size(2)), float("-inf"))
    mixed = (scores.softmax(-1) @ value).reshape(batch, new, hidden)
    return attention.output(mixed), (key, value)


def _kv_unscaled(attention, x, num_heads, past=None):
    key, value = _joined(past, *_kv(attention, x, num_heads))
    scores = split_heads(attention.query(x), num_heads) @ key.transpose(-2, -1)
    scores = scores.masked_fill(~_last_rows(x.size(1), key.size(2)), float("-inf"))
    return attention.output(merge_heads(scores.softmax(-1) @ value)), (key, value)


def _kv_output_only(attention, x, num_heads, past=None):
    key, value = _joined(past, *_kv(attention, x, num_heads))
    return _finish(attention, x, num_heads, key, value, _last_rows(x.size(1), key.size(2)))


KV_CACHE = Exercise(
    id="decoder/kv-cache",
    lesson="03",
    title="Attention with a KV cache",
    difficulty=4,
    minutes=15,
    reference=decoder.cached_attention,
    stub=cached_attention_stub,
    cases=[
        Case("the first token, nothing cached", _cached(2, 0, 1)),
        Case("one token after four", _cached(2, 4, 1)),
        Case("three tokens after two, two heads of four", _cached(2, 2, 3)),
        Case("three tokens at the start", _cached(1, 0, 3, 6, 3)),
        Case("two tokens after two, one head", _cached(1, 2, 2, 5, 1)),
        Case("four tokens one by one, on your own cache", _cached_one_by_one),
        Case("float64", _cached(3, 3, 2, 4, 2, dtype=torch.float64)),
    ],
    hints=[
        "Only the new tokens go through query, key and value. Which axis of (batch, heads, tokens, "
        "d_k) grows when a token is added?",
        "torch.cat([past[0], key], dim=2): the past stands first. With one new token nothing is "
        "left to hide; with several, new token i must not see new token i + 1.",
        "The mask is the last `new` rows of causal_mask(past + new), shape (new, past + new). Then "
        "scaled_dot_product_attention(q, key, value, mask), merge_heads, attention.output.",
    ],
    mistakes=[
        Mistake(_kv_forgets, "past is not used: the new tokens see only each other."),
        Mistake(
            _kv_not_kept,
            "You return the new tokens' keys and values alone: at the next step the past is gone.",
        ),
        Mistake(
            _kv_in_front,
            "The new keys stand before the old ones, so the causal mask hides the wrong ones.",
        ),
        Mistake(
            _kv_no_mask,
            "Right for one new token. When several come at once, each must not see those after it.",
        ),
        Mistake(
            _kv_first_rows,
            "You took the *first* rows of the causal mask. New tokens come last: its last rows.",
        ),
        Mistake(_kv_swapped, "The pair is swapped: keys first, values second."),
        Mistake(_kv_no_output, "The output layer is missing: attention.output(merged heads)."),
        Mistake(_kv_key_twice, "Your values are keys: attention.value makes the values."),
        Mistake(
            _kv_viewed,
            "Heads got cut across tokens: (batch, tokens, heads, d_k) first, then swap the axes. "
            "split_heads does it.",
        ),
        Mistake(_kv_unscaled, "The scores are not divided by √d_k."),
        Mistake(
            _kv_output_only,
            "Return two things: the output, and the pair of keys and values for the next step.",
        ),
    ],
)

# --- decoder/beam-step ----------------------------------------------------------------------------


def beam_step_stub(scores, log_probs):
    """scores (batch, beams), each hypothesis' log-probability; log_probs (batch, beams,
    vocabulary), of each next token → the best `beams` continuations, best first: their scores,
    their parents (which hypothesis), their tokens, each (batch, beams)
    """
    raise NotImplementedError("your turn")


def _beam(batch, beams, vocabulary, dtype=torch.float32):
    def run(implementation):
        scores = _draw(1, batch, beams, dtype=dtype)
        return implementation(
            scores, _draw(2, batch, beams, vocabulary, dtype=dtype).log_softmax(-1)
        )

    return run


def _beam_by_hand(implementation):
    chances = torch.tensor([[[0.5, 0.45, 0.05], [0.1, 0.2, 0.7]]])  # 0.30, 0.27; 0.28: no ties
    return implementation(torch.tensor([[0.6, 0.4]]).log(), chances.log())


def _beam_one_parent(implementation):
    chances = torch.tensor([[[0.5, 0.4, 0.1], [0.3, 0.3, 0.4]]])
    return implementation(torch.tensor([[0.9, 0.1]]).log(), chances.log())


def _beam_start(implementation):
    scores = torch.tensor([[0.0, float("-inf"), float("-inf")]])
    return implementation(scores, _draw(3, 1, 3, 5).log_softmax(-1))


def _beam_top(total, beams, divisor, largest=True):
    best, index = total.flatten(1).topk(beams, largest=largest)
    return best, index // divisor, index % divisor


def _bs_no_scores(scores, log_probs):
    return _beam_top(log_probs, scores.size(1), log_probs.size(2))


def _bs_no_history(scores, log_probs):
    total = scores[..., None] + log_probs
    _, parents, tokens = _beam_top(total, scores.size(1), log_probs.size(2))
    rows = torch.arange(len(scores))[:, None]
    return log_probs[rows, parents, tokens], parents, tokens


def _bs_one_child_each(scores, log_probs):
    best, tokens = (scores[..., None] + log_probs).max(-1)
    best, parents = best.sort(-1, descending=True)
    return best, parents, tokens.gather(-1, parents)


def _bs_divided_by_beams(scores, log_probs):
    return _beam_top(scores[..., None] + log_probs, scores.size(1), scores.size(1))


def _bs_swapped(scores, log_probs):
    best, parents, tokens = generation.beam_step(scores, log_probs)
    return best, tokens, parents


def _bs_product(scores, log_probs):
    return _beam_top(scores[..., None] * log_probs, scores.size(1), log_probs.size(2))


def _bs_worst(scores, log_probs):
    total = scores[..., None] + log_probs
    return _beam_top(total, scores.size(1), log_probs.size(2), largest=False)


def _bs_probabilities(scores, log_probs):
    best, parents, tokens = generation.beam_step(scores, log_probs)
    return best.exp(), parents, tokens


def _bs_first_beam(scores, log_probs):
    best, tokens = (scores[:, :1] + log_probs[:, 0]).topk(scores.size(1))
    return best, torch.zeros_like(tokens), tokens


def _bs_flat_index(scores, log_probs):
    best, index = (scores[..., None] + log_probs).flatten(1).topk(scores.size(1))
    return best, index // log_probs.size(2), index


def _bs_wrong_axis(scores, log_probs):
    total = (scores[..., None] + log_probs).transpose(1, 2)  # (batch, vocabulary, beams)
    best, index = total.flatten(1).topk(scores.size(1))
    return best, index // log_probs.size(2), index % log_probs.size(2)


BEAM_STEP = Exercise(
    id="decoder/beam-step",
    lesson="03",
    title="One step of beam search",
    difficulty=3,
    minutes=10,
    reference=generation.beam_step,
    stub=beam_step_stub,
    cases=[
        Case("0.6 and 0.4, three tokens, by hand", _beam_by_hand),
        Case("both children of one parent win", _beam_one_parent),
        Case("three sentences, two beams, seven tokens", _beam(3, 2, 7)),
        Case("more beams than tokens", _beam(2, 4, 3)),
        Case("one beam", _beam(2, 1, 5)),
        Case("the first step: one live hypothesis", _beam_start),
        Case("float64", _beam(1, 3, 6, dtype=torch.float64)),
    ],
    hints=[
        "Probabilities multiply, so log-probabilities add: scores[:, :, None] + log_probs is the "
        "score of every continuation, (batch, beams, vocabulary).",
        "All continuations of a sentence compete. Flatten beams and vocabulary into one axis and "
        "take topk(beams) of it.",
        "In the flat axis, entry parent · vocabulary + token: parent = index // vocabulary, token "
        "= index % vocabulary.",
    ],
    mistakes=[
        Mistake(
            _bs_no_scores,
            "You compared the new tokens alone: a hypothesis' score so far has to be added.",
        ),
        Mistake(
            _bs_no_history,
            "The choice is right, but the scores you return are the new tokens' alone: return the "
            "sums.",
        ),
        Mistake(
            _bs_one_child_each,
            "Each of your hypotheses keeps exactly one child. All continuations compete: one may "
            "have several, another none.",
        ),
        Mistake(
            _bs_divided_by_beams,
            "You divided the flat index by the number of beams; a row of the flattened axis is as "
            "long as the vocabulary.",
        ),
        Mistake(_bs_swapped, "Parents and tokens are swapped: scores, parents, tokens."),
        Mistake(
            _bs_product, "You multiplied log-probabilities. Probabilities multiply; their logs add."
        ),
        Mistake(_bs_worst, "You kept the worst: log-probabilities are negative, larger is better."),
        Mistake(_bs_probabilities, "Return log-probabilities, not probabilities."),
        Mistake(_bs_first_beam, "Only the first hypothesis has children: let all of them compete."),
        Mistake(
            _bs_flat_index,
            "Your tokens are places in the flattened axis: take the remainder, % vocabulary.",
        ),
        Mistake(
            _bs_wrong_axis,
            "You flattened with the vocabulary before the beams: then index // vocabulary is not "
            "the parent.",
        ),
    ],
)

# --- decoder/own-date-form, open ------------------------------------------------------------------

OWN_DATE_FORM = OpenExercise(
    id="decoder/own-date-form",
    lesson="03",
    title="A date form of your own that it has never seen",
    difficulty=4,
    minutes=25,
    task="Write a form that is not in FORMS. Predict before you run: which share of 300 unseen "
    "days does the trained model read right in it, and which part (day, month, year) does it get "
    "wrong? Measure, look at three mistakes, and say what the alignment has to do with them. Then "
    "mend it: train on, with your form among the others, and check that the old forms did not "
    "get worse.",
    hints=[
        "Change one thing at a time: only the order, only the separators, only the spelling of the "
        "month. Which of the three does the model bear best?",
        "The model has sinusoidal positions and saw every part at certain places only. A prefix "
        'such as "on the day of " moves everything.',
        "train(model, pairs(train_days, 4000, seed=7, forms=[*FORMS.values(), mine]), steps=150, "
        "rate=1e-3) goes on from where the model is.",
    ],
    rubric=[
        "You wrote the prediction down before you ran the cell.",
        "You counted day, month and year apart, not only the whole date.",
        "You changed one thing at a time, so that you can say what was new to the model: an order, "
        "a separator, a place, a word.",
        "You measured the old forms again after mending, on the same unseen days.",
        "You say what “generalise” means here: to unseen days it does, to unseen forms only as far "
        "as they look like seen ones.",
    ],
    answer="""Forms that each change one thing, 300 unseen days each, right in full. Two trainings,
one of 800 and one of 900 steps; both read 99 % of the test set:

| form | what is new | 800 steps, % | 900 steps, % |
| --- | --- | --- | --- |
| Nov. 3, 2026 | a dot | 97 | 97 |
| on 3 November 2026 | a word in front | 91 | 28 |
| 3 November, 2026 | a comma | 9 | 56 |
| 2026 November the 3rd | the order | 2 | 22 |
| 2026-11-03 | nothing to do but copy | 0 | 1 |

The first surprise is how far the two differ: two models that no test set of the old forms can tell
apart. What a model does outside of its training is left to chance, so yours will differ again. What
is stable is the month: its name is found nearly everywhere, for it looks like nothing else. Digits
all look alike, and the model tells a day from a year by its place and its neighbours.

The model did not learn what a date is. It learned where to look in fifteen patterns. Days, months
and years may be combined anew, because every combination of them is read by the same looks; a new
pattern is another matter. Mending it takes some seconds of training with the new form among the
old ones:

```python
mine = "{year} {month_name} the {day_nth}"
more = pairs(train_days, 4000, seed=7, forms=[*FORMS.values(), mine])
mended = copy.deepcopy(model)
train(mended, more, steps=150, rate=1e-3)
print(exact_match(mended.eval(), unseen_in(mine)), exact_match(mended, test))
```

| trained on | the new form, % | the old forms, % |
| --- | --- | --- |
| the new form among the old ones | 91 | 98.9 |
| the new form alone | 100 | 34 |

Alone it is learned faster, and most of the rest is forgotten. For fine-tuning BERT the same holds:
train on what will be asked, and keep what must not be lost in the mix.""",
)

EXERCISES = [
    TARGET_MASK,
    CROSS_ATTENTION,
    LABEL_SMOOTHING,
    NOAM_RATE,
    KV_CACHE,
    BEAM_STEP,
    OWN_DATE_FORM,
]


# --- Claims ---------------------------------------------------------------------------------------


def _grows(values: dict[int, int]) -> bool:
    return max(values.values()) > min(values.values())


def _judge_table_1(
    convolution_chain: dict[int, int], rnn_chain: dict[int, int], rnn_flops_by_width: float
) -> Verdict:
    """longest chains of matrix products by length; how an RNN layer's cost grows as the width
    doubles"""
    if _grows(convolution_chain) and math.isclose(rnn_flops_by_width, 1.0, rel_tol=0.1):
        return Verdict(True, "both halves hold as they stand.")
    return Verdict(
        False,
        "a convolutional layer does one step, whatever the length; O(log n) is the longest *path* "
        "through a stack of dilated ones. An RNN needs O(n) steps one after the other, and O(n · "
        "d²) operations: twice the width costs four times as much.",
    )


def _judge_label_smoothing_class(printed: float, exact: float) -> Verdict:
    """the loss of the printed class and of F.cross_entropy, on the same logits"""
    if math.isclose(printed, exact, rel_tol=1e-4):
        return Verdict(True, "the printed class gives what F.cross_entropy gives.")
    return Verdict(
        False,
        "it gives another number: kl_div's default reduction divides by the number of classes as "
        "well, KL leaves out the target's entropy, and the rest goes to V − 1 classes, not V.",
    )


def _judge_exposure_bias(
    lost: float, forced_after_error: float, free_after_error: float
) -> Verdict:
    """how much exact match falls from teacher forcing to free running; share of right characters
    after the first wrong one"""
    if lost > 0.005:
        return Verdict(True, "fewer dates came out right when the model read its own writing.")
    worse = free_after_error < forced_after_error - 0.01
    after = (
        "After the first mistake it does get worse." if worse else "Nor does it get worse after."
    )
    return Verdict(
        False,
        "as many dates are right in full either way: up to its first mistake the model reads the "
        f"same as with teacher forcing. {after}",
    )


def _judge_recurrence(transformer: float, recurrent: float) -> Verdict:
    """exact match on unseen dates, same parameters, same steps"""
    if recurrent < 0.5 * transformer:
        return Verdict(True, "on this job the recurrent network is left far behind.")
    return Verdict(
        False,
        "with as many parameters and steps the recurrent network learns most of this job too: "
        "dates are short. What it can not do is work on all positions at once.",
    )


def _judge_bert_generates(masked_valid: float, causal_valid: float) -> Verdict:
    """share of valid phrases written from left to right, by a model trained on masks and by one
    trained on the next character"""
    if masked_valid > 0.5 * causal_valid:
        return Verdict(True, "the masked model wrote about as well as the causal one.")
    return Verdict(
        False,
        "same size, same text, same steps: what was trained to fill holes does not write from left "
        "to right, what was trained on the next character does.",
    )


CLAIMS = [
    Claim(
        id="decoder/table-1",
        statement="A convolution needs O(log n) sequential operations, an RNN has complexity O(n).",
        source="goes round; against Vaswani et al. 2017, Table 1",
        judge=_judge_table_1,
        holds=dict(
            convolution_chain={8: 3, 64: 6}, rnn_chain={8: 8, 64: 64}, rnn_flops_by_width=1.0
        ),
        fails=dict(
            convolution_chain={8: 1, 64: 1}, rnn_chain={8: 8, 64: 64}, rnn_flops_by_width=4.0
        ),
    ),
    Claim(
        id="decoder/label-smoothing-class",
        statement="This LabelSmoothing class computes the label-smoothed cross-entropy.",
        source="tutorials",
        judge=_judge_label_smoothing_class,
        holds=dict(printed=2.6912, exact=2.6912),
        fails=dict(printed=0.21, exact=2.69),
    ),
    Claim(
        id="decoder/exposure-bias",
        statement="Trained with teacher forcing, a model gets fewer sequences right when it runs "
        "free.",
        source="goes round",
        judge=_judge_exposure_bias,
        holds=dict(lost=0.05, forced_after_error=0.93, free_after_error=0.82),
        fails=dict(lost=0.0, forced_after_error=0.93, free_after_error=0.82),
    ),
    Claim(
        id="decoder/recurrence",
        statement="Recurrent networks can not do what a Transformer does.",
        source="goes round",
        judge=_judge_recurrence,
        holds=dict(transformer=0.99, recurrent=0.2),
        fails=dict(transformer=0.99, recurrent=0.97),
    ),
    Claim(
        id="decoder/bert-generates",
        statement="BERT knows the language, so it can write it: mask the next token, fill it, go "
        "on.",
        source="goes round",
        judge=_judge_bert_generates,
        holds=dict(masked_valid=0.7, causal_valid=0.75),
        fails=dict(masked_valid=0.01, causal_valid=0.75),
    ),
]
