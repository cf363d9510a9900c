"""Lesson 06: out-of-scope queries: scores of confidence, and the rule that turns one into "none".

A classifier of `labels` has one of them for everything else, at the index `oos`. Either that class
competes with the others (argmax), or a query is out of scope when no other class is likely enough
(threshold). All functions take logits (queries, labels) and the index `oos`.
"""

import math

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor


def in_scope(logits: Tensor, oos: int) -> Tensor:
    """The logits without the out-of-scope column: (queries, labels − 1)."""
    check(logits, oos)
    return torch.cat([logits[:, :oos], logits[:, oos + 1 :]], dim=1)


def max_probability(logits: Tensor, oos: int) -> Tensor:
    """(queries,): the largest probability of an in-scope label, softmax over all labels.

    Source: Hendrycks and Gimpel 2017, "A Baseline for Detecting Misclassified and
    Out-of-Distribution Examples", section 2.
    """
    return in_scope(logits.softmax(-1), oos).amax(-1)


def max_logit(logits: Tensor, oos: int) -> Tensor:
    """(queries,): the largest in-scope logit; what softmax forgets, how large it was, counts."""
    return in_scope(logits, oos).amax(-1)


def negative_energy(logits: Tensor, oos: int) -> Tensor:
    """(queries,): log Σ exp of the in-scope logits, the higher the more in scope.

    Source: Liu et al. 2020, "Energy-based Out-of-distribution Detection", section 3 (T = 1).
    """
    return in_scope(logits, oos).logsumexp(-1)


def not_the_class(logits: Tensor, oos: int) -> Tensor:
    """(queries,): 1 − the probability of the learned out-of-scope class."""
    check(logits, oos)
    return 1 - logits.softmax(-1)[:, oos]


CONFIDENCES = {
    "max probability": max_probability,
    "max logit": max_logit,
    "energy": negative_energy,
    "learned class": not_the_class,
}


def auroc(confidence: Tensor, labels: Tensor, oos: int) -> float:
    """How well a confidence ranks: the chance that an in-scope query has more of it than an
    out-of-scope one; 0.5 is a coin. confidence (queries,), labels (queries,)

    Raises ValueError unless there are queries of both kinds.
    """
    known = labels != oos
    if known.all() or not known.any():
        raise ValueError("AUROC compares two kinds: queries in scope and out of scope are needed.")
    return float(roc_auc_score(known.cpu(), confidence.cpu()))


def decide(logits: Tensor, oos: int, threshold: float | None = None) -> Tensor:
    """→ (queries,) label numbers.

    threshold None: argmax over all labels. Else: the likeliest in-scope label where its
    probability is at least the threshold, and out of scope where it is not.
    """
    check(logits, oos)
    if threshold is None:
        return logits.argmax(-1)
    others = logits.clone()
    others[:, oos] = -math.inf
    return torch.where(max_probability(logits, oos) >= threshold, others.argmax(-1), oos)


def choose_threshold(logits: Tensor, labels: Tensor, oos: int, max_loss: float = 0.01) -> float:
    """The largest threshold that loses at most `max_loss` of the in-scope accuracy.

    logits, labels  of validation queries; only those in scope are looked at: a service sees what it
                    was not made for only after it is in use
    max_loss        in accuracy: 0.01 is one point below what threshold 0 gives

    Raises ValueError when no query is in scope, or max_loss is not in [0, 1).
    """
    if not 0 <= max_loss < 1:
        raise ValueError(f"max_loss is {max_loss}; it is a share of the queries, in [0, 1).")
    known = labels != oos
    if not known.any():
        raise ValueError("no query is in scope; the threshold is chosen on those.")
    logits, labels = logits[known], labels[known]
    right = decide(logits, oos, threshold=0.0) == labels
    confidence = max_probability(logits, oos)[right].sort().values  # (right ones,)
    lost = math.floor(max_loss * len(labels) + 1e-9)  # so many right answers may be given up
    return confidence[lost].item() if lost < len(confidence) else 1.0


def scores(logits: Tensor, labels: Tensor, oos: int, threshold: float) -> dict[str, float]:
    """What a decision costs and brings, by argmax and by threshold, and the ranking's quality.

    accuracy         of all queries
    in_scope         accuracy of the queries that are in scope
    oos_recall       share of the out-of-scope queries that are recognised
    auroc            of the largest in-scope probability; auroc_energy of the energy
    """
    known = labels != oos
    row = {}
    for name, tau in (("argmax", None), ("threshold", threshold)):
        right = decide(logits, oos, tau) == labels
        row |= {
            f"accuracy_{name}": right.float().mean().item(),
            f"in_scope_{name}": right[known].float().mean().item(),
            f"oos_recall_{name}": right[~known].float().mean().item(),
        }
    row["auroc"] = auroc(max_probability(logits, oos), labels, oos)
    row["auroc_energy"] = auroc(negative_energy(logits, oos), labels, oos)
    return row | {"threshold": threshold}


def check(logits: Tensor, oos: int) -> None:
    """Raise ValueError unless logits are (queries, labels) and `oos` is one of the labels."""
    if logits.dim() != 2 or not 0 <= oos < logits.size(1) or logits.size(1) < 2:
        raise ValueError(
            f"logits {tuple(logits.shape)} must be (queries, labels), with the out-of-scope label "
            f"{oos} among at least two."
        )
