"""Lesson 09: DistilBERT's recipe, at a size that a laptop can run: distil while pretraining.

    python -m course_utils.distilbert --seeds 0 1 2       # data/results/distilbert.json

The teacher is the repository's BERT of 4 layers, the student starts as two of them and reads the
same masked text with three losses: the masked token itself, what the teacher says of it, and the
direction of the teacher's hidden states. No NSP, as in DistilBERT.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils.data.docs import docs_corpus
from course_utils.data.stored import docs_bert, save_result
from course_utils.distillation import keep_layers, soft_loss
from course_utils.finetuning import load_tokenizer
from course_utils.pretraining import IGNORE, Batch, BertForPreTraining, mlm_loss
from course_utils.pretraining_run import Batches, Recipe, evaluate, make_optimizer

LAYERS = (2, 4)  # every second one, as DistilBERT keeps six of twelve
WEIGHTS = {"soft": 5.0, "mlm": 2.0, "cosine": 1.0}  # those of DistilBERT's training command
TEMPERATURE = 2.0
RECIPE = Recipe(steps=500, layers=2, max_length=64, batch_tokens=1024, learning_rate=5e-4)
ROWS = {  # row → its losses
    "no training": (),
    "MLM": ("mlm",),
    "soft": ("soft",),
    "MLM + soft": ("mlm", "soft"),
    "MLM + cosine": ("mlm", "cosine"),
    "all three": ("mlm", "soft", "cosine"),
}


def triple_loss(
    student: BertForPreTraining, teacher: BertForPreTraining, batch: Batch, masked: Tensor,
    labels: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """The three losses of a batch, unweighted, each a scalar.

    masked, labels  (batch, tokens), of `mask_tokens`

    mlm     cross-entropy with the hidden token
    soft    T² · KL(teacher ‖ student) over the vocabulary at the chosen tokens, T = 2
    cosine  1 − cosine of student's and teacher's last hidden state, mean over all real tokens

    Source: Sanh et al. 2019, "DistilBERT, a distilled version of BERT", section 2, "Training loss".
    """
    inputs = (masked, batch.attention_mask, batch.token_type_ids)
    chosen = labels != IGNORE  # (batch, tokens)
    states = student.bert(*inputs, need_weights=False).last_hidden_state
    with torch.no_grad():
        teacher_states = teacher.bert(*inputs, need_weights=False).last_hidden_state
        teacher_logits = teacher.mlm(teacher_states[chosen])  # (chosen tokens, vocab_size)
    logits = student.mlm(states[chosen])  # (chosen tokens, vocab_size)
    real = batch.attention_mask.bool()
    cosines = F.cosine_similarity(states[real], teacher_states[real], dim=-1)  # (real tokens,)
    return {
        "mlm": mlm_loss(logits, labels[chosen]),
        "soft": soft_loss(logits, teacher_logits, TEMPERATURE),
        "cosine": (1 - cosines).mean(),
    }


def distil(
    student: BertForPreTraining,
    teacher: BertForPreTraining,
    batches: Batches,
    parts: Sequence[str],
    steps: int = RECIPE.steps,
) -> Iterator[dict[str, float]]:
    """Train the student, a step for each row that is taken from this generator.

    parts  of WEIGHTS: the losses that count; the others are only measured

    A row: step (from 1), mlm, soft, cosine, before the step. Raises ValueError for other parts.
    """
    unknown = [part for part in parts if part not in WEIGHTS]
    if unknown or not parts:
        raise ValueError(f"parts {list(parts)}: take one or more of {', '.join(WEIGHTS)}.")
    optimizer, schedule = make_optimizer(student, batches.recipe)
    teacher.eval()
    for step in range(steps):
        losses = triple_loss(student.train(), teacher, *batches[step])
        sum(WEIGHTS[part] * losses[part] for part in parts).backward()
        nn.utils.clip_grad_norm_(student.parameters(), batches.recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield {"step": step + 1} | {name: loss.item() for name, loss in losses.items()}
    student.eval()


def run(name: str, seed: int = 0, steps: int = RECIPE.steps, progress: bool = True) -> dict:
    """One row of the table: setting, seed, seconds, and held-out mlm_loss and masked_accuracy."""
    recipe = Recipe(**asdict(RECIPE) | {"seed": seed, "steps": steps})
    tokenizer = load_tokenizer(docs_bert())
    training, held_out = docs_corpus(progress).split()
    batches, unseen = Batches(training, tokenizer, recipe), Batches(held_out, tokenizer, RECIPE)
    teacher = BertForPreTraining.from_pretrained(docs_bert())
    student = keep_layers(teacher, LAYERS)
    started = time.perf_counter()
    if ROWS[name]:
        for _ in tqdm(
            distil(student, teacher, batches, ROWS[name], steps), desc=name, total=steps,
            unit="step", mininterval=1, disable=not progress,
        ):  # fmt: skip
            pass
    seconds = time.perf_counter() - started
    scores = evaluate(student, unseen, batches.token_counts(), limit=40)
    return {
        "setting": name,
        "seed": seed,
        "seconds": round(seconds, 1),
        "mlm_loss": scores.mlm_loss,
        "masked_accuracy": scores.masked_accuracy,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m course_utils.distilbert", description="DistilBERT's losses, one by one"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--dry-run", action="store_true", help="print the rows, store nothing")
    options = parser.parse_args(arguments)
    tokenizer = load_tokenizer(docs_bert())
    training, held_out = docs_corpus().split()
    counts = Batches(training, tokenizer, RECIPE).token_counts()
    teacher = BertForPreTraining.from_pretrained(docs_bert())
    best = evaluate(teacher, Batches(held_out, tokenizer, RECIPE), counts, limit=40)
    rows = []
    for seed in options.seeds:
        for name in ROWS:
            rows.append(run(name, seed, options.steps))
            print(rows[-1], flush=True)
    if not options.dry_run:
        command = (
            f"python -m course_utils.distilbert --seeds {' '.join(map(str, options.seeds))}"
            + (f" --steps {options.steps}" if options.steps != RECIPE.steps else "")
        )
        recipe = asdict(RECIPE) | {"steps": options.steps}
        above = {"mlm_loss": best.mlm_loss, "masked_accuracy": best.masked_accuracy}
        save_result("distilbert", command, rows, recipe=recipe, teacher=above, weights=WEIGHTS)
    for name in ROWS:
        found = [row["masked_accuracy"] for row in rows if row["setting"] == name]
        print(f"{name:14s} {statistics.mean(found):.4f} of {best.masked_accuracy:.4f}")


if __name__ == "__main__":
    main()
