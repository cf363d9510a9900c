import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.data.stored import docs_bert
from course_utils.finetuning import TaskOutput, encode, load_tokenizer
from course_utils.truncation import (
    STRATEGIES,
    encode_truncated,
    padding_share,
    predict_windows,
    truncate,
    windows,
    with_specials,
)


def test_each_strategy_keeps_its_end():
    pieces = list(range(20))
    assert truncate(pieces, 8, "head") == list(range(8))
    assert truncate(pieces, 8, "tail") == list(range(12, 20))
    assert truncate(pieces, 8, "head+tail") == [0, 1, *range(14, 20)]
    assert truncate(pieces, 510 % 19, "head+tail", head_share=1.0) == list(range(510 % 19))


@given(st.integers(0, 40), st.integers(1, 20), st.sampled_from(STRATEGIES), st.floats(0, 1))
def test_as_much_as_fits_is_kept_in_order_and_once(length, room, strategy, share):
    kept = truncate(range(length), room, strategy, share)
    assert len(kept) == min(length, room)
    assert kept == sorted(set(kept))


@given(st.integers(0, 60), st.integers(1, 20), st.data())
def test_windows_reach_every_piece_and_end_at_the_end(length, room, data):
    stride = data.draw(st.integers(1, room))
    found = windows(range(length), room, stride)
    assert sorted({piece for window in found for piece in window}) == list(range(length))
    assert all(len(window) <= room for window in found)
    assert len(found) == 1 or found[-1][-1] == length - 1
    assert len(found) == 1 or len(windows(range(length - 1), room, stride)) <= len(found)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="middle"):
        truncate([1, 2], 1, "middle")
    with pytest.raises(ValueError, match="room"):
        truncate([1, 2], 0)
    with pytest.raises(ValueError, match="stride"):
        windows([1, 2], 4, 5)


def test_head_is_what_encode_does():
    tokenizer = load_tokenizer(docs_bert())
    texts = ["return the number of elements in the array", "a list"]
    assert encode_truncated(tokenizer, texts, 6) == encode(tokenizer, texts, max_length=6)


class Counter(torch.nn.Module):
    """Sure of label 1 where piece 7 is in sight, unsure of label 0 elsewhere."""

    def __init__(self):
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        seen = (input_ids == 7).any(1).float()[:, None]  # (batch, 1)
        return TaskOutput(None, torch.cat([1 - seen, 5 * seen], dim=1))


def test_the_surest_window_finds_what_the_mean_drowns():
    tokenizer = load_tokenizer(docs_bert())
    texts = [
        [with_specials(tokenizer, part) for part in windows(pieces, 4, 4)]
        for pieces in ([9] * 40 + [7], [9] * 41)
    ]
    surest = predict_windows(Counter(), texts, pool="max")
    assert surest.argmax(-1).tolist() == [1, 0]
    mean = predict_windows(Counter(), texts)
    assert mean.argmax(-1).tolist() == [0, 0]
    with pytest.raises(ValueError, match="mean"):
        predict_windows(Counter(), texts, pool="sum")


def test_padding_share_counts_cells():
    assert padding_share([2, 4, 4], [[0, 1], [2]]) == pytest.approx(2 / 12)
    assert padding_share([3, 3], [[0, 1]]) == 0
