"""The quizzes: how they show, and that every file in data/quizzes is sound."""

import json
import re

import pytest

from course_utils.classroom import shown
from course_utils.classroom.quiz import quiz

QUESTION = {
    "id": "01/scale-1",
    "objective": 1,
    "question": "The divisor √d<sub>k</sub> …",
    "type": "multiple_choice",
    "proof": "01#spread-of-scores",
    "answers": [
        {"answer": "falls by √2", "correct": True, "feedback": "`d_k` halves."},
        {"answer": "stays", "correct": False, "feedback": "For a < b it falls."},
    ],
}
FILES = sorted((shown.DATA / "quizzes").glob("*.json"))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder with a quiz for lesson 01 only."""
    (tmp_path / "quizzes").mkdir()
    (tmp_path / "quizzes" / "01.json").write_text(json.dumps([QUESTION]))
    monkeypatch.setattr(shown, "DATA", tmp_path)


def test_quiz_reads_without_javascript(data):
    html = quiz("01")._repr_html_()
    still = html.split("<style>")[0]
    assert "<strong>1.</strong> The divisor √d<sub>k</sub> …" in still
    assert "<li>✓ falls by √2: <code>d_k</code> halves.</li>" in still
    assert "<li>✗ stays: For a &lt; b it falls.</li>" in still
    assert '<a href="#cell-id=spread-of-scores">spread of scores</a>' in still
    assert still.index("<details>") < still.index("✓")  # the answers are folded


def test_quiz_as_text_does_not_give_the_answers_away(data):
    assert repr(quiz("01")) == "1. The divisor √dk …\n   a) falls by √2\n   b) stays"


def test_quiz_carries_jupyterquiz_and_no_address(data):
    html = quiz("01")._repr_html_()
    assert "function check_mc()" in html and "show_questions(" in html
    assert not re.search(r"https?://", html)
    assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=", html)
    assert "(function (MathJax) {" in html  # hides the page's MathJax from jupyterquiz


def test_quiz_is_the_same_at_every_run_and_small(data):
    assert quiz("01")._repr_html_() == quiz("01")._repr_html_()
    assert len(quiz("01")._repr_html_()) < 30_000


def test_text_of_a_question_can_not_end_the_script(data, tmp_path):
    evil = QUESTION | {"question": "</script><img src=x>"}
    (tmp_path / "quizzes" / "01.json").write_text(json.dumps([evil]))
    assert quiz("01")._repr_html_().count("</script>") == 1


def test_unknown_lesson_is_refused_and_the_nearest_named(data):
    with pytest.raises(ValueError, match="no lesson '1'.*'01'"):
        quiz("1")
    with pytest.raises(ValueError, match="lesson '02' .*has no quiz yet; the nearest.*'01'"):
        quiz("02")


@pytest.mark.parametrize("path", FILES, ids=[p.stem for p in FILES])
def test_quiz_file_is_sound(path):
    questions = json.loads(path.read_text(encoding="utf-8"))
    assert questions
    ids = [q["id"] for q in questions]
    assert len(set(ids)) == len(ids), "ids repeat"
    for question in questions:
        assert set(question) == set(QUESTION), question["id"]
        assert question["id"].startswith(f"{path.stem}/"), question["id"]
        assert isinstance(question["objective"], int) and question["objective"] >= 1
        assert question["type"] in ("multiple_choice", "many_choice"), question["id"]
        assert re.fullmatch(r"\d\d#[a-z0-9][a-z0-9-]*", question["proof"]), question["id"]
        right = [a for a in question["answers"] if a["correct"]]
        wanted = len(right) == 1 if question["type"] == "multiple_choice" else len(right) > 1
        assert wanted, f"{question['id']} has {len(right)} right answers"
        assert len(right) < len(question["answers"]) <= 6, question["id"]
        options = [a["answer"] for a in question["answers"]]
        assert len(set(options)) == len(options), question["id"]
        for answer in question["answers"]:
            assert set(answer) == {"answer", "correct", "feedback"}, question["id"]
            assert isinstance(answer["correct"], bool), question["id"]
            assert len(answer["feedback"].split()) >= 3, f"{question['id']}: {answer['answer']}"
        texts = [question["question"], *options, *(a["feedback"] for a in question["answers"])]
        for text in texts:
            assert text.strip() and "$" not in text, f"{question['id']}, Unicode, not LaTeX: {text}"


def test_objectives_are_numbered_without_a_gap():
    for path in FILES:
        numbers = {q["objective"] for q in json.loads(path.read_text(encoding="utf-8"))}
        assert numbers == set(range(1, max(numbers) + 1)), path.name


def test_ids_are_unique_over_all_lessons():
    ids = [q["id"] for path in FILES for q in json.loads(path.read_text(encoding="utf-8"))]
    assert len(set(ids)) == len(ids)
