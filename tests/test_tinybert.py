"""TinyBERT: the map, the four losses, who learns and who does not, the two stages, the command."""

import json
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tasks import NAMES, small_data
from test_trimming import PIECES, make_tokenizer
from torch import nn

from course_utils import tasks, tinybert, tinybert_runs
from course_utils.bert import Bert, BertConfig
from course_utils.data import stored
from course_utils.data.docs import Corpus, Document
from course_utils.distillation import TEACHER as TEACHER_LOGITS
from course_utils.distillation import collate_soft, with_teacher
from course_utils.finetuning import (
    BertForSequenceClassification,
    FineTuning,
    TextClassifier,
    collate,
    fine_tune,
    parameter_groups,
    predict,
)
from course_utils.pretraining_run import Batches, Recipe
from course_utils.tinybert import (
    PARTS,
    Distilled,
    IntermediateStep,
    LayerMap,
    PredictionStep,
    attention_loss,
    embedding_loss,
    hidden_loss,
    layer_scores,
    new_student,
    prediction_loss,
    uniform_layers,
)
from course_utils.tinybert_runs import WITHOUT, Workshop, leave_out
from course_utils.tinybert_stages import (
    TinyBertRecipe,
    general_distillation,
    in_rounds,
    task_distillation,
)
from course_utils.token_classification import BertForTokenClassification

SETTINGS = settings(max_examples=60, deadline=None)
LABELS = ["a", "b", "c"]
TEACHER = BertConfig(
    vocab_size=30, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24,
    max_position_embeddings=16, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
)  # fmt: skip
STUDENT = replace(
    TEACHER, hidden_size=8, num_hidden_layers=2, intermediate_size=12,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
MAP = LayerMap.uniform(4, 2)
layer_counts = st.integers(1, 24).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def make_teacher(seed=0, **changes):
    torch.manual_seed(seed)
    model = BertForSequenceClassification(replace(TEACHER, **changes), LABELS)
    for parameter in model.parameters():  # first weights of 0.02 would make every layer alike
        parameter.data += 0.2 * torch.randn(parameter.shape)
    return model


def make_model(teacher=None, **changes):
    student = new_student(teacher or make_teacher(), replace(STUDENT, **changes), seed=1)
    return Distilled(student, 16, seed=1)


def make_features(number=33):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(5, 30, (3 + i % 5,), generator=generator).tolist() for i in range(number)]
    return [
        {"input_ids": [2, *row, 3], "token_type_ids": [0] * (len(row) + 2), "labels": i % 3}
        for i, row in enumerate(rows)
    ]


BATCH = collate(make_features(4))


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# --- The map --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "teacher, student, expected",
    [
        (12, 4, (3, 6, 9, 12)),
        (12, 6, (2, 4, 6, 8, 10, 12)),
        (6, 3, (2, 4, 6)),
        (6, 6, (1, 2, 3, 4, 5, 6)),
        (12, 5, (2, 5, 7, 10, 12)),
        (3, 2, (2, 3)),  # a half is rounded up, not to the even number
        (7, 1, (7,)),
    ],
)
def test_the_uniform_map_is_the_papers(teacher, student, expected):
    found = LayerMap.uniform(teacher, student)
    assert found.layers == uniform_layers(teacher, student) == expected
    assert [found.teacher_layer(m) for m in range(1, student + 1)] == list(expected)


def test_the_ends_of_the_map_are_embeddings_and_prediction():
    found = LayerMap.uniform(12, 4)
    assert found.teacher_layer(0) == 0 and found.teacher_layer(5) == 13
    for place in (-1, 6):
        with pytest.raises(ValueError, match=f"no place {place}; they are 0 to 5"):
            found.teacher_layer(place)


def test_the_inverted_formula_is_another_map():
    """⌈k·M/N⌉ names a student layer for each teacher layer: it is no g(m)."""
    inverted = [-(-k * 4 // 12) for k in range(1, 13)]
    assert inverted == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    ours = LayerMap.uniform(12, 4)
    assert [k for k in range(1, 13) if k in ours.layers] == [3, 6, 9, 12]
    with pytest.raises(ValueError, match="12 student layers|strictly increase"):
        LayerMap(4, tuple(inverted))


@given(layer_counts)
@SETTINGS
def test_every_named_map_is_legal_and_uniform_ends_at_the_top(counts):
    teacher, student = counts
    for name in ("uniform", "top", "bottom"):
        layers = LayerMap.named(name, teacher, student).layers
        assert len(layers) == student and list(layers) == sorted(set(layers))
        assert 1 <= layers[0] and layers[-1] <= teacher
    uniform = uniform_layers(teacher, student)
    assert uniform[-1] == teacher
    gaps = [b - a for a, b in zip((0, *uniform), uniform)]
    assert max(gaps) - min(gaps) <= 1  # evenly spaced
    if teacher % student == 0:
        assert uniform == tuple(m * teacher // student for m in range(1, student + 1))


def test_top_and_bottom_take_one_end():
    assert LayerMap.top(12, 4).layers == (9, 10, 11, 12)
    assert LayerMap.bottom(12, 4).layers == (1, 2, 3, 4)
    assert LayerMap.named("3, 6,9,12", 12, 4) == LayerMap(12, [3, 6, 9, 12])


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: LayerMap(12, (3, 6, 9, 13)), "no teacher layer 13; they are 1 to 12"),
        (lambda: LayerMap(12, (0, 6)), "no teacher layer 0"),
        (lambda: LayerMap(12, (3, 3, 9)), "layer 3 follows 3: the map must strictly increase"),
        (lambda: LayerMap(12, (6, 3)), "layer 3 follows 6"),
        (lambda: LayerMap(12, ()), "is empty"),
        (lambda: LayerMap(2, (1, 2, 3)), "3 student layers, but the teacher has 2"),
        (lambda: LayerMap(12, (3.0, 6)), "whole numbers; 3.0 is none"),
        (lambda: LayerMap(12, (True, 6)), "whole numbers; True is none"),
        (lambda: LayerMap("12", (6,)), "whole numbers; '12' is none"),
        (lambda: uniform_layers(4, 6), "6 student layers, but the teacher has 4"),
        (lambda: uniform_layers(4, 0), "at least one"),
        (lambda: LayerMap.top(4, 0), "is empty"),
        (lambda: LayerMap.bottom(4, 2.0), "whole numbers"),
        (lambda: LayerMap.named("even", 12, 4), "no layer map 'even'; take uniform, top"),
        (lambda: LayerMap.named("3,6,9", 12, 4), "for 12 → 3 layers.* have 12 → 4"),
    ],
)
def test_a_bad_map_is_refused_with_the_reason(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


# --- The losses -----------------------------------------------------------------------------------


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def test_hidden_and_embedding_loss_by_hand():
    student = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    teacher = torch.tensor([[[1.0, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    projection = nn.Linear(2, 3, bias=False)
    projection.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    mask = torch.tensor([[1, 0]])
    for loss in (hidden_loss, embedding_loss):
        assert loss(student, teacher, projection, mask).item() == pytest.approx(4 / 3)
    both = hidden_loss(student, teacher, projection).item()
    assert both == pytest.approx((4 + 36 + 25 + 81) / 6)


def test_padding_does_not_count_in_the_hidden_loss():
    student, teacher, projection = draw(2, 4, 3), draw(2, 4, 5, seed=1), nn.Linear(3, 5, bias=False)
    projection.weight.data = draw(5, 3, seed=2)
    teacher[1, 2:] += 3.0  # padding that a mean over all positions would see
    expected = hidden_loss(student, teacher, projection, MASK)
    naive = F.mse_loss(projection(student), teacher)
    assert abs(expected - naive) > 0.5
    real = MASK.bool()
    torch.testing.assert_close(expected, F.mse_loss(projection(student)[real], teacher[real]))
    student[1, 2:], teacher[1, 2:] = 100.0, -100.0
    torch.testing.assert_close(hidden_loss(student, teacher, projection, MASK), expected)


def test_pairs_with_padding_do_not_count_in_the_attention_loss():
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    expected = attention_loss(student, teacher, MASK)
    naive = F.mse_loss(student, teacher)
    assert abs(expected - naive) > 0.01
    squares = (student - teacher).pow(2)
    by_hand = (squares[0].sum() + squares[1, :, :2, :2].sum()) / (3 * (16 + 4))
    torch.testing.assert_close(expected, by_hand)
    for corner in ((1, slice(None), slice(2, None)), (1, slice(None), slice(None), slice(2, None))):
        student[corner] = 1e4  # padded queries, padded keys
    torch.testing.assert_close(attention_loss(student, teacher, MASK), expected)
    torch.testing.assert_close(attention_loss(student, student), torch.zeros(()))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 3))
@SETTINGS
def test_more_padding_changes_no_loss(batch, tokens, padding):
    student, teacher = draw(batch, tokens, 3), draw(batch, tokens, 4, seed=1)
    scores, others = draw(batch, 2, tokens, tokens), draw(batch, 2, tokens, tokens, seed=1)
    projection, mask = nn.Linear(3, 4, bias=False), torch.ones(batch, tokens).long()
    wide = F.pad(mask, (0, padding))
    wider = [F.pad(one, (0, 0, 0, padding), value=7.0) for one in (student, teacher)]
    squares = [F.pad(one, (0, padding, 0, padding), value=7.0) for one in (scores, others)]
    torch.testing.assert_close(
        hidden_loss(*wider, projection, wide), hidden_loss(student, teacher, projection, mask)
    )
    torch.testing.assert_close(attention_loss(*squares, wide), attention_loss(scores, others, mask))


def test_nothing_but_padding_is_no_loss():
    mask = torch.zeros(1, 2).long()
    assert hidden_loss(draw(1, 2, 3), draw(1, 2, 3, seed=1), nn.Identity(), mask) == 0
    assert attention_loss(draw(1, 2, 2, 2), draw(1, 2, 2, 2, seed=1), mask) == 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_prediction_loss_is_cross_entropy_with_both_sides_at_the_temperature(temperature):
    student, teacher = draw(5, 4), draw(5, 4, seed=1)
    expected = F.cross_entropy(student / temperature, (teacher / temperature).softmax(-1))
    torch.testing.assert_close(prediction_loss(student, teacher, temperature), expected)
    chances = (teacher / temperature).softmax(-1)
    entropy = -(chances * chances.log()).sum(-1).mean()  # what is left when both are the same
    torch.testing.assert_close(prediction_loss(teacher, teacher, temperature), entropy)


def test_no_loss_sends_a_gradient_into_the_teacher():
    def leaf(*shape, seed=0):
        return draw(*shape, seed=seed).requires_grad_()

    projection = nn.Linear(3, 3, bias=False)
    for loss, student, teacher in (
        (lambda s, t: hidden_loss(s, t, projection), leaf(2, 4, 3), leaf(2, 4, 3, seed=1)),
        (lambda s, t: embedding_loss(s, t, projection), leaf(2, 4, 3), leaf(2, 4, 3, seed=1)),
        (attention_loss, leaf(1, 2, 3, 3), leaf(1, 2, 3, 3, seed=1)),
        (prediction_loss, leaf(2, 5), leaf(2, 5, seed=1)),
    ):
        loss(student, teacher).backward()
        assert student.grad.abs().sum() > 0 and teacher.grad is None
    assert projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "call, reason",
    [
        (lambda: attention_loss(draw(1, 2, 3, 3), draw(1, 4, 3, 3)), "2 heads and the teacher 4"),
        (lambda: attention_loss(draw(1, 2, 3, 3), draw(1, 2, 5, 5)), "must both be"),
        (lambda: attention_loss(draw(2, 3, 3), draw(2, 3, 3)), "must both be"),
        (lambda: attention_loss(draw(2, 1, 4, 4), draw(2, 1, 4, 4), MASK[:1]), "must be .batch"),
        (lambda: hidden_loss(draw(2, 4, 3), draw(2, 4, 5), nn.Identity()), "same width"),
        (lambda: hidden_loss(draw(2, 4, 3), draw(2, 4, 5), nn.Linear(4, 5)), "reads 4 features"),
        (lambda: hidden_loss(draw(2, 3, 3), draw(2, 3, 3), nn.Identity(), MASK), "must be .batch"),
        (lambda: prediction_loss(draw(2, 3), draw(2, 4)), "must have one shape"),
        (lambda: prediction_loss(draw(2, 3), draw(2, 3), 0.0), "temperature is 0.0"),
    ],
)
def test_what_can_not_be_compared_is_refused(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()


def test_layer_scores_are_what_softmax_saw():
    bert = make_teacher().bert.eval()
    mask = BATCH["attention_mask"]
    output = bert(BATCH["input_ids"], mask)
    hidden = ~mask.bool()[:, None, None, :]
    for scores, weights in zip(layer_scores(bert, output.hidden_states), output.attentions):
        found = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        torch.testing.assert_close(found, weights)
    some = layer_scores(bert, output.hidden_states, [4, 2])
    torch.testing.assert_close(some[0], layer_scores(bert, output.hidden_states)[3])
    with pytest.raises(ValueError, match="4 hidden states of a Bert with 4 layers"):
        layer_scores(bert, output.hidden_states[1:])


# --- Student and teacher --------------------------------------------------------------------------


def test_a_new_student_is_the_teachers_kind_in_other_sizes_and_depends_on_its_seed_alone():
    teacher = make_teacher()
    first = new_student(teacher, STUDENT, seed=3)
    torch.manual_seed(99)
    second, other = new_student(teacher, STUDENT, seed=3), new_student(teacher, STUDENT, seed=4)
    assert type(first) is type(teacher) and first.labels == LABELS and first.config == STUDENT
    assert unchanged(second, snapshot(first)) and not unchanged(other, snapshot(first))
    assert type(new_student(teacher.bert, STUDENT)) is Bert


def test_the_projection_is_trained_beside_the_student_and_not_saved_with_it(tmp_path):
    model = make_model()
    names = [name for name, _ in model.named_parameters()]
    assert names.count("hidden_projection.weight") == 1 and "hidden_projection.bias" not in names
    assert model.embedding_projection is model.hidden_projection
    assert model.hidden_projection.weight.shape == (16, 8)
    trained = [p for group in parameter_groups(model, 1.0, 0.1, 0.5) for p in group["params"]]
    assert len({id(p) for p in trained}) == len(trained) == len(names)
    rates = {id(p): group["lr"] for group in parameter_groups(model, 1.0, 0.1, 0.5)
             for p in group["params"]}  # fmt: skip
    assert rates[id(model.bert.embeddings.token.weight)] == 0.125  # depth is still seen
    assert rates[id(model.hidden_projection.weight)] == 1.0
    model.student.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert unchanged(again, snapshot(model.student))


def test_one_projection_or_two():
    student = new_student(make_teacher(), STUDENT)
    two = Distilled(student, 16, shared_projection=False)
    assert two.embedding_projection is not two.hidden_projection
    assert not torch.equal(two.embedding_projection.weight, two.hidden_projection.weight)
    count = sum(p.numel() for p in two.parameters()) - sum(p.numel() for p in student.parameters())
    assert count == 2 * 8 * 16
    step = IntermediateStep(make_teacher(), MAP, ["embedding"])
    step(two, BATCH)
    assert two.embedding_projection.weight.grad is not None
    assert two.hidden_projection.weight.grad is None


def test_the_teachers_forward_pass_keeps_no_graph():
    teacher, model, found = make_teacher(), make_model(), []
    for part in (teacher.bert, teacher.bert.encoder.layers[0].attention.query):
        part.register_forward_hook(lambda *given: found.append(torch.is_grad_enabled()))
    IntermediateStep(teacher, LayerMap(4, (1, 4)))(model, BATCH)
    assert found == [False] * 3  # its forward pass, and its scores computed again
    PredictionStep(teacher)(model, BATCH)
    assert found == [False] * 5


@pytest.mark.parametrize("part", PARTS)
def test_student_and_projection_get_the_gradient_the_teacher_none(part):
    teacher, model = make_teacher(), make_model()
    before = snapshot(teacher)
    step = IntermediateStep(teacher, MAP, [part])
    teacher.train()  # whatever others do: its dropout must be off
    model.train()
    found = step(model, BATCH)
    assert not found.requires_grad and not teacher.bert.training
    assert all(p.grad is None for p in teacher.parameters()) and unchanged(teacher, before)
    assert model.bert.embeddings.token.weight.grad.abs().sum() > 0
    with_projection = model.hidden_projection.weight.grad is not None
    assert with_projection == (part != "attention")
    top = model.bert.encoder.layers[1]
    assert (top.attention.query.weight.grad is not None) == (part != "embedding")
    assert (top.feed_forward.expand.weight.grad is not None) == (part == "hidden")
    again = make_model()
    torch.testing.assert_close(step(again.train(), BATCH), found)  # no dropout in the teacher


def test_each_student_layer_is_compared_with_its_own_teacher_layer():
    teacher, model = make_teacher().eval(), make_model().eval()
    inputs = {name: BATCH[name] for name in tinybert.INPUTS}
    theirs, ours = (m.bert(**inputs).hidden_states for m in (teacher, model))
    mask, project = BATCH["attention_mask"], model.hidden_projection
    layer_map = LayerMap(4, (1, 3))
    found = IntermediateStep(teacher, layer_map).losses(model, BATCH)
    torch.testing.assert_close(
        found["embedding"], embedding_loss(ours[0], theirs[0], project, mask)
    )
    torch.testing.assert_close(
        found["hidden"],
        hidden_loss(ours[1], theirs[1], project, mask)
        + hidden_loss(ours[2], theirs[3], project, mask),
    )
    mine, others = layer_scores(model.bert, ours), layer_scores(teacher.bert, theirs)
    torch.testing.assert_close(
        found["attention"],
        attention_loss(mine[0], others[0], mask) + attention_loss(mine[1], others[2], mask),
    )


def test_parts_are_weighed_and_recorded():
    teacher, model = make_teacher(), make_model().eval()
    step = IntermediateStep(teacher, MAP, weights={"hidden": 10.0, "attention": 0.0})
    parts = {name: part.item() for name, part in step.losses(model, BATCH).items()}
    assert step.history == []
    total = step(model, BATCH).item()
    assert total == pytest.approx(parts["embedding"] + 10 * parts["hidden"])
    assert {name: part.item() for name, part in step.history[0].items()} == pytest.approx(parts)
    assert model.bert.encoder.layers[0].attention.query.weight.grad is not None


@pytest.mark.parametrize(
    "changes, reason",
    [
        (dict(num_attention_heads=4), "4 heads and the teacher 2"),
        (dict(vocab_size=20), "20 pieces and the teacher 30"),
        (dict(num_hidden_layers=3), "map is for 4 → 2 layers.*4 → 3"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_it_is_computed(changes, reason):
    step = IntermediateStep(make_teacher(), MAP)
    with pytest.raises(ValueError, match=reason):
        step(make_model(**changes), BATCH)
    if "num_attention_heads" in changes:  # without that loss the heads are free
        IntermediateStep(make_teacher(), MAP, ["hidden"])(make_model(**changes), BATCH)


def test_unknown_and_missing_parts_are_refused():
    with pytest.raises(ValueError, match="no part 'attn'"):
        IntermediateStep(make_teacher(), MAP, ["attn"])
    with pytest.raises(ValueError, match="no part 'attn'"):
        IntermediateStep(make_teacher(), MAP, weights={"attn": 1.0})
    with pytest.raises(ValueError, match="no part is left"):
        IntermediateStep(make_teacher(), MAP, [])
    with pytest.raises(ValueError, match="Linear holds no Bert"):
        IntermediateStep(nn.Linear(2, 2), MAP)


def test_the_prediction_step_teaches_the_answers_and_leaves_the_teacher_alone():
    teacher, model = make_teacher(), make_model()
    teacher.train()
    before = snapshot(teacher)
    step = PredictionStep(teacher, temperature=2.0)
    found = step(model, BATCH)
    assert not teacher.training and unchanged(teacher, before)
    assert all(p.grad is None for p in teacher.parameters()) and not found.requires_grad
    assert model.student.classifier.weight.grad.abs().sum() > 0
    assert model.hidden_projection.weight.grad is None
    inputs = {name: BATCH[name] for name in tinybert.INPUTS}
    with torch.no_grad():
        expected = prediction_loss(model(**inputs).logits, teacher.eval()(**inputs).logits, 2.0)
    torch.testing.assert_close(found, expected)


def test_stored_logits_teach_the_same_as_the_teacher_itself():
    teacher, features = make_teacher().eval(), make_features(9)
    answered = with_teacher(teacher, features)
    order = [4, 0, 7, 2]
    live, from_store = make_model(), make_model()
    one = PredictionStep(teacher)(live, collate([features[i] for i in order]))
    two = PredictionStep()(from_store, collate_soft([answered[i] for i in order]))
    torch.testing.assert_close(one, two)
    for a, b in zip(live.parameters(), from_store.parameters()):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)
    with pytest.raises(ValueError, match="with_teacher"):
        PredictionStep()(live, collate(features[:2]))


@pytest.mark.parametrize("hard_weight", [0.0, 0.3, 1.0])
def test_the_labels_get_their_share(hard_weight):
    teacher, model = make_teacher().eval(), make_model().eval()
    inputs = {name: BATCH[name] for name in tinybert.INPUTS}
    with torch.no_grad():
        logits = model(**inputs).logits
        soft = prediction_loss(logits, teacher(**inputs).logits)
        hard = F.cross_entropy(logits, BATCH["labels"])
    found = PredictionStep(teacher, hard_weight=hard_weight)(model, BATCH)
    torch.testing.assert_close(found, (1 - hard_weight) * soft + hard_weight * hard)
    with pytest.raises(ValueError, match="share, in"):
        PredictionStep(teacher, hard_weight=2.0)


def test_the_answers_for_tokens_are_compared_at_real_tokens():
    torch.manual_seed(0)
    teacher = BertForTokenClassification(TEACHER, ["O", "B"]).eval()
    model = Distilled(new_student(teacher, STUDENT), 16)
    features = [{k: v for k, v in row.items() if k != "labels"} for row in make_features(4)]
    found = PredictionStep(teacher)(model, collate(features))
    mask = collate(features)["attention_mask"].bool()
    with torch.no_grad():
        logits = [m(**collate(features)).logits[mask] for m in (model, teacher)]
    torch.testing.assert_close(found, prediction_loss(*logits))


# --- The stages -----------------------------------------------------------------------------------

RECIPE = TinyBertRecipe(
    layers=2, hidden_size=8, heads=2, intermediate_size=12, general_steps=4, augment=0,
    intermediate_steps=30, prediction_steps=60, batch_size=8, intermediate_learning_rate=1e-2,
    prediction_learning_rate=1e-2,
)  # fmt: skip


def test_the_students_sizes_come_from_the_recipe_and_the_rest_from_the_teacher():
    config = RECIPE.student_config(TEACHER)
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (2, 8, 12)
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.0
    assert config.vocab_size == TEACHER.vocab_size and config.max_position_embeddings == 16
    assert RECIPE.map_for(TEACHER) == MAP
    paper = TinyBertRecipe(layers=4, hidden_size=312, intermediate_size=1200)
    base = BertConfig.base()
    assert paper.map_for(base).layers == (3, 6, 9, 12)
    assert paper.student_config(base).hidden_size == 312


def test_the_second_stage_brings_the_student_nearer_in_both_phases():
    teacher, model, features = make_teacher().eval(), make_model(), make_features(32)
    before = snapshot(teacher)
    first = make_model().eval()
    history = task_distillation(model, teacher, features, MAP, RECIPE, progress=False)
    assert [len(history[phase]) for phase in ("intermediate", "prediction")] == [30, 60]
    for part in PARTS:
        start, end = history["intermediate"][0][part], history["intermediate"][-1][part]
        assert end < start, part
    assert unchanged(teacher, before) and not model.training

    def agreement(one):
        return (predict(one, features).argmax(-1) == predict(teacher, features).argmax(-1)).sum()

    assert agreement(model) > agreement(first)


def test_the_phases_train_what_they_should():
    teacher, model, features = make_teacher().eval(), make_model(), make_features(16)
    head, projection = (p.clone() for p in (model.student.classifier.weight,
                                            model.hidden_projection.weight))  # fmt: skip
    only = replace(RECIPE, prediction_steps=0)
    found = task_distillation(model, teacher, features, MAP, only, progress=False)
    assert found["prediction"] == [] and torch.equal(model.student.classifier.weight, head)
    assert not torch.equal(model.hidden_projection.weight, projection)
    projection = model.hidden_projection.weight.clone()
    only = replace(RECIPE, intermediate_steps=0)
    found = task_distillation(model, teacher, features, MAP, only, progress=False)
    assert found["intermediate"] == []
    assert not torch.equal(model.student.classifier.weight, head)
    assert torch.equal(model.hidden_projection.weight, projection)  # nor weight decay


def test_the_last_short_batch_is_not_dropped():
    teacher, features, seen = make_teacher().eval(), make_features(33), []
    model = make_model()

    class Recording(PredictionStep):
        def __call__(self, model, batch):
            seen.append([tuple(i for i in row if i) for row in batch["input_ids"].tolist()])
            return super().__call__(model, batch)

    recipe = FineTuning(epochs=1, batch_size=32)
    fine_tune(model, features, recipe, backward=Recording(teacher), progress=False)
    assert sorted(map(len, seen)) == [1, 32]
    every = sorted(tuple(row["input_ids"]) for row in features)
    assert sorted(ids for batch in seen for ids in batch) == every
    whole = replace(RECIPE, passes=1, batch_size=32)
    history = task_distillation(make_model(), teacher, features, MAP, whole, progress=False)
    assert [len(rows) for rows in history.values()] == [2, 2]


def test_passes_grow_with_the_examples_and_steps_do_not():
    teacher = make_teacher().eval()
    for number in (9, 40):
        recipe = replace(RECIPE, intermediate_steps=3, prediction_steps=2)
        history = task_distillation(
            make_model(), teacher, make_features(number), MAP, recipe, progress=False
        )
        assert [len(rows) for rows in history.values()] == [3, 2]
        history = task_distillation(
            make_model(), teacher, make_features(number), MAP, replace(recipe, passes=2),
            progress=False,
        )  # fmt: skip
        assert [len(rows) for rows in history.values()] == [2 * -(-number // 8)] * 2


@given(st.integers(1, 9), st.integers(1, 40))
@SETTINGS
def test_rounds_use_every_example_as_often_as_any_other(number, count):
    rows = in_rounds([{"n": i} for i in range(number)], count, seed=0)
    times = [sum(row["n"] == i for row in rows) for i in range(number)]
    assert len(rows) == count and max(times) - min(times) <= 1


def test_stored_answers_and_the_live_teacher_give_the_same_student():
    teacher, features = make_teacher().eval(), make_features(16)
    recipe = replace(RECIPE, intermediate_steps=0, prediction_steps=5)
    live, stored_ones = make_model(), make_model()
    task_distillation(live, teacher, features, MAP, recipe, progress=False)
    answered = with_teacher(teacher, features)
    task_distillation(stored_ones, None, answered, MAP, recipe, progress=False)
    after = dict(live.named_parameters())
    for name, parameter in stored_ones.named_parameters():
        torch.testing.assert_close(parameter, after[name], atol=1e-4, rtol=1e-3)


def small_corpus():
    generator = torch.Generator().manual_seed(0)
    words = ["ab", "abc", "ac", "bb", "abab", "cab", "acbb"]

    def sentence():
        draw = torch.randint(len(words), (5,), generator=generator).tolist()
        return " ".join(words[i] for i in draw)

    documents = [Document(f"d{i}", "made up", [sentence() for _ in range(9)]) for i in range(40)]
    return Corpus(documents, {}, [])


def test_general_distillation_needs_no_labels_and_leaves_head_and_teacher_alone(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    sizes = dict(vocab_size=len(PIECES), max_position_embeddings=32)
    teacher = make_teacher(**sizes).bert
    before = snapshot(teacher)
    model = make_model(**sizes)
    head = model.student.classifier.weight.clone()
    batches = Batches(small_corpus(), tokenizer, Recipe(max_length=32, batch_tokens=128))
    recipe = replace(RECIPE, general_steps=20, general_learning_rate=1e-2)
    history = general_distillation(model, teacher, batches, MAP, recipe, progress=False)
    assert [row["step"] for row in history] == list(range(1, 21))
    assert history[-1]["learning_rate"] < history[5]["learning_rate"]
    for part in PARTS:
        assert history[-1][part] < history[0][part]
    total = sum(getattr(recipe, f"{part}_weight") * history[0][part] for part in PARTS)
    assert history[0]["loss"] == pytest.approx(total, rel=1e-4)
    assert unchanged(teacher, before) and not teacher.training
    assert torch.equal(model.student.classifier.weight, head)
    again = make_model(**sizes)
    torch.manual_seed(5)
    general_distillation(again, teacher, batches, MAP, recipe, progress=False)
    assert unchanged(again, snapshot(model))
    before = snapshot(again)
    still = replace(recipe, clip=0.0, weight_decay=0.0)  # gradients cut to length 0
    general_distillation(again, teacher, batches, MAP, still, progress=False)
    assert unchanged(again, before)


def test_general_distillation_reads_masked_text(tmp_path, monkeypatch):
    tokenizer, seen = make_tokenizer(tmp_path), []
    sizes = dict(vocab_size=len(PIECES), max_position_embeddings=32)
    batches = Batches(small_corpus(), tokenizer, Recipe(max_length=32, batch_tokens=128))

    def record(self, model, batch):
        seen.append(batch["input_ids"])
        return torch.zeros(())

    monkeypatch.setattr(IntermediateStep, "__call__", record)
    recipe = replace(RECIPE, general_steps=2)
    general_distillation(
        make_model(**sizes), make_teacher(**sizes), batches, MAP, recipe, progress=False
    )
    for number, ids in enumerate(seen):
        assert torch.equal(ids, batches[number][1]) and (ids == 4).any()  # 4 = [MASK]


def test_a_recipe_that_can_not_be_run_is_refused():
    for wrong in (dict(general_steps=-1), dict(augment=-2), dict(passes=-1)):
        with pytest.raises(ValueError, match="0 or more"):
            TinyBertRecipe(**wrong)
    with pytest.raises(ValueError, match="must be positive"):
        TinyBertRecipe(prediction_learning_rate=0.0)


# --- What is left out -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITHOUT)
def test_leaving_a_part_out_keeps_the_steps_of_the_second_stage(name):
    full = TinyBertRecipe()
    found = leave_out(full, [name])
    assert found != full or name == "everything"
    steps = found.intermediate_steps + found.prediction_steps
    assert steps == full.intermediate_steps + full.prediction_steps
    assert (found.general_steps == 0) == (name in ("general", "everything"))
    assert (found.augment == 0) == (name in ("augmentation", "everything"))
    no_inside = ("task", "teacher", "intermediate", "everything")
    assert (found.hard_weight == 1) == (name in ("task", "teacher", "prediction", "everything"))
    assert (found.intermediate_steps == 0) == (name in no_inside)
    gone = {"layers": {"hidden", "attention"}}.get(name, {name})
    assert set(found.parts) == set(PARTS) - gone


def test_stages_that_do_not_run_have_no_steps():
    found = leave_out(TinyBertRecipe(), [], ["prediction"])
    assert (found.general_steps, found.intermediate_steps) == (0, 0)
    assert found.prediction_steps == TinyBertRecipe().prediction_steps
    with pytest.raises(ValueError, match="no 'attn' to name here; there are: general, task"):
        leave_out(TinyBertRecipe(), ["attn"])
    with pytest.raises(ValueError, match="there are: general, intermediate, prediction"):
        leave_out(TinyBertRecipe(), [], ["last"])
    with pytest.raises(ValueError, match="nothing to compare"):
        leave_out(TinyBertRecipe(), ["layers", "embedding"])
    leave_out(TinyBertRecipe(), ["layers", "embedding", "general", "intermediate"])


# --- The command, on an encoder of 16 numbers -----------------------------------------------------

WORDS = ["ab", "abc", "ac", "bb", "abab", "cab"]


def intents():
    data = small_data()
    words = {"red": "ab", "green": "abc", "blue": "ac", "stop": "bb", "go": "abab", "wait": "cab"}

    def spell(row):
        return {"text": " ".join(words.get(word, word[0]) for word in row["text"].split())}

    return DatasetDict(
        {name: Dataset.from_list([row | spell(row) for row in split], features=split.features)
         for name, split in data.items()}
    )  # fmt: skip


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The assistant's task on 24 texts, an encoder of 16 numbers, a cache of its own."""
    torch.manual_seed(0)
    folder = tmp_path / "encoder"
    Bert(replace(TEACHER, vocab_size=len(PIECES), max_position_embeddings=32)).save_pretrained(
        folder
    )
    make_tokenizer(tmp_path).save(str(folder / "tokenizer.json"))
    data = intents()
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stored, "DATA", tmp_path / "data")
    for module in (tasks, tinybert_runs):
        monkeypatch.setattr(module, "pretrained_encoder", lambda progress=True: folder)
    monkeypatch.setattr(tinybert_runs, "docs_corpus", lambda progress=True: small_corpus())
    monkeypatch.setattr(Workshop, "candidates", lambda self, count: lambda words, place: WORDS)
    recipe = FineTuning(epochs=3, learning_rate=5e-3, batch_size=8)
    task = tasks.Task(
        lambda: data, tasks.class_head("intent"), tasks.intent_features, tasks.intent_scores, recipe
    )
    monkeypatch.setitem(tasks.TASKS, "intents", task)
    return folder


SMALL = (
    "--student-layers 2 --hidden 8 --heads 2 --intermediate 12 --general-steps 3 "
    "--general-max-length 16 --general-batch-tokens 64 --augment 2 --intermediate-steps 4 "
    "--prediction-steps 4 --batch-size 8 --pieces 12"
).split()


def command(*words):
    tinybert_runs.main([*words, *SMALL])


def test_the_command_writes_a_student_that_loads(small, tmp_path, capsys):
    command("--out", str(tmp_path / "out"), "--trim")
    classifier = TextClassifier.from_folder(tmp_path / "out")
    assert classifier.labels == NAMES
    assert classifier.logits(["ab abc", "bb"]).shape == (2, 3)
    record = json.loads((tmp_path / "out" / "tinybert.json").read_text())
    assert record["recipe"]["hidden_size"] == 8 and record["stages"] == list(tinybert_runs.STAGES)
    assert len(record["history"]["intermediate"]) == 4
    assert set(PARTS) < record["history"]["intermediate"][0].keys()
    assert record["trimmed"]["pieces"] == classifier.model.config.vocab_size
    assert 0 <= record["row"]["accuracy_argmax"] <= 1
    assert "projection" not in (tmp_path / "out" / "model.safetensors").read_bytes()[:4000].decode(
        errors="ignore"
    )


def test_the_general_student_is_made_once_for_all_runs(small, monkeypatch):
    made, plain = [], general_distillation

    def count(*given):
        made.append(given)
        return plain(*given)

    monkeypatch.setattr(tinybert_runs, "general_distillation", count)
    workshop = Workshop(pieces=12, progress=False)
    recipe = replace(RECIPE, general_max_length=16, general_batch_tokens=64)
    first, again = workshop.general(recipe), workshop.general(replace(recipe, augment=5))
    assert len(made) == 1 and unchanged(again, snapshot(first))
    kept = tinybert_runs.learned(first)
    assert all(name.startswith(("bert.", "hidden_projection.")) for name in kept)
    other = workshop.general(replace(recipe, parts=("embedding",)))
    assert len(made) == 2 and not unchanged(other, snapshot(first))
    plain_student = workshop.general(replace(recipe, general_steps=0))
    assert len(made) == 2
    head = (m.student.classifier.weight for m in (first, plain_student))
    assert torch.equal(*head)  # the first stage does not touch it
    assert not torch.equal(first.hidden_projection.weight, plain_student.hidden_projection.weight)


def test_all_models_of_a_workshop_read_the_same_pieces(small):
    workshop = Workshop(pieces=12, progress=False)
    size = workshop.tokenizer.get_vocab_size()
    assert size == workshop.teacher.config.vocab_size == workshop.encoder().config.vocab_size
    assert len(PIECES) > size >= 12
    data = workshop.data["train"]["text"][:]
    whole = Workshop(pieces=0, progress=False)
    assert whole.tokenizer.get_vocab_size() == len(PIECES)
    for a, b in zip(workshop.tokenizer.encode_batch(data), whole.tokenizer.encode_batch(data)):
        assert a.tokens == b.tokens
    features = [tasks.intent_features(w.tokenizer, w.data["test"]) for w in (workshop, whole)]
    torch.testing.assert_close(
        predict(workshop.teacher, features[0]), predict(whole.teacher, features[1])
    )
    for sentence in workshop.corpus.sentences():  # general text is covered, too
        pieces = whole.tokenizer.encode(sentence).tokens
        assert workshop.tokenizer.encode(sentence).tokens == pieces


def test_labels_follow_augmented_texts_and_answers_are_the_teachers(small):
    workshop = Workshop(pieces=12, progress=False)
    features = workshop.examples(replace(RECIPE, augment=2))
    plain = workshop.examples(RECIPE)
    assert len(plain) == 24 < len(features) <= 3 * 24
    answers = [one[TEACHER_LOGITS] for one in workshop.answered(features[:7])]
    torch.testing.assert_close(torch.stack(answers), predict(workshop.teacher, features[:7]))
    counts = [[row["labels"] for row in rows].count(0) for rows in (plain, features)]
    assert 0 < counts[0] <= counts[1]


def test_a_comparison_is_stored_resumed_and_summed_up(small, capsys):
    command("maps", "--seeds", "0")
    result = stored.stored_result("tinybert_maps")
    assert [row["setting"] for row in result["rows"]] == ["uniform", "top", "bottom"]
    assert result["recipe"]["augment"] == 2 and "in_scope_argmax" in result["teacher"]
    assert result["command"].startswith("python -m course_utils.tinybert maps --pieces 12")
    assert result["command"].endswith("--seeds 0")
    capsys.readouterr()
    command("maps", "--seeds", "0", "1")
    lines = capsys.readouterr().out.splitlines()
    assert sum('"seed": 1' in line for line in lines) == 3
    assert not any('"seed": 0' in line for line in lines)
    result = stored.stored_result("tinybert_maps")
    assert len(result["rows"]) == 6
    options = tinybert_runs.parser().parse_args(result["command"].split()[3:])
    assert options.seeds == [0, 1] and options.hidden_size == 8 and options.pieces == 12
    recipe = TinyBertRecipe(**result["recipe"])
    assert tinybert_runs.stored_rows("tinybert_maps", recipe) == result["rows"]
    assert tinybert_runs.stored_rows("tinybert_maps", replace(recipe, augment=3)) == []
    command("maps", "--seeds", "7", "--dry-run", "--only", "top")
    assert len(stored.stored_result("tinybert_maps")["rows"]) == 6


def test_a_run_that_another_comparison_has_made_is_not_made_again(small, capsys, monkeypatch):
    command("maps", "--seeds", "0", "--only", "uniform")
    uniform = stored.stored_result("tinybert_maps")["rows"][0]
    made, plain = [], Workshop.distil

    def distil(self, recipe, without=(), stages=tinybert_runs.STAGES):
        made.append(without)
        return plain(self, recipe, without, stages)

    monkeypatch.setattr(Workshop, "distil", distil)
    command("ablations", "--seeds", "0", "--only", "full", "without task", "without teacher")
    rows = stored.stored_result("tinybert_ablations")["rows"]
    assert made == [("task",), ("teacher",)]
    assert rows[0] == uniform | {"setting": "full"}


def test_ablations_and_augmentation_name_their_settings():
    recipe = TinyBertRecipe()
    names = [one.name for one in tinybert_runs.settings("ablations", recipe)]
    assert names == ["full", *(f"without {name}" for name in WITHOUT)]
    found = tinybert_runs.settings("augmentation", recipe, passes=2)
    assert [one.recipe.augment for one in found] == 2 * [0, 1, 5, 10, 20]
    assert [one.recipe.passes for one in found] == 5 * [0] + 5 * [2]


def test_an_ablation_without_prediction_learns_the_original_labels(small, monkeypatch):
    seen, plain = [], tinybert_runs.task_distillation

    def record(model, teacher, features, layer_map, recipe, *more):
        seen.append((len(features), recipe.hard_weight, recipe.prediction_steps))
        return plain(model, teacher, features, layer_map, recipe, *more)

    monkeypatch.setattr(tinybert_runs, "task_distillation", record)
    workshop = Workshop(pieces=12, progress=False)
    recipe = replace(RECIPE, general_steps=0, augment=2, passes=1)
    workshop.distil(recipe, ["prediction"])
    (augmented, _, _), (originals, hard, steps) = seen
    assert originals == 24 < augmented and hard == 1 and steps


def test_a_teacher_without_labels_is_fine_tuned_first_and_a_finished_one_needs_its_encoder(
    small, tmp_path
):
    given = Workshop(teacher=small, pieces=12, progress=False)
    assert given.teacher.labels == NAMES and given.encoder_folder == small
    folder = tasks.fine_tuned("intents", progress=False)
    finished = Workshop(teacher=folder, pieces=12, progress=False)
    assert finished.distil(replace(RECIPE, general_steps=0))[1]["steps"] == 90
    with pytest.raises(ValueError, match="name it with --encoder"):
        finished.general(replace(RECIPE, general_max_length=16, general_batch_tokens=64))
    with pytest.raises(ValueError, match="no encoder that this teacher was fine-tuned from"):
        other = tmp_path / "other"
        Bert(replace(TEACHER, vocab_size=len(PIECES), hidden_size=8)).save_pretrained(other)
        make_tokenizer(tmp_path).save(str(other / "tokenizer.json"))
        Workshop(teacher=folder, encoder=other, pieces=12, progress=False).encoder()


@pytest.mark.parametrize(
    "words, reason",
    [
        ([], "say where the student shall be written"),
        (["--out", "x", "--map", "2,9"], "no teacher layer 9"),
        (["--out", "x", "--map", "even"], "no layer map 'even'"),
        (["--out", "x", "--heads", "4"], "take --heads 2, or --without attention"),
        (["--out", "x", "--heads", "3"], "3 heads do not divide"),
        (["--out", "x", "--stages", "last"], "no 'last' to name here"),
        (["--out", "x", "--data", "docs_pairs"], "for docs_pairs take --augment 0"),
        (["--out", "x", "--teacher", "no such/folder/there"], "neither a folder nor a name"),
        (["maps", "--stages", "general"], "sets --without and --stages itself"),
        (["maps", "--only", "middle"], "no setting 'middle'"),
        (["--out", "x", "--without", "layers", "embedding"], "nothing to compare"),
    ],
)
def test_bad_input_ends_in_one_line(small, words, reason):
    with pytest.raises(SystemExit) as stop:
        tinybert_runs.main([*SMALL, *words])
    message = str(stop.value)
    assert message.startswith("tinybert: ") and reason in message and "\n" not in message


def test_without_the_attention_loss_the_number_of_heads_is_free(small, capsys):
    tinybert_runs.main([*SMALL, "--heads", "4", "--without", "attention", "--dry-run"])
    assert '"steps": 8' in capsys.readouterr().out


def test_the_papers_command_is_read_as_it_is_meant():
    words = (
        "--data clinc150 --teacher google-bert/bert-base-uncased --student-layers 4 --hidden 312 "
        "--intermediate 1200 --map 3,6,9,12 --pieces 0 --out tiny4"
    ).split()
    options = tinybert_runs.parser().parse_args(words)
    assert (options.layers, options.hidden_size, options.layer_map) == (4, 312, "3,6,9,12")
    assert options.kind == "distil" and options.data == "clinc150"


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "course_utils.tinybert", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "--without PART" in done.stdout


def test_the_first_stage_is_made_anew_for_each_number_that_it_depends_on():
    second = {
        "augment", "probability", "candidates", "intermediate_steps", "prediction_steps", "passes",
        "batch_size", "intermediate_learning_rate", "prediction_learning_rate", "temperature",
        "hard_weight",
    }  # fmt: skip
    assert set(tinybert_runs.GENERAL) == {one.name for one in fields(TinyBertRecipe)} - second


# --- What is stored -------------------------------------------------------------------------------


STORED = [
    kind
    for kind in tinybert_runs.KINDS
    if (stored.DATA / "results" / f"tinybert_{kind}.json").is_file()
]


@pytest.mark.parametrize("kind", STORED)
def test_stored_rows_are_those_of_the_command(kind):
    result = stored.stored_result(f"tinybert_{kind}")
    words = result["command"].split()
    options = tinybert_runs.parser().parse_args(words[3:])
    recipe = TinyBertRecipe(**result["recipe"])
    wanted = tinybert_runs.settings(kind, recipe, options.passes or 1)
    rows = [(row["setting"], row["seed"]) for row in result["rows"]]
    assert len(rows) == len(set(rows))
    assert set(rows) == {(one.name, seed) for one in wanted for seed in options.seeds}
    assert tinybert_runs.stored_rows(f"tinybert_{kind}", recipe) == result["rows"]
    for row in [result["teacher"], *result["rows"]]:
        assert 0 <= row["accuracy_argmax"] <= 1 and 0 <= row["in_scope_argmax"] <= 1


@pytest.mark.skipif(not STORED, reason="no comparison is stored yet")
def test_the_stored_teacher_comes_out_again():
    """The cheap row: on the cut vocabulary, the cached teacher's figures."""
    workshop = Workshop(progress=False)
    found = workshop.score(workshop.teacher)["in_scope_argmax"]
    for kind in STORED:
        stored_figure = stored.stored_result(f"tinybert_{kind}")["teacher"]["in_scope_argmax"]
        assert found == pytest.approx(stored_figure, abs=0.02)
