"""Lesson 09, distillation and temperature: its exercises, their known mistakes, and its claims."""

import copy
import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from course_utils import distillation
from course_utils.bert import BertConfig
from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise, fill_
from course_utils.finetuning import BertForSequenceClassification, collate


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


def _draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=_seeded(seed), dtype=dtype)


def _refusals(calls):
    """For each call: the name of the error that it raises, or "no error"."""
    found = []
    for call in calls:
        try:
            call()
            found.append("no error")
        except Exception as error:
            found.append(type(error).__name__)
    return found


def _classifier(layers=4, seed=1, dropout=0.0):
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=10,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return fill_(BertForSequenceClassification(config, ["a", "b", "c"]), seed)


def _learned(loss, student, teacher):
    """A loss and what it sends to whom; both ask for a gradient, only the student should get one"""
    loss.backward()
    return {
        "loss": loss.detach(),
        "gradient of the student": student.grad,
        "gradient of the teacher": teacher.grad,
    }


# --- distillation/soften --------------------------------------------------------------------------


def soften_stub(logits, temperature=1.0):
    """logits (…, labels) → softmax(logits / temperature), the same shape: each row sums to 1

    ValueError for a temperature of 0 or below.
    """
    raise NotImplementedError("your turn")


def _so_case(temperature, *shape, dtype=torch.float32, times=2.0):
    return lambda implementation: implementation(times * _draw(0, *shape, dtype=dtype), temperature)


def _so_default(implementation):
    return implementation(torch.tensor([2.0, 1.0, 0.1]))


def _so_refusals(implementation):
    logits = torch.tensor([2.0, 1.0, 0.1])
    return _refusals([lambda: implementation(logits, 0.0), lambda: implementation(logits, -2.0)])


def _so_wrong(answer, checked=True):
    def soften(logits, temperature=1.0):
        if checked and temperature <= 0:
            raise ValueError("the temperature must be above 0")
        return answer(logits, temperature)

    return soften


def _so_exponentials(logits, temperature):
    raised = (logits / temperature).exp()
    return raised / raised.sum(-1, keepdim=True)


SOFTEN = Exercise(
    id="distillation/soften",
    lesson="09",
    title="A softer softmax",
    difficulty=1,
    minutes=5,
    reference=distillation.soften,
    stub=soften_stub,
    cases=[
        Case("three logits, T = 1 unless told otherwise", _so_default),
        Case("four texts, T = 4", _so_case(4.0, 4, 5)),
        Case("T below 1 sharpens", _so_case(0.25, 3, 4)),
        Case("three axes, float64", _so_case(2.5, 2, 3, 4, dtype=torch.float64)),
        Case("logits of a few hundred", _so_case(2.0, 2, 4, times=300.0)),
        Case("no temperature of 0 or below", _so_refusals),
    ],
    hints=[
        "One division and one softmax. Which of the two comes first, and over which axis do the "
        "labels stand?",
        "(logits / temperature).softmax(-1), behind a line that raises ValueError if temperature "
        "is not above 0.",
    ],
    mistakes=[
        Mistake(
            _so_wrong(lambda logits, t: logits.softmax(-1)),
            "The temperature has no effect: divide the logits by it.",
        ),
        Mistake(
            _so_wrong(lambda logits, t: (logits * t).softmax(-1)),
            "You multiplied by T: a higher temperature then sharpens. Divide.",
        ),
        Mistake(
            _so_wrong(lambda logits, t: logits.softmax(-1) / t),
            "You divided the probabilities: the rows do not sum to 1. Divide the logits, then take "
            "the softmax.",
        ),
        Mistake(
            _so_wrong(lambda logits, t: (logits.softmax(-1) / t).softmax(-1)),
            "That is a softmax of a softmax. Divide the logits, and take one softmax.",
        ),
        Mistake(
            _so_wrong(lambda logits, t: (logits / t).softmax(0)),
            "You took the softmax over the first axis. The labels stand on the last one: "
            "softmax(-1).",
        ),
        Mistake(
            _so_wrong(lambda logits, t: (logits / t).flatten().softmax(0).view(logits.shape)),
            "All texts share one softmax. Each row has a sum of its own.",
        ),
        Mistake(
            _so_wrong(lambda logits, t: (logits / t).log_softmax(-1)),
            "These are logarithms of probabilities. softmax, not log_softmax.",
        ),
        Mistake(
            _so_wrong(lambda logits, t: (-logits / t).softmax(-1)),
            "The order is turned: the largest logit got the smallest share. Leave out the minus.",
        ),
        Mistake(
            _so_wrong(_so_exponentials),
            "exp() of a few hundred is infinity, and infinity / infinity is NaN. softmax takes the "
            "largest logit off first.",
        ),
        Mistake(
            _so_wrong(lambda logits, t: (logits / t).softmax(-1), checked=False),
            "Right, but a temperature of 0 or below goes through: NaN, or the order turned. Raise "
            "ValueError.",
        ),
    ],
)

# --- distillation/loss ----------------------------------------------------------------------------


def distillation_loss_stub(
    student_logits, teacher_logits, labels, temperature=2.0, soft_weight=0.5
):
    """student_logits, teacher_logits (examples, labels), labels (examples,) → the loss, ()

    soft_weight * soft + (1 - soft_weight) * hard. soft is T² · KL(teacher ‖ student) of the two
    softmax(logits / T), the mean over the examples; a label to which the teacher gives 0 adds 0.
    hard is the mean cross-entropy of the student's logits with the labels, without T. The gradient
    reaches the student through both parts, and never the teacher. With soft_weight 1 labels may be
    None.
    """
    raise NotImplementedError("your turn")


def _dl_case(seed, shape, *arguments, dtype=torch.float32, labelled=True):
    def run(implementation):
        student = (2 * _draw(seed, *shape, dtype=dtype)).requires_grad_()
        teacher = (2 * _draw(seed + 1, *shape, dtype=dtype)).requires_grad_()
        labels = torch.randint(shape[1], shape[:1], generator=_seeded(seed + 2))
        loss = implementation(student, teacher, labels if labelled else None, *arguments)
        return _learned(loss, student, teacher)

    return run


def _dl_sure(implementation):
    """A teacher whose smaller probabilities are 0 in float32; it asks for no gradient: log 0 has
    none, and a leak shows in the other cases"""
    student = _draw(0, 2, 3).requires_grad_()
    teacher = torch.tensor([[0.0, -200.0, -1.0], [-200.0, -200.0, 0.0]])
    loss = implementation(student, teacher, torch.tensor([0, 2]), 1.0, 0.5)
    return _learned(loss, student, teacher)


def _divergence(log_q, log_p):
    """p · (log p − log q) of each label: (examples, labels)"""
    return log_p.exp() * (log_p - log_q)


def _batchmean(elements):
    return elements.sum(-1).mean()


def _dl(
    student_logits,
    teacher_logits,
    labels,
    temperature=2.0,
    soft_weight=0.5,
    *,
    of_student=lambda t: t,
    of_teacher=lambda t: t,
    of_labels=lambda t: 1.0,
    elements=_divergence,
    reduction=_batchmean,
    factor=lambda t: t**2,
    outer=lambda t: 1.0,
    detach=True,
    soft_learns=True,
    turned=False,
    added=False,
    labels_always=False,
    teachers_labels=False,
):
    """The reference in one piece, with a switch for each known mistake."""
    target = teacher_logits.detach() if detach else teacher_logits
    log_q = (student_logits / of_student(temperature)).log_softmax(-1)
    log_p = (target / of_teacher(temperature)).log_softmax(-1)
    soft = factor(temperature) * reduction(elements(log_q, log_p))
    soft = soft if soft_learns else soft.detach()
    if turned:
        soft_weight = 1 - soft_weight
    hard = 0.0
    if labels is not None or labels_always:
        targets = teacher_logits.argmax(-1) if teachers_labels else labels
        hard = F.cross_entropy(student_logits / of_labels(temperature), targets)
    weight = 1.0 if added else 1 - soft_weight
    return outer(temperature) * (soft_weight * soft + weight * hard)


def _dl_wrong(**switches):
    def distillation_loss(*args, **kwargs):
        return _dl(*args, **kwargs, **switches)

    return distillation_loss


LOSS = Exercise(
    id="distillation/loss",
    lesson="09",
    title="The distillation loss",
    difficulty=3,
    minutes=20,
    reference=distillation.distillation_loss,
    stub=distillation_loss_stub,
    cases=[
        Case("five texts, four labels, the defaults", _dl_case(0, (5, 4))),
        Case("T = 4, soft weight 0.3", _dl_case(3, (3, 7), 4.0, 0.3)),
        Case("T = 1, float64", _dl_case(6, (4, 3), 1.0, 0.9, dtype=torch.float64)),
        Case("the teacher alone, no labels", _dl_case(9, (4, 5), 3.0, 1.0, labelled=False)),
        Case("the labels alone", _dl_case(12, (4, 5), 5.0, 0.0)),
        Case("one text, 31 labels", _dl_case(15, (1, 31), 2.0, 0.5)),
        Case("a teacher that is quite sure", _dl_sure),
    ],
    hints=[
        "Two numbers, then their weighted sum. The hard one is F.cross_entropy(student_logits, "
        "labels). For the soft one you need the logarithm of the student's softened softmax, and "
        "the teacher's.",
        "F.kl_div(log q, p) is KL(p ‖ q): the student's log_softmax comes first, the teacher's "
        'probabilities second, from teacher_logits.detach(). reduction="batchmean" divides by the '
        "examples only.",
        "soft = T**2 * F.kl_div((student / T).log_softmax(-1), (teacher / T).softmax(-1), "
        'reduction="batchmean"). Ask for labels only where soft_weight is below 1.',
    ],
    mistakes=[
        Mistake(
            _dl_wrong(of_student=lambda t: 1.0),
            "The student's logits are not divided by T. Both sides are softened, or a student that "
            "copies its teacher exactly would be punished.",
        ),
        Mistake(
            _dl_wrong(of_teacher=lambda t: 1.0),
            "The teacher's logits are not divided by T: its small probabilities stay hidden.",
        ),
        Mistake(
            _dl_wrong(elements=lambda log_q, log_p: _divergence(log_p, log_q)),
            "That is KL(student ‖ teacher). F.kl_div(log q, p) is KL(p ‖ q): the student's "
            "logarithms come first, the teacher's probabilities second.",
        ),
        Mistake(
            _dl_wrong(reduction=lambda elements: elements.mean()),
            'The soft part is too small by the number of labels: reduction="mean" divides by them '
            'too. Take "batchmean".',
        ),
        Mistake(
            _dl_wrong(reduction=lambda elements: elements.sum()),
            "The soft part is a sum over the examples. Take their mean, or the batch size decides "
            "how much the teacher counts.",
        ),
        Mistake(
            _dl_wrong(factor=lambda t: 1.0),
            "T² is missing: at T = 4 the soft part is 16 times too small, and so is its gradient "
            "beside the labels'.",
        ),
        Mistake(
            _dl_wrong(factor=lambda t: t),
            "You multiplied by T. The gradient shrinks twice: by the division itself, and because "
            "the two softmaxes come closer. So T².",
        ),
        Mistake(
            _dl_wrong(outer=lambda t: t**2, factor=lambda t: 1.0),
            "T² stands before both parts. It belongs to the soft one; the hard one has no "
            "temperature.",
        ),
        Mistake(
            _dl_wrong(detach=False),
            "The number is right, but the teacher gets a gradient too: teacher_logits.detach().",
        ),
        Mistake(
            _dl_wrong(soft_learns=False),
            "The number is right, but the soft part sends the student no gradient. Detach the "
            "teacher's logits alone.",
        ),
        Mistake(
            _dl_wrong(turned=True),
            "The weights are exchanged. soft_weight weighs the soft part; elsewhere α may mean the "
            "labels' share.",
        ),
        Mistake(
            _dl_wrong(added=True),
            "The hard part is added in full. Its weight is 1 - soft_weight.",
        ),
        Mistake(
            _dl_wrong(of_labels=lambda t: t),
            "The hard part has T in it. Labels are compared with the student's own softmax, T = 1: "
            "that is what will be used.",
        ),
        Mistake(
            _dl_wrong(elements=lambda log_q, log_p: -log_p.exp() * log_q),
            "Its gradient is right, its value is not: this is the cross-entropy, the divergence "
            "plus the teacher's own entropy. A perfect student would not be at 0.",
        ),
        Mistake(
            _dl_wrong(
                elements=lambda log_q, log_p: F.kl_div(log_q.exp(), log_p.exp(), reduction="none")
            ),
            "kl_div got the student's probabilities. Its first argument is their logarithm: "
            "log_softmax.",
        ),
        Mistake(
            _dl_wrong(elements=lambda log_q, log_p: F.kl_div(log_q, log_p, reduction="none")),
            "kl_div got the logarithm of the teacher's probabilities without being told: NaN. Give "
            "probabilities, or log_target=True.",
        ),
        Mistake(
            _dl_wrong(elements=lambda log_q, log_p: log_p.exp() * (log_p.exp().log() - log_q)),
            "Where the teacher is quite sure, 0 · log 0 gives NaN. Use log_softmax for both, or "
            "let kl_div see to it.",
        ),
        Mistake(
            _dl_wrong(labels_always=True),
            "Without labels it fails although soft_weight is 1: then the hard part is not needed.",
        ),
        Mistake(
            _dl_wrong(teachers_labels=True),
            "The hard part asks the teacher's first choice. It is what the labels are there for: "
            "they know better where the teacher errs.",
        ),
    ],
)

# --- distillation/centred-limit -------------------------------------------------------------------


def centred_logit_loss_stub(student_logits, teacher_logits):
    """(examples, labels) both → (): what T² · KL(teacher ‖ student) becomes as T → ∞

    Take each row's own mean off that row, for student and teacher; then half the squared
    difference, the mean over all examples and labels. No gradient goes into the teacher.
    """
    raise NotImplementedError("your turn")


def _ce_case(seed, *shape, dtype=torch.float32):
    def run(implementation):
        student = _draw(seed, *shape, dtype=dtype).requires_grad_()
        teacher = (2 * _draw(seed + 1, *shape, dtype=dtype) + 3).requires_grad_()
        return _learned(implementation(student, teacher), student, teacher)

    return run


def _ce_shifted(implementation):
    """The same logits but for a number added to each row: to softmax the same"""
    teacher = _draw(4, 3, 5)
    return implementation(teacher + torch.tensor([[1.0], [-2.0], [5.0]]), teacher)


def _centred(logits):
    return logits - logits.mean(-1, keepdim=True)


def _ce_wrong(
    of_student=_centred,
    of_teacher=_centred,
    end=lambda difference: 0.5 * difference.pow(2).mean(),
    detach=True,
):
    def centred_logit_loss(student_logits, teacher_logits):
        teacher_logits = teacher_logits.detach() if detach else teacher_logits
        return end(of_student(student_logits) - of_teacher(teacher_logits))

    return centred_logit_loss


def _as_it_is(logits):
    return logits


def _standardised(logits):
    return _centred(logits) / logits.std(-1, unbiased=False, keepdim=True)


def _over_the_batch(logits):
    return logits - logits.mean(0)


def _over_everything(logits):
    return logits - logits.mean()


CENTRED_LIMIT = Exercise(
    id="distillation/centred-limit",
    lesson="09",
    title="Infinitely hot",
    difficulty=2,
    minutes=10,
    reference=distillation.centred_logit_loss,
    stub=centred_logit_loss_stub,
    cases=[
        Case("four texts, three labels", _ce_case(0, 4, 3)),
        Case("as many texts as labels, float64", _ce_case(2, 5, 5, dtype=torch.float64)),
        Case("one text, 31 labels", _ce_case(6, 1, 31)),
        Case("logits that softmax can not tell apart", _ce_shifted),
    ],
    hints=[
        "A mean for each text, over its labels. keepdim=True keeps the axis, so that it can be "
        "taken off the row.",
        "student = student_logits - student_logits.mean(-1, keepdim=True), the same for "
        "teacher_logits.detach(); then 0.5 * F.mse_loss(student, teacher).",
    ],
    mistakes=[
        Mistake(
            _ce_wrong(_as_it_is, _as_it_is),
            "The logits are not centred: a number added to a whole row changes your loss, and "
            "changes no softmax.",
        ),
        Mistake(
            _ce_wrong(of_teacher=_as_it_is),
            "Only the student's rows are centred. Take the mean off the teacher's too.",
        ),
        Mistake(
            _ce_wrong(of_student=_as_it_is),
            "Only the teacher's rows are centred. Take the mean off the student's too.",
        ),
        Mistake(
            _ce_wrong(_over_the_batch, _over_the_batch),
            "You centred each label over the texts. The mean is that of a text, over its labels: "
            "axis -1.",
        ),
        Mistake(
            _ce_wrong(_over_everything, _over_everything),
            "You took one mean off all texts. Each row has its own: mean(-1, keepdim=True).",
        ),
        Mistake(
            _ce_wrong(_standardised, _standardised),
            "You divided by the spread too. Only the mean is taken off: how far the logits reach "
            "is part of what the student copies.",
        ),
        Mistake(
            _ce_wrong(end=lambda difference: difference.pow(2).mean()),
            "The ½ is missing: between two distributions that are nearly equal, KL is half the "
            "weighted square of their logits' difference.",
        ),
        Mistake(
            _ce_wrong(end=lambda difference: 0.5 * difference.pow(2).sum()),
            "You added up over texts and labels. The limit is a mean over both: each softmax at "
            "T → ∞ is 1 / labels, and the loss a mean over the texts.",
        ),
        Mistake(
            _ce_wrong(end=lambda difference: 0.5 * difference.pow(2).sum(-1).mean()),
            "The sum over the labels should be a mean: at T → ∞ every probability is 1 / labels.",
        ),
        Mistake(
            _ce_wrong(end=lambda difference: 0.5 * difference.abs().mean()),
            "That is the absolute difference. Square it.",
        ),
        Mistake(
            _ce_wrong(detach=False),
            "The number is right, but the teacher gets a gradient too: teacher_logits.detach().",
        ),
    ],
)

# --- distillation/keep-layers ---------------------------------------------------------------------


def keep_layers_stub(model, layers):
    """model, layers (whole numbers, counted from 1) → a student: a copy with these layers only

    model.bert.encoder.layers is an nn.ModuleList. Everything else, with embeddings, pooler and
    head, is copied as it is. student.config and student.bert.config are a BertConfig (a frozen
    dataclass) that gives the new num_hidden_layers. The model stays as it is and shares no tensor
    with its student. The student is in eval mode, and all of it asks for gradients, even if the
    model was frozen. ValueError for no layer, one that is not there, and numbers that do not rise.
    """
    raise NotImplementedError("your turn")


_PARTS = {
    "embeddings": lambda model: model.bert.embeddings,
    "pooler": lambda model: model.bert.pooler,
    "head": lambda model: model.classifier,
}


def _equal(one, other):
    """Do two modules hold the same numbers?"""
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def _ke_case(*layers, frozen=False, training=False):
    def run(implementation):
        model = _classifier(4).requires_grad_(not frozen).train(training)
        before = copy.deepcopy(model)
        student = implementation(model, layers)
        theirs = {p.data_ptr() for p in before.parameters()}
        theirs |= {p.data_ptr() for p in model.parameters()}
        logits = student(torch.tensor([[2, 5, 9, 3], [2, 7, 8, 3]])).logits
        return {
            "layers of the model": len(model.bert.encoder.layers),
            "the student's layers, by the model's numbers": [
                next((n for n, m in enumerate(before.bert.encoder.layers, 1) if _equal(m, one)), 0)
                for one in student.bert.encoder.layers
            ],
            **{f"{k} copied": _equal(f(student), f(before)) for k, f in _PARTS.items()},
            "layers by student.config": student.config.num_hidden_layers,
            "layers by student.bert.config": student.bert.config.num_hidden_layers,
            "layers by model.config": model.config.num_hidden_layers,
            "tensors shared": any(p.data_ptr() in theirs for p in student.parameters()),
            "all of it asks for gradients": all(p.requires_grad for p in student.parameters()),
            "training mode": student.training or student.bert.encoder.training,
            "shape of the logits": list(logits.shape),
        }

    return run


def _ke_refusals(implementation):
    wrong = ([], [0, 1], [5], [2, 1], [2, 2])
    return _refusals([lambda w=w: implementation(_classifier(4), w) for w in wrong])


def _ke(
    model,
    layers,
    *,
    checked=lambda layers, there: (
        0 < len(layers) and list(layers) == sorted(set(layers)) and 1 <= layers[0]
        and layers[-1] <= there
    ),
    copied=copy.deepcopy,
    chosen=lambda every, layers: [every[i - 1] for i in layers],
    shared=False,
    forgotten=(),
    configs=("head", "encoder"),
    asks=True,
    evaluates=True,
):  # fmt: skip
    """The reference in one piece, with a switch for each known mistake."""
    every = model.bert.encoder.layers
    if not checked(list(layers), len(every)):
        raise ValueError("these layers can not be kept")
    student = copied(model)
    kept = chosen(every if shared else student.bert.encoder.layers, layers)
    student.bert.encoder.layers = nn.ModuleList(kept)
    config = dataclasses.replace(model.config, num_hidden_layers=len(kept))
    if "head" in configs:
        student.config = config
    if "encoder" in configs:
        student.bert.config = config
    parts = _PARTS | {"layers": lambda model: model.bert.encoder.layers}
    for name in forgotten:
        fill_(parts[name](student), 7)
    if asks:
        student.requires_grad_(True)
    return student.eval() if evaluates else student


def _ke_wrong(**switches):
    def keep_layers(model, layers):
        return _ke(model, layers, **switches)

    return keep_layers


KEEP_LAYERS = Exercise(
    id="distillation/keep-layers",
    lesson="09",
    title="A student out of its teacher's layers",
    difficulty=3,
    minutes=15,
    reference=distillation.keep_layers,
    stub=keep_layers_stub,
    cases=[
        Case("layers 2 and 4 of 4", _ke_case(2, 4)),
        Case("layers 1 and 3", _ke_case(1, 3)),
        Case("the lowest three", _ke_case(1, 2, 3)),
        Case("one layer", _ke_case(3)),
        Case("all of them", _ke_case(1, 2, 3, 4)),
        Case("from a frozen model", _ke_case(2, 3, frozen=True)),
        Case("from a model in training mode", _ke_case(2, 3, training=True)),
        Case("what can not be kept is refused", _ke_refusals),
    ],
    hints=[
        "copy.deepcopy(model) copies all there is, with its numbers. Then give the copy a new "
        "nn.ModuleList with some of its own layers.",
        "Layer number i of the contract is layers[i - 1] of the list. The configuration is frozen: "
        "dataclasses.replace(config, num_hidden_layers=…) makes a new one, for student.config and "
        "for student.bert.config.",
        "student.requires_grad_(True).eval() is the last line; the first one looks whether the "
        "numbers rise and stand between 1 and len(model.bert.encoder.layers).",
    ],
    mistakes=[
        Mistake(
            _ke_wrong(copied=lambda model: model),
            "You took the layers out of the model itself: the teacher is cut too. Work on a "
            "copy.deepcopy.",
        ),
        Mistake(
            _ke_wrong(copied=copy.copy),
            "copy.copy copies the outermost object only; inside, student and model are the same, "
            "and both are cut. copy.deepcopy.",
        ),
        Mistake(
            _ke_wrong(shared=True),
            "The student's layers are the model's own: training the student would change its "
            "teacher. Choose from the copy's layers.",
        ),
        Mistake(
            _ke_wrong(chosen=lambda every, layers: [every[i] for i in layers]),
            "You counted from 0. Layer i stands at place i - 1 of the list.",
        ),
        Mistake(
            _ke_wrong(
                chosen=lambda every, layers: [one for i, one in enumerate(every) if i in layers]
            ),
            "enumerate counts from 0, layers from 1: all are one too high, and the top one is lost "
            "without a word.",
        ),
        Mistake(
            _ke_wrong(chosen=lambda every, layers: list(every)[: len(layers)]),
            "You kept the lowest layers, as many as were asked for. Which ones is what `layers` "
            "says.",
        ),
        Mistake(
            _ke_wrong(chosen=lambda every, layers: list(every)[-len(layers) :]),
            "You kept the top layers, as many as were asked for. Which ones is what `layers` says.",
        ),
        Mistake(
            _ke_wrong(
                chosen=lambda every, layers: (
                    [e for i, e in enumerate(every, 1) if i not in layers] or list(every)
                )
            ),
            "You removed these layers and kept the others.",
        ),  # fmt: skip
        Mistake(
            _ke_wrong(configs=()),
            "The configuration still says as many layers as the model has: a saved student could "
            "not be loaded again.",
        ),
        Mistake(
            _ke_wrong(configs=("head",)),
            "student.config is right, student.bert.config still has the model's number.",
        ),
        Mistake(
            _ke_wrong(configs=("encoder",)),
            "student.bert.config is right, student.config still has the model's number.",
        ),
        Mistake(
            _ke_wrong(forgotten=("layers", "embeddings", "pooler", "head")),
            "The student has the right shape and new numbers: nothing of the model was copied.",
        ),
        Mistake(
            _ke_wrong(forgotten=("head",)),
            "The student's head is a new one. The teacher's head is copied: it knows the labels.",
        ),
        Mistake(
            _ke_wrong(forgotten=("pooler", "head")),
            "Pooler and head are new. Both are copied with the embeddings.",
        ),
        Mistake(
            _ke_wrong(forgotten=("embeddings",)),
            "The embeddings are new. Without the teacher's, its layers read noise.",
        ),
        Mistake(
            _ke_wrong(asks=False),
            "From a frozen model comes a frozen student: it would not learn. "
            "student.requires_grad_(True).",
        ),
        Mistake(
            _ke_wrong(evaluates=False),
            "The student has its model's mode. eval(), whatever that was.",
        ),
        Mistake(
            _ke_wrong(checked=lambda layers, there: True),
            "Right, but layers that can not be kept go through, or fail with an error that does "
            "not say why. Raise ValueError.",
        ),
    ],
)

# --- distillation/with-teacher --------------------------------------------------------------------


def with_teacher_stub(teacher, features, batch_size=64):
    """features: a dictionary for each text (input_ids, token_type_ids, perhaps labels) → a list of
    new ones in the same order, each with its teacher's logits (labels,) as "teacher_logits"

    The teacher reads at most batch_size texts at a time, padding masked; in eval mode and without
    gradients, and is left in the mode it was in. The given dictionaries stay as they are.
    """
    raise NotImplementedError("your turn")


_ROWS = [
    {"input_ids": [2, *ids, 3], "token_type_ids": [0] * (len(ids) + 2), "labels": label}
    for ids, label in (
        ([5, 9, 7, 4, 6], 1), ([8], 0), ([4, 4, 11, 12], 2), ([9, 5], 1),
        ([13, 6, 6], 0), ([7, 15, 14, 13, 12, 11], 2), ([10, 10], 1), ([16], 0),
    )
]  # fmt: skip


class _Watched(nn.Module):
    """A teacher that notes the largest batch it was given"""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.model, self.largest = _classifier(1, dropout=dropout), 0
        self.eval()

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None):
        self.largest = max(self.largest, len(input_ids))
        return self.model(input_ids, attention_mask, token_type_ids, labels)


def _wt_case(count, *arguments, labelled=True):
    def run(implementation):
        rows = [dict(row) for row in _ROWS[:count]]
        if not labelled:
            rows = [{k: v for k, v in row.items() if k != "labels"} for row in rows]
        before, teacher = copy.deepcopy(rows), _Watched()
        found = list(implementation(teacher, rows, *arguments))
        logits = [one.get(distillation.TEACHER) for one in found]
        return {
            "what each example holds": [sorted(one) for one in found],
            "logits": [one.clone() if hasattr(one, "clone") else one for one in logits],
            "input_ids": [one.get("input_ids") for one in found],
            "asks for a gradient": [getattr(one, "requires_grad", False) for one in logits],
            "at most batch_size at a time": teacher.largest <= (arguments or [64])[0],
            "the given dictionaries are as they were": rows == before,
        }

    return run


def _wt_careless(implementation):
    """A teacher in training mode, with dropout: what it answers must be as in eval mode"""
    teacher = _Watched(dropout=0.5)
    right = [row[distillation.TEACHER] for row in distillation.with_teacher(teacher, _ROWS)]
    rows = [dict(row) for row in _ROWS]
    found = implementation(teacher.train(), rows, 4)
    pairs = zip([one[distillation.TEACHER] for one in found], right)
    return {
        "answers as in eval mode": all(torch.allclose(a, b, atol=1e-5) for a, b in pairs),
        "mode afterwards": "training" if teacher.training else "eval",
    }


def _wt(
    teacher,
    features,
    batch_size=64,
    *,
    sorts=False,
    puts_back=False,
    evaluates=True,
    restores=True,
    learns=False,
    answers=lambda logits: logits,
    drops=False,
    masks=True,
    whole=False,
    strict=False,
    in_place=False,
    bare=False,
    name=distillation.TEACHER,
):
    """The reference in one piece, with a switch for each known mistake."""
    was_training = teacher.training
    if evaluates:
        teacher.eval()
    numbers = list(range(len(features)))
    if sorts:
        numbers.sort(key=lambda i: len(features[i]["input_ids"]))
    size, found = len(features) if whole else batch_size, []
    for start in range(0, len(numbers), size):
        chosen = numbers[start : start + size]
        if drops and len(chosen) < size:
            break
        batch = collate([features[i] for i in chosen])
        if strict or "labels" in batch:
            batch.pop("labels")
        if not masks:
            batch.pop("attention_mask")
        with torch.set_grad_enabled(learns):
            found += list(answers(teacher(**batch).logits))
    if restores:
        teacher.train(was_training)
    if puts_back:
        features = [features[i] for i in numbers]
    if in_place:
        for example, row in zip(features, found):
            example[name] = row
        return features
    return [({} if bare else example) | {name: row} for example, row in zip(features, found)]


def _wt_wrong(**switches):
    def with_teacher(*args, **kwargs):
        return _wt(*args, **kwargs, **switches)

    return with_teacher


WITH_TEACHER = Exercise(
    id="distillation/with-teacher",
    lesson="09",
    title="Ask the teacher once",
    difficulty=2,
    minutes=15,
    reference=distillation.with_teacher,
    stub=with_teacher_stub,
    cases=[
        Case("eight texts, three at a time", _wt_case(8, 3)),
        Case("the usual batch size", _wt_case(5)),
        Case("texts without labels", _wt_case(8, 4, labelled=False)),
        Case("one text", _wt_case(1, 2)),
        Case("a teacher in training mode", _wt_careless),
    ],
    hints=[
        "finetuning.collate(features[start : start + batch_size]) makes a batch, padded and with "
        'its mask. Take the labels out, if there are any: batch.pop("labels", None).',
        "Remember teacher.training, call teacher.eval(), ask under torch.no_grad(), and give the "
        "mode back with teacher.train(was_training).",
        "finetuning.predict(teacher, features, batch_size) does all of that and answers in the "
        "order of the examples. What is left is a new dictionary for each: "
        'example | {"teacher_logits": row}.',
    ],
    mistakes=[
        Mistake(
            _wt_wrong(sorts=True),
            "The logits stand with other texts: you sorted by length and did not put the answers "
            "back. The loss would fall all the same, and the student learn nonsense.",
        ),
        Mistake(
            _wt_wrong(sorts=True, puts_back=True),
            "Each text has its own logits, but the texts came out in another order.",
        ),
        Mistake(
            _wt_wrong(evaluates=False),
            "The teacher answered in training mode: dropout made its answers random. eval() first.",
        ),
        Mistake(
            _wt_wrong(restores=False),
            "The teacher was in training mode and is not any more. Give it its mode back.",
        ),
        Mistake(
            _wt_wrong(learns=True),
            "The logits hold the teacher's graph: memory for every layer of every text. Ask under "
            "torch.no_grad().",
        ),
        Mistake(
            _wt_wrong(answers=lambda logits: logits.softmax(-1)),
            "These are probabilities. Keep logits: any temperature can be applied to them later.",
        ),
        Mistake(
            _wt_wrong(answers=lambda logits: logits.argmax(-1)),
            "That is the teacher's first choice alone: what a label hides is lost again. Keep all "
            "logits.",
        ),
        Mistake(
            _wt_wrong(answers=lambda logits: logits.unsqueeze(1)),
            "The logits have an axis too many. One text's are (labels,).",
        ),
        Mistake(
            _wt_wrong(drops=True),
            "The last batch is shorter, and its texts are missing.",
        ),
        Mistake(
            _wt_wrong(masks=False),
            "The teacher read the padding: its answer depends on the longest text of the batch. "
            "Give it the attention_mask.",
        ),
        Mistake(
            _wt_wrong(whole=True),
            "All texts went in at once. At most batch_size at a time: a training set does not fit "
            "into memory.",
        ),
        Mistake(
            _wt_wrong(strict=True),
            "It fails where texts have no labels, which is where a teacher is needed most: "
            'batch.pop("labels", None).',
        ),
        Mistake(
            _wt_wrong(in_place=True),
            "You wrote into the dictionaries that were given. Make new ones: example | {…}.",
        ),
        Mistake(
            _wt_wrong(bare=True),
            "Only the logits are left. Keep what the example had: example | {…}.",
        ),
        Mistake(
            _wt_wrong(name="logits"),
            'The logits stand under another name than "teacher_logits".',
        ),
    ],
)

# --- distillation/relations -----------------------------------------------------------------------


def relation_loss_stub(student_vectors, teacher_vectors):
    """student_vectors (examples, d_s), teacher_vectors (examples, d_t) → the loss, ()

    For each of the two the cosines of all pairs of different examples; then the mean squared
    difference of the student's from the teacher's, over these pairs. A vector of zeros has cosine
    0 with all. No gradient goes into the teacher. ValueError unless both have the same number of
    examples, at least two.
    """
    raise NotImplementedError("your turn")


def _re_case(seed, examples, d_s, d_t, dtype=torch.float32):
    def run(implementation):
        student = _draw(seed, examples, d_s, dtype=dtype).requires_grad_()
        teacher = (3 * _draw(seed + 1, examples, d_t, dtype=dtype) + 1).requires_grad_()
        return _learned(implementation(student, teacher), student, teacher)

    return run


def _re_turned(implementation):
    """A student that is its teacher, turned and three times as long: the relations are the same"""
    teacher = _draw(5, 4, 3)
    turn = torch.linalg.qr(_draw(6, 3, 3)).Q
    return implementation(3 * teacher @ turn, teacher)


def _re_zero(implementation):
    teacher = _draw(7, 4, 3)
    teacher[2] = 0
    return implementation(_draw(8, 4, 5), teacher)


def _re_refusals(implementation):
    return _refusals(
        [
            lambda: implementation(_draw(0, 3, 4), _draw(1, 2, 4)),
            lambda: implementation(_draw(0, 3, 4), _draw(1, 1, 4)),
            lambda: implementation(_draw(0, 1, 4), _draw(1, 1, 4)),
        ]
    )


def _dots(vectors):
    return vectors @ vectors.T


def _cosines(vectors):
    return _dots(F.normalize(vectors, dim=-1))


def _off_diagonal(matrix):
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def _re_wrong(
    relations=_cosines,
    pairs=_off_diagonal,
    end=lambda difference: difference.pow(2).mean(),
    detach=True,
    checked=True,
    of_teacher=None,
):
    def relation_loss(student_vectors, teacher_vectors):
        examples = len(student_vectors)
        if checked and (examples != len(teacher_vectors) or examples < 2):
            raise ValueError("the same examples of both, at least two")
        teacher = teacher_vectors.detach() if detach else teacher_vectors
        teacher = (of_teacher or relations)(teacher)
        return end(pairs(relations(student_vectors)) - pairs(teacher))

    return relation_loss


def _re_one_to_one(student_vectors, teacher_vectors):
    if len(student_vectors) != len(teacher_vectors) or len(student_vectors) < 2:
        raise ValueError("the same examples of both, at least two")
    return 1 - F.cosine_similarity(student_vectors, teacher_vectors.detach()).mean()


RELATIONS = Exercise(
    id="distillation/relations",
    lesson="09",
    title="Who is like whom",
    difficulty=3,
    minutes=15,
    reference=distillation.relation_loss,
    stub=relation_loss_stub,
    cases=[
        Case("four texts, widths 3 and 5", _re_case(0, 4, 3, 5)),
        Case("six texts, both of width 4, float64", _re_case(2, 6, 4, 4, torch.float64)),
        Case("two texts", _re_case(10, 2, 3, 4)),
        Case("turned and three times as long", _re_turned),
        Case("a vector of zeros", _re_zero),
        Case("not the same examples, or one alone", _re_refusals),
    ],
    hints=[
        "similarity.cosine_similarity(vectors, vectors) of lesson 00 is (examples, examples), for "
        "any width: so the two tables have one shape, where the vectors have not.",
        "~torch.eye(examples, dtype=torch.bool) picks the pairs of two different examples: "
        "table[pairs]. Then F.mse_loss of the two.",
    ],
    mistakes=[
        Mistake(
            _re_wrong(relations=_dots),
            "These are dot products: they grow with the length of the vectors. Divide each by its "
            "norm first.",
        ),
        Mistake(
            _re_wrong(relations=_cosines, of_teacher=_dots),
            "The teacher's are dot products, the student's cosines. Take cosines of both.",
        ),
        Mistake(
            _re_wrong(pairs=lambda matrix: matrix),
            "The diagonal is counted: every text with itself, 1 for both, makes the mean too "
            "small.",
        ),
        Mistake(
            _re_wrong(relations=lambda vectors: _dots(F.normalize(vectors, dim=0))),
            "You normalised the columns. Each text's vector is a row: dim=-1.",
        ),
        Mistake(
            _re_wrong(relations=lambda vectors: _dots(vectors / vectors.norm().clamp(min=1e-12))),
            "You divided by the norm of the whole matrix. Each row has its own: "
            "norm(dim=-1, keepdim=True).",
        ),
        Mistake(
            _re_wrong(
                relations=lambda vectors: (
                    (vectors[:, None] - vectors[None, :]).pow(2).sum(-1).clamp(min=1e-24).sqrt()
                )
            ),
            "These are distances; that is another relation, and it needs a common scale. Here: "
            "cosines.",
        ),
        Mistake(
            _re_one_to_one,
            "You compared each student vector with its teacher's. That needs equal widths; "
            "relations compare texts with texts, on each side alone.",
        ),
        Mistake(
            _re_wrong(end=lambda difference: difference.pow(2).sum()),
            "You added up over the pairs. Take the mean: the number of pairs grows with the square "
            "of the batch.",
        ),
        Mistake(
            _re_wrong(end=lambda difference: difference.abs().mean()),
            "That is the absolute difference. Square it.",
        ),
        Mistake(
            _re_wrong(detach=False),
            "The number is right, but the teacher gets a gradient too: teacher_vectors.detach().",
        ),
        Mistake(
            _re_wrong(relations=lambda v: _dots(v / v.norm(dim=-1, keepdim=True))),
            "A vector of zeros gives 0 / 0, NaN. Keep the norm away from 0, or use lesson 00's "
            "cosine_similarity.",
        ),
        Mistake(
            _re_wrong(checked=False),
            "Right, but other numbers of examples go through, or fail with an error about shapes. "
            "Raise ValueError.",
        ),
    ],
)

# --- distillation/hot -----------------------------------------------------------------------------

HOT = OpenExercise(
    id="distillation/hot",
    lesson="09",
    title="T = 100",
    difficulty=4,
    minutes=40,
    task="Write down, before you run anything, what T = 100 does: to the teacher's probabilities "
    "and their entropy, to the soft loss, to its gradient with T² and without, and to a student's "
    "accuracy beside T = 4, once with the soft loss alone and once with soft weight 0.5. Then "
    "measure each, and explain where you were wrong.",
    hints=[
        "Nearly even probabilities are not an empty target. What is left of a logit of 6 when it "
        "is divided by 100 and exponentiated? And what does T² do to what is left?",
        "Hold it against centred_logit_loss. Which labels count in it that hardly count at T = 1?",
        "For the student: the same seeds and the same texts for both temperatures, and "
        "paired_bootstrap for the difference. DistillationStep(100.0, 1.0) is the only change.",
    ],
    rubric=[
        "The predictions were written down first, each with a reason, and the wrong ones are "
        "still there.",
        "Entropy is held against log(labels), and somebody looked at the digits behind it: nearly "
        "even, not even.",
        "Loss and gradient are held against centred_logit_loss; without T² they are 10,000 times "
        "smaller.",
        "The accuracies come from equal budgets and equal seeds, several of them, and the "
        "difference has an interval. If it holds 0, the answer says so.",
        "The case with soft weight 0.5 is told apart from the soft loss alone: what the labels' "
        "gradient does beside it, with T² and without.",
        "The answer names what T = 100 cares about that T = 1 does not, and does not call it "
        "empty.",
    ],
    answer="""**Predictions.** (1) All probabilities near 1 / labels, the entropy near log(labels).
(2) So there is nothing left to learn? No: e^(z/T) ≈ 1 + z/T. The differences are a hundred times
smaller, but they are there, in the same proportions. (3) T² · KL comes close to half the mean
squared difference of the centred logits, and its gradient to that of this loss. (4) The student
still learns: it becomes a regression on logits.

**Measured on made-up logits**, 31 labels, one clear favourite and one look-alike:

```python
generator = torch.Generator().manual_seed(0)
theirs = torch.randn(64, 31, generator=generator)
theirs[:, 0], theirs[:, 1] = theirs[:, 0] + 7, theirs[:, 1] + 4
ours = (torch.randn(64, 31, generator=generator) / 2).requires_grad_()
for T in (1, 4, 20, 100):
    loss = soft_loss(ours, theirs, T)
    (gradient,) = torch.autograd.grad(loss, ours)
    print(T, entropy(soften(theirs, T)).mean(), loss, gradient.norm(), gradient.norm() / T**2)
print(math.log(31), centred_logit_loss(ours, theirs))
```

| T | entropy (log 31 = 3.434) | loss | gradient | without T² |
| --- | --- | --- | --- | --- |
| 1 | 0.535 | 2.96 | 0.110 | 0.110 |
| 4 | 3.246 | 3.10 | 0.073 | 0.0046 |
| 20 | 3.430 | 1.81 | 0.044 | 0.00011 |
| 100 | 3.434 | 1.64 | 0.041 | 0.0000041 |
| ∞, centred logits | 3.434 | 1.60 | 0.040 | 0 |

**What it means.** At T = 1 the loss asks: is the favourite right? At T = 100 every label counts
alike: whether the 29 unlikely ones have logits of −2 or −3 weighs as much as the favourite.
So one expects a student of three layers to spend its capacity on what no answer depends on. Train
it, three seeds; a setting is one line:

```python
from course_utils import distillation_runs as runs

teaching = {seed: runs.Teaching("intents", seed) for seed in range(3)}
rows = [runs.run(teaching[seed], f"T = {T:.0f}, soft weight {weight:g}",
                 runs.Setting("3 layers", weight, T), seed)
        for seed in range(3) for T in (4.0, 100.0) for weight in (0.5, 1.0)]
for weight in ("0.5", "1"):
    print(runs.gain(rows, f"T = 4, soft weight {weight}", f"T = 100, soft weight {weight}"))
```

That takes half an hour on one core. Stored, the same rows (the soft loss alone at T = 4 is a row of
section 3's table; the rest by `python -m course_utils.distillation_runs hot --seeds 0 1 2`):

| right in scope, mean of three seeds | T = 4 | T = 100 | gain, 95 % interval |
| --- | --- | --- | --- |
| soft loss alone | 92.0 % | 91.9 % | −0.1 (−1.2 to +1.0) |
| soft weight 0.5 | 91.7 % | 92.0 % | +0.3 (−0.6 to +1.1) |

No difference that three seeds and 900 texts can show, and less than 1.3 points in either direction.
Who predicted a loss was wrong here, for a student cut from its teacher, whose logits it can copy
almost whole. A smaller student is the place to look next.

**Why soft weight 0.5 needs T².** With it the soft gradient is about as large at T = 100 as at
T = 20 and stands beside the labels'. Without it it is 10,000 times smaller: what you train is a
student without a teacher, and nothing fails. With the soft loss alone the missing T² can hide:
AdamW divides each gradient by its own size.

**And hotter?** Beyond T = 1,000, float32 runs out: KL adds up differences of logarithms that
agree in all digits but the last, and T² multiplies what is left of them. At T = 10,000 the loss
above came out as 0.06 instead of 1.60, at T = 100,000 *negative*, while the gradient's size was
still right. Where T is that high, write the limit down as what it is: `centred_logit_loss`.""",
)

EXERCISES = [
    SOFTEN,
    LOSS,
    CENTRED_LIMIT,
    KEEP_LAYERS,
    WITH_TEACHER,
    RELATIONS,
    HOT,
]

# --- Claims ---------------------------------------------------------------------------------------

PRINTED = {  # of softmax([2, 1, 0.1]), and the decimals they are printed with
    "T = 1": ((0.7, 0.2, 0.1), 1),
    "T = 5": ((0.4, 0.35, 0.25), 2),
}


def _judge_published(at_one, at_five):
    """the two distributions as lists of three probabilities"""

    def text(numbers, decimals):
        return ", ".join(f"{p:.{decimals}f}" for p in numbers)

    right, notes = [], []
    for measured, (name, (printed, decimals)) in zip((at_one, at_five), PRINTED.items()):
        right.append(text(measured, decimals) == text(printed, decimals))
        note = f"at {name} it is {text(measured, 3)}, in {decimals} decimal{'s'[: decimals - 1]} "
        notes.append(note + ("what is printed" if right[-1] else text(measured, decimals)))
    return Verdict(all(right), "; ".join(notes) + ".")


def _judge_direction(value, forward, reverse):
    """what kl_div gave, KL(teacher ‖ student) and KL(student ‖ teacher), both by hand"""

    def near(a, b):
        return abs(a - b) <= 1e-4 * max(abs(a), abs(b), 1e-6)

    if near(forward, reverse):
        return Verdict(
            False, "these two distributions are equally far in both directions: they show nothing."
        )
    if near(value, reverse):
        return Verdict(True, "the value is that of KL(student ‖ teacher), computed by hand.")
    if near(value, forward):
        return Verdict(
            False,
            "the value is that of KL(teacher ‖ student), computed by hand. kl_div takes the "
            "fitted side first, as logarithms, and the target second; a divergence is written "
            "the other way round.",
        )
    return Verdict(False, "the value is that of neither direction; look at the reduction.")


def _times(ratio):
    """A ratio in words that do not change with the machine's rounding"""
    steps = ((2, "less than twice"), (5, "less than five times"), (10, "less than ten times"),
             (100, "more than ten times"))  # fmt: skip
    for limit, words in steps:
        if ratio < limit:
            return words
    return "more than a hundred times"


def _judge_t_squared(with_at_1, with_at_20, without_at_1, without_at_20):
    """norms of the soft loss's gradient at T = 1 and at T = 20, with T² and without"""
    falls = without_at_1 / without_at_20
    steady = max(with_at_1 / with_at_20, with_at_20 / with_at_1)
    if falls < 2:
        return Verdict(True, "without T² the gradient is as large at T = 20 as at T = 1.")
    return Verdict(
        False,
        "that is so at one temperature. But without T² the soft gradient is "
        f"{_times(falls)} smaller at T = 20 than at T = 1, so each new T would need a new weight "
        f"beside the labels; with T² the two differ by {_times(steady)}.",
    )


def _judge_batchmean(ratio, labels):
    """reduction="batchmean" divided by reduction="mean", and the number of labels"""
    if abs(ratio - 1) < 0.01:
        return Verdict(True, "both reductions give the same number.")
    if abs(ratio - labels) < 0.01 * labels:
        return Verdict(
            False,
            f"batchmean is {labels} times as large, once for each label: mean divides by examples "
            "times labels. As a soft loss it is too small by the number of labels.",
        )
    return Verdict(
        False, "the two differ, though not by the number of labels: were both given the same?"
    )


def _told(low, high):
    """What an interval of a difference says"""
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def _judge_always(students):
    """name → (difference, low, high): accuracy with a teacher minus without, and its interval"""
    found = {name: _told(low, high) for name, (_, low, high) in students.items()}
    sentence = "; ".join(f"{name}: {told}" for name, told in found.items())
    if set(found.values()) == {"better"}:
        return Verdict(
            True,
            f"with a teacher against the labels alone, {sentence}. That is every student tried "
            "here, which is less than always.",
        )
    if "better" in found.values():
        return Verdict(False, f"with a teacher against the labels alone, {sentence}. Not always.")
    return Verdict(
        False, f"with a teacher against the labels alone, {sentence}. It is to be shown each time."
    )


CLAIMS = [
    Claim(
        id="distillation/published-softmax",
        statement="softmax([2, 1, 0.1]) is [0.7, 0.2, 0.1] at T = 1 and [0.4, 0.35, 0.25] at "
        "T = 5.",
        source="printed in tutorials",
        judge=_judge_published,
        holds=dict(at_one=[0.7, 0.2, 0.1], at_five=[0.4, 0.35, 0.25]),
        fails=dict(at_one=[0.659, 0.242, 0.099], at_five=[0.400, 0.327, 0.273]),
    ),
    Claim(
        id="distillation/kl-direction",
        statement="F.kl_div(log q_student, p_teacher) is KL(student ‖ teacher).",
        source="comments in code",
        judge=_judge_direction,
        holds=dict(value=0.35, forward=0.41, reverse=0.35),
        fails=dict(value=0.41, forward=0.41, reverse=0.35),
    ),
    Claim(
        id="distillation/batchmean",
        statement='reduction="mean" is the mean over the examples.',
        source="what the name says",
        judge=_judge_batchmean,
        holds=dict(ratio=1.0, labels=31),
        fails=dict(ratio=31.0, labels=31),
    ),
    Claim(
        id="distillation/t-squared",
        statement="T² only rescales the loss.",
        source="goes round",
        judge=_judge_t_squared,
        holds=dict(with_at_1=0.1, with_at_20=40.0, without_at_1=0.1, without_at_20=0.1),
        fails=dict(with_at_1=0.1, with_at_20=0.04, without_at_1=0.1, without_at_20=0.0001),
    ),
    Claim(
        id="distillation/always-helps",
        statement="Distillation always beats the labels alone.",
        source="goes round",
        judge=_judge_always,
        holds=dict(students={"its own layers": (0.02, 0.01, 0.03), "small": (0.03, 0.01, 0.05)}),
        fails=dict(students={"its own layers": (0.002, -0.01, 0.01), "small": (0.03, 0.01, 0.05)}),
    ),
]
