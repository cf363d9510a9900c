"""Sliders over a figure: `explore` redraws in place, and leaves a still picture for readers."""

import inspect
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from html import escape
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
from IPython.display import display

DPI = 110  # of the pictures, as everywhere in the course


def explore(function: Callable, static: Callable | None = None, **sliders: Any) -> None:
    """Put a slider on each argument of a function that draws; moving one redraws in place.

    function: called with one value per slider; it draws one figure (what it prints stands below).
    static: draws the still picture that stays in the stored notebook, on paper and wherever no
        kernel runs; without it, `function` at the sliders' starting values.
    sliders: name=(lowest, highest) or (lowest, highest, step) for whole numbers or floats,
        name=["a", "b"] for a choice, name=True for a tick box, or any ipywidgets control. A slider
        starts at the default of its argument, if it has one.

    The output is one: front ends with a kernel show the sliders, all others the still picture.
    Raises ValueError for a slider that ipywidgets can not make, and what `function` raises at the
    starting values. An error at a later value is written in the figure's place.
    """
    controls = {name: _control(name, spec) for name, spec in sliders.items()}
    if not controls:
        raise ValueError("explore() needs a slider, for instance temperature=(0.5, 5.0)")
    for name, parameter in inspect.signature(function).parameters.items():
        own = isinstance(sliders.get(name), widgets.Widget)  # it brings its own start
        if name in controls and parameter.default is not parameter.empty and not own:
            controls[name].value = parameter.default
    picture, words = widgets.Image(format="png"), widgets.HTML()

    def redraw(_change: Any = None) -> None:
        try:
            png, text = _draw(function, **{name: c.value for name, c in controls.items()})
        except Exception as error:  # shown to the reader: a widget's own traceback gets lost
            png, text = None, f"{type(error).__name__}: {error}"
        if png:
            picture.value = png
        picture.layout.display = "block" if png else "none"
        words.value = f"<pre>{escape(text)}</pre>" if text else ""

    values = {name: control.value for name, control in controls.items()}
    first, text = _draw(function, **values)
    still, still_text = _draw(static) if static else (first, text)
    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    picture.layout.max_width, picture.layout.height = "100%", "auto"
    box = widgets.VBox([*controls.values(), picture, words])
    box.layout.align_items = "flex-start"  # else the picture is stretched to the page's width
    lines = [f"slider {name}: {_range(c)}" for name, c in controls.items()]
    bundle = {"text/plain": "\n".join(lines + ([still_text.rstrip()] if still_text else []))}
    if still:
        bundle["image/png"] = still
    view = "application/vnd.jupyter.widget-view+json"
    bundle[view] = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    display(bundle, raw=True)


def _control(name: str, spec: Any) -> widgets.Widget:
    """The ipywidgets control for one argument, by ipywidgets' own rules."""
    try:
        control = widgets.interactive.widget_from_abbrev(spec)  # a widget is passed through
    except (ValueError, TypeError) as error:
        raise ValueError(f"the slider {name}={spec!r} can not be made: {error}") from None
    if control is None:
        raise ValueError(f"the slider {name}={spec!r} can not be made: write (lowest, highest)")
    control.description = control.description or name.replace("_", " ")
    control.style.description_width = "initial"
    return control


def _range(control: widgets.Widget) -> str:
    if hasattr(control, "options"):
        options = control._options_labels
        return f"one of {', '.join(options)}; here {control.label}"
    if hasattr(control, "min"):
        return f"{control.min:g} to {control.max:g}; here {control.value:g}"
    return f"here {control.value}"


def _draw(function: Callable, **values: Any) -> tuple[bytes | None, str]:
    """(PNG bytes or None, printed text) of one call; closes the figures that it opened."""
    before = set(plt.get_fignums())
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            function(**values)
        opened = [n for n in plt.get_fignums() if n not in before]
        if not opened:
            return None, printed.getvalue()
        png = io.BytesIO()
        plt.figure(opened[-1]).savefig(png, format="png", dpi=DPI, metadata={"Software": None})
        return png.getvalue(), printed.getvalue()
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
