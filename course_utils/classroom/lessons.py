"""The lessons in order, and where the things of the repository lie."""

import textwrap
from difflib import get_close_matches
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

LESSONS = {
    "00": "start here",
    "01": "attention from scratch",
    "02": "Transformer encoder",
    "03": "decoder and full Transformer",
    "04": "BERT from the inside",
    "05": "pretraining with MLM and NSP",
    "06": "fine-tuning: sentences and pairs",
    "07": "what matters in fine-tuning",
    "08": "fine-tuning: tokens and spans",
    "09": "distillation and temperature",
    "10": "TinyBERT and layer mapping",
    "11": "quantization",
    "12": "pruning",
    "13": "ONNX and ONNX Runtime",
    "14": "serving",
    "15": "training at scale",
    "16": "looking inside BERT",
    "17": "interview rehearsal",
}


def wrapped(text: str, indent: str = "  ") -> str:
    """A printed message in lines of at most 92 columns; a notebook would break it inside a word."""
    parts = (
        textwrap.wrap(line, 92, subsequent_indent=indent, break_long_words=False)
        for line in text.splitlines()
    )
    return "\n".join("\n".join(part) for part in parts)


class UnknownName(ValueError):
    """A mistyped id or lesson. A notebook shows its sentence, without the traceback into here."""

    def _render_traceback_(self) -> list[str]:
        return [f"ValueError: {self}"]


def lesson_title(lesson: str) -> str:
    """The title of a lesson, "01" -> "attention from scratch". Raises ValueError if there is
    none.
    """
    if lesson not in LESSONS:
        near = get_close_matches(str(lesson).zfill(2), LESSONS, n=1, cutoff=0.0)[0]
        raise UnknownName(
            f"there is no lesson {lesson!r}; lessons are written as text, e.g. {near!r}"
        )
    return LESSONS[lesson]
