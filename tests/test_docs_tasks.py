"""course_utils/data/docs_tasks.py: pairs and questions out of docstrings, and their baselines."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections import Counter, defaultdict

import pytest

from course_utils.data import docs, docs_tasks
from course_utils.data.docs import Docstring
from course_utils.data.docs_tasks import (
    ASK_DEFAULT,
    ASK_LEFT_OUT,
    ASK_MEANING,
    ASK_TYPE,
    KINDS,
    MAX_CONTEXT,
    PAIRS,
    QUESTIONS,
    answer_by_rules,
    count_pieces,
    load_docs_pairs,
    load_docs_questions,
    module_split,
    overlap,
    overlap_threshold,
    parameter_entries,
    plain,
)
from course_utils.data.weights import cached_encoder
from course_utils.metrics import answer_scores

NUMPY_STYLE = """
    Fit a line to points.

    Parameters
    ----------
    points : array_like of shape (n, 2)
        The points in the plane. They may repeat.
    tol : float, default=0.5
        The smallest step, see :func:`~package.step`.
    weights : ndarray, optional
        Weight of each point. If not given, all points count the same.
    name
        What the line is called in messages.
    *args : object
        Handed on.
    mode : {'fast', 'good'}, optional (default: 'good')

    Returns
    -------
    line : tuple
    """
GOOGLE_STYLE = """
    Train a model.

    Args:
        model (nn.Module): the model that is trained in place.
        steps (int, optional): number of steps.
            Default: ``10``
        verbose: print a line every hundred steps.

    Returns:
        the losses
    """
SPHINX_STYLE = """
    Send a message.

    :param text: what is sent to the other side
    :param port: the port to
        knock at
    :return: nothing
    """


def docstring(text: str, signature: str = "", name: str = "function", module: str = "a.b"):
    return Docstring("numpy", module, name, signature, textwrap.dedent(text).strip())


def entries(text: str, signature: str = "") -> dict:
    return {e.name: e for run in parameter_entries(docstring(text, signature)) for e in run}


def said(entry, what: str) -> str | None:
    span = getattr(entry, what)
    return entry.text[slice(*span)] if span else None


@pytest.fixture(scope="module")
def pairs():
    return load_docs_pairs()


@pytest.fixture(scope="module")
def questions():
    return load_docs_questions()


# --- Reading parameters -----------------------------------------------------------------------


def test_numpy_style_gives_type_default_and_meaning_of_each_parameter():
    found = entries(NUMPY_STYLE)
    assert list(found) == ["points", "tol", "weights", "name", "", "mode"]
    assert found["tol"].text == "tol : float, default=0.5 The smallest step, see step."
    assert [said(found["points"], what) for what in ("type", "default", "meaning")] == [
        "array_like of shape (n, 2)", None, "The points in the plane",
    ]  # fmt: skip
    assert [said(found["tol"], what) for what in ("type", "default")] == ["float", "0.5"]
    assert said(found["weights"], "left_out") == "all points count the same"
    assert [said(found["mode"], what) for what in ("type", "default", "meaning")] == [
        "{'fast', 'good'}", "'good'", None,
    ]  # fmt: skip
    assert said(found["name"], "type") is None
    assert said(found["name"], "meaning") == "What the line is called in messages"


def test_google_and_sphinx_style_are_read_too():
    found = entries(GOOGLE_STYLE)
    assert list(found) == ["model", "steps", "verbose"]
    assert found["steps"].text == "steps (int, optional): number of steps. Default: 10"
    assert [said(found["steps"], what) for what in ("type", "default", "meaning")] == [
        "int", "10", "number of steps",
    ]  # fmt: skip
    assert said(found["verbose"], "type") is None
    found = entries(SPHINX_STYLE)
    assert found["port"].text == ":param port: the port to knock at"
    assert said(found["port"], "meaning") == "the port to knock at"


@pytest.mark.parametrize(
    "signature, default",
    [("", "0.5"), ("points, tol=0.5", "0.5"), ("points, tol=.50", "0.5"), ("points, tol=1", None)],
)
def test_a_default_that_contradicts_the_signature_is_no_answer(signature, default):
    assert said(entries(NUMPY_STYLE, signature)["tol"], "default") == default


@pytest.mark.parametrize(
    "text, default",
    [
        ("Defaults to ``True``.", "True"),
        ("The default value is 'left'.", "'left'"),
        ("10 by default.", "10"),
        ("If True (default), it is drawn.", "True"),
        ("(default: (1, 2))", "(1, 2)"),
        ("The default is the largest of them.", None),
        ("Default is 3. For complex input the default is 4.", None),  # two of them
    ],
)
def test_a_default_is_read_from_prose_where_it_is_clear(text, default):
    found = entries(f"Parameters\n----------\nwidth : int\n    A width of it. {text}\n")
    assert said(found["width"], "default") == default


def test_what_an_entry_does_not_say_is_asked_without_an_answer():
    found = entries(NUMPY_STYLE)
    assert found["points"].silent_on == {"default"}
    assert found["mode"].silent_on == {"meaning"}
    assert found["weights"].silent_on == set()  # it says what happens without them
    assert "type" in entries("Args:\n    gain: loudness of it all\n")["gain"].silent_on
    assert "type" not in entries(GOOGLE_STYLE)["model"].silent_on


def test_a_noun_for_the_parameter_comes_from_its_description():
    found = entries(NUMPY_STYLE)
    assert found["tol"].noun == "the smallest step"
    assert found["name"].noun == ""


def test_mark_up_is_taken_out():
    text = "the :class:`~torch.Tensor` of `size <#x>`_, ``x**2`` or *one* [1]_ and `.Axes`"
    assert plain(text) == "the Tensor of size, x2 or one and Axes" or "**" not in plain(text)
    assert plain("see :func:`~a.b.step`\n  now") == "see step now"


# --- Pairs --------------------------------------------------------------------------------------


def test_pairs_have_their_features_counts_and_balance(pairs):
    assert list(pairs) == list(docs_tasks.SPLITS)
    for rows in pairs.values():
        assert list(rows.features) == ["function", "summary", "label", "kind", "module"]
        assert rows.features["label"].names == ["no", "yes"]
        kinds = Counter(rows["kind"])
        assert kinds["positive"] == sum(rows["label"]) == len(rows) // 2
        assert min(kinds["hard"], kinds["easy"]) > len(rows) // 6
        assert all((row["label"] == 1) == (row["kind"] == "positive") for row in rows)
    if {"torch", "scipy", "sympy"} <= set(docs.docs_corpus().fingerprint):
        assert {split: len(rows) for split, rows in pairs.items()} == PAIRS


def test_the_description_says_where_the_pairs_came_from(pairs, questions):
    for data in (pairs, questions):
        assert f"python {sys.version.split()[0]}" in data["train"].info.description
        assert "licences" in data["train"].info.description


def test_no_module_and_no_summary_is_in_two_splits(pairs):
    for column in ("module", "summary"):
        found = [set(rows[column]) for rows in pairs.values()]
        assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]
    assert all(module_split(m) == split for split, rows in pairs.items() for m in rows["module"])


def test_neither_side_of_a_pair_tells_the_label_alone(pairs):
    for rows in pairs.values():
        for column in ("function", "summary"):
            labels = defaultdict(list)
            for row in rows:
                labels[row[column]].append(row["label"])
            told = sum(len(set(found)) == 1 for found in labels.values())
            assert told <= 0.02 * len(labels)


def test_hard_negatives_are_of_the_same_module_and_easy_ones_of_another(pairs):
    for rows in pairs.values():
        home = {row["summary"]: row["module"] for row in rows if row["kind"] == "positive"}
        for row in rows:
            if row["kind"] != "positive" and row["summary"] in home:
                assert (home[row["summary"]] == row["module"]) == (row["kind"] == "hard")


def test_no_negative_has_the_words_of_the_right_summary(pairs):
    right = {
        (row["module"], row["function"]): row["summary"]
        for rows in pairs.values()
        for row in rows
        if row["label"]
    }
    for rows in pairs.values():
        for row in rows:
            if not row["label"]:
                mine = docs_tasks._stems(right[row["module"], row["function"]])
                other = docs_tasks._stems(row["summary"])
                assert len(mine & other) < 0.6 * len(mine | other)


def test_no_summary_names_its_function(pairs):
    for row in pairs["test"]:
        name = row["function"].split("(")[0].rsplit(".", 1)[-1].strip("_").lower()
        assert not re.search(rf"\b{re.escape(name)}\b", row["summary"].lower())


def test_overlap_counts_the_name_s_words_without_endings():
    assert overlap("Axes.get_labels(minor)", "Return the axes' labels.") == pytest.approx(2 / 3)
    assert overlap("masked_rows(a)", "Mask a row.") == 1
    assert overlap("masked_rows(a)", "Draw a circle.") == 0
    assert overlap("_()", "Anything.") == 0


def test_the_threshold_is_the_best_one_on_the_pairs_given(pairs):
    rows = pairs["train"].select(range(0))
    with pytest.raises(ValueError, match="no pairs"):
        overlap_threshold(rows)
    rows = [
        {"function": "draw_line", "summary": "Draw a line.", "label": 1},
        {"function": "draw_line", "summary": "Draw nothing.", "label": 0},
        {"function": "erase", "summary": "Draw nothing.", "label": 0},
    ]
    assert overlap_threshold(rows) == 1.0


def test_word_overlap_is_a_weak_baseline_of_pairs(pairs):
    threshold = overlap_threshold(pairs["train"])
    test = pairs["test"]
    right = [
        (overlap(row["function"], row["summary"]) >= threshold) == row["label"] for row in test
    ]
    assert 0.5 < sum(right) / len(right) < 0.652


# --- Questions ----------------------------------------------------------------------------------


def test_questions_have_their_features_counts_and_kinds(questions):
    for rows in questions.values():
        assert list(rows.features) == [
            "id", "context", "question", "answer", "start", "kind", "module",
        ]  # fmt: skip
        kinds = Counter(rows["kind"])
        assert set(kinds) == set(KINDS)
        assert kinds["unanswerable"] == pytest.approx(0.2 * len(rows), rel=0.1)
        assert min(kinds.values()) >= 0.15 * len(rows)
        assert len(set(rows["id"])) == len(rows)
    if {"torch", "scipy", "sympy"} <= set(docs.docs_corpus().fingerprint):
        assert {split: len(rows) for split, rows in questions.items()} == QUESTIONS


def test_an_answer_stands_where_it_is_said_to(questions):
    for rows in questions.values():
        for row in rows:
            if row["kind"] == "unanswerable":
                assert (row["answer"], row["start"]) == ("", -1)
            else:
                end = row["start"] + len(row["answer"])
                assert row["context"][row["start"] : end] == row["answer"] == row["answer"].strip()
                assert row["answer"]
                edges = row["context"][row["start"] - 1 : row["start"] + 1] * (row["start"] > 0)
                assert not edges.isalnum(), "it begins inside a word"
                assert not row["context"][end - 1 : end + 1].isalnum() or end == len(row["context"])


def test_no_module_and_no_context_is_in_two_splits(questions):
    for column in ("module", "context"):
        found = [set(rows[column]) for rows in questions.values()]
        assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]


def test_contexts_hold_several_parameters_and_are_short(questions):
    for rows in questions.values():
        for row in rows:
            assert count_pieces(row["context"]) <= MAX_CONTEXT + 2
            assert "\n" not in row["context"] and "  " not in row["context"]
            assert re.search(r"\w", row["question"]) and "{" not in row["question"].split("of")[0]


def test_the_bounds_hold_for_the_encoder_s_own_pieces(pairs, questions):
    folder = cached_encoder()
    if folder is None:
        pytest.skip("the pretrained encoder is not in the cache")
    tokenizer = docs.fast_tokenizer(folder / "vocab.txt")

    def lengths(first, second):
        found = tokenizer.encode_batch(list(zip(first, second, strict=True)))
        return sorted(len(one.ids) for one in found)

    found = lengths(pairs["train"]["function"], pairs["train"]["summary"])
    assert found[-1] <= 64 and found[int(0.99 * len(found))] <= 48
    found = lengths(questions["train"]["question"], questions["train"]["context"])
    assert found[-1] <= 128 and found[int(0.99 * len(found))] <= 96


@pytest.mark.parametrize("wordings", [ASK_DEFAULT, ASK_LEFT_OUT, ASK_TYPE, ASK_MEANING])
def test_there_are_twelve_wordings_and_more_for_the_test_alone(wordings):
    training, unseen = wordings
    assert len(training) >= 12 and len(unseen) >= 8 and not set(training) & set(unseen)
    assert all(wording.count("{p}") == 1 for wording in training + unseen)


def test_wordings_kept_for_the_test_are_not_in_training(questions):
    unseen = [
        re.escape(wording).replace(r"\{p\}", ".+")
        for wordings in (ASK_DEFAULT, ASK_LEFT_OUT, ASK_TYPE, ASK_MEANING)
        for wording in wordings[1]
    ]
    pattern = re.compile("|".join(unseen))
    share = {
        split: sum(bool(pattern.fullmatch(q)) for q in rows["question"]) / len(rows)
        for split, rows in questions.items()
    }
    assert share["train"] == 0
    assert 0.6 < share["validation"] < 0.9 and 0.6 < share["test"] < 0.9


def test_what_a_context_answers_is_not_asked_as_unanswerable(questions):
    for row in questions["test"]:
        if row["kind"] == "unanswerable" and "default" in row["question"]:
            asked = re.findall(r"\w+", row["question"])
            for name, text in re.findall(r"(\w+) : (.*?)(?= \w+ : |$)", row["context"]):
                assert name not in asked or "default" not in text.lower()


def test_the_same_docstrings_give_the_same_data_in_any_process(tmp_path):
    program = (
        "import json, sys; from course_utils.data import docs_tasks as t; "
        "from course_utils.data.docs import Docstring; "
        "d = [Docstring(**one) for one in json.load(open(sys.argv[1]))]; "
        "print(json.dumps([list(t.make_pairs(d)), list(t.make_questions(d))]))"
    )
    chosen = [one for one in docs.docstrings() if one.package == "networkx"][::2]
    outputs = []
    for seed, rows in (("1", chosen), ("2", chosen[::-1])):
        path = tmp_path / f"{seed}.json"
        path.write_text(json.dumps([vars(one) for one in rows]))
        run = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        outputs.append(json.loads(run.stdout))
    assert outputs[0] == outputs[1]
    assert outputs[0][0] and outputs[0][1]


# --- The baseline of questions --------------------------------------------------------------------

CONTEXT = (
    "alpha : float, default=1.0 Constant that multiplies the penalty. max_iter : int, optional "
    "Maximum number of iterations. If not given, it stops by itself. steps (list of int): the "
    "sizes."
)


@pytest.mark.parametrize(
    "question, answer",
    [
        ("What is the default of alpha?", "1.0"),
        ("What type is `max_iter`?", "int"),
        ("What type is the max iter?", "int"),
        ("What type is the number of iterations?", "int"),
        ("What happens if I leave out max_iter?", "it stops by itself"),
        ("What is the default of steps?", ""),
        ("What type is steps?", "list of int"),
        ("What does steps mean?", "the sizes"),
        ("What is the default of beta?", ""),
        ("What is max_iter for?", "Maximum number of iterations"),
    ],
)
def test_the_rules_answer_as_a_programmer_s_regex_would(question, answer):
    assert answer_by_rules(question, CONTEXT) == answer


def test_the_rules_find_nothing_in_nothing():
    assert answer_by_rules("What is alpha?", "") == answer_by_rules("", "") == ""


def test_the_rules_are_a_fair_baseline_and_no_answer_a_low_one(questions):
    test = questions["test"]
    found = [answer_by_rules(row["question"], row["context"]) for row in test]
    assert 0.4 < answer_scores(found, test["answer"])["f1"] < 0.6
    nothing = answer_scores([""] * len(test), test["answer"])
    assert nothing["f1"] == pytest.approx(0.2, abs=0.03)


# --- Bad input ------------------------------------------------------------------------------------


def test_a_docstring_without_parameters_gives_no_entries():
    assert parameter_entries(docstring("Just a line.")) == []
    assert parameter_entries(docstring("")) == []
    assert parameter_entries(docstring("Parameters\n----------\n")) == []
    assert entries(NUMPY_STYLE, "not ( a signature")["tol"].default is not None


def test_too_few_packages_are_said_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(docs, "docstrings", lambda progress=True: [docstring(NUMPY_STYLE)])
    monkeypatch.setattr(
        docs, "docs_corpus", lambda progress=True: docs.Corpus([], {"python": "3"}, [])
    )
    with pytest.raises(ValueError, match="too few packages.*python3 course.py"):
        load_docs_pairs()


def test_the_cache_is_made_again_for_other_packages(monkeypatch, tmp_path, questions):
    calls = []
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(docs, "docstrings", lambda progress=True: calls.append(1) or [])
    for version in ("1", "1", "2"):
        corpus = docs.Corpus([], {"python": version}, [])
        monkeypatch.setattr(docs, "docs_corpus", lambda progress=True, c=corpus: c)
        with pytest.raises(ValueError, match="too few"):
            load_docs_questions()
    assert len(calls) == 2
