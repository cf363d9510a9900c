"""Progress survives a restart and a damaged file, and is never written into the repository."""

import pytest

from course_utils.classroom.lessons import REPOSITORY
from course_utils.classroom.progress import progress, progress_file, record


@pytest.fixture(autouse=True)
def own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "deep" / "progress.json"))
    return tmp_path / "deep" / "progress.json"


def row(id):
    board = progress("00")
    return dict(zip(board.header, next(r for r in board.rows if r[1] == id)))


def test_attempts_are_counted_and_a_pass_stays_a_pass():
    assert row("start/mean-pooling")["state"] == "○ to do"
    record("start/mean-pooling", passed=False)
    assert row("start/mean-pooling")["state"] == "✗ tried"
    record("start/mean-pooling", passed=True)
    record("start/mean-pooling", passed=False)
    assert row("start/mean-pooling")["state"] == "✓ passed"
    assert row("start/mean-pooling")["attempts"] == "3"
    assert "1 of 2 exercises passed" in progress("00").caption


def test_a_damaged_file_counts_as_empty(own_file):
    record("start/mean-pooling", passed=True)
    own_file.write_text('{"start/mean-po', encoding="utf-8")
    assert row("start/mean-pooling")["state"] == "○ to do"
    record("start/mean-pooling", passed=True)
    assert row("start/mean-pooling")["state"] == "✓ passed"


def test_by_default_it_lies_in_the_cache_folder_not_in_the_repository(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_PROGRESS")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    assert progress_file() == tmp_path / "progress.json"
    monkeypatch.delenv("COURSE_CACHE")
    assert REPOSITORY not in progress_file().parents


def test_an_unknown_lesson_is_refused():
    with pytest.raises(ValueError, match="lesson"):
        progress("7")


def test_a_folder_that_can_not_be_written_to_does_not_stop_a_lesson(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "file" / "progress.json"))
    record("start/mean-pooling", passed=True)
    assert "Progress is not kept" in capsys.readouterr().out
