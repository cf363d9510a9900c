import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils import layers
from course_utils.layers import FeedForward, LayerNorm, gelu, gelu_tanh

SETTINGS = settings(max_examples=25, deadline=None)


@pytest.fixture(params=[True, False], ids=["fused", "formula"])
def fused(request, monkeypatch):
    """Both ways of computing: PyTorch's kernel and the formula."""
    monkeypatch.setattr(layers, "FUSED", request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gelu_equals_pytorch_exact_and_tanh(fused, dtype):
    x = torch.linspace(-8, 8, 4001, dtype=dtype)
    torch.testing.assert_close(gelu(x), nn.GELU()(x), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(gelu_tanh(x), nn.GELU("tanh")(x), atol=2e-6, rtol=1e-5)


def test_gelu_of_one_is_one_times_the_chance_to_draw_less(fused):
    below_one = 0.841344746
    assert gelu(torch.tensor(1.0)).item() == pytest.approx(below_one, abs=1e-6)
    assert gelu(torch.tensor(-1.0)).item() == pytest.approx(-(1 - below_one), abs=1e-6)


def test_exact_and_tanh_gelu_differ_by_less_than_a_thousandth_but_do_differ(fused):
    x = torch.linspace(-8, 8, 16_001, dtype=torch.float64)
    largest = (gelu(x) - gelu_tanh(x)).abs().max().item()
    assert 4e-4 < largest < 5e-4


@SETTINGS
@given(
    shape=st.lists(st.integers(1, 7), min_size=0, max_size=3),
    hidden=st.integers(2, 40),
    eps=st.sampled_from([1e-12, 1e-5, 1e-2]),
    shift=st.floats(-3, 3),
    fused=st.booleans(),
    seed=st.integers(0, 999),
)
def test_layer_norm_equals_pytorch(shape, hidden, eps, shift, fused, seed):
    torch.manual_seed(seed)
    # two nearly equal features magnify rounding errors without bound: float64
    ours, theirs = LayerNorm(hidden, eps).double(), nn.LayerNorm(hidden, eps).double()
    with torch.no_grad():
        for name in ("weight", "bias"):
            values = torch.randn(hidden)
            getattr(ours, name).copy_(values)
            getattr(theirs, name).copy_(values)
    x = 2 * torch.randn(*shape, hidden, dtype=torch.float64) + shift
    before, layers.FUSED = layers.FUSED, fused
    try:
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)
    finally:
        layers.FUSED = before


def test_layer_norm_equals_pytorch_at_berts_width_in_float32(fused):
    x = 3 * torch.randn(2, 5, 768) + 1
    torch.testing.assert_close(
        LayerNorm(768)(x), nn.LayerNorm(768, eps=1e-12)(x), atol=1e-5, rtol=0
    )


def test_layer_norm_gives_each_token_mean_zero_and_biased_variance_one(fused):
    output = LayerNorm(5).double()(3 + 4 * torch.randn(2, 3, 5, dtype=torch.float64))
    torch.testing.assert_close(output.mean(-1), torch.zeros(2, 3, dtype=torch.float64))
    variance = output.var(-1, correction=0)
    torch.testing.assert_close(variance, torch.ones(2, 3, dtype=torch.float64))


def test_layer_norm_eps_is_inside_the_root(fused):
    # variance 1, eps 3: 1 / sqrt(1 + 3) = 0.5, whereas 1 / (sqrt(1) + 3) would be 0.25
    assert LayerNorm(2, eps=3.0)(torch.tensor([-1.0, 1.0])).tolist() == [-0.5, 0.5]


def test_layer_norm_default_eps_is_berts():
    assert LayerNorm(4).eps == 1e-12


def test_layer_norm_of_a_token_ignores_the_rest_of_the_batch(fused):
    norm, x = LayerNorm(8), torch.randn(4, 6, 8)
    torch.testing.assert_close(norm(x)[2, 3], norm(x[2, 3]))


def test_layer_norm_of_a_constant_vector_is_its_bias(fused):
    norm = LayerNorm(4)
    norm.bias.data.fill_(0.25)
    assert norm(torch.full((1, 4), 2.0)).tolist() == [[0.25] * 4]


def test_layer_norm_says_what_is_wrong_with_the_width():
    with pytest.raises(ValueError, match="length 5"):
        LayerNorm(4)(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="at least one"):
        LayerNorm(0)


@SETTINGS
@given(
    hidden=st.integers(1, 24),
    wide=st.integers(1, 48),
    activation=st.sampled_from(["gelu", "gelu_tanh", "relu"]),
)
def test_feed_forward_equals_two_linear_layers_with_an_activation(hidden, wide, activation):
    ours = FeedForward(hidden, wide, activation)
    middle = {"gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"), "relu": nn.ReLU()}[activation]
    theirs = nn.Sequential(ours.expand, middle, ours.contract)
    x = torch.randn(2, 3, hidden)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_feed_forward_treats_each_token_alone():
    part, x = FeedForward(8, 32), torch.randn(1, 5, 8)
    torch.testing.assert_close(part(x)[0, 2], part(x[0, 2]))


def test_feed_forward_drops_out_in_training_only():
    part, x = FeedForward(64, 64, dropout=0.5), torch.randn(100, 64)
    assert torch.equal(part.eval()(x), part.eval()(x))
    dropped = (part.train()(x) == 0).double().mean().item()
    assert abs(dropped - 0.5) < 4 * math.sqrt(0.25 / 6400)


def test_feed_forward_names_the_activations_it_knows():
    with pytest.raises(ValueError, match="gelu_tanh"):
        FeedForward(4, 8, activation="swish")


def test_feed_forward_calls_the_gelu_of_this_module(monkeypatch):
    monkeypatch.setattr(layers, "gelu", torch.zeros_like)
    part = FeedForward(4, 8)
    torch.testing.assert_close(part(torch.randn(3, 4)), part.contract.bias.expand(3, 4))


def test_gradients_of_the_formulas_and_of_the_kernels_agree(monkeypatch):
    gradients = []
    for fused in (True, False):
        monkeypatch.setattr(layers, "FUSED", fused)
        torch.manual_seed(0)
        norm, x = LayerNorm(6), torch.randn(3, 6, dtype=torch.float32, requires_grad=True)
        gelu(norm(x)).pow(2).sum().backward()
        gradients.append((x.grad, norm.weight.grad, norm.bias.grad))
    for kernel, formula in zip(*gradients, strict=True):
        torch.testing.assert_close(kernel, formula, atol=1e-5, rtol=1e-4)
