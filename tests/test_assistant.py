"""The assistant's data: format, counts, that nothing leaks, that it is neither easy nor noise."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from course_utils.data import assistant
from course_utils.data.assistant import (
    OUT_OF_SCOPE,
    SPLITS,
    AnnotationError,
    Span,
    load_assistant,
    near_twins,
    parse_slots,
    read_split,
    read_utterances,
    schema,
    similarity,
)

COUNTS = {"train": (50, 100), "validation": (10, 50), "test": (30, 250)}
UTTERANCES = {split: read_split(split) for split in SPLITS}
EVERYTHING = [utterance for split in SPLITS for utterance in UTTERANCES[split]]


def known():
    return schema()


# --- The format -----------------------------------------------------------------------------------


def test_a_line_becomes_text_and_spans():
    text, spans = parse_slots("move [200 dollars](amount) from [savings](account) please")
    assert text == "move 200 dollars from savings please"
    assert spans == (Span(5, 16, "amount"), Span(22, 29, "account"))
    assert [text[s.start : s.end] for s in spans] == ["200 dollars", "savings"]


def test_a_line_without_slots_stays_as_it_is():
    assert parse_slots("lost it (again), help!") == ("lost it (again), help!", ())


word = st.text("abcdefghij éß😀0123'", min_size=1).filter(lambda text: text == text.strip())


@given(st.lists(st.tuples(word, st.sampled_from(["", "amount", "date"])), min_size=1))
def test_marking_and_parsing_are_inverse(pieces):
    line = " ".join(f"[{text}]({kind})" if kind else text for text, kind in pieces)
    text, spans = parse_slots(line, ["amount", "date"])
    assert text == " ".join(text for text, _ in pieces)
    assert [(text[s.start : s.end], s.type) for s in spans] == [p for p in pieces if p[1]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pay [40 euros(amount)", "column 5: '['"),
        ("pay 40 euros](amount)", "column 13: ']'"),
        ("pay [40 euros] (amount)", "column 5: '['"),
        ("pay [](amount)", "column 5: the span is empty"),
        ("pay [ ](amount)", "column 5: the span is empty"),
        ("pay [40 ](amount)", "column 6: a space at the edge"),
        ("pay [40](sum)", "column 10: 'sum' is no slot type"),
        ("pay [40]()", "column 10: '' is no slot type"),
        ("pay [[40](amount)](amount)", "column 5: '['"),
    ],
)
def test_a_damaged_line_is_refused_with_its_column(line, message):
    with pytest.raises(AnnotationError, match=re.escape(message)):
        parse_slots(line, ["amount", "date"])


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train" / "cards.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# card_lots\nwhere is it\n", "train/cards.txt, line 1: 'card_lots' is no intent"),
        ("where is it\n", "train/cards.txt, line 1: an utterance before the first"),
        ("# card_lost\n\nmy [card(card)\n", "train/cards.txt, line 3, column 4"),
        ("# card_lost\nwhere is it\nWhere is it\n", "line 3: the same text as line 2"),
    ],
)
def test_a_damaged_file_is_refused_with_file_and_line(tmp_path, text, message):
    with pytest.raises(AnnotationError, match=message):
        list(read_utterances(written(tmp_path, text), known()))


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="'dev' is no split; take one of train"):
        read_split("dev")


def test_a_missing_schema_is_named(tmp_path):
    with pytest.raises(ValueError, match="schema.yaml is missing"):
        schema(tmp_path)


# --- What is in it --------------------------------------------------------------------------------


def test_thirty_intents_in_six_domains_of_five():
    assert [len(intents) for intents in known().domains.values()] == [5] * 6
    assert len(set(known().intents)) == 31 and known().intents[-1] == OUT_OF_SCOPE


@pytest.mark.parametrize("split", SPLITS)
def test_every_intent_has_its_number_of_utterances(split):
    counts = Counter(utterance.intent for utterance in UTTERANCES[split])
    each, outside = COUNTS[split]
    assert counts == {name: each for name in known().intents[:-1]} | {OUT_OF_SCOPE: outside}


def test_slots_are_many_of_many_types_and_often_of_several_words():
    spans = [(u.text[s.start : s.end], s.type) for u in EVERYTHING for s in u.slots]
    types = Counter(kind for _, kind in spans)
    assert len(spans) >= 2500 and len(types) >= 10
    assert set(types) == set(known().slots) and min(types.values()) >= 50
    assert sum(" " in text for text, _ in spans) >= 0.25 * len(spans)


@pytest.mark.parametrize("intent", known().intents[:-1])
def test_training_lines_of_an_intent_are_no_template(intent):
    lines = [u for u in UTTERANCES["train"] if u.intent == intent]
    assert len({u.skeleton for u in lines}) >= 40
    assert len({u.skeleton.split()[0] for u in lines}) >= 18  # first words


def test_utterances_are_of_2_to_40_words():
    lengths = [len(u.text.split()) for u in EVERYTHING]
    assert min(lengths) == 2 and max(lengths) in range(30, 41)
    assert sum(length <= 4 for length in lengths) >= 100
    assert sum(length >= 20 for length in lengths) >= 130


# --- That nothing leaks ---------------------------------------------------------------------------


def test_similarity_is_shared_words_over_all_words():
    assert similarity(frozenset("abcd"), frozenset("abce")) == 3 / 5
    assert similarity(frozenset(), frozenset()) == 0


def test_near_twins_are_found_whatever_word_differs():
    def line(text):
        return assistant.Utterance(text, "card_lost", (), Path("train/cards.txt"), 1)

    text = "one two three four five six seven eight nine"  # 8 of 10: 0.8
    others = [line(text.replace(word, "other")) for word in text.split()]
    assert len(list(near_twins([line(text)], others))) == 9
    assert len(list(near_twins([line("a b c d e")], [line("a b c d")]))) == 1  # 4 of 5
    assert not list(near_twins([line("a b c d")], [line("a b c e")]))  # 3 of 5


@pytest.mark.parametrize("split", ["validation", "test"])
def test_no_utterance_has_a_near_twin_in_training(split):
    twins = [f"{a.where}: {b.where}" for a, b in near_twins(UTTERANCES[split], UTTERANCES["train"])]
    assert not twins


def test_no_skeleton_occurs_in_two_splits():
    skeletons = {split: {u.skeleton for u in UTTERANCES[split]} for split in SPLITS}
    assert not skeletons["train"] & skeletons["test"]
    assert not skeletons["train"] & skeletons["validation"]
    assert not skeletons["validation"] & skeletons["test"]


def test_the_check_for_writers_finds_nothing(capsys):
    assert assistant.main(["check"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


def test_the_check_for_writers_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "schema.yaml").write_text(
        "domains: {cards: {card_lost: x}}\nslots: {card: y}\n", encoding="utf-8"
    )
    for split, text in {
        "train": "my [visa](card) is gone since i went to the fair\nlost\nthe [x](date) one\n",
        "test": "my [gold card](card) is gone since i went to the fair\nall of it is gone now\n",
        "validation": "of all it now is gone\n",
    }.items():
        (tmp_path / split).mkdir()
        (tmp_path / split / "cards.txt").write_text("# card_lost\n" + text, encoding="utf-8")
    problems = assistant.check([], tmp_path)
    assert any("train/cards.txt, line 4, column 9: 'date' is no slot type" in p for p in problems)
    assert any("test/cards.txt, line 2: same skeleton as train/cards.txt" in p for p in problems)
    assert any("train/cards.txt, line 3: 1 words" in p for p in problems)
    assert any("near twin of validation/cards.txt, line 2" in p for p in problems)


# --- As a data set --------------------------------------------------------------------------------


def test_load_assistant_returns_three_described_splits():
    data = load_assistant()
    assert {name: len(split) for name, split in data.items()} == {
        "train": 1600, "validation": 350, "test": 1150,
    }  # fmt: skip
    train = data["train"]
    assert train.column_names == ["text", "intent", "slots"]
    assert train.features["intent"].names == known().intents
    assert "written for this course" in train.info.description and train.info.license
    for row, utterance in zip(data["test"], UTTERANCES["test"]):
        assert row["text"] == utterance.text
        assert known().intents[row["intent"]] == utterance.intent
        assert [Span(**slot) for slot in row["slots"]] == list(utterance.slots)


def test_domains_follow_the_order_of_the_labels():
    domains = assistant.intent_domains()
    assert list(domains) == known().intents
    assert domains["card_lost"] == "cards" and domains[OUT_OF_SCOPE] == OUT_OF_SCOPE


# --- Neither easy nor noise -----------------------------------------------------------------------


def test_words_alone_find_between_70_and_90_percent_of_the_intents():
    """TF–IDF and logistic regression; lesson 06 holds its encoder against the same baseline."""
    inside = {split: [u for u in UTTERANCES[split] if u.intent != OUT_OF_SCOPE] for split in SPLITS}
    baseline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=1000))
    baseline.fit([u.text for u in inside["train"]], [u.intent for u in inside["train"]])
    score = baseline.score([u.text for u in inside["test"]], [u.intent for u in inside["test"]])
    assert 0.70 <= score <= 0.90
