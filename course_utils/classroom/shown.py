"""What quiz, interview and glossary share: reading their data, their markup, links to a cell.

All of it reads without JavaScript, on paper and in dark themes: details/summary, the page's own
colours, plain text beside the HTML.
"""

import re
from difflib import get_close_matches
from html import escape
from pathlib import Path

from course_utils.classroom.lessons import REPOSITORY, lesson_title

DATA = REPOSITORY / "data"
NOTEBOOKS = REPOSITORY / "notebooks"

_TAG = re.compile(r"&lt;(/?(?:code|sub|sup|em|strong|b|i|br))&gt;")


class Shown:
    """Something with two forms: HTML for a notebook, plain text for everything else."""

    def __init__(self, html: str, text: str):
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def inline(text: str) -> str:
    """A line of course data as HTML: `code` in backticks, and the tags sub, sup, em, strong, code.

    Everything else is text, so "a < b" needs no escaping. Formulas are written in Unicode: what is
    shown at a click is not typeset, so LaTeX would stay raw.
    """
    safe = _TAG.sub(r"<\1>", escape(str(text), quote=False))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)


def plain(text: str) -> str:
    """The same line as plain text."""
    tags = re.sub(r"</?(?:code|sub|sup|em|strong|b|i)>", "", str(text))
    return tags.replace("<br>", " ").replace("`", "")


def lesson_file(folder: str, lesson: str, suffix: str) -> Path:
    """data/<folder>/NN.<suffix> of a lesson.

    Raises ValueError where there is no such lesson (the nearest is named) or it has no such file.
    """
    title = lesson_title(lesson)  # raises for an unknown lesson
    path = DATA / folder / f"{lesson}.{suffix}"
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob(f"*.{suffix}"))
        near = get_close_matches(lesson, there, n=1, cutoff=0.0)
        hint = f"; the nearest lesson that has: {near[0]!r}" if near else ""
        what = "quiz" if folder == "quizzes" else folder
        raise ValueError(f"lesson {lesson!r} ({title}) has no {what} yet{hint}")
    return path


def proof_link(proof: str, lesson: str) -> str:
    """ "01#spread-of-scores" -> a link that JupyterLab follows to that cell, named in words.

    The cell's id is its name in stored notebooks; JupyterLab scrolls to "#cell-id=NAME". On GitHub
    the link leads to the notebook, and the words say what to look for.
    """
    other, _, cell = proof.partition("#")
    words = cell.replace("-", " ")
    if other == lesson:
        return f'<a href="#cell-id={escape(cell)}">{escape(words)}</a>'
    found = sorted(NOTEBOOKS.glob(f"{other}_*.ipynb"))
    where = f"{escape(words)}, lesson {escape(other)}"
    if not found:
        return where
    return f'<a href="{escape(found[0].name)}#cell-id={escape(cell)}">{where}</a>'
