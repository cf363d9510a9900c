"""Lesson 05: the training loop of `python -m course_utils.pretraining`.

All that is drawn by chance in step s comes from (seed, s) alone: which pairs, which masks, which
dropout. So a run that is killed and resumed, or spread over several processes, sees the same
batches as one that never stopped.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import time
import zlib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from course_utils.bert import BertConfig
from course_utils.data.docs import (
    Corpus,
    docs_corpus,
    read_text_files,
    train_tokenizer,
    wikitext2,
)
from course_utils.positions import sinusoidal_positions
from course_utils.pretraining import (
    IGNORE,
    Batch,
    BertForPreTraining,
    NspPair,
    linear_warmup_decay,
    mask_tokens,
    nsp_pairs,
    pack,
    special_ids,
    unigram_baseline,
)

PAIRS, MASKS, DROPOUT = range(3)  # what numbers are drawn for


@dataclass(frozen=True)
class Recipe:
    """Everything a pretraining run depends on, except the text and the machine.

    steps          optimizer steps
    batch_tokens   tokens of one batch, padding included: long pairs, few of them
    accumulate     batches whose gradients make one step (the processes of torchrun share them)
    learning_rate  its peak, reached after the share `warmup` of the steps, then linear to 0
    probability    share of tokens that masking chooses
    max_length     longest pair, special tokens included; also the number of positions learned
    dropout        0 in a run that never sees a sentence often enough to learn it by heart
    frequency_bias start the MLM head's bias at the logarithm of each piece's frequency
    local_start    start with attention to near and to equal tokens, see `start_local`
    """

    steps: int = 1000
    layers: int = 4
    hidden_size: int = 128
    heads: int = 4
    vocab_size: int = 4000
    max_length: int = 64
    batch_tokens: int = 2048
    accumulate: int = 1
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    probability: float = 0.15
    dropout: float = 0.0
    frequency_bias: bool = True
    local_start: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "layers", "hidden_size", "heads", "batch_tokens", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; it is a share of the steps, in [0, 1).")
        if not 0 < self.probability <= 1:
            raise ValueError(
                f"probability is {self.probability}; without masks nothing is learned."
            )
        if self.batch_tokens < self.max_length:
            raise ValueError(
                f"batch_tokens is {self.batch_tokens}; one pair of {self.max_length} must fit in."
            )

    def config(self, vocab_size: int) -> BertConfig:
        """The model's sizes; `vocab_size` is what the tokenizer really has."""
        return BertConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.hidden_size,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            max_position_embeddings=self.max_length,
        )


@dataclass
class PretrainingRun:
    """What a run leaves: the model, and a row of `history` for each step.

    A row: step (from 1), mlm_loss, nsp_loss, learning_rate, gradient_norm (before clipping), tokens
    (seen up to here, padding not counted). `seconds` is the time of training, resumed parts added.
    `token_counts` (vocab_size,): how often each piece stands in the training text.
    """

    model: BertForPreTraining
    token_counts: Tensor
    history: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.history[-1]["tokens"] / self.seconds if self.seconds else 0.0


# --- Batches --------------------------------------------------------------------------------------


class Batches:
    """The batches of a run by number: `batches[i]` is always the same one.

    Each epoch draws new pairs, sorts them by length into batches of about `batch_tokens` tokens and
    shuffles these; each batch is masked when it is asked for, so a sentence that comes again is
    masked elsewhere (dynamic masking).
    """

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, recipe: Recipe) -> None:
        self.recipe = recipe
        self.documents = encode_documents(corpus, tokenizer)
        self.special = special_ids(tokenizer)
        self.vocab_size = tokenizer.get_vocab_size()
        self._epochs: list[int] = []  # the number of the first batch of each epoch drawn so far
        self._current: tuple[int, list[list[NspPair]]] = (-1, [])
        self._next_start = 0

    def token_counts(self) -> Tensor:
        """How often each piece stands in the corpus, (vocab_size,)."""
        ids = [i for document in self.documents for sentence in document for i in sentence]
        return torch.bincount(torch.tensor(ids), minlength=self.vocab_size)

    def __getitem__(self, index: int) -> tuple[Batch, Tensor, Tensor]:
        """(batch, masked_input_ids, labels)"""
        pairs = self._pairs(index)
        batch = pack(pairs, self.special["[CLS]"], self.special["[SEP]"], self.special["[PAD]"])
        masked, labels = mask_tokens(
            batch.input_ids,
            batch.special_tokens_mask,
            self.special["[MASK]"],
            self.vocab_size,
            self.recipe.probability,
            generator_of(self.recipe.seed, MASKS, index),
        )
        return batch, masked, labels

    def _pairs(self, index: int) -> list[NspPair]:
        while index >= self._next_start:  # draw epochs up to the one that holds this batch
            self._epochs.append(self._next_start)
            self._next_start += len(self.epoch(len(self._epochs) - 1))
        epoch = max(e for e, start in enumerate(self._epochs) if start <= index)
        return self.epoch(epoch)[index - self._epochs[epoch]]

    def epoch(self, number: int) -> list[list[NspPair]]:
        """The batches of one epoch, from 0, as pairs: new ones in each."""
        if self._current[0] != number:
            generator = generator_of(self.recipe.seed, PAIRS, number)
            drawn = nsp_pairs(self.documents, generator, self.recipe.max_length)
            pairs = [NspPair(*pair) for pair in drawn]  # a reader's own gives plain tuples
            batches = length_buckets(pairs, self.recipe.batch_tokens, generator)
            self._current = (number, batches)
        return self._current[1]


def log_frequencies(counts: Tensor) -> Tensor:
    """log of each piece's share, one added to every count: the bias that predicts unigrams.

    counts (vocab_size,), integers → (vocab_size,), float
    """
    counts = counts.float() + 1
    return (counts / counts.sum()).log()


def generator_of(seed: int, purpose: int, number: int) -> torch.Generator:
    """A generator that depends on these three numbers and on nothing else."""
    return torch.Generator().manual_seed(mixed_seed(seed, purpose, number))


def mixed_seed(*numbers: int) -> int:
    """32 bits out of several numbers: torch's generator on the CPU looks at no more than 32."""
    return zlib.crc32(repr(numbers).encode())


def encode_documents(corpus: Corpus, tokenizer: Tokenizer) -> list[list[list[int]]]:
    """Documents of sentences of token ids, without special tokens."""
    encoded = iter(tokenizer.encode_batch(corpus.sentences(), add_special_tokens=False))
    return [[next(encoded).ids for _ in document.sentences] for document in corpus.documents]


def length_buckets(
    pairs: list[NspPair], batch_tokens: int, generator: torch.Generator
) -> list[list[NspPair]]:
    """Batches of pairs of about equal length, at most `batch_tokens` tokens each, shuffled.

    Padding to the longest of a random batch would waste about half of the work.
    """
    order = torch.randperm(len(pairs), generator=generator).tolist()  # ties in random order
    order.sort(key=lambda i: len(pairs[i].first) + len(pairs[i].second))
    batches, batch = [], []
    for i in order:
        length = len(pairs[i].first) + len(pairs[i].second) + 3  # sorted: the longest so far
        if batch and (len(batch) + 1) * length > batch_tokens:
            batches.append(batch)
            batch = []
        batch.append(pairs[i])
    batches.append(batch)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


# --- The loop -------------------------------------------------------------------------------------


def pretrain(
    recipe: Recipe,
    corpus: Corpus,
    tokenizer: Tokenizer,
    folder: Path | str | None = None,
    device: torch.device | str = "cpu",
    bf16: bool = False,
    checkpoint_every: int = 500,
    progress: bool = True,
) -> PretrainingRun:
    """Pretrain a BERT on MLM and NSP for `recipe.steps` steps.

    folder            where `checkpoint.pt` is written every `checkpoint_every` steps; a run that
                      finds one of the same recipe goes on from it. None = no checkpoints.
    device, bf16      bf16 runs the forward pass in bfloat16 (CUDA)

    Started by torchrun, the processes share each step's batches. Raises ValueError for a
    checkpoint of another recipe, for accumulate that the processes do not divide, and for a
    vocabulary without [CLS], [SEP], [PAD] or [MASK].
    """
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    if recipe.accumulate % processes:
        raise ValueError(
            f"{processes} processes do not divide accumulate={recipe.accumulate}; "
            f"take a multiple of {processes}."
        )
    batches = Batches(corpus, tokenizer, recipe)
    with torch.random.fork_rng():  # leaves the caller's random numbers alone
        torch.manual_seed(recipe.seed)
        model = BertForPreTraining(recipe.config(batches.vocab_size))
        counts = batches.token_counts()
        if recipe.frequency_bias:
            model.mlm.bias.data = log_frequencies(counts)
        if recipe.local_start:
            start_local(model)
        run = PretrainingRun(model.to(device), counts)
        optimizer, schedule = make_optimizer(model, recipe)
        checkpoint = Path(folder) / "checkpoint.pt" if folder else None
        if checkpoint and checkpoint.exists():
            load_checkpoint(checkpoint, recipe, run, optimizer, schedule)
        step_model = DistributedDataParallel(model) if processes > 1 else model
        bar = tqdm(
            total=recipe.steps, initial=len(run.history), desc="pretraining", unit="step",
            mininterval=1, file=sys.stdout, leave=False, disable=not progress or rank > 0,
        )  # fmt: skip
        with bar:
            started, before = time.perf_counter(), run.seconds
            for step in range(len(run.history), recipe.steps):
                row = train_step(
                    step, step_model, optimizer, recipe, batches, device, bf16, rank, processes
                )
                schedule.step()
                seen = run.history[-1]["tokens"] if run.history else 0
                row["tokens"] += seen
                run.history.append(row)
                run.seconds = before + time.perf_counter() - started
                shown = f"loss {row['mlm_loss']:.2f}, {row['tokens'] / run.seconds:,.0f} tokens/s"
                bar.set_postfix_str(shown, refresh=False)  # once a second is enough
                bar.update()
                done = step + 1
                if checkpoint and rank == 0 and (done % checkpoint_every == 0):
                    save_checkpoint(checkpoint, recipe, run, optimizer, schedule)
    model.eval()
    return run


@torch.no_grad()
def start_local(model: BertForPreTraining) -> None:
    """First weights with which each token looks at near and at equal ones; then all may change.

    The positions start as lesson 01's sinusoids (of the embeddings' size), so that neighbours are
    alike; and each layer's keys start as its queries, so that what is alike attends to each other.
    BERT starts both at random and has a million steps to find this; a run of a thousand has not.
    """
    positions = model.bert.embeddings.position.weight  # (max_length, hidden_size)
    positions.copy_(0.03 * sinusoidal_positions(*positions.shape))
    for layer in model.bert.encoder.layers:
        nn.init.normal_(layer.attention.query.weight, std=0.06)
        layer.attention.key.weight.copy_(layer.attention.query.weight)


def train_step(
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    batches: Batches,
    device: torch.device | str,
    bf16: bool = False,
    rank: int = 0,
    processes: int = 1,
) -> dict:
    """One optimizer step over `accumulate` batches, this process's share of them; its history row.

    The gradient is the mean over the step's batches, whoever computed them.
    """
    torch.manual_seed(mixed_seed(recipe.seed, DROPOUT, step))
    model.train()
    mine = range(step * recipe.accumulate + rank, (step + 1) * recipe.accumulate, processes)
    sums = torch.zeros(3, device=device)  # MLM loss, NSP loss, tokens
    for number in mine:
        batch, masked, labels = batches[number]
        last = number + processes >= (step + 1) * recipe.accumulate
        # processes exchange gradients once a step, not once a batch
        wait = contextlib.nullcontext() if last or processes == 1 else model.no_sync()
        with wait:
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                output = model(
                    masked.to(device),
                    batch.attention_mask.to(device),
                    batch.token_type_ids.to(device),
                    labels.to(device),
                    batch.next_sentence_label.to(device),
                )
            (output.loss / len(mine)).backward()
        sums += torch.stack(
            [output.mlm_loss, output.nsp_loss, batch.attention_mask.sum().to(device)]
        ).detach()
    if processes > 1:
        dist.all_reduce(sums)
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    learning_rate = optimizer.param_groups[0]["lr"]
    optimizer.step()
    optimizer.zero_grad()
    mlm, nsp, tokens = sums.tolist()
    return {
        "step": step + 1,
        "mlm_loss": mlm / recipe.accumulate,
        "nsp_loss": nsp / recipe.accumulate,
        "learning_rate": learning_rate,
        "gradient_norm": norm.item(),
        "tokens": int(tokens),
    }


def make_optimizer(
    model: nn.Module, recipe: Recipe
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with linear warm-up and decay; no weight decay on biases and LayerNorm.

    β₂ = 0.98 as in RoBERTa: the usual 0.999 averages squared gradients over 1,000 steps, more than
    a short run has.
    Source: Devlin et al. 2019, appendix A.2; Liu et al. 2019 (RoBERTa), section 3.1.
    """
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6)
    warmup_steps = round(recipe.warmup * recipe.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        # counted from 1: at factor 0 the first step would be lost
        optimizer, lambda step: linear_warmup_decay(step + 1, warmup_steps, recipe.steps + 1),
    )  # fmt: skip
    return optimizer, schedule


def save_checkpoint(path: Path, recipe: Recipe, run: PretrainingRun, optimizer, schedule) -> None:
    """Write everything that the next step depends on, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "recipe": asdict(recipe),
        "model": run.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "history": run.history,
        "seconds": run.seconds,
    }
    new = path.with_suffix(".new")
    torch.save(state, new)
    os.replace(new, path)  # a run killed while it writes leaves the older checkpoint


def load_checkpoint(path: Path, recipe: Recipe, run: PretrainingRun, optimizer, schedule) -> None:
    """Put a run where its checkpoint was. ValueError for another recipe or a damaged file.

    Only `steps` may differ: a run may be made longer or shorter, and its learning rate follows the
    new schedule from here on.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        was = state["recipe"]
    except Exception as error:  # unpickling fails in many ways
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}); delete it to begin anew."
        ) from None
    other = [
        name for name, value in asdict(recipe).items() if was.get(name) != value and name != "steps"
    ]
    if other:
        name = other[0]
        raise ValueError(
            f"{path} is of a run with {name}={was.get(name)}, this one has "
            f"{getattr(recipe, name)}; use another folder, or delete it to begin anew."
        )
    run.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    run.history, run.seconds = state["history"], state["seconds"]


# --- What it has learned --------------------------------------------------------------------------


class Scores(NamedTuple):
    """How a model does on text it has not seen, beside what needs no reading.

    Losses in nats a masked token; perplexity e^mlm_loss; accuracies are shares. `unigram_loss`
    and `unigram_accuracy` are those of the training text's frequencies; chance on NSP is 0.5.
    """

    mlm_loss: float
    perplexity: float
    masked_accuracy: float
    nsp_accuracy: float
    unigram_loss: float
    unigram_accuracy: float
    masked_tokens: int
    pairs: int


@torch.inference_mode()
def evaluate(
    model: BertForPreTraining,
    batches: Batches,
    training_counts: Tensor,
    limit: int | None = None,
    device: torch.device | str = "cpu",
) -> Scores:
    """Scores over one epoch of `batches` (or its first `limit` batches), always the same masks.

    training_counts  (vocab_size,), see `Batches.token_counts`, of the *training* text
    """
    model.eval()
    number = len(batches.epoch(0))
    losses, right, nsp_right, asked, pairs = 0.0, 0, 0, [], 0
    for index in range(min(limit or number, number)):
        batch, masked, labels = batches[index]
        output = model(
            masked.to(device), batch.attention_mask.to(device), batch.token_type_ids.to(device),
            labels.to(device),
        )  # fmt: skip
        wanted = labels[labels != IGNORE]  # in the order of output.mlm_logits
        losses += output.mlm_loss.item() * len(wanted)
        right += (output.mlm_logits.argmax(-1).cpu() == wanted).sum().item()
        nsp_right += (output.nsp_logits.argmax(-1).cpu() == batch.next_sentence_label).sum().item()
        asked.append(wanted)
        pairs += len(batch.next_sentence_label)
    wanted = torch.cat(asked)
    baseline = unigram_baseline(training_counts, wanted)
    loss = losses / len(wanted)
    return Scores(
        loss, math.exp(loss), right / len(wanted), nsp_right / pairs, baseline.loss,
        baseline.accuracy, len(wanted), pairs,
    )  # fmt: skip


# --- The command ----------------------------------------------------------------------------------

HELP = """Pretrain a small BERT on masked tokens and next sentences, from any text.

  python -m course_utils.pretraining --output my_bert
  python -m course_utils.pretraining --text book1.txt book2.txt --steps 20000 --output my_bert
  python -m course_utils.pretraining --wikitext --bf16 --steps 30000 --output my_bert
  torchrun --nproc-per-node 2 -m course_utils.pretraining --accumulate 2 --output my_bert

The same command again goes on where a stopped run was. The output folder then holds the model
in Hugging Face's layout, tokenizer.json, vocab.txt, and run.json: recipe, curve, held-out scores.
"""


def main(arguments: list[str] | None = None) -> None:
    """The command line; `--help` shows it. Ends with exit status 1 and one line on bad input."""
    options = _parser().parse_args(arguments)
    try:
        recipe = Recipe(**{f.name: getattr(options, f.name) for f in fields(Recipe)})
        _run(options, recipe)
    except (ValueError, OSError) as error:
        sys.exit(f"pretraining: {error}")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m course_utils.pretraining",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the result")
    parser.add_argument(
        "--text", type=Path, nargs="+", metavar="FILE",
        help="UTF-8 text files (wikitext's too); without it the docs corpus",
    )  # fmt: skip
    parser.add_argument(
        "--wikitext", nargs="?", const="Salesforce/wikitext", metavar="NAME",
        help="WikiText-2 from the Hub, or from a folder of the same layout",
    )  # fmt: skip
    parser.add_argument("--checkpoint-every", type=int, default=500, help="steps (500)")
    parser.add_argument("--device", default=None, help="cpu or cuda; the best there is")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 forward pass, on CUDA")
    parser.add_argument("--fp16-weights", action="store_true", help="save the weights as fp16")
    for one in fields(Recipe):
        flag = "--" + one.name.replace("_", "-")
        if isinstance(one.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=one.default)
        else:
            parser.add_argument(
                flag, type=type(one.default), default=one.default, help=f"({one.default})"
            )
    return parser


def _run(options: argparse.Namespace, recipe: Recipe) -> None:
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            device = f"cuda:{os.environ['LOCAL_RANK']}"
    if options.bf16 and not device.startswith("cuda"):
        raise ValueError("--bf16 needs CUDA; leave it out on this device.")
    first = not dist.is_initialized() or dist.get_rank() == 0
    if options.text:
        corpus = read_text_files(options.text)
    elif options.wikitext:
        corpus = wikitext2(options.wikitext)
    else:
        corpus = docs_corpus(progress=first)
    training, held_out = corpus.split()
    if not held_out.documents:
        raise ValueError(
            f"{len(corpus.documents)} documents are too few to hold one out; give more text "
            "(the docs corpus has thousands)."
        )
    tokenizer = train_tokenizer(training.sentences(), recipe.vocab_size)
    run = pretrain(
        recipe, training, tokenizer, options.output, device, options.bf16,
        options.checkpoint_every,
    )  # fmt: skip
    if first:
        print(f"{run.history[-1]['tokens']:,} tokens, {run.tokens_per_second:,.0f} a second")
        save_run(run, recipe, training, held_out, tokenizer, options.output, options.fp16_weights)


def save_run(
    run: PretrainingRun,
    recipe: Recipe,
    training: Corpus,
    held_out: Corpus,
    tokenizer: Tokenizer,
    folder: Path,
    fp16: bool = False,
) -> None:
    """Write the model, its tokenizer and run.json; print the held-out scores."""
    scores = evaluate(
        run.model, Batches(held_out, tokenizer, replace(recipe, seed=recipe.seed + 1)),
        run.token_counts, device=next(run.model.parameters()).device,
    )  # fmt: skip
    model = run.model.cpu().half() if fp16 else run.model.cpu()
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    (folder / "vocab.txt").write_text("".join(f"{p}\n" for p, _ in pieces), encoding="utf-8")
    record = {
        "recipe": asdict(recipe),
        "corpus": {
            "packages": training.fingerprint,
            "training": {"documents": len(training.documents), "words": training.words},
            "held_out": {"documents": len(held_out.documents), "words": held_out.words},
        },
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        "threads": torch.get_num_threads(),
        "seconds": round(run.seconds),
        "tokens": run.history[-1]["tokens"],
        "scores": scores._asdict(),
        "history": run.history[:: max(1, len(run.history) // 200)],
    }
    (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(
        f"held out: loss {scores.mlm_loss:.2f} (unigram {scores.unigram_loss:.2f}), "
        f"perplexity {scores.perplexity:.0f}, masked accuracy {scores.masked_accuracy:.3f} "
        f"(most frequent piece {scores.unigram_accuracy:.3f}), NSP {scores.nsp_accuracy:.3f}"
    )
