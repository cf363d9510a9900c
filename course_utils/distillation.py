"""Lesson 09: knowledge distillation: a small student learns what a large teacher answers.

    student = keep_layers(teacher, (2, 4, 6))              # three of the teacher's layers
    examples = with_teacher(teacher, features)             # its logits, computed once
    step = DistillationStep(temperature=4.0, soft_weight=0.9)
    fine_tune(student, examples, recipe, collate=collate_soft, backward=step)

Teacher tensors never get a gradient: every loss here detaches them.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.finetuning import ANSWERS, Batch, Features, collate, predict
from course_utils.similarity import cosine_similarity

Model = TypeVar("Model", bound=nn.Module)
TEACHER = "teacher_logits"  # the key under which an example carries its teacher's answer

# --- What a teacher says --------------------------------------------------------------------------


def soften(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax(logits / T): probabilities, the flatter the higher the temperature.

    logits (..., labels) → (..., labels), each row sums to 1. T = 1 is the softmax; towards 0 it
    becomes the largest logit's one-hot, towards infinity 1 / labels.
    Raises ValueError unless the temperature is positive.
    Source: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network",
    equation 1.
    """
    check_temperature(temperature)
    return (logits / temperature).softmax(-1)


def entropy(probabilities: Tensor) -> Tensor:
    """−Σ p log p in nats: 0 of a one-hot row, log(labels) of an even one; (..., labels) → (...)"""
    return torch.special.entr(probabilities).sum(-1)


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(teacher ‖ student) of the softened distributions, the mean over the examples: ().

    student_logits, teacher_logits  (examples, labels)

    Gradients of the softened distributions shrink as 1/T²; the factor keeps their size when T
    changes. The cross-entropy with soft targets differs by the teacher's entropy alone, a constant:
    the gradient is the same. Raises ValueError for shapes that differ and T ≤ 0.
    Source: Hinton et al. 2015, section 2, last paragraph.
    """
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    student = (student_logits / temperature).log_softmax(-1)  # (examples, labels)
    teacher = (teacher_logits.detach() / temperature).log_softmax(-1)  # (examples, labels)
    # kl_div(log q, log p) is KL(p ‖ q), and "mean" would divide by the number of labels too
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    temperature: float = 2.0,
    soft_weight: float = 0.5,
) -> Tensor:
    """soft_weight · `soft_loss` + (1 − soft_weight) · cross-entropy with the labels: ().

    student_logits, teacher_logits  (examples, labels)
    labels       (examples,), whole numbers; None where soft_weight is 1: no label is needed then
    temperature  of the soft part, for both; the hard part has none
    soft_weight  in [0, 1]; 0 is training without a teacher

    Raises ValueError for shapes that differ, T ≤ 0, a weight outside [0, 1], and missing labels.
    Source: Hinton et al. 2015, section 2.
    """
    if not 0 <= soft_weight <= 1:
        raise ValueError(f"soft_weight is {soft_weight}; it is a share of the loss, in [0, 1].")
    soft = soft_loss(student_logits, teacher_logits, temperature)
    if soft_weight == 1:
        return soft
    if labels is None:
        raise ValueError("there are no labels: give them, or set soft_weight to 1.")
    hard = F.cross_entropy(student_logits, labels)
    return soft_weight * soft + (1 - soft_weight) * hard


def centred_logit_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """What `soft_loss` becomes as T → ∞: half the mean squared difference of centred logits: ().

    A row is centred by taking off its mean: softmax does not see it either.
    (examples, labels) both. Source: Hinton et al. 2015, section 2.1.
    """
    check_logits(student_logits, teacher_logits)
    teacher_logits = teacher_logits.detach()
    student = student_logits - student_logits.mean(-1, keepdim=True)  # (examples, labels)
    teacher = teacher_logits - teacher_logits.mean(-1, keepdim=True)  # (examples, labels)
    return 0.5 * F.mse_loss(student, teacher)


def relation_loss(student_vectors: Tensor, teacher_vectors: Tensor) -> Tensor:
    """How differently the two see which examples are alike: mean squared difference of the cosines.

    student_vectors  (examples, d_s), teacher_vectors (examples, d_t): the widths may differ
    returns          (): over all pairs of two different examples

    Raises ValueError for another number of examples, and fewer than two.
    Source: Park et al. 2019, "Relational Knowledge Distillation", section 3 (there with distances
    and angles); Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", section 3.
    """
    examples = student_vectors.size(0)
    if student_vectors.dim() != 2 or teacher_vectors.dim() != 2:
        raise ValueError("vectors must be (examples, width).")
    if teacher_vectors.size(0) != examples or examples < 2:
        raise ValueError(
            f"{examples} student and {teacher_vectors.size(0)} teacher vectors: relations need "
            "the same examples of both, at least two."
        )
    teacher_vectors = teacher_vectors.detach()
    student = cosine_similarity(student_vectors, student_vectors)  # (examples, examples)
    teacher = cosine_similarity(teacher_vectors, teacher_vectors)  # (examples, examples)
    pairs = ~torch.eye(examples, dtype=torch.bool, device=student.device)
    return F.mse_loss(student[pairs], teacher[pairs])  # the diagonal is 1 for both


def hidden_loss(
    student_states: Tensor,
    teacher_states: Tensor,
    projection: Callable[[Tensor], Tensor] | None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """How far the student's hidden states, projected, are from the teacher's.

    student_states  (batch, tokens, student's hidden size)
    teacher_states  (batch, tokens, teacher's hidden size); no gradient goes there
    projection      student's hidden size → teacher's, learned along with the student, thrown away
                    after it; None where the widths are equal
    attention_mask  (batch, tokens), 1 = a token, 0 = padding: padding does not count
    returns         scalar: squared differences, averaged over real tokens and features

    Raises ValueError for shapes that do not fit. 0 where there is no real token.
    Source: Romero et al. 2015, "FitNets", section 2.2; Jiao et al. 2020, "TinyBERT", equation 8,
    MSE(H_S · W_h, H_T). TinyBERT's published code averages over padding too, so that a loss depends
    on how far its batch is padded.
    """
    width = getattr(projection, "in_features", student_states.size(-1))
    if student_states.size(-1) != width:
        raise ValueError(
            f"the projection reads {width} features, the student's states have "
            f"{student_states.size(-1)}."
        )
    projected = student_states if projection is None else projection(student_states)
    if projected.shape != teacher_states.shape:
        raise ValueError(
            f"the student's states are {tuple(projected.shape)} after the projection, the "
            f"teacher's {tuple(teacher_states.shape)}: same texts, same width?"
        )
    squares = (projected - teacher_states.detach()).pow(2)
    real = real_tokens(attention_mask, squares)[..., None]  # (batch, tokens, 1)
    return (squares * real).sum() / (real.sum().clamp(min=1) * squares.size(-1))


def real_tokens(attention_mask: Tensor | None, like: Tensor) -> Tensor:
    """The mask as numbers (batch, tokens) of the dtype of `like` (batch, tokens, …); None = all 1.

    Raises ValueError for a mask of another shape.
    """
    shape = like.shape[:2]
    if attention_mask is None:
        return like.new_ones(shape)
    if attention_mask.shape != shape:
        raise ValueError(
            f"attention_mask {tuple(attention_mask.shape)} must be (batch, tokens), {tuple(shape)}."
        )
    return attention_mask.to(like.dtype)


def attention_map_loss(
    student_weights: Tensor, teacher_weights: Tensor, attention_mask: Tensor
) -> Tensor:
    """KL(teacher ‖ student) of each query's attention, mean over heads and real queries: ().

    student_weights, teacher_weights  (batch, heads, queries, keys), after softmax
    attention_mask                    (batch, tokens), 1 = a token, 0 = padding

    Raises ValueError for another number of heads and shapes that do not fit.
    Source: Wang et al. 2020, "MiniLM", section 3.1 (there of the last layer only).
    """
    if student_weights.shape != teacher_weights.shape:
        raise ValueError(
            f"attention {tuple(student_weights.shape)} and {tuple(teacher_weights.shape)} differ: "
            "maps are copied head by head, so both need the same number of heads."
        )
    tiny = torch.finfo(student_weights.dtype).tiny
    student = student_weights.clamp(min=tiny).log()  # a padded key has weight 0 on both sides
    teacher = teacher_weights.detach()
    divergence = torch.xlogy(teacher, teacher) - teacher * student  # (batch, heads, queries, keys)
    per_query = divergence.sum(-1).transpose(1, 2)  # (batch, queries, heads)
    return per_query[real_tokens(attention_mask, per_query).bool()].mean()


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless the temperature is a positive, finite number."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}; it must be a number above 0.")


def check_logits(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Raise ValueError unless both are (examples, labels)."""
    if student_logits.shape != teacher_logits.shape or student_logits.dim() != 2:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher logits "
            f"{tuple(teacher_logits.shape)} must both be (examples, labels): teacher and student "
            "need the same labels in the same order."
        )


# --- The student ----------------------------------------------------------------------------------


def keep_layers(model: Model, layers: Sequence[int]) -> Model:
    """A copy of a model that keeps these layers of its encoder, counted from 1, in this order.

    model  a head with its encoder as `bert`; embeddings, pooler and head are copied with it

    The copy is in eval mode and asks for gradients everywhere. Raises ValueError for no layer, one
    that the model does not have, and layers that do not rise.
    Source: Sanh et al. 2019, "DistilBERT", section 3, "Student initialization": every second layer.
    """
    layers, there = list(layers), len(model.bert.encoder.layers)
    if not layers or layers != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] <= there:
        raise ValueError(
            f"layers {layers} can not be kept: name rising numbers from 1 to {there}, at least one."
        )
    student = copy.deepcopy(model)
    every = student.bert.encoder.layers
    student.bert.encoder.layers = nn.ModuleList(every[i - 1] for i in layers)
    config = dataclasses.replace(model.bert.config, num_hidden_layers=len(layers))
    student.bert.config = student.config = config
    return student.requires_grad_(True).eval()


# --- Training it ----------------------------------------------------------------------------------


def with_teacher(
    teacher: nn.Module, features: Sequence[Features], batch_size: int = 64
) -> list[Features]:
    """The examples, each with its teacher's logits (labels,): computed once, read in every epoch.

    Right only where an example is the same text each time: what is rewritten anew in each epoch
    needs the teacher live, see `DistillationStep`.
    """
    logits = predict(teacher, features, batch_size)  # (examples, labels)
    return [example | {TEACHER: row} for example, row in zip(features, logits)]


def collate_soft(features: Sequence[Features], pad_id: int = 0) -> Batch:
    """`finetuning.collate`, and the teacher's logits, where examples have them, as a tensor
    (batch, labels)."""
    batch = collate([{k: v for k, v in one.items() if k != TEACHER} for one in features], pad_id)
    if TEACHER in features[0]:
        batch[TEACHER] = torch.stack([one[TEACHER] for one in features])  # (batch, labels)
    return batch


@dataclass
class DistillationStep:
    """A step of `fine_tune` (its `backward`): the student's loss against teacher and labels.

    temperature, soft_weight  see `distillation_loss`
    teacher                   None: each example carries its teacher's logits, see `with_teacher`;
                              else the model that answers live, in eval mode and without gradients

    Labels are read where soft_weight is below 1.
    """

    temperature: float = 2.0
    soft_weight: float = 0.5
    teacher: nn.Module | None = None

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 <= self.soft_weight <= 1:
            raise ValueError(f"soft_weight is {self.soft_weight}; it must be in [0, 1].")
        if self.teacher is not None:
            self.teacher.eval()

    def __call__(self, student: nn.Module, batch: Batch) -> Tensor:
        """(student, batch) → loss (), its gradients added to the student's parameters"""
        inputs, labels, teacher_logits = teacher_answers(batch, self.teacher)
        student_logits = student(**inputs).logits  # (batch, labels)
        loss = distillation_loss(
            student_logits, teacher_logits, labels, self.temperature, self.soft_weight
        )
        loss.backward()
        return loss.detach()


class Copier(nn.Module):
    """A student, and beside it what is needed to learn from the teacher's inside.

    student        its encoder is `bert`; what is saved is `copier.student` alone
    teacher_width  hidden size of the teacher: where it is not the student's, `projection` maps the
                   one to the other, one matrix for all layers, drawn from `seed`
    """

    def __init__(self, student: nn.Module, teacher_width: int, seed: int = 0) -> None:
        super().__init__()
        self.student = student
        width = student.bert.config.hidden_size
        self.projection = None
        if width != teacher_width:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self.projection = nn.Linear(width, teacher_width, bias=False)

    @property
    def bert(self) -> nn.Module:
        """The student's encoder: what `fine_tune` freezes and groups by."""
        return self.student.bert

    def forward(self, **batch: Tensor) -> nn.Module:
        return self.student(**batch)


@dataclass
class CopyStep:
    """A step of `fine_tune` for a `Copier`: `distillation_loss`, and the parts named.

    teacher  a classifier of more layers, read live
    layers   the teacher's layer, counted from 1, for each of the student's
    parts    of "hidden", "attention" and "relations" (of the pooled vectors)
    weight   of each of the parts; the logits' loss has weight 1
    """

    teacher: nn.Module
    layers: Sequence[int]
    parts: Sequence[str] = ()
    weight: float = 1.0
    temperature: float = 2.0
    soft_weight: float = 0.5

    def __post_init__(self) -> None:
        unknown = set(self.parts) - {"hidden", "attention", "relations"}
        if unknown:
            raise ValueError(f"there is no part {unknown.pop()!r}: hidden, attention, relations.")
        self.teacher.eval()

    def __call__(self, model: Copier, batch: Batch) -> Tensor:
        """(copier, batch) → loss (), its gradients added to student and projection"""
        inputs = {k: v for k, v in batch.items() if k not in (*ANSWERS, TEACHER)}
        maps, mask = "attention" in self.parts, batch["attention_mask"]
        with torch.no_grad():
            theirs = self.teacher.bert(**inputs, need_weights=maps)
            teacher_logits = self.teacher.classifier(theirs.pooler_output)  # (batch, labels)
        student = model.student
        ours = student.bert(**inputs, need_weights=maps)
        logits = student.classifier(student.dropout(ours.pooler_output))  # (batch, labels)
        loss = distillation_loss(
            logits, teacher_logits, batch.get("labels"), self.temperature, self.soft_weight
        )
        for place, layer in enumerate(self.layers, start=1):
            share = self.weight / len(self.layers)
            if "hidden" in self.parts:
                states = ours.hidden_states[place], theirs.hidden_states[layer]
                loss = loss + share * hidden_loss(*states, model.projection, mask)
            if maps:
                weights = ours.attentions[place - 1], theirs.attentions[layer - 1]
                loss = loss + share * attention_map_loss(*weights, mask)
        if "relations" in self.parts:
            vectors = ours.pooler_output, theirs.pooler_output
            loss = loss + self.weight * relation_loss(*vectors)
        loss.backward()
        return loss.detach()


def teacher_answers(
    batch: Batch, teacher: nn.Module | None = None
) -> tuple[Batch, Tensor | None, Tensor]:
    """(inputs, labels or None, teacher's logits (batch, labels)) of a batch.

    Logits that the batch carries are taken as they are; else the teacher is asked.
    Raises ValueError where there are neither.
    """
    inputs = {k: v for k, v in batch.items() if k not in (*ANSWERS, TEACHER)}
    if TEACHER in batch:
        return inputs, batch.get("labels"), batch[TEACHER]
    if teacher is None:
        raise ValueError("the examples carry no teacher's logits: see with_teacher.")
    with torch.no_grad():
        return inputs, batch.get("labels"), teacher(**inputs).logits
