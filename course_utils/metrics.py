"""What lessons 06 and 08 measure: accuracy in and out of scope, entity F1, exact match and F1.

All scores are fractions of 1.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

import nervaluate
import torch

# --- Intents ----------------------------------------------------------------------------------


class ScopeScores(TypedDict):
    """`accuracy` over all; `in_scope_accuracy` over the texts that have an intent;
    `out_of_scope_recall`, the share found of those that have none; `out_of_scope_precision`, the
    share that is right of those called out of scope. nan where there is nothing to count."""

    accuracy: float
    in_scope_accuracy: float
    out_of_scope_recall: float
    out_of_scope_precision: float


def scope_scores(
    labels: Sequence[int] | torch.Tensor,
    predictions: Sequence[int] | torch.Tensor,
    out_of_scope: int,
) -> ScopeScores:
    """Accuracy, in scope and out of scope apart: one number hides which of them it gave up.

    labels, predictions  (texts,) class numbers
    out_of_scope         the number of the class "none of the intents"

    Raises ValueError for shapes that differ, are not (texts,), or empty. The two measures are those
    of Larson et al. 2019, "An Evaluation Dataset for Intent Classification and Out-of-Scope
    Prediction".
    """
    labels, predictions = torch.as_tensor(labels), torch.as_tensor(predictions)
    if labels.shape != predictions.shape or labels.dim() != 1 or len(labels) == 0:
        raise ValueError(
            "labels and predictions must be (texts,) of the same length, at least 1; they are "
            f"{tuple(labels.shape)} and {tuple(predictions.shape)}."
        )
    predictions = predictions.to(labels.device)
    right = labels == predictions
    is_out, called_out = labels == out_of_scope, predictions == out_of_scope

    def share(of: torch.Tensor) -> float:
        return right[of].double().mean().item() if of.any() else math.nan

    return {
        "accuracy": right.double().mean().item(),
        "in_scope_accuracy": share(~is_out),
        "out_of_scope_recall": share(is_out),
        "out_of_scope_precision": share(called_out),
    }


# --- Entities ---------------------------------------------------------------------------------


def entity_scores(
    true_tags: Sequence[Sequence[str]], predicted_tags: Sequence[Sequence[str]]
) -> dict:
    """Entity-level precision, recall and F1, micro-averaged: right is right type *and* both ends.

    true_tags, predicted_tags  for each sentence its tags in BIO: "O", "B-person", "I-person"

    → {"precision", "recall", "f1", "entities" (how many there are), "predicted" (how many were
    found), "by_type": {type: the same five}}. An I-x that continues no x begins an entity, as in
    CoNLL's script. A ratio over nothing is 0.

    Counted by nervaluate, "strict". Source: Tjong Kim Sang and De Meulder 2003, "Introduction to
    the CoNLL-2003 Shared Task", section 2. Raises ValueError for sentences or tags that do not
    match in number, and for what is no tag.
    """
    true, predicted = [list(tags) for tags in true_tags], [list(tags) for tags in predicted_tags]
    if len(true) != len(predicted) or not true:
        raise ValueError(
            f"{len(true)} sentences of true tags, {len(predicted)} of predicted ones: the same "
            "number of both is needed, at least 1."
        )
    for number, (a, b) in enumerate(zip(true, predicted)):
        if len(a) != len(b):
            raise ValueError(f"sentence {number} has {len(a)} true tags and {len(b)} predicted.")
        wrong = [tag for tag in a + b if not isinstance(tag, str) or not _TAG.fullmatch(tag)]
        if wrong:
            raise ValueError(f"sentence {number}: {wrong[0]!r} is no BIO tag (O, B-type, I-type).")
    types = sorted({tag[2:] for tags in true + predicted for tag in tags if tag != "O"})
    found = nervaluate.Evaluator(true, predicted, tags=types, loader="list").evaluate()
    return {
        **_entity_figures(found["overall"]["strict"]),
        "by_type": {kind: _entity_figures(found["entities"][kind]["strict"]) for kind in types},
    }


_TAG = re.compile(r"O|[BI]-\S+")


def _entity_figures(result: nervaluate.entities.EvaluationResult) -> dict[str, float]:
    return {
        "precision": float(result.precision),
        "recall": float(result.recall),
        "f1": float(result.f1),
        "entities": result.possible,
        "predicted": result.actual,
    }


# --- Answers ----------------------------------------------------------------------------------

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, articles (a, an, the) and surplus white space.

    Source: Rajpurkar et al. 2016, "SQuAD", section 6.1 ("ignore punctuations and articles").
    """
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, answers: str | Sequence[str]) -> float:
    """1.0 if the normalised prediction equals one of the normalised answers, else 0.0.

    answers  one or several right ones; "" or [] means that the question has no answer, and then
             only "" is right (a prediction of nothing but articles and punctuation counts as "")
    """
    return max(float(normalize_answer(prediction) == right) for right in _right_answers(answers))


def answer_f1(prediction: str, answers: str | Sequence[str]) -> float:
    """Overlap of the normalised words, as bags: 2 · precision · recall / (precision + recall).

    The best value over the right answers. Where prediction or answer is empty ("no answer"), 1.0 if
    both are, else 0.0. Source: Rajpurkar et al. 2016, section 6.1; 2018, "Know What You Don't
    Know" (SQuAD 2.0), for no answer.
    """
    return max(_word_f1(normalize_answer(prediction), right) for right in _right_answers(answers))


def answer_scores(predictions: Sequence[str], answers: Sequence[str | Sequence[str]]) -> dict:
    """Means over questions: {"exact_match", "f1", "questions", and of those apart "answerable": {…}
    and "unanswerable": {…}} with the same three; nan where there is none of a kind.

    predictions  for each question a text, "" for "there is no answer"
    answers      for each question a right answer or several; "" or [] for none

    Raises ValueError where their numbers differ or are 0.
    """
    if len(predictions) != len(answers) or not len(predictions):
        raise ValueError(
            f"{len(predictions)} predictions for {len(answers)} questions: the same number of both "
            "is needed, at least 1."
        )
    rows = [
        (_right_answers(right) != [""], exact_match(text, right), answer_f1(text, right))
        for text, right in zip(predictions, answers)
    ]
    return {
        **_means(rows),
        "answerable": _means([row for row in rows if row[0]]),
        "unanswerable": _means([row for row in rows if not row[0]]),
    }


def _means(rows: list[tuple[bool, float, float]]) -> dict[str, float]:
    count = len(rows)
    return {
        "exact_match": sum(row[1] for row in rows) / count if count else math.nan,
        "f1": sum(row[2] for row in rows) / count if count else math.nan,
        "questions": count,
    }


def _right_answers(answers: str | Sequence[str]) -> list[str]:
    """Normalised, without empty ones; [""] when none is left: the question has no answer."""
    texts = [answers] if isinstance(answers, str) else answers
    return [right for right in map(normalize_answer, texts) if right] or [""]


def _word_f1(prediction: str, answer: str) -> float:
    words, right = prediction.split(), answer.split()
    if not words or not right:
        return float(words == right)
    shared = sum((Counter(words) & Counter(right)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(words), shared / len(right)
    return 2 * precision * recall / (precision + recall)
