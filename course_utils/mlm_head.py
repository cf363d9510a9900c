"""Lesson 05: a masked-language-model head on a frozen encoder: what a finished body already knows.

all-MiniLM-L6-v2 was published without such a head. Here only a new head is trained, 179,130
numbers; the encoder's 22.7 million stay as they are.

    python -m course_utils.mlm_head      # makes data/results/mlm_head_minilm.json
"""

import argparse
import sys
import time
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils.bert import Bert
from course_utils.data.docs import docs_corpus
from course_utils.data.stored import save_result
from course_utils.data.weights import pretrained_encoder
from course_utils.encoder import initialize
from course_utils.pretraining import (
    IGNORE,
    MlmHead,
    linear_warmup_decay,
    mlm_loss,
    unigram_baseline,
)
from course_utils.pretraining_run import Batches, Recipe, log_frequencies

RECIPE = Recipe(max_length=64, batch_tokens=1024, learning_rate=3e-3)
EVALUATION_BATCHES = 20


def frozen_encoder() -> tuple[Bert, Tokenizer]:
    """all-MiniLM-L6-v2 in our own `Bert`, no parameter asking for a gradient; its tokenizer."""
    folder = pretrained_encoder()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()  # the file switches both on
    tokenizer.no_truncation()
    return Bert.from_pretrained(folder).requires_grad_(False), tokenizer


def new_head(bert: Bert, token_counts: Tensor, seed: int = 0) -> MlmHead:
    """An untrained head for this encoder, tied to its (frozen) token embeddings.

    token_counts  (vocab_size,); the bias starts at the logarithm of each piece's frequency

    `dense` starts as the identity: each hidden state is compared with the embeddings as it is.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = MlmHead(bert.config, bert.embeddings.token.weight)
    nn.init.eye_(head.dense.weight)
    head.bias.data = log_frequencies(token_counts)
    return head


def train_head(
    bert: Bert, head: MlmHead, batches: Batches, steps: int, layer: int = -1
) -> Iterator[dict]:
    """Train the head alone, a step for each row that is taken from this generator.

    layer  whose hidden states the head reads: 0 the embeddings, −1 the last layer

    A row: step (from 1) and loss (in nats a masked token, before the step).
    """
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=batches.recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: linear_warmup_decay(step + 1, steps // 20, steps + 1)
    )
    for step in range(steps):
        logits, labels = predict(bert, head, batches, step, layer)
        loss = mlm_loss(logits, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, batches.recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield {"step": step + 1, "loss": loss.item()}


def predict(
    bert: Bert, head: MlmHead, batches: Batches, index: int, layer: int = -1
) -> tuple[Tensor, Tensor]:
    """(logits (chosen tokens, vocab_size), labels (chosen tokens,)) of one batch."""
    batch, masked, labels = batches[index]
    with torch.no_grad():  # nothing in the encoder learns: no graph, a third of the time
        output = bert(masked, batch.attention_mask, batch.token_type_ids, need_weights=False)
    chosen = labels != IGNORE
    return head(output.hidden_states[layer][chosen]), labels[chosen]


@torch.no_grad()
def score_head(bert: Bert, head: MlmHead, batches: Batches, layer: int = -1) -> dict:
    """Over the first 20 batches: "loss" and "masked_accuracy" of all chosen tokens, and
    "accuracy_at_mask" of those that are [MASK]: a kept token stands in sight, it can be copied."""
    losses = right = right_at_mask = asked = hidden = 0
    for index in range(EVALUATION_BATCHES):
        logits, labels = predict(bert, head, batches, index, layer)
        _, masked, all_labels = batches[index]
        at_mask = masked[all_labels != IGNORE] == batches.special["[MASK]"]  # (chosen tokens,)
        correct = logits.argmax(-1) == labels
        losses += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        right, asked = right + correct.sum().item(), asked + len(labels)
        right_at_mask += correct[at_mask].sum().item()
        hidden += at_mask.sum().item()
    return {
        "loss": losses / asked,
        "masked_accuracy": right / asked,
        "accuracy_at_mask": right_at_mask / hidden,
    }


def rows_after(
    steps: list[int], layer: int = -1, body: str = "pretrained", progress: bool = True
) -> tuple[list[dict], dict]:
    """Held-out scores after each number of steps of one run, and the unigram baseline's.

    body  "pretrained", or "random": the same encoder with first weights, embeddings kept

    A row: body, layer, steps, and the scores; the baseline: loss, masked_accuracy. The learning
    rate's decay is that of the whole run, the last of `steps`.
    """
    bert, tokenizer = frozen_encoder()
    if body == "random":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            initialize(bert.encoder, bert.config.initializer_range)
    training, held_out = docs_corpus(progress).split()
    batches, unseen = (Batches(part, tokenizer, RECIPE) for part in (training, held_out))
    counts = batches.token_counts()
    head = new_head(bert, counts)
    rows = []

    def score_row(done: int) -> dict:
        return {
            "body": body,
            "layer": layer,
            "steps": done,
            **score_head(bert, head, unseen, layer),
        }

    bar = tqdm(total=steps[-1], file=sys.stdout, leave=False, disable=not progress)
    with bar:
        if steps[0] == 0:
            rows.append(score_row(0))
        for row in train_head(bert, head, batches, steps[-1], layer):
            bar.update()
            if row["step"] in steps:
                rows.append(score_row(row["step"]))
    labels = torch.cat([unseen[index][2].flatten() for index in range(EVALUATION_BATCHES)])
    baseline = unigram_baseline(counts, labels)
    return rows, {"loss": baseline.loss, "masked_accuracy": baseline.accuracy}


def main() -> None:
    parser = argparse.ArgumentParser("python -m course_utils.mlm_head", description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 25, 50, 100])
    steps = sorted(set(parser.parse_args().steps))
    started = time.perf_counter()
    rows = []
    for body, layer in (("pretrained", 6), ("pretrained", 4), ("random", 4)):
        found, baseline = rows_after(steps, layer, body)
        rows += found
    path = save_result(
        "mlm_head_minilm", "python -m course_utils.mlm_head", rows, baseline=baseline,
        seconds=round(time.perf_counter() - started),
    )  # fmt: skip
    for row in rows:
        print(row)
    print(f"unigram {baseline}\n{path}")


if __name__ == "__main__":
    main()
