import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from course_utils import encoder as encoder_module
from course_utils.encoder import (
    Encoder,
    EncoderLayer,
    PreNormEncoderLayer,
    encoder_layer_flops,
    encoder_layer_parameters,
    initialize,
)
from course_utils.layers import FeedForward, LayerNorm

SETTINGS = settings(max_examples=25, deadline=None)
LAYERS = {"post": EncoderLayer, "pre": PreNormEncoderLayer}


def copy_weights(ours: EncoderLayer, theirs: nn.TransformerEncoderLayer) -> None:
    """Ours into PyTorch's layer, whose query, key and value lie in one (3·hidden, hidden)."""
    attention = ours.attention
    projections = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in projections]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in projections]))
        pairs = [
            (attention.output, theirs.self_attn.out_proj),
            (ours.attention_norm, theirs.norm1),
            (ours.feed_forward.expand, theirs.linear1),
            (ours.feed_forward.contract, theirs.linear2),
            (ours.feed_forward_norm, theirs.norm2),
        ]
        for mine, other in pairs:
            other.weight.copy_(mine.weight)
            other.bias.copy_(mine.bias)


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.dim() == 1))


@SETTINGS
@given(
    heads=st.integers(1, 4),
    head_width=st.integers(1, 8),
    wide=st.integers(1, 32),
    batch=st.integers(1, 3),
    tokens=st.integers(1, 9),
    norm=st.sampled_from(["post", "pre"]),
    masked=st.booleans(),
    need_weights=st.booleans(),
    training=st.booleans(),
    seed=st.integers(0, 999),
)
def test_layer_equals_pytorch(
    heads, head_width, wide, batch, tokens, norm, masked, need_weights, training, seed
):
    torch.manual_seed(seed)
    hidden = heads * head_width
    # a LayerNorm over two features magnifies rounding errors without bound: float64
    ours = LAYERS[norm](hidden, heads, wide, dropout=0.0, eps=1e-5).double()
    theirs = nn.TransformerEncoderLayer(
        hidden, heads, wide, 0.0, "gelu", 1e-5, batch_first=True, norm_first=norm == "pre"
    ).double()
    randomise(ours)
    copy_weights(ours, theirs)
    ours.train(training)
    theirs.train(training)
    x = torch.randn(batch, tokens, hidden, dtype=torch.float64)
    real = torch.ones(batch, tokens, dtype=torch.bool)
    if masked:
        real = torch.arange(tokens) < torch.randint(1, tokens + 1, (batch, 1))  # (batch, tokens)
    mask = real[:, None, None, :] if masked else None
    output, weights = ours(x, mask, need_weights)
    expected = theirs(x, src_key_padding_mask=~real if masked else None)
    torch.testing.assert_close(output[real], expected[real], atol=1e-5, rtol=1e-4)
    assert (weights is not None) == need_weights


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_stack_equals_pytorch(norm):
    ours = Encoder(3, 12, 3, 20, norm=norm).eval()
    layer = nn.TransformerEncoderLayer(
        12,
        3,
        20,
        activation="gelu",
        layer_norm_eps=1e-12,
        batch_first=True,
        norm_first=norm == "pre",
    )
    last = nn.LayerNorm(12, eps=1e-12) if norm == "pre" else None
    theirs = nn.TransformerEncoder(layer, 3, last, enable_nested_tensor=False).eval()
    randomise(ours)
    if last is not None:
        last.load_state_dict(ours.final_norm.state_dict())
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        copy_weights(mine, other)
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(x).last_hidden_state, theirs(x), atol=1e-5, rtol=1e-4)


def test_layer_is_post_norm_by_default():
    layer = EncoderLayer(8, 2, 16).eval()
    output, _ = layer(10 + 5 * torch.randn(2, 3, 8))
    # what comes out is normalised; a pre-norm layer would hand its input's scale on
    torch.testing.assert_close(output.mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.var(-1, correction=0), torch.ones(2, 3), atol=1e-4, rtol=0)


def test_pre_norm_layer_with_silent_parts_is_the_identity_and_post_norm_is_not():
    x = 10 + 5 * torch.randn(2, 3, 8)
    for norm, unchanged in (("pre", True), ("post", False)):
        layer = LAYERS[norm](8, 2, 16).eval()
        initialize(layer, 0.0)
        assert torch.equal(layer(x)[0], x) == unchanged


def test_pre_norm_stack_ends_with_a_norm_and_post_norm_stack_does_not():
    assert isinstance(Encoder(1, 8, 2, 16, norm="pre").final_norm, LayerNorm)
    assert isinstance(Encoder(1, 8, 2, 16).final_norm, nn.Identity)


def test_dropout_acts_in_training_only():
    x, encoder = torch.randn(2, 5, 16), Encoder(2, 16, 2, 32, dropout=0.3)
    first, second = (encoder.train()(x).last_hidden_state for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (encoder.eval()(x).last_hidden_state for _ in range(2))
    assert torch.equal(first, second)


def test_dropout_acts_on_what_each_part_adds():
    layer = PreNormEncoderLayer(8, 2, 16, dropout=1.0).train()  # all that is added is dropped
    x = torch.randn(2, 3, 8)
    assert torch.equal(layer(x)[0], x)


def test_post_norm_layer_drops_what_attention_adds():
    layer = EncoderLayer(8, 2, 16, dropout=1.0).train()
    x = 3 * torch.randn(2, 3, 8) + 1
    twice = layer.feed_forward_norm(layer.attention_norm(x))  # nothing is added before either norm
    layer.attention.output.bias.data.normal_()
    torch.testing.assert_close(layer(x)[0], twice)


def test_padding_changes_nothing_for_real_tokens():
    encoder, x = Encoder(2, 16, 2, 32).eval(), torch.randn(1, 4, 16)
    padded = torch.cat([x, 100 * torch.randn(1, 3, 16)], dim=1)
    mask = (torch.arange(7) < 4)[None, None, None, :]  # (1, 1, 1, keys)
    torch.testing.assert_close(
        encoder(padded, mask).last_hidden_state[:, :4],
        encoder(x).last_hidden_state,
        atol=1e-5,
        rtol=1e-5,
    )


def test_weights_asked_for_or_not_give_the_same_output():
    encoder, x = Encoder(2, 16, 4, 32).eval(), torch.randn(2, 5, 16)
    plain, full = encoder(x), encoder(x, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(
        plain.last_hidden_state, full.last_hidden_state, atol=1e-5, rtol=1e-5
    )
    assert plain.hidden_states is None and plain.attentions is None
    assert [tuple(state.shape) for state in full.hidden_states] == [(2, 5, 16)] * 3
    assert [tuple(weights.shape) for weights in full.attentions] == [(2, 4, 5, 5)] * 2
    assert torch.equal(full.hidden_states[0], x)
    assert torch.equal(full.hidden_states[-1], full.last_hidden_state)


def test_encoder_without_positions_commutes_with_permutation():
    encoder, x, order = Encoder(2, 16, 2, 32).eval(), torch.randn(1, 6, 16), torch.randperm(6)
    moved = encoder(x[:, order]).last_hidden_state
    torch.testing.assert_close(moved, encoder(x).last_hidden_state[:, order], atol=1e-5, rtol=1e-5)


def test_first_weights_are_berts():
    encoder = Encoder(2, 128, 4, 512)
    for name, parameter in encoder.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float("weight" in name)))
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            assert abs(parameter.mean().item()) < 1e-3
            assert abs(parameter.std().item() - 0.02) < 1e-3


def test_parameters_of_one_bert_base_layer():
    assert encoder_layer_parameters(768, 3072) == 7_087_872
    counted = sum(parameter.numel() for parameter in EncoderLayer(768, 12, 3072).parameters())
    assert counted == 7_087_872


@SETTINGS
@given(heads=st.integers(1, 4), head_width=st.integers(1, 8), wide=st.integers(1, 40))
def test_parameters_by_formula_equal_parameters_counted(heads, head_width, wide):
    layer = EncoderLayer(heads * head_width, heads, wide)
    counted = sum(parameter.numel() for parameter in layer.parameters())
    assert encoder_layer_parameters(heads * head_width, wide) == counted


@SETTINGS
@given(
    heads=st.integers(1, 4), head_width=st.integers(1, 8), wide=st.integers(1, 40),
    tokens=st.integers(1, 12), batch=st.integers(1, 3),
)  # fmt: skip
def test_flops_by_formula_equal_flops_counted(heads, head_width, wide, tokens, batch):
    hidden = heads * head_width
    layer = EncoderLayer(hidden, heads, wide).eval()
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(batch, tokens, hidden), need_weights=True)
    expected = batch * encoder_layer_flops(tokens, hidden, wide)
    assert counter.get_total_flops() == expected


def test_flops_of_a_bert_base_layer_are_two_for_each_weight_and_3072_for_each_pair():
    tokens = 128
    matrices = 4 * 768 * 768 + 2 * 768 * 3072
    assert encoder_layer_flops(tokens, 768, 3072) == 2 * tokens * matrices + 3072 * tokens**2


def test_every_part_is_looked_up_when_the_layer_is_built(monkeypatch):
    class Marked(FeedForward):
        pass

    monkeypatch.setattr(encoder_module, "FeedForward", Marked)
    assert isinstance(EncoderLayer(4, 1, 8).feed_forward, Marked)


def test_the_stack_uses_the_encoder_layer_of_its_module(monkeypatch):
    class Marked(EncoderLayer):
        pass

    monkeypatch.setattr(encoder_module, "EncoderLayer", Marked)
    assert all(isinstance(layer, Marked) for layer in Encoder(2, 4, 1, 8).layers)


def test_all_parameters_get_a_gradient():
    encoder = Encoder(2, 8, 2, 16)
    encoder(torch.randn(2, 3, 8)).last_hidden_state.square().mul(torch.randn(8)).sum().backward()
    missing = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert missing == []


def test_bad_norm_is_named():
    with pytest.raises(ValueError, match='"post"'):
        Encoder(1, 8, 2, 16, norm="middle")
    with pytest.raises(ValueError, match="divi"):
        EncoderLayer(8, 3, 16)
