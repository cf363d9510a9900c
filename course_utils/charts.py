"""Lesson 06: circles in a chart, each with its name beside it, and no name over another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


@dataclass(frozen=True)
class Circle:
    """One circle: where, from low to high its interval, its area in points², and its name."""

    name: str
    x: float
    y: float
    low: float
    high: float
    area: float
    color: str


def named_circles(ax: Any, circles: Sequence[Circle], fontsize: float = 9) -> None:
    """Draw circles into matplotlib's axes, on a logarithmic x axis, and name each directly.

    Call it last: the names find their places in the axes as they are then.
    """
    circles = sorted(circles, key=lambda one: -one.area)  # small ones are drawn over large ones
    for order, one in enumerate(circles):
        ax.plot([one.x] * 2, [one.low, one.high], color=one.color, lw=1, alpha=0.5, zorder=2)
        ax.scatter(
            one.x, one.y, s=one.area, color=one.color, alpha=0.85,
            edgecolor="white", linewidth=0.8, zorder=3 + order / 100,
        )  # fmt: skip
    _limits(ax, circles)
    ax.figure.canvas.draw()  # only now are the axes where they will be
    unit = ax.figure.dpi / 72  # pixels a point
    corners = ax.get_window_extent()
    frame = (corners.x0, corners.y0, corners.x1, corners.y1)
    places = [ax.transData.transform((one.x, one.y)) for one in circles]
    radii = [math.sqrt(one.area / math.pi) * unit for one in circles]
    taken = [_box(*place, 2 * radius, 2 * radius) for place, radius in zip(places, radii)]
    for one in circles:
        (x, low), (_, high) = ax.transData.transform([(one.x, one.low), (one.x, one.high)])
        taken.append((x - 1, low, x + 1, high))
    for one, place, radius in zip(circles, places, radii):
        text = ax.annotate(
            one.name, (one.x, one.y), xytext=(0, 0), textcoords="offset points",
            ha="center", va="center", fontsize=fontsize, zorder=5,
        )  # fmt: skip
        extent = text.get_window_extent()
        size = (extent.width + 2 * unit, extent.height + 2 * unit)
        box = free_place(place, radius, size, taken, frame, unit)
        line = _line(place, radius, box)
        taken += [box, *line]
        middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        text.set_position(tuple((middle - place) / unit))
        if line:  # a thin line says whose name it is
            edge = np.clip(place, box[:2], box[2:])
            ends = ax.transData.inverted().transform([place, edge])
            ax.plot(*ends.T, color="#767676", lw=0.7, zorder=1)


def free_place(
    place: Sequence[float],
    radius: float,
    size: tuple[float, float],
    taken: Sequence[Box],
    frame: Box,
    unit: float,
) -> Box:
    """Where a name fits best around its circle, all in pixels; unit: pixels a point.

    Sharing room with what is taken, or leaving the frame, is what costs most; then a line to the
    circle that crosses something; then distance.
    """
    best, least = None, math.inf
    for distance in (3, 9, 16, 24, 34, 46, 60, 76, 94):  # points from the circle's edge
        for step in range(16):
            angle = math.tau * step / 16
            gap = radius + distance * unit
            box = _box(
                place[0] + math.cos(angle) * (gap + size[0] / 2),
                place[1] + math.sin(angle) * (gap + size[1] / 2),
                *size,
            )
            outside = size[0] * size[1] - _overlap(box, frame)
            shared = sum(_overlap(box, other) for other in taken)
            cost = 10 * outside + 10 * shared + distance
            cost += 0 if step in (0, 8) else 2 if step in (4, 12) else 4
            if cost >= least:
                continue
            line = _line(place, radius, box)
            crossed = sum(_overlap(dot, other) > 0 for dot in line for other in taken)
            cost += 20 * crossed + 4 * len(line)
            if cost < least:
                best, least = box, cost
    return best


def _limits(ax: Any, circles: Sequence[Circle]) -> None:
    """Room for the names around the circles, and ticks at 1, 2, 5, 10 …"""
    ax.set_xscale("log")
    left, right = min(one.x for one in circles) / 1.7, max(one.x for one in circles) * 1.7
    ax.set_xlim(left, right)
    powers = range(math.floor(math.log10(left)), math.ceil(math.log10(right)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if left <= tick <= right]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    low, high = min(one.low for one in circles), max(one.high for one in circles)
    room = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    ax.set_ylim(low - room, high + room)


def _line(place: Sequence[float], radius: float, box: Box) -> list[Box]:
    """A dot every 4 pixels from the circle to the name; none where the name is near enough."""
    start = np.asarray(place, dtype=float)
    way = np.clip(start, box[:2], box[2:]) - start
    length = float(np.hypot(*way))
    steps = np.arange(radius + 1, length, 4) / length if length > radius + 16 else []
    return [_box(*(start + step * way), 1, 1) for step in steps]


def _box(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0
