"""What lies in the repository because it takes longer than a lesson: a model, and results."""

import json
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "data"


def docs_bert() -> Path:
    """The folder of the BERT that was pretrained on the docs corpus for longer than a lesson.

    It holds the weights (Hugging Face's layout), tokenizer.json, and run.json: recipe, curve and
    held-out scores. Raises ValueError where the repository came without it.
    """
    folder = DATA / "pretrained" / "docs_bert"
    if not (folder / "model.safetensors").is_file():
        raise ValueError(
            f"{folder} holds no model; fetch the repository's data/, or train it: "
            "python -m course_utils.pretraining --help"
        )
    return folder


def stored_result(name: str) -> dict:
    """A result of data/results/: its rows, and the command, date, versions and machine it is from.

    Raises ValueError, naming those that are there, for a name that is not.
    """
    path = DATA / "results" / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise ValueError(f"there is no stored result {name!r}; there are: {there}.")
    return json.loads(path.read_text(encoding="utf-8"))
