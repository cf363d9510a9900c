"""What lies in the repository because it takes longer than a lesson: a model, and results."""

import json
import os
import platform
from datetime import date
from pathlib import Path

import torch

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


def save_result(name: str, command: str, rows: list[dict], **more) -> Path:
    """Write `data/results/NAME.json`: what `stored_result(NAME)` reads. A test repeats a cheap row.

    command  the line that makes this file
    rows     the table, a dictionary a row
    more     further JSON: a baseline, the seconds it took
    """
    threads = torch.get_num_threads()
    record = {
        "command": command,
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {threads} torch threads",
        **more,
        "rows": rows,
    }
    path = DATA / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path
