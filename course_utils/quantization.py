"""Lesson 11: quantization: weights and activations as whole numbers of a few bits.

    q = quantize(weight, bits=8, axis=0)                 # one scale for each row
    q.values, q.scale, q.zero_point, q.dequantize()
    small = fake_quantize_model(model, weight_bits=4, per=64)   # what 4 bits do to the answers
    save_quantized(small, tokenizer, folder)             # 4 bits a weight on disk
    classifier = load_quantized(folder)                  # 8-bit layers run on the integer kernel

real number ≈ scale · (integer − zero_point). Symmetric: the zero point is 0, and the range reaches
as far to the left as to the right. Affine: it goes from the smallest to the largest number. 0 is
always exact: padding and dropped numbers stay what they are.
"""

import copy
import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from course_utils.bert import BertConfig
from course_utils.finetuning import (
    BertForSequenceClassification,
    Features,
    TextClassifier,
    collate,
    load_tokenizer,
    read_labels,
    save_labels,
    to_device,
)

Axes = int | Sequence[int] | None
Per = int | str  # who shares a scale: "tensor", "row", or so many neighbours of a row

# --- From float to integers -----------------------------------------------------------------------


def integer_range(bits: int = 8, symmetric: bool = True) -> tuple[int, int]:
    """The smallest and the largest integer: of 8 bits (−127, 127) symmetric, (−128, 127) affine.

    Raises ValueError unless bits is a whole number from 2 to 16: one bit has no 0 and no scale.
    """
    if not isinstance(bits, int) or not 2 <= bits <= 16:
        raise ValueError(f"bits is {bits!r}; it must be a whole number from 2 to 16.")
    largest = 2 ** (bits - 1) - 1
    return (-largest if symmetric else -largest - 1), largest


def scale_and_zero_point(
    low: Tensor, high: Tensor, bits: int = 8, symmetric: bool = True
) -> tuple[Tensor, Tensor]:
    """The step between two integers, and the integer that stands for 0.

    low, high  the ends of the range, any equal shape, floating point; widened so as to hold 0
    returns    scale, positive, and zero_point, int32, both of that shape

    Symmetric: scale = max(|low|, |high|) / largest integer, zero_point = 0. Affine: scale =
    (high − low) / (number of integers − 1), zero_point = smallest integer − round(low / scale).
    A range without a width gets the scale 1. Raises ValueError for low > high.
    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", sections 2.1 and 3.1.
    """
    if (low > high).any():
        raise ValueError("a range begins above its end: low must not be larger than high.")
    smallest, largest = integer_range(bits, symmetric)
    low, high = low.clamp(max=0), high.clamp(min=0)
    if symmetric:
        scale = torch.maximum(-low, high) / largest
    else:  # each end by itself: the width of a range may be larger than the largest float
        scale = high / (largest - smallest) - low / (largest - smallest)
    tiny = torch.finfo(scale.dtype).tiny  # below it a quotient is no longer exact
    scale = torch.where(high > low, scale.clamp(min=tiny), torch.ones_like(scale))
    zero_point = torch.zeros_like(scale) if symmetric else smallest - (low / scale).round()
    return scale, zero_point.to(torch.int32)


def to_integers(
    tensor: Tensor, scale: Tensor, zero_point: Tensor, bits: int = 8, symmetric: bool = True
) -> Tensor:
    """Divide, round, add the zero point, clamp, and then cast: int8, or int16 above 8 bits.

    scale, zero_point  as large as the tensor, or of a shape that can be broadcast to it

    What lies outside the range gets the nearest end. Cast before the clamp and 128 becomes −128.
    A half is rounded to the even integer, as in PyTorch.
    """
    smallest, largest = integer_range(bits, symmetric)
    integers = (tensor / scale).round() + zero_point
    return integers.clamp(smallest, largest).to(torch.int8 if bits <= 8 else torch.int16)


def round_trip(
    tensor: Tensor, scale: Tensor, zero_point: Tensor, bits: int = 8, symmetric: bool = True
) -> tuple[Tensor, Tensor]:
    """To integers and back → (values, what they stand for), both of the tensor's shape."""
    values = to_integers(tensor, scale, zero_point, bits, symmetric)
    return values, (values.to(scale.dtype) - zero_point) * scale


@dataclass(frozen=True)
class QuantizedTensor:
    """Integers, and what they stand for.

    values      int8 (int16 above 8 bits), the tensor's shape
    scale       positive, floating point; zero_point, int32. Both have one number for each entry of
                the axes that were named and size 1 on all other axes; without an axis, shape ()
    bits        of an integer: what it needs on disk, see `to_bytes`
    dtype       of the tensor that was quantized, and of what `dequantize` gives
    """

    values: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int = 8
    symmetric: bool = True
    dtype: torch.dtype = torch.float32

    def dequantize(self) -> Tensor:
        """scale · (values − zero_point), in the dtype of the tensor that was quantized."""
        real = (self.values.to(self.scale.dtype) - self.zero_point) * self.scale
        limit = torch.finfo(self.dtype).max  # half a step above the largest number is infinity
        return real.clamp(-limit, limit).to(self.dtype)

    @property
    def bytes(self) -> int:
        """On disk: packed integers, a 4-byte scale each, a byte for each zero point if affine."""
        scales = self.scale.numel() * (4 if self.symmetric else 5)
        return math.ceil(self.values.numel() * self.bits / 8) + scales


def quantize(
    tensor: Tensor,
    bits: int = 8,
    symmetric: bool = True,
    axis: Axes = None,
    shrink: float | Tensor = 1.0,
) -> QuantizedTensor:
    """Round a tensor to integers of `bits` bits; nothing is off by more than half a step.

    tensor  floating point, any shape; float16 and bfloat16 are computed with in float32
    axis    None: one scale for all. 0 for a Linear's weight (out, in): one for each output channel.
            Several axes: one for each combination of their entries
    shrink  the range is multiplied by it: below 1 the ends are clipped, for a smaller step between;
            one number, or one for each scale, see `mse_shrink`

    Raises ValueError for NaN, infinity, an empty tensor, integers, bits below 2, an axis that the
    tensor does not have. A tensor of zeros, and a constant one, come back exactly.
    Source: Jacob et al. 2018, section 2.1; Krishnamoorthi 2018, "Quantizing deep convolutional
    networks for efficient inference", section 2 (per channel).
    """
    integer_range(bits, symmetric)
    check(tensor)
    exact = tensor if tensor.dtype == torch.float64 else tensor.float()
    low, high = ends(exact, axis)
    scale, zero_point = scale_and_zero_point(low * shrink, high * shrink, bits, symmetric)
    values = to_integers(exact, scale, zero_point, bits, symmetric)
    return QuantizedTensor(values, scale, zero_point, bits, symmetric, tensor.dtype)


def check(tensor: Tensor) -> None:
    """Raise ValueError, with what to do, for a tensor that can not be quantized."""
    if not tensor.is_floating_point():
        raise ValueError(f"the tensor is {tensor.dtype}; only floating point is quantized.")
    if not tensor.numel():
        raise ValueError(f"the tensor of shape {tuple(tensor.shape)} is empty: it has no range.")
    if not tensor.isfinite().all():
        bad = (~tensor.isfinite()).sum().item()
        raise ValueError(f"NaN or infinity at {bad} places: no scale can hold them.")


def ends(tensor: Tensor, axis: Axes = None) -> tuple[Tensor, Tensor]:
    """The smallest and the largest number: (), or size 1 on all axes but those that are named.

    Raises ValueError for an axis that the tensor does not have.
    """
    if axis is None:
        return tensor.amin(), tensor.amax()
    named = [axis] if isinstance(axis, int) else list(axis)
    if any(not -tensor.dim() <= one < tensor.dim() for one in named):
        raise ValueError(f"axis is {axis}; the tensor has axes 0 to {tensor.dim() - 1}.")
    others = sorted(set(range(tensor.dim())) - {one % tensor.dim() for one in named})
    if not others:  # every number has a scale of its own
        return tensor, tensor
    return tensor.amin(others, keepdim=True), tensor.amax(others, keepdim=True)


# --- Products of integers -------------------------------------------------------------------------


def integer_matmul(x: Tensor, weight: Tensor, x_zero_point=0, weight_zero_point=0) -> Tensor:
    """Σ_k (x_ik − z_x)(w_jk − z_w) in whole numbers, without taking the zero points off first.

    x       (rows, in), int8; weight (out, in), int8, as a Linear keeps it
    x_zero_point, weight_zero_point   integers, or int32 tensors: () or (rows, 1), () or (out, 1)
    returns (rows, out), int32

    The product is of the stored integers; the zero points come in as
        − z_x Σ_k w_jk − z_w Σ_k x_ik + in · z_x · z_w.
    The first sum belongs to the weight and can be computed once for all calls. int32 overflows at
    in > 2³¹ / 2¹⁴ = 131,072 at the earliest. Raises ValueError for other dtypes and shapes.
    Source: Jacob et al. 2018, sections 2.2 and 2.3.
    """
    if x.dtype != torch.int8 or weight.dtype != torch.int8:
        raise ValueError(f"the factors are {x.dtype} and {weight.dtype}; both must be int8.")
    if x.dim() != 2 or weight.dim() != 2 or x.size(1) != weight.size(1):
        raise ValueError(
            f"x {tuple(x.shape)} and weight {tuple(weight.shape)} must be (rows, in), (out, in)."
        )
    x_zero, weight_zero = (
        torch.as_tensor(z, dtype=torch.int32, device=x.device)
        for z in (x_zero_point, weight_zero_point)
    )
    weight_zero = weight_zero.reshape(1, -1)  # (1, out) or (1, 1)
    wide_x, wide_weight = x.to(torch.int32), weight.to(torch.int32)  # int8 sums would wrap around
    product = wide_x @ wide_weight.T  # (rows, out)
    of_weight = wide_weight.sum(1, dtype=torch.int32)[None, :]  # (1, out)
    of_x = wide_x.sum(1, keepdim=True, dtype=torch.int32)  # (rows, 1)
    return product - x_zero * of_weight - weight_zero * of_x + x.size(1) * x_zero * weight_zero


def requantize(
    sums: Tensor, multiplier: Tensor | float, zero_point: Tensor | int = 0, bits: int = 8
) -> Tensor:
    """int32 sums → int8 of the next layer's scale: round(sums · multiplier) + zero_point, clamped.

    multiplier  scale of x · scale of the weight / scale of the result
    Source: Jacob et al. 2018, equation 5. (On hardware without floats the multiplier is an integer
    and a shift, equation 6.)
    """
    smallest, largest = integer_range(bits, symmetric=False)
    moved = (sums * multiplier).round() + zero_point
    return moved.clamp(smallest, largest).to(torch.int8)


def quantized_matmul(x: QuantizedTensor, weight: QuantizedTensor) -> Tensor:
    """x · weightᵀ in float, by way of the integers: (rows, in), (out, in) → (rows, out)

    x has one scale, or one a row; the weight one, or one a row. Raises as `integer_matmul`, and
    ValueError for scales along `in`: they could not be taken out of the sum.
    """
    for name, one in (("x", x), ("weight", weight)):
        if one.scale.dim() == 2 and one.scale.size(1) != 1:
            raise ValueError(f"{name} has scales along the axis that is summed over.")
    sums = integer_matmul(x.values, weight.values, x.zero_point, weight.zero_point)
    return sums.to(x.scale.dtype) * x.scale * weight.scale.reshape(1, -1)


# --- Which range ----------------------------------------------------------------------------------

Range = tuple[float, float]


def minmax_range(values: Tensor, bits: int = 8) -> Range:
    """From the smallest to the largest number: nothing is clipped."""
    check(values)
    return min(0.0, values.min().item()), max(0.0, values.max().item())


def percentile_range(values: Tensor, percentile: float = 99.9) -> Range:
    """(low, high): of all numbers the share percentile / 100 is below high, and as many above low.

    values      any shape; what a layer has read on the calibration texts
    percentile  above 50, at most 100: 100 is min-max

    Between two numbers the percentile is interpolated. The range is widened to hold 0. Raises
    ValueError for another percentile, NaN, infinity, and an empty tensor.
    """
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}; it must be above 50, and at most 100.")
    check(values)
    low, high = np.percentile(values.detach().cpu().numpy(), [100 - percentile, percentile])
    return min(0.0, float(low)), max(0.0, float(high))


def mse_shrink(
    tensor: Tensor, bits: int = 8, symmetric: bool = True, axis: Axes = None, steps: int = 40
) -> Tensor:
    """By how much to shrink each range so that the mean squared error is smallest.

    Tries `steps` factors from 1 down to 1 / steps → a factor for each scale, see `quantize`.
    """
    named = [] if axis is None else [axis] if isinstance(axis, int) else axis
    others = [i for i in range(tensor.dim()) if i not in {one % tensor.dim() for one in named}]
    best = least = None
    for step in range(steps, 0, -1):
        q = quantize(tensor, bits, symmetric, axis, shrink=step / steps)
        squares = (tensor - q.dequantize()).pow(2)
        error = squares.mean() if axis is None else squares.mean(others, keepdim=True)
        if best is None:
            best, least = torch.ones_like(error), error
        best = torch.where(error < least, step / steps, best)
        least = torch.minimum(error, least)
    return best


def mse_range(values: Tensor, bits: int = 8, steps: int = 40, sample: int = 200_000) -> Range:
    """The part of the min-max range that gives the smallest mean squared error, affine.

    Both ends shrink by the same factor, `steps` of them are tried, on about `sample` numbers.
    """
    low, high = minmax_range(values)
    some = values.detach().flatten().float()
    some = some[:: max(1, len(some) // sample)]  # (about sample,)
    errors = {}
    for step in range(1, steps + 1):
        factor = step / steps
        both = (some.new_tensor(factor * end) for end in (low, high))
        where = scale_and_zero_point(*both, bits, symmetric=False)
        back = round_trip(some, *where, bits, symmetric=False)[1]
        errors[factor] = (some - back).pow(2).mean().item()
    best = min(errors, key=errors.get)
    return best * low, best * high


def entropy_range(values: Tensor, bits: int = 8, bins: int = 2048) -> Range:
    """The range whose integers tell most of how the numbers are distributed.

    Numbers beyond a threshold are clipped to it. Of all thresholds the one is taken at which the
    distribution after quantization, q, is nearest to the clipped one, p: the smallest KL(p ‖ q).
    One threshold serves both sides; a side that ends before it keeps its end.
    Source: Migacz 2017, "8-bit Inference with TensorRT", GPU Technology Conference.
    """
    low, high = minmax_range(values)
    top = max(-low, high)
    levels = 2 ** (bits - 1)
    if top == 0 or bins <= levels:
        return low, high
    counts = torch.histc(values.detach().float().abs().cpu(), bins, 0.0, top).numpy()  # (bins,)
    best, threshold = math.inf, top
    for kept in range(levels, bins + 1, max(1, bins // 128)):
        p = counts[:kept].copy()
        p[-1] += counts[kept:].sum()  # what is clipped stands at the end
        inside = counts[:kept]
        level = np.arange(kept) * levels // kept  # (kept,) the integer that each bin falls on
        full = inside > 0
        mass = np.bincount(level, inside, levels)  # (levels,)
        width = np.bincount(level, full, levels)
        q = np.where(full, (mass / np.maximum(width, 1))[level], 0.0)  # spread evenly again
        if not q.sum():
            continue
        p, q = p / p.sum(), q / q.sum()
        seen = p > 0
        divergence = float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))).sum())
        if divergence < best:
            best, threshold = divergence, top * kept / bins
    return max(low, -threshold), min(high, threshold)


METHODS: dict[str, Callable[[Tensor, int], Range]] = {
    "min-max": minmax_range,
    "percentile": lambda values, bits=8: percentile_range(values, 99.9),
    "entropy": entropy_range,
    "mse": mse_range,
}


@torch.inference_mode()
def observe_inputs(
    model: nn.Module, features: Iterable[Features], names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """What each linear layer reads on these texts: name → (numbers,), in eval mode.

    One text at a time: padding would be counted as an activation otherwise. Raises ValueError
    without texts and for a name that is no linear layer.
    """
    features = list(features)
    if not features:
        raise ValueError("there are no calibration texts.")
    names = check_names(model, names)
    read: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: read[name].append(inputs[0].flatten().cpu())
        )
        for name in names
    ]
    was_training = model.training
    model.eval()
    try:
        for example in features:
            text = {key: example[key] for key in ("input_ids", "token_type_ids") if key in example}
            model(**to_device(collate([text]), model))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return {name: torch.cat(parts) for name, parts in read.items()}


def calibrate(inputs: dict[str, Tensor], method: str = "min-max", bits: int = 8) -> dict:
    """name → (low, high) of what `observe_inputs` saw. Raises ValueError for an unknown method."""
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}; take one of {', '.join(METHODS)}.")
    return {name: METHODS[method](values, bits) for name, values in inputs.items()}


# --- Fake quantization ----------------------------------------------------------------------------


def fake_quantize(
    tensor: Tensor, scale: Tensor, zero_point: Tensor, bits: int = 8, symmetric: bool = True
) -> Tensor:
    """The numbers that the integers stand for, and a gradient as if nothing had been rounded.

    Forward: `round_trip`. Backward, the straight-through estimator: 1 for a number inside the
    range, 0 for one that is clipped; none to scale and zero point.
    Source: Bengio, Léonard and Courville 2013, "Estimating or Propagating Gradients Through
    Stochastic Neurons"; Jacob et al. 2018, section 3.
    """
    scale = scale.detach()
    smallest, largest = integer_range(bits, symmetric)
    levels = tensor / scale
    rounded = levels.detach().round()
    inside = (rounded + zero_point >= smallest) & (rounded + zero_point <= largest)
    clamped = rounded.clamp(smallest - zero_point, largest - zero_point)
    return (clamped + (levels - levels.detach()) * inside) * scale


def grouped(weight: Tensor, per: Per = "row") -> tuple[Tensor, Axes]:
    """A weight (out, in) as it is, or (out, in / per, per), and the axes that have own scales.

    per  "tensor", "row", or the size of a group of neighbours within a row
    Raises ValueError for a group that does not divide the row.
    """
    if per in ("tensor", "row"):
        return weight, None if per == "tensor" else 0
    if not isinstance(per, int) or per < 1 or weight.size(1) % per:
        raise ValueError(f'per is {per!r}: "tensor", "row", or a divisor of {weight.size(1)}.')
    return weight.view(len(weight), -1, per), (0, 1)  # (out, groups, per)


class FakeQuantLinear(nn.Module):
    """A linear layer that computes in float with the numbers that its integers would stand for.

    linear       its weight and bias are used, not copied
    weight_bits  of the weight, symmetric; None leaves it in float
    per          who shares a scale of the weight, see `grouped`
    clip         shrink the weight's ranges for the smallest squared error, see `mse_shrink`
    input_bits   of what is read, affine, one range for all of it; None leaves it in float
    input_range  (low, high) for every call: static; None: each call finds its own, dynamic

    Gradients pass as in `fake_quantize`, so such a model can be trained: quantization-aware
    training. What it computes is what an integer kernel would, but for float rounding.
    """

    def __init__(
        self,
        linear: nn.Linear,
        weight_bits: int | None = 8,
        per: Per = "row",
        clip: bool = False,
        input_bits: int | None = None,
        input_range: Range | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.weight_bits, self.per = weight_bits, per
        self.input_bits, self.input_range = input_bits, input_range
        self.shrink: float | Tensor = 1.0
        if weight_bits is not None:
            integer_range(weight_bits)
            rows, axis = grouped(self.weight.detach(), per)
            check(rows)
            if clip:
                self.shrink = mse_shrink(rows, weight_bits, axis=axis)
        if input_bits is not None:
            integer_range(input_bits, symmetric=False)

    def integers(self) -> QuantizedTensor:
        """The weight's integers; of a group size, (out, groups, per)."""
        rows, axis = grouped(self.weight.detach(), self.per)
        return quantize(rows, self.weight_bits, axis=axis, shrink=self.shrink)

    def quantized_weight(self) -> Tensor:
        """(out, in): the weight after rounding, with the straight-through gradient"""
        if self.weight_bits is None:
            return self.weight
        rows, axis = grouped(self.weight, self.per)
        low, high = ends(rows.detach(), axis)
        low, high = low * self.shrink, high * self.shrink
        where = scale_and_zero_point(low, high, self.weight_bits)
        return fake_quantize(rows, *where, self.weight_bits).view_as(self.weight)

    def quantized_input(self, x: Tensor) -> Tensor:
        """x after rounding, (…, in)"""
        if self.input_bits is None:
            return x
        if self.input_range is None:
            low, high = ends(x.detach())
        else:
            low, high = (x.new_tensor(end) for end in self.input_range)
        where = scale_and_zero_point(low, high, self.input_bits, symmetric=False)
        return fake_quantize(x, *where, self.input_bits, symmetric=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)"""
        return F.linear(self.quantized_input(x), self.quantized_weight(), self.bias)


def linear_names(model: nn.Module) -> list[str]:
    """The names of a model's linear layers, in order."""
    kinds = (nn.Linear, FakeQuantLinear)
    return [name for name, part in model.named_modules() if isinstance(part, kinds)]


def check_names(model: nn.Module, names: Iterable[str] | None) -> list[str]:
    """The names, all linear layers' where there are none. ValueError for one that is none."""
    known = linear_names(model)
    names = known if names is None else list(names)
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no linear layer; the first ones are {known[:3]}.")
    return names


def replace_parts(
    model: nn.Module, names: Iterable[str], make: Callable[[str, nn.Module], nn.Module]
) -> nn.Module:
    """A copy of the model with make(name, part) in place of the parts of these names."""
    changed = copy.deepcopy(model)
    for name in names:
        owner, _, own = name.rpartition(".")
        setattr(changed.get_submodule(owner), own, make(name, changed.get_submodule(name)))
    return changed


def fake_quantize_model(
    model: nn.Module,
    weight_bits: int | None = 8,
    input_bits: int | None = None,
    ranges: dict[str, Range] | None = None,
    names: Iterable[str] | None = None,
    embedding_bits: int | None = None,
    per: Per = "row",
    clip: bool = False,
) -> nn.Module:
    """A copy whose linear layers are `FakeQuantLinear`, and its embedding tables rounded.

    ranges          name → (low, high) of the inputs, see `calibrate`: static. None: dynamic
    names           the layers to quantize; None = all
    embedding_bits  of the tables, a scale a row; None leaves them in float

    Raises ValueError for a name that is no linear layer, and for one without a range.
    """
    names = check_names(model, names)
    if input_bits is not None and ranges is not None:
        missing = [name for name in names if name not in ranges]
        if missing:
            raise ValueError(f"there is no range for {missing[0]!r}; calibrate it too.")

    def fake(name: str, linear: nn.Module) -> nn.Module:
        known = None if ranges is None or input_bits is None else ranges[name]
        return FakeQuantLinear(linear, weight_bits, per, clip, input_bits, known)

    changed = replace_parts(model, names, fake)
    if embedding_bits is not None:
        for part in changed.modules():
            if isinstance(part, nn.Embedding):
                with torch.no_grad():
                    part.weight.copy_(quantize(part.weight, embedding_bits, axis=0).dequantize())
    return changed


# --- On disk, and on the integer kernel -----------------------------------------------------------


def to_bytes(values: Tensor, bits: int) -> Tensor:
    """Integers of `bits` bits, packed without gaps: any shape → uint8 (bytes,)

    The offset 2^(bits − 1) makes them positive; the last byte is filled up with zeros.
    Raises ValueError for an integer that does not fit, and bits above 8.
    """
    smallest, largest = integer_range(bits, symmetric=False)
    if bits > 8:
        raise ValueError(f"bits is {bits}; integers of 2 to 8 bits are packed.")
    if values.numel() and not smallest <= values.min() <= values.max() <= largest:
        raise ValueError(f"an integer lies outside {smallest} to {largest}: {bits} bits.")
    flat = (values.flatten().to(torch.int16) - smallest).to(torch.uint8).cpu().numpy()
    rows = np.unpackbits(flat[:, None], axis=1)[:, 8 - bits :]  # (integers, bits)
    return torch.from_numpy(np.packbits(rows.ravel()))


def from_bytes(packed: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    """What `to_bytes` packed: int8 of this shape."""
    smallest, _ = integer_range(bits, symmetric=False)
    found, part = torch.empty(math.prod(shape), dtype=torch.int8), 8 * 2**16
    for start in range(0, len(found), part):  # in parts, so that the bits take little memory
        count = min(part, len(found) - start)  # so many numbers begin on a whole byte
        here = packed[start * bits // 8 : -(-(start + count) * bits // 8)].numpy()
        rows = np.unpackbits(here, count=count * bits).reshape(count, bits)
        flat = np.packbits(np.pad(rows, ((0, 0), (8 - bits, 0))), axis=1)[:, 0]  # (count,) uint8
        found[start : start + count] = torch.from_numpy(flat).to(torch.int16) + smallest
    return found.view(*shape)


class Int8Linear(nn.Module):
    """A linear layer that multiplies integers: PyTorch's dynamic int8 kernel, on our integers.

    weight        8 bits, symmetric, one scale a row: (out, in)
    reduce_range  read 7 bits of the input instead of 8. On processors without VNNI instructions the
                  kernel adds pairs of products in 16 bits, which saturates at 8: see lesson 11

    Each call finds the range of its input. CPU only.
    """

    def __init__(
        self, weight: QuantizedTensor, bias: Tensor | None, reduce_range: bool = True
    ) -> None:
        super().__init__()
        if weight.values.dim() != 2 or weight.values.dtype != torch.int8 or not weight.symmetric:
            raise ValueError("the kernel takes a symmetric int8 matrix.")
        rows = len(weight.values)
        scales = weight.scale.expand(rows, 1).flatten().double()  # (out,)
        with warnings.catch_warnings():  # the tensor type is deprecated; the kernel has no other
            warnings.simplefilter("ignore")
            kept = torch._make_per_channel_quantized_tensor(
                weight.values.contiguous(), scales, torch.zeros(rows, dtype=torch.long), 0
            )
            bias = None if bias is None else bias.detach()
            self.packed = torch.ops.quantized.linear_prepack(kept, bias)
        self.reduce_range = reduce_range

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)"""
        return torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)


class QuantizedEmbedding(nn.Module):
    """A table of integers, one scale a row; the rows that are looked up are made float.

    table  (rows, width) and its scales (rows, 1)
    """

    def __init__(self, table: QuantizedTensor) -> None:
        super().__init__()
        self.register_buffer("values", table.values)
        self.register_buffer("scale", table.scale)

    def forward(self, ids: Tensor) -> Tensor:
        """(…) → (…, width)"""
        return self.values[ids].to(self.scale.dtype) * self.scale[ids]


FILE = "quantized.safetensors"
ABOUT = "quantized.json"  # bits and shapes of what is packed, heads of every layer


def save_quantized(
    model: nn.Module, tokenizer: Tokenizer, folder: Path | str, embedding_bits: int | None = 8
) -> Path:
    """Write a model of `fake_quantize_model`: packed integers and scales, all else in float.

    embedding_bits  of the tables; None writes them in float
    returns         the file; `load_quantized` reads its folder

    Only weights are written: at loading, layers of 8 bits get the dynamic kernel.
    """
    folder, tensors, about = Path(folder), {}, {}
    folder.mkdir(parents=True, exist_ok=True)

    def keep(name: str, q: QuantizedTensor) -> None:
        tensors[f"{name}.values"] = to_bytes(q.values, q.bits)
        tensors[f"{name}.scale"] = q.scale.clone()
        about[name] = {"bits": q.bits, "shape": list(q.values.shape)}

    for name, part in model.named_modules():
        if isinstance(part, FakeQuantLinear) and part.weight_bits is not None:
            keep(name, part.integers())
        elif isinstance(part, nn.Embedding) and embedding_bits is not None:
            keep(name, quantize(part.weight.detach(), embedding_bits, axis=0))
    for name, tensor in model.state_dict().items():
        if name.removesuffix(".weight") not in about:
            tensors[name] = tensor.contiguous()
    save_file(tensors, folder / FILE)
    heads = [layer.attention.num_heads for layer in model.bert.encoder.layers]
    text = json.dumps({"packed": about, "heads": heads})
    (folder / ABOUT).write_text(text, encoding="utf-8")
    model.config.save(folder, model.architecture)
    save_labels(folder, model.labels)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / FILE


def load_quantized(folder: Path | str, reduce_range: bool = True) -> TextClassifier:
    """The classifier of a folder that `save_quantized` wrote.

    Layers of 8 bits run on integers (`Int8Linear`), but for those with groups. Others are made
    float again: small on disk, and as fast as float. Raises ValueError for a folder without the
    files.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file() or not (folder / ABOUT).is_file():
        raise ValueError(f"{folder} holds no {FILE} with {ABOUT}; write it with save_quantized.")
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    tensors = load_file(folder / FILE)
    with torch.device("meta"):  # no memory for floats that are never read
        model = BertForSequenceClassification(BertConfig.from_folder(folder), read_labels(folder))
    for layer, heads in zip(model.bert.encoder.layers, about["heads"]):
        layer.attention.num_heads = heads  # fewer, where some were pruned (lesson 12)
    for name, one in about["packed"].items():
        values = from_bytes(tensors.pop(f"{name}.values"), one["bits"], one["shape"])
        scale = tensors.pop(f"{name}.scale")
        q = QuantizedTensor(values, scale, torch.zeros_like(scale, dtype=torch.int32), one["bits"])
        part, owner = model.get_submodule(name), name.rpartition(".")[0]
        if isinstance(part, nn.Embedding):
            new = QuantizedEmbedding(q)
        elif one["bits"] == 8 and values.dim() == 2:
            new = Int8Linear(q, tensors.pop(f"{name}.bias", None), reduce_range)
        else:
            weight = q.dequantize().flatten(1)  # (out, in)
            bias = tensors.pop(f"{name}.bias", None)
            new = nn.Linear(weight.size(1), weight.size(0), bias is not None, device="meta")
            new.weight = nn.Parameter(weight)
            new.bias = None if bias is None else nn.Parameter(bias)
        setattr(model.get_submodule(owner), name.rpartition(".")[2], new)
    tensors |= {k: v for k, v in model.state_dict().items() if k not in tensors and not v.is_meta}
    model.load_state_dict(tensors, assign=True)
    return TextClassifier(model.eval(), load_tokenizer(folder))
