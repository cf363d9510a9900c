"""Quantization: half a step, zero points, integer products, ranges, gradients, files, kernels."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from course_utils import quantization as qz
from course_utils.bert import BertConfig
from course_utils.data.docs import fast_tokenizer
from course_utils.finetuning import (
    BertForSequenceClassification,
    FineTuning,
    encode,
    fine_tune,
    predict,
    set_dropout,
)
from course_utils.quantization import (
    FakeQuantLinear,
    Int8Linear,
    QuantizedTensor,
    calibrate,
    entropy_range,
    fake_quantize,
    fake_quantize_model,
    from_bytes,
    integer_matmul,
    integer_range,
    linear_names,
    load_quantized,
    minmax_range,
    mse_range,
    mse_shrink,
    observe_inputs,
    percentile_range,
    quantize,
    quantized_matmul,
    requantize,
    round_trip,
    save_quantized,
    scale_and_zero_point,
    to_bytes,
    to_integers,
)

SETTINGS = settings(max_examples=150, deadline=None)
pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:.*deprecated")

normal = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
outlier = st.floats(-(2.0**100), 2.0**100, width=32)
tiny = st.floats(-(2.0**-120), 2.0**-120, width=32)
wide = normal | outlier | tiny | st.just(0.0)


def tensors(shapes=None, elements=wide):
    if shapes is None:
        shapes = arrays.array_shapes(min_dims=1, max_dims=3, max_side=6)
    return arrays.arrays("float32", shapes, elements=elements).map(torch.from_numpy)


def half_a_step(q, extra=1e-5):
    """Half a step, and what float rounding may add to it."""
    return q.scale * (0.5 + extra * 2 ** (q.bits - 1))


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- From float to integers -----------------------------------------------------------------------


@given(tensors(), st.integers(2, 8), st.booleans(), st.data())
@SETTINGS
def test_nothing_is_off_by_more_than_half_a_step(x, bits, symmetric, data):
    axis = data.draw(st.none() | st.integers(-x.dim(), x.dim() - 1))
    q = quantize(x, bits, symmetric, axis)
    smallest, largest = integer_range(bits, symmetric)
    assert q.values.dtype == torch.int8 and q.values.shape == x.shape
    assert smallest <= q.values.min() and q.values.max() <= largest
    assert (q.scale > 0).all() and q.scale.isfinite().all()
    assert ((x - q.dequantize()).abs() <= half_a_step(q)).all()
    if symmetric:
        assert not q.zero_point.any()


@given(tensors(elements=normal | st.just(0.0)), st.booleans())
@SETTINGS
def test_half_a_step_of_sixteen_bits_and_of_float64(x, symmetric):
    q = quantize(x.double(), 16, symmetric)
    assert q.values.dtype == torch.int16 and q.scale.dtype == torch.float64
    assert ((x.double() - q.dequantize()).abs() <= q.scale * (0.5 + 1e-9)).all()


@given(
    outlier.filter(lambda c: c == 0 or abs(c) > 1e-30),
    st.booleans(),
    st.integers(2, 8),
)
@SETTINGS
def test_a_constant_tensor_and_zeros_come_back(constant, symmetric, bits):
    q = quantize(torch.full((3, 4), constant), bits, symmetric)
    torch.testing.assert_close(q.dequantize(), torch.full((3, 4), constant), rtol=1e-6, atol=0)


@given(tensors(), st.booleans(), st.integers(2, 8))
@SETTINGS
def test_zero_is_exact(x, symmetric, bits):
    x.view(-1)[0] = 0.0
    q = quantize(x, bits, symmetric)
    assert q.dequantize().view(-1)[0] == 0
    smallest, largest = integer_range(bits, symmetric)
    assert smallest <= q.zero_point <= largest  # else 0 would be clipped


def test_by_hand():
    x = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    q = quantize(x)
    assert q.scale == pytest.approx(2 / 127) and q.values.tolist() == [-64, 0, 32, 127]
    q = quantize(x, symmetric=False)  # 255 steps for a width of 3
    assert q.scale == pytest.approx(3 / 255) and q.zero_point == -43
    assert q.values.tolist() == [-128, -43, -1, 127]  # 0.5 / scale is 42.5, to the even 42
    assert quantize(x, bits=2).values.tolist() == [0, 0, 0, 1]
    for symmetric in (True, False):
        assert quantize(torch.zeros(3), symmetric=symmetric).scale == 1


def test_numbers_near_the_smallest_float_have_a_scale():
    for x in (torch.tensor([1e-45, -3e-45, 0.0]), torch.tensor([1e-45]), torch.tensor([2e-38])):
        for symmetric in (True, False):
            q = quantize(x, symmetric=symmetric)
            assert q.scale >= torch.finfo(torch.float32).tiny
            assert ((x.double() - q.dequantize().double()).abs() <= q.scale.double() * 0.51).all()


def test_the_full_range_of_float32_does_not_overflow():
    most = torch.finfo(torch.float32).max
    for x in (torch.tensor([-most, 0.0, most]), torch.tensor([most / 3, most])):
        for symmetric in (True, False):
            q = quantize(x, symmetric=symmetric)
            assert q.dequantize().isfinite().all()
            assert ((x.double() - q.dequantize().double()).abs() <= q.scale.double() * 0.51).all()


@pytest.mark.parametrize(
    "axis, shape",
    [(None, ()), (0, (3, 1, 1)), (-1, (1, 1, 5)), (1, (1, 4, 1)), ((0, 1), (3, 4, 1))],
)
def test_scales_have_the_shape_of_the_axes_named(axis, shape):
    x = draw(3, 4, 5)
    q = quantize(x, axis=axis)
    assert q.scale.shape == q.zero_point.shape == shape
    assert q.dequantize().shape == x.shape


def test_a_scale_for_each_row_keeps_an_outlier_in_its_row():
    x = draw(8, 64)
    x[3, 5] = 100.0
    whole, rows = ((x - quantize(x, axis=axis).dequantize()).abs() for axis in (None, 0))
    calm = [i for i in range(8) if i != 3]
    assert whole[calm].mean() > 10 * rows[calm].mean()
    for i in range(8):  # a row's integers are those of the row alone
        assert torch.equal(quantize(x, axis=0).values[i], quantize(x[i]).values)


def test_all_axes_named_give_every_number_its_own_scale():
    x = draw(3, 4)
    torch.testing.assert_close(quantize(x, bits=2, axis=(0, 1)).dequantize(), x)


def test_half_precision_comes_back_in_half_precision():
    for dtype in (torch.float16, torch.bfloat16):
        x = draw(40).to(dtype)
        q = quantize(x)
        assert q.dequantize().dtype == dtype and q.scale.dtype == torch.float32
        assert ((x - q.dequantize()).abs() <= q.scale * 0.5 + x.abs().max() * 2**-8).all()


@pytest.mark.parametrize(
    "wrong, match",
    [
        (torch.tensor([1.0, math.nan]), "NaN or infinity at 1 places"),
        (torch.tensor([math.inf, -math.inf]), "NaN or infinity at 2 places"),
        (torch.empty(0, 3), r"shape \(0, 3\) is empty"),
        (torch.tensor([1, 2]), "int64; only floating point"),
    ],
)
def test_what_has_no_range_is_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        quantize(wrong)
    with pytest.raises(ValueError, match=match):
        percentile_range(wrong)


@pytest.mark.parametrize("bits", [1, 0, -3, 17, 8.0, "8"])
def test_bits_without_a_meaning_are_refused(bits):
    with pytest.raises(ValueError, match="whole number from 2 to 16"):
        quantize(torch.ones(3), bits=bits)


@pytest.mark.parametrize("axis", [2, -3, (0, 2)])
def test_an_axis_that_is_not_there_is_refused(axis):
    with pytest.raises(ValueError, match="the tensor has axes 0 to 1"):
        quantize(torch.ones(3, 3), axis=axis)


def test_a_range_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValueError, match="low must not be larger"):
        scale_and_zero_point(torch.tensor(1.0), torch.tensor(0.5))


def test_the_clamp_comes_before_the_cast():
    x, one, zero = torch.tensor([200.0, -200.0]), torch.tensor(1.0), torch.tensor(0)
    assert to_integers(x, one, zero).tolist() == [127, -127]
    assert to_integers(x, one, zero, symmetric=False).tolist() == [127, -128]


def away_from_ties(x, scale, room=1e-3):
    part = (x.double() / scale.double()) % 1
    return (part - 0.5).abs() > room


@given(tensors(elements=normal), st.booleans())
@SETTINGS
def test_the_integers_are_pytorchs_but_for_ties(x, symmetric):
    q = quantize(x, symmetric=symmetric)
    theirs = torch.quantize_per_tensor(x, q.scale.item(), q.zero_point.item(), torch.qint8)
    gap = (theirs.int_repr().int() - q.values.int()).abs()
    clipped = theirs.int_repr() == -128  # they have one integer more on the left
    assert not gap[away_from_ties(x, q.scale) & ~clipped].any() and (gap <= 1).all()


def test_the_integers_of_each_row_are_pytorchs_but_for_ties():
    x = draw(16, 40)
    q = quantize(x, axis=0)
    scales, zeros = q.scale.flatten().double(), torch.zeros(16, dtype=torch.long)
    theirs = torch.quantize_per_channel(x, scales, zeros, 0, torch.qint8)
    same = theirs.int_repr() == q.values
    assert same[away_from_ties(x, q.scale)].all()


def test_a_tie_is_rounded_to_the_even_integer():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    values = to_integers(x, torch.tensor(1.0), torch.tensor(0))
    assert values.tolist() == [0, 2, 2, 0, -2]


def test_a_shrunk_range_clips_its_ends_and_is_finer_between():
    x = torch.tensor([-4.0, -0.1, 0.1, 4.0])
    whole, half = quantize(x), quantize(x, shrink=0.5)
    assert half.scale == whole.scale / 2 and half.values.tolist()[::3] == [-127, 127]
    torch.testing.assert_close(half.dequantize()[[0, 3]], torch.tensor([-2.0, 2.0]))


def test_bytes_are_packed_integers_and_scales():
    assert quantize(draw(10, 30), bits=8).bytes == 300 + 4
    assert quantize(draw(10, 30), bits=4, axis=0).bytes == 150 + 40
    assert quantize(draw(10, 30), bits=3, axis=0, symmetric=False).bytes == 113 + 50


# --- Products of integers -------------------------------------------------------------------------

int8s = arrays.arrays("int8", st.tuples(st.integers(1, 5), st.just(7))).map(torch.from_numpy)


@given(int8s, int8s, st.integers(-128, 127), st.integers(-128, 127))
@SETTINGS
def test_the_integer_product_takes_zero_points_off(x, weight, x_zero, weight_zero):
    expected = (x.double() - x_zero) @ (weight.double() - weight_zero).T
    found = integer_matmul(x, weight, x_zero, weight_zero)
    assert found.dtype == torch.int32
    assert torch.equal(found.double(), expected)


def test_zero_points_may_differ_row_by_row():
    x, weight = (quantize(draw(n, 9, seed=n), symmetric=False, axis=0) for n in (4, 6))
    expected = (x.values.double() - x.zero_point) @ (weight.values.double() - weight.zero_point).T
    found = integer_matmul(x.values, weight.values, x.zero_point, weight.zero_point)
    assert torch.equal(found.double(), expected)
    torch.testing.assert_close(
        quantized_matmul(x, weight), x.dequantize() @ weight.dequantize().T, atol=1e-4, rtol=1e-4
    )


def test_a_sum_that_int8_could_not_hold_is_whole():
    x = torch.full((2, 1000), -128, dtype=torch.int8)
    assert integer_matmul(x, x).tolist() == [[1000 * 128**2] * 2] * 2


@given(tensors(st.just((4, 12)), normal), tensors(st.just((3, 12)), normal), st.booleans())
@SETTINGS
def test_the_product_is_the_float_product_within_its_bound(x, weight, symmetric):
    """Each factor is off by half its step at most, so a sum of K products is off by no more than
    Σ |x| s_w / 2 + |w| s_x / 2 + s_x s_w / 4."""
    a, b = quantize(x, symmetric=symmetric), quantize(weight, axis=0)
    half_a, half_b = half_a_step(a).double(), half_a_step(b).double().T  # (), (1, 3)
    sizes = x.double().abs().sum(1, keepdim=True), weight.double().abs().sum(1)[None]
    bound = sizes[0] * half_b + sizes[1] * half_a + 12 * half_a * half_b
    error = (quantized_matmul(a, b).double() - x.double() @ weight.double().T).abs()
    assert (error <= bound + 1e-5 * sizes[0] * weight.abs().max()).all()


def test_products_that_can_not_be_formed_are_refused():
    eight = torch.ones(2, 3, dtype=torch.int8)
    with pytest.raises(ValueError, match="torch.float32 and torch.int8; both must be int8"):
        integer_matmul(eight.float(), eight)
    with pytest.raises(ValueError, match=r"x \(2, 3\) and weight \(3, 2\)"):
        integer_matmul(eight, eight.T)
    with pytest.raises(ValueError, match="weight has scales along the axis"):
        quantized_matmul(quantize(draw(2, 3)), quantize(draw(2, 3), axis=1))


def test_sums_are_brought_to_the_next_layers_scale():
    sums = torch.tensor([1000, -1000, 100_000, 5], dtype=torch.int32)
    found = requantize(sums, 0.05, zero_point=10)
    assert found.dtype == torch.int8 and found.tolist() == [60, -40, 127, 10]


# --- Which range ----------------------------------------------------------------------------------


def test_percentiles_cut_both_ends_and_a_hundred_is_min_max():
    values = torch.arange(-1000.0, 3001.0)
    assert percentile_range(values, 100) == minmax_range(values) == (-1000, 3000)
    low, high = percentile_range(values, 99)
    assert (low, high) == (pytest.approx(-960), pytest.approx(2960))
    assert percentile_range(values.clamp(min=5), 99)[0] == 0  # 0 stays in the range
    for wrong in (50, 100.1, -1):
        with pytest.raises(ValueError, match="above 50, and at most 100"):
            percentile_range(values, wrong)


@pytest.mark.parametrize("method, bits", [("percentile", 8), ("entropy", 8), ("mse", 4)])
def test_an_outlier_is_clipped_and_the_rest_gets_finer(method, bits):
    values = torch.cat([draw(20_000), torch.tensor([60.0])])
    low, high = calibrate({"a": values}, method, bits)["a"]
    assert -6 < low <= -0.1 and 2 <= high < 30
    assert minmax_range(values)[1] == 60


def test_mse_range_beats_min_max_at_few_bits_and_keeps_an_even_distribution():
    values = draw(5000)

    def error(range_):
        where = scale_and_zero_point(*map(torch.tensor, range_), bits=4, symmetric=False)
        return (values - round_trip(values, *where, bits=4, symmetric=False)[1]).pow(2).mean()

    assert error(mse_range(values, 4)) < 0.8 * error(minmax_range(values))
    even = torch.linspace(-1, 1, 4001)
    assert mse_range(even, 8) == pytest.approx((-1, 1), abs=0.03)


def test_entropy_keeps_what_is_evenly_spread_and_a_one_sided_range():
    even = torch.linspace(-1, 1, 40_001)
    low, high = entropy_range(even)
    assert low < -0.9 and high > 0.9
    assert entropy_range(draw(4000).abs())[0] == 0
    assert entropy_range(torch.zeros(5)) == (0, 0)


def test_shrinking_row_by_row_never_loses_and_wins_at_two_bits():
    weight = draw(6, 200)
    shrink = mse_shrink(weight, bits=2, axis=0)
    assert shrink.shape == (6, 1) and (shrink < 0.8).all()
    errors = [
        (weight - quantize(weight, 2, axis=0, shrink=s).dequantize()).pow(2).mean(1)
        for s in (1.0, shrink)
    ]
    assert (errors[1] < 0.5 * errors[0]).all()


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="no method 'max'; take one of min-max, percentile"):
        calibrate({}, "max")


# --- Fake quantization ----------------------------------------------------------------------------


@given(tensors(elements=normal), st.booleans(), st.integers(2, 8), st.floats(0.1, 1.0))
@SETTINGS
def test_fake_quantization_is_a_round_trip(x, symmetric, bits, shrink):
    q = quantize(x, bits, symmetric, shrink=shrink)
    found = fake_quantize(x, q.scale, q.zero_point, bits, symmetric)
    torch.testing.assert_close(found, q.dequantize(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_gradient_passes_inside_the_range_and_stops_outside(symmetric):
    x = torch.linspace(-3, 3, 101, requires_grad=True)
    low, high = torch.tensor(-1.0), torch.tensor(2.0)
    where = scale_and_zero_point(low, high, 4, symmetric)
    fake_quantize(x, *where, 4, symmetric).sum().backward()
    theirs = torch.linspace(-3, 3, 101, requires_grad=True)
    torch.fake_quantize_per_tensor_affine(
        theirs, where[0].item(), where[1].item(), *integer_range(4, symmetric)
    ).sum().backward()
    assert torch.equal(x.grad, theirs.grad)
    assert set(x.grad.tolist()) == {0.0, 1.0}


def test_scales_get_no_gradient():
    scale = torch.tensor(0.1, requires_grad=True)
    x = draw(5).requires_grad_()
    fake_quantize(x, scale, torch.tensor(0)).sum().backward()
    assert scale.grad is None and x.grad is not None


def test_a_fake_layer_computes_what_the_integers_compute():
    linear = nn.Linear(24, 10)
    linear.weight.data, x = draw(10, 24, seed=1), draw(5, 24, seed=2)
    layer = FakeQuantLinear(linear, input_bits=8)
    by_integers = quantized_matmul(quantize(x, symmetric=False), layer.integers()) + linear.bias
    torch.testing.assert_close(layer(x), by_integers, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("per, groups", [("tensor", 1), ("row", 10), (6, 40)])
def test_a_scale_for_each_tensor_row_or_group(per, groups):
    linear = nn.Linear(24, 10)
    layer = FakeQuantLinear(linear, 4, per)
    q = layer.integers()
    assert q.scale.numel() == groups and q.values.numel() == 240
    torch.testing.assert_close(layer.quantized_weight(), q.dequantize().view(10, 24))
    assert layer.quantized_weight().unique().numel() <= 15 * groups


def test_groups_that_do_not_divide_a_row_are_refused():
    for wrong in (7, 0, "column"):
        with pytest.raises(ValueError, match='"tensor", "row", or a divisor of 24'):
            FakeQuantLinear(nn.Linear(24, 10), 4, wrong)


def test_a_static_range_clips_and_a_dynamic_one_follows():
    linear = nn.Linear(4, 4, bias=False)
    linear.weight.data = torch.eye(4)
    x = torch.tensor([[5.0, 1.0, 0.0, -1.0]])
    static = FakeQuantLinear(linear, None, input_bits=8, input_range=(-1.0, 1.0))
    dynamic = FakeQuantLinear(linear, None, input_bits=8)
    torch.testing.assert_close(static(x), x.clamp(-1, 1), atol=0.01, rtol=0)
    torch.testing.assert_close(dynamic(x), x, atol=0.02, rtol=0)


# --- Models ---------------------------------------------------------------------------------------

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
CONFIG = BertConfig(
    vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=32, max_position_embeddings=12, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)  # fmt: skip
TEXTS = ["a b", "c", "d d a b", "b a c d", "a", "c c"]
NAMES = linear_names(BertForSequenceClassification(CONFIG, ["x", "y"]))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in PIECES), encoding="utf-8")
    return fast_tokenizer(path)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = BertForSequenceClassification(CONFIG, ["x", "y"])
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def test_a_model_is_copied_and_its_layers_replaced(model, tokenizer):
    features = encode(tokenizer, TEXTS)
    before = predict(model, features)
    small = fake_quantize_model(model, weight_bits=2, input_bits=2, embedding_bits=2)
    assert linear_names(small) == NAMES and len(NAMES) == 14
    assert not any(isinstance(part, nn.Linear) for part in small.modules())
    assert (predict(small, features) - before).abs().max() > 0.1
    assert torch.equal(predict(model, features), before)
    nothing = fake_quantize_model(model, weight_bits=None)
    assert torch.equal(predict(nothing, features), before)
    assert predict(fake_quantize_model(model, 16), features).allclose(before, atol=1e-2)


def test_only_the_named_layers_are_replaced(model):
    small = fake_quantize_model(model, names=NAMES[:2])
    kinds = {name: type(small.get_submodule(name)) for name in NAMES}
    assert [name for name, kind in kinds.items() if kind is FakeQuantLinear] == NAMES[:2]
    with pytest.raises(ValueError, match="'bert.pooler' is no linear layer"):
        fake_quantize_model(model, names=["bert.pooler"])


def test_embedding_tables_are_rounded_row_by_row(model):
    small = fake_quantize_model(model, None, embedding_bits=3)
    table, before = small.bert.embeddings.token.weight, model.bert.embeddings.token.weight
    assert all(len(row.unique()) <= 7 for row in table)
    assert torch.equal(table, quantize(before, 3, axis=0).dequantize())


def test_inputs_are_seen_without_padding_and_in_eval_mode(model, tokenizer):
    features = encode(tokenizer, TEXTS)
    pieces = sum(len(one["input_ids"]) for one in features)
    set_dropout(model, 0.5).train()
    seen = observe_inputs(model, features)
    assert torch.equal(seen["classifier"], observe_inputs(model, features)["classifier"])
    assert model.training and not model.bert.pooler.dense._forward_pre_hooks
    assert list(seen) == NAMES
    assert len(seen[NAMES[0]]) == pieces * 16
    assert len(seen["bert.encoder.layers.0.feed_forward.contract"]) == pieces * 32
    assert len(seen["classifier"]) == len(TEXTS) * 16
    assert torch.equal(seen[NAMES[0]], observe_inputs(model, features, NAMES[:1])[NAMES[0]])
    with pytest.raises(ValueError, match="no calibration texts"):
        observe_inputs(model, [])


def test_static_ranges_from_the_same_texts_change_little(model, tokenizer):
    features = encode(tokenizer, TEXTS)
    before = predict(model, features)
    ranges = calibrate(observe_inputs(model, features))
    static = fake_quantize_model(model, 8, input_bits=8, ranges=ranges)
    assert static.classifier.input_range == ranges["classifier"]
    torch.testing.assert_close(predict(static, features), before, atol=0.15, rtol=0)
    halves = {name: (low / 2, high / 2) for name, (low, high) in ranges.items()}
    clipped = fake_quantize_model(model, 8, input_bits=8, ranges=halves)
    errors = [(predict(one, features) - before).abs().max() for one in (static, clipped)]
    assert errors[1] > 5 * errors[0]
    with pytest.raises(ValueError, match="no range for 'classifier'"):
        fake_quantize_model(model, 8, 8, {n: r for n, r in ranges.items() if n != "classifier"})


def test_a_quantized_model_can_be_trained(model, tokenizer):
    """Rounding has no slope; without the straight-through estimator nothing would move."""
    features = encode(tokenizer, TEXTS, labels=[0, 1, 0, 1, 0, 1])
    small = fake_quantize_model(model, weight_bits=2, input_bits=8)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    recipe = FineTuning(epochs=30, batch_size=6, learning_rate=1e-2, frozen_layers=None)
    history = fine_tune(small, features, recipe, progress=False)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    weight = small.bert.encoder.layers[0].feed_forward.expand
    name = "bert.encoder.layers.0.feed_forward.expand.weight"
    assert not torch.equal(before[name], weight.weight)
    assert weight.quantized_weight().detach()[0].unique().numel() <= 3


# --- On disk, and on the integer kernel -----------------------------------------------------------


@given(st.integers(2, 8), st.data())
@SETTINGS
def test_packed_integers_come_back(bits, data):
    smallest, largest = integer_range(bits, symmetric=False)
    shape = data.draw(arrays.array_shapes(max_dims=3, max_side=7))
    values = data.draw(arrays.arrays("int8", shape, elements=st.integers(smallest, largest)))
    values = torch.from_numpy(values)
    packed = to_bytes(values, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == math.ceil(values.numel() * bits / 8)
    assert torch.equal(from_bytes(packed, bits, values.shape), values)


def test_a_long_row_of_bits_is_read_in_parts():
    values = torch.randint(-3, 4, (700_001,), generator=torch.Generator().manual_seed(0))
    values = values.to(torch.int8)
    for bits in (3, 8):
        assert torch.equal(from_bytes(to_bytes(values, bits), bits, values.shape), values)


def test_what_does_not_fit_is_not_packed():
    with pytest.raises(ValueError, match="outside -2 to 1: 2 bits"):
        to_bytes(torch.tensor([2], dtype=torch.int8), 2)
    with pytest.raises(ValueError, match="integers of 2 to 8 bits"):
        to_bytes(torch.tensor([2]), 16)


def test_the_kernel_computes_with_our_integers():
    linear = nn.Linear(64, 32)
    layer = Int8Linear(FakeQuantLinear(linear).integers(), linear.bias)
    x = draw(7, 64)
    seven = quantize(x, 7, symmetric=False)  # reduce_range reads 7 bits
    expected = F.linear(seven.dequantize(), FakeQuantLinear(linear).quantized_weight(), linear.bias)
    torch.testing.assert_close(layer(x), expected, atol=0.02, rtol=0)
    assert (layer(x) - linear(x)).abs().max() < 0.1


def test_seven_bits_never_saturate():
    """All inputs and all weights at their largest: the worst that pairs of products can be."""
    weight = quantize(torch.ones(8, 512), axis=0)
    layer = Int8Linear(weight, None)
    torch.testing.assert_close(layer(torch.ones(3, 512)), torch.full((3, 8), 512.0))


def test_the_kernel_takes_symmetric_int8_matrices_only():
    for wrong in (
        quantize(draw(4, 4), symmetric=False),
        quantize(draw(4)),
        quantize(draw(4, 4), 16),
    ):
        with pytest.raises(ValueError, match="symmetric int8 matrix"):
            Int8Linear(wrong, None)


def test_it_is_what_pytorchs_own_quantization_makes():
    linear = nn.Linear(48, 20)
    config = {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
    theirs = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), config)
    ours = Int8Linear(quantize(linear.weight.detach(), axis=0), linear.bias)
    x = draw(9, 48)
    torch.testing.assert_close(ours(x), theirs(x), atol=0.02, rtol=0)


@pytest.mark.parametrize("bits, per", [(8, "row"), (8, "tensor"), (4, 8), (3, "row"), (2, 8)])
def test_a_saved_model_answers_as_the_fake_one(bits, per, model, tokenizer, tmp_path):
    small = fake_quantize_model(model, bits, embedding_bits=8, per=per, clip=bits < 4)
    save_quantized(small, tokenizer, tmp_path)
    found = load_quantized(tmp_path)
    assert found.labels == ["x", "y"]
    room = 0.15 if bits == 8 else 1e-4  # the kernel reads 7 bits
    torch.testing.assert_close(
        found.logits(TEXTS), predict(small, encode(tokenizer, TEXTS)), atol=room, rtol=0
    )
    kinds = {type(part) for part in found.model.modules()}
    assert (Int8Linear in kinds) == (bits == 8)
    assert nn.Embedding not in kinds


def test_the_file_holds_the_bits_and_nothing_twice(model, tokenizer, tmp_path):
    small = fake_quantize_model(model, 4, per="row")
    path = save_quantized(small, tokenizer, tmp_path)
    about = json.loads((tmp_path / qz.ABOUT).read_text())["packed"]
    assert about["classifier"] == {"bits": 4, "shape": [2, 16]}
    linear = sum(part.integers().bytes for part in small.modules() if hasattr(part, "integers"))
    tables = [p.weight for p in small.modules() if isinstance(p, nn.Embedding)]
    tables = sum(table.numel() + 4 * len(table) for table in tables)
    packed = {f"{name}.weight" for name in about}
    rest = sum(4 * t.numel() for n, t in small.state_dict().items() if n not in packed)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == header + linear + tables + rest


def test_tables_may_stay_in_float(model, tokenizer, tmp_path):
    small = fake_quantize_model(model, 8)
    save_quantized(small, tokenizer, tmp_path, embedding_bits=None)
    found = load_quantized(tmp_path).model
    assert torch.equal(found.bert.embeddings.token.weight, model.bert.embeddings.token.weight)


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no quantized.safetensors"):
        load_quantized(tmp_path)


def test_a_quantized_tensor_says_what_it_is():
    q = QuantizedTensor(torch.tensor([3], dtype=torch.int8), torch.tensor(0.5), torch.tensor(1))
    assert q.dequantize().tolist() == [1.0]
