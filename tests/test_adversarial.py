import pytest
import torch

from course_utils.adversarial import (
    fgm_backward,
    pgd_backward,
    project,
    push,
    restored,
    worst_case_loss,
)
from course_utils.bert import BertConfig
from course_utils.finetuning import BertForSequenceClassification, FineTuning, fine_tune, freeze

CONFIG = BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
    max_position_embeddings=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
BATCH = {
    "input_ids": torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0], [2, 11, 12, 3]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]),
    "labels": torch.tensor([1, 0, 1]),
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BertForSequenceClassification(CONFIG, ["a", "b"])


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("step", [fgm_backward, pgd_backward])
def test_a_step_leaves_every_weight_as_it_was_bit_for_bit(model, step):
    before = weights(model)
    for _ in range(5):
        step(model, BATCH)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_subtracting_the_push_would_not_be_exact():
    torch.manual_seed(0)
    weight, offset = torch.randn(1000), 0.01 * torch.randn(1000)
    assert not torch.equal(weight + offset - offset, weight)


def test_restored_puts_back_after_an_error_too(model):
    table = model.bert.embeddings.token.weight
    before = table.detach().clone()
    with pytest.raises(KeyboardInterrupt), restored(table):
        table.data += 1.0
        raise KeyboardInterrupt
    assert torch.equal(table, before)


def test_fgm_adds_the_gradient_at_the_pushed_place_to_the_plain_one(model):
    loss = model(**BATCH).loss
    loss.backward()
    table = model.bert.embeddings.token.weight
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    before, offset = table.detach().clone(), push(table.grad, 0.3)
    model.zero_grad()
    table.data += offset
    model(**BATCH).loss.backward()
    table.data.copy_(before)
    expected = {name: p.grad + plain[name] for name, p in model.named_parameters()}
    model.zero_grad()
    assert torch.equal(fgm_backward(model, BATCH, epsilon=0.3), loss.detach())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_one_step_of_pgd_is_fgm(model):
    fgm_backward(model, BATCH, epsilon=0.3)
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    pgd_backward(model, BATCH, epsilon=0.5, step=0.3, steps=1)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_pgd_stays_within_the_ball(model, monkeypatch):
    table, seen = model.bert.embeddings.token.weight, []
    start = table.detach().clone()
    model.register_forward_pre_hook(lambda *_: seen.append((table.detach() - start).norm().item()))
    pgd_backward(model, BATCH, epsilon=0.5, step=0.4, steps=4)
    assert len(seen) == 5 and seen[0] == 0 and seen[1] == pytest.approx(0.4, abs=1e-5)
    assert max(seen) <= 0.5 + 1e-5


def test_push_has_length_epsilon_and_raises_the_loss(model):
    gradient = torch.tensor([3.0, 4.0])
    assert torch.allclose(push(gradient, 0.5), torch.tensor([0.3, 0.4]))
    assert torch.equal(push(torch.zeros(3), 0.5), torch.zeros(3))
    plain, pushed = worst_case_loss(model, BATCH, epsilon=0.3)
    assert pushed > plain
    assert all(p.grad is None for p in model.parameters())


def test_project_shortens_only_what_is_too_long():
    assert torch.allclose(project(torch.tensor([3.0, 4.0]), 1.0), torch.tensor([0.6, 0.8]))
    assert torch.equal(project(torch.tensor([0.3, 0.4]), 1.0), torch.tensor([0.3, 0.4]))


def test_frozen_embeddings_are_refused(model):
    freeze(model.bert, 1)
    with pytest.raises(ValueError, match="frozen_layers=0"):
        fgm_backward(model, BATCH)


def test_fine_tuning_takes_the_step(model):
    features = [
        {"input_ids": [2, 5 + i % 10, 3], "token_type_ids": [0, 0, 0], "labels": i % 2}
        for i in range(20)
    ]
    recipe = FineTuning(epochs=10, learning_rate=3e-3)
    history = fine_tune(model, features, recipe, backward=fgm_backward, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]
