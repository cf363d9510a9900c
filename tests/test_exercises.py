"""Every exercise and claim of the course, tried: right, untouched, wrong in known and other ways.

The two answers an exercise that are wrong and on no list stand in wrong_answers/lesson_NN.py.
"""

import re
from importlib import import_module

import pytest

from course_utils.classroom import all_exercises
from course_utils.classroom.claims import all_claims
from course_utils.classroom.lessons import LESSONS

EXERCISES = all_exercises()
CODE = [e for e in EXERCISES if e.kind == "code"]
OPEN = [e for e in EXERCISES if e.kind == "open"]
MISTAKES = [
    pytest.param(e, m, id=f"{e.id}-{n}") for e in CODE for n, m in enumerate(e.mistakes, start=1)
]
each = {"ids": lambda thing: thing.id}


def wrong_answers(exercise) -> list:
    return import_module(f"wrong_answers.lesson_{exercise.lesson}").WRONG.get(exercise.id, [])


WRONG = [
    pytest.param(e, w, id=f"{e.id}-{n}")
    for e in CODE
    for n, w in enumerate(wrong_answers(e), start=1)
]


def names(message: str, mistake) -> bool:
    """Does a check's message begin with that mistake's?"""
    pattern = re.escape(mistake.message).replace(re.escape("{shape}"), r".+?")
    return re.match(rf"{pattern}\n", message) is not None


@pytest.mark.parametrize("exercise", EXERCISES, **each)
def test_says_what_it_is(exercise):
    assert exercise.lesson in LESSONS
    assert re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", exercise.id)
    assert exercise.title
    assert 1 <= exercise.difficulty <= 5
    assert exercise.minutes > 0


@pytest.mark.parametrize("exercise", CODE, **each)
def test_has_hints_mistakes_and_a_docstring(exercise):
    assert len(exercise.hints) >= 2 and all(exercise.hints)
    assert len(exercise.mistakes) >= 3
    assert len({m.message for m in exercise.mistakes}) == len(exercise.mistakes)
    assert len(wrong_answers(exercise)) >= 2, "write two in tests/wrong_answers"
    assert exercise.stub.__doc__, "the stub says what goes in and out"


@pytest.mark.parametrize("exercise", CODE, **each)
def test_the_reference_passes(exercise):
    check = exercise.check(exercise.reference)
    assert check.status == "passed", check.message


@pytest.mark.parametrize("exercise", CODE, **each)
def test_the_stub_is_not_attempted(exercise):
    assert exercise.check(exercise.stub).status == "not attempted"


@pytest.mark.parametrize("exercise, mistake", MISTAKES)
def test_a_known_mistake_is_named(exercise, mistake):
    check = exercise.check(mistake.implementation)
    assert check.status == "failed"
    assert names(check.message, mistake), check.message


@pytest.mark.parametrize("exercise, wrong", WRONG)
def test_a_wrong_answer_on_no_list_is_rejected(exercise, wrong):
    check = exercise.check(wrong)
    assert check.status == "failed"
    listed = [m.message for m in exercise.mistakes if names(check.message, m)]
    assert not listed, f"this answer is on the list: {listed}"


@pytest.mark.parametrize("exercise", OPEN, **each)
def test_an_open_exercise_can_be_judged_by_its_reader(exercise):
    assert exercise.task and exercise.hints and exercise.rubric and exercise.answer
    assert exercise.check(len).status == "not attempted"


@pytest.mark.parametrize("claim", all_claims(), **each)
def test_a_verdict_follows_the_measurement(claim):
    holds, fails = claim.judge(**claim.holds), claim.judge(**claim.fails)
    assert holds.holds is True and fails.holds is False
    assert holds.sentence != fails.sentence
    assert claim.statement and claim.source
