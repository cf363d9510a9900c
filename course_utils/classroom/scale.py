"""Two scales of every lesson: the same cells, other numbers."""

import os
from types import SimpleNamespace


def scale_name() -> str:
    """'small' (no network, minutes on a laptop; the default) or 'full', from COURSE_SCALE."""
    name = os.environ.get("COURSE_SCALE") or "small"
    if name not in ("small", "full"):
        raise ValueError(f"COURSE_SCALE is {name!r}: set it to small or full, or leave it unset.")
    return name


def scale(small: dict, full: dict) -> SimpleNamespace:
    """The lesson's numbers at the scale in force, as attributes.

    >>> numbers = scale(small=dict(steps=300, seeds=3), full=dict(steps=3000, seeds=10))
    >>> numbers.steps
    300

    Raises ValueError if the two do not name the same numbers.
    """
    if small.keys() != full.keys():
        odd = ", ".join(sorted(small.keys() ^ full.keys()))
        raise ValueError(
            f"the scales small and full must name the same numbers; only in one: {odd}"
        )
    return SimpleNamespace(**(small if scale_name() == "small" else full))
