"""Lesson 03's job: dates as people write them, and as ISO 8601 writes them. All of it is made here.

A pair is ("the 3rd of November, 2026", "2026-11-03"). Days are held out, not phrases: a day of the
test set occurs in no form in training, though its day, its month and its year occur in other dates.
"""

import random
from collections.abc import Iterable
from datetime import date, timedelta
from string import Formatter

import torch
from torch import Tensor

FIRST, LAST = date(1950, 1, 1), date(2049, 12, 31)
PAD, BOS, EOS = 0, 1, 2  # ids of the three special characters, on both sides
MONTHS = (
    "January February March April May June July August September October November December".split()
)
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

# How people write the 3rd of November 2026. None is ambiguous: where there are only numbers, the
# year comes first, or the dots say that the day does, as in DIN 5008.
FORMS = {
    "the 3rd of November, 2026": "the {day_nth} of {month_name}, {year}",
    "3rd of November 2026": "{day_nth} of {month_name} {year}",
    "3 November 2026": "{day} {month_name} {year}",
    "November 3, 2026": "{month_name} {day}, {year}",
    "November 3rd, 2026": "{month_name} {day_nth}, {year}",
    "Nov 3 2026": "{month_short} {day} {year}",
    "3 Nov 2026": "{day} {month_short} {year}",
    "03-NOV-2026": "{day_two}-{month_upper}-{year}",
    "Tuesday, 3 November 2026": "{weekday}, {day} {month_name} {year}",
    "Tue Nov 3 2026": "{weekday_short} {month_short} {day} {year}",
    "Tuesday the 3rd of November 2026": "{weekday} the {day_nth} of {month_name} {year}",
    "3 Nov '26": "{day} {month_short} '{year_short}",
    "2026/11/3": "{year}/{month}/{day}",
    "3.11.2026": "{day}.{month}.{year}",
    "2026, November 3": "{year}, {month_name} {day}",
}


def ordinal(number: int) -> str:
    """1 → "1st", 2 → "2nd", 3 → "3rd", 11 → "11th"."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 <= number % 100 <= 20 else ending}"


def fields(day: date) -> dict[str, str]:
    """What a form may be made of: {day}, {day_two}, {day_nth}, {month}, {month_two}, {month_name},
    {month_short}, {month_upper}, {year}, {year_short}, {weekday}, {weekday_short}."""
    month, weekday = MONTHS[day.month - 1], WEEKDAYS[day.weekday()]
    return {
        "day": f"{day.day}",
        "day_two": f"{day.day:02}",
        "day_nth": ordinal(day.day),
        "month": f"{day.month}",
        "month_two": f"{day.month:02}",
        "month_name": month,
        "month_short": month[:3],
        "month_upper": month[:3].upper(),
        "year": f"{day.year}",
        "year_short": f"{day.year % 100:02}",
        "weekday": weekday,
        "weekday_short": weekday[:3],
    }


def phrase(day: date, form: str) -> str:
    """A day in a form, a template such as "{day_nth} of {month_name}".

    Raises ValueError for a name in braces that `fields` does not have.
    """
    return "".join(text for _, text in _pieces(day, form))


def part_spans(day: date, form: str) -> dict[str, tuple[int, int]]:
    """Where in the phrase the day, the month, the year and the weekday stand: part → (start, end).

    "3 Nov 2026" → {"day": (0, 1), "month": (2, 5), "year": (6, 10)}
    """
    spans, end = {}, 0
    for part, text in _pieces(day, form):
        start, end = end, end + len(text)
        if part:
            spans[part] = (start, end)
    return spans


def _pieces(day: date, form: str) -> list[tuple[str, str]]:
    """A phrase in pieces: (part or "" between parts, its text)."""
    known, pieces = fields(day), []
    for between, name, _, _ in Formatter().parse(form):
        pieces.append(("", between))
        if name is not None:
            if name not in known:
                raise ValueError(f"a date has no {{{name}}}; take from {{{'}, {'.join(known)}}}")
            pieces.append((name.split("_")[0], known[name]))
    return pieces


def split_days(test_share: float = 0.1, seed: int = 0) -> tuple[list[date], list[date]]:
    """Every day from 1950 to 2049, shuffled and split: (days for training, days for testing)."""
    days = [FIRST + timedelta(n) for n in range((LAST - FIRST).days + 1)]
    random.Random(seed).shuffle(days)
    test = round(test_share * len(days))
    return days[test:], days[:test]


def pairs(
    days: list[date], count: int, seed: int = 0, forms: Iterable[str] = FORMS.values()
) -> list[tuple[str, str]]:
    """`count` pairs (phrase, ISO form): a random day of `days` in a random form."""
    rng = random.Random(seed)
    forms, found = list(forms), []
    for _ in range(count):
        day = rng.choice(days)
        found.append((phrase(day, rng.choice(forms)), day.isoformat()))
    return found


CHARACTERS = sorted(
    {character for example in FORMS for character in example}
    | set("".join(MONTHS + WEEKDAYS) + "".join(MONTHS).upper() + "0123456789stndrh")
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
