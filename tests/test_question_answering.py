"""course_utils/question_answering.py: windows, the span head, the best span, the threshold."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from course_utils.bert import BertConfig
from course_utils.finetuning import FineTuning, fine_tune
from course_utils.question_answering import (
    Answer,
    AnswerFinder,
    BertForQuestionAnswering,
    answer_features,
    answer_pieces,
    best_span,
    choose_threshold,
    decline,
    find_answers,
    make_windows,
    span_characters,
    window_starts,
)

LETTERS = [a + b for a in "abcde" for b in "vwxyz"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "?", "##s", *LETTERS]
SMALL = dict(vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
             intermediate_size=32, max_position_embeddings=40)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    found = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    )
    found.normalizer = normalizers.BertNormalizer()
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return found


# --- Windows --------------------------------------------------------------------------------------


def test_windows_cover_every_piece_and_share_the_stride():
    assert window_starts(10, 4, 1) == [0, 3, 6]
    assert window_starts(11, 4, 1) == [0, 3, 6, 9]
    assert window_starts(4, 4, 1) == [0]
    assert window_starts(0, 4, 1) == [0]
    for pieces in range(1, 30):
        starts = window_starts(pieces, 7, 3)
        covered = {i for s in starts for i in range(s, min(s + 7, pieces))}
        assert covered == set(range(pieces))
        assert all(s + 7 < pieces for s in starts[:-1])  # none but the last reaches the end
    for stride in (-1, 4, 5):
        with pytest.raises(ValueError, match="stride"):
            window_starts(10, 4, stride)


def test_windows_are_those_of_the_tokenizers_library(tokenizer):
    question, context = "what is av ?", " ".join(LETTERS)
    ours = make_windows(tokenizer, [question], [context], max_length=14, stride=3)
    tokenizer.enable_truncation(14, stride=3, strategy="only_second")
    first = tokenizer.encode(question, context)
    tokenizer.no_truncation()
    theirs = [first, *first.overflowing]
    assert [w.features["input_ids"] for w in ours] == [row.ids for row in theirs]
    assert [w.features["token_type_ids"] for w in ours] == [row.type_ids for row in theirs]
    for window, row in zip(ours, theirs):
        for offsets, sequence, want in zip(window.offsets, row.sequence_ids, row.offsets):
            assert offsets == (want if sequence == 1 else None)


def test_an_answer_as_long_as_the_stride_is_whole_in_some_window(tokenizer):
    context = " ".join(LETTERS)
    windows = make_windows(tokenizer, ["what"], [context], max_length=12, stride=4)
    for first in range(len(LETTERS) - 3):
        start, end = 3 * first, 3 * first + 3 * 4 - 1  # four pieces
        places = [answer_pieces(w.offsets, start, end) for w in windows]
        assert any(place != (0, 0) for place in places)
        for window, (a, b) in zip(windows, places):
            if (a, b) != (0, 0):
                assert span_characters(window.offsets, a, b) == (start, end)


def test_a_cut_answer_counts_as_none(tokenizer):
    (one,) = make_windows(tokenizer, ["what"], ["av aw ax"], max_length=16, stride=2)
    assert one.offsets == [None] * 3 + [(0, 2), (3, 5), (6, 8), None]
    assert answer_pieces(one.offsets, 3, 8) == (4, 5)
    assert answer_pieces(one.offsets, 4, 5) == (4, 4)  # a part of a piece: the piece
    assert answer_pieces(one.offsets, 6, 11) == (0, 0)  # it goes on behind this window
    assert answer_pieces(one.offsets, -1, -1) == (0, 0)
    assert answer_pieces(one.offsets, 20, 25) == (0, 0)


def test_pieces_outside_the_context_are_no_span(tokenizer):
    (one,) = make_windows(tokenizer, ["what"], ["av aw ax"], max_length=16, stride=2)
    assert span_characters(one.offsets, 3, 5) == (0, 8)
    for first, last in ((1, 3), (5, 4), (4, 6)):
        with pytest.raises(ValueError, match="no span"):
            span_characters(one.offsets, first, last)


def test_each_window_has_its_own_positions(tokenizer):
    context = " ".join(LETTERS)
    windows = make_windows(tokenizer, ["what"], [context], max_length=12, stride=2)
    features = answer_features(windows, [0], [2])  # the first piece: in the first window only
    assert [(f["start_positions"], f["end_positions"]) for f in features][0] == (3, 3)
    assert {(f["start_positions"], f["end_positions"]) for f in features[1:]} == {(0, 0)}


def test_lists_of_unequal_lengths_are_refused(tokenizer):
    with pytest.raises(ValueError, match="1 questions for 2 contexts"):
        make_windows(tokenizer, ["what"], ["av", "aw"])


# --- The model ------------------------------------------------------------------------------------


def batch():
    torch.manual_seed(1)
    ids = torch.randint(5, SMALL["vocab_size"], (3, 9))
    mask = (torch.arange(9) < torch.tensor([[9], [6], [4]])).long()
    types = (torch.arange(9) > 2).long().expand(3, -1) * mask
    places = dict(start_positions=torch.tensor([3, 0, 2]), end_positions=torch.tensor([5, 0, 3]))
    return dict(input_ids=ids * mask, attention_mask=mask, token_type_ids=types, **places)


def test_hugging_faces_model_loads_into_ours_and_agrees(tmp_path):
    torch.manual_seed(0)
    theirs = transformers.BertForQuestionAnswering(transformers.BertConfig(**SMALL)).eval()
    theirs.save_pretrained(tmp_path)
    ours = BertForQuestionAnswering.from_pretrained(tmp_path)
    with torch.no_grad():
        have, want = ours(**batch()), theirs(**batch())
    torch.testing.assert_close(have.logits[..., 0], want.start_logits)
    torch.testing.assert_close(have.logits[..., 1], want.end_logits)
    torch.testing.assert_close(have.loss, want.loss)


def test_our_folder_loads_into_hugging_faces_model(tmp_path):
    torch.manual_seed(0)
    ours = BertForQuestionAnswering(BertConfig(**SMALL)).eval()
    ours.save_pretrained(tmp_path)
    theirs, found = transformers.BertForQuestionAnswering.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not found["missing_keys"] and not found["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(ours(**batch()).loss, theirs.eval()(**batch()).loss)


def test_it_learns_to_answer(tokenizer):
    questions = ["what is av ?", "what is bw ?", "what is cx ?", "what is dy ?"]
    contexts = ["av aw bw bx cx cy", "cx cy av az bw bv", "bw bz cx cv av ax", "av ay cx cw bw by"]
    answers = ["aw", "bv", "cv", ""]
    starts = [c.index(a) if a else -1 for c, a in zip(contexts, answers)]
    ends = [s + 2 if s >= 0 else -1 for s in starts]
    torch.manual_seed(0)
    config = BertConfig(**SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = BertForQuestionAnswering(config)
    windows = make_windows(tokenizer, questions, contexts, max_length=16, stride=2)
    features = answer_features(windows, starts, ends)
    fine_tune(model, features, FineTuning(epochs=60, batch_size=4, learning_rate=1e-2),
              progress=False)  # fmt: skip
    finder = AnswerFinder(model, tokenizer, max_length=16, stride=2, threshold=0.0)
    found = finder(questions, contexts)
    assert [answer.text for answer in found] == answers
    assert [answer.start for answer in found] == starts


# --- From logits to an answer ---------------------------------------------------------------------


def by_looking_at_all(start, end, allowed, longest):
    pairs = [(i, j) for i in range(len(start)) for j in range(i, min(i + longest, len(start)))
             if allowed[i] and allowed[j]]  # fmt: skip
    return max(pairs, key=lambda pair: start[pair[0]] + end[pair[1]])


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_span_is_the_best_of_all_pairs(longest):
    torch.manual_seed(longest)
    for _ in range(20):
        start, end = torch.randn(9), torch.randn(9)
        allowed = torch.rand(9) > 0.3
        allowed[4] = True
        first, last, score = best_span(start, end, allowed, longest)
        assert (first, last) == by_looking_at_all(start, end, allowed, longest)
        assert score == pytest.approx((start[first] + end[last]).item())


def test_an_end_never_stands_before_its_start():
    start, end = torch.tensor([0.0, 0, 9, 0]), torch.tensor([0.0, 9, 0, 1])
    assert best_span(start, end, torch.ones(4, dtype=torch.bool))[:2] == (2, 3)


def test_a_window_without_context_is_refused():
    with pytest.raises(ValueError, match="no piece is allowed"):
        best_span(torch.zeros(3), torch.zeros(3), torch.zeros(3, dtype=torch.bool))


def test_the_best_of_all_windows_wins_and_the_least_no_answer(tokenizer):
    context = " ".join(LETTERS[:10])
    windows = make_windows(tokenizer, ["what"], [context], max_length=10, stride=2)
    logits = [torch.zeros(len(w.offsets), 2) for w in windows]
    logits[0][0] = torch.tensor([4.0, 4.0])
    logits[0][4] = torch.tensor([1.0, 1.0])
    logits[1][0] = torch.tensor([-1.0, -1.0])
    logits[1][5] = torch.tensor([3.0, 3.0])
    (answer,) = find_answers(logits, windows, [context])
    place = windows[1].offsets[5]
    assert (answer.start, answer.end) == place and answer.text == context[slice(*place)]
    assert answer.score == 6.0 and answer.no_answer == -2.0 and answer.difference == -8.0


def test_above_the_threshold_it_declines():
    answers = [Answer("a", 0, 1, 3.0, 1.0), Answer("b", 0, 1, 1.0, 3.0)]  # differences −2 and 2
    assert decline(answers, 0.0) == ["a", ""]
    assert decline(answers, 2.0) == ["a", "b"]
    assert decline(answers, -3.0) == ["", ""]


def test_the_threshold_is_the_best_of_all():
    torch.manual_seed(0)
    for _ in range(20):
        differences = torch.randn(12).tolist()
        gains = [1.0 if torch.rand(1) < 0.6 else -1.0 for _ in differences]
        threshold = choose_threshold(differences, gains)
        total = {t: sum(g for d, g in zip(differences, gains) if d <= t)
                 for t in [*differences, float("-inf")]}  # fmt: skip
        assert total[threshold] == max(total.values())


def test_thresholds_at_the_edges():
    assert choose_threshold([0.0, 1.0], [-1.0, -1.0]) == float("-inf")  # never answer
    assert choose_threshold([0.0, 1.0], [1.0, 1.0]) == 1.0
    assert choose_threshold([0.0, 0.0, 2.0], [1.0, -1.0, -1.0]) == float("-inf")
    with pytest.raises(ValueError, match="1 differences for 2 gains"):
        choose_threshold([0.0], [1.0, 1.0])
