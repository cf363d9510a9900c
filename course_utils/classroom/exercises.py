"""Exercises: the reader's code is run on the exercise's cases and compared with the reference.

An exercise is one object (see the bank). The decorator `exercise` never raises because of what the
reader wrote and never hangs: a notebook runs from top to bottom in every state of solution.
"""

import ctypes
import inspect
import linecache
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from threading import Thread
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.classroom.lessons import UnknownName, wrapped

SECONDS_A_CASE = 10.0
YOUR_TURN = "your turn"  # a stub raises NotImplementedError("your turn")


# --- What an exercise is made of ------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One check. run(implementation) draws its inputs from a fixed seed, calls the implementation
    and returns what came out: tensors, numbers, text, None, or tuples, lists and dicts of these."""

    name: str
    run: Callable[[Any], Any]


@dataclass(frozen=True)
class Mistake:
    """A known mistake: a wrong implementation that runs, and what to say to the reader who made it.
    `{shape}` in the message becomes the shape that came out."""

    implementation: Any
    message: str


@dataclass(frozen=True)
class Check:
    """The result of a check. status: "passed", "failed" or "not attempted"; with a message."""

    status: str
    message: str


@dataclass(frozen=True)
class Exercise:
    """An exercise with code to write; see CONTRIBUTING.md. difficulty: 1 to 5. tolerance: the
    largest difference between floats that still counts as equal, absolute and relative. installs:
    may `use_mine()` put a passing answer in the reference's place (default: if the reference is
    public in a reference module)?"""

    id: str
    title: str
    lesson: str
    difficulty: int
    minutes: int
    reference: Any
    stub: Any
    cases: list[Case]
    hints: list[str]
    mistakes: list[Mistake]
    tolerance: float = 1e-5
    installs: bool | None = None
    kind: str = field(default="code", init=False)

    @property
    def topic(self) -> str:
        return self.id.split("/")[0]

    @property
    def installable(self) -> bool:
        if self.installs is not None:
            return self.installs
        module = getattr(self.reference, "__module__", "")
        return module.startswith("course_utils.") and ".classroom" not in module

    def check(self, candidate: Any) -> Check:
        """Run the candidate on every case. Never raises; takes at most 10 s a case."""
        outcomes = []
        for case in self.cases:
            got = _outcome(case, candidate)
            if got.unattempted:
                return Check("not attempted", "not attempted yet")
            outcomes.append(got)
            if got.timed_out:
                break  # what hangs once hangs again: do not make the reader wait for every case
        for case, got in zip(self.cases, outcomes):
            why = _difference(got, _outcome(case, self.reference), self.tolerance)
            if why:
                named = self._name_mistake(outcomes)
                lead = f"{named.replace('{shape}', _shape(got.value))}\n  " if named else ""
                return Check("failed", f'{lead}Check "{case.name}": {why}')
        return Check("passed", f"{len(self.cases)} of {len(self.cases)} checks passed")

    def _name_mistake(self, outcomes: list["_Outcome"]) -> str | None:
        """The message of the known mistake with the same outcome on every case, if any."""
        for mistake in self.mistakes:
            if all(
                _same(got, _outcome(case, mistake.implementation), self.tolerance)
                for case, got in zip(self.cases, outcomes)
            ):
                return mistake.message
        return None


@dataclass(frozen=True)
class OpenExercise:
    """An exercise without a single right answer: a task, a rubric to judge one's own answer by,
    and a worked answer (Markdown)."""

    id: str
    title: str
    lesson: str
    difficulty: int
    minutes: int
    task: str
    hints: list[str]
    rubric: list[str]
    answer: str
    kind: str = field(default="open", init=False)
    reference: None = field(default=None, init=False)
    stub: None = field(default=None, init=False)
    mistakes: tuple = field(default=(), init=False)
    installable: bool = field(default=False, init=False)

    @property
    def topic(self) -> str:
        return self.id.split("/")[0]

    def check(self, candidate: Any) -> Check:
        """An open exercise is judged by its rubric, not by a program: always "not attempted"."""
        return Check(
            "not attempted", f'open: judge your answer by the rubric in solution("{self.id}")'
        )


def fill_(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give a module reproducible parameters, in the order of their names; set it to eval().

    Two modules whose parameters have the same names and shapes get the same values, whatever the
    order in which they were made. Returns the module.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


# --- Running what a reader wrote ------------------------------------------------------------------


@dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None
    where: str = ""  # the reader's line that raised
    timed_out: bool = False

    @property
    def unattempted(self) -> bool:
        return isinstance(self.error, NotImplementedError) and str(self.error) in ("", YOUR_TURN)


class _Stopped(BaseException):
    """Raised inside a thread whose time is up."""


def _outcome(case: Case, implementation: Any, seconds: float | None = None) -> _Outcome:
    """Run one case in a thread of its own, so that an endless loop ends with its case.

    Signals would do it on Linux only; an exception set from outside works everywhere, between two
    bytecodes of Python. The random state of the notebook is left as it was.
    """
    result: list[_Outcome] = []

    def work() -> None:
        torch.manual_seed(0)
        try:
            result.append(_Outcome(value=case.run(implementation)))
        except BaseException as error:  # SystemExit too: a wrong answer must not end the kernel
            result.append(_Outcome(error=error, where=_where(error, implementation)))

    random_state = torch.get_rng_state()
    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        thread.join(SECONDS_A_CASE if seconds is None else seconds)
    finally:  # also when the reader interrupts the kernel
        if thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(_Stopped)
            )
            thread.join(1.0)
        torch.set_rng_state(random_state)
    if not result or isinstance(result[0].error, _Stopped):
        return _Outcome(timed_out=True)
    return result[0]


def _code_file(implementation: Any) -> str | None:
    """The file, or the notebook cell, in which a function or class was written."""
    if inspect.isclass(implementation):
        functions = [inspect.unwrap(f) for f in vars(implementation).values() if callable(f)]
        return next((f.__code__.co_filename for f in functions if hasattr(f, "__code__")), None)
    code = getattr(inspect.unwrap(implementation), "__code__", None)
    return code.co_filename if code else None


def _where(error: BaseException, implementation: Any) -> str:
    try:
        filename = _code_file(implementation)
    except Exception:  # not a function or class at all
        return ""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == filename]
    return (lines[-1].line or "").strip() if lines else ""


# --- Comparing ------------------------------------------------------------------------------------


def _difference(got: _Outcome, expected: _Outcome, tolerance: float) -> str | None:
    """None if two outcomes are the same, else one sentence that says how they differ."""
    if got.timed_out or expected.timed_out:
        same = got.timed_out and expected.timed_out
        return None if same else f"it did not finish within {SECONDS_A_CASE:.0f} seconds."
    if got.error is not None:
        if type(got.error) is type(expected.error):
            return None
        what = f"it raised {type(got.error).__name__}: {_first_line(got.error)}"
        return what + (f"\n  in your line: {got.where}" if got.where else "")
    if expected.error is not None:
        wanted = type(expected.error).__name__
        return f"it should have raised {wanted}, and returned {_describe(got.value)}."
    return _unequal(got.value, expected.value, tolerance, "the result")


def _same(got: _Outcome, other: _Outcome, tolerance: float) -> bool:
    """Did two wrong answers fail alike? Errors are alike if they say the same."""
    if got.error is not None and other.error is not None:
        return _first_line(got.error) == _first_line(other.error)
    return not _difference(got, other, tolerance)


def _unequal(got: Any, want: Any, tolerance: float, name: str) -> str | None:
    if got is None and want is not None:
        return f"{name} is None; expected {_describe(want)}. Is a return missing?"
    if isinstance(want, Tensor):
        return _unequal_tensors(got, want, tolerance, name)
    if isinstance(want, (tuple, list)):
        if not isinstance(got, (tuple, list)) or len(got) != len(want):
            return f"{name} is {_describe(got)}; expected {_describe(want)}."
        parts = (
            _unequal(g, w, tolerance, f"part {i} of {name}")
            for i, (g, w) in enumerate(zip(got, want), start=1)
        )
        return next((why for why in parts if why), None)
    if isinstance(want, dict):
        if not isinstance(got, dict) or got.keys() != want.keys():
            return f"{name} is {_describe(got)}; expected {_describe(want)}."
        parts = (_unequal(got[k], want[k], tolerance, f"{k!r} of {name}") for k in want)
        return next((why for why in parts if why), None)
    if isinstance(want, float) and isinstance(got, (int, float)) and not isinstance(got, bool):
        close = math.isclose(got, want, rel_tol=tolerance, abs_tol=tolerance)
        same = close or (math.isnan(got) and math.isnan(want))
    else:
        same = type(got) is type(want) and got == want
    return None if same else f"{name} is {_describe(got)}; expected {_describe(want)}."


def _unequal_tensors(got: Any, want: Tensor, tolerance: float, name: str) -> str | None:
    if not isinstance(got, Tensor):
        return f"{name} is {_describe(got)}; expected {_describe(want)}."
    if got.shape != want.shape:
        return f"{name} has shape {tuple(got.shape)}; expected {tuple(want.shape)}."
    if got.dtype != want.dtype:
        return f"{name} has dtype {got.dtype}; expected {want.dtype}."
    got, want = got.detach().cpu(), want.detach().cpu()
    if torch.allclose(got, want, rtol=tolerance, atol=tolerance, equal_nan=True):
        return None
    distance = (got.double() - want.double()).abs().nan_to_num(nan=math.inf)
    at = tuple(int(i) for i in torch.unravel_index(distance.argmax(), got.shape))
    place = f" at {list(at)}" if at else ""
    return f"{name}{place} is {_number(got[at])}; expected {_number(want[at])}."


def _number(value: Tensor) -> str:
    return f"{value.item():.4g}" if value.is_floating_point() else str(value.item())


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        parts = [_describe(v) for v in value[:3]] + ["…"] * (len(value) > 3)
        return f"{len(value)} values ({', '.join(parts)})"
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else "of something else"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or "(without a message)"


# --- Finding exercises ----------------------------------------------------------------------------


@cache
def bank_modules() -> list:
    """The bank's modules, in the order of the lessons."""
    bank = import_module("course_utils.classroom.bank")
    names = sorted(m.name for m in iter_modules(bank.__path__) if m.name.startswith("lesson_"))
    return [import_module(f"{bank.__name__}.{name}") for name in names]


@cache
def _exercises() -> dict[str, Exercise | OpenExercise]:
    found: dict[str, Exercise | OpenExercise] = {}
    for module in bank_modules():
        for one in module.EXERCISES:
            if one.id in found:
                raise ValueError(f"two exercises are called {one.id!r}")
            found[one.id] = one
    return found


def all_exercises() -> list[Exercise | OpenExercise]:
    """Every exercise of the course, in the order of the lessons."""
    return list(_exercises().values())


def nearest(name: str, names) -> str:
    """The entry of `names` that is spelt most like `name`."""
    return get_close_matches(str(name), list(names), n=1, cutoff=0.0)[0]


def find_exercise(id: str) -> Exercise | OpenExercise:
    """The exercise of that id. Raises ValueError, naming the nearest id, if there is none."""
    if id not in _exercises():
        raise UnknownName(
            f"there is no exercise {id!r}; the nearest is {nearest(id, _exercises())!r}"
        )
    return _exercises()[id]


# --- What a lesson calls --------------------------------------------------------------------------


def exercise(id: str) -> Callable[[Any], Any]:
    """Decorate the function or class that answers an exercise: it is checked at once.

    Returns the reader's code when it is right, and then keeps it in `mine/`; otherwise the
    reference. Raises ValueError, naming the nearest id, for an exercise that does not exist.
    """
    found = find_exercise(id)
    if found.kind == "open":
        raise ValueError(
            f'{id!r} is an open exercise: nothing to decorate; solution("{id}") has its rubric'
        )

    def decorate(candidate: Any) -> Any:
        from course_utils.classroom.mine import save, says_more_than  # these need this module
        from course_utils.classroom.progress import record

        result = found.check(candidate)
        if result.status == "not attempted":
            print(f"○ {id}: not attempted yet; the lesson goes on with the reference.")
            if says_more_than(candidate, found.stub):
                print('  You wrote something; now remove the line that raises "your turn".')
            else:
                print(f'  hint("{id}") gives the first of {len(found.hints)} hints.')
            return found.reference
        record(id, passed=result.status == "passed")
        if result.status == "failed":
            print(wrapped(f"✗ {id}: {result.message}"))
            print(f'  The lesson goes on with the reference. hint("{id}") gives a hint.')
            return found.reference
        print(wrapped(f"✓ {id}: {result.message}. {save(found, candidate)}"))
        return candidate

    return decorate


_hints_given: dict[str, int] = {}


def hint(id: str) -> None:
    """Print the next hint of an exercise; after the last one, start again from the first."""
    found = find_exercise(id)
    given = _hints_given.get(id, 0) % len(found.hints)
    _hints_given[id] = given + 1
    print(wrapped(f"Hint {given + 1} of {len(found.hints)}: {found.hints[given]}"))
    if given + 1 == len(found.hints):
        print(f'That was the last one, the next starts over; solution("{id}") shows the reference.')


class Solution:
    """A folded answer: a click opens it in a notebook. Made by `solution`."""

    def __init__(self, summary: str, markdown: str):
        self.summary, self.markdown = summary, markdown

    def __repr__(self) -> str:
        return f"▸ {self.summary}"

    def _repr_markdown_(self) -> str:
        return f"<details><summary>{self.summary}</summary>\n\n{self.markdown}\n\n</details>"


def solution(id: str) -> Solution:
    """The reference of an exercise, folded; of an open exercise its rubric and a worked answer.

    Raises ValueError, naming the nearest id, for an exercise that does not exist.
    """
    found = find_exercise(id)
    if found.kind == "open":
        rubric = "\n".join(f"- {point}" for point in found.rubric)
        return Solution(
            f"Rubric and a worked answer for {id} (open when you have yours)",
            f"A good answer\n\n{rubric}\n\nA worked answer\n\n{found.answer}",
        )
    linecache.checkcache()
    code = inspect.getsource(found.reference)
    return Solution(f"The reference for {id} (open when you have tried)", f"```python\n{code}```")
