"""Wrong answers to lesson 11's exercises that are on no list: the cases must reject them too."""

import torch

from course_utils.quantization import (
    fake_quantize,
    integer_matmul,
    percentile_range,
    round_trip,
    scale_and_zero_point,
)


def scale_twice_as_large(low, high, bits=8, symmetric=True):
    scale, zero_point = scale_and_zero_point(low, high, bits, symmetric)
    return 2 * scale, zero_point


def zero_point_always_in_the_middle(low, high, bits=8, symmetric=True):
    scale, zero_point = scale_and_zero_point(low, high, bits, symmetric)
    return scale, zero_point - 1 if not symmetric else zero_point


def round_trip_that_loses_the_sign(tensor, scale, zero_point, bits=8, symmetric=True):
    return round_trip(tensor.abs(), scale, zero_point, bits, symmetric)


def round_trip_with_stochastic_ends(tensor, scale, zero_point, bits=8, symmetric=True):
    values, back = round_trip(tensor, scale, zero_point, bits, symmetric)
    return values.clamp(-100, 100), back


def round_trip_in_int32(tensor, scale, zero_point, bits=8, symmetric=True):
    values, back = round_trip(tensor, scale, zero_point, bits, symmetric)
    return values.int(), back


def matmul_of_the_transpose(x, weight, x_zero_point=0, weight_zero_point=0):
    return integer_matmul(x, weight, x_zero_point, weight_zero_point).T


def matmul_without_the_last_k(x, weight, x_zero_point=0, weight_zero_point=0):
    return integer_matmul(x[:, :-1], weight[:, :-1], x_zero_point, weight_zero_point)


def percentile_the_other_way_round(values, percentile=99.9):
    low, high = percentile_range(values, percentile)
    return high, low


def percentile_by_spread(values, percentile=99.9):
    percentile_range(values, percentile)
    mean, spread = values.mean().item(), values.std().item()
    return min(0.0, mean - 3 * spread), max(0.0, mean + 3 * spread)


def fake_quantize_with_half_the_gradient(tensor, scale, zero_point, bits=8, symmetric=True):
    found = fake_quantize(tensor, scale, zero_point, bits, symmetric)
    return 0.5 * found + 0.5 * found.detach()


def fake_quantize_with_one_bit_less(tensor, scale, zero_point, bits=8, symmetric=True):
    return fake_quantize(tensor, scale, zero_point, bits - 1, symmetric)


def fake_quantize_by_adding_noise(tensor, scale, zero_point, bits=8, symmetric=True):
    noise = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    return tensor + noise * scale.detach()


WRONG = {
    "quantization/zero-point": [scale_twice_as_large, zero_point_always_in_the_middle],
    "quantization/quantize": [
        round_trip_that_loses_the_sign,
        round_trip_with_stochastic_ends,
        round_trip_in_int32,
    ],
    "quantization/integer-matmul": [matmul_of_the_transpose, matmul_without_the_last_k],
    "quantization/percentile": [percentile_the_other_way_round, percentile_by_spread],
    "quantization/fake-quantize": [
        fake_quantize_with_half_the_gradient,
        fake_quantize_with_one_bit_less,
        fake_quantize_by_adding_noise,
    ],
}
