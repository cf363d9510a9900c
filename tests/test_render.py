"""`course.py render`: what it writes, and what it refuses to write."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from course_utils.classroom import render


@pytest.fixture(autouse=True)
def any_kernel(monkeypatch):
    """The environment's own kernel: course-cpu may not be registered where the tests run."""
    monkeypatch.setattr(render, "KERNEL", "python3")


def write(path, *sources):
    cells = [new_code_cell(s, metadata={"name": f"cell-{n}"}) for n, s in enumerate(sources)]
    nbformat.write(new_notebook(cells=cells), path)
    return path


FIGURE = """
import matplotlib.pyplot as plt
from ipywidgets import interact
@interact(k=(0, 4))
def draw(k=2):
    plt.plot([k, 1])
    plt.show()
"""


def test_two_renderings_are_the_same_bytes_and_keep_the_picture(tmp_path):
    path = write(tmp_path / "01_x.ipynb", "print(1)\nprint(2)", FIGURE)
    render.render(path)
    once = path.read_bytes()
    render.render(path)
    assert path.read_bytes() == once
    first, second = nbformat.read(path, as_version=4).cells
    assert [o.text for o in first.outputs] == ["1\n2\n"]
    assert render.WIDGET_NOTE in [o.data["text/plain"] for o in second.outputs]
    assert any("image/png" in o.data for o in second.outputs)


@pytest.mark.parametrize(
    "source, says",
    [
        ("1 / 0", "cell 'cell-1' failed"),
        ("import warnings; warnings.warn('old')", "writes to stderr"),
        ("print('/ho' + 'me/ada')", "a path of this machine"),
    ],
)
def test_what_must_not_be_stored_leaves_the_file_as_it_was(tmp_path, monkeypatch, source, says):
    path = write(tmp_path / "01_x.ipynb", "1 + 1", source)
    before = path.read_bytes()
    monkeypatch.setattr(render, "find", lambda number: path)
    with pytest.raises(render.RenderError, match=says):
        render.render(path)
    assert render.main(["01"]) == 1
    assert path.read_bytes() == before


def test_a_lesson_that_does_not_exist_is_named(tmp_path):
    write(tmp_path / "01_x.ipynb", "1")
    assert render.find("1", tmp_path).name == "01_x.ipynb"
    with pytest.raises(render.RenderError, match="there is no lesson 44; lessons: 01"):
        render.find("44", tmp_path)
