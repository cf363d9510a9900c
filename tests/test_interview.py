"""The interview corner: how it shows, and that every file in data/interview is sound."""

import re

import pytest
import yaml

from course_utils.classroom import shown
from course_utils.classroom.interview import LEVELS, interview

ITEM = {
    "id": "01/why-root",
    "topic": "attention",
    "level": "junior",
    "question": {"en": "Why √d_k and not d_k?"},
    "answer": {"en": "Its standard deviation is √d_k; `softmax` saturates."},
    "points": ["variance", "saturation"],
    "wrong": {"answer": "To normalise.", "why": "Softmax does that anyway."},
    "follow_ups": ["Additive attention?"],
    "proof": "01#spread-of-scores",
}
FILES = sorted((shown.DATA / "interview").glob("*.yaml"))


@pytest.fixture
def data(tmp_path, monkeypatch):
    (tmp_path / "interview").mkdir()
    (tmp_path / "interview" / "01.yaml").write_text(yaml.safe_dump([ITEM]))
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(shown, "DATA", tmp_path)
    monkeypatch.setattr(shown, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


def test_interview_folds_everything_but_the_question(data):
    html = interview("01")._repr_html_()
    question, answer = html.split("<details>")
    assert "Why √d_k and not d_k?" in question and "(junior)" in question
    for part in (
        "<code>softmax</code> saturates.",
        "<li>variance</li><li>saturation</li>",
        "“To normalise.” Softmax does that anyway.",
        "<li>Additive attention?</li>",
        '<a href="#cell-id=spread-of-scores">spread of scores</a>',
    ):
        assert part in answer and part not in question
    assert "<script" not in html and "color" not in html and "http" not in html


def test_interview_as_text_is_the_questions(data):
    assert repr(interview("01")) == "(junior) Why √d_k and not d_k?"
    assert interview("01")._repr_html_() == interview("01")._repr_html_()


def test_proof_in_another_lesson_links_to_its_notebook(data):
    assert shown.proof_link("02#one-layer", "01") == "one layer, lesson 02"  # not written yet
    (data / "notebooks" / "02_encoder.ipynb").touch()
    link = '<a href="02_encoder.ipynb#cell-id=one-layer">one layer, lesson 02</a>'
    assert shown.proof_link("02#one-layer", "01") == link


def test_bad_input_is_refused_in_one_line(data):
    with pytest.raises(ValueError, match="no lesson 'x'"):
        interview("x")
    with pytest.raises(ValueError, match="lesson '03' .*has no interview yet; the nearest.*'01'"):
        interview("03")
    with pytest.raises(ValueError, match="01/why-root has no text in 'zh'; it has en"):
        interview("01", language="zh")


@pytest.mark.parametrize("path", FILES, ids=[p.stem for p in FILES])
def test_interview_file_is_sound(path):
    items = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert items
    for item in items:
        assert set(item) == set(ITEM), item["id"]
        assert item["id"].startswith(f"{path.stem}/"), item["id"]
        assert item["level"] in LEVELS, item["id"]
        assert re.fullmatch(r"\d\d#[a-z0-9][a-z0-9-]*", item["proof"]), item["id"]
        assert item["question"]["en"].strip().endswith(("?", ".")), item["id"]
        words = len(item["answer"]["en"].split())
        assert 20 <= words <= 110, f"{item['id']}: {words} words are not 30 seconds"
        assert len(item["points"]) >= 2 and len(item["follow_ups"]) >= 1, item["id"]
        assert set(item["wrong"]) == {"answer", "why"}, item["id"]
        texts = [*item["points"], *item["follow_ups"], *item["wrong"].values()]
        texts += [*item["question"].values(), *item["answer"].values()]
        assert all(isinstance(t, str) and t.strip() and "$" not in t for t in texts), item["id"]


def test_ids_are_unique_over_all_lessons():
    ids = [i["id"] for path in FILES for i in yaml.safe_load(path.read_text(encoding="utf-8"))]
    assert len(set(ids)) == len(ids)
