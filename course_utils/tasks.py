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

from course_utils import data, finetuning, metrics, out_of_scope
from course_utils.data.assistant import schema
from course_utils.data.cache import cached, sha256
from course_utils.data.stored import save_result
from course_utils.data.weights import pretrained_encoder
from course_utils.finetuning import (
    Batch,
    BertForSequenceClassification,
    Features,
    FineTuning,
    encode,
    fine_tune,
    load_tokenizer,
    predict,
    set_dropout,
)
from course_utils.joint import Assistant, BertForIntentAndSlots, joint_features
from course_utils.pairs import (
    BiEncoder,
    collate_apart,
    encode_apart,
    rank_of,
    ranking_scores,
)
from course_utils.question_answering import (
    Answer,
    AnswerFinder,
    BertForQuestionAnswering,
    answer_features,
    choose_threshold,
    decline,
    make_windows,
)
from course_utils.token_classification import (
    BertForTokenClassification,
    SpanTagger,
    Words,
    count_illegal,
    read_words,
    spans_to_tags,
    tag_features,
    tag_names,
)

LOOP = 1  # raised when the same recipe trains differently: older models are then trained again


@dataclass(frozen=True)
class Task:
    """Everything that makes a fine-tuning run repeatable.

    load      () → its data, with "train", "validation" and "test"
    head      (encoder's folder, the data, seed) → untrained model
    features  (tokenizer, one split) → examples for `fine_tune`
    score     (model, tokenizer, the data) → figures on the test split
    recipe    how it is trained
    collate   how its examples become a batch; None = `finetuning.collate`
    dropout   while it is trained, and not after; None leaves the encoder's, 0.1. Short trainings
              end before they have learned all they could, and a step without dropout takes a
              tenth less
    """

    load: Callable[[], DatasetDict]
    head: Callable[[Path, DatasetDict, int], nn.Module]
    features: Callable[[Tokenizer, Dataset], list[Features]]
    score: Callable[[nn.Module, Tokenizer, DatasetDict], dict[str, float]]
    recipe: FineTuning
    collate: Callable[[Sequence[Features]], Batch] | None = None
    dropout: float | None = None


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


def docs_features_apart(tokenizer: Tokenizer, split: Dataset) -> list[Features]:
    """Functions and summaries, each text for itself."""
    return encode_apart(tokenizer, split["function"], split["summary"], split["label"])


def docs_scores(model: nn.Module, tokenizer: Tokenizer, data: DatasetDict) -> dict[str, float]:
    """Accuracy on test, of all pairs and of each kind."""
    split = data["test"]
    if isinstance(model, BiEncoder):
        logits = predict(model, docs_features_apart(tokenizer, split), collate=collate_apart)
    else:
        logits = predict(model, docs_features(tokenizer, split))
    right = logits.argmax(-1) == torch.tensor(split["label"])  # (pairs,)
    row = {"accuracy": right.float().mean().item()}
    for kind in ("positive", "hard", "easy"):
        chosen = torch.tensor([k == kind for k in split["kind"]])
        row[f"accuracy_{kind}"] = right[chosen].float().mean().item()
    return row


def docs_scores_apart(
    model: nn.Module, tokenizer: Tokenizer, data: DatasetDict
) -> dict[str, float]:
    """The same, and how high a summary ranks its own among all functions of test."""
    functions, summaries = docs_search(data["test"])
    scores = model.vectors(tokenizer, summaries) @ model.vectors(tokenizer, functions).T
    ranks = rank_of(scores, range(len(functions)))
    return docs_scores(model, tokenizer, data) | ranking_scores(ranks)


def docs_search(split: Dataset) -> tuple[list[str], list[str]]:
    """Functions, and the summary of each: candidates and queries of a search."""
    rows = [row for row in split if row["kind"] == "positive"]
    return [row["function"] for row in rows], [row["summary"] for row in rows]


def bi_encoder(folder: Path, data: DatasetDict, seed: int) -> nn.Module:
    """The encoder as it is; it has no new parameter."""
    return BiEncoder.from_encoder(folder)


snli_features = pair_features("premise", "hypothesis", max_length=96)


# --- Words (lesson 08) ----------------------------------------------------------------------------


def slot_tags(split: Dataset) -> list[str]:
    """The tags of the assistant's slots, in the order of the logits."""
    return tag_names(schema().slots)


def wnut_tags(split: Dataset) -> list[str]:
    """WNUT-17's 13 tags."""
    return split.features["ner_tags"].feature.names


def slot_words(tokenizer: Tokenizer, split: Dataset) -> tuple[list[Words], list[list[str]]]:
    """The utterances' words, and for each text one true tag a word."""
    words = read_words(tokenizer, split["text"], max_length=64)
    spans = [[(s["start"], s["end"], s["type"]) for s in row] for row in split["slots"]]
    return words, [spans_to_tags(row, one.offsets) for row, one in zip(spans, words)]


def wnut_words(tokenizer: Tokenizer, split: Dataset) -> tuple[list[Words], list[list[str]]]:
    """The same of WNUT-17, whose texts come in words."""
    names = wnut_tags(split)
    words = read_words(tokenizer, split["tokens"], max_length=128)
    return words, [[names[i] for i in row] for row in split["ner_tags"]]


def tag_task(
    load: Callable, tags: Callable, read: Callable, recipe: FineTuning, dropout: float | None = None
) -> Task:
    """Find spans.  tags (split) → the tags' names; read (tokenizer, split) → words and true tags"""

    def head(folder: Path, data: DatasetDict, seed: int) -> nn.Module:
        return BertForTokenClassification.from_encoder(folder, tags(data["train"]), seed)

    def features(tokenizer: Tokenizer, split: Dataset) -> list[Features]:
        return tag_features(*read(tokenizer, split), tags(split))

    def score(model: nn.Module, tokenizer: Tokenizer, data: DatasetDict) -> dict[str, float]:
        words, true = read(tokenizer, data["test"])
        return tag_scores(SpanTagger(model, tokenizer), words, true)

    return Task(load, head, features, score, recipe, dropout=dropout)


def tag_scores(tagger: SpanTagger, words: list[Words], true: list[list[str]]) -> dict[str, float]:
    """Entity precision, recall and F1 by Viterbi; F1 by each word's likeliest tag, and how many of
    those tags BIO forbids; the share of words with the right tag."""
    viterbi, greedy = (tagger.tags(words, constrained) for constrained in (True, False))
    found = metrics.entity_scores(true, viterbi)
    pairs = [(a, b) for rows in zip(true, viterbi) for a, b in zip(*rows)]
    return {
        "f1": found["f1"],
        "precision": found["precision"],
        "recall": found["recall"],
        "f1_greedy": metrics.entity_scores(true, greedy)["f1"],
        "illegal_greedy": sum(map(count_illegal, greedy)),
        "word_accuracy": sum(a == b for a, b in pairs) / len(pairs),
    }


def joint_head(folder: Path, data: DatasetDict, seed: int) -> nn.Module:
    """Heads for the assistant's intents and slots."""
    intents = data["train"].features["intent"].names
    return BertForIntentAndSlots.from_encoder(folder, intents, slot_tags(data["train"]), seed)


def intent_and_slot_features(tokenizer: Tokenizer, split: Dataset) -> list[Features]:
    """Utterances, their tags and their intents."""
    examples = tag_features(*slot_words(tokenizer, split), slot_tags(split))
    return joint_features(examples, split["intent"])


def joint_scores(model: nn.Module, tokenizer: Tokenizer, data: DatasetDict) -> dict[str, float]:
    """Entity F1, intent accuracy in scope (argmax), and the share of the utterances in scope whose
    intent and slots are all right."""
    words, true = slot_words(tokenizer, data["test"])
    logits, tags = Assistant(model, tokenizer).read(words)
    labels = torch.tensor(data["test"]["intent"])  # (texts,)
    known = labels != out_of_scope_label(data)
    right = logits.argmax(-1) == labels
    all_slots = torch.tensor([a == b for a, b in zip(true, tags)])
    return {
        "f1": metrics.entity_scores(true, tags)["f1"],
        "in_scope": right[known].float().mean().item(),
        "all_right": (right & all_slots)[known].float().mean().item(),
    }


# --- Answers (lesson 08) --------------------------------------------------------------------------


def first_answers(split: Dataset) -> tuple[list[int], list[int]]:
    """For each question where its (first) answer starts and ends, in characters; −1 for none."""
    if "answers" in split.features:
        found = [(row["answer_start"][0], row["text"][0]) for row in split["answers"]]
    else:
        found = list(zip(split["start"], split["answer"]))
    return [s for s, _ in found], [s + len(text) if s >= 0 else -1 for s, text in found]


def right_answers(split: Dataset) -> list[str] | list[list[str]]:
    """For each question its right answer or answers; "" for none."""
    if "answers" in split.features:
        return [row["text"] for row in split["answers"]]
    return split["answer"][:]


def answer_task(load: Callable, recipe: FineTuning, max_length: int, stride: int) -> Task:
    """Find the span that answers a question, or say that there is none."""

    def head(folder: Path, data: DatasetDict, seed: int) -> nn.Module:
        return BertForQuestionAnswering.from_encoder(folder, seed)

    def features(tokenizer: Tokenizer, split: Dataset) -> list[Features]:
        windows = make_windows(tokenizer, split["question"], split["context"], max_length, stride)
        return answer_features(windows, *first_answers(split))

    def score(model: nn.Module, tokenizer: Tokenizer, data: DatasetDict) -> dict[str, float]:
        finder = AnswerFinder(model, tokenizer, max_length, stride)
        found = {
            name: finder.candidates(data[name]["question"], data[name]["context"])
            for name in ("validation", "test")
        }
        threshold = answer_threshold(found["validation"], data["validation"])
        return answer_figures(found["test"], data["test"], threshold)

    return Task(load, head, features, score, recipe, dropout=0.0)


def answer_threshold(found: list[Answer], split: Dataset) -> float:
    """The threshold that suits these answers best; +∞ where every question has an answer."""
    gains = [
        metrics.answer_f1(answer.text, right) if right else -1.0
        for answer, right in zip(found, right_answers(split))
    ]
    if min(gains) >= 0:
        return float("inf")
    return choose_threshold([answer.difference for answer in found], gains)


def answer_figures(found: list[Answer], split: Dataset, threshold: float) -> dict[str, float]:
    """EM and F1 with the threshold and (f1_always) answering everything; of answerable questions
    apart, and the share of the unanswerable ones that is declined."""
    right = right_answers(split)
    scores = metrics.answer_scores(decline(found, threshold), right)
    always = metrics.answer_scores([answer.text for answer in found], right)
    figures = {"exact_match": scores["exact_match"], "f1": scores["f1"], "f1_always": always["f1"]}
    if scores["unanswerable"]["questions"]:
        figures |= {
            "f1_answerable": scores["answerable"]["f1"],
            "declined_unanswerable": scores["unanswerable"]["exact_match"],
            "threshold": threshold,
        }
    return figures


TASKS = {
    "intents": Task(
        lambda: data.load_assistant(), class_head("intent"), intent_features, intent_scores,
        FineTuning(epochs=6, learning_rate=4e-4, frozen_layers=2), dropout=0.0,
    ),
    "docs_pairs": Task(
        lambda: data.load_docs_pairs(), class_head("label"), docs_features, docs_scores,
        FineTuning(epochs=1, learning_rate=2e-4, frozen_layers=2), dropout=0.0,
    ),
    "docs_pairs_apart": Task(
        lambda: data.load_docs_pairs(), bi_encoder, docs_features_apart, docs_scores_apart,
        FineTuning(epochs=1, learning_rate=2e-4, frozen_layers=5), collate_apart, dropout=0.0,
    ),
    "slots": tag_task(
        lambda: data.load_assistant(), slot_tags, slot_words,
        FineTuning(epochs=6, learning_rate=4e-4, frozen_layers=2), dropout=0.0,
    ),
    "questions": answer_task(
        lambda: data.load_docs_questions(),
        FineTuning(epochs=2, batch_size=16, learning_rate=8e-4, frozen_layers=3),
        max_length=128, stride=32,
    ),
    "joint": Task(
        lambda: data.load_assistant(), joint_head, intent_and_slot_features, joint_scores,
        FineTuning(epochs=6, learning_rate=4e-4, frozen_layers=2), dropout=0.0,
    ),
    # real data, at full scale
    "clinc150": Task(
        lambda: data.load_clinc150(), class_head("intent"), intent_features, intent_scores,
        FineTuning(epochs=5, learning_rate=1e-4),
    ),
    "snli": Task(
        lambda: data.load_snli(train_on_dev=True), class_head("label"), snli_features,
        accuracy_of(snli_features),
        FineTuning(epochs=2, learning_rate=1e-4),
    ),
    "wnut17": tag_task(
        lambda: data.load_wnut17(), wnut_tags, wnut_words, FineTuning(epochs=4, learning_rate=2e-4)
    ),
    "xquad": answer_task(
        lambda: data.load_xquad(), FineTuning(epochs=6, batch_size=16, learning_rate=3e-4),
        max_length=256, stride=64,
    ),
}  # fmt: skip


# --- Running them ---------------------------------------------------------------------------------


def task(name: str) -> Task:
    """The task of this name. ValueError names those that there are."""
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}; there are: {', '.join(TASKS)}.")
    return TASKS[name]


def train(
    name: str,
    seed: int = 0,
    progress: bool = True,
    encoder: Path | None = None,
    recipe: FineTuning | None = None,
    device: torch.device | str = "cpu",
) -> tuple[nn.Module, Tokenizer]:
    """A model fine-tuned for a task, and its tokenizer; the arguments are `fine_tuned`'s."""
    chosen, folder = task(name), encoder or pretrained_encoder(progress)
    tokenizer, found = load_tokenizer(folder), chosen.load()
    model = chosen.head(folder, found, seed).to(device)
    usual = model.config.hidden_dropout_prob
    if chosen.dropout is not None:
        set_dropout(model, chosen.dropout)
    features = chosen.features(tokenizer, found["train"])
    recipe = dataclasses.replace(recipe or chosen.recipe, seed=seed)
    words = f"training {name}" if progress else False
    fine_tune(model, features, recipe, chosen.collate, progress=words)
    if chosen.dropout is not None:
        set_dropout(model, usual)  # who trains it further decides anew
    return model.cpu(), tokenizer


def fine_tuned(
    name: str,
    seed: int = 0,
    progress: bool = True,
    encoder: Path | None = None,
    recipe: FineTuning | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """The folder of a model fine-tuned for a task: weights, config.json, tokenizer.json.

    encoder  the folder of another encoder than all-MiniLM-L6-v2
    recipe   another one than the task's, which is made for all-MiniLM-L6-v2
    device   where it is trained

    Trained at the first call, at most two minutes on two cores, with a progress bar; then found in
    the cache, under a key made of recipe, training data and LOOP. training.json says how many
    seconds it took.
    """
    chosen = task(name)
    config = {
        "task": name,
        "seed": seed,
        "recipe": dataclasses.asdict(recipe or chosen.recipe),
        "data": chosen.load()["train"]._fingerprint,
        "loop": LOOP,
    }
    if chosen.dropout is not None:
        config["dropout"] = chosen.dropout
    if encoder is not None:
        config["encoder"] = sha256(encoder / "model.safetensors")

    def build(folder: Path) -> None:
        start = time.monotonic()
        model, tokenizer = train(name, seed, progress, encoder, recipe, device)
        seconds = time.monotonic() - start
        model.save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"))
        about = {"task": name, "seed": seed, "seconds": round(seconds, 1)}
        (folder / "training.json").write_text(json.dumps(about), encoding="utf-8")

    return cached("finetuned", config, build)


def load_model(name: str, folder: Path) -> nn.Module:
    """The model in a folder that `fine_tuned` gave, in eval mode."""
    chosen = task(name)
    empty = chosen.head(pretrained_encoder(), chosen.load(), 0)
    return type(empty).from_pretrained(folder)


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
        folder = fine_tuned(options.task, seed)
        seconds = json.loads((folder / "training.json").read_text(encoding="utf-8"))["seconds"]
        model, tokenizer = load_model(options.task, folder), load_tokenizer(folder)
        row = {"seed": seed, "seconds": seconds} | chosen.score(model, tokenizer, chosen.load())
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
