"""course_utils/metrics.py, on cases worked out by hand."""

import math
import random
import re

import pytest
import torch

from course_utils.metrics import (
    answer_f1,
    answer_scores,
    entity_scores,
    exact_match,
    normalize_answer,
    scope_scores,
)

# --- Intents ----------------------------------------------------------------------------------


def test_accuracy_in_and_out_of_scope_are_counted_apart():
    labels = [0, 0, 1, 1, 9, 9, 9, 9, 9, 9]
    predictions = [0, 9, 1, 0, 9, 9, 9, 1, 1, 1]
    scores = scope_scores(labels, torch.tensor(predictions), out_of_scope=9)
    assert scores == {
        "accuracy": 5 / 10,
        "in_scope_accuracy": 2 / 4,
        "out_of_scope_recall": 3 / 6,
        "out_of_scope_precision": 3 / 4,
    }


def test_what_can_not_be_counted_is_nan():
    scores = scope_scores([0, 1], [0, 0], out_of_scope=9)
    assert scores["accuracy"] == scores["in_scope_accuracy"] == 0.5
    assert math.isnan(scores["out_of_scope_recall"])
    assert math.isnan(scores["out_of_scope_precision"])


@pytest.mark.parametrize("labels, predictions", [([0, 1], [0]), ([], []), ([[0]], [[0]])])
def test_labels_and_predictions_must_go_together(labels, predictions):
    with pytest.raises(ValueError, match="must be .texts,. of the same length"):
        scope_scores(labels, predictions, out_of_scope=9)


# --- Entities ---------------------------------------------------------------------------------


def figures(scores):
    return [scores[name] for name in ("precision", "recall", "f1", "entities", "predicted")]


def test_an_entity_is_right_with_its_type_and_both_ends_only():
    true = [["B-person", "I-person", "O", "B-location", "O", "B-group", "I-group"]]
    predicted = [["B-person", "I-person", "O", "B-group", "O", "B-group", "O"]]
    scores = entity_scores(true, predicted)
    assert figures(scores) == [1 / 3, 1 / 3, 1 / 3, 3, 3]
    assert figures(scores["by_type"]["person"]) == [1, 1, 1, 1, 1]
    assert figures(scores["by_type"]["location"]) == [0, 0, 0, 1, 0]
    assert figures(scores["by_type"]["group"]) == [0, 0, 0, 1, 2]


def test_neighbours_are_two_entities_and_a_stray_i_begins_one():
    true = [["B-x", "B-x"], ["O", "B-x", "I-x"]]
    assert entity_scores(true, [["B-x", "I-x"], ["O", "B-x", "I-x"]])["f1"] == pytest.approx(0.4)
    assert entity_scores(true, [["B-x", "B-x"], ["O", "I-x", "I-x"]])["f1"] == 1


def test_all_o_has_many_right_tokens_and_no_entity():
    scores = entity_scores([["O"] * 9 + ["B-x"]], [["O"] * 10])
    assert figures(scores) == [0, 0, 0, 1, 0]
    assert figures(entity_scores([["O"], []], [["O"], []])) == [0, 0, 0, 0, 0]


def spans(tags):
    """Entities of a well-formed BIO sentence, by a regular expression over one letter a tag."""
    found = set()
    for start, tag in enumerate(tags):
        if tag[0] == "B":
            rest = "".join("i" if t == f"I-{tag[2:]}" else "." for t in tags[start + 1 :])
            found.add((start, len(re.match("i*", rest)[0]), tag[2:]))
    return found


def test_the_count_equals_one_by_sets_on_random_sentences():
    generator = random.Random(0)

    def sentence():
        tags = []
        while len(tags) < 12:
            kind = generator.choice("xyz")
            tags += generator.choice([["O"], [f"B-{kind}"], [f"B-{kind}", f"I-{kind}"]])
        return tags[:12]

    true, predicted = ([sentence() for _ in range(100)] for _ in range(2))
    right = sum(len(spans(a) & spans(b)) for a, b in zip(true, predicted))
    entities = sum(len(spans(a)) for a in true)
    found = sum(len(spans(b)) for b in predicted)
    assert right > 40  # enough of them to tell
    assert figures(entity_scores(true, predicted)) == pytest.approx(
        [right / found, right / entities, 2 * right / (found + entities), entities, found]
    )


@pytest.mark.parametrize(
    "true, predicted, message",
    [
        ([["O"]], [], "1 sentences of true tags, 0 of predicted"),
        ([], [], "at least 1"),
        ([["O"], ["O"]], [["O"], ["O", "O"]], "sentence 1 has 1 true tags and 2 predicted"),
        ([["O"]], [["person"]], "sentence 0: 'person' is no BIO tag"),
        ([["O"]], [[3]], "sentence 0: 3 is no BIO tag"),
    ],
)
def test_tags_that_can_not_be_scored_are_named(true, predicted, message):
    with pytest.raises(ValueError, match=message):
        entity_scores(true, predicted)


# --- Answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, normalised",
    [
        ("The  Panthers' defense!", "panthers defense"),
        ("an apple, a day", "apple day"),
        ("theory of a thing", "theory of thing"),  # "the" within a word stays
        ("U.S.", "us"),
        ("6½", "6½"),
        ("the", ""),
    ],
)
def test_normalisation_drops_case_punctuation_articles_and_spaces(text, normalised):
    assert normalize_answer(text) == normalised


def test_exact_match_and_f1_take_the_best_right_answer():
    assert exact_match("The Denver Broncos.", ["Broncos", "denver broncos"]) == 1
    assert exact_match("Denver", ["Broncos", "denver broncos"]) == 0
    assert answer_f1("Denver", ["Broncos", "denver broncos"]) == pytest.approx(2 / 3)
    assert answer_f1("in Denver", "the city of Denver") == pytest.approx(
        2 * 0.5 / 3 / (0.5 + 1 / 3)
    )


def test_a_word_counts_as_often_as_it_occurs_in_both():
    assert answer_f1("ping ping ping", "ping pong ping") == pytest.approx(2 / 3)


@pytest.mark.parametrize("none", ["", [], [""], ["the"]])
def test_no_answer_is_right_only_where_there_is_none(none):
    assert exact_match("", none) == answer_f1("", none) == 1
    assert exact_match("something", none) == answer_f1("something", none) == 0
    assert exact_match("", "something") == answer_f1("", "something") == 0


def test_means_are_taken_over_all_and_by_kind():
    scores = answer_scores(["Denver", "", "x", "y"], [["denver broncos"], "", "x", []])
    assert scores["exact_match"] == 0.5
    assert scores["f1"] == pytest.approx((2 / 3 + 1 + 1 + 0) / 4)
    assert scores["answerable"] == {"exact_match": 0.5, "f1": pytest.approx(5 / 6), "questions": 2}
    assert scores["unanswerable"] == {"exact_match": 0.5, "f1": 0.5, "questions": 2}
    assert math.isnan(answer_scores(["x"], ["x"])["unanswerable"]["f1"])
    with pytest.raises(ValueError, match="1 predictions for 2 questions"):
        answer_scores(["x"], ["x", "y"])
