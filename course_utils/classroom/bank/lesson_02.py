"""Lesson 02, the Transformer encoder: its exercises, their known mistakes, and its claims."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course_utils import encoder, layers
from course_utils.attention import MultiHeadAttention
from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise, fill_
from course_utils.layers import FeedForward, LayerNorm, activation_function, gelu, gelu_tanh


def _draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- encoder/gelu ---------------------------------------------------------------------------------


def gelu_stub(x):
    """x, any shape → x · Φ(x), the same shape and dtype; the exact form, through torch.erf"""
    raise NotImplementedError("your turn")


def _gelu_by_hand(implementation):
    return implementation(torch.tensor([-1.0, 0.0, 1.0]))


def _gelu_slope(implementation):
    x = torch.linspace(-3, 3, 7, requires_grad=True)
    implementation(x).sum().backward()
    return x.grad


def _gelu_half(x):
    return x * (1 + torch.erf(x / math.sqrt(2)))


def _gelu_without_root(x):
    return 0.5 * x * (1 + torch.erf(x))


def _gelu_phi_only(x):
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _gelu_erf_only(x):
    return 0.5 * x * torch.erf(x / math.sqrt(2))


def _gelu_root_outside(x):
    return 0.5 * x * (1 + torch.erf(x) / math.sqrt(2))


def _gelu_sigmoid(x):
    return x * torch.sigmoid(1.702 * x)


def _gelu_density(x):
    return x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


GELU = Exercise(
    id="encoder/gelu",
    lesson="02",
    title="GELU, exact",
    difficulty=1,
    minutes=5,
    reference=layers.gelu,
    stub=gelu_stub,
    cases=[
        Case("-1, 0 and 1 by hand", _gelu_by_hand),
        Case("many values", lambda f: f(torch.linspace(-6, 6, 241))),
        Case("three axes", lambda f: f(_draw(1, 2, 3, 4))),
        Case("float64", lambda f: f(_draw(2, 5, dtype=torch.float64))),
        Case("its slope", _gelu_slope),
    ],
    hints=[
        "Φ(x) runs from 0 to 1 and is ½ at 0. torch.erf runs from −1 to 1 and is 0 at 0.",
        "Φ(x) = ½ · (1 + erf(x / √2)). Multiply it by x.",
    ],
    mistakes=[
        Mistake(
            gelu_tanh,
            "This is the tanh form: close, but up to 5e-4 away. The exact one uses torch.erf.",
        ),
        Mistake(
            _gelu_sigmoid,
            "x · sigmoid(1.702 x) is a rougher stand-in, up to 0.02 away. The exact one uses "
            "torch.erf.",
        ),
        Mistake(F.silu, "This is SiLU, x · sigmoid(x): Φ is not the logistic function."),
        Mistake(F.relu, "This is ReLU: a hard switch. GELU weighs x by Φ(x), which is never hard."),
        Mistake(
            _gelu_half, "Twice too large: 1 + erf runs from 0 to 2, a probability from 0 to 1."
        ),
        Mistake(
            _gelu_without_root,
            "You called erf(x). The normal distribution needs erf(x / √2): erf is that of a normal "
            "with variance ½.",
        ),
        Mistake(
            _gelu_root_outside,
            "You divided erf(x) by √2. The root belongs inside: erf(x / √2).",
        ),
        Mistake(_gelu_phi_only, "This is Φ(x) alone, a number from 0 to 1: multiply it by x."),
        Mistake(
            _gelu_erf_only,
            "The 1 is missing: erf runs from −1 to 1, so it needs + 1 before it is halved.",
        ),
        Mistake(
            _gelu_density,
            "You used the bell curve itself; Φ is the area under it up to x.",
        ),
    ],
)

# --- encoder/layer-norm ---------------------------------------------------------------------------


class LayerNormStub(nn.Module):
    """(..., hidden_size) → the same shape: each vector to mean 0 and variance 1, then times
    `weight` (ones at first) plus `bias` (zeros at first), parameters of length hidden_size
    """

    def __init__(self, hidden_size, eps=1e-12):
        super().__init__()
        raise NotImplementedError("your turn")

    def forward(self, x):
        raise NotImplementedError("your turn")


def _norm_by_hand(implementation):
    return implementation(4)(torch.tensor([2.0, 4.0, 6.0, 8.0]))


def _norm_filled(*shape, dtype=torch.float32):
    def run(implementation):
        module = fill_(implementation(shape[-1]), seed=1).to(dtype)
        return module(_draw(2, *shape, dtype=dtype) * 3 + 1)

    return run


def _norm_large_eps(implementation):
    return implementation(2, eps=3.0)(torch.tensor([[-1.0, 1.0]]))


def _norm_equal_features(implementation):
    return fill_(implementation(4), seed=5)(torch.tensor([[3.0] * 4, [-0.5] * 4]))


def _norm_small_values(implementation):
    return implementation(6)(1e-3 * _draw(3, 2, 6))


def _norm_parameters(implementation):
    module = implementation(3)
    return {name: parameter.detach() for name, parameter in sorted(module.named_parameters())}


def _norm_gradients(implementation):
    module, x = fill_(implementation(4), seed=3), _draw(4, 3, 4).requires_grad_()
    module(x).pow(2).sum().backward()
    return x.grad, {name: p.grad for name, p in sorted(module.named_parameters())}


class _Norm(nn.Module):
    """The parameters of a LayerNorm; each mistake computes its own `normalize`."""

    default_eps = 1e-12

    def __init__(self, hidden_size, eps=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))
        self.eps = self.default_eps if eps is None else eps

    def forward(self, x):
        return self.weight * self.normalize(x) + self.bias

    def normalize(self, x):
        variance = x.var(-1, keepdim=True, correction=0)
        return (x - x.mean(-1, keepdim=True)) / (variance + self.eps).sqrt()


class _NormUnbiased(_Norm):
    def normalize(self, x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + self.eps).sqrt()


class _NormStdPlusEps(_Norm):
    def normalize(self, x):
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + self.eps)


class _NormEpsOutside(_Norm):
    def normalize(self, x):
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, correction=0) + self.eps)


class _NormByVariance(_Norm):
    def normalize(self, x):
        variance = x.var(-1, keepdim=True, correction=0)
        return (x - x.mean(-1, keepdim=True)) / (variance + self.eps)


class _NormUncentred(_Norm):
    def normalize(self, x):
        return x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()


class _NormOverEverything(_Norm):
    def normalize(self, x):
        return (x - x.mean()) / (x.var(correction=0) + self.eps).sqrt()


class _NormOverBatch(_Norm):
    def normalize(self, x):
        flat = x.reshape(-1, x.shape[-1])
        return (x - flat.mean(0)) / (flat.var(0, correction=0) + self.eps).sqrt()


class _NormPlain(_Norm):
    def forward(self, x):
        return self.normalize(x) + 0 * (self.weight + self.bias)


class _NormPytorchEps(_Norm):
    default_eps = 1e-5


class _NormWithoutEps(_Norm):
    def normalize(self, x):
        return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0)


class _NormFixedEps(_Norm):
    def __init__(self, hidden_size, eps=None):
        super().__init__(hidden_size)


class _NormPlainTensors(_Norm):
    def __init__(self, hidden_size, eps=None):
        super().__init__(hidden_size, eps)
        del self.weight, self.bias
        self.weight, self.bias = torch.ones(hidden_size), torch.zeros(hidden_size)


class _NormGammaBeta(_Norm):
    def __init__(self, hidden_size, eps=None):
        super().__init__(hidden_size, eps)
        self.gamma, self.beta = self.weight, self.bias
        del self.weight, self.bias

    def forward(self, x):
        return self.gamma * self.normalize(x) + self.beta


LAYER_NORM = Exercise(
    id="encoder/layer-norm",
    lesson="02",
    title="Layer normalization",
    difficulty=2,
    minutes=10,
    reference=layers.LayerNorm,
    stub=LayerNormStub,
    cases=[
        Case("[2 4 6 8] by hand", _norm_by_hand),
        Case("two sentences of three tokens, filled parameters", _norm_filled(2, 3, 5)),
        Case("one vector", _norm_filled(7)),
        Case("float64", _norm_filled(2, 4, dtype=torch.float64)),
        Case("a large eps, to see where it goes", _norm_large_eps),
        Case("very small values, default eps", _norm_small_values),
        Case("all features equal", _norm_equal_features),
        Case("the parameters: weight of ones, bias of zeros", _norm_parameters),
        Case("gradients", _norm_gradients),
    ],
    hints=[
        "Which axis holds one token's features? keepdim=True keeps the shapes fitting.",
        "x.var(-1, keepdim=True, correction=0) divides by n, as the formula does; the default "
        "divides by n − 1.",
        "self.weight * (x - mean) / torch.sqrt(variance + self.eps) + self.bias, where weight is "
        "nn.Parameter(torch.ones(hidden_size)).",
    ],
    mistakes=[
        Mistake(
            _NormUnbiased,
            "Your variance divides by n − 1, PyTorch's default. LayerNorm's divides by n: "
            "correction=0.",
        ),
        Mistake(
            _NormStdPlusEps,
            "This is (x − mean) / (std + ε): torch.std divides by n − 1, and ε belongs inside the "
            "root.",
        ),
        Mistake(_NormEpsOutside, "ε belongs inside the root: √(variance + ε), not √variance + ε."),
        Mistake(
            _NormByVariance,
            "You divided by the variance. Its square root brings the spread to 1.",
        ),
        Mistake(
            _NormUncentred,
            "The mean is still in it: this is RMSNorm, which later models use. BERT subtracts the "
            "mean first.",
        ),
        Mistake(
            _NormOverEverything,
            "One mean for the whole tensor: tokens now depend on each other. Take it over the last "
            "axis, with keepdim=True.",
        ),
        Mistake(
            _NormOverBatch,
            "You normalised each feature over the tokens: that is batch normalization. Take mean "
            "and variance over the last axis.",
        ),
        Mistake(
            _NormPlain,
            "The learned scale and shift are not used: end with weight · normalized + bias.",
        ),
        Mistake(
            _NormPytorchEps,
            "Your default eps is 1e-5, nn.LayerNorm's. BERT's is 1e-12, and small values show it.",
        ),
        Mistake(
            _NormWithoutEps,
            "ε is forgotten: where all features are equal you divide 0 by 0. √(variance + ε).",
        ),
        Mistake(_NormFixedEps, "It is always 1e-12: use the eps that __init__ was given."),
        Mistake(
            _NormPlainTensors,
            "weight and bias are tensors but no parameters, so nothing trains them. Wrap each in "
            "nn.Parameter.",
        ),
        Mistake(
            _NormGammaBeta,
            "All right but the names: gamma and beta, as Google's checkpoints say, are called "
            "weight and bias here and in PyTorch.",
        ),
    ],
)

# --- encoder/feed-forward -------------------------------------------------------------------------


class FeedForwardStub(nn.Module):
    """(..., hidden_size) → expand to intermediate_size → activation → contract to hidden_size
    → dropout, once, at the end
    """

    def __init__(self, hidden_size, intermediate_size, activation="gelu", dropout=0.0):
        super().__init__()
        self.expand = nn.Linear(hidden_size, intermediate_size)
        self.contract = nn.Linear(intermediate_size, hidden_size)
        self.activation = activation_function(activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        raise NotImplementedError("your turn")


def _ffn(hidden, wide, *shape, activation="gelu", dtype=torch.float32):
    def run(implementation):
        module = fill_(implementation(hidden, wide, activation), seed=1).to(dtype)
        return module(_draw(2, *shape, hidden, dtype=dtype))

    return run


def _ffn_all_dropped(implementation):
    module = fill_(implementation(6, 10, dropout=1.0), seed=2)
    return module.train()(_draw(3, 2, 6)), module.eval()(_draw(3, 2, 6))


def _ffn_half_dropped(implementation):
    """Structure, not numbers: which features are dropped may follow from any order of draws."""
    module, x = fill_(implementation(16, 24, dropout=0.5), seed=4), _draw(5, 256, 16)
    whole = module(x)
    left = module.train()(x)  # 4096 numbers
    return {
        "zeros, to the nearest quarter": _quarters(left == 0),
        "what is left is doubled": bool(((left == 0) | left.isclose(2 * whole, 1e-4, 1e-5)).all()),
    }


def _quarters(chosen):
    """The share that is True, rounded to 0, 0.25, 0.5, 0.75 or 1: enough to tell ½ from ½ · ½."""
    return round(4 * chosen.double().mean().item()) / 4


class _FfnLinear(FeedForwardStub):
    def forward(self, x):
        return self.dropout(self.contract(self.expand(x)))


class _FfnActivationLast(FeedForwardStub):
    def forward(self, x):
        return self.dropout(self.activation(self.contract(self.expand(x))))


class _FfnActivationTwice(FeedForwardStub):
    def forward(self, x):
        return self.dropout(self.activation(self.contract(self.activation(self.expand(x)))))


class _FfnNoDropout(FeedForwardStub):
    def forward(self, x):
        return self.contract(self.activation(self.expand(x)))


class _FfnDropoutInside(FeedForwardStub):
    def forward(self, x):
        return self.contract(self.dropout(self.activation(self.expand(x))))


class _FfnDropoutInsideToo(FeedForwardStub):
    def forward(self, x):
        return self.dropout(self.contract(self.dropout(self.activation(self.expand(x)))))


class _FfnDroppedTwice(FeedForwardStub):
    def forward(self, x):
        return self.dropout(self.dropout(self.contract(self.activation(self.expand(x)))))


class _FfnResidual(FeedForwardStub):
    def forward(self, x):
        return x + self.dropout(self.contract(self.activation(self.expand(x))))


class _FfnAlwaysRelu(FeedForwardStub):
    def forward(self, x):
        return self.dropout(self.contract(torch.relu(self.expand(x))))


class _FfnAlwaysGelu(FeedForwardStub):
    def forward(self, x):
        return self.dropout(self.contract(gelu(self.expand(x))))


FEED_FORWARD = Exercise(
    id="encoder/feed-forward",
    lesson="02",
    title="Feed-forward",
    difficulty=2,
    minutes=5,
    reference=layers.FeedForward,
    stub=FeedForwardStub,
    cases=[
        Case("two sentences of three tokens, 8 → 20 → 8", _ffn(8, 20, 2, 3)),
        Case("one token, narrower inside: 6 → 3 → 6", _ffn(6, 3)),
        Case("with ReLU", _ffn(5, 12, 4, activation="relu")),
        Case("float64", _ffn(4, 16, 3, dtype=torch.float64)),
        Case("dropout of everything, in training and in eval", _ffn_all_dropped),
        Case("dropout of a half, in training", _ffn_half_dropped),
    ],
    hints=[
        "Four things in a row: expand, activation, contract, dropout. None of them is used twice.",
        "self.dropout(self.contract(self.activation(self.expand(x))))",
    ],
    mistakes=[
        Mistake(
            _FfnLinear,
            "There is no activation between the layers: two linear layers in a row are one linear "
            "layer.",
        ),
        Mistake(
            _FfnActivationLast, "The activation belongs between the two layers, not after both."
        ),
        Mistake(
            _FfnActivationTwice,
            "There is a second activation at the end: the output must be free to be negative.",
        ),
        Mistake(_FfnNoDropout, "Nothing is dropped in training: end with self.dropout(…)."),
        Mistake(
            _FfnDropoutInside,
            "Your dropout stands between the two layers; BERT's stands after the second.",
        ),
        Mistake(
            _FfnDropoutInsideToo,
            "You dropped twice, between the layers and at the end, as nn.TransformerEncoderLayer "
            "does. BERT drops at the end only.",
        ),
        Mistake(_FfnDroppedTwice, "You dropped twice at the end: once is enough."),
        Mistake(
            _FfnResidual,
            "You added x already; the encoder layer does that around the feed-forward part.",
        ),
        Mistake(_FfnAlwaysRelu, "It is always ReLU: call self.activation."),
        Mistake(
            _FfnAlwaysGelu, "It is always GELU, also for activation='relu': call self.activation."
        ),
    ],
)

# --- encoder/encoder-layer ------------------------------------------------------------------------


class EncoderLayerStub(nn.Module):
    """x (batch, tokens, hidden_size), mask → output (batch, tokens, hidden_size), attention weights
    or None. Post-norm: x = LayerNorm(x + part(x)), first for attention, then for feed-forward.
    """

    def __init__(
        self, hidden_size, num_heads, intermediate_size, dropout=0.1, activation="gelu", eps=1e-12
    ):
        super().__init__()
        self.attention = MultiHeadAttention(hidden_size, num_heads, dropout)
        self.attention_norm = LayerNorm(hidden_size, eps)
        self.feed_forward = FeedForward(hidden_size, intermediate_size, activation, dropout)
        self.feed_forward_norm = LayerNorm(hidden_size, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask=None, need_weights=False):
        raise NotImplementedError("your turn")


def _layer(*shape, heads=2, masked=False, dtype=torch.float32, need_weights=False):
    def run(implementation):
        batch, tokens, hidden = shape
        module = fill_(implementation(hidden, heads, 2 * hidden + 1), seed=5).to(dtype)
        lengths = torch.arange(tokens, 0, -1)[:batch, None]  # (batch, 1): one token fewer each
        mask = (torch.arange(tokens) < lengths)[:, None, None, :] if masked else None
        return module(_draw(6, *shape, dtype=dtype), mask, need_weights)

    return run


def _layer_all_dropped(implementation):
    module = fill_(implementation(8, 2, 16, dropout=1.0), seed=7).train()
    return module(_draw(8, 2, 3, 8), need_weights=True)


def _share_left(adds_one):
    """How much is left, in training and with dropout ½, of the ones that a part adds to x = 0.

    Only that part adds anything: its last layer has weights of 0 and biases of 1. After the norm a
    one that is left is positive, a dropped one negative. One dropout leaves ½ of them, two leave ¼.
    """

    def run(implementation):
        module = fill_(implementation(64, 2, 96, dropout=0.5), seed=11)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name.startswith(("attention.output.", "feed_forward.contract.")):
                    parameter.fill_(float(name == f"{adds_one}.bias"))
                if "norm" in name:
                    parameter.fill_(float(name.endswith("weight")))
        output = module.train()(torch.zeros(1, 64, 64))[0]  # 4096 numbers
        return _quarters(output > 0.1)

    return run


def _layer_twice(implementation):
    module, x = fill_(implementation(8, 4, 16), seed=9), _draw(10, 2, 4, 8)
    module(x)
    return x  # what was passed in must be as it was


class _LayerPreNorm(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        normed = self.attention_norm(x)
        attended, weights = self.attention(normed, normed, normed, mask, need_weights)
        x = x + self.dropout(attended)
        return x + self.feed_forward(self.feed_forward_norm(x)), weights


class _LayerNoResidual(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = self.attention_norm(self.dropout(attended))
        return self.feed_forward_norm(self.feed_forward(x)), weights


class _LayerOneResidual(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = self.attention_norm(x + self.dropout(attended))
        return self.feed_forward_norm(self.feed_forward(x)), weights


class _LayerFirstInputTwice(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        middle = self.attention_norm(x + self.dropout(attended))
        return self.feed_forward_norm(x + self.feed_forward(middle)), weights


class _LayerOneNorm(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = self.attention_norm(x + self.dropout(attended))
        return self.attention_norm(x + self.feed_forward(x)), weights


class _LayerNormInside(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = x + self.attention_norm(self.dropout(attended))
        return x + self.feed_forward_norm(self.feed_forward(x)), weights


class _LayerNoLastNorm(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = self.attention_norm(x + self.dropout(attended))
        return x + self.feed_forward(x), weights


class _LayerNoMask(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, None, need_weights)
        x = self.attention_norm(x + self.dropout(attended))
        return self.feed_forward_norm(x + self.feed_forward(x)), weights


class _LayerNoDropout(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = self.attention_norm(x + attended)
        return self.feed_forward_norm(x + self.feed_forward(x)), weights


class _LayerFeedForwardDroppedTwice(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = self.attention_norm(x + self.dropout(attended))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x))), weights


class _LayerAttentionDroppedTwice(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = self.attention_norm(x + self.dropout(self.dropout(attended)))
        return self.feed_forward_norm(x + self.feed_forward(x)), weights


class _LayerSumDropped(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        x = self.attention_norm(self.dropout(x + attended))
        return self.feed_forward_norm(x + self.feed_forward(x)), weights


class _LayerFeedForwardOfInput(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask, need_weights)
        middle = self.attention_norm(x + self.dropout(attended))
        return self.feed_forward_norm(middle + self.feed_forward(x)), weights


class _LayerFeedForwardFirst(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        x = self.feed_forward_norm(x + self.feed_forward(x))
        attended, weights = self.attention(x, x, x, mask, need_weights)
        return self.attention_norm(x + self.dropout(attended)), weights


class _LayerOutputOnly(EncoderLayerStub):
    def forward(self, x, mask=None, need_weights=False):
        attended, _ = self.attention(x, x, x, mask, need_weights)
        x = self.attention_norm(x + self.dropout(attended))
        return self.feed_forward_norm(x + self.feed_forward(x))


ENCODER_LAYER = Exercise(
    id="encoder/encoder-layer",
    lesson="02",
    title="The encoder layer, post-norm",
    difficulty=3,
    minutes=15,
    reference=encoder.EncoderLayer,
    stub=EncoderLayerStub,
    cases=[
        Case("two sentences, hidden 8, two heads", _layer(2, 5, 8)),
        Case("with the attention weights", _layer(2, 4, 8, need_weights=True)),
        Case("padding", _layer(3, 5, 12, heads=3, masked=True)),
        Case(
            "padding, with the attention weights", _layer(2, 3, 4, masked=True, need_weights=True)
        ),
        Case(
            "one sentence of one token, one head, float64",
            _layer(1, 1, 6, heads=1, dtype=torch.float64),
        ),
        Case("dropout of everything that is added", _layer_all_dropped),
        Case("dropout ½: how much of what attention adds is left", _share_left("attention.output")),
        Case(
            "dropout ½: how much of what feed-forward adds is left",
            _share_left("feed_forward.contract"),
        ),
        Case("the input stays as it was", _layer_twice),
    ],
    hints=[
        "self.attention takes query, key, value, mask, need_weights and returns output and "
        "weights. In self-attention the first three are x.",
        "Write x = norm(x + dropout(attended)) and then the same with feed_forward, which brings "
        "its own dropout.",
        "attended, weights = self.attention(x, x, x, mask, need_weights)\n"
        "x = self.attention_norm(x + self.dropout(attended))\n"
        "return self.feed_forward_norm(x + …), weights",
    ],
    mistakes=[
        Mistake(
            _LayerPreNorm,
            "This is pre-norm, as in GPT-2: you normalised what goes into each part. BERT "
            "normalises after the sum.",
        ),
        Mistake(
            _LayerNoResidual,
            "Neither residual is there: add x to what each part returns, before the norm.",
        ),
        Mistake(
            _LayerOneResidual, "The second residual is missing: add x to feed_forward(x) as well."
        ),
        Mistake(
            _LayerFirstInputTwice,
            "Your second residual adds the layer's first input; it must add what the first norm "
            "returned.",
        ),
        Mistake(
            _LayerOneNorm,
            "You used attention_norm twice; the second norm has parameters of its own.",
        ),
        Mistake(
            _LayerNormInside,
            "You normalised what each part returns and then added x; post-norm normalises the sum.",
        ),
        Mistake(
            _LayerNoLastNorm, "The last norm is missing: the layer ends with feed_forward_norm."
        ),
        Mistake(_LayerNoMask, "The mask does not reach the attention: padding is attended to."),
        Mistake(
            _LayerNoDropout,
            "In training nothing is dropped from what attention adds: self.dropout(attended).",
        ),
        Mistake(
            _LayerFeedForwardDroppedTwice,
            "You dropped twice: feed_forward ends with its own dropout.",
        ),
        Mistake(
            _LayerAttentionDroppedTwice,
            "You dropped from what attention adds twice: once is enough.",
        ),
        Mistake(
            _LayerSumDropped,
            "You dropped from the sum, x included: drop only from what attention adds.",
        ),
        Mistake(
            _LayerFeedForwardOfInput,
            "Your feed-forward reads the layer's input; it must read what the first norm returned.",
        ),
        Mistake(_LayerFeedForwardFirst, "The order is attention first, feed-forward second."),
        Mistake(
            _LayerOutputOnly,
            "Return two things, the output and the weights (None when they are not asked for).",
        ),
    ],
)

# --- encoder/parameter-count ----------------------------------------------------------------------


def encoder_layer_parameters_stub(hidden_size, intermediate_size):
    """→ how many numbers one encoder layer learns (int): attention, feed-forward, two LayerNorms"""
    raise NotImplementedError("your turn")


def _count(hidden, wide, attention_matrices=4, bias=True, norms=2):
    attention = attention_matrices * (hidden * hidden + bias * hidden)
    feed_forward = 2 * hidden * wide + bias * (wide + hidden)
    return attention + feed_forward + norms * 2 * hidden


PARAMETER_COUNT = Exercise(
    id="encoder/parameter-count",
    lesson="02",
    title="Parameters of one layer",
    difficulty=2,
    minutes=10,
    reference=encoder.encoder_layer_parameters,
    stub=encoder_layer_parameters_stub,
    cases=[
        Case("BERT-base, 768 and 3072", lambda f: f(768, 3072)),
        Case("TinyBERT-4, 312 and 1200", lambda f: f(312, 1200)),
        Case("hidden 2, intermediate 3, small enough to draw", lambda f: f(2, 3)),
        Case("BERT-large, 1024 and 4096", lambda f: f(1024, 4096)),
    ],
    hints=[
        "A linear layer from a to b has a·b weights and b biases. Attention has four of them: "
        "query, key, value, output.",
        "A LayerNorm has a weight and a bias of hidden_size each, and there are two LayerNorms.",
        "4·(h² + h) + (h·i + i) + (i·h + h) + 2·(2·h)",
    ],
    mistakes=[
        Mistake(
            lambda hidden_size, intermediate_size: _count(
                hidden_size, intermediate_size, bias=False
            ),
            "The biases of the linear layers are missing: one for each output.",
        ),
        Mistake(
            lambda hidden_size, intermediate_size: _count(
                hidden_size, intermediate_size, attention_matrices=3
            ),
            "You counted query, key and value; attention has a fourth matrix, the output.",
        ),
        Mistake(
            lambda hidden_size, intermediate_size: _count(
                hidden_size, intermediate_size, bias=False, norms=0
            ),
            "You counted the six matrices; the biases and the two LayerNorms are missing.",
        ),
        Mistake(
            lambda hidden_size, intermediate_size: _count(hidden_size, intermediate_size, norms=1),
            "You counted half of the LayerNorms: one instead of two, or no bias.",
        ),
        Mistake(
            lambda hidden_size, intermediate_size: _count(hidden_size, intermediate_size, norms=0),
            "The two LayerNorms are missing: each learns a weight and a bias of hidden_size.",
        ),
        Mistake(
            lambda hidden_size, intermediate_size: (
                _count(hidden_size, intermediate_size) - intermediate_size + hidden_size
            ),
            "The widening layer has a bias for each of its outputs: intermediate_size, not "
            "hidden_size.",
        ),
        Mistake(
            lambda hidden_size, intermediate_size: _count(hidden_size, 4 * hidden_size),
            "You took the intermediate size to be 4 · hidden_size. TinyBERT's is not: use the "
            "argument.",
        ),
        Mistake(
            lambda hidden_size, intermediate_size: 12 * _count(hidden_size, intermediate_size),
            "You counted twelve layers; the question is about one.",
        ),
    ],
)

# --- encoder/pre-norm, open -----------------------------------------------------------------------

PRE_NORM = OpenExercise(
    id="encoder/pre-norm",
    lesson="02",
    title="Make it pre-norm, and predict what changes",
    difficulty=4,
    minutes=25,
    task="Write `MyPreNormLayer(EncoderLayer)` with its own `forward`. Before you run anything, "
    "predict for a stack of 12 fresh layers: how large is the output after layer 1, 6 and 12, for "
    "both orders? Is the output at 12 still normalised? What happens to the gradient of the first "
    "layer? Then measure.",
    hints=[
        "In pre-norm nothing on the main road is ever divided. Every part adds to a running sum.",
        "If each part adds something of variance v, what is the variance after 24 parts?",
    ],
    rubric=[
        "The LayerNorm stands on what a part reads; the sum itself is never normalised.",
        "You predicted the size of the output *before* you measured it, and say where you were "
        "wrong.",
        "You noticed that a pre-norm stack needs one more LayerNorm at its end, and why.",
        "You say which weights can be copied from a post-norm layer (all: the names are the same) "
        "and that the outputs differ all the same.",
    ],
    answer="""```python
class MyPreNormLayer(EncoderLayer):
    def forward(self, x, mask=None, need_weights=False):
        normed = self.attention_norm(x)
        attended, weights = self.attention(normed, normed, normed, mask, need_weights)
        x = x + self.dropout(attended)
        return x + self.feed_forward(self.feed_forward_norm(x)), weights
```

Measure both orders on fresh layers, their weights drawn with a standard deviation of 0.07:

```python
from course_utils.encoder import initialize

for kind in (EncoderLayer, MyPreNormLayer):
    torch.manual_seed(0)
    stack = nn.ModuleList(kind(64, 4, 256, dropout=0.0) for _ in range(12))
    initialize(stack, 0.07)
    states = [torch.randn(4, 16, 64, requires_grad=True)]
    for layer in stack:
        states.append(layer(states[-1])[0])
    top = states[-1] if kind is EncoderLayer else torch.layer_norm(states[-1], (64,))
    reading = (top * torch.randn(4, 16, 64)).sum()  # some function of the top
    below, above = torch.autograd.grad(reading, (states[1], states[12]), retain_graph=True)
    weight = torch.autograd.grad(reading, stack[11].feed_forward.contract.weight)[0]
    print(kind.__name__, *(f"{states[n].std().item():.2f}" for n in (1, 6, 12)),
          f"{(below.norm() / above.norm()).item():.2f} {weight.norm().item():.0f}")
```

| | post-norm | pre-norm |
| --- | --- | --- |
| spread of the stream after layer 1, 6, 12 | 1.00, 1.00, 1.00 | 1.07, 1.34, 1.62 |
| gradient of the stream at layer 1, that at layer 12 being 1 | 1.08 | 1.67 |
| gradient of the last layer's `contract.weight` | 299 | 207 |

Post-norm: every layer ends with a LayerNorm, so its output has spread 1. Pre-norm: each part adds
its own and nothing divides, so the sum grows with depth, late layers change it less and less in
proportion, and a last LayerNorm follows the stack. On the way back the pre-norm sum copies the
gradient down and the parts add to it; in post-norm each LayerNorm on the road rescales it. Yet it
arrives in both: the gradient of the stream does not explain why post-norm needs warm-up. Xiong and
others (2020, section 3) look at the gradients of the *parameters* near the output instead. In a
post-norm stack at its start these are large at any depth; in pre-norm they shrink as the stack gets
deeper. The table's last row shows the beginning of it: 1.4 times as large, at twelve layers of this
width.""",
)

EXERCISES = [GELU, LAYER_NORM, FEED_FORWARD, ENCODER_LAYER, PARAMETER_COUNT, PRE_NORM]


# --- Claims ---------------------------------------------------------------------------------------


def _judge_tanh_gelu(to_exact: float, to_tanh: float) -> Verdict:
    """largest distance of the library's BERT activation to each of the two forms"""
    if to_tanh < to_exact:
        return Verdict(True, "the library's BERT computes the tanh form.")
    return Verdict(
        False,
        "Hugging Face's BERT computes the exact form; Google's own code computes the tanh form. "
        "They differ by less than 0.0005 at any x.",
    )


def _judge_std_plus_epsilon(apart: float) -> Verdict:
    """relative difference between the printed formula and nn.LayerNorm, at 768 features"""
    if apart < 1e-5:
        return Verdict(True, "the formula gives what nn.LayerNorm gives.")
    return Verdict(
        False,
        "torch.std divides by n − 1, LayerNorm by n; even at 768 features a parity test to 1e-5 "
        "sees the difference.",
    )


def _judge_norm_placement(post_cold: float, post_warm: float, pre_cold: float) -> Verdict:
    """last losses of training: post-norm without and with warm-up, pre-norm without"""
    if post_cold < 1.5 * max(post_warm, pre_cold):
        return Verdict(True, "all runs learned alike; the place of the norm made no difference.")
    return Verdict(
        False,
        "at this depth and rate post-norm without warm-up is left behind; with warm-up, or in "
        "pre-norm, the same layers learn.",
    )


def _judge_optional(
    shallow_residual: float, deep_residual: float, shallow_norm: float, deep_norm: float
) -> Verdict:
    """accuracies without residuals and without LayerNorm, at two and at six layers"""
    works = 0.9
    names = [
        name
        for name, value in (
            ("residuals at two layers", shallow_residual),
            ("residuals at six layers", deep_residual),
            ("LayerNorm at two layers", shallow_norm),
            ("LayerNorm at six layers", deep_norm),
        )
        if value < works
    ]
    if not names:
        return Verdict(True, "every stack learned the task without them, at two and at six layers.")
    return Verdict(False, f"this task is not learned without {', '.join(names)}.")


def _judge_most_in_attention(attention_share: float) -> Verdict:
    """share of one layer's parameters that belong to attention"""
    if attention_share > 0.5:
        return Verdict(True, "attention holds more than half of a layer.")
    return Verdict(False, "attention holds a third of a layer, feed-forward two thirds.")


CLAIMS = [
    Claim(
        id="encoder/tanh-gelu",
        statement="BERT uses the tanh GELU.",
        source="goes round; true of Google's code",
        judge=_judge_tanh_gelu,
        holds=dict(to_exact=4.7e-4, to_tanh=0.0),
        fails=dict(to_exact=0.0, to_tanh=4.7e-4),
    ),
    Claim(
        id="encoder/std-plus-epsilon",
        statement="LayerNorm is (x − mean) / (std + ε).",
        source="tutorials",
        judge=_judge_std_plus_epsilon,
        holds=dict(apart=1e-7),
        fails=dict(apart=6.5e-4),
    ),
    Claim(
        id="encoder/norm-placement",
        statement="Post-norm or pre-norm is a detail.",
        source="goes round",
        judge=_judge_norm_placement,
        holds=dict(post_cold=0.25, post_warm=0.25, pre_cold=0.2),
        fails=dict(post_cold=1.1, post_warm=0.25, pre_cold=0.2),
    ),
    Claim(
        id="encoder/most-in-attention",
        statement="Most of BERT's parameters are in attention.",
        source="goes round",
        judge=_judge_most_in_attention,
        holds=dict(attention_share=0.6),
        fails=dict(attention_share=1 / 3),
    ),
    Claim(
        id="encoder/optional",
        statement="Residuals and LayerNorm are optional.",
        source="goes round",
        judge=_judge_optional,
        holds=dict(shallow_residual=0.99, deep_residual=0.98, shallow_norm=0.99, deep_norm=0.98),
        fails=dict(shallow_residual=0.97, deep_residual=0.4, shallow_norm=0.99, deep_norm=0.5),
    ),
]
