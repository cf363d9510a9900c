"""Lesson 06: does 0.9 mean nine times in ten? Reliability, its error, and one number that mends it.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Bin(NamedTuple):
    """Answers whose confidence lies in (low, high]: their share of all, mean confidence, and how
    many of them are right (both nan in an empty bin)."""

    low: float
    high: float
    share: float
    confidence: float
    accuracy: float


def reliability(confidence: Tensor, right: Tensor, bins: int = 10) -> list[Bin]:
    """Answers sorted into bins of equal width by their confidence.

    confidence (answers,) in [0, 1], right (answers,) True or False. Raises ValueError for shapes
    that differ, and for a confidence outside [0, 1].
    """
    confidence, right = torch.as_tensor(confidence), torch.as_tensor(right).bool()
    if confidence.shape != right.shape or confidence.dim() != 1 or not len(confidence):
        raise ValueError(
            f"confidence {tuple(confidence.shape)} and right {tuple(right.shape)} must both be "
            "(answers,), at least one."
        )
    if confidence.min() < 0 or confidence.max() > 1:
        raise ValueError("a confidence is outside [0, 1]; softmax the logits first.")
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1  # (answers,): (low, high]
    found = []
    for i in range(bins):
        inside = place == i
        found.append(
            Bin(
                i / bins,
                (i + 1) / bins,
                inside.double().mean().item(),
                confidence[inside].double().mean().item(),
                right[inside].double().mean().item(),
            )
        )
    return found


def expected_calibration_error(confidence: Tensor, right: Tensor, bins: int = 10) -> float:
    """ECE: the mean gap between confidence and accuracy of the bins, weighted by their shares.

    confidence (answers,) in [0, 1], right (answers,) True or False; bins of equal width (low, high]
    Source: Guo et al. 2017, section 2, equation 3.
    """
    return sum(
        b.share * abs(b.confidence - b.accuracy)
        for b in reliability(confidence, right, bins)
        if b.share
    )


def fit_temperature(
    logits: Tensor, labels: Tensor | Sequence[int], low: float = 0.05, high: float = 20.0
) -> float:
    """The temperature T at which softmax(logits / T) gives the labels the most likelihood.

    logits (queries, labels), labels (queries,), of validation. T > 1 makes a model less sure, T < 1
    surer; the order of its answers, and so its accuracy, stays. The loss has one minimum in 1 / T,
    which is found by golden-section search on log T between `low` and `high`.
    Source: Guo et al. 2017, section 4.2.
    """
    labels = torch.as_tensor(labels)
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} differ.")
    logits = logits.double()

    def loss(log_t: Tensor) -> float:
        return F.cross_entropy(logits / log_t.exp(), labels).item()

    a, b = (torch.tensor(x, dtype=torch.double).log() for x in (low, high))
    ratio = (5**0.5 - 1) / 2
    for _ in range(60):
        c, d = b - ratio * (b - a), a + ratio * (b - a)
        if loss(c) < loss(d):
            b = d
        else:
            a = c
    return ((a + b) / 2).exp().item()
