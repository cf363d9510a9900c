import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.training import label_smoothed_cross_entropy, noam_rate


@settings(max_examples=50, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    classes=st.integers(1, 7),
    smoothing=st.floats(0, 1),
    ignore_index=st.sampled_from([-100, 0]),
    seed=st.integers(0, 999),
)
def test_label_smoothing_equals_pytorchs(shape, classes, smoothing, ignore_index, seed):
    torch.manual_seed(seed)
    logits = 3 * torch.randn(*shape, classes, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(classes, shape)
    labels[torch.rand(shape) < 0.3] = ignore_index
    ours = label_smoothed_cross_entropy(logits, labels, smoothing, ignore_index)
    theirs = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(),
        label_smoothing=smoothing, ignore_index=ignore_index,
    )  # fmt: skip
    torch.testing.assert_close(ours, theirs, equal_nan=True)  # NaN where no label counts
    if not ours.isnan():
        (gradient,) = torch.autograd.grad(ours, logits)
        (expected,) = torch.autograd.grad(theirs, logits)
        torch.testing.assert_close(gradient, expected)


def test_smoothing_by_hand_on_three_classes():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    target = torch.tensor([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])
    expected = -(target * logits).sum()
    loss = label_smoothed_cross_entropy(logits, torch.tensor([0]), 0.1)
    torch.testing.assert_close(loss, expected)


def test_ignored_labels_do_not_count_at_all():
    logits, labels = torch.randn(4, 5), torch.tensor([1, 0, 2, 0])
    short = label_smoothed_cross_entropy(logits[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(label_smoothed_cross_entropy(logits, labels, ignore_index=0), short)


@pytest.mark.parametrize("smoothing", [-0.1, 1.5])
def test_smoothing_outside_its_range_is_named(smoothing):
    with pytest.raises(ValueError, match="between 0 and 1"):
        label_smoothed_cross_entropy(torch.randn(2, 3), torch.tensor([0, 1]), smoothing)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"need labels of shape \(2,\)"):
        label_smoothed_cross_entropy(torch.randn(2, 3), torch.tensor([0, 1, 2]))


def test_noam_rises_in_a_line_and_falls_as_one_over_the_root():
    rates = [noam_rate(step, 512, 100) for step in range(1, 401)]
    assert max(rates) == rates[99] == pytest.approx((512 * 100) ** -0.5)
    assert rates[49] == pytest.approx(rates[99] / 2)
    assert rates[399] == pytest.approx(rates[99] / 2)  # four times the steps


def test_the_papers_highest_rate():
    assert noam_rate(4000, 512) == pytest.approx(1 / math.sqrt(512 * 4000))
    assert 6.9e-4 < noam_rate(4000, 512) < 7.0e-4


@pytest.mark.parametrize("step, warmup", [(0, 10), (-1, 10), (5, 0)])
def test_noam_counts_from_one(step, warmup):
    with pytest.raises(ValueError, match="counted from 1"):
        noam_rate(step, 64, warmup)
