import pytest
import torch
import torch.nn.functional as F

from course_utils.bert import BertConfig
from course_utils.finetuning import BertForSequenceClassification, FineTuning, fine_tune, predict
from course_utils.multitask import (
    BertForSeveralTasks,
    add_labels,
    gradient_cosines,
    uncertainty_loss,
)

CONFIG = BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
    max_position_embeddings=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    initializer_range=0.3,
)  # fmt: skip
TASKS = {"intent": ["a", "b", "c"], "domain": ["x", "y"]}
BATCH = {
    "input_ids": torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0], [2, 11, 12, 3]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]),
    "intent": torch.tensor([2, 0, 1]),
    "domain": torch.tensor([1, 0, 0]),
}
INPUTS = {name: BATCH[name] for name in ("input_ids", "attention_mask")}


def make(**arguments):
    torch.manual_seed(0)
    return BertForSeveralTasks(CONFIG, TASKS, **arguments).eval()


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_however_much_is_shared_the_first_answers_are_the_same(shared):
    """Each task's own layers start as copies."""
    expected, found = make(), make()
    found.share(shared)
    torch.testing.assert_close(found(**INPUTS).logits, expected(**INPUTS).logits)


def test_with_all_layers_shared_it_is_the_classifier_of_lesson_06():
    model = make()
    single = BertForSequenceClassification(CONFIG, TASKS["intent"]).eval()
    single.bert.load_state_dict(model.bert.state_dict())
    single.classifier.load_state_dict(model.heads["intent"].state_dict())
    logits = model.split(model(**INPUTS).logits)
    torch.testing.assert_close(logits["intent"], single(**INPUTS).logits)
    assert logits["domain"].shape == (3, 2)


def test_a_tasks_own_layers_get_no_gradient_from_another_task():
    model = make(shared_layers=1, weighting={"intent": 0.0, "domain": 1.0})
    model(**BATCH).loss.backward()
    own = model.bert.encoder.layers[1].attention.query.weight.grad  # the first task's
    assert own is None or not own.any()
    assert model.branches["domain"]["layers"][0].attention.query.weight.grad.any()
    assert model.bert.encoder.layers[0].attention.query.weight.grad.any()


def test_fixed_weights_weigh_the_losses():
    logits = make().split(make()(**INPUTS).logits)
    losses = [F.cross_entropy(logits[name], BATCH[name]) for name in TASKS]
    model = make(weighting={"intent": 2.0, "domain": 0.5})
    torch.testing.assert_close(model(**BATCH).loss, 2 * losses[0] + 0.5 * losses[1])
    assert not model.log_variances.requires_grad


def test_uncertainty_starts_as_the_plain_sum_and_rests_where_weight_is_half_over_loss():
    losses, s = torch.tensor([3.0, 0.1]), torch.zeros(2, requires_grad=True)
    assert uncertainty_loss(losses, s).item() == pytest.approx(3.1)
    best = torch.log(2 * losses).requires_grad_()
    (gradient,) = torch.autograd.grad(uncertainty_loss(losses, best), best)
    assert gradient.abs().max() < 1e-6


def test_gradients_of_the_same_task_agree_and_of_opposite_labels_conflict():
    torch.manual_seed(0)
    model = BertForSeveralTasks(CONFIG, {"a": ["0", "1"], "b": ["0", "1"]}).eval()
    model.heads["b"].load_state_dict(model.heads["a"].state_dict())
    labels = torch.tensor([1, 0, 1])
    same = gradient_cosines(model, INPUTS | {"a": labels, "b": labels}, "a", "b")
    assert same.shape == (3,) and (same > 0.999).all()
    against = gradient_cosines(model, INPUTS | {"a": labels, "b": 1 - labels}, "a", "b")
    assert (against < -0.7).all()
    assert all(p.grad is None for p in model.parameters())


def test_it_learns_both_tasks_in_the_loop_of_lesson_06():
    rows = [{"input_ids": [2, 5 + i % 6, 3], "token_type_ids": [0] * 3} for i in range(24)]
    features = add_labels(
        rows, intent=[i % 3 for i in range(24)], domain=[i % 2 for i in range(24)]
    )
    model = make(weighting="uncertainty")
    recipe = FineTuning(epochs=60, learning_rate=1e-2, batch_size=24)
    fine_tune(model, features, recipe, progress=False)
    found = model.split(predict(model, features))
    assert found["intent"].argmax(-1).tolist() == [i % 3 for i in range(24)]
    assert found["domain"].argmax(-1).tolist() == [i % 2 for i in range(24)]
    assert model.log_variances.abs().max() > 0.01  # they learned too


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="shared layers"):
        make(shared_layers=3)
    with pytest.raises(ValueError, match="weighting"):
        make(weighting={"intent": 1.0})
    with pytest.raises(ValueError, match="'intent'"):
        add_labels([{}, {}], intent=[1])
    with pytest.raises(ValueError, match="log variances"):
        uncertainty_loss(torch.ones(2), torch.zeros(3))
