import re
from datetime import date

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.data import dates
from course_utils.data.dates import (
    EOS,
    FIRST,
    FORMS,
    LAST,
    PAD,
    SOURCE_VOCABULARY,
    TARGET_VOCABULARY,
    decode,
    encode,
    ordinal,
    pairs,
    part_spans,
    phrase,
    split_days,
)


@pytest.mark.parametrize("example, form", FORMS.items())
def test_a_form_is_called_by_its_own_example(example, form):
    assert phrase(date(2026, 11, 3), form) == example


def test_parts_are_found_where_they_stand():
    day = date(2026, 11, 3)
    assert part_spans(day, "{day} {month_short} {year}") == {
        "day": (0, 1), "month": (2, 5), "year": (6, 10)
    }  # fmt: skip
    for form in FORMS.values():
        text, spans = phrase(day, form), part_spans(day, form)
        assert text[slice(*spans["day"])] in ("3", "03", "3rd")
        assert text[slice(*spans["month"])] in ("11", "Nov", "NOV", "November")
        assert text[slice(*spans["year"])] in ("2026", "26")


@pytest.mark.parametrize(
    "number, text",
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th"),
     (21, "21st"), (22, "22nd"), (23, "23rd"), (30, "30th"), (31, "31st")],
)  # fmt: skip
def test_ordinals(number, text):
    assert ordinal(number) == text


def test_no_phrase_stands_for_two_days():
    """Every form of every day, all of them different: no phrase is ambiguous."""
    training, testing = split_days()
    seen: dict[str, date] = {}
    for day in training + testing:
        for form in FORMS.values():
            assert seen.setdefault(phrase(day, form), day) == day


def test_days_are_held_out_whole():
    training, testing = split_days()
    assert not set(training) & set(testing)
    assert len(training) + len(testing) == (LAST - FIRST).days + 1 == 36_525
    held_out = {day.isoformat() for day in testing}
    assert not held_out & {iso for _, iso in pairs(training, 3000)}
    assert {iso for _, iso in pairs(testing, 500)} <= held_out


def test_the_split_and_the_pairs_are_the_same_every_time():
    assert split_days()[1][:3] == split_days()[1][:3]
    assert pairs(split_days()[0], 5, seed=3) == pairs(split_days()[0], 5, seed=3)
    assert pairs(split_days()[0], 5, seed=3) != pairs(split_days()[0], 5, seed=4)


@given(st.dates(FIRST, LAST), st.sampled_from(list(FORMS.values())))
def test_every_phrase_can_be_encoded_and_comes_back(day, form):
    text = phrase(day, form)
    assert decode(encode([text]), SOURCE_VOCABULARY) == [text]
    assert decode(encode([day.isoformat()], TARGET_VOCABULARY)) == [day.isoformat()]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", day.isoformat())


def test_rows_end_with_eos_and_are_padded():
    ids = encode(["3 Nov", "3"])
    assert ids.shape == (2, 6) and ids[0, -1] == EOS
    assert ids[1].tolist()[1:] == [EOS, PAD, PAD, PAD, PAD]


def test_what_comes_after_the_first_end_is_not_read():
    assert decode(torch.tensor([[3, 4, EOS, 5], [PAD, 3, 3, 3]])) == ["01", "000"]


def test_an_unknown_character_is_named():
    with pytest.raises(ValueError, match="knows no 'é', '€'"):
        encode(["3 € é"])


def test_an_unknown_field_of_a_form_is_named():
    with pytest.raises(ValueError, match="a date has no {hour}; take from {day}, "):
        phrase(date(2026, 11, 3), "{hour} {year}")


def test_the_vocabularies_begin_with_the_special_characters():
    for vocabulary in (SOURCE_VOCABULARY, TARGET_VOCABULARY):
        assert vocabulary[: dates.EOS + 1] == ["[PAD]", "[BOS]", "[EOS]"]
        assert len(set(vocabulary)) == len(vocabulary)
