"""Spans shown where they stand in their text: as HTML for a page, and drawn for a figure."""

import textwrap
from collections.abc import Sequence
from html import escape

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from course_utils.classroom.shown import Shown
from course_utils.classroom.style import COLOR

Span = tuple[int, int, str]


def marked(
    texts: Sequence[str],
    spans: Sequence[Sequence[Span]],
    true: Sequence[Sequence[Span]] | None = None,
    names: Sequence[str] | None = None,
) -> Shown:
    """Texts with their spans framed, the type behind each: one text a line.

    spans  for each text (start, end, type), characters, none overlapping
    true   where the right spans are known: a found one that is not among them is marked "wrong",
           and those that were not found stand behind the text
    names  something to write in front of each text

    As plain text it is the form of data/assistant: [words](type). Raises ValueError for a span that
    does not lie in its text or overlaps another, and for lists of unequal lengths.
    """
    lists = [list(texts), list(spans), list(true or [()] * len(texts)), names or [""] * len(texts)]
    if len({len(part) for part in lists}) > 1:
        raise ValueError(f"one list of spans a text is needed; got {[len(p) for p in lists]}.")
    html, plain = [], []
    for text, found, right, name in zip(*lists):
        a, b = _line(text, found, None if true is None else set(right))
        missed = sorted(set(right) - set(found))
        if missed:
            words = ", ".join(f"{text[start:end]} ({kind})" for start, end, kind in missed)
            a += f'<br><span style="margin-left:2em">missed: {escape(words)}</span>'
            b += f"\n    missed: {words}"
        if name:
            a, b = f"<b>{escape(name)}</b> · {a}", f"{name} · {b}"
        html.append(f'<p style="line-height:1.9;margin:0.3em 0">{a}</p>')
        plain.append(b)
    return Shown("".join(html), "\n".join(plain))


def _line(text: str, spans: Sequence[Span], right: set[Span] | None) -> tuple[str, str]:
    html, plain, at = "", "", 0
    for start, end, kind in sorted(spans):
        if not at <= start < end <= len(text):
            raise ValueError(f"the span ({start}, {end}, {kind}) overlaps or leaves its text.")
        wrong = right is not None and (start, end, kind) not in right
        frame = f"dashed {COLOR['bad']}" if wrong else f"solid {COLOR['good']}"
        label = f"{kind}, wrong" if wrong else kind
        html += escape(text[at:start]) + (
            f'<span style="border:2px {frame};border-radius:4px;padding:1px 4px">'
            f"{escape(text[start:end])}</span><sub>&nbsp;{escape(label)}</sub>"
        )
        plain += f"{text[at:start]}[{text[start:end]}]({label})"
        at = end
    return html + escape(text[at:]), plain + text[at:]


def draw_marked(ax: Axes, text: str, spans: Sequence[Span], width: int = 78) -> None:
    """The text drawn on ax in lines of `width` characters, its spans behind a coloured ground."""
    lines = _wrapped(text, width)
    ax.set(xlim=(0, width), ylim=(max(len(lines), 4) + 0.2, -0.2))
    ax.axis("off")
    ax.figure.canvas.draw()  # the axes' width is known only now
    points = ax.get_window_extent().width / ax.figure.dpi * 72
    size = points / width / 0.62  # a little wider than the monospaced face's characters are
    probe = ax.text(0, 0, "M" * width, family="monospace", fontsize=size)
    pixels = probe.get_window_extent().width / width  # a character's, drawn in whole pixels
    step = pixels * width / ax.get_window_extent().width  # the same, in the axes' units
    probe.remove()
    for row, (first, line) in enumerate(lines):
        for start, end, _ in spans:
            a, b = max(start, first) - first, min(end, first + len(line)) - first
            if a < b:
                ax.add_patch(Rectangle((a * step - 0.2, row + 0.06), (b - a) * step + 0.4, 0.9,
                                       lw=1.2, fc="#FBE9B7", ec=COLOR["orange"]))  # fmt: skip
        ax.text(0, row + 0.5, line, family="monospace", fontsize=size, va="center_baseline",
                parse_math=False)  # fmt: skip


def _wrapped(text: str, width: int) -> list[tuple[int, str]]:
    """(place of its first character, line) a line; no character is lost or moved."""
    lines, at = [], 0
    while at < len(text):
        rest = text[at:].split("\n", 1)[0]
        line = textwrap.wrap(rest, width, drop_whitespace=False)[0] if rest else ""
        lines.append((at, line))
        at += len(line)
        if len(line) == len(rest):
            at += 1  # the line break itself
    return lines
