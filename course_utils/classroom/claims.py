"""Claim checks: a sentence that goes round, a measurement, a verdict computed from it.

The judges live in the bank, one module a lesson, so that the tests can feed each of them the
opposite measurement and see the verdict flip.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from course_utils.classroom.exercises import bank_modules, nearest
from course_utils.classroom.lessons import UnknownName, wrapped


@dataclass(frozen=True)
class Verdict:
    """holds: is the claim borne out? sentence: why it is, or what holds instead."""

    holds: bool
    sentence: str


@dataclass(frozen=True)
class Claim:
    """A claim of the literature or of hearsay, with the judge of its measurement.

    id: "topic/name". judge: takes the measurement by keyword and returns a Verdict whose sentence
    holds no number that differs between machines. holds, fails: two sample measurements, for the
    tests.
    """

    id: str
    statement: str
    source: str
    judge: Callable[..., Verdict]
    holds: dict[str, Any]
    fails: dict[str, Any]


@cache
def _claims() -> dict[str, Claim]:
    claims = {}
    for module in bank_modules():
        for claim in getattr(module, "CLAIMS", []):
            if claim.id in claims:
                raise ValueError(f"two claims are called {claim.id!r}")
            claims[claim.id] = claim
    return claims


def all_claims() -> list[Claim]:
    """Every claim of the course, in the order of the lessons."""
    return list(_claims().values())


def claim_check(id: str, **measurement: Any) -> None:
    """Print the claim and the verdict that the measurement gives.

    Raises ValueError for an id that does not exist; the nearest one is named.
    """
    if id not in _claims():
        raise UnknownName(f"there is no claim {id!r}; the nearest is {nearest(id, _claims())!r}")
    claim = _claims()[id]
    verdict = claim.judge(**measurement)
    held = "holds" if verdict.holds else "does not hold"
    for line in (
        f"Claim    {claim.statement} ({claim.source})",
        f"Verdict  {held}: {verdict.sentence}",
    ):
        print(wrapped(line, indent=" " * 9))
