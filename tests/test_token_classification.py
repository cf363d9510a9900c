"""course_utils/token_classification.py: tags, spans, alignment, the token head, decoding."""

import itertools

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from course_utils.bert import BertConfig
from course_utils.data import load_assistant
from course_utils.finetuning import FineTuning, collate, fine_tune
from course_utils.token_classification import (
    BertForTokenClassification,
    SpanTagger,
    align_labels,
    bio_rules,
    count_illegal,
    decode,
    first_pieces,
    read_words,
    spans_to_tags,
    tag_features,
    tag_names,
    tags_to_spans,
    viterbi,
)

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] move pay 20 dollars to sav ##ings my $ 5 landlord".split()
SMALL = dict(vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
             intermediate_size=32, max_position_embeddings=40)  # fmt: skip
TAGS = tag_names(["amount", "account"])


@pytest.fixture(scope="module")
def tokenizer():
    found = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    )
    found.normalizer = normalizers.BertNormalizer()
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return found


# --- Spans and tags -------------------------------------------------------------------------------


def words_of(text):
    """(start, end) of the words between spaces"""
    ends = list(itertools.accumulate(len(word) + 1 for word in text.split()))
    return [(end - 1 - len(word), end - 1) for word, end in zip(text.split(), ends)]


def test_a_span_begins_with_b_and_goes_on_with_i():
    text = "move 200 dollars to my savings"
    tags = spans_to_tags([(5, 16, "amount"), (23, 30, "account")], words_of(text))
    assert tags == ["O", "B-amount", "I-amount", "O", "O", "B-account"]


def test_two_spans_side_by_side_stay_two():
    words = words_of("Oslo Bergen")
    spans = [(0, 4, "place"), (5, 11, "place")]
    tags = spans_to_tags(spans, words)
    assert tags == ["B-place", "B-place"]
    assert tags_to_spans(tags, words) == spans


def test_tags_that_continue_nothing_begin_a_span():
    words = words_of("a b c d")
    assert tags_to_spans(["I-x", "I-x", "I-y", "O"], words) == [(0, 3, "x"), (4, 5, "y")]
    found = tags_to_spans(["B-x", "O", "I-x", "B-x"], words)
    assert found == [(0, 1, "x"), (4, 5, "x"), (6, 7, "x")]


def test_spans_that_would_be_lost_are_refused():
    words = words_of("move it")
    with pytest.raises(ValueError, match="overlaps"):
        spans_to_tags([(0, 6, "x"), (5, 7, "y")], words)
    with pytest.raises(ValueError, match="no word stands at characters 4 to 5"):
        spans_to_tags([(4, 5, "x")], words)
    with pytest.raises(ValueError, match="1 tags for 2 words"):
        tags_to_spans(["O"], words)


def test_every_span_of_the_assistant_comes_back_from_its_tags():
    from course_utils.data.weights import pretrained_encoder
    from course_utils.finetuning import load_tokenizer

    tokenizer = load_tokenizer(pretrained_encoder(progress=False))
    for split in load_assistant().values():
        for one, row in zip(read_words(tokenizer, split["text"]), split["slots"]):
            spans = [(slot["start"], slot["end"], slot["type"]) for slot in row]
            assert tags_to_spans(spans_to_tags(spans, one.offsets), one.offsets) == spans
            assert len(one.word_ids) <= 64  # what the task reads of an utterance


# --- Words and pieces -----------------------------------------------------------------------------


def test_words_know_their_characters_and_their_pieces(tokenizer):
    (one,) = read_words(tokenizer, ["pay $5 savings"])
    assert one.offsets == [(0, 3), (4, 5), (5, 6), (7, 14)]
    assert one.word_ids == [None, 0, 1, 2, 3, 3, None]
    assert one.first_pieces() == {0: 1, 1: 2, 2: 3, 3: 4}


def test_words_that_come_as_words_keep_their_numbers(tokenizer):
    (one,) = read_words(tokenizer, [["pay", "$5", "savings"]])
    assert one.offsets == [(0, 3), (4, 6), (7, 14)]
    assert one.word_ids == [None, 0, 1, 1, 2, 2, None]


def test_what_is_too_long_loses_pieces_but_no_words(tokenizer):
    (one,) = read_words(tokenizer, ["pay 20 dollars to savings"], max_length=5)
    assert one.features["input_ids"] == [2, 6, 7, 8, 3]
    assert one.word_ids == [None, 0, 1, 2, None]
    assert len(one.offsets) == 5
    logits = torch.zeros(5, len(TAGS))
    logits[:, 1] = 1.0
    assert decode(logits, one, TAGS) == ["B-amount"] * 3 + ["O"] * 2


def test_texts_of_two_kinds_are_refused(tokenizer):
    with pytest.raises(ValueError, match="all of them lists"):
        read_words(tokenizer, ["pay", ["pay"]])
    with pytest.raises(ValueError, match="at least one"):
        read_words(tokenizer, [])


def test_the_label_stands_on_the_first_piece_only():
    assert align_labels([None, 0, 1, 1, 1, 2, None], [7, 8, 9]) == [-100, 7, 8, -100, -100, 9, -100]
    assert align_labels([None, None], []) == [-100, -100]
    assert align_labels([None, 0, None], [1, 2, 3]) == [-100, 1, -100]  # two words were cut off
    with pytest.raises(ValueError, match="word 1 has no label"):
        align_labels([None, 0, 1, None], [4])


def test_labels_agree_with_a_count_by_hand(tokenizer):
    words = read_words(tokenizer, ["move 20 dollars to savings"])
    tags = [spans_to_tags([(5, 15, "amount"), (19, 26, "account")], words[0].offsets)]
    (example,) = tag_features(words, tags, TAGS)
    assert example["labels"] == [-100, 0, 1, 2, 0, 3, -100, -100]


def test_first_pieces_skip_continuations():
    assert first_pieces([None, 0, 0, 1, 2, 2, None]) == {0: 1, 1: 3, 2: 4}


# --- The model ------------------------------------------------------------------------------------


def batch():
    torch.manual_seed(1)
    ids = torch.randint(5, SMALL["vocab_size"], (3, 9))
    mask = (torch.arange(9) < torch.tensor([[9], [6], [4]])).long()
    labels = torch.randint(0, 5, (3, 9)).masked_fill(mask == 0, -100)
    labels[:, 0] = -100
    return dict(input_ids=ids * mask, attention_mask=mask, labels=labels,
                token_type_ids=torch.zeros_like(ids))  # fmt: skip


def test_hugging_faces_model_loads_into_ours_and_agrees(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, num_labels=5, id2label=dict(enumerate(TAGS)))
    theirs = transformers.BertForTokenClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = BertForTokenClassification.from_pretrained(tmp_path)
    assert ours.labels == TAGS
    with torch.no_grad():
        have, want = ours(**batch()), theirs(**batch())
    real = batch()["attention_mask"].bool()
    torch.testing.assert_close(have.logits[real], want.logits[real])
    torch.testing.assert_close(have.loss, want.loss)


def test_our_folder_loads_into_hugging_faces_model(tmp_path):
    torch.manual_seed(0)
    ours = BertForTokenClassification(BertConfig(**SMALL), TAGS).eval()
    ours.save_pretrained(tmp_path)
    theirs, found = transformers.BertForTokenClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert theirs.config.id2label == dict(enumerate(TAGS))
    with torch.no_grad():
        have, want = ours(**batch()), theirs.eval()(**batch())
    torch.testing.assert_close(have.loss, want.loss)
    again = BertForTokenClassification.from_pretrained(tmp_path)
    assert torch.equal(again.classifier.weight, ours.classifier.weight)
    assert again.labels == TAGS


def test_labels_of_minus_100_have_no_part_in_the_loss():
    torch.manual_seed(0)
    model = BertForTokenClassification(BertConfig(**SMALL), TAGS).eval()
    inputs = batch()
    only = inputs["labels"].clone()
    only[1:] = -100
    with torch.no_grad():
        logits = model(**inputs | {"labels": None}).logits
        loss = model(**inputs | {"labels": only}).loss
    asked = only[0] != -100
    want = -logits[0].log_softmax(-1)[asked, only[0][asked]].mean()
    torch.testing.assert_close(loss, want)


def test_it_learns_to_find_spans(tokenizer):
    texts = ["pay 20 dollars", "move 5 to my savings", "my savings to 20", "pay my landlord 5"]
    spans = [[(4, 14, "amount")], [(5, 6, "amount"), (13, 20, "account")],
             [(3, 10, "account"), (14, 16, "amount")], [(16, 17, "amount")]]  # fmt: skip
    words = read_words(tokenizer, texts)
    tags = [spans_to_tags(row, one.offsets) for row, one in zip(spans, words)]
    torch.manual_seed(0)
    model = BertForTokenClassification(BertConfig(**SMALL, hidden_dropout_prob=0.0), TAGS)
    features = tag_features(words, tags, TAGS)
    fine_tune(model, features, FineTuning(epochs=40, batch_size=4, learning_rate=1e-2),
              progress=False)  # fmt: skip
    assert SpanTagger(model, tokenizer)(texts) == spans
    assert collate(features)["labels"].shape == (4, 8)


# --- Decoding -------------------------------------------------------------------------------------


def every_path(scores, first, following):
    """the best path by looking at all of them"""
    def value(path):
        sums = first[path[0]] + sum(scores[i, tag] for i, tag in enumerate(path))
        return sums + sum(following[a, b] for a, b in zip(path, path[1:]))

    return max(itertools.product(range(scores.shape[1]), repeat=len(scores)), key=value)


@pytest.mark.parametrize("words", [1, 2, 5])
def test_viterbi_finds_the_best_of_all_paths(words):
    torch.manual_seed(words)
    for _ in range(5):
        scores, following = torch.randn(words, 4), torch.randn(4, 4)
        first = torch.randn(4)
        assert viterbi(scores, first, following) == list(every_path(scores, first, following))


def test_viterbi_keeps_to_the_rules():
    torch.manual_seed(0)
    names = tag_names(["x", "y"])
    changed = 0
    for _ in range(50):
        scores = 2 * torch.randn(8, len(names))
        path = [names[i] for i in viterbi(scores, *bio_rules(names))]
        assert count_illegal(path) == 0
        changed += path != [names[i] for i in scores.argmax(-1).tolist()]
    assert changed > 25


def test_viterbi_leaves_legal_tags_as_they_are():
    names = tag_names(["x"])
    scores = torch.tensor([[0.0, 5.0, 0.0], [0.0, 1.0, 4.0], [3.0, 0.0, 0.0]])
    assert viterbi(scores, *bio_rules(names)) == [1, 2, 0]
    assert viterbi(scores[:0], *bio_rules(names)) == []


def test_the_rules_forbid_only_an_i_that_continues_nothing():
    names = tag_names(["x", "y"])  # O, B-x, I-x, B-y, I-y
    first, following = bio_rules(names)
    assert first.isinf().tolist() == [False, False, True, False, True]
    allowed = {(names[i], names[j]) for i in range(5) for j in range(5) if following[i, j] == 0}
    assert ("B-x", "I-x") in allowed and ("I-x", "I-x") in allowed
    assert ("O", "I-x") not in allowed and ("B-y", "I-x") not in allowed
    assert len(allowed) == 25 - 6
    assert count_illegal(["I-x", "I-x", "O", "I-y", "B-x", "I-y"]) == 3


def test_decoding_reads_the_first_pieces_only(tokenizer):
    (one,) = read_words(tokenizer, ["pay savings"])  # [CLS] pay sav ##ings [SEP]
    logits = torch.full((5, len(TAGS)), -1.0)
    logits[[0, 3, 4], 1] = 9.0  # where nobody looks
    logits[1, 0] = logits[2, 3] = 2.0
    assert decode(logits, one, TAGS) == ["O", "B-account"]
