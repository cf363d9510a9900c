"""Reliability, its error, and the temperature that mends it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from course_utils.calibration import expected_calibration_error, fit_temperature, reliability

SETTINGS = settings(max_examples=30, deadline=None)


def test_by_hand():
    confidence = torch.tensor([0.95, 0.92, 0.97, 0.62, 0.65, 0.35])
    right = torch.tensor([True, True, False, True, False, False])
    gaps = 3 / 6 * abs(0.94667 - 2 / 3) + 2 / 6 * abs(0.635 - 0.5) + 1 / 6 * 0.35
    assert expected_calibration_error(confidence, right) == pytest.approx(gaps, abs=1e-4)


def test_bins_are_closed_above_and_0_is_in_the_first():
    found = reliability(torch.tensor([0.0, 0.5, 0.50001, 1.0]), torch.ones(4), bins=2)
    assert [b.share for b in found] == [0.5, 0.5]
    assert (found[0].low, found[0].high) == (0.0, 0.5)


def test_an_empty_bin_has_no_mean_and_does_not_count():
    found = reliability(torch.tensor([0.95]), torch.tensor([True]))
    assert found[0].share == 0 and math.isnan(found[0].accuracy)
    assert expected_calibration_error(torch.tensor([0.95]), torch.tensor([True])) == pytest.approx(
        0.05
    )


@SETTINGS
@given(st.integers(0, 1000), st.integers(1, 20))
def test_with_one_bin_it_is_the_gap_of_the_means_and_more_bins_find_no_less(seed, bins):
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(200, generator=generator)
    right = torch.rand(200, generator=generator) < 0.5
    one = expected_calibration_error(confidence, right, bins=1)
    assert one == pytest.approx(abs(confidence.mean() - right.float().mean()).item(), abs=1e-5)
    assert one - 1e-6 <= expected_calibration_error(confidence, right, bins) <= 1


def test_answers_drawn_from_their_own_confidence_are_calibrated():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(50_000, generator=generator)
    right = torch.rand(50_000, generator=generator) < confidence
    assert expected_calibration_error(confidence, right) < 0.01
    assert expected_calibration_error(confidence, ~right) > 0.4


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(true):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 6, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    assert fit_temperature(true * logits, labels) == pytest.approx(true, rel=0.03)


def test_no_other_temperature_has_less_loss():
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(300, 4, generator=generator), torch.arange(300) % 4
    logits[torch.arange(300), labels] += 1.0
    best = fit_temperature(logits, labels)
    losses = [F.cross_entropy(logits / t, labels) for t in (best, best * 0.97, best * 1.03)]
    assert losses[0] == min(losses)


def test_what_is_no_confidence_is_refused():
    with pytest.raises(ValueError, match="softmax"):
        reliability(torch.tensor([1.5]), torch.tensor([True]))
    with pytest.raises(ValueError, match="answers"):
        reliability(torch.tensor([0.5, 0.5]), torch.tensor([True]))
    with pytest.raises(ValueError, match="differ"):
        fit_temperature(torch.zeros(2, 3), torch.tensor([0]))
