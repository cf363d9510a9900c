"""Two texts: packed into one input, or apart."""

from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from test_finetuning import CONFIG, WORDS, make_tokenizer

from course_utils.bert import Bert
from course_utils.finetuning import FineTuning, encode, fine_tune, predict
from course_utils.pairs import (
    BiEncoder,
    collate_apart,
    encode_apart,
    pair_input,
    rank_of,
    ranking_scores,
)

SETTINGS = settings(max_examples=40, deadline=None)
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)


@SETTINGS
@given(texts, texts, st.integers(5, 26))
def test_a_packed_pair_is_what_the_tokenizer_makes(first, second, max_length):
    tokenizer = make_tokenizer()
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in (first, second)]
    ours = pair_input(*ids, 2, 3, max_length)
    (theirs,) = encode(tokenizer, [first], [second], max_length=max_length)
    assert len(ours["input_ids"]) == len(theirs["input_ids"]) <= max_length
    surplus = len(ids[0]) + len(ids[1]) + 3 - max_length
    if surplus <= abs(len(ids[0]) - len(ids[1])):  # beyond that, ties are cut by other rules
        assert ours == theirs


def test_no_room_for_a_pair_is_refused():
    with pytest.raises(ValueError, match="max_length is 4"):
        pair_input([5], [6], 2, 3, 4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = replace(CONFIG, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return BiEncoder(config).eval()


FIRST = ["red green", "stop", "now then wait"]
SECOND = ["green red", "blue", "go go go go"]


def test_the_logit_is_the_scaled_cosine_above_the_cut(model):
    tokenizer = make_tokenizer()
    logits = predict(model, encode_apart(tokenizer, FIRST, SECOND), collate=collate_apart)
    first, second = model.vectors(tokenizer, FIRST), model.vectors(tokenizer, SECOND)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(3))
    cosine = (first * second).sum(-1)
    assert torch.equal(logits[:, 0], torch.zeros(3))
    torch.testing.assert_close(logits[:, 1], 20 * (cosine - 0.3), atol=1e-4, rtol=1e-4)


def test_a_texts_vector_does_not_depend_on_its_neighbours(model):
    tokenizer = make_tokenizer()
    many = model.vectors(tokenizer, [*FIRST, *SECOND, " ".join(WORDS)], batch_size=3)
    for i, text in enumerate([*FIRST, *SECOND]):
        torch.testing.assert_close(many[i], model.vectors(tokenizer, [text])[0])


def test_both_sides_are_padded_on_their_own():
    batch = collate_apart(encode_apart(make_tokenizer(), FIRST, SECOND, [1, 0, 0]))
    assert batch["input_ids"].shape == (3, 5) and batch["second_input_ids"].shape == (3, 6)
    assert batch["second_attention_mask"].sum(1).tolist() == [4, 3, 6]
    assert batch["labels"].tolist() == [1, 0, 0]


def test_training_pulls_pairs_together_and_others_apart(model):
    features = encode_apart(
        make_tokenizer(), ["red", "stop", "red", "stop"] * 4, ["blue", "go", "go", "blue"] * 4,
        [1, 1, 0, 0] * 4,
    )  # fmt: skip
    recipe = FineTuning(epochs=25, batch_size=8, learning_rate=3e-3)
    history = fine_tune(model, features, recipe, collate=collate_apart, progress=False)
    assert history[-1]["loss"] < 0.3
    found = predict(model, features[:4], collate=collate_apart).argmax(-1)
    assert found.tolist() == [1, 1, 0, 0]


def test_it_starts_from_an_encoder_and_is_saved_as_one(tmp_path, model):
    Bert(CONFIG).save_pretrained(tmp_path / "encoder")  # its pooler is left aside
    assert BiEncoder.from_encoder(tmp_path / "encoder").bert.pooler is None
    model.save_pretrained(tmp_path / "tuned")
    back = BiEncoder.from_pretrained(tmp_path / "tuned")
    tokenizer = make_tokenizer()
    torch.testing.assert_close(back.vectors(tokenizer, FIRST), model.vectors(tokenizer, FIRST))
    transformers.BertModel.from_pretrained(tmp_path / "tuned", add_pooling_layer=False)


def test_ranks_by_hand_ties_counting_against():
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.2, 0.1], [0.3, 0.8, 0.4]])
    ranks = rank_of(scores, [0, 1, 0])
    assert ranks.tolist() == [1, 2, 3]
    found = ranking_scores(ranks)
    assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert found["recall_at_1"] == pytest.approx(1 / 3) and found["recall_at_10"] == 1
    with pytest.raises(ValueError, match="one right candidate"):
        rank_of(scores, [0])


def test_lists_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="3 texts but 1 pairs"):
        encode_apart(make_tokenizer(), FIRST, SECOND[:1])
