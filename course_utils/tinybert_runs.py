"""Lesson 10: the runs of `python -m course_utils.tinybert`: one student, or many to compare.

    python -m course_utils.tinybert --out my_student            # both stages, on the assistant
    python -m course_utils.tinybert ablations --seeds 0 1 2     # each part left out in turn
    python -m course_utils.tinybert maps --seeds 0 1 2          # uniform, top, bottom
    python -m course_utils.tinybert augmentation --seeds 0 1 2  # the gain against N

The comparisons become data/results/tinybert_ablations.json, …_maps.json, …_augmentation.json. All
models of a run read one cut vocabulary: the task's pieces, all single characters, and the most
frequent pieces of the general text. Teacher and student must read the same ids, and a step costs a
quarter less than with all 30,522 rows. What the teacher scores is measured before the cut: on the
assistant it finds 75 % of the out-of-scope texts (argmax) with all pieces and 68 % with 8,000. A
student drawn at random loses nothing by it: rows that no text reads stay as they were drawn.
"""

import argparse
import dataclasses
import hashlib
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from course_utils import tasks
from course_utils.augmentation import EmbeddingNeighbours, TinyBertCandidates, augment_texts
from course_utils.benchmark import pack
from course_utils.bert import Bert, BertConfig, find_folder
from course_utils.data.cache import cached, sha256
from course_utils.data.docs import Corpus, Document, docs_corpus, read_text_files, wikitext2
from course_utils.data.stored import docs_bert, save_result, stored_result
from course_utils.data.weights import pretrained_encoder
from course_utils.distillation import TEACHER
from course_utils.finetuning import Features, FineTuning, load_tokenizer, predict, read_labels
from course_utils.pretraining import BertForPreTraining
from course_utils.pretraining_run import Batches, Recipe
from course_utils.tinybert import Distilled, new_student
from course_utils.tinybert_stages import (
    TinyBertRecipe,
    general_distillation,
    in_rounds,
    task_distillation,
)
from course_utils.trimming import Trimmed, always_kept, table_bytes, trim_vocabulary

LOOP = 1  # raised when the same recipe distils differently: older general students are made again
STAGES = ("general", "intermediate", "prediction")
WITHOUT = {  # what an ablation leaves out
    "general": "the first stage: the student starts from random weights",
    "task": "both phases of the second stage: the labels of the original texts are learned",
    "teacher": "the second stage's teacher: the labels are learned, on the new versions too",
    "intermediate": "its first phase; the steps go to the second",
    "augmentation": "new versions of the training texts; as many steps",
    "layers": "hidden states and attention, in both stages",
    "embedding": "the embeddings' loss, in both stages",
    "hidden": "the hidden states' loss, in both stages",
    "attention": "the attention scores' loss, in both stages",
    "prediction": "the teacher's answers: the last phase learns the labels of the original texts",
    "everything": "all of it: labels alone, from random weights, as many steps",
}
READS_ORIGINALS = {"task", "prediction"}  # without these the last phase reads no new versions
DATA_SETS = {  # --data → the task's name
    "assistant": "intents",
    "clinc150": "clinc150",
    "docs_pairs": "docs_pairs",
    "snli": "snli",
    "slots": "slots",
    "wnut17": "wnut17",
}
ONE_TEXT = ("assistant", "clinc150")  # columns text and intent: what augmentation can rewrite
OTHER_ENCODERS = FineTuning(epochs=4, learning_rate=5e-5)  # how a teacher is made of one


# --- What all runs share --------------------------------------------------------------------------


class Workshop:
    """One data set, its teacher on a cut vocabulary, and what several runs would compute again.

    data_set  a key of DATA_SETS
    teacher   folder or Hub name: a model fine-tuned for this task, or an encoder, which is
              fine-tuned first. None: all-MiniLM-L6-v2, fine-tuned, out of the cache
    encoder   of the first stage: the teacher before it was fine-tuned. None: where it is known
    mlm       of the augmentation: a model with MLM head and tokenizer; None: docs_bert
    pieces    size of the vocabulary; the task's own pieces are always in. 0 = whole
    corpus    general text; None: the docs corpus

    Raises ValueError for what does not fit together, OSError for a name the Hub does not give.
    """

    def __init__(
        self,
        data_set: str = "assistant",
        teacher: Path | str | None = None,
        encoder: Path | str | None = None,
        mlm: Path | str | None = None,
        pieces: int = 8000,
        corpus: Callable[[], Corpus] | None = None,
        device: torch.device | str = "cpu",
        progress: bool = True,
    ) -> None:
        if data_set not in DATA_SETS:
            raise ValueError(
                f"there is no data set {data_set!r}; there are: {', '.join(DATA_SETS)}."
            )
        self.data_set, self.progress, self.device = data_set, progress, device
        self.name = DATA_SETS[data_set]
        self.task = tasks.task(self.name)
        self.data = self.task.load()
        self.mlm = mlm
        folder, self.encoder_folder = self.find_teacher(teacher, encoder)
        model = tasks.load_model(self.name, folder).to(device)
        labels = self.task.head(pretrained_encoder(), self.data, 0).labels
        if model.labels != labels:
            raise ValueError(f"{folder} answers with other labels than {data_set} has.")
        tokenizer = load_tokenizer(folder)
        general = (corpus or (lambda: docs_corpus(progress)))().split()[0]
        self.corpus = general
        self.teacher, self.tokenizer, self.kept = model, tokenizer, None
        self.vocabulary = tokenizer.get_vocab()  # before it is cut
        self.teacher_score = self.score(model, tokenizer)
        if pieces:
            self.share_pieces(pieces)
        self.teacher.to(device)  # what was cut too
        self._candidates: dict[int, TinyBertCandidates] = {}
        self._examples: dict[tuple, list[Features]] = {}
        self._answers: dict[tuple[int, ...], Tensor] = {}

    def find_teacher(
        self, teacher: Path | str | None, encoder: Path | str | None
    ) -> tuple[Path, Path | None]:
        """The folders of the fine-tuned teacher, and of the encoder of the first stage, if known"""
        before = find_folder(encoder) if encoder else None
        if teacher is None:
            return tasks.fine_tuned(self.name, progress=self.progress), (
                before or pretrained_encoder(self.progress)
            )
        folder = find_folder(teacher)
        if read_labels(folder):
            return folder, before
        made = tasks.fine_tuned(
            self.name,
            progress=self.progress,
            encoder=folder,
            recipe=OTHER_ENCODERS,
            device=self.device,
        )
        return made, before or folder

    def task_ids(self) -> set[int]:
        """The pieces of the training texts."""
        return ids_of(self.task.features(self.tokenizer, self.data["train"]))

    def share_pieces(self, pieces: int) -> None:
        """Cut teacher and tokenizer to so many pieces, and the general text to what they cover."""
        rows = self.tokenizer.encode_batch(self.corpus.sentences(), add_special_tokens=False)
        counts = Counter(i for row in rows for i in row.ids)
        kept = self.task_ids() | always_kept(self.tokenizer)
        for piece, _ in counts.most_common():
            if len(kept) >= pieces:
                break
            kept.add(piece)
        trimmed = trim_vocabulary(self.teacher, self.tokenizer, [], also=kept)
        covered = iter([all(i in kept for i in row.ids) for row in rows])
        documents = [
            Document(one.name, one.package, [text for text in one.sentences if next(covered)])
            for one in self.corpus.documents
        ]
        documents = [one for one in documents if len(one.sentences) > 1]
        self.corpus = replace(self.corpus, documents=documents)
        self.teacher, self.tokenizer, self.kept = trimmed

    def encoder(self) -> Bert:
        """The teacher of the first stage, on the same pieces."""
        if self.encoder_folder is None:
            raise ValueError(
                "the first stage learns from the encoder before it was fine-tuned: name it with "
                "--encoder, or leave the stage out."
            )
        bert = Bert.from_pretrained(self.encoder_folder)
        tokenizer = load_tokenizer(self.encoder_folder)
        sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads")
        ours, theirs = ([getattr(c, s) for s in sizes] for c in (bert.config, self.teacher.config))
        if ours != theirs or tokenizer.get_vocab() != self.vocabulary:
            raise ValueError(
                f"{self.encoder_folder} is no encoder that this teacher was fine-tuned from: "
                "another size or other pieces."
            )
        if self.kept is not None:
            bert = trim_vocabulary(bert, tokenizer, [], keep_characters=False, also=self.kept).model
        return bert.to(self.device)

    # --- the second stage's examples

    def candidates(self, count: int) -> TinyBertCandidates:
        """The words that may stand in a word's place; what was asked once is remembered."""
        if count not in self._candidates:
            folder = find_folder(self.mlm or docs_bert())
            model = BertForPreTraining.from_pretrained(folder)
            table = self.teacher.bert.embeddings.token.weight.cpu()
            near = EmbeddingNeighbours(self.tokenizer, table, count, least=0.0, average=True)
            self._candidates[count] = TinyBertCandidates(model, load_tokenizer(folder), near, count)
        return self._candidates[count]

    def examples(self, recipe: TinyBertRecipe) -> list[Features]:
        """The training examples, each text with its new versions."""
        key = (recipe.augment, recipe.probability, recipe.candidates, recipe.seed)
        if key not in self._examples:
            split = self.data["train"]
            if recipe.augment:
                split = self.augmented(split, recipe)
            self._examples[key] = self.task.features(self.tokenizer, split)
        return self._examples[key]

    def augmented(self, split: Dataset, recipe: TinyBertRecipe) -> Dataset:
        """The split with up to recipe.augment new versions of each text, labels following."""
        if self.data_set not in ONE_TEXT:
            raise ValueError(
                f"augmentation rewrites single texts, {' and '.join(ONE_TEXT)}; for "
                f"{self.data_set} take --augment 0."
            )
        generator = torch.Generator().manual_seed(recipe.seed)
        candidates = self.candidates(recipe.candidates)
        found = augment_texts(
            split["text"], recipe.augment, candidates, recipe.probability, generator, self.progress
        )
        labels = split["intent"][:]
        rows = {"text": found.texts, "intent": [labels[source] for source in found.sources]}
        columns = {name: split.features[name] for name in rows}
        return Dataset.from_dict(rows, features=datasets.Features(columns))

    def answered(self, features: Sequence[Features]) -> list[Features]:
        """The examples with the teacher's logits, each text asked once. Judged tokens, whose logits
        have as many rows as the text, come back as they are: the teacher is asked live then."""
        if isinstance(features[0].get("labels"), list):
            return list(features)
        keys = [(*one["input_ids"], *one["token_type_ids"]) for one in features]
        new = {key: one for key, one in zip(keys, features) if key not in self._answers}
        if new:
            self._answers.update(zip(new, predict(self.teacher, list(new.values()))))
        return [one | {TEACHER: self._answers[key]} for key, one in zip(keys, features)]

    # --- the two stages

    def general(self, recipe: TinyBertRecipe) -> Distilled:
        """A student that went through the first stage: made once, then found in the cache.

        With recipe.general_steps 0 it is as it was drawn.
        """
        config = recipe.student_config(self.teacher.config)
        layer_map = recipe.map_for(self.teacher.config)
        student = new_student(self.teacher, config, recipe.seed)
        width = self.teacher.config.hidden_size
        model = Distilled(student, width, recipe.shared_projection, recipe.seed).to(self.device)
        if not recipe.general_steps:
            return model
        encoder = self.encoder()

        def build(folder: Path) -> None:
            text = Recipe(
                max_length=recipe.general_max_length,
                batch_tokens=recipe.general_batch_tokens,
                seed=recipe.seed,
            )
            batches = Batches(self.corpus, self.tokenizer, text)
            started = time.monotonic()
            history = general_distillation(
                model, encoder, batches, layer_map, recipe, self.progress
            )
            save_file(learned(model), folder / "general.safetensors")
            seconds = round(time.monotonic() - started, 1)
            record = {"seconds": seconds, "history": thinned(history)}
            (folder / "general.json").write_text(json.dumps(record), encoding="utf-8")

        text = "\n".join(self.corpus.sentences())
        key = {
            "recipe": {name: getattr(recipe, name) for name in GENERAL},
            "student": dataclasses.asdict(config),
            "encoder": sha256(self.encoder_folder / "model.safetensors"),
            "tokenizer": hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest(),
            "text": hashlib.sha256(text.encode()).hexdigest(),
            "loop": LOOP,
        }
        folder = cached("tinybert", key, build)
        model.load_state_dict(load_file(folder / "general.safetensors"), strict=False)
        return model.eval()

    def distil(
        self,
        recipe: TinyBertRecipe,
        without: Sequence[str] = (),
        stages: Sequence[str] = STAGES,
    ) -> tuple[Distilled, dict, dict]:
        """One run: both stages → the student in its `Distilled`, its row, the phases' histories.

        without  what is left out, keys of WITHOUT; stages: those that run at all

        The row: seed, the task's figures on test, parameters, texts (examples that there are),
        steps of the second stage, its seconds, and for intents `right`, see `right_in_scope`.
        """
        plan = leave_out(recipe, without, stages)
        model = self.general(plan)
        features = self.examples(plan)
        originals = replace(plan, augment=0)
        last = self.examples(originals) if READS_ORIGINALS & set(without) else features
        started = time.monotonic()
        history = {}
        for phase, examples in (("intermediate", features), ("prediction", last)):
            other = {"intermediate": "prediction", "prediction": "intermediate"}[phase]
            one = replace(plan, **{f"{other}_steps": 0})
            steps = getattr(plan, f"{phase}_steps")
            if steps and not plan.passes:
                examples = in_rounds(examples, steps * plan.batch_size, plan.seed)
            if phase == "prediction" and steps and plan.hard_weight < 1:
                examples = self.answered(examples)
            layer_map = plan.map_for(self.teacher.config)
            found = task_distillation(model, self.teacher, examples, layer_map, one, self.progress)
            history[phase] = found[phase]
        row = {"seed": plan.seed} | self.score(model.student)
        row |= {
            "parameters": sum(p.numel() for p in model.student.parameters()),
            "texts": len(features if plan.intermediate_steps else last),
            "steps": sum(map(len, history.values())),
            "seconds": round(time.monotonic() - started, 1),
        }
        if self.data_set in ONE_TEXT:
            row["right"] = self.right_in_scope(model.student)
        return model, row, history

    def score(self, model: nn.Module, tokenizer: Tokenizer | None = None) -> dict[str, float]:
        """The task's figures on test."""
        return self.task.score(model, tokenizer or self.tokenizer, self.data)

    def right_in_scope(self, model: nn.Module) -> str:
        """Which test texts in scope an intent classifier has right by argmax, packed, as
        `distillation_runs.right_of` reads it."""
        test, oos = self.data["test"], tasks.out_of_scope_label(self.data)
        labels = torch.tensor(test["intent"])
        found = predict(model, tasks.intent_features(self.tokenizer, test)).argmax(-1)
        return pack((found == labels)[labels != oos].cpu().numpy(), "u1")

    def trim(self, model: nn.Module) -> Trimmed:
        """The student with the pieces of the training texts and the single characters alone."""
        return trim_vocabulary(model, self.tokenizer, [], also=self.task_ids())


GENERAL = [  # the recipe's numbers that the first stage depends on
    "layers", "hidden_size", "heads", "intermediate_size", "dropout", "layer_map", "parts",
    "embedding_weight", "hidden_weight", "attention_weight", "shared_projection",
    "general_steps", "general_batch_tokens", "general_max_length", "general_learning_rate",
    "warmup", "weight_decay", "clip", "seed",
]  # fmt: skip


def ids_of(features: Sequence[Features]) -> set[int]:
    """The pieces of some examples."""
    return {i for example in features for i in example["input_ids"]}


def learned(model: Distilled) -> dict[str, Tensor]:
    """What the first stage trains: the Bert and the projection, without the student's head."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if not name.startswith("student.")
    }


def thinned(history: Sequence[dict], most: int = 100) -> list[dict]:
    """About `most` rows of a history, evenly spaced, numbers with four digits."""
    rows = history[:: max(1, len(history) // most)]
    return [
        {name: float(f"{value:.4g}") if isinstance(value, float) else value
         for name, value in row.items()}
        for row in rows
    ]  # fmt: skip


def leave_out(
    recipe: TinyBertRecipe, without: Sequence[str] = (), stages: Sequence[str] = STAGES
) -> TinyBertRecipe:
    """The recipe without some of its parts, keys of WITHOUT; steps left out in the second stage go
    to its other phase. What is not among `stages` does not run, and its steps go nowhere.

    Raises ValueError for a name that does not exist.
    """
    for name, there in [*((n, WITHOUT) for n in without), *((n, STAGES) for n in stages)]:
        if name not in there:
            raise ValueError(f"there is no {name!r} to name here; there are: {', '.join(there)}.")
    gone = set(without)
    if gone & {"general", "everything"} or "general" not in stages:
        recipe = replace(recipe, general_steps=0)
    if gone & {"augmentation", "everything"}:
        recipe = replace(recipe, augment=0)
    if gone & {"task", "teacher", "intermediate", "everything"}:
        steps = recipe.prediction_steps + recipe.intermediate_steps
        recipe = replace(recipe, intermediate_steps=0, prediction_steps=steps)
    if gone & {"task", "teacher", "prediction", "everything"}:
        recipe = replace(recipe, hard_weight=1.0)
    if "layers" in gone:
        gone |= {"hidden", "attention"}
    recipe = replace(recipe, parts=tuple(part for part in recipe.parts if part not in gone))
    for phase in ("intermediate", "prediction"):
        if phase not in stages:
            recipe = replace(recipe, **{f"{phase}_steps": 0})
    if not recipe.parts and (recipe.general_steps or recipe.intermediate_steps):
        raise ValueError(
            "embedding, hidden and attention are all left out: the general stage and the "
            "intermediate phase have nothing to compare; leave these out too."
        )
    return recipe


# --- Comparisons ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A row's name, its recipe, and what it leaves out."""

    name: str
    recipe: TinyBertRecipe
    without: tuple[str, ...] = ()

    def trains(self) -> tuple[TinyBertRecipe, bool]:
        """What decides a run: the recipe that is left, and whether the last phase reads the
        original texts."""
        return leave_out(self.recipe, self.without), bool(READS_ORIGINALS & set(self.without))


KINDS = ("ablations", "maps", "augmentation")


def settings(kind: str, recipe: TinyBertRecipe, passes: int = 1) -> list[Setting]:
    """What a comparison compares: "ablations", "maps" or "augmentation".

    passes  of the augmentation's second half: N = 0, 1, 5, 10, 20 first with equal steps, then with
            so many passes over the texts, so that twenty times the texts take twenty times as long
    """
    if kind == "ablations":
        return [
            Setting("full", recipe),
            *(Setting(f"without {name}", recipe, (name,)) for name in WITHOUT),
        ]
    if kind == "maps":
        return [
            Setting(name, replace(recipe, layer_map=name)) for name in ("uniform", "top", "bottom")
        ]
    sizes = (0, 1, 5, 10, 20)
    return [
        *(Setting(f"N = {n}, equal steps", replace(recipe, augment=n, passes=0)) for n in sizes),
        *(Setting(f"N = {n}, growing", replace(recipe, augment=n, passes=passes)) for n in sizes),
    ]


def summary(rows: Sequence[dict], measure: str) -> dict[str, tuple[float, float, int]]:
    """setting → (mean, standard deviation, number of seeds) of a measure, in the rows' order."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["setting"], []).append(row[measure])
    return {
        name: (statistics.mean(v), statistics.stdev(v) if len(v) > 1 else 0.0, len(v))
        for name, v in found.items()
    }


def as_json(recipe: TinyBertRecipe) -> dict:
    """The recipe as a stored result has it; its seed is each row's own."""
    return json.loads(json.dumps(dataclasses.asdict(replace(recipe, seed=0))))


def stored_rows(name: str, recipe: TinyBertRecipe) -> list[dict]:
    """The rows of a stored comparison, if the same recipe made them."""
    try:
        stored = stored_result(name)
    except ValueError:
        return []
    return stored["rows"] if stored["recipe"] == as_json(recipe) else []


def already_run(one: Setting, recipe: TinyBertRecipe, data: str, seed: int) -> dict | None:
    """The row of another stored comparison whose run was the same: uniform is full, for one."""
    for kind in KINDS:
        rows = stored_rows(result_name(kind, data), recipe)
        same = {other.name for other in settings(kind, recipe) if other.trains() == one.trains()}
        for row in rows:
            if row["setting"] in same and row["seed"] == seed:
                return {key: value for key, value in row.items() if key != "setting"}
    return None


def result_name(kind: str, data: str) -> str:
    return f"tinybert_{kind}" + ("" if data == "assistant" else f"_{data}")


def compare(workshop: Workshop, recipe: TinyBertRecipe, options: argparse.Namespace) -> None:
    """Run a comparison seed by seed; after each run its row is stored.

    A run that another stored comparison of the same recipe has made already is not made again.
    """
    name = result_name(options.kind, options.data)
    rows = [] if options.anew or options.dry_run else stored_rows(name, recipe)
    done = {(row["setting"], row["seed"]) for row in rows}
    chosen = settings(options.kind, recipe, options.passes or 1)
    if options.only:
        known = {one.name for one in chosen}
        odd = [one for one in options.only if one not in known]
        if odd:
            raise ValueError(f"there is no setting {odd[0]!r}; there are: {', '.join(known)}.")
        chosen = [one for one in chosen if one.name in options.only]
    teacher = workshop.teacher_score
    print(json.dumps({"setting": "teacher"} | teacher), flush=True)
    for seed in options.seeds:
        for one in chosen:
            if (one.name, seed) in done:
                continue
            row = None if options.anew else already_run(one, recipe, options.data, seed)
            if row is None:
                _, row, _ = workshop.distil(replace(one.recipe, seed=seed), one.without)
            rows.append({"setting": one.name} | row)
            print(json.dumps({k: v for k, v in rows[-1].items() if k != "right"}), flush=True)
            if not options.dry_run:
                seeds = sorted({row["seed"] for row in rows})
                save_result(name, command_line(options, seeds), rows, recipe=as_json(recipe),
                            teacher=teacher, data=options.data)  # fmt: skip
    measure = main_measure(teacher)
    for setting, (mean, spread, count) in summary(rows, measure).items():
        print(f"{setting:28s} {measure} {mean:.3f} ± {spread:.3f} ({count})")


def main_measure(scores: dict[str, float]) -> str:
    """The figure that a table is sorted by: in-scope accuracy, else accuracy, else F1."""
    return next(name for name in ("in_scope_argmax", "accuracy", "f1") if name in scores)


# --- The command ----------------------------------------------------------------------------------

HELP = """Compress a BERT the TinyBERT way: general distillation, then task distillation.

  python -m course_utils.tinybert --out my_student
  python -m course_utils.tinybert --data clinc150 --pieces 12000 --out clinc_student
  python -m course_utils.tinybert --data clinc150 --teacher google-bert/bert-base-uncased \\
      --student-layers 4 --hidden 312 --intermediate 1200 --map 3,6,9,12 --pieces 0 \\
      --wikitext --general-steps 20000 --intermediate-steps 8000 --device cuda --out tiny4
  python -m course_utils.tinybert ablations --seeds 0 1 2

The output folder holds the student in Hugging Face's layout, tokenizer.json, and tinybert.json:
recipe, figures on test, curves. What the first stage made is kept in the cache.
"""
FLAGS = {  # the recipe's names → the command's
    "layers": "--student-layers",
    "hidden_size": "--hidden",
    "intermediate_size": "--intermediate",
    "layer_map": "--map",
}
APART = ("parts", "seed", "shared_projection")  # --without, --seeds, --two-projections


def flag(name: str) -> str:
    """The command's flag for a field of the recipe."""
    return FLAGS.get(name, "--" + name.replace("_", "-"))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        "python -m course_utils.tinybert",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("kind", nargs="?", default="distil", metavar="KIND",
        choices=("distil", *KINDS),
        help="distil (default): one student a seed; ablations, maps, augmentation: comparisons"
    )  # fmt: skip
    add("--data", default="assistant", choices=list(DATA_SETS), help="(assistant)")
    add("--teacher", metavar="FOLDER_OR_NAME",
        help="fine-tuned for this data, or an encoder to fine-tune; (MiniLM, fine-tuned)"
    )  # fmt: skip
    add("--encoder", metavar="FOLDER_OR_NAME",
        help="the teacher before fine-tuning, for the general stage, where it is not known"
    )  # fmt: skip
    add("--mlm", metavar="FOLDER_OR_NAME", help="masked language model to augment with (docs_bert)")
    add("--pieces", type=int, default=8000, help="vocabulary that all share; 0 = whole (8000)")
    add("--text", type=Path, nargs="+", metavar="FILE", help="general text (the docs corpus)")
    add("--wikitext", nargs="?", const="Salesforce/wikitext", metavar="NAME",
        help="general text: WikiText-2, from the Hub or from a folder of the same layout"
    )  # fmt: skip
    add("--stages", default=",".join(STAGES), metavar="LIST", help=f"({','.join(STAGES)})")
    add("--without", nargs="+", default=[], metavar="PART", choices=list(WITHOUT),
        help=f"leave out: {', '.join(WITHOUT)}"
    )  # fmt: skip
    add("--two-projections", action="store_true", help="W_e and W_h, as in the paper")
    add("--trim", action="store_true", help="cut the student's vocabulary to the task's pieces")
    add("--out", type=Path, metavar="FOLDER", help="where the student is written")
    add("--seeds", type=int, nargs="+", default=[0], help="(0)")
    add("--only", nargs="+", metavar="SETTING", help="of a comparison: these settings alone")
    add("--anew", action="store_true", help="run stored rows again too")
    add("--dry-run", action="store_true", help="print the rows, write nothing")
    add("--device", default=None, help="cpu or cuda; the best there is")
    for one in dataclasses.fields(TinyBertRecipe):
        if one.name not in APART:
            kind = type(one.default)
            words = {"help": f"({one.default})", "metavar": kind.__name__.upper()}
            add(flag(one.name), dest=one.name, type=kind, default=one.default, **words)
    return found


def command_line(options: argparse.Namespace, seeds: Sequence[int]) -> str:
    """The command that makes these rows again: what differs from its defaults, and the seeds."""
    plain, words = parser(), ["python -m course_utils.tinybert", options.kind]
    for action in plain._actions:
        given = getattr(options, action.dest, None)
        hidden = ("kind", "help", "seeds", "anew", "dry_run", "only", "device", "out")
        if action.dest in hidden or given == action.default:
            continue
        words.append(action.option_strings[0])
        if given is not True:
            words += map(str, given if isinstance(given, list) else [given])
    return " ".join([*words, "--seeds", *map(str, seeds)])


def write(folder: Path, workshop: Workshop, model: Distilled, record: dict, trim: bool) -> None:
    """The student's folder; `record` becomes tinybert.json. The projection is left behind."""
    student, tokenizer = model.student, workshop.tokenizer
    if trim:
        student, tokenizer, _ = workshop.trim(student)
        record["trimmed"] = workshop.score(student, tokenizer) | {
            "pieces": tokenizer.get_vocab_size(),
            "bytes_saved": table_bytes(model.student) - table_bytes(student),
        }
        print(json.dumps({"setting": "trimmed"} | record["trimmed"]), flush=True)
    student.cpu().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tinybert.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def run(options: argparse.Namespace) -> None:
    """What `main` does, with errors as exceptions."""
    stages = tuple(part for part in options.stages.split(",") if part)
    chosen = {f.name: getattr(options, f.name) for f in dataclasses.fields(TinyBertRecipe)
              if f.name not in APART}  # fmt: skip
    recipe = TinyBertRecipe(**chosen, shared_projection=not options.two_projections)
    plan = leave_out(recipe, options.without, stages)  # what is wrong shows before anything slow
    if options.kind == "distil" and not (options.out or options.dry_run):
        raise ValueError("say where the student shall be written: --out FOLDER (or --dry-run).")
    if options.kind != "distil" and (options.without or stages != STAGES):
        raise ValueError(f"{options.kind} sets --without and --stages itself; leave them out.")
    if options.augment and options.data not in ONE_TEXT:
        raise ValueError(
            f"augmentation rewrites single texts, {' and '.join(ONE_TEXT)}; for {options.data} "
            "take --augment 0."
        )
    check_sizes(plan, options.teacher)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    corpus = None
    if options.text:
        corpus = lambda: read_text_files(options.text)  # noqa: E731
    elif options.wikitext:
        corpus = lambda: wikitext2(options.wikitext)  # noqa: E731
    workshop = Workshop(
        options.data, options.teacher, options.encoder, options.mlm, options.pieces, corpus, device
    )
    if options.kind != "distil":
        compare(workshop, recipe, options)
        return
    for seed in options.seeds:
        model, row, history = workshop.distil(replace(recipe, seed=seed), options.without, stages)
        print(json.dumps({k: v for k, v in row.items() if k != "right"}), flush=True)
        if not options.dry_run:
            folder = options.out if len(options.seeds) == 1 else options.out / f"seed-{seed}"
            record = {
                "recipe": dataclasses.asdict(replace(recipe, seed=seed)),
                "without": options.without,
                "stages": stages,
                "teacher": workshop.teacher_score,
                "row": row,
                "history": {phase: thinned(rows) for phase, rows in history.items()},
            }
            write(folder, workshop, model, record, options.trim)


def check_sizes(recipe: TinyBertRecipe, teacher: str | None) -> None:
    """Raise ValueError where student and map do not fit the teacher, before anything is trained."""
    config = BertConfig.from_folder(find_folder(teacher) if teacher else pretrained_encoder())
    recipe.student_config(config)
    recipe.map_for(config)
    compared = "attention" in recipe.parts and (recipe.general_steps or recipe.intermediate_steps)
    if compared and recipe.heads != config.num_attention_heads:
        raise ValueError(
            f"the teacher has {config.num_attention_heads} heads: take --heads "
            f"{config.num_attention_heads}, or --without attention."
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; `--help` shows it. Ends with exit status 1 and one line on bad input."""
    options = parser().parse_args(arguments)
    try:
        run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"tinybert: {error}")


if __name__ == "__main__":
    main()
