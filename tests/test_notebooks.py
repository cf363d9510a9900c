"""The guards of tests/guards.py, on every lesson's notebook."""

import pytest
from guards import GUARDS, Lesson, load_lessons

LESSONS = load_lessons()


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: f"lesson_{lesson.number}")
def test_notebook(lesson: Lesson, guard):
    problems = guard(lesson)
    assert not problems, f"lesson {lesson.number}, {guard.__name__}:\n" + "\n".join(problems)


def test_the_first_lessons_are_there():
    assert {"00", "01", "02"} <= {lesson.number for lesson in LESSONS}
