"""Lesson 06: fine-tuning: a pretrained encoder, a small new head, and all of it trained on a task.

    tokenizer = load_tokenizer(folder)
    model = BertForSequenceClassification.from_encoder(folder, labels)
    features = encode(tokenizer, texts, labels=numbers)
    fine_tune(model, features, FineTuning(epochs=3))
    logits = predict(model, features)                     # (texts, labels)

The loop knows nothing of the task: any model whose forward(**batch) returns .loss and .logits will
do, so lesson 07 changes single parts of it and lesson 08 gives it other heads.
"""

import copy
import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils.attention import MultiHeadAttention
from course_utils.bert import (
    Bert,
    BertConfig,
    find_folder,
    load_tensors,
    read_tensors,
    save_folder,
)
from course_utils.encoder import initialize
from course_utils.pretraining import IGNORE, linear_warmup_decay

Features = dict[str, Any]  # one example: input_ids, token_type_ids, and its label or labels
Batch = dict[str, Tensor]
ANSWERS = ("labels", "start_positions", "end_positions")  # what a prediction must not see

# --- From text to tensors -------------------------------------------------------------------------


def load_tokenizer(folder_or_hub_name: Path | str) -> Tokenizer:
    """The tokenizer of a model's folder, padding and truncation off (some files switch them on).

    Raises ValueError where the folder has no tokenizer.json.
    """
    path = find_folder(folder_or_hub_name) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no tokenizer.json; save the tokenizer beside it.")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    max_length: int = 128,
) -> list[Features]:
    """Texts, or pairs of texts, → one dictionary each: input_ids, token_type_ids, labels if given.

    `[CLS] text [SEP]`, or `[CLS] text [SEP] pair [SEP]` with token type 1 from the pair on. What is
    longer than max_length pieces is cut at its end; of a pair the longer text is cut first. Nothing
    is padded here: that is a batch's business, see `collate`. Raises ValueError for lists of
    unequal lengths, a text that is no string, and a max_length without room for a piece.
    """
    texts = list(texts)
    for name, other in (("pairs", pairs), ("labels", labels)):
        if other is not None and len(other) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(other)} {name}; one for each is needed.")
    wrong = [text for text in [*texts, *(pairs or ())] if not isinstance(text, str)]
    if wrong:
        raise ValueError(f"texts must be strings; one of them is {wrong[0]!r}.")
    specials = tokenizer.num_special_tokens_to_add(pairs is not None)
    if max_length <= specials:
        raise ValueError(
            f"max_length {max_length} leaves no room beside {specials} special tokens."
        )
    tokenizer.enable_truncation(max_length)
    try:
        rows = tokenizer.encode_batch(texts if pairs is None else list(zip(texts, pairs)))
    finally:
        tokenizer.no_truncation()
    features = [{"input_ids": row.ids, "token_type_ids": row.type_ids} for row in rows]
    if labels is not None:
        features = [f | {"labels": int(label)} for f, label in zip(features, labels)]
    return features


def collate(features: Sequence[Features], pad_id: int = 0) -> Batch:
    """Examples of unequal lengths → tensors, padded to the longest of *this* batch.

    Lists become (batch, tokens): `input_ids` padded with pad_id, `labels` with −100, all else with
    0; numbers become (batch,). `attention_mask` (batch, tokens) is added: 1 = a token, 0 = padding.
    """
    if not features:
        raise ValueError("there is nothing to collate: the batch is empty.")
    longest = max(len(example["input_ids"]) for example in features)
    fill = {"input_ids": pad_id, "labels": IGNORE}
    batch = {}
    for name, first in features[0].items():
        values = [example[name] for example in features]
        if isinstance(first, Sequence):
            values = [[*row, *[fill.get(name, 0)] * (longest - len(row))] for row in values]
        batch[name] = torch.tensor(values)  # (batch, tokens) or (batch,)
    lengths = torch.tensor([len(example["input_ids"]) for example in features])  # (batch,)
    batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()  # (batch, tokens)
    return batch


def usual_collate() -> Callable[[Sequence[Features]], Batch]:
    """`collate`, looked up when it is needed: a reader's own may have taken its place."""
    return collate


def length_batches(
    lengths: Sequence[int], batch_size: int, generator: torch.Generator, window: int = 16
) -> list[list[int]]:
    """Numbers of examples in batches of about equal length, in random order.

    The examples are shuffled, sorted by length within windows of `window` batches, cut, and the
    batches shuffled: hardly any padding, and still another batch in each epoch.
    """
    order = torch.randperm(len(lengths), generator=generator).tolist()
    size = batch_size * window
    chunks = [
        sorted(order[i : i + size], key=lengths.__getitem__) for i in range(0, len(order), size)
    ]
    batches = [
        chunk[i : i + batch_size] for chunk in chunks for i in range(0, len(chunk), batch_size)
    ]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


# --- The model ------------------------------------------------------------------------------------


Model = TypeVar("Model", bound=nn.Module)


class TaskOutput(NamedTuple):
    """`loss`, None without labels, and `logits`."""

    loss: Tensor | None
    logits: Tensor


class BertForSequenceClassification(nn.Module):
    """BERT, and on its pooled [CLS] vector dropout and one linear layer to the labels' logits.

    config  of the encoder; its hidden_dropout_prob is the head's too
    labels  the labels' names, in the order of the logits

    Source: Devlin et al. 2019, section 4.1: the only new parameters are W (labels, hidden_size).
    The bias, and the pooler between, stand in the code (google-research/bert, `run_classifier.py`).
    """

    architecture = "BertForSequenceClassification"  # Hugging Face's class that loads our folder

    def __init__(self, config: BertConfig, labels: Sequence[str]) -> None:
        super().__init__()
        self.config, self.labels = config, list(labels)
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise ValueError(f"labels must be different names, at least one; got {self.labels}.")
        self.bert = Bert(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, len(self.labels))
        initialize(self.classifier, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> TaskOutput:
        """Inputs (batch, tokens) as for `Bert`; labels (batch,) → loss, logits (batch, labels)"""
        output = self.bert(input_ids, attention_mask, token_type_ids, need_weights=False)
        logits = self.classifier(self.dropout(output.pooler_output))  # (batch, labels)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return TaskOutput(loss, logits)

    @classmethod
    def from_encoder(
        cls, folder_or_hub_name: Path | str, labels: Sequence[str], seed: int = 0, **changes
    ) -> "BertForSequenceClassification":
        """A pretrained encoder under a new head, the head drawn from `seed`.

        changes  fields of BertConfig to replace, `hidden_dropout_prob=0.0` say
        """
        return on_encoder(lambda config: cls(config, labels), folder_or_hub_name, seed, **changes)

    @classmethod
    def from_pretrained(cls, folder_or_hub_name: Path | str) -> "BertForSequenceClassification":
        """A fine-tuned model, head and labels' names (`id2label` of config.json) included."""
        folder = find_folder(folder_or_hub_name)
        model = cls(BertConfig.from_folder(folder), read_labels(folder))
        load_tensors(model, read_tensors(folder))
        return model.eval()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors, so that Hugging Face's class of the same name
        loads the folder, and `from_pretrained` here."""
        save_folder(self, self.config, folder, self.architecture)
        save_labels(folder, self.labels)


def on_encoder(
    make: Callable[[BertConfig], Model], folder_or_hub_name: Path | str, seed: int = 0, **changes
) -> Model:
    """A new model on a pretrained encoder: make(config), its heads drawn from `seed`, its `bert`
    read from the folder.

    changes  fields of BertConfig to replace, `hidden_dropout_prob=0.0` say
    """
    folder = find_folder(folder_or_hub_name)
    config = dataclasses.replace(BertConfig.from_folder(folder), **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make(config)
    load_tensors(model.bert, read_tensors(folder))
    return model.eval()


def read_labels(folder: Path) -> list[str]:
    """The labels' names (`id2label`) of a folder's config.json; none where it has none."""
    names = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("id2label", {})
    return [names[i] for i in sorted(names, key=int)]


def save_labels(folder: Path | str, labels: Sequence[str]) -> None:
    """Add the labels' names to a folder's config.json, as id2label and label2id."""
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["id2label"] = {str(i): name for i, name in enumerate(labels)}
    config["label2id"] = {name: i for i, name in enumerate(labels)}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


# --- Training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FineTuning:
    """Everything a fine-tuning run depends on, except model, data and machine.

    learning_rate  its peak, reached after the share `warmup` of the steps, then linear to 0
    layer_decay    each layer below the head learns this many times as fast as the one above it
    frozen_layers  the embeddings and so many lowest layers stay as they are; 0 freezes nothing,
                   None leaves what asks for a gradient as it is (lesson 07 trains adapters alone)
    bucket         batches drawn together and sorted by length, see `length_batches`; 1 = none are
    patience       stop after so many epochs without a better validation score; None = never
    seed           of the order of the examples and of dropout

    The paper's ranges: batch 16 or 32, learning rate 2e-5 to 5e-5, 2 to 4 epochs; a smaller
    encoder takes larger rates. Source: Devlin et al. 2019, appendix A.3.
    """

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 1e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    layer_decay: float = 1.0
    frozen_layers: int | None = 0
    bucket: int = 16
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "bucket"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if not self.learning_rate > 0 or not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"learning_rate {self.learning_rate} must be positive, "
                f"layer_decay {self.layer_decay} in (0, 1]."
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; it is a share of the steps, in [0, 1).")


def freeze(bert: Bert, layers: int) -> None:
    """Let the embeddings and the lowest `layers` layers ask for no gradient; 0 frees everything.

    No gradient has to pass below the lowest trained layer, so a step gets cheaper too.
    """
    blocks = list(bert.encoder.layers)
    if not 0 <= layers <= len(blocks):
        raise ValueError(f"{layers} frozen layers of a BERT that has {len(blocks)}.")
    bert.requires_grad_(True)
    for part in [bert.embeddings, *blocks[:layers]] if layers else []:
        part.requires_grad_(False)


def set_dropout(model: nn.Module, probability: float) -> nn.Module:
    """Set every dropout of a model, in place: of hidden states and of attention weights."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        elif isinstance(module, MultiHeadAttention):
            module.dropout = probability
    both = {"hidden_dropout_prob": probability, "attention_probs_dropout_prob": probability}
    model.bert.config = model.config = dataclasses.replace(model.config, **both)
    return model


def layer_of(name: str, layers: int) -> int:
    """Where a parameter stands: 0 the embeddings, 1 … layers the encoder's, layers + 1 the head.

    name  as in `model.named_parameters()` of a model that has its encoder as `bert`
    """
    if name.startswith("bert.embeddings."):
        return 0
    if name.startswith("bert.encoder.layers."):
        return 1 + int(name.split(".")[3])
    return layers + 1


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict]:
    """Groups for `torch.optim.AdamW`: by depth, and apart what gets no weight decay.

    A parameter of layer i of L (0 = embeddings, L + 1 = the head and the pooler) gets the rate
    learning_rate · layer_decay^(L + 1 − i); with layer_decay 1 there are two groups only. Biases
    and LayerNorm's parameters are not decayed. Frozen parameters are in no group.
    Source: Howard and Ruder 2018 (ULMFiT), section 3.2, "discriminative fine-tuning".
    """
    layers = len(model.bert.encoder.layers)
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = layer_of(name, layers) if layer_decay != 1 else layers + 1
        decayed = parameter.dim() > 1
        group = groups.setdefault(
            (depth, decayed),
            {
                "params": [],
                "lr": learning_rate * layer_decay ** (layers + 1 - depth),
                "weight_decay": weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def backward(model: nn.Module, batch: Batch) -> Tensor:
    """The plain step: the loss of a batch, its gradients added to the parameters. → loss, ()"""
    loss = model(**batch).loss
    loss.backward()
    return loss.detach()


def fine_tune(
    model: nn.Module,
    features: Sequence[Features],
    recipe: FineTuning,
    collate: Callable[[list[Features]], Batch] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    backward: Callable[[nn.Module, Batch], Tensor] = backward,
    progress: bool | str = True,
) -> list[dict]:
    """Train the model on the examples, in place → a row for each step.

    validate  model → score, the higher the better; asked after each epoch. With recipe.patience
              the run stops early, and the model ends with the weights of its best epoch
    backward  (model, batch) → loss; adds the gradients. Lesson 07 passes others
    progress  True or a few words show a bar

    A row: step (from 1), epoch, loss, learning_rate (of the head), and score in the last row of an
    epoch. Seeds: the same recipe on the same machine gives the same model, whatever ran before.
    """
    if not features:
        raise ValueError("there are no examples to train on.")
    collate = collate or usual_collate()
    if recipe.frozen_layers is not None:
        freeze(model.bert, recipe.frozen_layers)
    groups = parameter_groups(model, recipe.learning_rate, recipe.weight_decay, recipe.layer_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)  # fused: a quarter of a step less
    steps = recipe.epochs * -(-len(features) // recipe.batch_size)
    warmup_steps = round(recipe.warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        # counted from 1: at factor 0 the first step would be lost
        optimizer, lambda step: linear_warmup_decay(step + 1, warmup_steps, steps + 1)
    )  # fmt: skip
    trained = [parameter for group in groups for parameter in group["params"]]
    order = torch.Generator().manual_seed(recipe.seed)
    lengths = [len(example["input_ids"]) for example in features]
    history, best, best_weights, waited = [], float("-inf"), None, 0
    name = progress if isinstance(progress, str) else "fine-tuning"
    with (
        tqdm(total=steps, desc=name, unit="step", mininterval=1, disable=not progress) as bar,
        torch.random.fork_rng(),
    ):
        torch.manual_seed(recipe.seed)
        for epoch in range(1, recipe.epochs + 1):
            model.train()
            for numbers in length_batches(lengths, recipe.batch_size, order, recipe.bucket):
                batch = to_device(collate([features[i] for i in numbers]), model)
                loss = backward(model, batch)
                nn.utils.clip_grad_norm_(trained, recipe.clip)
                rate = optimizer.param_groups[-1]["lr"]
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                history.append(
                    {"step": len(history) + 1, "epoch": epoch, "loss": loss, "learning_rate": rate}
                )
                bar.update()
            model.eval()
            if validate is None:
                continue
            history[-1]["score"] = score = validate(model)
            bar.set_postfix_str(f"score {score:.3f}", refresh=False)
            waited += 1
            if score > best:
                best, best_weights, waited = score, copy.deepcopy(model.state_dict()), 0
            if recipe.patience is not None and waited >= recipe.patience:
                break
    if recipe.patience is not None and best_weights is not None:
        model.load_state_dict(best_weights)
    for row in history:
        row["loss"] = row["loss"].item()  # once, at the end: a GPU is not made to wait
    return history


def to_device(batch: Batch, model: nn.Module) -> Batch:
    """The batch where the model's parameters are."""
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


# --- Using it -------------------------------------------------------------------------------------


@torch.inference_mode()
def predict(
    model: nn.Module,
    features: Sequence[Features],
    batch_size: int = 64,
    collate: Callable[[list[Features]], Batch] | None = None,
) -> Tensor | list[Tensor]:
    """Logits in the order of the examples, on the CPU; the examples' labels are not read.

    (examples, labels) of a model that judges texts; of a model that judges tokens a list with one
    (tokens, labels) for each example, padding cut off. Examples of about equal length are read
    together; the model is left in the mode it was in.
    """
    if not features:
        raise ValueError("there are no examples to predict.")
    collate = collate or usual_collate()
    was_training = model.training
    model.eval()
    inputs = [{k: v for k, v in example.items() if k not in ANSWERS} for example in features]
    lengths = [len(example["input_ids"]) for example in inputs]
    order = sorted(range(len(inputs)), key=lengths.__getitem__)
    found: list[Tensor] = [torch.empty(0)] * len(inputs)
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        batch = to_device(collate([inputs[i] for i in numbers]), model)
        for i, row in zip(numbers, model(**batch).logits.cpu()):
            found[i] = row[: lengths[i]] if row.dim() > 1 else row
    model.train(was_training)
    return torch.stack(found) if found[0].dim() == 1 else found


def accuracy(logits: Tensor, labels: Iterable[int]) -> float:
    """Share of rows whose largest logit is the label's. logits (examples, labels)"""
    return (logits.argmax(-1) == torch.as_tensor(list(labels))).float().mean().item()


class TextClassifier:
    """A fine-tuned model and its tokenizer: texts in, labels out.

    `classifier(texts)` → one {label, score} each, score the softmax probability;
    `classifier.logits(texts)` → (texts, labels).
    """

    def __init__(
        self, model: BertForSequenceClassification, tokenizer: Tokenizer, max_length: int = 128
    ) -> None:
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self.labels = model.labels

    @classmethod
    def from_folder(cls, folder: Path | str) -> "TextClassifier":
        """The classifier of a folder that holds model.safetensors, config.json, tokenizer.json."""
        model = BertForSequenceClassification.from_pretrained(folder)
        return cls(model, load_tokenizer(folder))

    def save(self, folder: Path | str) -> None:
        """Write the model and its tokenizer into one folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save(str(Path(folder) / "tokenizer.json"))

    def logits(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Texts → logits (texts, labels)"""
        features = encode(self.tokenizer, texts, max_length=self.max_length)
        return predict(self.model, features, batch_size)

    def __call__(self, texts: Sequence[str]) -> list[dict]:
        """Texts → a dictionary with the best label and its probability for each."""
        best = self.logits(texts).softmax(-1).max(-1)
        return [
            {"label": self.labels[i], "score": score}
            for i, score in zip(best.indices.tolist(), best.values.tolist())
        ]
