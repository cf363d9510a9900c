"""Lesson 09: teachers and students, run by run, seed by seed.

    python -m course_utils.distillation_runs students   # data/results/distillation_students.json
    python -m course_utils.distillation_runs layers     # which of the teacher's layers to keep
    python -m course_utils.distillation_runs hot        # T = 100
    python -m course_utils.distillation_runs small      # another shape; what to copy beside logits
    python -m course_utils.distillation_runs search     # weight and temperature, by Optuna
    python -m course_utils.distillation_runs clinc150   # 150 intents; whole and cut vocabularies

Student seed s learns from teacher seed s. Rows of one sweep differ in what they name and in nothing
else: first weights, texts, order, steps and learning rate are the same.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from course_utils import out_of_scope, tasks
from course_utils.augmentation import splice
from course_utils.benchmark import pack, paired_bootstrap, unpack
from course_utils.bert import BertConfig
from course_utils.data.cache import cached
from course_utils.data.stored import save_result, stored_result
from course_utils.distillation import (
    Copier,
    CopyStep,
    DistillationStep,
    collate_soft,
    keep_layers,
    with_teacher,
)
from course_utils.finetuning import (
    BertForSequenceClassification,
    Features,
    FineTuning,
    TextClassifier,
    encode,
    fine_tune,
    load_tokenizer,
    predict,
    set_dropout,
)
from course_utils.trimming import recut_share, trim_vocabulary, unknown_share
from course_utils.wordpiece import CONTINUES

LAYERS = {"3 layers": (2, 4, 6), "small": (3, 6)}  # kept of the teacher's, or copied from
SMALL = dict(  # a student that shares no weight with its teacher; heads as many, for their maps
    hidden_size=144, num_hidden_layers=2, num_attention_heads=12, intermediate_size=576
)
RECIPES = {  # frozen_layers=None: the teacher's embeddings stay, new ones are trained
    "3 layers": FineTuning(epochs=8, learning_rate=6e-4, frozen_layers=None),
    "small": FineTuning(epochs=20, learning_rate=1e-3, frozen_layers=None),
}
TEMPERATURE, SOFT_WEIGHT = 4.0, 0.9


@dataclass(frozen=True)
class Setting:
    """What a row names.

    student      "3 layers" of the teacher, or "small": another shape, from random weights
    soft_weight  0 = labels alone, 1 = the teacher alone
    layers       the teacher's that are kept, or copied from; None = LAYERS of that student
    parts        of `CopyStep`
    dropout      soft targets keep a student from learning the labels by heart, labels alone do not:
                 so both are tried
    spliced      so many texts without a label are read too, see `splice`; the steps are not more
    """

    student: str = "3 layers"
    soft_weight: float = SOFT_WEIGHT
    temperature: float = TEMPERATURE
    layers: tuple[int, ...] | None = None
    parts: tuple[str, ...] = ()
    dropout: float = 0.0
    spliced: int = 0


LABELS = {
    "labels": dict(soft_weight=0.0),
    "labels, dropout 0.1": dict(soft_weight=0.0, dropout=0.1),
}
SPLICED = dict(soft_weight=1.0, spliced=4800)
KEPT = ((1, 2, 3), (4, 5, 6), (1, 3, 5))
SWEEPS = {
    "students": {
        name: Setting("3 layers", **more)
        for name, more in {
            **LABELS,
            "labels and logits": {},
            "logits alone": dict(soft_weight=1.0),
            "+ hidden states": dict(parts=("hidden",)),
        }.items()
    },
    "hot": {  # beside "labels and logits" and "logits alone" of the sweep above, which have T = 4
        "T = 4, soft weight 0.5": Setting("3 layers", soft_weight=0.5),
        "T = 100, soft weight 0.5": Setting("3 layers", soft_weight=0.5, temperature=100.0),
        "T = 100, soft weight 1": Setting("3 layers", soft_weight=1.0, temperature=100.0),
    },
    "layers": {" ".join(map(str, kept)): Setting("3 layers", layers=kept) for kept in KEPT},
    "small": {
        name: Setting("small", **more)
        for name, more in {
            **LABELS,
            "labels and logits": {},
            "logits alone": dict(soft_weight=1.0),
            "logits, spliced texts": SPLICED,
            "+ hidden states": dict(parts=("hidden",)),
            "+ attention maps": dict(parts=("attention",)),
            "+ relations": dict(parts=("relations",)),
            "+ all three": dict(parts=("hidden", "attention", "relations")),
        }.items()
    },
}


class Teaching:
    """A task with a fine-tuned teacher: its texts, the teacher's answers, and how a student is
    measured.

    name  of a task in `tasks.TASKS` with intents; seed of the teacher
    """

    def __init__(self, name: str = "intents", seed: int = 0) -> None:
        self.data = tasks.task(name).load()
        self.oos = tasks.out_of_scope_label(self.data)
        folder = tasks.fine_tuned(name, seed)
        self.teacher, self.tokenizer = tasks.load_model(name, folder), load_tokenizer(folder)
        self.features = {
            split: tasks.intent_features(self.tokenizer, rows) for split, rows in self.data.items()
        }
        self.labels = {split: torch.tensor(rows["intent"]) for split, rows in self.data.items()}

    @cached_property
    def examples(self) -> list[Features]:
        """The training texts with the teacher's logits."""
        return with_teacher(self.teacher, self.features["train"])

    def spliced(self, count: int, seed: int) -> list[Features]:
        """Texts that no label fits, with the teacher's logits."""
        generator = torch.Generator().manual_seed(seed)
        texts = splice(self.data["train"]["text"], count, generator)
        return with_teacher(self.teacher, encode(self.tokenizer, texts, max_length=64))

    def student(
        self,
        kind: str = "3 layers",
        layers: Sequence[int] | None = None,
        seed: int = 0,
        dropout: float = 0.0,
    ) -> BertForSequenceClassification:
        """An untrained student. "3 layers" has the teacher's embeddings, which stay as they are,
        and its head; "small" is drawn from the seed."""
        if kind == "3 layers":
            student = keep_layers(self.teacher, layers or LAYERS[kind])
            student.bert.embeddings.requires_grad_(False)
            return set_dropout(student, dropout)
        config = BertConfig(vocab_size=self.teacher.config.vocab_size, **SMALL)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            student = BertForSequenceClassification(config, self.teacher.labels)
        return set_dropout(student, dropout)

    def logits(self, model: nn.Module, split: str, tokenizer: Tokenizer | None = None) -> Tensor:
        """(texts, labels); tokenizer: the model's own, where it is not the teacher's"""
        if tokenizer is None:
            return predict(model, self.features[split])
        return predict(model, tasks.intent_features(tokenizer, self.data[split]))

    def score(self, model: nn.Module, tokenizer: Tokenizer | None = None) -> dict:
        """`out_of_scope.scores` on test, `validation` (in scope, argmax), and which texts in scope
        were right (argmax), packed: see `right_of`."""
        found = {split: self.logits(model, split, tokenizer) for split in ("validation", "test")}
        threshold = out_of_scope.choose_threshold(
            found["validation"], self.labels["validation"], self.oos
        )
        row = out_of_scope.scores(found["test"], self.labels["test"], self.oos, threshold)
        right = {}
        for split, logits in found.items():
            known = self.labels[split] != self.oos
            right[split] = (logits.argmax(-1) == self.labels[split])[known]  # (texts in scope,)
        validation = right["validation"].float().mean().item()
        return row | {"validation": validation, "right": pack(right["test"].numpy(), "u1")}


def teach(
    teaching: Teaching,
    setting: Setting,
    seed: int = 0,
    recipe: FineTuning | None = None,
    progress: bool | str = False,
) -> nn.Module:
    """The student of a setting, trained. recipe  None: the one of its kind"""
    student = teaching.student(setting.student, setting.layers, seed, setting.dropout)
    recipe = replace(recipe or RECIPES[setting.student], seed=seed)
    examples = teaching.examples
    if setting.spliced:  # without labels, so the others' are not read either
        examples = [{k: v for k, v in row.items() if k != "labels"} for row in examples]
        examples += teaching.spliced(setting.spliced, seed)
        share = len(teaching.examples) / len(examples)
        recipe = replace(recipe, epochs=round(recipe.epochs * share))
    step = DistillationStep(setting.temperature, setting.soft_weight)
    trained = student
    if setting.parts:
        trained = Copier(student, teaching.teacher.config.hidden_size, seed)
        step = CopyStep(
            teaching.teacher, setting.layers or LAYERS[setting.student], setting.parts, 1.0,
            setting.temperature, setting.soft_weight,
        )  # fmt: skip
    fine_tune(trained, examples, recipe, collate_soft, backward=step, progress=progress)
    return student


def run(teaching: Teaching, name: str, setting: Setting, seed: int, progress=False) -> dict:
    """A row: setting, seed, and the scores."""
    student = teach(teaching, setting, seed, progress=progress)
    return {"setting": name, "seed": seed} | teaching.score(student)


def save_student(student: BertForSequenceClassification, folder: Path | str) -> None:
    """A folder that `TextClassifier.from_folder` loads, the teacher's tokenizer in it."""
    tokenizer = load_tokenizer(tasks.fine_tuned("intents"))
    TextClassifier(student, tokenizer).save(folder)


def student_folder(how: str = "+ hidden states", seed: int = 0, progress: bool = True) -> Path:
    """The folder of a student of three layers, a row of the sweep "students".

    Trained at the first call, one to two minutes on two cores, with a bar; then cached.
    Later lessons quantize, prune, export and serve it.
    """
    setting = SWEEPS["students"][how]
    recipe = RECIPES[setting.student]
    config = {
        "setting": dataclasses.asdict(setting),
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "teacher": tasks.fine_tuned("intents", seed, progress).name,
        "loop": tasks.LOOP,
    }

    def build(folder: Path) -> None:
        words = f"a student: {how}" if progress else False
        save_student(teach(Teaching(seed=seed), setting, seed, progress=words), folder)

    return cached("students", config, build)


# --- Reading the rows -----------------------------------------------------------------------------


def right_of(rows: Sequence[dict], setting: str) -> np.ndarray:
    """Which test texts in scope each run of a setting had right: (seeds, texts), by seed."""
    found = sorted((row["seed"], row["right"]) for row in rows if row["setting"] == setting)
    if not found:
        raise ValueError(f"there is no row {setting!r}.")
    return np.stack([unpack(text, "u1") for _, text in found]).astype(bool)


def gain(rows: Sequence[dict], a: str, b: str) -> tuple[float, float, float]:
    """What setting b gains over a in scope: (difference, low, high) of a 95 % interval by a paired
    bootstrap over seeds and texts."""
    left, right = right_of(rows, a), right_of(rows, b)
    return (right.mean() - left.mean(), *paired_bootstrap(left, right))


# --- Searching ------------------------------------------------------------------------------------


def search(objective: Callable[[float, float], float], trials: int = 20, seed: int = 0):
    """An Optuna study that maximises objective(temperature, soft_weight).

    temperature from 1 to 20 on a logarithmic scale, soft_weight from 0 to 1
    """
    import optuna  # needed here only

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))

    def of(trial):
        temperature = trial.suggest_float("temperature", 1.0, 20.0, log=True)
        return objective(temperature, trial.suggest_float("soft_weight", 0.0, 1.0))

    study.optimize(of, n_trials=trials)
    return study


def search_rows(trials: int, seed: int = 0) -> tuple[list[dict], dict]:
    """A row a trial: temperature, soft_weight, validation (in scope), test scores; and the
    importance of the two. Validation alone is what the search sees."""
    import optuna

    teaching, rows = Teaching(seed=seed), []

    def objective(temperature: float, soft_weight: float) -> float:
        setting = Setting("small", soft_weight, temperature)
        row = run(teaching, f"trial {len(rows)}", setting, seed)
        rows.append(row | {"temperature": temperature, "soft_weight": soft_weight})
        print({k: v for k, v in rows[-1].items() if k != "right"}, flush=True)
        return row["validation"]

    study = search(objective, trials, seed)
    return rows, optuna.importance.get_param_importances(study)


# --- CLINC150 -------------------------------------------------------------------------------------

CLINC150 = FineTuning(epochs=4, learning_rate=6e-4, frozen_layers=None)
CLINC150_SETTINGS = {
    "labels, dropout 0.1": LABELS["labels, dropout 0.1"],
    "+ hidden states": dict(parts=("hidden",)),
}


def clinc150_rows(seed: int = 0) -> list[dict]:
    """Teacher and students of three layers on CLINC150, each with the whole vocabulary and with the
    pieces of the training texts and the single ASCII characters alone.

    A row: setting, seed, pieces, parameters, the scores of `Teaching.score`, and of the words of
    the test texts, in and out of scope, the shares that are cut otherwise than by the whole
    vocabulary (`recut`) and that are unknown (`unknown`). The embeddings are frozen and every
    training text is covered: a student that is trained on the cut vocabulary is the same.
    """
    teaching, rows = Teaching("clinc150", seed), []
    test, words, read = teaching.data["test"], {}, teaching.data["train"]["text"]
    letters = {  # so that an unseen word is spelt, not [UNK]; Chinese and other characters are not
        i
        for piece, i in teaching.tokenizer.get_vocab().items()
        if len(piece.removeprefix(CONTINUES)) == 1 and piece.isascii()
    }
    for name, inside in (("in scope", True), ("out of scope", False)):
        words[name] = [
            t for t, i in zip(test["text"], test["intent"]) if (i != teaching.oos) == inside
        ]

    def measure(name: str, model: nn.Module) -> None:
        cut = trim_vocabulary(model, teaching.tokenizer, read, keep_characters=False, also=letters)
        for one, tokenizer in ((model, teaching.tokenizer), cut[:2]):
            row = {"setting": name, "seed": seed, "pieces": tokenizer.get_vocab_size()}
            row["parameters"] = sum(p.numel() for p in one.parameters())
            row |= teaching.score(one, tokenizer)
            row["recut"] = {
                k: recut_share(teaching.tokenizer, tokenizer, v) for k, v in words.items()
            }
            row["unknown"] = {k: unknown_share(tokenizer, v) for k, v in words.items()}
            rows.append(row)
            print({k: v for k, v in row.items() if k != "right"}, flush=True)

    measure("teacher", teaching.teacher)
    for name, how in CLINC150_SETTINGS.items():
        measure(name, teach(teaching, Setting(**how), seed, CLINC150))
    return rows


# --- The command ----------------------------------------------------------------------------------


def recipes(sweep: str) -> dict:
    """The recipes of a sweep's students and of their teacher, as plain JSON."""
    kinds = {setting.student for setting in SWEEPS.get(sweep, {"": Setting("small")}).values()}
    every = {"teacher": tasks.task("intents").recipe} | {kind: RECIPES[kind] for kind in kinds}
    return {kind: dataclasses.asdict(every[kind]) for kind in sorted(every)}


def stored_rows(sweep: str) -> list[dict]:
    """The rows that are stored already, if they were made by the recipes of today."""
    try:
        stored = stored_result(f"distillation_{sweep}")
    except ValueError:
        return []
    return stored["rows"] if recipes(sweep).items() <= stored["recipes"].items() else []


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m course_utils.distillation_runs",
        description="students, one thing changed at a time, seed by seed",
    )
    parser.add_argument("sweep", choices=[*SWEEPS, "search", "clinc150"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=20, help="of the search")
    parser.add_argument("--only", nargs="+", help="these settings alone")
    parser.add_argument("--dry-run", action="store_true", help="print the rows, store nothing")
    parser.add_argument("--anew", action="store_true", help="run stored rows again too")
    options = parser.parse_args(arguments)
    name, command = f"distillation_{options.sweep}", f"python -m {parser.prog.split()[-1]}"
    if options.sweep == "search":
        rows, importance = search_rows(options.trials)
        command += f" search --trials {options.trials}"
        if not options.dry_run:
            save_result(name, command, rows, recipes=recipes("search"), importance=importance)
        return
    if options.sweep == "clinc150":
        rows = [row for seed in options.seeds for row in clinc150_rows(seed)]
        command += f" clinc150 --seeds {' '.join(map(str, options.seeds))}"
        if not options.dry_run:
            both = {"teacher": tasks.task("clinc150").recipe, "3 layers": CLINC150}
            both = {kind: dataclasses.asdict(recipe) for kind, recipe in both.items()}
            save_result(name, command, rows, recipes=both)
        return
    settings = {
        key: setting
        for key, setting in SWEEPS[options.sweep].items()
        if not options.only or key in options.only
    }
    rows = [] if options.anew or options.dry_run else stored_rows(options.sweep)
    done = {(row["setting"], row["seed"]) for row in rows}
    teachers = []
    for seed in options.seeds:  # a stopped command leaves whole seeds, and goes on there
        teaching = Teaching(seed=seed)
        teachers.append({"seed": seed} | teaching.score(teaching.teacher))
        for key, setting in settings.items():
            if (key, seed) not in done:
                rows.append(run(teaching, key, setting, seed))
                print({k: v for k, v in rows[-1].items() if k != "right"}, flush=True)
        if not options.dry_run:
            every = " ".join(map(str, sorted({row["seed"] for row in rows})))
            line = f"{command} {options.sweep} --seeds {every}"
            save_result(name, line, rows, recipes=recipes(options.sweep), teachers=teachers)
    for key in settings:
        found = [row["in_scope_argmax"] for row in rows if row["setting"] == key]
        print(f"{key:30s} {statistics.mean(found):.4f} ({len(found)})")


if __name__ == "__main__":
    main()
