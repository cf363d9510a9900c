"""How an answer is checked: what passes, what fails and why, and that nothing hangs or leaks."""

import time

import pytest
import torch
from torch import nn

from course_utils.classroom import exercises
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise, fill_
from course_utils.classroom.lessons import wrapped


def halve(x):
    """x -> x / 2"""
    return x / 2


def stub(x):
    """x -> x / 2"""
    raise NotImplementedError("your turn")


def run_halve(implementation):
    return implementation(torch.tensor([1.0, -2.0, 3.0]))


def make(**changes):
    parts = dict(
        id="test/halve",
        title="Halve",
        lesson="01",
        difficulty=1,
        minutes=1,
        reference=halve,
        stub=stub,
        cases=[
            Case("three numbers", run_halve),
            Case("one number", lambda f: f(torch.tensor(4.0))),
        ],
        hints=["divide", "by two"],
        mistakes=[
            Mistake(lambda x: x * 2, "You doubled."),
            Mistake(lambda x: x.abs() / 2, "You lost the sign."),
            Mistake(lambda x: (x / 2).sum(), "You added up: {shape}."),
        ],
    )
    return Exercise(**{**parts, **changes})


def test_the_reference_passes_and_says_how_many_checks():
    assert make().check(halve) == exercises.Check("passed", "2 of 2 checks passed")


def test_the_stub_is_not_attempted():
    assert make().check(stub).status == "not attempted"


def test_a_bare_NotImplementedError_is_not_attempted_either():
    def bare(x):
        raise NotImplementedError

    assert make().check(bare).status == "not attempted"


def test_two_mistakes_that_raise_are_told_apart_by_what_they_raise():
    mistakes = [
        Mistake(lambda x: x.view(-1, 7), "You reshaped."),
        Mistake(lambda x: x @ torch.ones(5), "You multiplied."),
    ]
    assert "You multiplied." in make(mistakes=mistakes).check(lambda x: x @ torch.ones(5)).message
    unlisted = make(mistakes=mistakes).check(lambda x: x.chunk(0)).message
    assert "You multiplied" not in unlisted and "You reshaped" not in unlisted


def test_another_NotImplementedError_is_a_wrong_answer():
    def unfinished(x):
        raise NotImplementedError("later")

    assert make().check(unfinished).status == "failed"


def test_each_known_mistake_is_named():
    for mistake in make().mistakes:
        result = make().check(mistake.implementation)
        assert result.status == "failed"
        assert mistake.message.split(":")[0] in result.message


def test_a_known_mistake_is_named_only_if_it_explains_every_case():
    """A half match must not be named: it would send the reader the wrong way."""

    def sign_lost_once(x):  # like "You lost the sign" on three numbers, right on one number
        return x.abs() / 2 if x.ndim else x

    message = make().check(sign_lost_once).message
    assert "lost the sign" not in message
    assert "-1" in message and "expected" in message


def test_the_shape_that_came_out_is_put_into_the_message():
    assert "You added up: ()." in make().check(lambda x: (x / 2).sum()).message


@pytest.mark.parametrize(
    "answer, reason",
    [
        (lambda x: None, "Is a return missing?"),
        (lambda x: x[None] / 2, "has shape (1, 3); expected (3,)"),
        (lambda x: (x / 2).double(), "has dtype torch.float64; expected torch.float32"),
        (lambda x: x / 2 + 0.1, "at [0] is 0.6; expected 0.5"),
        (lambda x: x / 0 * 0, "is nan"),
        (lambda x: [1, 2], "2 values (1, 2); expected a tensor of shape (3,)"),
        (lambda x: x.nothing(), "raised AttributeError"),
        (lambda x: exit(), "raised SystemExit"),
        (lambda: 1, "raised TypeError"),
        (7, "raised TypeError: 'int' object is not callable"),
    ],
)
def test_a_wrong_answer_is_told_its_reason(answer, reason):
    result = make().check(answer)
    assert result.status == "failed"
    assert reason in result.message


def test_the_line_that_raised_is_quoted():
    def broken(x):
        y = x / 2
        return y @ y.transpose(3, 4)  # no such axes

    assert "in your line: return y @ y.transpose(3, 4)" in make().check(broken).message


def test_an_endless_loop_is_a_wrong_answer_and_ends(monkeypatch):
    monkeypatch.setattr(exercises, "SECONDS_A_CASE", 0.3)
    stopped = []

    def loop(x):
        try:
            while True:
                time.sleep(0.01)
        finally:
            stopped.append(True)

    started = time.perf_counter()
    result = make().check(loop)
    assert result.status == "failed" and "did not finish within" in result.message
    assert time.perf_counter() - started < 5
    assert stopped, "the thread of the endless loop must be stopped, not left running"


def test_a_check_leaves_the_random_state_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    make().check(lambda x: x / 2 + 0 * torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_tuples_dicts_and_floats_are_compared_part_by_part():
    def pair(x):
        return x, {"sum": float(x.sum())}

    exercise = make(reference=pair, mistakes=[])
    assert exercise.check(pair).status == "passed"
    result = exercise.check(lambda x: (x, {"sum": float(x.sum()) + 1}))
    assert "'sum' of part 2 of the result is 3; expected 2" in result.message
    assert "part 1" in exercise.check(lambda x: (x + 1, {"sum": float(x.sum())})).message
    assert exercise.check(lambda x: (x,)).status == "failed"


def test_a_bool_is_not_a_number():
    exercise = make(reference=lambda x: True, mistakes=[])
    assert exercise.check(lambda x: 1).status == "failed"


def test_an_open_exercise_is_never_judged_by_a_program():
    one = OpenExercise("test/open", "Open", "01", 3, 10, "think", ["h"], ["point"], "answer")
    assert one.check("anything").status == "not attempted"


def test_fill_depends_on_names_not_on_the_order_of_definition():
    class A(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(2, 3), nn.Linear(3, 2)

    class B(nn.Module):
        def __init__(self):
            super().__init__()
            self.two, self.one = nn.Linear(3, 2), nn.Linear(2, 3)

    a, b = fill_(A()), fill_(B())
    assert torch.equal(a.one.weight, b.one.weight) and torch.equal(a.two.bias, b.two.bias)
    assert not torch.equal(a.one.weight.flatten(), a.two.weight.flatten())
    assert not a.training


def test_an_unknown_id_names_the_nearest():
    known = exercises.all_exercises()[0].id
    with pytest.raises(ValueError, match=known):
        exercises.find_exercise(known + "s")


def test_code_above_a_leftover_raise_is_told_to_remove_it(capsys):
    @exercises.exercise("start/cosine-similarity")
    def forgot(left, right):
        """left (n, hidden_size), right (m, hidden_size)
        → (n, m): the cosine of each row with each row"""
        left = left / left.norm(dim=-1, keepdim=True)
        raise NotImplementedError("your turn")

    assert "now remove the line that raises" in capsys.readouterr().out
    exercises.exercise("start/cosine-similarity")(
        exercises.find_exercise("start/cosine-similarity").stub
    )
    assert "gives the first of 2 hints" in capsys.readouterr().out


def test_long_messages_break_between_words_with_an_indent():
    text = wrapped("✗ id: " + "word " * 40 + "\n  Check: " + "x" * 120)
    lines = text.splitlines()
    assert all(len(line) <= 92 for line in lines[:-1]) and lines[1].startswith("  word")
    assert lines[-1].strip() == "x" * 120  # what has no blank is left whole
