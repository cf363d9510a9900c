"""Lesson 01's attention: equal to PyTorch's, and true to what the lesson says about it."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import attention
from course_utils.attention import (
    MultiHeadAttention,
    attention_scores,
    causal_mask,
    fused_attention,
    merge_heads,
    padding_mask,
    scaled_dot_product_attention,
    sliding_window_mask,
    split_heads,
)

sizes = st.integers(min_value=1, max_value=6)
seeds = st.integers(min_value=0, max_value=10_000)


def draw(seed, *shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]


def draw_mask(seed, *shape):
    """A random mask in which every row has at least one True."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(*shape, generator=generator) < 0.5
    mask[..., 0] |= ~mask.any(-1)
    return mask


# ---- parity with PyTorch -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seeds, sizes, sizes, sizes, sizes, sizes, st.sampled_from(["none", "full", "padding", "causal"])
)
def test_equals_pytorchs_scaled_dot_product_attention(seed, batch, heads, queries, keys, d_k, kind):
    query, key, value = draw(seed, (batch, heads, queries, d_k), *[(batch, heads, keys, d_k)] * 2)
    if kind == "causal":
        key, value, keys = key[:, :, :1].expand(-1, -1, queries, -1), query * 2, queries
    mask = {
        "none": None,
        "full": draw_mask(seed, batch, heads, queries, keys),
        "padding": draw_mask(seed, batch, 1, 1, keys),
        "causal": causal_mask(queries),
    }[kind]
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    output, weights = scaled_dot_product_attention(query, key, value, mask)
    assert weights.shape == (batch, heads, queries, keys)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        fused_attention(query, key, value, mask), expected, atol=1e-5, rtol=1e-5
    )


def copy_of_torchs(ours, hidden_size, heads):
    theirs = torch.nn.MultiheadAttention(hidden_size, heads, batch_first=True).eval()
    with torch.no_grad():
        parts = [ours.query, ours.key, ours.value]
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    return theirs


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, sizes, sizes, sizes, st.sampled_from([1, 2, 3, 5]), st.booleans())
def test_equals_pytorchs_multihead_attention(seed, batch, heads, queries, keys, d_k, masked):
    torch.manual_seed(seed)
    hidden = heads * d_k
    ours = MultiHeadAttention(hidden, heads)
    theirs = copy_of_torchs(ours, hidden, heads)
    query, key, value = draw(seed, (batch, queries, hidden), *[(batch, keys, hidden)] * 2)
    tokens = draw_mask(seed, batch, keys) if masked else None
    expected, expected_weights = theirs(
        query,
        key,
        value,
        key_padding_mask=None if tokens is None else ~tokens,  # PyTorch: True = ignore
        average_attn_weights=False,
    )
    mask = None if tokens is None else padding_mask(tokens)
    output, weights = ours(query, key, value, mask)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights, expected_weights, atol=1e-5, rtol=1e-5)
    fused, none = ours(query, key, value, mask, need_weights=False)
    assert none is None
    torch.testing.assert_close(fused, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seeds, sizes, sizes, sizes)
def test_gradients_equal_pytorchs(seed, heads, queries, keys):
    query, key, value = draw(seed, (2, heads, queries, 4), *[(2, heads, keys, 4)] * 2)
    mask = draw_mask(seed, 2, heads, queries, keys)
    inputs = [t.requires_grad_() for t in (query, key, value)]
    ours = torch.autograd.grad(
        scaled_dot_product_attention(*inputs, mask)[0].square().sum(), inputs
    )
    fused = torch.autograd.grad(fused_attention(*inputs, mask).square().sum(), inputs)
    theirs = torch.autograd.grad(
        F.scaled_dot_product_attention(*inputs, attn_mask=mask).square().sum(), inputs
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fused, theirs, atol=1e-5, rtol=1e-4)


# ---- scaling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("d_k", [1, 4, 64, 512])
def test_scores_of_unit_gaussians_have_unit_variance(d_k):
    query, key = draw(0, (20_000, 1, d_k), (20_000, 1, d_k))
    assert attention_scores(query, key).std().item() == pytest.approx(1.0, abs=0.05)


def test_scores_are_scaled_by_the_width_of_a_head_not_of_the_layer():
    query, key = draw(0, (1, 4, 3, 8), (1, 4, 5, 8))
    expected = torch.einsum("bhqd,bhkd->bhqk", query, key) / 8**0.5
    torch.testing.assert_close(attention_scores(query, key), expected)


# ---- masks -------------------------------------------------------------------------------------


def test_weights_of_a_row_sum_to_one():
    query, key, value = draw(1, (2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 8))
    _, weights = scaled_dot_product_attention(query, key, value, draw_mask(1, 2, 3, 4, 5))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 4))


def test_padding_never_receives_attention():
    query, key, value = draw(2, (2, 3, 4, 8), (2, 3, 4, 8), (2, 3, 4, 8))
    mask = padding_mask(torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]))
    output, weights = scaled_dot_product_attention(query, key, value, mask)
    assert (weights[0, :, :, 2:] == 0).all()
    changed = value.clone()
    changed[0, :, 2:] = 1e6
    again, _ = scaled_dot_product_attention(query, key, changed, mask)
    assert torch.equal(again, output)


def test_causal_mask_keeps_the_future_out():
    query, key, value = draw(3, (1, 2, 6, 4), (1, 2, 6, 4), (1, 2, 6, 4))
    before, _ = scaled_dot_product_attention(query, key, value, causal_mask(6))
    key[:, :, 4:], value[:, :, 4:] = 9.0, 9.0
    after, _ = scaled_dot_product_attention(query, key, value, causal_mask(6))
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.equal(before[:, :, 4:], after[:, :, 4:])


def test_causal_mask_sees_itself_and_what_came_before():
    x, o = True, False
    assert causal_mask(3).tolist() == [[x, o, o], [x, x, o], [x, x, x]]


def test_sliding_window_counts():
    mask = sliding_window_mask(7, 2)
    assert mask.sum(-1).tolist() == [3, 4, 5, 5, 5, 4, 3]
    assert torch.equal(mask, mask.T)
    assert torch.equal(sliding_window_mask(5, 0), torch.eye(5, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize(
    "attend", [lambda *a: scaled_dot_product_attention(*a)[0], fused_attention]
)
def test_a_row_with_nothing_to_see_gives_zeros_and_no_nan(attend, dtype):
    inputs = [
        t.to(dtype).requires_grad_() for t in draw(4, (2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4))
    ]
    mask = draw_mask(4, 2, 1, 3, 5)
    mask[0, 0, 1] = False
    output = attend(*inputs, mask)
    assert (output[0, :, 1] == 0).all()
    assert (output[1, :, 1] != 0).any()
    for gradient in torch.autograd.grad(output.sum(), inputs):
        assert gradient.isfinite().all()


def test_a_row_with_nothing_to_see_has_zero_weights():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anomalies = torch.autograd.detect_anomaly(check_nan=True)  # it warns that it is slow
    with anomalies:
        query, key, value = (t.requires_grad_() for t in draw(5, *[(1, 1, 3, 4)] * 3))
        mask = padding_mask(torch.zeros(1, 3, dtype=torch.long))
        _, weights = scaled_dot_product_attention(query, key, value, mask)
        assert torch.equal(weights, torch.zeros(1, 1, 3, 3))
        (weights.sum() + 1).backward()


def test_a_wholly_padded_text_leaves_the_layer_finite():
    layer = MultiHeadAttention(8, 2)
    (x,) = draw(6, (2, 3, 8))
    mask = padding_mask(torch.tensor([[1, 1, 0], [0, 0, 0]]))
    for need_weights in (True, False):
        output, _ = layer(x, x, x, mask, need_weights)
        torch.testing.assert_close(output[1], layer.output.bias.expand(3, 8))


@pytest.mark.parametrize(
    "mask, words",
    [
        (torch.ones(2, 1, 1, 5), "boolean"),
        (torch.ones(2, 1, 1, 5, dtype=torch.long), "boolean"),
        (torch.ones(2, 5, dtype=torch.bool), "does not broadcast"),
        (torch.ones(2, 1, 5, 1, dtype=torch.bool), "does not broadcast"),
        (torch.ones(3, 2, 4, 3, 5, dtype=torch.bool), "does not broadcast"),
        (torch.ones(1, 2, 4, 3, 5, dtype=torch.bool), "does not broadcast"),
    ],
)
def test_bad_masks_are_refused_in_one_line(mask, words):
    query, key, value = draw(7, (2, 4, 3, 8), (2, 4, 5, 8), (2, 4, 5, 8))
    for attend in (scaled_dot_product_attention, fused_attention):
        with pytest.raises(ValueError, match=words) as error:
            attend(query, key, value, mask)
        assert "\n" not in str(error.value)


def test_bad_sizes_are_refused_in_one_line():
    with pytest.raises(ValueError, match="same last size"):
        attention_scores(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="do not divide"):
        MultiHeadAttention(10, 3)
    with pytest.raises(ValueError, match="do not divide"):
        split_heads(torch.ones(1, 2, 10), 3)
    with pytest.raises(ValueError, match="batch, keys"):
        padding_mask(torch.ones(2, 3))
    with pytest.raises(ValueError, match="window"):
        sliding_window_mask(4, -1)


# ---- heads -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seeds, sizes, sizes, sizes, sizes)
def test_merge_undoes_split(seed, batch, length, heads, d_k):
    (hidden,) = draw(seed, (batch, length, heads * d_k))
    split = split_heads(hidden, heads)
    assert split.shape == (batch, heads, length, d_k)
    assert torch.equal(
        split[:, heads - 1], hidden[:, :, -d_k:]
    )  # the last head has the last features
    assert torch.equal(merge_heads(split), hidden)


def test_number_of_parameters_does_not_depend_on_the_heads():
    counts = {
        heads: sum(p.numel() for p in MultiHeadAttention(24, heads).parameters())
        for heads in (1, 2, 12, 24)
    }
    assert set(counts.values()) == {4 * 24 * 25}


def test_parameters_have_the_names_that_later_lessons_load():
    names = {name for name, _ in MultiHeadAttention(8, 2).named_parameters()}
    parts = ("query", "key", "value", "output")
    assert names == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def test_attention_without_positions_is_equivariant_to_permutation():
    layer = MultiHeadAttention(12, 3).double()
    (x,) = draw(8, (2, 7, 12), dtype=torch.float64)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        layer(x[:, order], x[:, order], x[:, order])[0], layer(x, x, x)[0][:, order]
    )


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    layer = MultiHeadAttention(16, 4, dropout=0.5)
    (x,) = draw(9, (1, 8, 16))
    plain, _ = layer.eval()(x, x, x)
    for need_weights in (True, False):
        assert not torch.allclose(layer.train()(x, x, x, None, need_weights)[0], plain)
        torch.testing.assert_close(layer.eval()(x, x, x, None, need_weights)[0], plain)
    _, weights = layer.train()(x, x, x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 8))  # returned before dropout


def test_multi_head_attention_uses_the_modules_own_blocks(monkeypatch):
    """`use_mine()` swaps a block by its name in the module: the class must look it up there."""
    called = []

    def spy(query, key, value, mask=None):
        called.append(query.shape)
        return value, torch.zeros(*query.shape[:-1], key.size(-2))

    monkeypatch.setattr(attention, "scaled_dot_product_attention", spy)
    MultiHeadAttention(8, 2)(*[torch.ones(1, 3, 8)] * 3)
    assert called == [(1, 2, 3, 4)]
