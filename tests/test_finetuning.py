"""Fine-tuning: the classifier, its batches, its groups, its loop."""

import math
from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn

from course_utils.bert import Bert, BertConfig
from course_utils.finetuning import (
    BertForSequenceClassification,
    FineTuning,
    TaskOutput,
    TextClassifier,
    accuracy,
    collate,
    encode,
    fine_tune,
    freeze,
    layer_of,
    length_batches,
    load_tokenizer,
    parameter_groups,
    predict,
)
from course_utils.pretraining import IGNORE

SETTINGS = settings(max_examples=25, deadline=None)
WORDS = "red green blue stop go wait now then".split()
CONFIG = BertConfig(
    vocab_size=16,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
)
LABELS = ["colour", "move", "time"]


def make_tokenizer() -> Tokenizer:
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def make_model(seed: int = 0, **changes) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(replace(CONFIG, **changes), LABELS)


@pytest.fixture
def features():
    """Which group does the second word belong to? 48 texts of 3 to 6 words."""
    generator = torch.Generator().manual_seed(0)
    groups = (WORDS[:3], WORDS[3:6], WORDS[6:])
    texts, labels = [], []
    for i in range(48):
        label = i % 3
        draw = torch.randint(100, (6,), generator=generator).tolist()
        words = [groups[label][n % len(groups[label])] for n in draw]
        texts.append(" ".join(words[: 3 + i % 4]))
        labels.append(label)
    return encode(make_tokenizer(), texts, labels=labels)


# --- texts to tensors


def test_encode_adds_special_tokens_and_pads_nothing():
    one, two = encode(make_tokenizer(), ["red", "stop go now"], labels=[0, 1])
    assert one == {"input_ids": [2, 4, 3], "token_type_ids": [0, 0, 0], "labels": 0}
    assert len(two["input_ids"]) == 5


def test_encode_gives_the_second_text_type_1_from_its_first_word_to_its_sep():
    (pair,) = encode(make_tokenizer(), ["red green"], ["stop"])
    assert pair["input_ids"] == [2, 4, 5, 3, 7, 3]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_encode_cuts_the_longer_of_a_pair_and_keeps_the_special_tokens():
    (pair,) = encode(make_tokenizer(), ["red green blue stop go"], ["now"], max_length=6)
    assert pair["input_ids"] == [2, 4, 5, 3, 10, 3]


def test_encode_leaves_the_tokenizer_without_truncation():
    tokenizer = make_tokenizer()
    encode(tokenizer, ["red green blue"], max_length=4)
    assert tokenizer.truncation is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(texts=["red"], labels=[0, 1]), "2 labels"),
        (dict(texts=["red"], pairs=[]), "0 pairs"),
        (dict(texts=["red", None]), "must be strings"),
        (dict(texts=["red"], max_length=2), "no room"),
    ],
)
def test_encode_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        encode(make_tokenizer(), **arguments)


def test_collate_pads_to_the_longest_of_the_batch_and_masks_by_length():
    batch = collate(
        [
            {"input_ids": [2, 0, 3], "token_type_ids": [0, 0, 1], "labels": 2},
            {"input_ids": [2, 5, 6, 3], "token_type_ids": [0, 0, 0, 1], "labels": 0},
        ],
        pad_id=9,
    )
    assert batch["input_ids"].tolist() == [[2, 0, 3, 9], [2, 5, 6, 3]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [2, 0]


def test_collate_fills_labels_of_tokens_with_what_the_loss_passes_over():
    batch = collate([{"input_ids": [2, 3], "labels": [1, 1]}, {"input_ids": [2], "labels": [0]}])
    assert batch["labels"].tolist() == [[1, 1], [0, IGNORE]]


def test_collate_refuses_an_empty_batch():
    with pytest.raises(ValueError, match="empty"):
        collate([])


@SETTINGS
@given(st.lists(st.integers(1, 40), max_size=120), st.integers(1, 9), st.integers(0, 3))
def test_length_batches_are_a_permutation_in_batches_of_the_size(lengths, batch_size, seed):
    batches = length_batches(lengths, batch_size, torch.Generator().manual_seed(seed), window=2)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)


def test_length_batches_waste_less_padding_than_random_ones():
    lengths = torch.randint(3, 60, (640,), generator=torch.Generator().manual_seed(1)).tolist()
    generator = torch.Generator().manual_seed(0)

    def padded(batches):
        return sum(len(b) * max(lengths[i] for i in b) for b in batches)

    order = torch.randperm(640, generator=generator).tolist()
    random = [order[i : i + 32] for i in range(0, 640, 32)]
    assert padded(length_batches(lengths, 32, generator)) < 0.75 * padded(random)


# --- the model


def test_logits_and_loss_are_those_of_hugging_face(tmp_path):
    ours = make_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours.save_pretrained(tmp_path)
    theirs = transformers.BertForSequenceClassification.from_pretrained(tmp_path).eval()
    batch = collate(
        [
            {"input_ids": [2, 5, 6, 3, 7, 3], "token_type_ids": [0, 0, 0, 0, 1, 1], "labels": 2},
            {"input_ids": [2, 9, 3], "token_type_ids": [0, 0, 0], "labels": 1},
        ]
    )
    found, expected = ours(**batch), theirs(**batch)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=1e-5)
    assert theirs.config.id2label == dict(enumerate(LABELS))


def test_a_saved_classifier_comes_back_with_its_labels(tmp_path):
    model = make_model().eval()
    TextClassifier(model, make_tokenizer()).save(tmp_path)
    back = TextClassifier.from_folder(tmp_path)
    texts = ["red green", "stop go wait now"]
    assert back.labels == LABELS
    torch.testing.assert_close(
        back.logits(texts), TextClassifier(model, make_tokenizer()).logits(texts)
    )
    answers = back(texts)
    assert [set(a) for a in answers] == [{"label", "score"}] * 2
    assert answers[0]["score"] == pytest.approx(back.logits(texts).softmax(-1).max(-1)[0][0].item())


def test_the_head_is_drawn_from_its_seed_and_the_body_is_the_folders(tmp_path):
    torch.manual_seed(5)
    bert = Bert(CONFIG)
    bert.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    one, same, other = (
        BertForSequenceClassification.from_encoder(tmp_path, LABELS, seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)  # the caller's numbers are left alone
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    for name, parameter in bert.named_parameters():
        assert torch.equal(one.bert.get_parameter(name), parameter), name
    assert not one.training


def test_fields_of_the_config_can_be_replaced(tmp_path):
    Bert(CONFIG).save_pretrained(tmp_path)
    model = BertForSequenceClassification.from_encoder(tmp_path, LABELS, hidden_dropout_prob=0.3)
    assert model.dropout.p == 0.3 and model.bert.embeddings.dropout.p == 0.3


@pytest.mark.parametrize("labels", [[], ["a", "a"]])
def test_labels_must_be_different_names(labels):
    with pytest.raises(ValueError, match="different names"):
        BertForSequenceClassification(CONFIG, labels)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer.json"):
        load_tokenizer(tmp_path)


def test_padding_does_not_change_a_texts_logits():
    model = make_model().eval()
    short, long = encode(make_tokenizer(), ["red", "stop go wait now then red"])
    alone = predict(model, [short])
    torch.testing.assert_close(predict(model, [short, long])[:1], alone, atol=1e-6, rtol=1e-5)


# --- groups and freezing


def test_rates_fall_layer_by_layer_below_the_head():
    model = make_model()
    groups = parameter_groups(model, 1e-3, 0.01, layer_decay=0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        depth = {"head": 3}.get(name, layer_of(name, 2))  # 0 embeddings, 1, 2 layers, 3 the head
        assert rate[id(parameter)] == pytest.approx(1e-3 * 0.5 ** (3 - depth)), name
    assert layer_of("classifier.weight", 2) == layer_of("bert.pooler.dense.bias", 2) == 3
    assert layer_of("bert.embeddings.token.weight", 2) == 0
    assert layer_of("bert.encoder.layers.1.attention.query.weight", 2) == 2


def test_biases_and_layer_norms_are_not_decayed_and_nothing_is_left_out():
    model = make_model()
    groups = parameter_groups(model, 1e-3, 0.01)
    assert [group["lr"] for group in groups] == [1e-3, 1e-3]
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or "norm" in name
        assert decay[id(parameter)] == (0.0 if plain else 0.01), name


def test_frozen_layers_are_in_no_group_and_stay_untouched(features):
    model = make_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fine_tune(model, features, FineTuning(epochs=1, frozen_layers=1), progress=False)
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("bert.embeddings.", "bert.encoder.layers.0."))
        assert torch.equal(parameter, before[name]) == frozen, name


def test_freezing_is_undone_by_freezing_nothing():
    model = make_model()
    freeze(model.bert, 2)
    freeze(model.bert, 0)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="3 frozen layers"):
        freeze(model.bert, 3)


# --- the loop


def test_it_learns(features):
    model = make_model()
    history = fine_tune(
        model, features, FineTuning(epochs=30, learning_rate=5e-3), progress=False
    )
    assert history[-1]["loss"] < 0.3 < history[0]["loss"]
    assert accuracy(predict(model, features), [f["labels"] for f in features]) > 0.95
    assert not model.training


def test_the_same_seed_gives_the_same_model_whatever_ran_before(features):
    weights = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        model = make_model()
        torch.manual_seed(noise)
        fine_tune(model, features, FineTuning(epochs=2, seed=seed), progress=False)
        weights.append(model.classifier.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_callers_random_numbers_are_left_alone(features):
    model = make_model()
    before = torch.get_rng_state()
    fine_tune(model, features, FineTuning(epochs=1), progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_rate_climbs_then_falls_and_no_step_is_lost(features):
    recipe = FineTuning(epochs=10, batch_size=8, learning_rate=1e-3, warmup=0.1)
    history = fine_tune(make_model(), features, recipe, progress=False)
    rates = [row["learning_rate"] for row in history]
    assert len(rates) == 60 and [row["step"] for row in history] == list(range(1, 61))
    assert min(rates) > 0 and max(rates) == pytest.approx(1e-3)
    peak = rates.index(max(rates))
    assert peak == 5  # the sixth of six warm-up steps
    assert rates[:peak] == sorted(rates[:peak]) and rates[peak:] == sorted(rates[peak:])[::-1]


def test_early_stopping_restores_the_best_epoch(features):
    scores, seen = iter([0.2, 0.7, 0.5, 0.6, 0.9]), []

    def validate(model):
        seen.append(model.classifier.weight.detach().clone())
        return next(scores)

    model = make_model()
    recipe = FineTuning(epochs=5, patience=2)
    history = fine_tune(model, features, recipe, validate=validate, progress=False)
    assert [row["score"] for row in history if "score" in row] == [0.2, 0.7, 0.5, 0.6]
    assert torch.equal(model.classifier.weight, seen[1])
    assert history[-1]["epoch"] == 4


def test_without_patience_the_last_epoch_stays(features):
    scores, seen = iter([0.9, 0.1]), []

    def validate(model):
        seen.append(model.classifier.weight.detach().clone())
        return next(scores)

    model = make_model()
    fine_tune(model, features, FineTuning(epochs=2), validate=validate, progress=False)
    assert torch.equal(model.classifier.weight, seen[1])


def test_gradients_are_clipped(features):
    norms = []

    def backward(model, batch):
        loss = 1e4 * model(**batch).loss
        loss.backward()
        return loss.detach()

    model = make_model()
    original = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        gradients = [p.grad.norm() for g in self.param_groups for p in g["params"]]
        norms.append(torch.stack(gradients).norm().item())
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        recipe = FineTuning(epochs=1, clip=0.5)
        fine_tune(model, features, recipe, backward=backward, progress=False)
    assert all(norm == pytest.approx(0.5, rel=1e-3) for norm in norms)


def test_dropout_is_on_in_training_only(features):
    modes = []

    class Watched(BertForSequenceClassification):
        def forward(self, *args, **kwargs) -> TaskOutput:
            modes.append(self.training)
            return super().forward(*args, **kwargs)

    torch.manual_seed(0)
    model = Watched(CONFIG, LABELS)
    fine_tune(model, features, FineTuning(epochs=1), progress=False)
    assert all(modes)
    modes.clear()
    model.train()
    predict(model, features)
    assert not any(modes) and model.training  # and the mode it was in is restored


def test_predictions_come_in_the_order_of_the_examples(features):
    model = make_model().eval()
    found = predict(model, features, batch_size=7)
    for i in (0, 13, 47):
        torch.testing.assert_close(found[i], predict(model, [features[i]])[0], atol=1e-5, rtol=1e-4)


def test_accuracy_counts_the_largest_logit():
    assert accuracy(torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]]), [1, 1, 1]) == pytest.approx(
        2 / 3
    )


@pytest.mark.parametrize(
    "change",
    [
        dict(epochs=0),
        dict(batch_size=0),
        dict(learning_rate=0.0),
        dict(learning_rate=math.nan),
        dict(layer_decay=0.0),
        dict(layer_decay=1.1),
        dict(warmup=1.0),
    ],
)
def test_a_recipe_that_can_not_run_is_refused(change):
    with pytest.raises(ValueError):
        FineTuning(**change)


def test_nothing_to_train_on_or_to_predict_is_refused():
    with pytest.raises(ValueError, match="no examples"):
        fine_tune(make_model(), [], FineTuning(), progress=False)
    with pytest.raises(ValueError, match="no examples"):
        predict(make_model(), [])
