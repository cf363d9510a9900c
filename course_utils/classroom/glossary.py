"""The course's words, data/glossary.csv: those of one lesson, or one term."""

import csv
from difflib import get_close_matches

from course_utils.classroom import shown
from course_utils.classroom.lessons import lesson_title
from course_utils.classroom.shown import Shown, inline, plain

FILE = "glossary.csv"
COLUMNS = ("term", "chinese", "abbreviation", "meaning", "lesson")
_HEAD = ("English", "中文", "short", "meaning")


def glossary(lesson: str | None = None, *, term: str | None = None) -> Shown:
    """A table of terms: English, 中文, abbreviation, meaning; in the order of the alphabet.

    lesson: "01", the terms that this lesson introduces. term: one term, by its name, abbreviation
    or Chinese, whatever its case. Neither: all terms.

    Raises ValueError for a lesson that does not exist or an unknown term (the nearest is named).
    """
    rows = read_glossary()
    if lesson is not None:
        lesson_title(lesson)  # raises for an unknown lesson
        rows = [row for row in rows if row["lesson"] == lesson]
    if term is not None:
        wanted = term.strip().lower()
        names = {row[c].lower(): row for row in rows for c in COLUMNS[:3] if row[c]}
        if wanted not in names:
            near = get_close_matches(wanted, names, n=1, cutoff=0.0)
            hint = f"; the nearest is {names[near[0]]['term']!r}" if near else ""
            raise ValueError(f"the glossary has no term {term!r}{hint}")
        rows = [names[wanted]]
    rows = sorted(rows, key=lambda row: row["term"].lower())
    head = "".join(f'<th style="text-align:left">{name}</th>' for name in _HEAD)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="text-align:left">{inline(row[c])}</td>' for c in COLUMNS[:4])
        + "</tr>"
        for row in rows
    )
    html = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return Shown(html, "\n".join(_line(row) for row in rows) or "no terms yet")


def read_glossary() -> list[dict[str, str]]:
    """The rows of data/glossary.csv in its order, a dict of COLUMNS each."""
    with open(shown.DATA / FILE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{column: (row[column] or "").strip() for column in COLUMNS} for row in rows]


def _line(row: dict[str, str]) -> str:
    names = ", ".join(filter(None, (row["chinese"], row["abbreviation"])))
    return f"{row['term']}{f' ({names})' if names else ''}: {plain(row['meaning'])}"
