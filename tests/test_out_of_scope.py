"""Out-of-scope scores and the threshold rule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.out_of_scope import (
    CONFIDENCES,
    auroc,
    choose_threshold,
    decide,
    max_logit,
    max_probability,
    negative_energy,
    not_the_class,
    scores,
)

SETTINGS = settings(max_examples=40, deadline=None)
OOS = 2


def queries(n=80, labels=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(labels, (n,), generator=generator)
    logits = torch.randn(n, labels, generator=generator)
    logits[torch.arange(n), y] += 2.0
    return logits, y


def test_confidences_by_hand():
    logits = torch.log(torch.tensor([[0.2, 0.3, 0.5]]))
    assert max_probability(logits, OOS).item() == pytest.approx(0.3)
    assert max_logit(logits, OOS).item() == pytest.approx(math.log(0.3))
    assert negative_energy(logits, OOS).item() == pytest.approx(math.log(0.5))
    assert not_the_class(logits, OOS).item() == pytest.approx(0.5)


def test_energy_sees_how_large_logits_are_and_softmax_does_not():
    logits, _ = queries()
    others = [i for i in range(5) if i != OOS]
    larger = logits + 3.0
    torch.testing.assert_close(max_probability(larger, OOS), max_probability(logits, OOS))
    torch.testing.assert_close(negative_energy(larger, OOS), negative_energy(logits, OOS) + 3)
    torch.testing.assert_close(max_logit(logits, OOS), logits[:, others].amax(-1))


def test_auroc_counts_pairs_in_the_right_order():
    confidence, labels = torch.tensor([0.9, 0.4, 0.6, 0.4]), torch.tensor([0, 1, OOS, OOS])
    # in scope against out of scope: 0.9 > 0.6, 0.9 > 0.4, 0.4 < 0.6, 0.4 = 0.4 (half)
    assert auroc(confidence, labels, OOS) == pytest.approx(2.5 / 4)
    for label in (0, OOS):
        with pytest.raises(ValueError, match="both|two kinds"):
            auroc(confidence, torch.full((4,), label), OOS)


def test_decide_by_argmax_lets_the_class_compete_and_by_threshold_does_not():
    logits = torch.log(torch.tensor([[0.3, 0.1, 0.6], [0.7, 0.2, 0.1], [0.4, 0.35, 0.25]]))
    assert decide(logits, OOS).tolist() == [OOS, 0, 0]
    assert decide(logits, OOS, 0.0).tolist() == [0, 0, 0]
    assert decide(logits, OOS, 0.4).tolist() == [OOS, 0, 0]
    assert decide(logits, OOS, 0.5).tolist() == [OOS, 0, OOS]


@SETTINGS
@given(st.integers(0, 400), st.floats(0, 0.6), st.integers(20, 90))
def test_the_threshold_is_the_largest_that_keeps_its_promise(seed, max_loss, n):
    logits, y = queries(n, seed=seed)
    known = y != OOS
    threshold = choose_threshold(logits, y, OOS, max_loss)

    def right(tau):
        return (decide(logits, OOS, tau) == y)[known].sum().item()

    allowed = math.floor(max_loss * known.sum().item() + 1e-9)
    assert right(0.0) - right(threshold) <= allowed
    above = max_probability(logits, OOS)
    above = above[above > threshold]
    if threshold < 1 and len(above):
        assert right(0.0) - right(above.min().item()) > allowed


def test_ties_are_kept_or_given_up_together():
    logits = torch.zeros(10, 4)
    y = torch.tensor([0, 1, 3, 0, 1, 3, 0, 1, 3, 0])
    logits[torch.arange(10), y] = torch.tensor([1.0] * 4 + [3.0] * 6)
    low, high = max_probability(logits, OOS)[[0, 9]].tolist()
    for max_loss, expected in ((0.0, low), (0.3, low), (0.4, high), (0.9, high)):
        assert choose_threshold(logits, y, OOS, max_loss) == pytest.approx(expected)


def test_wrong_answers_and_queries_out_of_scope_cost_nothing():
    logits = torch.log(torch.tensor([[0.9, 0.05, 0.05], [0.3, 0.2, 0.5], [0.2, 0.3, 0.5]]))
    y = torch.tensor([0, 1, OOS])  # right and sure, wrong and unsure, out of scope
    assert choose_threshold(logits, y, OOS, 0.0) == pytest.approx(0.9)


def test_all_may_be_given_up_where_few_are_right():
    logits = torch.eye(3)[[0, 0, 0, 0]]
    assert choose_threshold(logits, torch.tensor([0, 1, 1, 1]), OOS, 0.5) == 1.0


def test_refusals():
    logits, y = queries()
    with pytest.raises(ValueError, match="no query is in scope"):
        choose_threshold(logits, torch.full_like(y, OOS), OOS)
    for max_loss in (-0.1, 1.0):
        with pytest.raises(ValueError, match="max_loss"):
            choose_threshold(logits, y, OOS, max_loss)
    for oos in (5, -1):
        with pytest.raises(ValueError, match="must be"):
            decide(logits, oos)
    with pytest.raises(ValueError, match="must be"):
        decide(logits[0], OOS)
    for confidence in CONFIDENCES.values():
        with pytest.raises(ValueError):
            confidence(logits[:, :1], 0)


def test_scores_tell_both_rules_apart():
    logits, y = queries(400)
    row = scores(logits, y, OOS, threshold=0.6)
    known = y != OOS
    for name, tau in (("argmax", None), ("threshold", 0.6)):
        right = decide(logits, OOS, tau) == y
        assert row[f"accuracy_{name}"] == pytest.approx(right.float().mean().item())
        assert row[f"in_scope_{name}"] == pytest.approx(right[known].float().mean().item())
        assert row[f"oos_recall_{name}"] == pytest.approx(right[~known].float().mean().item())
    assert row["auroc"] == pytest.approx(auroc(max_probability(logits, OOS), y, OOS))
    assert row["threshold"] == 0.6
