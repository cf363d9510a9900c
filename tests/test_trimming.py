"""A smaller vocabulary: what is kept, that covered text stays as it was, and what is lost."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import BertProcessing
from transformers import AutoModelForSequenceClassification

from course_utils.bert import Bert, BertConfig
from course_utils.data.assistant import load_assistant
from course_utils.data.docs import fast_tokenizer
from course_utils.data.weights import pretrained_encoder
from course_utils.finetuning import (
    BertForSequenceClassification,
    TextClassifier,
    encode,
    load_tokenizer,
    predict,
)
from course_utils.pretraining import BertForPreTraining
from course_utils.trimming import (
    keep_rows,
    new_ids,
    pieces_of_words,
    recut_share,
    table_bytes,
    trim_table,
    trim_tokenizer,
    trim_vocabulary,
    unknown_share,
    used_ids,
)

SETTINGS = settings(max_examples=60, deadline=None)
LETTERS = "abc"
PIECES = [  # every piece of up to three letters that begins with a, and all single characters
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *("##" + c for c in LETTERS),
    "ab", "abc", "ac", "bb", "##ab", "##bc", "##ca", "##bb", "?",
]  # fmt: skip
CONFIG = BertConfig(
    vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=32, max_position_embeddings=40,
)  # fmt: skip
words = st.text(LETTERS, min_size=1, max_size=7)
texts = st.lists(st.lists(words, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=4)


def make_tokenizer(folder, pieces=PIECES):
    path = folder / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return fast_tokenizer(path)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("vocabulary"))


def make_model(kind=BertForSequenceClassification):
    torch.manual_seed(0)
    model = kind(CONFIG, ["x", "y", "z"]) if kind is BertForSequenceClassification else kind(CONFIG)
    return model.eval()


# --- The table ------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 29), max_size=40))
@SETTINGS
def test_each_row_in_use_is_found_at_its_new_place(used):
    table = torch.arange(60.0).view(30, 2)
    smaller, place = trim_table(table, used)
    assert len(smaller) == len({0, *used})
    assert list(place) == sorted({0, *used}) and list(place.values()) == list(range(len(smaller)))
    assert all(torch.equal(smaller[place[i]], table[i]) for i in used)
    assert place[0] == 0  # [PAD]


def test_a_trimmed_table_is_a_copy():
    table = torch.zeros(4, 2)
    smaller, _ = trim_table(table, [0, 1, 2, 3])
    smaller += 1
    assert table.sum() == 0


@pytest.mark.parametrize("wrong", [-1, 4])
def test_an_id_without_a_row_is_refused(wrong):
    with pytest.raises(ValueError, match=f"id {wrong} has no row: the table has rows 0 to 3"):
        trim_table(torch.zeros(4, 2), [1, wrong])


# --- Model and tokenizer --------------------------------------------------------------------------


@given(texts)
@SETTINGS
def test_covered_text_is_cut_into_the_same_pieces(tokenizer, texts):
    trimmed = trim_vocabulary(make_model(Bert), tokenizer, texts, keep_characters=False)
    for before, after in zip(tokenizer.encode_batch(texts), trimmed.tokenizer.encode_batch(texts)):
        assert after.tokens == before.tokens
        assert [trimmed.kept[i] for i in after.ids] == before.ids
        assert after.type_ids == before.type_ids
    assert recut_share(tokenizer, trimmed.tokenizer, texts) == 0


@given(texts, st.booleans())
@SETTINGS
def test_the_model_says_the_same_of_covered_text(tokenizer, texts, keep_characters):
    model = make_model()
    trimmed = trim_vocabulary(model, tokenizer, texts, keep_characters)
    before = predict(model, encode(tokenizer, texts))
    assert torch.equal(predict(trimmed.model, encode(trimmed.tokenizer, texts)), before)


def test_on_the_real_vocabulary_nothing_changes_on_the_training_texts():
    folder = pretrained_encoder()
    tokenizer, model = load_tokenizer(folder), Bert.from_pretrained(folder)
    texts = load_assistant()["train"]["text"][::40]
    trimmed = trim_vocabulary(model, tokenizer, texts)
    assert 1994 < len(trimmed.kept) < 3000  # 1,994 of them single characters
    assert table_bytes(trimmed.model) == len(trimmed.kept) * 384 * 4
    before, after = tokenizer.encode_batch(texts), trimmed.tokenizer.encode_batch(texts)
    assert [row.tokens for row in before] == [row.tokens for row in after]
    for old, new in list(zip(before, after))[:5]:
        states = model(torch.tensor([old.ids])).last_hidden_state
        assert torch.equal(trimmed.model(torch.tensor([new.ids])).last_hidden_state, states)


def test_special_tokens_stay_and_padding_stays_first(tokenizer):
    trimmed = trim_vocabulary(make_model(), tokenizer, ["b"], keep_characters=False)
    pieces = trimmed.tokenizer.get_vocab()
    assert sorted(pieces, key=pieces.get) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "b"]
    assert trimmed.model.config.vocab_size == trimmed.model.bert.config.vocab_size == 6
    assert trimmed.tokenizer.encode("b", "b").tokens == ["[CLS]", "b", "[SEP]", "b", "[SEP]"]
    assert trimmed.tokenizer.encode("b", "b").type_ids == [0, 0, 0, 1, 1]


def test_padding_that_is_not_the_first_row_is_followed(tmp_path):
    pieces = ["a", "b", "[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "##b"]
    config = BertConfig(
        vocab_size=8, hidden_size=4, num_hidden_layers=0, num_attention_heads=1,
        intermediate_size=4, pad_token_id=3,
    )  # fmt: skip
    bert = Bert(config)
    rows = bert.embeddings.token.weight.clone()
    place = keep_rows(bert, [1])
    assert bert.config.pad_token_id == place[3] == 2 and bert.config.vocab_size == 3
    assert torch.equal(bert.embeddings.token.weight, rows[[0, 1, 3]])
    trimmed = trim_tokenizer(make_tokenizer(tmp_path, pieces), {1: 0, 2: 1, 3: 2, 4: 3, 5: 4})
    assert trimmed.get_vocab() == {"b": 0, "[UNK]": 1, "[PAD]": 2, "[CLS]": 3, "[SEP]": 4}


def test_characters_keep_other_words_from_being_unknown(tokenizer):
    with_them, without = (
        trim_vocabulary(make_model(Bert), tokenizer, ["abc"], keep).tokenizer
        for keep in (True, False)
    )
    assert with_them.encode("bbc", add_special_tokens=False).tokens == ["b", "##b", "##c"]
    assert without.encode("bbc", add_special_tokens=False).tokens == ["[UNK]"]
    assert unknown_share(with_them, ["bbc cba abc?"]) == 0
    assert unknown_share(without, ["bbc cba abc?"]) == 0.75


def test_further_pieces_are_kept_on_demand(tokenizer):
    ids = [tokenizer.token_to_id("##bc"), tokenizer.token_to_id("abc")]
    trimmed = trim_vocabulary(make_model(Bert), tokenizer, ["a"], False, also=ids)
    assert {"a", "abc", "##bc"} < trimmed.tokenizer.get_vocab().keys()


def test_neither_model_nor_tokenizer_is_changed(tokenizer):
    model = make_model()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = tokenizer.to_str()
    trimmed = trim_vocabulary(model, tokenizer, ["ab"])
    trimmed.model.classifier.weight.data += 1
    assert tokenizer.to_str() == before and model.config == CONFIG
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_a_trained_table_stays_trained_and_a_frozen_one_frozen(tokenizer):
    for wanted in (True, False):
        model = make_model()
        model.bert.embeddings.token.requires_grad_(wanted)
        smaller = trim_vocabulary(model, tokenizer, ["ab"]).model
        assert smaller.bert.embeddings.token.weight.requires_grad is wanted


def test_saved_and_loaded_it_is_the_same_also_in_hugging_faces_library(tokenizer, tmp_path):
    trimmed = trim_vocabulary(make_model(), tokenizer, ["abc a?", "bb"])
    classifier = TextClassifier(trimmed.model, trimmed.tokenizer)
    classifier.save(tmp_path)
    again = TextClassifier.from_folder(tmp_path)
    texts = ["abc a?", "bb abc"]
    assert torch.equal(again.logits(texts), classifier.logits(texts))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = torch.tensor([trimmed.tokenizer.encode(texts[0]).ids])
    torch.testing.assert_close(theirs(ids).logits, again.logits(texts[:1]), atol=1e-5, rtol=1e-5)


def test_the_bytes_saved_are_the_rows_cut(tokenizer):
    model = make_model()
    trimmed = trim_vocabulary(model, tokenizer, ["abc"], keep_characters=False)
    cut = len(PIECES) - len(trimmed.kept)
    assert len(trimmed.kept) == 6
    assert table_bytes(model) - table_bytes(trimmed.model) == cut * 16 * 4
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, trimmed.model)]
    assert counts[0] - counts[1] == cut * 16


def test_truncation_and_padding_hide_no_piece_and_are_kept(tokenizer):
    limited = Tokenizer.from_str(tokenizer.to_str())
    limited.enable_truncation(3)
    limited.enable_padding(pad_id=0, length=4)
    trimmed = trim_vocabulary(make_model(Bert), limited, ["a abc bb"], keep_characters=False)
    assert {"a", "abc", "bb"} <= trimmed.tokenizer.get_vocab().keys()
    assert trimmed.tokenizer.encode("a abc").tokens == ["[CLS]", "a", "[SEP]", "[PAD]"]


def test_a_post_processor_of_the_older_kind_is_followed(tokenizer):
    older = Tokenizer.from_str(tokenizer.to_str())
    older.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    trimmed = trim_tokenizer(older, new_ids([1, 2, 3, 11]))
    assert trimmed.encode("ab").ids == [2, 4, 3]
    assert json.loads(trimmed.to_str())["post_processor"]["cls"] == ["[CLS]", 2]


def test_what_can_not_be_trimmed_is_refused_with_the_reason(tokenizer):
    with pytest.raises(ValueError, match="no texts and no pieces to keep"):
        trim_vocabulary(make_model(), tokenizer, [])
    with pytest.raises(ValueError, match="list of strings"):
        trim_vocabulary(make_model(), tokenizer, [7])
    with pytest.raises(ValueError, match="trim model.bert alone"):
        trim_vocabulary(BertForPreTraining(CONFIG), tokenizer, ["a"])
    with pytest.raises(ValueError, match="Linear holds no Bert"):
        keep_rows(torch.nn.Linear(2, 2), [1])
    with pytest.raises(ValueError, match="WordLevel; trimming is for WordPiece"):
        trim_tokenizer(Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")), {0: 0, 1: 1})
    other = Bert(BertConfig(vocab_size=9, hidden_size=4, num_attention_heads=1))
    with pytest.raises(ValueError, match=f"9 rows and the tokenizer {len(PIECES)} pieces"):
        trim_vocabulary(other, tokenizer, ["a"])


# --- What is lost ---------------------------------------------------------------------------------


def test_the_risk_is_counted_in_words(tokenizer):
    words = pieces_of_words(tokenizer, ["abc bb?", "xyz"])
    assert words == [("abc",), ("bb",), ("?",), ("[UNK]",)]
    assert unknown_share(tokenizer, ["abc bb?", "xyz"]) == 0.25
    assert unknown_share(tokenizer, []) == unknown_share(tokenizer, [""]) == 0
    trimmed = trim_vocabulary(make_model(Bert), tokenizer, ["abc"]).tokenizer
    assert pieces_of_words(trimmed, ["abc bb"]) == [("abc",), ("b", "##b")]
    assert recut_share(tokenizer, trimmed, ["abc bb", "a"]) == pytest.approx(1 / 3)


def test_an_unknown_word_is_not_covered_it_may_find_pieces_in_a_smaller_vocabulary(tmp_path):
    """Why the promise leaves [UNK] out: the longest piece can lead into a dead end."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab", "abc", "##cd"]
    tokenizer = make_tokenizer(tmp_path, pieces)
    assert tokenizer.encode("abcd", add_special_tokens=False).tokens == ["[UNK]"]  # abc, then d
    trimmed = trim_tokenizer(tokenizer, new_ids([1, 2, 3, 4, 5, 7]))
    assert trimmed.encode("abcd", add_special_tokens=False).tokens == ["ab", "##cd"]


def test_ids_in_use_are_those_of_the_pieces_without_the_special_ones(tokenizer):
    assert used_ids(tokenizer, ["abc", "abc b"]) == {12, 6}
