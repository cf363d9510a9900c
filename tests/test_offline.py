"""Lesson 00 without a network and without weights: it runs to its end and says what stands in."""

import nbformat
import pytest
from nbclient import NotebookClient

from course_utils.classroom.lessons import REPOSITORY


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """An empty cache, and no source that answers: the Hub switched off, pip without an index."""
    for name, value in {
        "COURSE_CACHE": str(tmp_path / "cache"),
        "COURSE_MINE": str(tmp_path / "mine"),
        "COURSE_PROGRESS": str(tmp_path / "progress.json"),
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_CONFIG_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)


def test_lesson_00_runs_with_a_random_encoder_and_says_so(no_network):
    path = REPOSITORY / "notebooks" / "00_start_here.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, kernel_name="course-cpu", timeout=300).execute()  # raises on an error
    cell = next(c for c in notebook.cells if c.metadata.get("name") == "sentences")
    printed = "".join(output.get("text", "") for output in cell.outputs)
    assert "a small random one stands in" in printed
    assert "sha256 verified" not in printed
