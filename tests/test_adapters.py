import pytest
import torch
from torch import nn

from course_utils.adapters import (
    Adapter,
    LoRALinear,
    add_adapters,
    add_lora,
    merge_lora,
    trained_parameters,
)
from course_utils.bert import Bert, BertConfig
from course_utils.finetuning import BertForSequenceClassification, FineTuning, fine_tune

CONFIG = BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
    max_position_embeddings=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    initializer_range=0.3,
)  # fmt: skip
IDS = torch.tensor([[2, 5, 9, 3], [2, 7, 8, 3]])
FEATURES = [
    {"input_ids": [2, 5 + i % 10, 3], "token_type_ids": [0, 0, 0], "labels": i % 2}
    for i in range(20)
]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BertForSequenceClassification(CONFIG, ["a", "b"]).eval()


@pytest.mark.parametrize("add", [add_adapters, add_lora])
def test_right_after_they_are_put_in_nothing_changes(model, add):
    before = model(IDS).logits
    add(model.bert, 4)
    torch.testing.assert_close(model(IDS).logits, before)


@pytest.mark.parametrize("add", [add_adapters, add_lora])
def test_only_the_new_numbers_are_trained(model, add):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    places = {id(p): name for name, p in model.named_parameters()}
    add(model.bert, 4)
    recipe = FineTuning(epochs=6, learning_rate=1e-2, frozen_layers=None)
    history = fine_tune(model, FEATURES, recipe, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]
    may_move = ("norm", "pooler", "classifier") if add is add_adapters else ("pooler", "classifier")
    for parameter in model.parameters():
        name = places.get(id(parameter))
        if name and not any(part in name for part in may_move):
            assert torch.equal(parameter, before[name]), name


def test_trained_parameters_of_adapters_are_counted_in_closed_form(model):
    add_adapters(model.bert, bottleneck=3)
    adapters = 2 * 2 * (2 * 8 * 3 + 8 + 3)
    norms, pooler, head = 2 * 2 * 2 * 8, 8 * 9, 2 * 9
    assert trained_parameters(model)[0] == adapters + norms + pooler + head


def test_trained_parameters_of_lora_are_counted_in_closed_form(model):
    whole = trained_parameters(model)[1]
    add_lora(model.bert, rank=2)
    added = 2 * 2 * 2 * (8 + 8)
    assert trained_parameters(model) == (added + 8 * 9 + 2 * 9, whole + added)


def test_merged_lora_says_the_same_and_is_plain(model):
    add_lora(model.bert, rank=2, names=("query", "key", "value", "output"))
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.B)
    before = model(IDS).logits
    merge_lora(model.bert)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    torch.testing.assert_close(model(IDS).logits, before)


def test_a_new_lora_layer_can_learn():
    layer = LoRALinear(nn.Linear(6, 5), rank=2)
    layer(torch.randn(4, 6)).pow(2).sum().backward()
    assert layer.B.grad.abs().sum() > 0
    assert layer.linear.weight.grad is None


def test_lora_is_scaled_by_alpha_over_rank():
    layer = LoRALinear(nn.Linear(6, 5), rank=2, alpha=6.0)
    nn.init.normal_(layer.B)
    x = torch.randn(3, 6)
    expected = layer.linear(x) + 3.0 * x @ (layer.B @ layer.A).T
    torch.testing.assert_close(layer(x), expected)


def test_sizes_that_can_not_be_are_refused():
    with pytest.raises(ValueError, match="bottleneck"):
        Adapter(8, 0)
    with pytest.raises(ValueError, match="1 to 5"):
        LoRALinear(nn.Linear(6, 5), rank=6)


def test_a_bert_without_pooler_takes_both():
    bert = add_adapters(Bert(CONFIG, with_pooler=False), 2)
    assert any(parameter.requires_grad for parameter in bert.parameters())
