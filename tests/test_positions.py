"""Lesson 01's positions: the formulas, and the properties the lesson claims for them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.positions import (
    alibi_bias,
    alibi_slopes,
    apply_rotary,
    sinusoidal_positions,
)


def test_sinusoids_follow_the_papers_formula():
    table = sinusoidal_positions(50, 16)
    for position in (0, 1, 7, 49):
        for i in range(8):
            angle = position / 10_000 ** (2 * i / 16)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_dot_product_of_sinusoids_depends_on_the_distance_only():
    table = sinusoidal_positions(200, 64)
    products = table @ table.T  # (length, length)
    for distance in (0, 1, 5, 50):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-3, rtol=0)
    assert products[0, 0].item() == pytest.approx(32, abs=1e-3)


def test_a_shift_of_sinusoids_is_one_rotation_for_all_positions():
    table, shift = sinusoidal_positions(100, 32).double(), 7
    shifted, start = table[shift:], table[:-shift]
    rotation = torch.linalg.lstsq(start, shifted).solution  # (32, 32), the best linear map
    torch.testing.assert_close(start @ rotation, shifted, atol=1e-4, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8), st.integers(0, 300), st.integers(0, 300))
def test_rotary_scores_depend_on_the_distance_only(seed, pairs, start, shift):
    torch.manual_seed(seed)
    query, key = torch.randn(2, 5, 2 * pairs, dtype=torch.float64).unbind()
    here, there = torch.arange(5) + start, torch.arange(5) + start + shift
    scores = apply_rotary(query, here) @ apply_rotary(key, here).T
    moved = apply_rotary(query, there) @ apply_rotary(key, there).T
    torch.testing.assert_close(scores, moved, atol=1e-3, rtol=1e-3)


def test_rotary_keeps_lengths_and_leaves_position_zero_alone():
    x = torch.randn(2, 3, 6, 8)
    turned = apply_rotary(x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])
    assert not torch.allclose(turned[:, :, 1], x[:, :, 1])
    assert apply_rotary(x.double()).dtype == torch.float64


def test_rotary_turns_by_the_sinusoids_own_angles():
    ones = torch.tensor([1.0, 0.0]).repeat(4).expand(10, 8)  # each pair points along its first axis
    table = sinusoidal_positions(10, 8)
    torch.testing.assert_close(apply_rotary(ones)[:, 0::2], table[:, 1::2])  # cosines
    torch.testing.assert_close(apply_rotary(ones)[:, 1::2], table[:, 0::2])  # sines


def test_alibi_slopes_are_the_papers():
    torch.testing.assert_close(alibi_slopes(8), 2.0 ** -torch.arange(1.0, 9.0))
    torch.testing.assert_close(alibi_slopes(4), torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256]))


def test_alibi_grows_with_distance_on_both_sides():
    bias = alibi_bias(2, 5, 5)
    assert bias.shape == (2, 5, 5)
    assert (bias.diagonal(dim1=-2, dim2=-1) == 0).all()
    torch.testing.assert_close(bias[0, 2], -alibi_slopes(2)[0] * torch.tensor([2.0, 1, 0, 1, 2]))


@pytest.mark.parametrize(
    "call", [lambda: sinusoidal_positions(4, 7), lambda: apply_rotary(torch.ones(4, 7))]
)
def test_odd_widths_are_refused_in_one_line(call):
    with pytest.raises(ValueError, match="even") as error:
        call()
    assert "\n" not in str(error.value)
