"""Lesson 10: TinyBERT: a student that copies its teacher's layers, not only its answers.

    layer_map = LayerMap.uniform(12, 4)            # student layers 1 … 4 learn from 3, 6, 9, 12
    model = Distilled(new_student(teacher, config), teacher_hidden_size=768)
    fine_tune(model, features, recipe, backward=IntermediateStep(teacher, layer_map))
    fine_tune(model, features, recipe, backward=PredictionStep(teacher))
    model.student.save_pretrained(folder)          # without the projection

Four losses: embeddings, hidden states and attention scores are compared by mean squared error, the
logits by cross-entropy. The two stages that use them are in `tinybert_stages.py`, and
`python -m course_utils.tinybert --help` is all of it as one command.

Source: Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding", and the
code that was published with it (huawei-noah/Pretrained-Language-Model, `task_distill.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.attention import attention_scores, split_heads
from course_utils.bert import Bert, BertConfig
from course_utils.distillation import TEACHER, hidden_loss, real_tokens, teacher_answers
from course_utils.encoder import initialize
from course_utils.finetuning import Batch
from course_utils.pretraining import IGNORE

PARTS = ("embedding", "hidden", "attention")  # what the intermediate losses compare
INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # what a Bert reads of a batch

# --- Which layer learns from which ----------------------------------------------------------------


def uniform_layers(teacher_layers: int, student_layers: int) -> tuple[int, ...]:
    """The teacher's layer for each student layer 1 … M, evenly spaced: g(m) = m · N / M.

    teacher_layers N, student_layers M → M layer numbers, counted from 1. The last one is N: the
    student's last layer always learns from the teacher's last. Where M does not divide N the
    fraction is rounded, a half up: 12 → 5 gives 2, 5, 7, 10, 12, and 3 → 2 gives 2, 3.

    Raises ValueError for what is no whole number from 1 up, and for more student layers than the
    teacher has.
    Source: Jiao et al. 2020, sections 3.1 and 4.2; the published code wants M to divide N.
    """
    whole_numbers(teacher_layers, student_layers)
    if min(teacher_layers, student_layers) < 1:
        raise ValueError(
            f"{teacher_layers} teacher layers and {student_layers} student layers can not be "
            "mapped; each needs at least one."
        )
    if student_layers > teacher_layers:
        raise ValueError(
            f"{student_layers} student layers, but the teacher has {teacher_layers}: each needs "
            "one of its own."
        )
    twice = 2 * student_layers  # (2·m·N + M) // 2·M is m·N / M, rounded half up, in whole numbers
    return tuple(
        (2 * m * teacher_layers + student_layers) // twice for m in range(1, student_layers + 1)
    )


def whole_numbers(*numbers: int) -> None:
    """Raise ValueError for the first that is no whole number (True and False are none)."""
    for one in numbers:
        if not isinstance(one, int) or isinstance(one, bool):
            raise ValueError(f"a layer map holds whole numbers; {one!r} is none.")


@dataclass(frozen=True)
class LayerMap:
    """Which teacher layer each student layer learns from, n = g(m).

    teacher_layers  N, how many the teacher has
    layers          g(1), …, g(M): the teacher's layer for each student layer, counted from 1

    The ends are fixed: place 0, the embeddings, learns from 0, and place M + 1, the prediction,
    from N + 1. Raises ValueError, with the reason, for layers that are no whole numbers, none or
    more than the teacher has, outside 1 … N, or not strictly increasing.
    Source: Jiao et al. 2020, section 3.1.
    """

    teacher_layers: int
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        layers = tuple(self.layers)
        object.__setattr__(self, "layers", layers)  # a list is welcome, and frozen too
        whole_numbers(self.teacher_layers, *layers)
        if not layers:
            raise ValueError("the layer map is empty; name a teacher layer for each student layer.")
        if len(layers) > self.teacher_layers:
            raise ValueError(
                f"{len(layers)} student layers, but the teacher has {self.teacher_layers}: each "
                "needs one of its own."
            )
        wrong = [one for one in layers if not 1 <= one <= self.teacher_layers]
        if wrong:
            raise ValueError(
                f"there is no teacher layer {wrong[0]}; they are 1 to {self.teacher_layers}."
            )
        for lower, upper in zip(layers, layers[1:]):
            if upper <= lower:
                raise ValueError(
                    f"teacher layer {upper} follows {lower}: the map must strictly increase, or a "
                    "student layer would have to undo what the one below it learned."
                )

    @classmethod
    def uniform(cls, teacher_layers: int, student_layers: int) -> "LayerMap":
        """Evenly spaced, see `uniform_layers`: 12 → 4 is 3, 6, 9, 12. The paper's choice."""
        return cls(teacher_layers, uniform_layers(teacher_layers, student_layers))

    @classmethod
    def top(cls, teacher_layers: int, student_layers: int) -> "LayerMap":
        """The teacher's last layers: 12 → 4 is 9, 10, 11, 12."""
        whole_numbers(teacher_layers, student_layers)
        first = teacher_layers - student_layers + 1
        return cls(teacher_layers, tuple(range(first, teacher_layers + 1)))

    @classmethod
    def bottom(cls, teacher_layers: int, student_layers: int) -> "LayerMap":
        """The teacher's first layers: 12 → 4 is 1, 2, 3, 4."""
        whole_numbers(teacher_layers, student_layers)
        return cls(teacher_layers, tuple(range(1, student_layers + 1)))

    @classmethod
    def named(cls, name: str, teacher_layers: int, student_layers: int) -> "LayerMap":
        """The map called "uniform", "top" or "bottom", or the one of these numbers: "3,6,9,12".

        Raises ValueError for any other name, and for more or fewer numbers than student layers.
        """
        if name in ("uniform", "top", "bottom"):
            return getattr(cls, name)(teacher_layers, student_layers)
        try:
            layers = tuple(int(part) for part in name.split(","))
        except ValueError:
            raise ValueError(
                f"there is no layer map {name!r}; take uniform, top, bottom or numbers: 3,6,9,12."
            ) from None
        found = cls(teacher_layers, layers)
        found.check(teacher_layers, student_layers)
        return found

    @property
    def student_layers(self) -> int:
        """M, how many layers the student has."""
        return len(self.layers)

    def teacher_layer(self, m: int) -> int:
        """g(m): 0 for the embeddings (m = 0), N + 1 for the prediction (m = M + 1), and between
        them the layer of the map. ValueError for any other m."""
        last = self.student_layers + 1
        if m == 0:
            return 0
        if m == last:
            return self.teacher_layers + 1
        if not 0 < m < last:
            raise ValueError(f"the student has no place {m}; they are 0 to {last}.")
        return self.layers[m - 1]

    def check(self, teacher_layers: int, student_layers: int) -> None:
        """Raise ValueError unless the map is for a teacher and a student of so many layers."""
        if (self.teacher_layers, self.student_layers) != (teacher_layers, student_layers):
            raise ValueError(
                f"the map is for {self.teacher_layers} → {self.student_layers} layers, and these "
                f"models have {teacher_layers} → {student_layers}."
            )


# --- The four losses ------------------------------------------------------------------------------


def embedding_loss(
    student_states: Tensor,
    teacher_states: Tensor,
    projection: Callable[[Tensor], Tensor],
    attention_mask: Tensor | None = None,
) -> Tensor:
    """`hidden_loss` between the outputs of the embeddings, hidden_states[0] of both.

    Source: Jiao et al. 2020, equation 9, MSE(E_S · W_e, E_T): the same form as equation 8.
    """
    return hidden_loss(student_states, teacher_states, projection, attention_mask)


def attention_loss(
    student_scores: Tensor, teacher_scores: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """How far the student's attention scores, before softmax, are from the teacher's.

    student_scores, teacher_scores  (batch, heads, tokens, tokens); no gradient goes to the
                                    teacher's. Head h learns from head h, so both have as many.
    attention_mask                  (batch, tokens), 1 = a token, 0 = padding
    returns                         scalar: squared differences, averaged over heads and over pairs
                                    of a real query and a real key

    What stands in the scores of padding is arbitrary, and no output ever reads it. Raises
    ValueError for another number of heads, and for shapes that do not fit.
    Source: Jiao et al. 2020, equation 7: before softmax, since that converged faster and to better
    results. The published code sets the scores of padded keys to 0 on both sides, and so counts
    them as equal.
    """
    if student_scores.dim() == 4 == teacher_scores.dim():
        heads = student_scores.size(1), teacher_scores.size(1)
        if heads[0] != heads[1]:
            raise ValueError(
                f"the student has {heads[0]} heads and the teacher {heads[1]}: head h learns from "
                "head h, so give the student as many."
            )
    if student_scores.shape != teacher_scores.shape or student_scores.dim() != 4:
        raise ValueError(
            f"the student's scores {tuple(student_scores.shape)} and the teacher's "
            f"{tuple(teacher_scores.shape)} must both be (batch, heads, tokens, tokens)."
        )
    squares = (student_scores - teacher_scores.detach()).pow(2)  # (batch, heads, tokens, tokens)
    real = real_tokens(attention_mask, squares[:, 0])  # (batch, tokens)
    pairs = real[:, None, :, None] * real[:, None, None, :]  # (batch, 1, queries, keys)
    return (squares * pairs).sum() / (pairs.sum().clamp(min=1) * squares.size(1))


def prediction_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """Cross-entropy of the student's answers with the teacher's as targets, both at a temperature.

    student_logits, teacher_logits  (…, labels); no gradient goes to the teacher's
    temperature                     divides both; 1 in the paper, which found it to work well
    returns                         scalar, the mean over texts: −Σ softmax(t/T) · log softmax(s/T)

    Without lesson 09's factor T², which keeps the gradient's size where T is not 1. Raises
    ValueError for shapes that differ and a temperature that is not positive.
    Source: Jiao et al. 2020, equation 10. The published code takes the mean over texts *and*
    labels: with 31 labels that is 31 times less.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"the student's logits {tuple(student_logits.shape)} and the teacher's "
            f"{tuple(teacher_logits.shape)} must have one shape: the same texts, the same labels."
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it divides the logits, take 1 or more.")
    targets = (teacher_logits.detach() / temperature).softmax(-1)  # (…, labels)
    log_chances = (student_logits / temperature).log_softmax(-1)  # (…, labels)
    return -(targets * log_chances).sum(-1).mean()


def layer_scores(
    bert: Bert, hidden_states: Sequence[Tensor], layers: Sequence[int] | None = None
) -> list[Tensor]:
    """The attention scores before softmax of each layer, (batch, heads, tokens, tokens).

    hidden_states  of the `BertOutput`, num_hidden_layers + 1 tensors (batch, tokens, hidden_size)
    layers         their numbers, from 1; None = all

    They are computed again from what the layer read: BERT is post-norm, so layer n reads
    hidden_states[n − 1] as it is. Padding is not masked here; its scores are there, and arbitrary.
    """
    if len(hidden_states) != len(bert.encoder.layers) + 1:
        raise ValueError(
            f"{len(hidden_states)} hidden states of a Bert with {len(bert.encoder.layers)} layers; "
            "one more than layers is needed: the embeddings come first."
        )
    scores = []
    for number in range(1, len(hidden_states)) if layers is None else layers:
        attention, x = bert.encoder.layers[number - 1].attention, hidden_states[number - 1]
        query = split_heads(attention.query(x), attention.num_heads)  # (batch, heads, tokens, d_k)
        key = split_heads(attention.key(x), attention.num_heads)  # (batch, heads, tokens, d_k)
        scores.append(attention_scores(query, key))  # (batch, heads, tokens, tokens)
    return scores


# --- Student and teacher --------------------------------------------------------------------------


def bert_of(model: nn.Module) -> Bert:
    """The Bert itself, or the one that a model holds as `.bert`. ValueError where there is none."""
    bert = model if isinstance(model, Bert) else getattr(model, "bert", None)
    if not isinstance(bert, Bert):
        raise ValueError(f"{type(model).__name__} holds no Bert as .bert; TinyBERT needs one.")
    return bert


def new_student(teacher: nn.Module, config: BertConfig, seed: int = 0) -> nn.Module:
    """A model of the teacher's class and labels in other sizes, its first weights from `seed`."""
    labels = [teacher.labels] if hasattr(teacher, "labels") else []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return type(teacher)(config, *labels)


class Distilled(nn.Module):
    """A student, and beside it what it is distilled with: the projection to the teacher's width.

    student              a `Bert`, or a model that holds one as `.bert`
    teacher_hidden_size  the projection is Linear(student's hidden size, this), without a bias
    shared_projection    True: one projection for embeddings and hidden states, as in the published
                         code; False: two, W_e and W_h, as in the paper's equations 8 and 9
    seed                 of the projection's first weights

    `fine_tune` trains both. What is kept is `.student`: the projection is of no use without a
    teacher. forward is the student's.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher_hidden_size: int,
        shared_projection: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.bert = bert_of(student)  # the first name of its parameters, for parameter_groups
        self.student = student
        self.shared_projection = shared_projection
        sizes = self.bert.config.hidden_size, teacher_hidden_size
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.hidden_projection = nn.Linear(*sizes, bias=False)
            initialize(self.hidden_projection, self.bert.config.initializer_range)
            self.embedding_projection = self.hidden_projection
            if not shared_projection:
                self.embedding_projection = nn.Linear(*sizes, bias=False)
                initialize(self.embedding_projection, self.bert.config.initializer_range)

    def forward(self, *inputs, **named):
        """What the student says."""
        return self.student(*inputs, **named)


class IntermediateStep:
    """A training step on the inner parts: `backward=` of `fine_tune`, (model, batch) → loss.

    teacher    a `Bert`, or a model that holds one as `.bert`; it stays in eval mode, runs without
               gradients and is not changed
    layer_map  which of its layers each student layer learns from
    parts      of PARTS, those whose losses are added
    weights    part → its factor, 1 where it is not named

    The hidden and attention losses are summed over the student's layers, not averaged, as in the
    paper (equation 6). `history` has the parts' losses of every step, before they are weighed.
    """

    def __init__(
        self,
        teacher: nn.Module,
        layer_map: LayerMap,
        parts: Sequence[str] = PARTS,
        weights: dict[str, float] | None = None,
    ) -> None:
        unknown = [name for name in (*parts, *(weights or ())) if name not in PARTS]
        if unknown:
            raise ValueError(f"there is no part {unknown[0]!r}; take some of {', '.join(PARTS)}.")
        if not parts:
            raise ValueError(f"no part is left to compare; take some of {', '.join(PARTS)}.")
        self.teacher, self.layer_map = bert_of(teacher).eval(), layer_map
        self.parts, self.weights = tuple(parts), {name: 1.0 for name in parts} | (weights or {})
        self.history: list[dict[str, Tensor]] = []

    def losses(self, model: Distilled, batch: Batch) -> dict[str, Tensor]:
        """part → its loss on a batch, not weighed"""
        self.check(model)
        student, teacher = model.bert, self.teacher.eval()
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        mask = batch.get("attention_mask")
        layers, depth = self.layer_map.layers, self.layer_map.student_layers
        with torch.no_grad():
            theirs = teacher(**inputs, need_weights=False).hidden_states
        ours = student(**inputs, need_weights=False).hidden_states
        found = {}
        if "embedding" in self.parts:
            projection = model.embedding_projection
            found["embedding"] = embedding_loss(ours[0], theirs[0], projection, mask)
        if "hidden" in self.parts:
            found["hidden"] = sum(
                hidden_loss(ours[m], theirs[n], model.hidden_projection, mask)
                for m, n in zip(range(1, depth + 1), layers)
            )
        if "attention" in self.parts:
            with torch.no_grad():
                their_scores = layer_scores(teacher, theirs, layers)
            found["attention"] = sum(
                attention_loss(mine, other, mask)
                for mine, other in zip(layer_scores(student, ours), their_scores)
            )
        return found

    def __call__(self, model: Distilled, batch: Batch) -> Tensor:
        """→ the weighed sum, detached; its gradients are added to student and projection"""
        found = self.losses(model, batch)
        loss = sum(self.weights[name] * part for name, part in found.items())
        loss.backward()
        self.history.append({name: part.detach() for name, part in found.items()})
        return loss.detach()

    def check(self, model: Distilled) -> None:
        """Raise ValueError, with what to do, where student, teacher and map do not fit."""
        student, teacher = model.bert.config, self.teacher.config
        self.layer_map.check(teacher.num_hidden_layers, student.num_hidden_layers)
        if student.vocab_size != teacher.vocab_size:
            raise ValueError(
                f"the student knows {student.vocab_size} pieces and the teacher "
                f"{teacher.vocab_size}: both must read the same ids; trim both by the same texts."
            )
        heads = student.num_attention_heads, teacher.num_attention_heads
        if "attention" in self.parts and heads[0] != heads[1]:
            raise ValueError(
                f"the student has {heads[0]} heads and the teacher {heads[1]}: the attention loss "
                "compares head with head; give the student as many, or leave that loss out."
            )


class PredictionStep:
    """A training step on the answers: `backward=` of `fine_tune`, (model, batch) → loss.

    teacher      the model that answers live, in eval mode and without gradients; not asked where
                 the examples carry its logits already, see `distillation.with_teacher`
    temperature  of `prediction_loss`
    hard_weight  share of the ordinary cross-entropy with the batch's labels, 0 in the paper:
                 loss = (1 − hard_weight) · prediction_loss + hard_weight · cross-entropy

    Logits of tokens (batch, tokens, labels) are compared at real tokens.
    """

    def __init__(
        self,
        teacher: nn.Module | None = None,
        temperature: float = 1.0,
        hard_weight: float = 0.0,
    ) -> None:
        if not 0 <= hard_weight <= 1:
            raise ValueError(f"hard_weight is {hard_weight}; it is a share, in [0, 1].")
        self.teacher, self.temperature, self.hard_weight = teacher, temperature, hard_weight

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """→ the loss, detached; its gradients are added to the model's parameters"""
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        logits = model(**inputs).logits  # (batch, labels) or (batch, tokens, labels)
        loss = logits.new_zeros(())
        if self.hard_weight < 1:
            if self.teacher is not None:
                self.teacher.eval()
            asked = {name: batch[name] for name in (*INPUTS, TEACHER) if name in batch}
            _, _, targets = teacher_answers(asked, self.teacher)
            real = batch["attention_mask"].bool() if logits.dim() == 3 else slice(None)
            soft = prediction_loss(logits[real], targets[real], self.temperature)
            loss = loss + (1 - self.hard_weight) * soft
        if self.hard_weight > 0:
            flat, labels = logits.flatten(0, -2), batch["labels"].flatten()
            hard = F.cross_entropy(flat, labels, ignore_index=IGNORE)
            loss = loss + self.hard_weight * hard
        loss.backward()
        return loss.detach()


if __name__ == "__main__":
    from course_utils.tinybert_runs import main

    main()
