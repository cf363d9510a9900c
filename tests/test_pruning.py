"""Pruning: exact masks, the schedule, scores that learn, shrunk models, codebooks."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from course_utils.bert import BertConfig
from course_utils.data.docs import fast_tokenizer
from course_utils.finetuning import (
    BertForSequenceClassification,
    FineTuning,
    TextClassifier,
    collate,
    encode,
    fine_tune,
    set_dropout,
)
from course_utils.pruning import (
    PruningStep,
    SparseLinear,
    cubic_sparsity,
    damage,
    encoder_weights,
    finished,
    global_masks,
    importance,
    input_hessian,
    kept_numbers,
    load_pruned,
    magnitude_mask,
    masked_copy,
    movement_gradient,
    others,
    pruned_count,
    save_pruned,
    share_weights,
    shrink,
    sparse_copy,
    sparse_layers,
    sparsity_of,
    surgeon_cost,
    switched_off,
    top_mask,
    without_weight,
)
from course_utils.quantization import fake_quantize_model, load_quantized, save_quantized

SETTINGS = settings(max_examples=150, deadline=None)
TEXTS = ["a b c", "d e f g h", "i", "j a d e b c h"]


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" + "\n".join("abcdefghij") + "\n")
    return fast_tokenizer(path)


@pytest.fixture
def model():
    config = BertConfig(
        vocab_size=15, hidden_size=12, num_hidden_layers=3, num_attention_heads=3,
        intermediate_size=20, max_position_embeddings=16, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForSequenceClassification(config, ["x", "y", "z"]).eval()


@pytest.fixture
def features(tokenizer):
    found = encode(tokenizer, TEXTS, max_length=12)
    return [row | {"labels": i % 3} for i, row in enumerate(found)]


def logits(model, tokenizer):
    return TextClassifier(model, tokenizer).logits(TEXTS)


# --- Masks ----------------------------------------------------------------------------------------

few_values = st.sampled_from([-1.0, 0.0, 0.5, 1.0])  # many ties
scores = arrays.arrays(
    "float32",
    arrays.array_shapes(min_dims=1, max_dims=3, max_side=6),
    elements=few_values | st.floats(-(2.0**99), 2.0**99, width=32),
).map(torch.from_numpy)


@SETTINGS
@given(scores, st.floats(0, 1, exclude_max=True))
def test_the_mask_prunes_exactly_as_many_as_it_says_and_no_higher_score(tensor, sparsity):
    mask = top_mask(tensor, sparsity)
    assert mask.shape == tensor.shape and mask.dtype == torch.bool
    assert (~mask).sum() == pruned_count(tensor.numel(), sparsity) < tensor.numel()
    if not mask.all():
        assert tensor[~mask].max() <= tensor[mask].min()


def test_half_of_all_equal_numbers_goes_the_first_half():
    assert top_mask(torch.ones(6), 0.5).tolist() == [False] * 3 + [True] * 3
    assert magnitude_mask(torch.zeros(2, 2), 0.5).tolist() == [[False, False], [True, True]]


def test_magnitude_does_not_read_the_sign():
    mask = magnitude_mask(torch.tensor([-3.0, 1.0, 2.0, -0.5]), 0.5)
    assert mask.tolist() == [True, False, True, False]


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_a_sparsity_outside_0_to_1_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity"):
        magnitude_mask(torch.ones(4), sparsity)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_has_no_order_is_refused(bad):
    with pytest.raises(ValueError, match="1 places"):
        magnitude_mask(torch.tensor([1.0, bad]), 0.5)
    with pytest.raises(ValueError, match="empty"):
        magnitude_mask(torch.empty(0, 3), 0.5)


def test_at_least_one_number_stays():
    assert magnitude_mask(torch.tensor([1.0, 2.0]), 0.99).tolist() == [False, True]
    assert magnitude_mask(torch.tensor([2.0]), 0.99).tolist() == [True]


@SETTINGS
@given(scores, st.floats(0, 1, exclude_max=True))
def test_a_global_mask_is_one_ranking(tensor, sparsity):
    found = global_masks({"a": tensor, "b": 2 * drawn(3, 2)}, sparsity)
    whole = torch.cat([tensor.flatten(), 2 * drawn(3, 2).flatten()])
    joined = torch.cat([found["a"].flatten(), found["b"].flatten()])
    assert torch.equal(joined, top_mask(whole, sparsity))
    with pytest.raises(ValueError):
        global_masks({}, 0.5)


def test_only_the_encoder_is_pruned(model):
    names = list(encoder_weights(model))
    assert len(names) == 18 and all(name.startswith("bert.encoder.layers.") for name in names)
    masks = {name: magnitude_mask(w, 0.75) for name, w in encoder_weights(model).items()}
    pruned = masked_copy(model, masks)
    assert sparsity_of(encoder_weights(pruned).values()) == pytest.approx(0.75)
    assert sparsity_of(encoder_weights(model).values()) == 0
    assert torch.equal(pruned.classifier.weight, model.classifier.weight)


# --- Brain damage, brain surgeon ------------------------------------------------------------------


def test_both_costs_are_the_error_that_is_measured():
    x = drawn(200, 5, dtype=torch.float64) @ drawn(5, 5, seed=1, dtype=torch.float64)
    weight, hessian = drawn(5, seed=2, dtype=torch.float64), input_hessian(x)
    inverse = torch.linalg.inv(hessian)
    for q in range(5):
        plain = weight.clone()
        plain[q] = 0
        adjusted = without_weight(weight, inverse, q)
        cost = [((x @ (w - weight)) ** 2).mean() / 2 for w in (plain, adjusted)]
        assert torch.isclose(cost[0], damage(weight, hessian)[q])
        assert torch.isclose(cost[1], surgeon_cost(weight, inverse)[q])
        assert cost[1] <= cost[0] and adjusted[q] == 0
        others_ = [i for i in range(5) if i != q]  # least squares without that input
        best = torch.linalg.lstsq(x[:, others_], x @ weight).solution
        assert torch.allclose(adjusted[others_], best)


# --- The schedule ---------------------------------------------------------------------------------


@SETTINGS
@given(st.integers(0, 50), st.integers(1, 20), st.integers(1, 10), st.floats(0, 0.4),
       st.floats(0.4, 0.99), st.integers(-5, 400))  # fmt: skip
def test_the_schedule_is_its_formula_and_never_falls(start, steps, interval, low, high, step):
    found = cubic_sparsity(step, start, steps, interval, low, high)
    t = start + interval * ((step - start) // interval)
    t = min(max(t, start), start + steps * interval)
    formula = high + (low - high) * (1 - (t - start) / (steps * interval)) ** 3
    assert found == pytest.approx(formula)
    assert found <= cubic_sparsity(step + 1, start, steps, interval, low, high) + 1e-12
    assert cubic_sparsity(start, start, steps, interval, low, high) == pytest.approx(low)
    assert cubic_sparsity(10_000, start, steps, interval, low, high) == high


@pytest.mark.parametrize("bad", [(0, 4, 1, 0.5, 0.2), (0, 4, 1, 0.0, 1.0), (0, 0, 1, 0.0, 0.5),
                                 (0, 4, 0, 0.0, 0.5), (0, 4, 1, -0.1, 0.5)])  # fmt: skip
def test_a_schedule_that_can_not_be_is_refused(bad):
    with pytest.raises(ValueError):
        cubic_sparsity(3, *bad)


# --- Scores that learn ----------------------------------------------------------------------------


def test_the_gradient_of_the_scores_is_the_formula_for_masked_weights_too():
    layer = SparseLinear(nn.Linear(6, 4), "movement")
    with torch.no_grad():
        layer.scores.copy_(drawn(4, 6))
    layer.refresh(0.5)
    x, wanted = drawn(7, 6, seed=1), drawn(7, 4, seed=2)
    (layer(x) * wanted).sum().backward()
    expected = movement_gradient(layer.weight.detach(), x, wanted)
    assert torch.allclose(layer.scores.grad, expected, atol=1e-6)
    gone = layer.mask == 0
    assert gone.sum() == 12 and layer.scores.grad[gone].abs().min() > 0
    assert (layer.weight.grad[gone] == 0).all() and (layer.weight.grad[~gone] != 0).all()


def test_a_weight_that_training_pushes_to_0_loses_its_score():
    layer = SparseLinear(nn.Linear(2, 1, bias=False), "movement")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 0.1]]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    for _ in range(3):  # wanted: 0 of the first, large of the second
        loss = (layer(torch.eye(2)) - torch.tensor([[0.0], [3.0]])).pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    layer.refresh(0.5)
    assert layer.mask.tolist() == [[0.0, 1.0]]
    assert magnitude_mask(layer.weight, 0.5).tolist() == [[True, False]]  # still the larger


def test_soft_masks_keep_what_lies_above_the_threshold():
    layer = SparseLinear(nn.Linear(3, 2), "soft", threshold=0.5)
    layer.refresh()
    assert layer.mask.all()
    with torch.no_grad():
        layer.scores.copy_(torch.tensor([[-1.0, 0.5, 2.0], [0.0, -0.1, 0.1]]))
    layer.refresh(0.9)
    assert layer.mask.tolist() == [[0, 1, 1], [0, 0, 1]]
    layer.masked().sum().backward()
    smooth = layer.scores.detach().sigmoid()
    slope = layer.weight.detach() * smooth * (1 - smooth)
    assert torch.allclose(layer.scores.grad, slope, atol=1e-6)
    with pytest.raises(ValueError, match="threshold"):
        SparseLinear(nn.Linear(3, 2), "soft", threshold=1.0).refresh()
    with pytest.raises(ValueError, match="there is no way"):
        SparseLinear(nn.Linear(3, 2), "random")


@pytest.mark.parametrize("how", ["magnitude", "movement"])
def test_training_ends_at_the_sparsity_asked_for(model, features, how):
    sparse = sparse_copy(set_dropout(copy.deepcopy(model), 0.0), how)
    step = PruningStep(lambda t: cubic_sparsity(t, 0, 4, 1, 0.0, 0.75))
    recipe = FineTuning(epochs=8, batch_size=4, learning_rate=1e-2, frozen_layers=None)
    history = fine_tune(sparse, features, recipe, backward=step, progress=False)
    assert step.step == 8 and history[-1]["loss"] < history[0]["loss"]
    dense = finished(sparse)
    assert not sparse_layers(dense) and list(dense.state_dict()) == list(model.state_dict())
    for weight in encoder_weights(dense).values():
        assert (weight == 0).sum() == pruned_count(weight.numel(), 0.75)
    assert torch.allclose(dense(**_batch(features)).logits, sparse(**_batch(features)).logits)


def _batch(features):
    return {k: v for k, v in collate(features).items() if k != "labels"}


def test_what_is_masked_survives_the_optimizer_and_a_mask_applied_once_does_not(model, features):
    """The common bug: after a mask is applied once, momentum moves the zeros."""
    recipe = FineTuning(epochs=3, batch_size=4, learning_rate=1e-2, frozen_layers=None)
    masks = {name: magnitude_mask(w, 0.5) for name, w in encoder_weights(model).items()}
    once = masked_copy(model, masks)
    fine_tune(once, features, recipe, progress=False)
    assert sparsity_of(encoder_weights(once).values()) < 0.01
    kept = sparse_copy(model)
    fine_tune(kept, features, recipe, backward=PruningStep(lambda _: 0.5, every=100),
              progress=False)  # fmt: skip
    for name, weight in encoder_weights(finished(kept)).items():
        assert (weight[~masks[name]] == 0).all() and (weight[masks[name]] != 0).all()


def test_soft_pruning_prunes_more_with_a_higher_price(model, features):
    recipe = FineTuning(epochs=60, batch_size=4, learning_rate=0.1, frozen_layers=None)
    shares = []
    for price in (0.0, 100.0):
        sparse = sparse_copy(model, "soft")
        fine_tune(sparse, features, recipe, progress=False,
                  backward=PruningStep(lambda _: 0.0, keep=price))  # fmt: skip
        shares.append(sparsity_of(encoder_weights(finished(sparse)).values()))
    assert shares[0] < 0.6 < shares[1]


# --- Heads and neurons ----------------------------------------------------------------------------

GONE = ({0: [1], 2: [0, 2]}, {0: [3, 4, 19], 1: range(15)})


def test_the_shrunk_model_answers_like_the_masked_one(model, tokenizer):
    masked, small = switched_off(model, *GONE), shrink(model, *GONE)
    difference = (logits(masked, tokenizer) - logits(small, tokenizer)).abs().max()
    assert difference < 1e-5
    assert (logits(masked, tokenizer) - logits(model, tokenizer)).abs().max() > 0.01
    layers = small.bert.encoder.layers
    assert [layer.attention.num_heads for layer in layers] == [2, 3, 1]
    assert layers[2].attention.query.weight.shape == (4, 12)
    assert layers[2].attention.output.weight.shape == (12, 4)
    assert [layer.feed_forward.expand.out_features for layer in layers] == [17, 5, 20]
    count = [sum(p.numel() for p in one.parameters()) for one in (model, masked, small)]
    assert count[2] < count[0] == count[1]
    assert count[0] - count[2] == 3 * (3 * 4 * 13 + 12 * 4) + (3 + 15) * (12 + 1 + 12)


def test_the_rows_of_a_head_are_its_own(model):
    small = shrink(model, {0: [1]})
    before, after = (one.bert.encoder.layers[0].attention for one in (model, small))
    stay = [*range(0, 4), *range(8, 12)]
    assert torch.equal(after.value.weight, before.value.weight[stay])
    assert torch.equal(after.value.bias, before.value.bias[stay])
    assert torch.equal(after.output.weight, before.output.weight[:, stay])
    assert torch.equal(after.output.bias, before.output.bias)


def test_shrinking_twice_is_shrinking_once(model, tokenizer):
    once = shrink(model, {0: [0, 2]})
    twice = shrink(shrink(model, {0: [0]}), {0: [1]})  # head 2 is number 1 by now
    assert torch.equal(logits(once, tokenizer), logits(twice, tokenizer))


@pytest.mark.parametrize(
    "gone, words",
    [
        (({0: [0, 1, 2]}, None), "no head left"),
        ((None, {1: range(20)}), "no neuron left"),
        (({3: [0]}, None), "no layer 3"),
        (({0: [3]}, None), "no head 3"),
        ((None, {0: [-1]}), "no neuron -1"),
    ],
)
def test_what_can_not_go_is_refused(model, gone, words):
    for call in (shrink, switched_off):
        with pytest.raises(ValueError, match=words):
            call(model, *gone)


def test_a_shrunk_model_can_be_trained_and_comes_back_from_its_folder(
    model, tokenizer, features, tmp_path
):
    small = shrink(model, *GONE)
    recipe = FineTuning(epochs=20, batch_size=4, learning_rate=1e-2, frozen_layers=None)
    history = fine_tune(small, features, recipe, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]
    file = save_pruned(small, tokenizer, tmp_path / "small")
    found = load_pruned(tmp_path / "small")
    assert torch.equal(found.logits(TEXTS), logits(small.eval(), tokenizer))
    whole = save_pruned(model, tokenizer, tmp_path / "whole")
    assert file.stat().st_size < whole.stat().st_size - 3000
    with pytest.raises(ValueError, match="save_pruned"):
        load_pruned(tmp_path)


@pytest.mark.parametrize("bits, near", [(8, 0.5), (4, 1e-5)])
def test_a_shrunk_model_can_be_quantized_too(model, tokenizer, tmp_path, bits, near):
    rounded = fake_quantize_model(shrink(model, *GONE), bits, embedding_bits=bits)
    save_quantized(rounded, tokenizer, tmp_path, embedding_bits=bits)
    found = load_quantized(tmp_path)
    difference = found.logits(TEXTS) - logits(rounded, tokenizer)
    assert difference.abs().max() < near  # 8 bits: the kernel rounds its inputs too
    assert [layer.attention.num_heads for layer in found.model.bert.encoder.layers] == [2, 3, 1]


def test_importance_is_the_gradient_of_a_gate(model, features):
    """∂L/∂ξ by finite differences: a gate of 1 ± ε on the columns that read a head or a neuron."""
    model.double()
    heads, neurons = importance(model, features, batch_size=3)
    assert heads.shape == (3, 3) and neurons.shape == (3, 20)

    def slopes(layer, which, columns):
        matrix = getattr(*which(model.bert.encoder.layers[layer])).weight
        found = []
        for i in range(len(features)):
            losses = []
            for factor in (1 + 1e-5, 1 - 1e-5):
                before = matrix.detach().clone()
                with torch.no_grad():
                    matrix[:, columns] *= factor
                    losses.append(model(**collate([features[i]])).loss.item())
                    matrix.copy_(before)
            found.append((losses[0] - losses[1]) / 2e-5)
        return sum(map(abs, found)) / len(found)

    head = slopes(1, lambda layer: (layer.attention, "output"), slice(4, 8))
    assert head == pytest.approx(heads[1, 1].item(), rel=1e-4)
    neuron = slopes(2, lambda layer: (layer.feed_forward, "contract"), slice(7, 8))
    assert neuron == pytest.approx(neurons[2, 7].item(), rel=1e-4)


def test_importance_leaves_the_model_as_it_was(model, features):
    model.requires_grad_(False).train()
    before = copy.deepcopy(model.state_dict())
    importance(model, features)
    assert model.training and not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_head_that_is_switched_off_has_no_importance(model, features):
    heads, neurons = importance(switched_off(model, {1: [2]}, {0: [5]}), features)
    assert heads[1, 2] == 0 and neurons[0, 5] == 0 and (heads > 0).sum() == 8
    kept = kept_numbers(heads, 0.4)
    assert [len(row) for row in kept] == [2, 2, 2] and 2 not in kept[1]
    assert others([[0, 2], [1]], 3) == {0: [1], 1: [0, 2]}


# --- Shared weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_shared_weights_are_the_nearest_of_a_few_values(bits):
    weight = drawn(40, 30)
    shared = share_weights(weight, bits)
    back = shared.dequantize()
    assert back.shape == weight.shape and len(back.unique()) <= 2**bits
    distances = (weight.flatten()[:, None] - shared.codebook[None]).abs()  # (1200, 2^bits)
    assert torch.allclose((back - weight).abs().flatten(), distances.amin(1), atol=1e-6)
    assert shared.nbytes() == -(-1200 * bits // 8) + 4 * 2**bits
    if bits < 8:
        finer = share_weights(weight, bits + 1).dequantize()
        assert (finer - weight).pow(2).mean() < (back - weight).pow(2).mean()


def test_what_can_not_be_shared_is_refused():
    for weight, bits in ((torch.ones(5), 2), (torch.empty(0), 2),
                         (torch.tensor([1.0, float("nan")]), 2),
                         (drawn(99), 1), (drawn(99), 9)):  # fmt: skip
        with pytest.raises(ValueError):
            share_weights(weight, bits)
