"""Lesson 11, quantization: its exercises, their known mistakes, and its claims."""

import numpy as np
import torch

from course_utils import quantization
from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise
from course_utils.quantization import integer_range


def _draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _refusal(call):
    """The name of the error that a call raises, or "no error"."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "no error"


# --- quantization/zero-point ----------------------------------------------------------------------


def scale_and_zero_point_stub(low, high, bits=8, symmetric=True):
    """→ (scale, zero_point), tensors of the shape of low and high; zero_point is int32

    The range from low to high is first widened so as to hold 0. Symmetric: integers from
    −(2^(bits−1) − 1) to 2^(bits−1) − 1, the larger end falls on the last one, zero_point 0. Affine:
    integers from −2^(bits−1) to 2^(bits−1) − 1, low falls on the first one and high on the last,
    zero_point is the (rounded) integer of 0. A range without a width gets scale 1. ValueError for
    low > high.
    """
    raise NotImplementedError("your turn")


def _zp_case(low, high, **more):
    def run(implementation):
        scale, zero_point = implementation(torch.tensor(low), torch.tensor(high), **more)
        return {"scale": scale.float(), "zero point": zero_point.double()}

    return run


def _zp_dtype(implementation):
    return str(implementation(torch.tensor(-1.0), torch.tensor(3.0), 8, False)[1].dtype)


def _zp_refused(implementation):
    return _refusal(lambda: implementation(torch.tensor(1.0), torch.tensor(0.5), 8, False))


def _zp(
    low,
    high,
    bits=8,
    symmetric=True,
    *,
    widen=True,
    steps=lambda smallest, largest: largest - smallest,
    half=lambda low, high: torch.maximum(-low, high),
    largest_of=lambda largest: largest,
    zero=lambda smallest, low, scale: smallest - (low / scale).round(),
    empty=1.0,
    checked=True,
    dtype=torch.int32,
):
    """The reference in parts, one of which each known mistake changes."""
    if checked and (low > high).any():
        raise ValueError("low > high")
    smallest, largest = integer_range(bits, symmetric)
    if widen:
        low, high = low.clamp(max=0), high.clamp(min=0)
    if symmetric:
        scale = half(low, high) / largest_of(largest)
    else:
        scale = (high - low) / steps(smallest, largest)
    scale = torch.where(high > low, scale, torch.full_like(scale, empty))
    zero_point = torch.zeros_like(scale) if symmetric else zero(smallest, low, scale)
    return scale, zero_point.to(dtype)


def _zp_wrong(**switches):
    def scale_and_zero_point(low, high, bits=8, symmetric=True):
        return _zp(low, high, bits, symmetric, **switches)

    return scale_and_zero_point


ZERO_POINT = Exercise(
    id="quantization/zero-point",
    lesson="11",
    title="Scale and zero point",
    difficulty=2,
    minutes=12,
    reference=quantization.scale_and_zero_point,
    stub=scale_and_zero_point_stub,
    cases=[
        Case("symmetric, −1 to 2", _zp_case(-1.0, 2.0)),
        Case("symmetric, −3 to 2, 4 bits", _zp_case(-3.0, 2.0, bits=4)),
        Case("affine, −1 to 3", _zp_case(-1.0, 3.0, symmetric=False)),
        Case("affine, −1 to 3, 4 bits", _zp_case(-1.0, 3.0, bits=4, symmetric=False)),
        Case("affine, nothing below 0", _zp_case(2.0, 5.0, symmetric=False)),
        Case("affine, nothing above 0", _zp_case(-5.0, -2.0, symmetric=False)),
        Case(
            "several ranges at once",
            _zp_case([-1.0, 0.0, -0.3], [1.0, 7.0, 0.1], bits=3, symmetric=False),
        ),
        Case("no width, affine", _zp_case(0.0, 0.0, symmetric=False)),
        Case("no width, symmetric", _zp_case(0.0, 0.0)),
        Case("the zero point's dtype", _zp_dtype),
        Case("low above high", _zp_refused),
    ],
    hints=[
        "Eight bits are 256 integers, and between 256 integers there are 255 steps. How wide is "
        "the range, and how wide is a step?",
        "Affine: low must fall on −128, so low / scale + zero_point = −128. Solve for zero_point "
        "and round it. Symmetric: max(−low, high) must fall on 127.",
        "low.clamp(max=0) and high.clamp(min=0) widen the range; torch.where(high > low, scale, "
        "torch.ones_like(scale)) is for a range without a width.",
    ],
    mistakes=[
        Mistake(
            _zp_wrong(widen=False),
            "The range does not hold 0 where all numbers lie on one side of it. Then the integer "
            "of 0 lies outside, and padding is no longer exact. Widen the range first.",
        ),
        Mistake(
            _zp_wrong(zero=lambda smallest, low, scale: torch.zeros_like(scale)),
            "A zero point of 0 for an affine range: what lies beyond 127 steps is clipped, and the "
            "integers on the other side are never used.",
        ),
        Mistake(
            _zp_wrong(steps=lambda smallest, largest: largest - smallest + 1),
            "You divide by the number of integers. Between 256 integers there are 255 steps.",
        ),
        Mistake(
            _zp_wrong(half=lambda low, high: (high - low) / 2),
            "Symmetric, you take half the width of the range. Its larger end is then clipped: take "
            "the larger of −low and high.",
        ),
        Mistake(
            _zp_wrong(half=lambda low, high: high),
            "Symmetric, you look at the upper end alone; the lower one may be farther from 0.",
        ),
        Mistake(
            _zp_wrong(largest_of=lambda largest: largest + 1),
            "Symmetric, the larger end falls on 128, which 8 bits do not have. Divide by 127.",
        ),
        Mistake(
            _zp_wrong(zero=lambda smallest, low, scale: smallest - (low / scale).floor()),
            "The zero point is rounded down; take the nearest integer.",
        ),
        Mistake(
            _zp_wrong(zero=lambda smallest, low, scale: smallest + (low / scale).round()),
            "The zero point has the wrong sign: low lies below 0, so 0 lies above the first "
            "integer: subtract low / scale.",
        ),
        Mistake(
            _zp_wrong(zero=lambda smallest, low, scale: -(low / scale).round()),
            "That is the zero point for integers from 0 to 255. Here they begin at −128.",
        ),
        Mistake(
            _zp_wrong(empty=0.0),
            "A range without a width gives a scale of 0, and dividing by it NaN. Give it scale 1.",
        ),
        Mistake(
            _zp_wrong(dtype=torch.float32),
            "The numbers are right, but the zero point is a float. It is an integer: int32.",
        ),
        Mistake(
            _zp_wrong(checked=False),
            "The numbers are right; a range that ends before it begins goes through. Raise "
            "ValueError.",
        ),
    ],
)

# --- quantization/quantize ------------------------------------------------------------------------


def round_trip_stub(tensor, scale, zero_point, bits=8, symmetric=True):
    """→ (values, back): the integers, int8, and what they stand for, in the dtype of scale

    scale and zero_point can be broadcast to the tensor. Divide by the scale, round (a half to the
    even integer, as torch.round does), add the zero point, clamp to integer_range(bits, symmetric),
    cast. Then back: the distance from the zero point, times the scale.
    """
    raise NotImplementedError("your turn")


def _qu_case(values, scale, zero_point=0, dtype=torch.float32, **more):
    def run(implementation):
        found = implementation(
            torch.tensor(values, dtype=dtype),
            torch.tensor(scale, dtype=dtype),
            torch.tensor(zero_point, dtype=torch.int32),
            **more,
        )
        return list(found)

    return run


def _qu_rows(implementation):
    scale = torch.tensor([[0.5], [0.01]])
    zero_point = torch.tensor([[4], [-100]], dtype=torch.int32)
    return list(implementation(_draw(0, 2, 6), scale, zero_point, 8, False))


def _qu(
    tensor,
    scale,
    zero_point,
    bits=8,
    symmetric=True,
    *,
    rounded=torch.round,
    added=True,
    ends=integer_range,
    clamp_first=True,
    back=lambda values, scale, zero_point: (values.to(scale.dtype) - zero_point) * scale,
):
    smallest, largest = ends(bits, symmetric)
    integers = rounded(tensor / scale) + (zero_point if added else 0)
    if clamp_first:
        values = integers.clamp(smallest, largest).to(torch.int8)
    else:
        values = integers.to(torch.int32).to(torch.int8).clamp(smallest, largest)
    return values, back(values, scale, zero_point)


def _qu_wrong(**switches):
    def round_trip(tensor, scale, zero_point, bits=8, symmetric=True):
        return _qu(tensor, scale, zero_point, bits, symmetric, **switches)

    return round_trip


def _qu_unrounded(tensor, scale, zero_point, bits=8, symmetric=True):
    values, _ = _qu(tensor, scale, zero_point, bits, symmetric)
    smallest, largest = integer_range(bits, symmetric)
    back = (tensor / scale + zero_point).clamp(smallest, largest) - zero_point
    return values, back * scale


QUANTIZE = Exercise(
    id="quantization/quantize",
    lesson="11",
    title="To integers and back",
    difficulty=1,
    minutes=8,
    reference=quantization.round_trip,
    stub=round_trip_stub,
    cases=[
        Case("a few numbers, symmetric", _qu_case([-1.0, -0.3, 0.0, 0.26, 0.99], 0.01)),
        Case("halves", _qu_case([0.5, 1.5, 2.5, -0.5, -1.5], 1.0)),
        Case("beyond both ends", _qu_case([200.0, -200.0, 130.0, -129.0], 1.0)),
        Case(
            "beyond both ends, affine",
            _qu_case([200.0, -200.0, 130.0, -129.0], 1.0, symmetric=False),
        ),
        Case("a zero point", _qu_case([-0.9, 0.0, 0.4, 2.1, 9.0], 0.0123, -52, symmetric=False)),
        Case(
            "a zero point far from 127",
            _qu_case([0.0, 1.1, 2.4], 0.01, -120, symmetric=False),
        ),
        Case("4 bits", _qu_case([-3.0, -0.7, 0.2, 0.9, 5.0], 0.1, bits=4)),
        Case("a scale and a zero point for each row", _qu_rows),
        Case("float64", _qu_case([0.1, -0.7], 0.007, dtype=torch.float64)),
    ],
    hints=[
        "Four steps in this order: divide and round, add the zero point, clamp, cast. What would "
        "128 be if you cast before you clamp?",
        "On the way back: 127 − (−120) is 247, which int8 does not hold. Make the values float "
        "before you take the zero point off: values.to(scale.dtype).",
    ],
    mistakes=[
        Mistake(
            _qu_wrong(clamp_first=False),
            "You cast before you clamp: 200 becomes −56, and the clamp finds nothing to do. Clamp, "
            "then cast.",
        ),
        Mistake(
            _qu_wrong(rounded=torch.trunc),
            "You cut off what follows the point instead of rounding: errors up to a whole step.",
        ),
        Mistake(
            _qu_wrong(rounded=torch.floor),
            "You round down. The nearest integer is off by half a step at most, this by a whole "
            "one.",
        ),
        Mistake(
            _qu_wrong(rounded=lambda x: (x + 0.5).floor()),
            "You round every half up. torch.round takes it to the even integer, so that errors at "
            "halves cancel out.",
        ),
        Mistake(
            _qu_wrong(ends=lambda bits, symmetric: integer_range(bits, False)),
            "Symmetric integers begin at −127, not at −128: integer_range(bits, symmetric) knows.",
        ),
        Mistake(
            _qu_wrong(ends=lambda bits, symmetric: integer_range(8, symmetric)),
            "You clamp to the ends of 8 bits, whatever `bits` is.",
        ),
        Mistake(
            _qu_wrong(added=False),
            "The zero point is missing on the way to the integers.",
        ),
        Mistake(
            _qu_wrong(back=lambda values, scale, zero_point: values.to(scale.dtype) * scale),
            "The zero point is missing on the way back: scale · (values − zero_point).",
        ),
        Mistake(
            _qu_wrong(
                back=lambda values, scale, zero_point: (
                    (values - zero_point.to(torch.int8)).to(scale.dtype) * scale
                )
            ),
            "You take the zero point off in int8, and 127 − (−120) wraps around to −9. (A tensor "
            "without axes does not widen an int8 one.) Make the values float first.",
        ),
        Mistake(
            _qu_unrounded,
            "What you give back was never rounded. It must be computed from the integers.",
        ),
    ],
)

# --- quantization/integer-matmul ------------------------------------------------------------------


def integer_matmul_stub(x, weight, x_zero_point=0, weight_zero_point=0):
    """→ (rows, out), int32: Σ_k (x[i, k] − x_zero_point) · (weight[j, k] − weight_zero_point)

    x (rows, in) and weight (out, in) are int8, the zero points whole numbers. All in whole numbers.
    The zero points are taken off the sums, not off the factors: Σ x w − z_x Σ w − z_w Σ x
    + in · z_x · z_w. ValueError unless both factors are int8.
    """
    raise NotImplementedError("your turn")


def _int8(seed, *shape, low=-128, high=128):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator, dtype=torch.int8)


def _im_case(x_zero=0, weight_zero=0, rows=3, inside=7, out=4):
    def run(implementation):
        return implementation(_int8(1, rows, inside), _int8(2, out, inside), x_zero, weight_zero)

    return run


def _im_large(implementation):
    return implementation(
        torch.full((1, 900), -128, dtype=torch.int8), torch.full((2, 900), 127, dtype=torch.int8)
    )


def _im_refused(implementation):
    return [
        _refusal(lambda: implementation(_int8(1, 2, 3).float(), _int8(2, 2, 3))),
        _refusal(lambda: implementation(_int8(1, 2, 3), _int8(2, 2, 3).int())),
    ]


def _im(
    x,
    weight,
    x_zero_point=0,
    weight_zero_point=0,
    *,
    product=lambda x, weight: x.int() @ weight.int().T,
    of_weight=lambda weight: weight.int().sum(1, dtype=torch.int32)[None],
    of_x=lambda x: x.int().sum(1, keepdim=True, dtype=torch.int32),
    signs=(-1, -1, 1),
    length=lambda x: x.size(1),
    dtype=torch.int32,
    checked=True,
):
    if checked and (x.dtype != torch.int8 or weight.dtype != torch.int8):
        raise ValueError("int8")
    a, b, c = signs
    found = product(x, weight) + a * x_zero_point * of_weight(weight)
    found = found + b * weight_zero_point * of_x(x)
    return (found + c * length(x) * x_zero_point * weight_zero_point).to(dtype)


def _im_wrong(**switches):
    def integer_matmul(x, weight, x_zero_point=0, weight_zero_point=0):
        return _im(x, weight, x_zero_point, weight_zero_point, **switches)

    return integer_matmul


def _im_factors_first(x, weight, x_zero_point=0, weight_zero_point=0):
    _im(x, weight)
    return (x - x_zero_point).to(torch.int8).int() @ (weight - weight_zero_point).to(
        torch.int8
    ).int().T


INTEGER_MATMUL = Exercise(
    id="quantization/integer-matmul",
    lesson="11",
    title="A product of integers",
    difficulty=3,
    minutes=15,
    reference=quantization.integer_matmul,
    stub=integer_matmul_stub,
    cases=[
        Case("no zero points", _im_case()),
        Case("a zero point of x", _im_case(x_zero=-37)),
        Case("a zero point of the weight", _im_case(weight_zero=11)),
        Case("both", _im_case(-37, 11)),
        Case("zero points at the ends", _im_case(-128, 127)),
        Case("one row, another length", _im_case(5, -3, rows=1, inside=2, out=6)),
        Case("a long sum of large products", _im_large),
        Case("what is not int8", _im_refused),
    ],
    hints=[
        "int8 · int8 does not fit into int8. Widen first: x.int() @ weight.int().T is (rows, out).",
        "Multiply (x − a)(w − b) out: xw − aw − bx + ab; sum over k. Σ w is one number for each "
        "output: (1, out). Σ x is one for each row: (rows, 1).",
        "The last term is summed `in` times: x.size(1) * x_zero_point * weight_zero_point. sum() "
        "of integers gives int64; ask for dtype=torch.int32.",
    ],
    mistakes=[
        Mistake(
            _im_wrong(product=lambda x, weight: x @ weight.T),
            "The sums wrap around: a product of int8 matrices is int8. Widen to int32 first.",
        ),
        Mistake(
            _im_wrong(signs=(0, 0, 0)),
            "The zero points are missing.",
        ),
        Mistake(
            _im_wrong(signs=(-1, -1, 0)),
            "The last term is missing: with both zero points, in · z_x · z_w comes back.",
        ),
        Mistake(
            _im_wrong(signs=(-1, -1, -1)),
            "The last term has the wrong sign: minus times minus is plus.",
        ),
        Mistake(
            _im_wrong(signs=(1, 1, 1)),
            "The two middle terms have the wrong sign; they are taken off.",
        ),
        Mistake(
            _im_wrong(length=lambda x: 1),
            "The last term counts once for every k: multiply it by in.",
        ),
        Mistake(
            lambda x, weight, x_zero_point=0, weight_zero_point=0: _im(
                x, weight, weight_zero_point, x_zero_point
            ),
            "The zero points are swapped: that of x goes with the sums of the weight.",
        ),
        Mistake(
            _im_factors_first,
            "You take the zero points off in int8, where −128 − 127 wraps around. Take them off "
            "the sums.",
        ),
        Mistake(
            _im_wrong(dtype=torch.int64),
            "The numbers are right; the result is int64. Kernels add up in int32.",
        ),
        Mistake(
            _im_wrong(dtype=torch.float32),
            "The result is a float. The whole point is that no float is needed: int32.",
        ),
        Mistake(
            _im_wrong(checked=False),
            "The numbers are right; factors that are not int8 go through. Raise ValueError.",
        ),
    ],
)

# --- quantization/percentile ----------------------------------------------------------------------


def percentile_range_stub(values, percentile=99.9):
    """→ (low, high), floats: low is the (100 − percentile)-th percentile, high the percentile-th

    values: a tensor of any shape. Between two numbers the percentile is interpolated linearly. The
    range is widened so as to hold 0. ValueError unless 50 < percentile ≤ 100, and for NaN, infinity
    and an empty tensor.
    """
    raise NotImplementedError("your turn")


def _pc_case(values, *arguments):
    def run(implementation):
        return [float(end) for end in implementation(values(), *arguments)]

    return run


def _pc_refused(implementation):
    calls = {
        "50": lambda: implementation(torch.ones(4), 50),
        "101": lambda: implementation(torch.ones(4), 101),
        "NaN": lambda: implementation(torch.tensor([1.0, float("nan")]), 99),
        "infinity": lambda: implementation(torch.tensor([1.0, float("inf")]), 99),
        "empty": lambda: implementation(torch.empty(0), 99),
    }
    return {name: _refusal(call) for name, call in calls.items()}


def _pc(values, percentile=99.9, *, ends=None, widen=True, checked=True):
    if checked:
        quantization.percentile_range(values, percentile)
    low, high = (ends or _pc_ends)(values.numpy().astype("float64"), percentile)
    return (min(0.0, low), max(0.0, high)) if widen else (low, high)


def _pc_ends(values, percentile):
    with np.errstate(invalid="ignore"):  # infinity, where nothing refused it
        return tuple(np.percentile(values, [100 - percentile, percentile]))


def _pc_wrong(default=99.9, **switches):
    def percentile_range(values, percentile=default):
        return _pc(values, percentile, **switches)

    return percentile_range


def _pc_absolute(values, percentile):
    end = float(np.percentile(np.abs(values), percentile))
    return -end, end


def _pc_sorted(values, percentile):
    ordered = np.sort(values.ravel())
    place = int(len(ordered) * percentile / 100)
    return ordered[max(0, len(ordered) - 1 - place)], ordered[min(place, len(ordered) - 1)]


PERCENTILE = Exercise(
    id="quantization/percentile",
    lesson="11",
    title="A range that leaves outliers out",
    difficulty=2,
    minutes=8,
    reference=quantization.percentile_range,
    stub=percentile_range_stub,
    cases=[
        Case("0 to 100", _pc_case(lambda: torch.arange(-50.0, 151.0), 90)),
        Case("two axes", _pc_case(lambda: _draw(3, 40, 25) + 0.5, 99)),
        Case("min-max at 100", _pc_case(lambda: _draw(4, 50), 100)),
        Case("nothing below 0", _pc_case(lambda: _draw(5, 300).abs() + 1, 95)),
        Case("nothing above 0", _pc_case(lambda: -_draw(5, 300).abs() - 1, 95)),
        Case("the default", _pc_case(lambda: _draw(6, 3000))),
        Case("what is refused", _pc_refused),
    ],
    hints=[
        "np.percentile(values.numpy(), [100 - percentile, percentile]) gives both ends. "
        "(torch.quantile takes shares from 0 to 1, and at most 16 million numbers.)",
        "Then min(0.0, low) and max(0.0, high). And refuse first: NaN would make both ends NaN.",
    ],
    mistakes=[
        Mistake(
            _pc_wrong(ends=lambda v, p: (float(v.min()), float(np.percentile(v, p)))),
            "Only the upper end leaves outliers out; there are some below too.",
        ),
        Mistake(
            _pc_wrong(ends=_pc_absolute),
            "You take a percentile of the absolute values, for both sides. An affine range has two "
            "ends of its own.",
        ),
        Mistake(
            _pc_wrong(ends=lambda v, p: tuple(np.percentile(v, [(100 - p) / 2, (100 + p) / 2]))),
            "You keep that share in the middle and leave half of the rest out on each side. The "
            "ends asked for are the percentiles themselves.",
        ),
        Mistake(
            _pc_wrong(ends=lambda v, p: tuple(np.percentile(v, [1 - p / 100, p / 100]))),
            "You pass shares from 0 to 1 where np.percentile wants 0 to 100: both ends come out at "
            "the lower edge.",
        ),
        Mistake(
            _pc_wrong(ends=lambda v, p: (float(v.min()) * p / 100, float(v.max()) * p / 100)),
            "You shrink the min-max range. A percentile counts numbers.",
        ),
        Mistake(
            _pc_wrong(ends=_pc_sorted),
            "You take the nearest number of the sorted list; between two numbers the percentile is "
            "interpolated.",
        ),
        Mistake(
            _pc_wrong(widen=False),
            "The range does not hold 0 where all numbers lie on one side of it.",
        ),
        Mistake(
            _pc_wrong(default=99.0),
            "Without a percentile you take 99. The default is 99.9.",
        ),
        Mistake(
            lambda values, percentile=99.9: (
                _pc(values, percentile, checked=False) if values.numel() else (0.0, 0.0)
            ),
            "The ends are right; NaN, infinity, an empty tensor or a percentile of 50 go through. "
            "Raise ValueError.",
        ),
    ],
)

# --- quantization/fake-quantize -------------------------------------------------------------------


def fake_quantize_stub(tensor, scale, zero_point, bits=8, symmetric=True):
    """→ what `round_trip` gives back, with a gradient as if nothing had been rounded

    Shapes as in `round_trip`. Backward: 1 for a number whose integer lies inside
    integer_range(bits, symmetric), 0 for one that is clipped. No gradient reaches the scale.
    """
    raise NotImplementedError("your turn")


_FQ_NUMBERS = [-3.03, -1.01, -0.72, -0.04, 0.0, 0.31, 0.68, 1.13, 2.94]


def _fq_inputs(symmetric):
    scale = torch.tensor(0.1)
    zero_point = torch.tensor(0 if symmetric else -3, dtype=torch.int32)
    return torch.tensor(_FQ_NUMBERS), scale, zero_point


def _fq_forward(symmetric):
    def run(implementation):
        return implementation(*_fq_inputs(symmetric), 4, symmetric).detach()

    return run


def _grad(tensor):
    return torch.zeros_like(tensor.detach()) if tensor.grad is None else tensor.grad


def _fq_gradient(symmetric):
    def run(implementation):
        tensor, scale, zero_point = _fq_inputs(symmetric)
        tensor.requires_grad_()
        found = implementation(tensor, scale, zero_point, 4, symmetric)
        if found.requires_grad:
            (found * torch.arange(1.0, 10.0)).sum().backward()
        return _grad(tensor)

    return run


def _fq_scale(implementation):
    tensor, scale, zero_point = _fq_inputs(True)
    tensor.requires_grad_()
    scale.requires_grad_()
    found = implementation(tensor, scale, zero_point, 4)
    if found.requires_grad:
        found.sum().backward()
    return _grad(scale)


def _fq_rows(implementation):
    tensor = _draw(8, 2, 5).requires_grad_()
    scale, zero_point = torch.tensor([[0.031], [0.0043]]), torch.zeros(2, 1, dtype=torch.int32)
    found = implementation(tensor, scale, zero_point)
    if found.requires_grad:
        found.pow(2).sum().backward()
    return [found.detach(), _grad(tensor)]


def _fq_back(tensor, scale, zero_point, bits, symmetric):
    return quantization.round_trip(tensor, scale, zero_point, bits, symmetric)[1]


def _fq_through(tensor, scale, zero_point, bits=8, symmetric=True):
    return tensor + (_fq_back(tensor, scale, zero_point, bits, symmetric) - tensor).detach()


def _fq_flat(tensor, scale, zero_point, bits=8, symmetric=True):
    back = _fq_back(tensor.detach(), scale.detach(), zero_point, bits, symmetric)
    return back + 0 * tensor


def _fq_unclamped(tensor, scale, zero_point, bits=8, symmetric=True):
    scale = scale.detach()
    levels = tensor / scale
    return (levels.detach().round() + levels - levels.detach()) * scale


def _fq_by_hand(tensor, scale, zero_point, bits, symmetric, factor=1.0, swap=False, learn=False):
    fixed = scale if learn else scale.detach()
    right = quantization.fake_quantize(tensor, scale, zero_point, bits, symmetric)
    inside = torch.autograd.grad(right.sum(), tensor)[0] if tensor.requires_grad else right * 0
    keep = 1 - inside if swap else inside
    back = _fq_back(tensor.detach(), scale.detach(), zero_point, bits, symmetric)
    grown = back + factor * (tensor - tensor.detach()) * keep
    return grown + (back / scale.detach()).detach() * (fixed - fixed.detach())


def _fq_wrong(**switches):
    def fake_quantize(tensor, scale, zero_point, bits=8, symmetric=True):
        return _fq_by_hand(tensor, scale, zero_point, bits, symmetric, **switches)

    return fake_quantize


def _fq_steps(tensor, scale, zero_point, bits=8, symmetric=True):
    return quantization.fake_quantize(tensor, scale, zero_point, bits, symmetric) / scale.detach()


def _fq_small_gradient(tensor, scale, zero_point, bits=8, symmetric=True):
    right = quantization.fake_quantize(tensor, scale, zero_point, bits, symmetric)
    fixed = scale.detach()
    return right.detach() + fixed * (right - right.detach())


FAKE_QUANTIZE = Exercise(
    id="quantization/fake-quantize",
    lesson="11",
    title="Fake quantization, straight through",
    difficulty=4,
    minutes=18,
    reference=quantization.fake_quantize,
    stub=fake_quantize_stub,
    cases=[
        Case("forward, symmetric", _fq_forward(True)),
        Case("forward, affine", _fq_forward(False)),
        Case("backward, symmetric", _fq_gradient(True)),
        Case("backward, affine", _fq_gradient(False)),
        Case("the scale's gradient", _fq_scale),
        Case("a scale for each row", _fq_rows),
    ],
    hints=[
        "x + (y - x).detach() is y on the way forward, and has the gradient of x on the way back.",
        "levels = tensor / scale; rounded = levels.round(). Inside is where rounded + zero_point "
        "lies between both ends. Multiply the part that carries the gradient by it.",
        "clamped = rounded.clamp(smallest - zero_point, largest - zero_point), all detached; then "
        "(clamped + (levels - levels.detach()) * inside) * scale.detach().",
    ],
    mistakes=[
        Mistake(
            _fq_flat,
            "No gradient comes back: rounding is flat almost everywhere. Let it pass straight "
            "through.",
        ),
        Mistake(
            _fq_through,
            "The gradient also passes where numbers are clipped. There the result does not depend "
            "on the number: 0.",
        ),
        Mistake(
            _fq_unclamped,
            "Nothing is clipped, on the way forward either: clamp the integers.",
        ),
        Mistake(
            _fq_wrong(swap=True),
            "The mask is the wrong way round: the gradient passes where numbers are clipped.",
        ),
        Mistake(
            _fq_small_gradient,
            "The gradient is multiplied by the scale: dividing by it and multiplying by it must "
            "both carry the gradient.",
        ),
        Mistake(
            _fq_steps,
            "You return steps. Multiply by the scale again.",
        ),
        Mistake(
            _fq_wrong(learn=True),
            "A gradient reaches the scale: detach it. (Learning the scale is a method of its own, "
            "LSQ, with a gradient of its own.)",
        ),
    ],
)

# --- quantization/two-bits ------------------------------------------------------------------------

TWO_BITS = OpenExercise(
    id="quantization/two-bits",
    lesson="11",
    title="Two bits without losing the model",
    difficulty=5,
    minutes=60,
    task="The distilled student has 69.6 MB. Write a file of at most 2.5 MB that loses at most 3 "
    "points in scope on the assistant's test texts, with an interval. Layers and width stay as "
    "they are; the vocabulary may be trimmed.",
    hints=[
        "Where are the bytes? The tables have 11.9 million numbers, the linear layers 5.5. Two "
        "bits for the layers alone can not do it.",
        "What helps in this lesson: clipped ranges, groups, training with fake quantization, bits "
        "by sensitivity, entropy coding. What helps beside it: rows of the table that no text "
        "reads (lesson 10).",
        "5.5 million numbers at 2 bits are 1.4 MB. So a megabyte is left for the tables: at 4 bits "
        "that is 5,400 rows.",
    ],
    rubric=[
        "The budget is counted on the file, scales and header included.",
        "What was chosen was chosen on validation texts; test was asked once.",
        "The loss is given against the float student, paired by text, with an interval.",
        "The answer says which of the methods brought how much, one at a time.",
        "It gives out-of-scope queries apart, and says what got faster.",
    ],
    answer="""Count first. All 17.4 million numbers at 2 bits are 4.35 MB, before any scale: over
the budget, and tables of 2 bits leave 44 % right on validation (67 with clipped rows). Their rows
are read one at a time, so nothing averages their errors. With the whole vocabulary and 2-bit layers
the file is 7.6 MB at tables of 4 bits; zlib makes 6.1 of it. So rows must go.

```python
from course_utils import tasks
from course_utils.distillation import DistillationStep, collate_soft, with_teacher
from course_utils.finetuning import fine_tune
from course_utils.quantization import fake_quantize_model, save_quantized
from course_utils.quantization_runs import QAT, Quantizing
from course_utils.trimming import trim_vocabulary

work = Quantizing(seed=0)
texts = work.teaching.data["train"]
trimmed, tokenizer, _ = trim_vocabulary(work.student, work.tokenizer, texts["text"])  # 4,445 rows
model = fake_quantize_model(trimmed, 2, input_bits=8, clip=True, embedding_bits=4)
model.bert.embeddings.requires_grad_(False)
examples = with_teacher(trimmed, tasks.intent_features(tokenizer, texts))
fine_tune(model, examples, QAT, collate_soft, backward=DistillationStep(4.0, 0.9))
print(save_quantized(model, tokenizer, "two_bits", embedding_bits=4).stat().st_size)
```

Seed 0, test, in scope: the float student 92.7 %; trimmed 91.9; then 2-bit layers and 4-bit tables
83.9; after 150 steps of training 90.7. That is 2.0 points less than float (95 % interval 0.6 to
3.4, one seed, so it says nothing of other trainings), in a file of 2.46 MB, 28 times smaller.
Training brought most; without it the budget is met and the model is not.

And out of scope? Recall falls from 74.8 to 63.2 %, and nearly all of that is the trimming (62.4 in
float): lesson 10's price. If those queries matter to you, spend the bytes on rows and not on bits.
Nothing got faster: no kernel of this processor takes 2 bits, so they are unpacked at loading.""",
)

EXERCISES = [QUANTIZE, ZERO_POINT, INTEGER_MATMUL, PERCENTILE, FAKE_QUANTIZE, TWO_BITS]

# --- Claims ---------------------------------------------------------------------------------------


def _judge_hundred(ratio):
    """ratio: time of the float product through that of the int8 product, same factors, threads"""
    if ratio > 50:
        return Verdict(True, "the same product is that much faster in int8.")
    return Verdict(
        False,
        "the same product is a few times faster at most, not a hundred. The figure that goes round "
        "timed a matrix product against an operation that multiplies element by element.",
    )


def _judge_quarter(ratio):
    """ratio: bytes of the float file through those of the quantized file"""
    if ratio > 3.5:
        return Verdict(True, "the file is about a quarter of the float one.")
    return Verdict(
        False,
        "only the linear layers became integers; the embedding tables, most of a small BERT, "
        "stayed in float. Count the bytes of the file, not the bits of a weight.",
    )


def _judge_dynamic(loss, low):
    """loss: accuracy lost by dynamic int8; low: the lower end of the gain's 95 % interval"""
    if loss < 0.01 and low > -0.01:
        return Verdict(True, "it loses less than a point, and the interval leaves a point out.")
    if loss < 0.01:
        return Verdict(
            False,
            "it loses less than a point on these texts, but the interval reaches beyond a point: "
            "more texts or seeds are needed to say so.",
        )
    return Verdict(False, "it loses a point or more here.")


def _judge_static(dynamic_loss, static_loss, low):
    """accuracy lost by each; low: the lower end of what static gains over dynamic, 95 %"""
    if static_loss > dynamic_loss and low < 0 and static_loss - dynamic_loss > 0.005:
        return Verdict(True, "static loses more than dynamic quantization here.")
    return Verdict(
        False,
        "with calibrated ranges these runs show no loss beside dynamic quantization. It depends "
        "on the ranges: measure it on your own texts.",
    )


def _judge_samples(few, many):
    """accuracy of static int8 with ranges from a few texts, and from hundreds"""
    if many - few > 0.01:
        return Verdict(True, "with few texts it loses more than a point beside hundreds.")
    return Verdict(
        False,
        "a few dozen texts give ranges as good as hundreds here: a text has many tokens, and a "
        "layer reads hundreds of numbers for each.",
    )


CLAIMS = [
    Claim(
        id="quantization/hundred-times",
        statement="int8 is almost 100 times faster.",
        source="printed in a book's chapter on efficiency",
        judge=_judge_hundred,
        holds=dict(ratio=96.0),
        fails=dict(ratio=2.8),
    ),
    Claim(
        id="quantization/quarter",
        statement="Dynamic int8 makes the file four times smaller.",
        source="goes round",
        judge=_judge_quarter,
        holds=dict(ratio=3.95),
        fails=dict(ratio=1.3),
    ),
    Claim(
        id="quantization/dynamic",
        statement="Dynamic int8 loses less than one point.",
        source="goes round",
        judge=_judge_dynamic,
        holds=dict(loss=0.001, low=-0.006),
        fails=dict(loss=0.02, low=-0.03),
    ),
    Claim(
        id="quantization/static",
        statement="Static quantization loses more than dynamic quantization.",
        source="goes round",
        judge=_judge_static,
        holds=dict(dynamic_loss=0.001, static_loss=0.02, low=-0.03),
        fails=dict(dynamic_loss=0.001, static_loss=0.001, low=-0.006),
    ),
    Claim(
        id="quantization/samples",
        statement="Calibration needs hundreds of texts.",
        source="goes round",
        judge=_judge_samples,
        holds=dict(few=0.80, many=0.92),
        fails=dict(few=0.921, many=0.922),
    ),
]
