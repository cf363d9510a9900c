"""How figures, tables and numbers look in every lesson.

The same thing has the same colour in all lessons: take it from COLOR by its name.
"""

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from cycler import cycler
from torch import Tensor

# Okabe and Ito's palette (2008), told apart by readers with any colour vision.
_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_YELLOW, _BLUE, _RED, _PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
COLOR = {
    "query": _BLUE,
    "key": _RED,
    "value": _GREEN,
    "teacher": _BLUE,
    "student": _RED,
    "baseline": "#767676",
    "good": _GREEN,
    "bad": _RED,
    "theory": "#767676",
    "measured": _BLUE,
    "post-norm": _BLUE,
    "pre-norm": _RED,
    "black": _BLACK,
    "orange": _ORANGE,
    "sky": _SKY,
    "green": _GREEN,
    "yellow": _YELLOW,
    "blue": _BLUE,
    "red": _RED,
    "purple": _PURPLE,
    "grey": "#767676",
}
CYCLE = [_BLUE, _RED, _GREEN, _PURPLE, _ORANGE, _SKY, _BLACK]
HEAT = "Blues"  # the colour map of attention weights and other values from 0 up


def use_style() -> None:
    """Set matplotlib's defaults: 6.5 × 3.6 inches at 110 dpi, type that is legible projected."""
    mpl.rcParams.update(
        {
            "figure.figsize": (6.5, 3.6),
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.facecolor": "white",  # also in a dark theme: a figure is a sheet of paper
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.w_pad": 0.08,
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E6E6E6",
            "axes.prop_cycle": cycler(color=CYCLE),
            "lines.linewidth": 2.0,
            "lines.markersize": 5,
            "legend.frameon": False,
            "image.cmap": HEAT,
            "axes.formatter.useoffset": False,
        }
    )
    _png_without_metadata()


def _png_without_metadata() -> None:
    """Keep matplotlib's version out of stored figures: rendering twice gives the same bytes."""
    try:
        from IPython import get_ipython
        from matplotlib_inline.config import InlineBackend

        if get_ipython() is not None:
            backend = InlineBackend.instance(parent=get_ipython())
            backend.print_figure_kwargs = {
                "bbox_inches": None,
                "metadata": {"Software": None},
            }
    except ImportError:  # a plain Python: nothing to set
        pass


def figure(columns: int = 1, rows: int = 1, height: float | None = None, **subplots_kw: Any):
    """A figure in the course's size: (fig, ax), or (fig, array of axes) for several panels.

    height: in inches, 3.6 for one row unless given. Further keywords go to `plt.subplots`.
    """
    size = (6.5, height or (3.6 if rows == 1 else 2.6 * rows))
    return plt.subplots(rows, columns, figsize=size, **subplots_kw)


def label_lines(ax, gap: float = 0.015, **text_kw: Any) -> None:
    """Write each labelled line's name at its right end, in its colour, instead of a legend.

    Names that would overlap are pushed apart. gap: distance to the line, as a fraction of the
    width.
    """
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    ax.figure.canvas.draw()  # the axes' limits and place are known only now
    to_axes = ax.transAxes.inverted()
    ends = []
    for line in lines:
        x, y = line.get_xydata()[-1]
        ends.append([*to_axes.transform(ax.transData.transform((x, y))), line])
    ends.sort(key=lambda end: end[1])
    size = text_kw.pop("fontsize", 10)
    step = 1.35 * size / 72 * ax.figure.dpi / ax.get_window_extent().height  # one line of type
    for below, above in zip(ends, ends[1:]):
        above[1] = max(above[1], below[1] + step)
    for above, below in zip([[0, 1.0 + step], *ends[:0:-1]], ends[::-1]):  # and stay below the top
        below[1] = min(below[1], above[1] - step)
    for x, y, line in ends:
        ax.text(
            x + gap,
            y,
            line.get_label(),
            color=line.get_color(),
            transform=ax.transAxes,
            va="center",
            ha="left",
            fontsize=size,
            clip_on=False,
            **text_kw,
        )


def show(*tensors: Tensor | float, digits: int = 3) -> None:
    """Print numbers as a person writes them: `[0.429 0.260 0.158]`, matrices row under row.

    Each argument is a tensor with at most two axes, or a number; digits: decimals printed.
    """
    for tensor in tensors:
        tensor = torch.as_tensor(tensor).detach().cpu()
        if tensor.ndim > 2:
            raise ValueError(
                f"show() prints at most two axes; got a tensor of shape {tuple(tensor.shape)}"
            )
        print("\n".join(_row(row, digits) for row in (tensor if tensor.ndim == 2 else [tensor])))


def _row(row: Tensor, digits: int) -> str:
    if row.ndim == 0:
        return format_number(row.item(), digits)
    return "[" + " ".join(format_number(x, digits) for x in row.tolist()) + "]"


def format_number(value: Any, digits: int = 3) -> str:
    """Floats with `digits` decimals, never "-0.000"; integers in groups of three; text as is."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        text = f"{value:,.{digits}f}"
        return text[1:] if text.startswith("-") and not text.strip("-0.,") else text
    return f"{value:,}" if isinstance(value, int) else str(value)


class Table:
    """A small table, HTML in a notebook and aligned text elsewhere. Made by `table`."""

    def __init__(
        self, header: list[str], rows: list[list[str]], best: int | None, caption: str | None
    ):
        self.header, self.rows, self.best, self.caption = header, rows, best, caption
        self.numeric = [all(_looks_numeric(row[i]) for row in rows) for i in range(len(header))]

    def __repr__(self) -> str:
        marked = [["* " * (i == self.best) + row[0], *row[1:]] for i, row in enumerate(self.rows)]
        widths = [max(map(len, column)) for column in zip(self.header, *marked)]

        def line(cells):
            parts = (
                c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, self.numeric)
            )
            return "  ".join(parts).rstrip()

        lines = [line(self.header), "  ".join("-" * w for w in widths), *map(line, marked)]
        return "\n".join(([self.caption] if self.caption else []) + lines)

    def _repr_html_(self) -> str:
        def cells(tag, row):
            align = ["right" if n else "left" for n in self.numeric]
            return "".join(
                f'<{tag} style="text-align:{a}">{escape(c)}</{tag}>' for c, a in zip(row, align)
            )

        body = ""
        for i, row in enumerate(self.rows):
            style = ' style="font-weight:bold"' if i == self.best else ""
            row = [row[0] + " ← best", *row[1:]] if i == self.best else row
            body += f"<tr{style}>{cells('td', row)}</tr>"
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        head = f"<thead><tr>{cells('th', self.header)}</tr></thead>"
        return f"<table>{caption}{head}<tbody>{body}</tbody></table>"


def _looks_numeric(text: str) -> bool:
    number = r"[<≈±+−-]?\d[\d.,]*( ?(%|×|± ?[\d.,]+))?"
    return text == "–" or re.fullmatch(number, text) is not None


def table(
    columns: dict[str, Sequence],
    digits: int | dict[str, int] = 3,
    best: str | None = None,
    caption: str | None = None,
) -> Table:
    """A table of results.

    columns: name (with its unit) -> values, all of one length. digits: decimals of floats, for all
    columns or by column name. best: "column:max" or "column:min" marks the best row.

    Raises ValueError for columns of different lengths or a `best` that names no column.
    """
    columns = {name: list(values) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of a table must have one length; got {lengths}")
    decimals = digits if isinstance(digits, dict) else dict.fromkeys(columns, digits)
    plain = {
        name: [v.item() if hasattr(v, "item") else v for v in values]
        for name, values in columns.items()
    }
    text = [[format_number(v, decimals.get(name, 3)) for v in vs] for name, vs in plain.items()]
    row = None
    if best is not None:
        name, _, which = best.partition(":")
        if name not in plain or which not in ("max", "min"):
            raise ValueError(
                f'best is {best!r}: write "column:max" or "column:min", column one of {list(plain)}'
            )
        known = [value for value in plain[name] if value is not None]
        row = plain[name].index((max if which == "max" else min)(known)) if known else None
    return Table(list(columns), [list(r) for r in zip(*text)], row, caption)
