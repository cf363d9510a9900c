"""What the lessons load: data sets, corpora, pretrained weights, and the cache they are kept in."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from course_utils.data.assistant import load_assistant
    from course_utils.data.benchmarks import load_clinc150, load_snli, load_wnut17, load_xquad
    from course_utils.data.docs_tasks import load_docs_pairs, load_docs_questions

# Imported at first use: `datasets` takes a second, torch behind it two more, and what only wants
# the cache or the weights should not wait for them.
_LOADERS = {
    "load_assistant": "assistant",
    "load_docs_pairs": "docs_tasks",
    "load_docs_questions": "docs_tasks",
    "load_clinc150": "benchmarks",
    "load_snli": "benchmarks",
    "load_wnut17": "benchmarks",
    "load_xquad": "benchmarks",
}

__all__ = [
    "load_assistant",
    "load_clinc150",
    "load_docs_pairs",
    "load_docs_questions",
    "load_snli",
    "load_wnut17",
    "load_xquad",
]


def __getattr__(name: str) -> Any:
    if name not in _LOADERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LOADERS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LOADERS])
