"""Distillation: the losses against closed forms, who gets a gradient, and the students."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils.bert import BertConfig
from course_utils.distillation import (
    TEACHER,
    Copier,
    CopyStep,
    DistillationStep,
    attention_map_loss,
    centred_logit_loss,
    collate_soft,
    distillation_loss,
    entropy,
    hidden_loss,
    keep_layers,
    relation_loss,
    soft_loss,
    soften,
    with_teacher,
)
from course_utils.finetuning import (
    BertForSequenceClassification,
    FineTuning,
    collate,
    fine_tune,
    predict,
    set_dropout,
)

SETTINGS = settings(max_examples=25, deadline=None)
LABELS = ["a", "b", "c"]
CONFIG = BertConfig(
    vocab_size=20, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24,
    max_position_embeddings=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    initializer_range=0.3,
)  # fmt: skip


def make_model(seed=0):
    torch.manual_seed(seed)
    return BertForSequenceClassification(CONFIG, LABELS).eval()


@pytest.fixture
def teacher():
    return make_model(1)


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(22):
        ids = torch.randint(4, 20, (2 + i % 5,), generator=generator).tolist()
        ids = [2, *ids, 3]
        rows.append({"input_ids": ids, "token_type_ids": [0] * len(ids), "labels": i % 3})
    return rows


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- Softened distributions -----------------------------------------------------------------------


def test_softening_the_published_example_gives_the_right_numbers():
    logits = torch.tensor([2.0, 1.0, 0.1])
    assert soften(logits).tolist() == pytest.approx([0.659, 0.242, 0.099], abs=5e-4)
    assert soften(logits, 5.0).tolist() == pytest.approx([0.400, 0.327, 0.273], abs=5e-4)


@SETTINGS
@given(st.integers(0, 1000), st.floats(0.3, 20), st.floats(1.05, 3))
def test_a_higher_temperature_always_has_more_entropy_and_the_same_order(seed, low, times):
    logits = draw(seed, 4, 6)
    cold, warm = soften(logits, low), soften(logits, low * times)
    assert (entropy(warm) >= entropy(cold) - 1e-12).all()
    assert torch.equal(cold.argsort(-1), warm.argsort(-1))
    assert torch.allclose(warm.sum(-1), torch.ones(4, dtype=torch.float64))


def test_entropy_runs_from_0_to_the_logarithm_of_the_labels():
    assert entropy(torch.tensor([0.0, 1.0, 0.0])) == 0
    assert entropy(torch.full((5,), 0.2)).item() == pytest.approx(math.log(5))


# --- The loss -------------------------------------------------------------------------------------


@SETTINGS
@given(st.integers(0, 1000), st.floats(0.5, 15))
def test_the_soft_loss_is_the_divergence_of_student_from_teacher_times_t_squared(seed, temperature):
    student, teacher = draw(seed, 5, 4), draw(seed + 1, 5, 4)
    p, q = soften(teacher, temperature), soften(student, temperature)
    by_hand = temperature**2 * (p * (p.log() - q.log())).sum(-1).mean()
    assert soft_loss(student, teacher, temperature).item() == pytest.approx(by_hand.item())
    turned = temperature**2 * (q * (q.log() - p.log())).sum(-1).mean()
    assert by_hand.item() != pytest.approx(turned.item(), rel=1e-6)


def test_soft_targets_by_cross_entropy_give_the_same_gradient():
    student, teacher = draw(0, 5, 4).requires_grad_(), draw(1, 5, 4)
    (by_divergence,) = torch.autograd.grad(soft_loss(student, teacher, 3.0), student)
    targets = soften(teacher, 3.0)
    loss = 9.0 * F.cross_entropy(student / 3.0, targets)
    (by_cross_entropy,) = torch.autograd.grad(loss, student)
    assert torch.allclose(by_divergence, by_cross_entropy)
    assert loss.item() - soft_loss(student, teacher, 3.0).item() == pytest.approx(
        9.0 * entropy(targets).mean().item()
    )


def gradient_norm(temperature, factor):
    student, teacher = draw(0, 8, 31).requires_grad_(), draw(1, 8, 31)
    loss = soft_loss(student, teacher, temperature) * factor
    return torch.autograd.grad(loss, student)[0].norm().item()


def test_the_square_of_t_keeps_the_gradients_size():
    norms = [gradient_norm(t, 1.0) for t in (2, 5, 10, 20)]
    assert max(norms) < 2 * min(norms)
    without = [gradient_norm(t, 1 / t**2) for t in (5, 10, 20)]
    assert without[0] / without[1] == pytest.approx(4, rel=0.15)  # 1 / T²
    assert without[1] / without[2] == pytest.approx(4, rel=0.1)


@SETTINGS
@given(st.integers(0, 1000))
def test_at_a_high_temperature_the_loss_is_that_of_centred_logits(seed):
    student, teacher = draw(seed, 5, 7).requires_grad_(), draw(seed + 1, 5, 7) + 3.0
    hot, limit = soft_loss(student, teacher, 1e4), centred_logit_loss(student, teacher)
    assert hot.item() == pytest.approx(limit.item(), rel=1e-3)
    (a,), (b,) = torch.autograd.grad(hot, student), torch.autograd.grad(limit, student)
    assert torch.allclose(a, b, rtol=0, atol=2e-5)


def test_the_weight_goes_to_the_soft_part():
    student, teacher, labels = draw(0, 5, 4), draw(1, 5, 4), torch.tensor([0, 1, 2, 3, 0])
    soft, hard = soft_loss(student, teacher, 2.0), F.cross_entropy(student, labels)
    for weight in (0.0, 0.3, 1.0):
        loss = distillation_loss(student, teacher, labels, 2.0, weight)
        assert loss.item() == pytest.approx((weight * soft + (1 - weight) * hard).item())
    assert distillation_loss(student, teacher, None, 2.0, 1.0).item() == pytest.approx(soft.item())
    assert distillation_loss(student, teacher, labels).item() == pytest.approx(
        (0.5 * soft + 0.5 * hard).item()
    )


@pytest.mark.parametrize("loss", [soft_loss, centred_logit_loss, relation_loss])
def test_no_loss_sends_a_gradient_into_the_teacher(loss):
    student, teacher = draw(0, 5, 4).requires_grad_(), draw(1, 5, 4).requires_grad_()
    loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: soften(torch.ones(3), 0), "temperature is 0"),
        (lambda: soft_loss(torch.ones(2, 3), torch.ones(2, 3), -1), "temperature is -1"),
        (lambda: soft_loss(torch.ones(2, 3), torch.ones(2, 3), float("nan")), "is nan"),
        (lambda: soft_loss(torch.ones(2, 3), torch.ones(2, 4)), "the same labels"),
        (lambda: distillation_loss(torch.ones(2, 3), torch.ones(2, 3), None), "no labels"),
        (
            lambda: distillation_loss(torch.ones(2, 3), torch.ones(2, 3), None, 2.0, 1.5),
            "soft_weight is 1.5",
        ),
        (lambda: relation_loss(torch.ones(2, 3), torch.ones(3, 3)), "the same examples"),
        (lambda: relation_loss(torch.ones(1, 3), torch.ones(1, 3)), "at least two"),
        (lambda: relation_loss(torch.ones(3), torch.ones(3)), "examples, width"),
        (lambda: DistillationStep(temperature=0), "temperature is 0"),
        (lambda: DistillationStep(soft_weight=2), "soft_weight is 2"),
    ],
)
def test_what_can_not_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- Relations ------------------------------------------------------------------------------------


def test_relations_do_not_depend_on_width_length_or_rotation():
    teacher = draw(0, 6, 4)
    rotation = torch.linalg.qr(draw(1, 4, 4)).Q
    assert relation_loss(3.0 * teacher @ rotation, teacher).item() == pytest.approx(0, abs=1e-12)
    assert relation_loss(F.pad(teacher, (0, 3)), teacher).item() == pytest.approx(0, abs=1e-12)
    assert relation_loss(draw(2, 6, 5), teacher) > 0.01


def test_relations_leave_the_diagonal_out():
    student, teacher = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # cosines 0 and 1
    assert relation_loss(student, teacher).item() == pytest.approx(1.0)  # not 0.5


# --- Hidden states and attention maps -------------------------------------------------------------


def test_hidden_states_are_compared_at_real_tokens_only():
    teacher = draw(0, 2, 3, 4)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    student = teacher.clone()
    student[1, 1:] += 100  # padding
    assert hidden_loss(student, teacher, None, mask).item() == 0
    student[1, 0] += 2.0  # one of four real tokens is off by 2 in each of its features
    assert hidden_loss(student, teacher, None, mask).item() == pytest.approx(4 / 4)


def test_a_projection_brings_the_student_to_the_teachers_width():
    student, teacher, mask = draw(0, 2, 3, 4), draw(1, 2, 3, 6), torch.ones(2, 3, dtype=torch.long)
    projection = nn.Linear(4, 6, bias=False, dtype=torch.float64)
    loss = hidden_loss(student, teacher, projection, mask)
    by_hand = ((student @ projection.weight.T - teacher) ** 2).mean()
    assert loss.item() == pytest.approx(by_hand.item())
    loss.backward()
    assert projection.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="same texts, same width"):
        hidden_loss(student, teacher, None, mask)
    with pytest.raises(ValueError, match="must be .batch, tokens."):
        hidden_loss(student, teacher, projection, mask[:1])


def test_attention_maps_are_compared_as_distributions_of_real_queries():
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    scores = draw(0, 2, 2, 3, 3).masked_fill(mask[:, None, None] == 0, -math.inf)
    teacher = scores.softmax(-1)  # (batch, heads, queries, keys)
    student = teacher.clone()
    student[1, :, 2] = torch.tensor([0.5, 0.5, 0.0])  # a padded query
    assert attention_map_loss(student, teacher, mask).item() == pytest.approx(0, abs=1e-12)
    student[0, 0, 0] = torch.tensor([0.2, 0.3, 0.5])
    p, q = teacher[0, 0, 0], student[0, 0, 0]
    one = (p * (p / q).log()).sum() / (5 * 2)  # five real queries, two heads
    assert attention_map_loss(student, teacher, mask).item() == pytest.approx(one.item())
    with pytest.raises(ValueError, match="same number of heads"):
        attention_map_loss(student[:, :1], teacher, mask)


def test_no_inner_loss_sends_a_gradient_into_the_teacher():
    mask = torch.ones(2, 3, dtype=torch.long)
    for loss in (
        lambda s, t: hidden_loss(s, t, None, mask),
        lambda s, t: attention_map_loss(s.softmax(-1)[:, None], t.softmax(-1)[:, None], mask),
    ):
        student, teacher = draw(0, 2, 3, 3).requires_grad_(), draw(1, 2, 3, 3).requires_grad_()
        loss(student, teacher).backward()
        assert student.grad.abs().sum() > 0 and teacher.grad is None


# --- The student ----------------------------------------------------------------------------------


def test_the_student_is_the_teachers_layers_and_no_others(teacher, features):
    student = keep_layers(teacher, (2, 4))
    assert student.config.num_hidden_layers == len(student.bert.encoder.layers) == 2
    batch = collate(features[:4])
    batch.pop("labels")
    hidden = teacher.bert.embeddings(batch["input_ids"])
    mask = batch["attention_mask"].bool()[:, None, None, :]
    for number in (1, 3):  # layers 2 and 4, counted from 0
        hidden = teacher.bert.encoder.layers[number](hidden, mask)[0]
    by_hand = teacher.classifier(teacher.bert.pooler(hidden))
    assert torch.allclose(student(**batch).logits, by_hand, atol=1e-6)
    assert keep_layers(teacher, (1, 2, 3, 4))(**batch).logits.equal(teacher(**batch).logits)


def test_the_student_is_a_copy_that_can_learn_and_be_saved(teacher, features, tmp_path):
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    student = keep_layers(teacher, (1, 3))
    assert all(p.requires_grad for p in student.parameters()) and not student.training
    theirs = {p.data_ptr() for p in teacher.parameters()}
    assert not theirs & {p.data_ptr() for p in student.parameters()}
    assert len(teacher.bert.encoder.layers) == teacher.config.num_hidden_layers == 4
    student.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert predict(again, features).equal(predict(student, features))


@pytest.mark.parametrize("layers", [(), (0, 1), (5,), (2, 1), (2, 2), (-1,)])
def test_layers_that_are_not_there_or_not_rising_are_refused(teacher, layers):
    with pytest.raises(ValueError, match="rising numbers from 1 to 4"):
        keep_layers(teacher, layers)


# --- Training -------------------------------------------------------------------------------------


def test_cached_logits_are_those_of_the_live_teacher(teacher, features):
    examples = with_teacher(teacher, features)
    assert TEACHER not in features[0] and len(examples) == len(features)
    batch = collate_soft(examples[:5])
    assert batch[TEACHER].shape == (5, 3)
    plain = collate(features[:5])
    plain.pop("labels")
    assert torch.allclose(batch[TEACHER], teacher(**plain).logits, atol=1e-5)
    assert collate_soft(features[:5]).keys() == collate(features[:5]).keys()


@pytest.mark.parametrize("live", [False, True])
def test_the_student_learns_and_the_teacher_does_not(teacher, features, live):
    teacher.train()  # as a careless caller leaves it
    student, before = make_model(2), {k: v.clone() for k, v in teacher.state_dict().items()}
    step = DistillationStep(3.0, 0.9, teacher if live else None)
    examples = features if live else with_teacher(teacher, features)
    recipe = FineTuning(epochs=8, batch_size=8, learning_rate=3e-3)
    history = fine_tune(student, examples, recipe, collate_soft, backward=step, progress=False)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert all(v.equal(before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert teacher.training != live  # asked live, it stays in eval mode


def test_live_and_cached_teachers_train_the_same_student(teacher, features):
    students = [make_model(2), make_model(2)]
    recipe = FineTuning(epochs=2, batch_size=8)
    live, cached = DistillationStep(2.0, 0.5, teacher), DistillationStep(2.0, 0.5)
    fine_tune(students[0], features, recipe, collate_soft, backward=live, progress=False)
    examples = with_teacher(teacher, features)
    fine_tune(students[1], examples, recipe, collate_soft, backward=cached, progress=False)
    for a, b in zip(students[0].parameters(), students[1].parameters()):
        assert torch.allclose(a, b, atol=1e-4)


def test_no_label_is_read_when_only_the_teacher_counts(teacher, features):
    unlabelled = [{k: v for k, v in f.items() if k != "labels"} for f in features]
    students, recipe = [make_model(2), make_model(2)], FineTuning(epochs=1, batch_size=8)
    for student, texts in zip(students, (features, unlabelled)):
        step = DistillationStep(4.0, 1.0)
        examples = with_teacher(teacher, texts)
        fine_tune(student, examples, recipe, collate_soft, backward=step, progress=False)
    assert predict(students[0], features).equal(predict(students[1], features))


def test_the_last_short_batch_is_trained_on(teacher, features):
    seen = []

    def step(model, batch):
        seen.append(len(batch["input_ids"]))
        return DistillationStep(2.0, 0.5)(model, batch)

    examples, recipe = with_teacher(teacher, features), FineTuning(epochs=1, batch_size=8)
    fine_tune(make_model(2), examples, recipe, collate_soft, backward=step, progress=False)
    assert sum(seen) == len(features) == 22 and min(seen) == 6


def test_an_example_without_an_answer_and_no_teacher_is_refused(features):
    with pytest.raises(ValueError, match="with_teacher"):
        DistillationStep()(make_model(), collate(features[:2]))


def test_a_weight_of_0_is_training_without_a_teacher(teacher, features):
    students, recipe = [make_model(2), make_model(2)], FineTuning(epochs=1, batch_size=8)
    fine_tune(students[0], features, recipe, progress=False)
    examples = with_teacher(teacher, features)
    step = DistillationStep(4.0, 0.0)
    fine_tune(students[1], examples, recipe, collate_soft, backward=step, progress=False)
    assert torch.allclose(predict(students[0], features), predict(students[1], features), atol=1e-6)


@pytest.mark.parametrize("parts", [(), ("hidden",), ("attention",), ("relations",)])
def test_a_copier_trains_student_and_projection_and_saves_the_student_alone(
    teacher, features, parts, tmp_path
):
    config = dataclasses.replace(CONFIG, hidden_size=8, num_hidden_layers=2)
    torch.manual_seed(3)
    student = BertForSequenceClassification(config, LABELS)
    copier = Copier(student, CONFIG.hidden_size)
    projection = copier.projection.weight.detach().clone()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    step = CopyStep(teacher, (2, 4), parts, 1.0, 2.0, 0.5)
    recipe = FineTuning(epochs=6, batch_size=8, learning_rate=3e-3)
    history = fine_tune(copier, features, recipe, collate_soft, backward=step, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(v.equal(before[k]) for k, v in teacher.state_dict().items())
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())
    assert copier.projection.weight.equal(projection) == ("hidden" not in parts)
    copier.student.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert predict(again, features).equal(predict(copier, features))


def test_without_parts_a_copier_takes_the_step_of_distillation(teacher, features):
    steps = CopyStep(teacher, (2, 4)), DistillationStep(teacher=teacher)
    found, recipe = [], FineTuning(epochs=1, batch_size=8)
    for step, wrap in zip(steps, (lambda s: Copier(s, 16), lambda s: s)):
        student = keep_layers(teacher, (2, 4))
        nn.init.normal_(student.classifier.weight, generator=torch.Generator().manual_seed(0))
        fine_tune(wrap(student), features, recipe, collate_soft, backward=step, progress=False)
        found.append(predict(student, features))
    assert torch.allclose(*found, atol=1e-5)
    assert Copier(student, 16).projection is None  # equal widths need none


def test_a_part_that_is_not_there_is_refused(teacher):
    with pytest.raises(ValueError, match="no part 'gradients'"):
        CopyStep(teacher, (2, 4), ("gradients",))


def test_dropout_is_set_everywhere_and_saved(teacher, features):
    student = set_dropout(keep_layers(teacher, (2, 4)), 0.5).train()
    batch = {k: v for k, v in collate(features[:4]).items() if k != "labels"}
    assert not student(**batch).logits.equal(student(**batch).logits)
    assert {m.p for m in student.modules() if isinstance(m, nn.Dropout)} == {0.5}
    assert {layer.attention.dropout for layer in student.bert.encoder.layers} == {0.5}
    assert student.config.hidden_dropout_prob == student.config.attention_probs_dropout_prob == 0.5
    set_dropout(student, 0.0)
    assert student(**batch).logits.equal(student(**batch).logits)
