"""What the lessons fine-tune for: a task's data, head, recipe and scores, each under a name.

folder = fine_tuned("intents")      # trained once, then found in the cache
python -m course_utils.tasks intents --seeds 0 1 2 3 4      # a stored result, seed by seed
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer
from torch import nn

from course_utils import data, finetuning, out_of_scope
from course_utils.data.cache import cached, sha256
from course_utils.data.stored import save_result
from course_utils.data.weights import pretrained_encoder
from course_utils.finetuning import (
    BertForSequenceClassification,
    Features,
    FineTuning,
    encode,
    fine_tune,
    load_tokenizer,
    predict,
)


@dataclass(frozen=True)
class Task:
    """Everything that makes a fine-tuning run repeatable.

    load      () → its data, with "train", "validation" and "test"
    head      (encoder's folder, the data, seed) → untrained model
    features  (tokenizer, one split) → examples for `fine_tune`
    score     (model, tokenizer, the data) → figures on the test split
    recipe    how it is trained
    """

    load: Callable[[], DatasetDict]
    head: Callable[[Path, DatasetDict, int], nn.Module]
    features: Callable[[Tokenizer, Dataset], list[Features]]
    score: Callable[[nn.Module, Tokenizer, DatasetDict], dict[str, float]]
    recipe: FineTuning


# --- One sentence, and two ------------------------------------------------------------------------


def class_head(column: str) -> Callable[[Path, DatasetDict, int], nn.Module]:
    """A head for the ClassLabel in this column."""

    def head(folder: Path, data: DatasetDict, seed: int) -> nn.Module:
        names = data["train"].features[column].names
        return BertForSequenceClassification.from_encoder(folder, names, seed)

    return head


def intent_features(tokenizer: Tokenizer, split: Dataset) -> list[Features]:
    """Utterances and the numbers of their intents."""
    return encode(tokenizer, split["text"], labels=split["intent"], max_length=64)


def intent_scores(model: nn.Module, tokenizer: Tokenizer, data: DatasetDict) -> dict[str, float]:
    """`out_of_scope.scores` on test, with the threshold chosen on validation."""
    oos = out_of_scope_label(data)
    logits, labels = {}, {}
    for name in ("validation", "test"):
        logits[name] = predict(model, intent_features(tokenizer, data[name]))
        labels[name] = torch.tensor(data[name]["intent"])  # (queries,)
    threshold = out_of_scope.choose_threshold(logits["validation"], labels["validation"], oos)
    return out_of_scope.scores(logits["test"], labels["test"], oos, threshold)


def out_of_scope_label(data: DatasetDict) -> int:
    """The number of the label that stands for everything else."""
    names = data["train"].features["intent"].names
    return next(i for i, name in enumerate(names) if name in ("oos", "out_of_scope"))


def pair_features(first: str, second: str, max_length: int) -> Callable:
    """Features of the texts in two columns, with the column `label`."""

    def features(tokenizer: Tokenizer, split: Dataset) -> list[Features]:
        return encode(tokenizer, split[first], split[second], split["label"], max_length)

    return features


def accuracy_of(features: Callable) -> Callable:
    """Accuracy on test."""

    def score(model: nn.Module, tokenizer: Tokenizer, data: DatasetDict) -> dict[str, float]:
        logits = predict(model, features(tokenizer, data["test"]))
        return {"accuracy": finetuning.accuracy(logits, data["test"]["label"])}

    return score


docs_features = pair_features("function", "summary", max_length=64)
snli_features = pair_features("premise", "hypothesis", max_length=96)


def load_snli_dev() -> DatasetDict:
    """SNLI without its training split, which is not among the files: train on dev."""
    found = data.load_snli()
    return found if "train" in found else DatasetDict(found, train=found["validation"])


TASKS = {
    "intents": Task(
        data.load_assistant, class_head("intent"), intent_features, intent_scores,
        FineTuning(epochs=6, learning_rate=2e-4),
    ),
    "docs_pairs": Task(
        data.load_docs_pairs, class_head("label"), docs_features, accuracy_of(docs_features),
        FineTuning(epochs=2, learning_rate=2e-4, frozen_layers=3),
    ),
    # real data, at full scale
    "clinc150": Task(
        data.load_clinc150, class_head("intent"), intent_features, intent_scores,
        FineTuning(epochs=5, learning_rate=1e-4),
    ),
    "snli": Task(
        load_snli_dev, class_head("label"), snli_features, accuracy_of(snli_features),
        FineTuning(epochs=2, learning_rate=1e-4),
    ),
}  # fmt: skip


# --- Running them ---------------------------------------------------------------------------------


def task(name: str) -> Task:
    """The task of this name. ValueError names those that there are."""
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}; there are: {', '.join(TASKS)}.")
    return TASKS[name]


def train(name: str, seed: int = 0, progress: bool = True) -> tuple[nn.Module, Tokenizer]:
    """A model fine-tuned for a task, and its tokenizer."""
    chosen, folder = task(name), pretrained_encoder(progress)
    tokenizer, found = load_tokenizer(folder), chosen.load()
    model = chosen.head(folder, found, seed)
    features = chosen.features(tokenizer, found["train"])
    recipe = dataclasses.replace(chosen.recipe, seed=seed)
    fine_tune(model, features, recipe, progress=f"training {name}" if progress else False)
    return model, tokenizer


def fine_tuned(name: str, seed: int = 0, progress: bool = True) -> Path:
    """The folder of a model fine-tuned for a task: weights, config.json, tokenizer.json.

    Trained at the first call, at most two minutes on two cores, with a progress bar; then found in
    the cache, under a key made of recipe, data and encoder.
    """
    chosen = task(name)
    config = {
        "task": name,
        "seed": seed,
        "recipe": dataclasses.asdict(chosen.recipe),
        "data": {k: split._fingerprint for k, split in chosen.load().items()},
        "made by": sha256(Path(finetuning.__file__)),
    }

    def build(folder: Path) -> None:
        model, tokenizer = train(name, seed, progress)
        model.save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"))

    return cached("finetuned", config, build)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m course_utils.tasks TASK --seeds 0 1 2`: data/results/finetuning_TASK.json."""
    parser = argparse.ArgumentParser(
        prog="python -m course_utils.tasks", description="fine-tune for a task, seed by seed"
    )
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--dry-run", action="store_true", help="print the rows, store nothing")
    options = parser.parse_args(arguments)
    chosen, rows = task(options.task), []
    for seed in options.seeds:
        start = time.monotonic()
        model, tokenizer = train(options.task, seed)
        row = {"seed": seed, "seconds": round(time.monotonic() - start)}
        row |= chosen.score(model, tokenizer, chosen.load())
        rows.append(row)
        print(json.dumps(row), flush=True)
    command = (
        f"python -m course_utils.tasks {options.task} --seeds {' '.join(map(str, options.seeds))}"
    )
    if not options.dry_run:
        recipe = dataclasses.asdict(chosen.recipe)
        path = save_result(f"finetuning_{options.task}", command, rows, recipe=recipe)
        print(path.name, "written")
    for name in rows[0].keys() - {"seed", "seconds"}:
        values = [row[name] for row in rows]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name:22s} {statistics.mean(values):.4f} ± {spread:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
