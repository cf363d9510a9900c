"""The guards of tests/guards.py, on every lesson's notebook."""

import pytest
from guards import GUARDS, REPOSITORY, Lesson, load_lessons, notebook_paths

LESSONS = load_lessons()


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: f"lesson_{lesson.number}")
def test_notebook(lesson: Lesson, guard):
    problems = guard(lesson)
    assert not problems, f"lesson {lesson.number}, {guard.__name__}:\n" + "\n".join(problems)


def test_the_first_lessons_are_there():
    first = {f"{number:02}" for number in range(11)}
    assert first <= {lesson.number for lesson in LESSONS}


def test_the_folder_holds_lessons_only():
    kept = [p.name for p in (REPOSITORY / "notebooks").iterdir() if not p.name.startswith(".")]
    assert sorted(kept) == [p.name for p in notebook_paths()]
