"""Lesson 06: does pretraining matter? One task, four starts, more and more examples.

python -m course_utils.learning_curves --starts docs_bert docs_bert_random --seeds 0 1 2

Two encoders, and for each the same architecture with random weights: what differs between the two
curves of a shape is pretraining alone. The task is the assistant's 30 intents, without those out of
scope, `n` training examples of each. Rows are added to data/results/learning_curves.json.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict

from course_utils.baselines import TfidfClassifier
from course_utils.data.assistant import OUT_OF_SCOPE, load_assistant
from course_utils.data.stored import docs_bert, save_result, stored_result
from course_utils.data.weights import pretrained_encoder
from course_utils.finetuning import (
    BertForSequenceClassification,
    FineTuning,
    accuracy,
    encode,
    fine_tune,
    load_tokenizer,
    predict,
)

SIZES = (5, 10, 20, 50)  # training examples of each intent
NAME = "learning_curves"


@dataclass(frozen=True)
class Start:
    """Where a curve begins.

    folder         () → of the encoder: its shape, its tokenizer, and its weights if `pretrained`
    learning_rate  the same for a pretrained start and its random twin
    texts          about as many training texts are read, whatever the number of different ones:
                   epochs = texts / (30 · n)
    """

    folder: object
    pretrained: bool
    learning_rate: float
    texts: dict[int, int]


_SMALL = {5: 3_000, 10: 4_500, 20: 6_000, 50: 12_000}
_LARGE = {5: 1_500, 10: 2_400, 20: 3_000, 50: 4_500}
STARTS = {
    "minilm": Start(pretrained_encoder, True, 3e-4, _LARGE),
    "minilm_random": Start(pretrained_encoder, False, 3e-4, _LARGE),
    "docs_bert": Start(docs_bert, True, 5e-4, _SMALL),
    "docs_bert_random": Start(docs_bert, False, 5e-4, _SMALL),
}


def known_intents(data: DatasetDict | None = None) -> DatasetDict:
    """The assistant's queries that have an intent."""
    data = data or load_assistant()
    names = data["train"].features["intent"].names
    oos = names.index(OUT_OF_SCOPE)
    return DatasetDict(
        {name: split.select([i for i, y in enumerate(split["intent"]) if y != oos])
         for name, split in data.items()}
    )  # fmt: skip


def some_of_each(split: Dataset, n: int, seed: int) -> Dataset:
    """n rows of each intent, drawn by the seed; a larger n keeps those of a smaller one.

    Raises ValueError where an intent has fewer.
    """
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)).tolist()
    taken: dict[int, list[int]] = {}
    labels = split["intent"]
    for i in order:
        taken.setdefault(labels[i], []).append(i)
    fewest = min(map(len, taken.values()))
    if fewest < n:
        raise ValueError(f"an intent has {fewest} examples; {n} of each can not be drawn.")
    return split.select(sorted(i for rows in taken.values() for i in rows[:n]))


def start_model(
    name: str, labels: Sequence[str], seed: int
) -> tuple[BertForSequenceClassification, Path]:
    """An untrained classifier on this start, and the folder of its tokenizer."""
    start = STARTS[name]
    folder = start.folder()
    model = BertForSequenceClassification.from_encoder(
        folder, labels, seed, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1
    )
    if not start.pretrained:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = BertForSequenceClassification(model.config, labels).eval()
    return model, folder


def run_point(
    name: str,
    n: int,
    seed: int,
    data: DatasetDict | None = None,
    progress: bool | str = False,
    epochs: int | None = None,
) -> dict:
    """One point of a curve: train on n examples of each intent → its row, accuracy on test."""
    data = data or known_intents()
    names = data["train"].features["intent"].names[:-1]  # out_of_scope is the last
    split = some_of_each(data["train"], n, seed)
    begun = time.monotonic()
    if name == "tfidf":
        classifier = TfidfClassifier.train(split["text"], split["intent"], names)
        logits = torch.from_numpy(classifier.logits(data["test"]["text"]))
    else:
        model, folder = start_model(name, names, seed)
        tokenizer = load_tokenizer(folder)
        start = STARTS[name]
        recipe = FineTuning(
            epochs=epochs or max(1, round(start.texts[n] / len(split))),
            batch_size=16, learning_rate=start.learning_rate, seed=seed,
        )  # fmt: skip
        features = encode(tokenizer, split["text"], labels=split["intent"], max_length=64)
        fine_tune(model, features, recipe, progress=progress)
        logits = predict(model, encode(tokenizer, data["test"]["text"], max_length=64))
    return {
        "start": name, "n": n, "seed": seed, "accuracy": accuracy(logits, data["test"]["intent"]),
        "seconds": round(time.monotonic() - begun),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run points and add them to the stored rows."""
    parser = argparse.ArgumentParser(
        prog="python -m course_utils.learning_curves",
        description="intent accuracy against examples, from pretrained and from random weights",
    )
    choices = ["tfidf", *STARTS]
    parser.add_argument("--starts", nargs="+", choices=choices, default=choices)
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--dry-run", action="store_true", help="print the rows, store nothing")
    options = parser.parse_args(arguments)
    data = known_intents()
    for seed in options.seeds:
        for n in options.sizes:
            for start in options.starts:
                row = run_point(start, n, seed, data)
                print(json.dumps(row), flush=True)
                if not options.dry_run:
                    store(row)


def store(row: dict) -> None:
    """Put a row among the stored ones, in place of one of its start, n and seed."""
    try:
        rows = stored_result(NAME)["rows"]
    except ValueError:  # the first one
        rows = []

    def key(one: dict) -> tuple:
        return ([*STARTS, "tfidf"].index(one["start"]), one["n"], one["seed"])

    rows = sorted([one for one in rows if key(one) != key(row)] + [row], key=key)
    seeds = " ".join(str(s) for s in sorted({one["seed"] for one in rows}))
    recipes = {
        name: {"learning_rate": s.learning_rate, "texts": s.texts} for name, s in STARTS.items()
    }
    save_result(NAME, f"python -m course_utils.learning_curves --seeds {seeds}", rows,
                recipes=recipes)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
