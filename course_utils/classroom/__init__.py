"""What a lesson needs around its ideas: exercises, hints, quizzes, claims, plots, progress, device.

Reference modules never import this package; lessons and tests do. Names are loaded at first use, so
that importing one of them does not import matplotlib, ipywidgets and bertviz as well.
"""

from importlib import import_module

_HOME = {  # public name -> the module of this package that defines it
    "start": "start",
    "device": "device",
    "scale": "scale",
    "exercise": "exercises",
    "hint": "exercises",
    "solution": "exercises",
    "all_exercises": "exercises",
    "use_mine": "mine",
    "progress": "progress",
    "claim_check": "claims",
    "all_claims": "claims",
    "COLOR": "style",
    "figure": "style",
    "label_lines": "style",
    "show": "style",
    "table": "style",
    "draw_attention": "drawings",
    "explore": "drawings",
    "quiz": "quiz",
    "interview": "interview",
    "glossary": "glossary",
    "doctor": "doctor",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOME[name]}")
    # A submodule of the same name (progress, quiz, …) is set as an attribute of this package when
    # it is imported: put the function over it.
    for public, home in _HOME.items():
        if home == _HOME[name]:
            globals()[public] = getattr(module, public)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
