"""Lesson 10: TinyBERT's two stages: general distillation, then task distillation in two phases.

    general_distillation(model, encoder, batches, layer_map, recipe)   # text without labels
    task_distillation(model, teacher, features, layer_map, recipe)     # inner parts, then answers

The losses and steps are those of `tinybert.py`; TinyBertRecipe holds every number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils.bert import BertConfig
from course_utils.distillation import collate_soft
from course_utils.finetuning import (
    Batch,
    Features,
    FineTuning,
    fine_tune,
    parameter_groups,
    to_device,
)
from course_utils.pretraining import linear_warmup_decay
from course_utils.pretraining_run import Batches
from course_utils.tinybert import (
    PARTS,
    Distilled,
    IntermediateStep,
    LayerMap,
    PredictionStep,
)


@dataclass(frozen=True)
class TinyBertRecipe:
    """Every number of a TinyBERT run; the defaults are for the assistant on two cores.

    layers, hidden_size, heads, intermediate_size   of the student; heads as many as the teacher's
    dropout             of the student
    layer_map           "uniform", "top", "bottom" or numbers: "3,6,9,12"
    parts               what the intermediate losses compare, in both stages
    …_weight            the factor of each part's loss. The paper takes 1; here the attention loss
                        begins ten times as large as the hidden loss, over forty times as
                        large as the embeddings', and at 1 these two hardly fall
    shared_projection   one projection, or two, see `Distilled`
    general_…           the first stage: steps (0 = left out), tokens of a batch, learning rate
    augment             new versions of each training text; probability, candidates: as in
                        `augmentation.tinybert_augment`
    intermediate_steps, prediction_steps   of the second stage's two phases; 0 = left out
    passes              more than 0: in both phases so many times over the examples in place of the
                        steps, so that more examples mean more steps, as in the paper
    temperature, hard_weight   of `PredictionStep`
    seed                of first weights, order, dropout, masks and augmentation

    The paper, for 4 × 312: general 3 epochs of Wikipedia, N = 20, intermediate 20 epochs at 5e-5,
    prediction 3 epochs at 1e-5 to 3e-5, batches of 32 (section 4.2).
    """

    layers: int = 3
    hidden_size: int = 192
    heads: int = 12
    intermediate_size: int = 768
    dropout: float = 0.0
    layer_map: str = "uniform"
    parts: tuple[str, ...] = PARTS
    embedding_weight: float = 1.0
    hidden_weight: float = 1.0
    attention_weight: float = 0.1
    shared_projection: bool = True
    general_steps: int = 400
    general_batch_tokens: int = 512
    general_max_length: int = 64
    general_learning_rate: float = 3e-3
    augment: int = 20
    probability: float = 0.4
    candidates: int = 15
    intermediate_steps: int = 400
    prediction_steps: int = 800
    passes: int = 0
    batch_size: int = 32
    intermediate_learning_rate: float = 2e-3
    prediction_learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    temperature: float = 1.0
    hard_weight: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        for name in ("general_steps", "augment", "intermediate_steps", "prediction_steps",
                     "passes"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        for name in ("general_learning_rate", "intermediate_learning_rate",
                     "prediction_learning_rate"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive.")

    def student_config(self, teacher: BertConfig) -> BertConfig:
        """The teacher's config in the student's sizes: same pieces, positions and activation."""
        return replace(
            teacher,
            num_hidden_layers=self.layers,
            hidden_size=self.hidden_size,
            num_attention_heads=self.heads,
            intermediate_size=self.intermediate_size,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
        )

    def map_for(self, teacher: BertConfig) -> LayerMap:
        """The layer map from this teacher."""
        return LayerMap.named(self.layer_map, teacher.num_hidden_layers, self.layers)

    def intermediate_step(self, teacher: nn.Module, layer_map: LayerMap) -> IntermediateStep:
        """The step of the first stage, and of the second's first phase."""
        weights = {part: getattr(self, f"{part}_weight") for part in self.parts}
        return IntermediateStep(teacher, layer_map, self.parts, weights)

    def fine_tuning(self, phase: str, epochs: int = 1) -> FineTuning:
        """The recipe of one phase, "intermediate" or "prediction", for `fine_tune`."""
        return FineTuning(
            epochs=epochs,
            batch_size=self.batch_size,
            learning_rate=getattr(self, f"{phase}_learning_rate"),
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            clip=self.clip,
            seed=self.seed,
        )


def general_distillation(
    model: Distilled,
    teacher: nn.Module,
    batches: Batches,
    layer_map: LayerMap,
    recipe: TinyBertRecipe,
    progress: bool | str = True,
) -> list[dict]:
    """The first stage: the inner parts, on text without labels → a row for each step.

    teacher  the encoder as it was pretrained, not fine-tuned
    batches  of lesson 05: batches[i] is (batch, masked_input_ids, labels); student and teacher read
             the masked text, the labels and the prediction loss are not used

    A row: step (from 1), loss, learning_rate, and each part's loss.
    Source: Jiao et al. 2020, section 3.2; `general_distill.py`.
    """
    step = recipe.intermediate_step(teacher, layer_map)
    steps, history = recipe.general_steps, []
    groups = parameter_groups(model, recipe.general_learning_rate, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)
    warmup_steps = round(recipe.warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda number: linear_warmup_decay(number + 1, warmup_steps, steps + 1)
    )
    trained = [parameter for group in groups for parameter in group["params"]]
    name = progress if isinstance(progress, str) else "general distillation"
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model.train()
        for number in tqdm(range(steps), name, unit="step", mininterval=1, disable=not progress):
            packed, masked, _ = batches[number]
            batch = {
                "input_ids": masked,
                "attention_mask": packed.attention_mask,
                "token_type_ids": packed.token_type_ids,
            }
            loss = step(model, to_device(batch, model))
            nn.utils.clip_grad_norm_(trained, recipe.clip)
            rate = optimizer.param_groups[-1]["lr"]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            history.append({"step": number + 1, "loss": loss, "learning_rate": rate})
        model.eval()
    for row, parts in zip(history, step.history):
        row["loss"] = row["loss"].item()  # once, at the end: a GPU is not made to wait
        row |= {name: part.item() for name, part in parts.items()}
    return history


def task_distillation(
    model: Distilled,
    teacher: nn.Module,
    features: Sequence[Features],
    layer_map: LayerMap,
    recipe: TinyBertRecipe,
    progress: bool = True,
) -> dict[str, list[dict]]:
    """The second stage, in two phases: first the inner parts, then the answers.

    teacher   fine-tuned for the task
    features  training examples, augmented or not; labels are read only with recipe.hard_weight.
              Where they carry the teacher's logits (`distillation.with_teacher`), it is not asked
    returns   "intermediate" and "prediction" → the rows of `fine_tune`; a phase left out has none.
              The intermediate rows have each part's loss too

    No batch is left out, the last short one included. Source: Jiao et al. 2020, sections 3.2
    and 4.2; the published code drops the last batch where it is short.
    """
    history: dict[str, list[dict]] = {"intermediate": [], "prediction": []}
    if recipe.intermediate_steps:
        step = recipe.intermediate_step(teacher, layer_map)
        history["intermediate"] = train_phase(
            model, features, recipe, "intermediate", step, progress
        )
        for row, parts in zip(history["intermediate"], step.history):
            row |= {name: part.item() for name, part in parts.items()}
    if recipe.prediction_steps:
        step = PredictionStep(teacher, recipe.temperature, recipe.hard_weight)
        history["prediction"] = train_phase(model, features, recipe, "prediction", step, progress)
    return history


def train_phase(
    model: Distilled,
    features: Sequence[Features],
    recipe: TinyBertRecipe,
    phase: str,
    step: Callable[[nn.Module, Batch], Tensor],
    progress: bool = True,
) -> list[dict]:
    """One phase by `fine_tune`: recipe.passes over the examples, or exactly its number of steps."""
    epochs = recipe.passes or 1
    if not recipe.passes:
        features = in_rounds(
            features, getattr(recipe, f"{phase}_steps") * recipe.batch_size, recipe.seed
        )
    return fine_tune(
        model,
        features,
        recipe.fine_tuning(phase, epochs),
        collate_soft,
        backward=step,
        progress=f"{phase} phase" if progress else False,
    )


def in_rounds(features: Sequence[Features], count: int, seed: int) -> list[Features]:
    """`count` examples: all of them round after round, and of the last round a random part.

    So runs on data of other sizes take the same number of steps.
    """
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < count:
        order += torch.randperm(len(features), generator=generator).tolist()
    return [features[i] for i in order[:count]]
