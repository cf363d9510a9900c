"""Lesson 07: one recipe, changed at one place at a time, over several seeds.

    python -m course_utils.fine_tuning_sweeps seeds      # data/results/sweep_seeds.json: the base
    python -m course_utils.fine_tuning_sweeps rates      # the learning rate
    python -m course_utils.fine_tuning_sweeps recipe     # batch, epochs, warm-up, decay, freezing …
    python -m course_utils.fine_tuning_sweeps data       # augmentation, mixup, FGM, PGD
    python -m course_utils.fine_tuning_sweeps tasks      # two heads, adapters, LoRA

All runs learn the same task, small enough to be run often: the ten look-alike intents of the
assistant's cards and transfers, ten examples each, all-MiniLM-L6-v2. What the encoder knew before
is measured too: how well its vectors tell the other twenty intents apart, which no run trains on.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.adapters import add_adapters, add_lora, trained_parameters
from course_utils.adversarial import fgm_backward, pgd_backward
from course_utils.augmentation import (
    EmbeddingNeighbours,
    add_typos,
    eda,
    mixup_backward,
    mlm_substitute,
)
from course_utils.bert import Bert
from course_utils.data.assistant import OUT_OF_SCOPE, intent_domains, load_assistant
from course_utils.data.stored import docs_bert, save_result, stored_result
from course_utils.data.weights import pretrained_encoder
from course_utils.finetuning import (
    BertForSequenceClassification,
    Features,
    FineTuning,
    accuracy,
    backward,
    collate,
    encode,
    fine_tune,
    load_tokenizer,
    predict,
)
from course_utils.multitask import BertForSeveralTasks, add_labels
from course_utils.pretraining import BertForPreTraining
from course_utils.trimming import keep_rows, new_ids

BASE = FineTuning(epochs=8, batch_size=16, learning_rate=3e-4)
DOMAINS = ("cards", "transfers")
DROPOUT = dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)

# --- The task -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """Texts and the numbers of their labels."""

    texts: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.texts)


class FewExamples:
    """Ten look-alike intents, a few examples each, and what an encoder must not forget.

    train, test      of the ten intents: per_intent examples each; 30 each
    memory, queries  of the twenty other in-scope intents: ten each to look up, ten each to ask for
    """

    def __init__(self, per_intent: int = 10) -> None:
        self.folder = pretrained_encoder()
        self.data, domains = load_assistant(), intent_domains()
        self.domains = list(DOMAINS)
        self.intents = [name for name, domain in domains.items() if domain in DOMAINS]
        self.others = [n for n, d in domains.items() if d not in (*DOMAINS, OUT_OF_SCOPE)]
        self.domain_of = [DOMAINS.index(domains[name]) for name in self.intents]
        self.tokenizer = load_tokenizer(self.folder)
        self.train = self.pick("train", self.intents, per_intent)
        self.test = self.pick("test", self.intents)
        self.memory = self.pick("train", self.others, 10)
        self.queries = self.pick("validation", self.others)

    def pick(self, split: str, names: Sequence[str], count: int | None = None) -> Texts:
        """The first `count` texts of each of these intents, in the order of the file."""
        every, found = self.data[split].features["intent"].names, Texts([], [])
        taken = dict.fromkeys(names, 0)
        for text, label in zip(self.data[split]["text"], self.data[split]["intent"]):
            name = every[label]
            if name in taken and (count is None or taken[name] < count):
                taken[name] += 1
                found.texts.append(text)
                found.labels.append(names.index(name))
        return found

    def encode(self, found: Texts, max_length: int = 64) -> list[Features]:
        """Examples in the pieces of MiniLM's vocabulary."""
        return encode(self.tokenizer, found.texts, labels=found.labels, max_length=max_length)

    def model(self, seed: int = 0) -> BertForSequenceClassification:
        """MiniLM under a new head for the ten intents."""
        return BertForSequenceClassification.from_encoder(
            self.folder, self.intents, seed, **DROPOUT
        )

    def accuracy(self, model: nn.Module, found: Texts | None = None) -> float:
        """Share of these texts (the test texts) that the model gets right."""
        found = found or self.test
        return accuracy(predict(model, self.encode(found)), found.labels)

    def kept(self, bert: Bert) -> float:
        """How much of what it knew does the encoder still know? Share of the 200 queries whose
        nearest vector in memory is of their own intent; none of these intents was trained on."""
        memory, queries = (
            mean_vectors(bert, self.encode(part)) for part in (self.memory, self.queries)
        )
        nearest = (queries @ memory.T).argmax(-1).tolist()  # (queries,)
        right = [self.memory.labels[i] == y for i, y in zip(nearest, self.queries.labels)]
        return sum(right) / len(right)


@torch.inference_mode()
def mean_vectors(bert: Bert, features: Sequence[Features]) -> Tensor:
    """Each text's mean token vector, length 1: (texts, hidden_size). The bert's mode is kept."""
    was_training = bert.training
    bert.eval()
    order = sorted(range(len(features)), key=lambda i: len(features[i]["input_ids"]))
    found: list[Tensor] = [torch.empty(0)] * len(features)
    for start in range(0, len(order), 64):
        numbers = order[start : start + 64]
        batch = collate([features[i] for i in numbers])
        batch.pop("labels", None)
        states = bert(**batch, need_weights=False).last_hidden_state  # (batch, tokens, hidden)
        weights = batch["attention_mask"][..., None].float()  # (batch, tokens, 1)
        means = F.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)
        for i, vector in zip(numbers, means):
            found[i] = vector
    bert.train(was_training)
    return torch.stack(found)


class TrimmedExamples(FewExamples):
    """The same task with the encoder's table cut to the pieces that the assistant's texts hold.

    Rows that no text reads get no gradient, and Adam does not move them: that changes no result,
    and a step costs a third less.
    """

    def __init__(self, per_intent: int = 10) -> None:
        super().__init__(per_intent)
        texts = [text for split in self.data.values() for text in split["text"]]
        rows = encode(self.tokenizer, texts, max_length=64)
        self.place = new_ids(i for row in rows for i in row["input_ids"])  # {old id: new id}
        self.used = list(self.place)

    def encode(self, found: Texts, max_length: int = 64) -> list[Features]:
        """Examples in the pieces of the cut table. ValueError for a piece that it lacks: texts with
        typos or other new words need the whole table of `FewExamples`."""
        rows = super().encode(found, max_length)
        for row in rows:
            lacking = [i for i in row["input_ids"] if i not in self.place]
            if lacking:
                pieces = ", ".join(map(self.tokenizer.id_to_token, lacking))
                raise ValueError(f"the cut table has no row for: {pieces}.")
        return [row | {"input_ids": [self.place[i] for i in row["input_ids"]]} for row in rows]

    def model(self, seed: int = 0) -> BertForSequenceClassification:
        """MiniLM, its table cut, under a new head for the ten intents."""
        return self.cut(super().model(seed))

    def cut(self, model: nn.Module) -> nn.Module:
        """Keep only the rows of the table that are in use, in place."""
        keep_rows(model, self.place)
        return model


# --- What is changed ------------------------------------------------------------------------------


class Augmented(Sequence):
    """Examples that are rewritten each time they are read: another version in each epoch.

    rewrite  text → text; half of the reads give the original
    """

    def __init__(
        self, task: FewExamples, found: Texts, rewrite: Callable[[str], str], seed: int
    ) -> None:
        self.task, self.found, self.rewrite = task, found, rewrite
        self.generator = torch.Generator().manual_seed(seed)
        self.original = task.encode(found)

    def __len__(self) -> int:
        return len(self.original)

    def __getitem__(self, index: int) -> Features:
        if torch.rand((), generator=self.generator) < 0.5:
            return self.original[index]
        text = self.rewrite(self.found.texts[index])
        return self.task.encode(Texts([text], [self.found.labels[index]]))[0]

    def __iter__(self):
        return iter(self.original)  # for the lengths alone


def rewriters(task: FewExamples, seed: int) -> dict[str, Callable[[str], str]]:
    """Name → a function that rewrites a text, drawing from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    table = Bert.from_pretrained(task.folder).embeddings.token.weight
    synonyms = EmbeddingNeighbours(task.tokenizer, table)
    reader = BertForPreTraining.from_pretrained(docs_bert())
    pieces = load_tokenizer(docs_bert())
    return {
        "EDA": lambda text: eda(text, synonyms, 0.15, generator),
        "MLM substitution": lambda text: mlm_substitute(reader, pieces, text, 1, generator),
        "typos": lambda text: add_typos(text, 0.3, generator),
    }


RECIPES = {  # what differs from BASE
    "rates": {
        f"{rate:g}": dict(learning_rate=rate) for rate in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    },
    "recipe": {
        "batch 32": dict(batch_size=32),
        "4 epochs": dict(epochs=4),
        "16 epochs": dict(epochs=16),
        "no warm-up": dict(warmup=0.0),
        "no weight decay": dict(weight_decay=0.0),
        "no clipping": dict(clip=float("inf")),
        "layer decay 0.8": dict(layer_decay=0.8),
        "3 layers frozen": dict(frozen_layers=3),
    },
}
BACKWARDS = {
    "mixup": mixup_backward,
    "FGM": partial(fgm_backward, epsilon=0.5),
    "PGD": partial(pgd_backward, epsilon=0.5, step=0.3, steps=2),
}
DATA = ("EDA", "MLM substitution", "typos", *BACKWARDS)
SINGLE = ("adapters", "LoRA")
TASKS = ("equal weights", "uncertainty", "3 layers shared", *SINGLE)
SWEEPS = {
    "seeds": ("base",),
    **{name: tuple(found) for name, found in RECIPES.items()},
    "data": DATA,
    "tasks": TASKS,
}
MEASURES = {  # beside accuracy, what a sweep measures
    "seeds": ("kept", "typos"),
    "rates": ("kept",),
    "recipe": ("kept",),
    "data": ("typos",),
    "tasks": (),
}


def typo_texts(task: FewExamples, rate: float = 0.3) -> Texts:
    """The test texts with typos, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    return Texts([add_typos(t, rate, generator) for t in task.test.texts], task.test.labels)


def run(task: FewExamples, sweep: str, name: str, seed: int, progress: bool = False) -> dict:
    """One training run → its row: setting, seed, accuracy, kept, typos, trained, seconds.

    name  a key of SWEEPS[sweep], or "base". accuracy is on the test texts, typos on the same with
          typos (sweep data), kept is `FewExamples.kept`; trained counts parameters (sweep tasks)
    """
    torch.manual_seed(seed)  # mixup draws from the global generator
    recipe = replace(BASE, seed=seed, **RECIPES.get(sweep, {}).get(name, {}))
    examples, step, domains = task.encode(task.train), backward, None
    started = time.perf_counter()
    if sweep == "tasks" and name not in ("base", *SINGLE):
        model, examples = two_heads(task, name, seed)
    else:
        model = task.model(seed)
    if name in SINGLE:
        (add_adapters if name == "adapters" else add_lora)(model.bert, seed=seed)
        recipe = replace(recipe, frozen_layers=None, learning_rate=2e-3)
    if name in BACKWARDS:
        step = BACKWARDS[name]
    elif sweep == "data" and name != "base":
        examples = Augmented(task, task.train, rewriters(task, seed)[name], seed)
    trained = trained_parameters(model)[0]
    history = fine_tune(model, examples, recipe, backward=step, progress=progress)
    row = {"setting": name, "seed": seed, "seconds": round(time.perf_counter() - started, 1)}
    row["loss"] = sum(one["loss"] for one in history[-7:]) / 7
    if isinstance(model, BertForSeveralTasks):
        logits = model.split(predict(model, task.encode(task.test)))
        domains = torch.tensor([task.domain_of[i] for i in task.test.labels])  # (texts,)
        row["accuracy"] = accuracy(logits["intent"], task.test.labels)
        row["domain_accuracy"] = accuracy(logits["domain"], domains)
    else:
        row["accuracy"] = task.accuracy(model)
    if "kept" in MEASURES[sweep]:
        row["kept"] = task.kept(model.bert)
    if "typos" in MEASURES[sweep]:
        row["typos"] = task.accuracy(model, typo_texts(task))
    if sweep == "tasks":
        row["trained"] = trained
    return row


def two_heads(
    task: FewExamples, name: str, seed: int
) -> tuple[BertForSeveralTasks, list[Features]]:
    """The model with an intent and a domain head, and the examples with both labels."""
    weighting = "uncertainty" if name == "uncertainty" else {"intent": 1.0, "domain": 1.0}
    model = BertForSeveralTasks.from_encoder(
        task.folder,
        {"intent": task.intents, "domain": task.domains},
        seed,
        weighting=weighting,
        **DROPOUT,
    )
    if isinstance(task, TrimmedExamples):
        task.cut(model)
    model.share(3 if name == "3 layers shared" else model.config.num_hidden_layers)
    examples = [{k: v for k, v in row.items() if k != "labels"} for row in task.encode(task.train)]
    intents = task.train.labels
    return model, add_labels(
        examples, intent=intents, domain=[task.domain_of[intent] for intent in intents]
    )


# --- The command ----------------------------------------------------------------------------------


def summary(rows: Sequence[dict], measure: str = "accuracy") -> dict[str, tuple[float, float, int]]:
    """setting → (mean, standard deviation, number of seeds) of a measure, in the rows' order."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if measure in row:
            found.setdefault(row["setting"], []).append(row[measure])
    return {
        name: (statistics.mean(v), statistics.stdev(v) if len(v) > 1 else 0.0, len(v))
        for name, v in found.items()
    }


def stored_rows(sweep: str) -> list[dict]:
    """The rows that are stored already, if they were made by the base recipe of today."""
    try:
        stored = stored_result(f"sweep_{sweep}")
    except ValueError:
        return []
    return stored["rows"] if stored["recipe"] == dataclasses.asdict(BASE) else []


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m course_utils.fine_tuning_sweeps",
        description="one recipe, changed at one place at a time, seed by seed",
    )
    parser.add_argument("sweep", choices=list(SWEEPS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dry-run", action="store_true", help="print the rows, store nothing")
    parser.add_argument("--only", nargs="+", help="these settings alone")
    parser.add_argument("--anew", action="store_true", help="run stored rows again too")
    options = parser.parse_args(arguments)
    names, seeds = options.only or SWEEPS[options.sweep], options.seeds
    rows = [] if options.anew or options.dry_run else stored_rows(options.sweep)
    done = {(row["setting"], row["seed"]) for row in rows}
    task = FewExamples() if "typos" in MEASURES[options.sweep] else TrimmedExamples()
    more = {"recipe": dataclasses.asdict(BASE), "before": task.kept(task.model().bert)}
    for seed in seeds:  # a stopped command leaves whole seeds, and goes on there
        for name in names:
            if (name, seed) not in done:
                rows.append(run(task, options.sweep, name, seed))
                print(rows[-1], flush=True)
        if not options.dry_run:
            every = sorted({row["seed"] for row in rows})
            command = (
                f"python -m course_utils.fine_tuning_sweeps {options.sweep} "
                f"--seeds {' '.join(map(str, every))}"
            )
            save_result(f"sweep_{options.sweep}", command, rows, **more)
    for name, (mean, spread, count) in summary(rows).items():
        print(f"{name:18s} {mean:.3f} ± {spread:.3f} ({count})")


if __name__ == "__main__":
    main()
