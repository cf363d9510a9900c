"""Spans shown in their text."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import Rectangle

from course_utils.classroom import draw_marked, marked
from course_utils.data.assistant import parse_slots

LINE = "move [200 dollars](amount) from [savings](account) to <b>"


def test_plain_text_is_the_form_of_the_data():
    text, spans = parse_slots(LINE)
    assert repr(marked([text], [spans])) == LINE


def test_html_frames_the_words_and_escapes_the_rest():
    text, spans = parse_slots(LINE)
    html = marked([text], [spans], names=["1"])._repr_html_()
    assert ">200 dollars</span><sub>&nbsp;amount</sub>" in html
    assert "to &lt;b&gt;" in html and html.count("solid") == 2 and "<b>1</b>" in html


def test_wrong_and_missed_spans_are_said_in_words():
    text, (amount, account) = parse_slots(LINE)
    wrong = (amount.start, amount.end, "date")
    shown = marked([text], [[wrong]], [[amount, account]])
    first, second = repr(shown).splitlines()
    assert first.startswith("move [200 dollars](date, wrong) from savings")
    assert second.strip() == "missed: 200 dollars (amount), savings (account)"
    assert "dashed" in shown._repr_html_()


def test_spans_outside_or_over_each_other_are_refused():
    for spans in ([(0, 9, "x")], [(0, 3, "x"), (2, 4, "y")]):
        with pytest.raises(ValueError, match="overlaps or leaves"):
            marked(["text"], [spans])
    with pytest.raises(ValueError, match="one list of spans a text"):
        marked(["text"], [])


def test_a_drawn_span_stands_behind_its_characters():
    text = "aaaa bbbb cccc\ndddd eeee"
    _, ax = plt.subplots()
    draw_marked(ax, text, [(10, 19, "x")], width=10)  # "cccc" and, on the next line, "dddd"
    assert [t.get_text() for t in ax.texts] == ["aaaa bbbb ", "cccc", "dddd eeee"]
    boxes = [p for p in ax.patches if isinstance(p, Rectangle)]
    assert [(round(p.get_x() + 0.2), round(p.get_width() - 0.4)) for p in boxes] == [(0, 4), (0, 4)]
    plt.close()
