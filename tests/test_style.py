"""Tables, numbers and figures: what the reader sees."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.classroom.style import figure, format_number, label_lines, show, table, use_style


def test_show_prints_rows_without_minus_zero(capsys):
    show(torch.tensor([0.4288, -0.0001]), torch.eye(2, dtype=torch.long))
    assert capsys.readouterr().out == "[0.429 0.000]\n[1 0]\n[0 1]\n"


def test_show_refuses_three_axes():
    with pytest.raises(ValueError, match="two axes"):
        show(torch.zeros(1, 2, 3))


@pytest.mark.parametrize(
    "value, text",
    [(7087872, "7,087,872"), (-0.0004, "0.000"), (1234.5, "1,234.500"), (True, "yes"), (None, "–")],
)
def test_numbers_as_a_person_writes_them(value, text):
    assert format_number(value) == text


def test_a_table_marks_its_best_row_in_text_and_html():
    made = table({"how": ["a", "b"], "loss": [0.5, 0.25]}, digits=2, best="loss:min", caption="c")
    assert repr(made).splitlines() == ["c", "how  loss", "---  ----", "a    0.50", "* b  0.25"]
    html = made._repr_html_()
    assert "b ← best" in html and "a ← best" not in html and "<caption>c</caption>" in html


def test_a_table_escapes_html():
    assert "<b>" not in table({"x": ["<b>"]})._repr_html_()


def test_a_table_refuses_ragged_columns_and_unknown_best():
    with pytest.raises(ValueError, match="one length"):
        table({"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match="column:max"):
        table({"a": [1]}, best="b:max")


def test_tensors_in_a_table_are_numbers():
    assert "0.50" in repr(table({"x": torch.tensor([0.5])}, digits=2))


def test_figures_have_the_house_size():
    use_style()
    fig, ax = figure()
    assert tuple(fig.get_size_inches()) == (6.5, 3.6) and fig.dpi == 110
    plt.close(fig)


def test_labels_of_lines_do_not_overlap_and_stay_inside():
    fig, ax = figure()
    for i in range(4):
        ax.plot([0, 1], [0, 1 + i * 0.001], label=f"line {i}")
    label_lines(ax)
    fig.canvas.draw()
    boxes = sorted((t.get_window_extent() for t in ax.texts), key=lambda b: b.y0)
    assert [t.get_text() for t in ax.texts] == [f"line {i}" for i in range(4)]
    assert all(low.y1 <= high.y0 + 1 for low, high in zip(boxes, boxes[1:]))
    assert boxes[-1].y1 <= fig.bbox.height and boxes[-1].x1 <= fig.bbox.width
    plt.close(fig)
