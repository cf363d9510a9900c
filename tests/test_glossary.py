"""The glossary: how it shows, and that data/glossary.csv is sound."""

import csv
import re

import pytest

from course_utils.classroom import shown
from course_utils.classroom.glossary import COLUMNS, glossary, read_glossary
from course_utils.classroom.lessons import LESSONS

ROWS = """term,chinese,abbreviation,meaning,lesson
logit,对数几率,,"a score, before softmax",01
feed-forward network,前馈网络,FFN,`two` linear layers; a < b,02
attention,注意力,,a weighted average,01
"""


@pytest.fixture
def data(tmp_path, monkeypatch):
    (tmp_path / "glossary.csv").write_text(ROWS, encoding="utf-8")
    monkeypatch.setattr(shown, "DATA", tmp_path)


def test_glossary_of_a_lesson_has_its_terms_in_order(data):
    assert repr(glossary("01")).splitlines() == [
        "attention (注意力): a weighted average",
        "logit (对数几率): a score, before softmax",
    ]


def test_one_term_is_found_by_name_abbreviation_and_chinese(data):
    for name in ("feed-forward network", "FFN", "ffn", "前馈网络"):
        html = glossary(term=name)._repr_html_()
        assert re.findall(r"<td[^>]*>(.*?)</td>", html) == [
            "feed-forward network",
            "前馈网络",
            "FFN",
            "<code>two</code> linear layers; a &lt; b",
        ]


def test_glossary_without_arguments_has_all_terms(data):
    assert len(repr(glossary()).splitlines()) == 3


def test_bad_input_is_refused_and_the_nearest_named(data):
    with pytest.raises(ValueError, match="no term 'logits'; the nearest is 'logit'"):
        glossary(term="logits")
    with pytest.raises(ValueError, match="no lesson '99'"):
        glossary("99")


def test_the_file_is_sound():
    with open(shown.DATA / "glossary.csv", encoding="utf-8", newline="") as file:
        assert tuple(next(csv.reader(file))) == COLUMNS
        assert all(len(row) == len(COLUMNS) for row in csv.reader(file)), "a comma wants quotes"
    rows = read_glossary()
    for row in rows:
        assert row["term"] and row["chinese"] and row["meaning"], row
        assert row["lesson"] in LESSONS, row
        assert len(row["meaning"]) <= 200, f"{row['term']}: one line"
        assert re.search(r"[\u4e00-\u9fff]", row["chinese"]) or row["chinese"].isascii(), row
    names = [row["term"].lower() for row in rows]
    assert len(set(names)) == len(names), "a term stands twice"
