"""Lesson 07: several tasks at once: one encoder, a head a task, and how their losses are weighed.

model = BertForSeveralTasks.from_encoder(folder, {"intent": intents, "domain": domains})
features = add_labels(encode(tokenizer, texts), intent=…, domain=…)
fine_tune(model, features, recipe)
logits = model.split(predict(model, features))      # {"intent": (texts, intents), …}
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.attention import padding_mask
from course_utils.bert import Bert, BertConfig
from course_utils.encoder import initialize
from course_utils.finetuning import Batch, Features, TaskOutput, layer_of, on_encoder


def uncertainty_loss(losses: Tensor, log_variances: Tensor) -> Tensor:
    """Σ exp(−s) · loss + s / 2, with one learned s = log σ² a task.

    losses, log_variances (tasks,) → ()

    A task that stays noisy gets a larger σ² and so a smaller weight; s / 2 keeps σ² from growing
    without end. At its best s a task's weight is 1 / (2 · loss).
    Source: Kendall, Gal and Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses",
    equation 10 (classification: L / σ² + log σ).
    """
    if losses.shape != log_variances.shape:
        raise ValueError(
            f"{tuple(losses.shape)} losses need as many log variances, "
            f"not {tuple(log_variances.shape)}."
        )
    return (torch.exp(-log_variances) * losses + log_variances / 2).sum()


class BertForSeveralTasks(nn.Module):
    """An encoder that several tasks share, and a linear head for each.

    tasks          name → its labels
    shared_layers  so many of the lowest layers are shared, the ones above exist once a task
                   (the pooler too); None = all are shared
    weighting      a number a task, or "uncertainty": learned, `log_variances` (tasks,)

    Source: Caruana 1997 (hard sharing); Kendall et al. 2018 (uncertainty).
    """

    def __init__(
        self,
        config: BertConfig,
        tasks: Mapping[str, Sequence[str]],
        shared_layers: int | None = None,
        weighting: Mapping[str, float] | str = "uncertainty",
    ) -> None:
        super().__init__()
        if not tasks:
            raise ValueError("several tasks are at least one; tasks is empty.")
        if weighting != "uncertainty" and set(weighting) != set(tasks):
            raise ValueError(f'weighting is "uncertainty" or a number for each of {list(tasks)}.')
        self.config, self.weighting = config, weighting
        self.tasks = {name: list(labels) for name, labels in tasks.items()}
        self.bert = Bert(config)
        self.share(config.num_hidden_layers if shared_layers is None else shared_layers)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(config.hidden_size, len(found)) for name, found in self.tasks.items()}
        )
        initialize(self.heads, config.initializer_range)
        self.log_variances = nn.Parameter(torch.zeros(len(self.tasks)))
        self.log_variances.requires_grad_(weighting == "uncertainty")

    def share(self, layers: int) -> None:
        """Share the lowest `layers` layers; each task gets the ones above as they are now."""
        depth = len(self.bert.encoder.layers)
        if not 0 <= layers <= depth:
            raise ValueError(f"{layers} shared layers of {depth} can not be.")
        self.shared_layers = layers
        self.branches = nn.ModuleDict()  # the first task's own layers are those of `bert`
        own = {"layers": self.bert.encoder.layers[layers:], "pooler": self.bert.pooler}
        for name in list(self.tasks)[1:] if layers < depth else []:
            self.branches[name] = nn.ModuleDict(copy.deepcopy(own))

    def pooled(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Each task's pooled vectors, (batch, hidden_size); shared layers run once."""
        mask = padding_mask(attention_mask)
        states = self.bert.embeddings(input_ids, token_type_ids)  # (batch, tokens, hidden_size)
        for layer in self.bert.encoder.layers[: self.shared_layers]:
            states, _ = layer(states, mask)
        found, plain = {}, None
        for name in self.tasks:
            if name not in self.branches and plain is not None:
                found[name] = plain
                continue
            branch = self.branches[name] if name in self.branches else None
            own = branch["layers"] if branch else self.bert.encoder.layers[self.shared_layers :]
            top = states
            for layer in own:
                top, _ = layer(top, mask)
            found[name] = (branch["pooler"] if branch else self.bert.pooler)(top)
            plain = found[name] if branch is None else plain
        return found

    def losses(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """The tasks' mean cross-entropies, (tasks,)"""
        return torch.stack([F.cross_entropy(logits[name], labels[name]) for name in self.tasks])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        **labels: Tensor,
    ) -> TaskOutput:
        """Inputs (batch, tokens); a (batch,) of labels under each task's name, or none at all
        → the weighed loss, and all heads' logits side by side, (batch, all labels)"""
        pooled = self.pooled(input_ids, attention_mask, token_type_ids)
        logits = {name: self.heads[name](self.dropout(pooled[name])) for name in self.tasks}
        loss = self.weigh(self.losses(logits, labels)) if labels else None
        return TaskOutput(loss, torch.cat(list(logits.values()), dim=-1))

    def weigh(self, losses: Tensor) -> Tensor:
        """(tasks,) → ()"""
        if self.weighting == "uncertainty":
            return uncertainty_loss(losses, self.log_variances)
        weights = torch.tensor([float(self.weighting[name]) for name in self.tasks])
        return (weights.to(losses) * losses).sum()

    def split(self, logits: Tensor) -> dict[str, Tensor]:
        """All heads' logits (texts, all labels) → task: (texts, its labels)"""
        sizes = [len(labels) for labels in self.tasks.values()]
        return dict(zip(self.tasks, logits.split(sizes, dim=-1)))

    @classmethod
    def from_encoder(
        cls,
        folder_or_hub_name: Path | str,
        tasks: Mapping[str, Sequence[str]],
        seed: int = 0,
        shared_layers: int | None = None,
        weighting: Mapping[str, float] | str = "uncertainty",
        **changes,
    ) -> "BertForSeveralTasks":
        """A pretrained encoder under new heads; changes: fields of BertConfig to replace."""
        model = on_encoder(
            lambda config: cls(config, tasks, shared_layers, weighting),
            folder_or_hub_name, seed, **changes,
        )  # fmt: skip
        model.share(model.shared_layers)  # each task's own layers start from the pretrained ones
        return model.eval()


def add_labels(features: Sequence[Features], **labels: Sequence[int]) -> list[Features]:
    """The examples with one number more a task: add_labels(features, intent=…, domain=…)."""
    wrong = [name for name, values in labels.items() if len(values) != len(features)]
    if wrong:
        raise ValueError(f"{len(features)} examples need as many labels of {wrong[0]!r}.")
    rows = zip(features, *labels.values())
    return [
        example | dict(zip(labels, [int(value) for value in values])) for example, *values in rows
    ]


def gradient_cosines(model: BertForSeveralTasks, batch: Batch, first: str, second: str) -> Tensor:
    """Do two tasks pull the shared weights the same way? The cosine of their gradients, by layer.

    → (shared_layers + 1,): embeddings, then each shared layer; 1 = the same direction, 0 = they do
    not touch, below 0 = conflict. Weights and gradients stay as they are.
    Source: Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", section 2.2.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name not in model.tasks}
    pooled = model.pooled(**inputs)
    depth = model.shared_layers
    by_layer: list[list[Tensor]] = [[] for _ in range(depth + 1)]
    for name, parameter in model.named_parameters():
        layer = layer_of(name, model.config.num_hidden_layers)
        if name.startswith("bert.") and layer <= depth and parameter.requires_grad:
            by_layer[layer].append(parameter)
    flat = []
    for task in (first, second):
        loss = F.cross_entropy(model.heads[task](pooled[task]), batch[task])
        parameters = [p for layer in by_layer for p in layer]
        gradients = iter(torch.autograd.grad(loss, parameters, retain_graph=True))
        flat.append([torch.cat([next(gradients).flatten() for _ in layer]) for layer in by_layer])
    return torch.stack([F.cosine_similarity(a, b, dim=0) for a, b in zip(*flat)])
