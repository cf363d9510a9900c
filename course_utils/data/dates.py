"""Lesson 03's job: dates as people write them, and as ISO 8601 writes them. All of it is made here.

A pair is ("the 3rd of November, 2026", "2026-11-03"). Days are held out, not phrases: a day of the
test set occurs in no form in training, though its day, its month and its year occur in other dates.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

import torch
from torch import Tensor

FIRST, LAST = date(1950, 1, 1), date(2049, 12, 31)
PAD, BOS, EOS = 0, 1, 2  # ids of the three special characters, on both sides
MONTHS = (
    "January February March April May June July August September October November December".split()
)
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def ordinal(number: int) -> str:
    """1 → "1st", 2 → "2nd", 3 → "3rd", 11 → "11th"."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 <= number % 100 <= 20 else ending}"


def _short(name: str) -> str:
    return name[:3]


@dataclass(frozen=True)
class _Parts:
    """The pieces a form is made of."""

    d: int
    m: int
    y: int
    month: str
    weekday: str

    @property
    def nth(self) -> str:
        return ordinal(self.d)


# Every form, by name. None of them is ambiguous: numbers alone are year first, or the day is
# above 12 (`slashed` below), or the order is that of the dotted form, day first, as in DIN 5008.
FORMS: dict[str, Callable[[_Parts], str]] = {
    "the 3rd of November, 2026": lambda p: f"the {p.nth} of {p.month}, {p.y}",
    "3rd of November 2026": lambda p: f"{p.nth} of {p.month} {p.y}",
    "3 November 2026": lambda p: f"{p.d} {p.month} {p.y}",
    "November 3, 2026": lambda p: f"{p.month} {p.d}, {p.y}",
    "November 3rd, 2026": lambda p: f"{p.month} {p.nth}, {p.y}",
    "Nov 3 2026": lambda p: f"{_short(p.month)} {p.d} {p.y}",
    "3 Nov 2026": lambda p: f"{p.d} {_short(p.month)} {p.y}",
    "03-NOV-2026": lambda p: f"{p.d:02}-{_short(p.month).upper()}-{p.y}",
    "Tuesday, 3 November 2026": lambda p: f"{p.weekday}, {p.d} {p.month} {p.y}",
    "Tue Nov 3 2026": lambda p: f"{_short(p.weekday)} {_short(p.month)} {p.d} {p.y}",
    "Tuesday the 3rd of November 2026": (lambda p: f"{p.weekday} the {p.nth} of {p.month} {p.y}"),
    "3 Nov '26": lambda p: f"{p.d} {_short(p.month)} '{p.y % 100:02}",
    "2026/11/3": lambda p: f"{p.y}/{p.m}/{p.d}",
    "3.11.2026": lambda p: f"{p.d}.{p.m}.{p.y}",
    "2026, November 3": lambda p: f"{p.y}, {p.month} {p.d}",
}


def phrase(day: date, form: str) -> str:
    """A day in one of the FORMS. Raises ValueError for a form that does not exist."""
    if form not in FORMS:
        raise ValueError(f"there is no form {form!r}; take one of {', '.join(FORMS)}")
    return FORMS[form](
        _Parts(day.day, day.month, day.year, MONTHS[day.month - 1], WEEKDAYS[day.weekday()])
    )


def split_days(test_share: float = 0.1, seed: int = 0) -> tuple[list[date], list[date]]:
    """Every day from 1950 to 2049, shuffled and split: (days for training, days for testing)."""
    days = [FIRST + timedelta(n) for n in range((LAST - FIRST).days + 1)]
    random.Random(seed).shuffle(days)
    test = round(test_share * len(days))
    return days[test:], days[:test]


def pairs(days: list[date], count: int, seed: int = 0) -> list[tuple[str, str]]:
    """`count` pairs (phrase, ISO form): a random day of `days` in a random form."""
    rng = random.Random(seed)
    forms, found = list(FORMS), []
    for _ in range(count):
        day = rng.choice(days)
        found.append((phrase(day, rng.choice(forms)), day.isoformat()))
    return found


CHARACTERS = sorted(
    {c for form in FORMS for c in form}
    | set("".join(MONTHS + WEEKDAYS) + "".join(MONTHS).upper() + "0123456789thndrs .,/-'")
)
SOURCE_VOCABULARY = ["[PAD]", "[BOS]", "[EOS]", *CHARACTERS]
TARGET_VOCABULARY = ["[PAD]", "[BOS]", "[EOS]", *"0123456789-"]


def encode(texts: list[str], vocabulary: list[str] = SOURCE_VOCABULARY) -> Tensor:
    """Texts as rows of character ids, each ended by EOS and padded with PAD: (texts, longest + 1).

    Raises ValueError for a character that the vocabulary does not have.
    """
    number = {character: i for i, character in enumerate(vocabulary)}
    missing = sorted({c for text in texts for c in text} - number.keys())
    if missing:
        raise ValueError(
            f"the model knows no {', '.join(map(repr, missing))}; it reads only "
            f"{''.join(vocabulary[3:])!r}"
        )
    rows = [[number[c] for c in text] + [EOS] for text in texts]
    longest = max(map(len, rows), default=0)
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def decode(ids: Tensor, vocabulary: list[str] = TARGET_VOCABULARY) -> list[str]:
    """Rows of ids (rows, tokens) as texts, each up to its first EOS, without special characters."""
    texts = []
    for row in ids.tolist():
        row = row[: row.index(EOS)] if EOS in row else row
        texts.append("".join(vocabulary[i] for i in row if i > EOS))
    return texts
