"""WordPiece: the library's pieces on prose and on random Unicode; training by each rule."""

import math
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer

from course_utils.data.docs import docs_corpus
from course_utils.data.weights import pretrained_encoder
from course_utils.wordpiece import (
    SPECIAL_TOKENS,
    Merger,
    WordPiece,
    basic_tokenize,
    by_count,
    by_likelihood,
    by_ratio,
    count_words,
    longest_match,
    train_wordpiece,
)

TINY = {"mask": 5, "masked": 4, "task": 6, "tasks": 3, "tuned": 2}
EMOJI = "\N{GRINNING FACE}"


@pytest.fixture(scope="module")
def library():
    return AutoTokenizer.from_pretrained(pretrained_encoder())


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece.from_folder(pretrained_encoder())


# --- Cutting ----------------------------------------------------------------------------------


def test_a_thousand_sentences_of_the_docs_corpus_are_cut_as_the_library_cuts_them(
    tokenizer, library
):
    sentences = docs_corpus(progress=False).sentences()
    some = sentences[:: max(1, len(sentences) // 1500)][:1500]
    assert len(some) >= 1000
    assert [tokenizer.tokenize(text) for text in some] == [library.tokenize(text) for text in some]


def known_to_both(character: str) -> bool:
    """Both libraries carry a table of Unicode; the older one does not know the newest characters.
    Python keeps Unicode 3.2 as well: what it knew then is known to every table."""
    category = unicodedata.ucd_3_2_0.category(character)
    return category not in ("Cn", "Cs", "Co") and category == unicodedata.category(character)


letters = st.characters(exclude_categories=("Cs",)).filter(known_to_both)
texts = st.text(st.one_of(letters, st.sampled_from("ab Z9 .,-_$[]\t\n\u00e9\u0301\u4f60")))


@settings(max_examples=500, deadline=None)
@given(texts)
def test_random_unicode_is_cut_as_the_library_cuts_it(tokenizer, library, text):
    assert tokenizer.tokenize(text) == library.tokenize(text)


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("", []),
        (EMOJI, ["[UNK]"]),
        ("good" + EMOJI, ["[UNK]"]),  # no punctuation between: one word
        (f"good {EMOJI}", ["good", "[UNK]"]),
        ("你好世界", ["[UNK]", "[UNK]", "世", "[UNK]"]),  # each character a word
        ("שלום", ["ש", "##ל", "##ו", "##ם"]),
        ("العَرَبِيَّة", ["ا", "##ل", "##ع", "##ر", "##ب", "##ي", "##ة"]),  # vowel marks are accents
        ("Déjà VU", ["de", "##ja", "vu"]),
        ("a" * 101, ["[UNK]"]),
        ("so [MASK] it [mask]", ["so", "[MASK]", "it", "[", "mask", "]"]),
        ("x\x00y\u200bz\ufffd", ["x", "##y", "##z"]),  # control and format characters go
    ],
)
def test_unusual_text_has_a_known_outcome(tokenizer, library, text, pieces):
    assert tokenizer.tokenize(text) == library.tokenize(text) == pieces


def test_without_lowercase_case_and_accents_stay():
    assert basic_tokenize("Déjà VU!", lowercase=False) == ["Déjà", "VU", "!"]
    assert basic_tokenize("Déjà VU!") == ["deja", "vu", "!"]


def test_one_place_where_nothing_fits_makes_the_whole_word_unknown():
    assert longest_match("abq", {"ab", "##b"}) == ["[UNK]"]


def test_the_longest_piece_is_taken_even_where_the_rest_then_fails():
    assert longest_match("abcd", {"ab", "abc", "##cd"}) == ["[UNK]"]


# --- Encoding ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.text(letters, max_size=30), st.one_of(st.none(), st.text(letters, min_size=1)))
def test_pairs_become_the_librarys_ids_and_segments(tokenizer, library, first, second):
    want = library(first, second)
    have = tokenizer.encode(first, second)
    assert have.input_ids == want["input_ids"]
    assert have.token_type_ids == want["token_type_ids"]


@pytest.mark.parametrize("lengths", [(30, 3), (3, 30), (12, 12), (11, 12), (40, 41)])
@pytest.mark.parametrize("limit", [5, 9, 17])
def test_truncation_shortens_the_longer_text_as_the_library_does(
    tokenizer, library, lengths, limit
):
    first, second = ("one " * lengths[0], "two " * lengths[1])
    want = library(first, second, truncation="longest_first", max_length=limit)
    have = tokenizer.encode(first, second, max_length=limit, truncate=True)
    assert have.input_ids == want["input_ids"]


def test_an_odd_place_goes_to_the_first_text_as_in_googles_code(tokenizer):
    tokens = tokenizer.encode("one " * 12, "two " * 30, max_length=8, truncate=True).token_type_ids
    assert tokens == [0] * 5 + [1] * 3  # [CLS] one one one [SEP], two two [SEP]


def test_a_batch_is_padded_as_the_librarys(tokenizer, library):
    texts, pairs = (
        ["One.", "", "Three words here, and a fourth."],
        ["a", "longer than the other", ""],
    )
    want = library(texts, pairs, padding=True, return_tensors="pt")
    have = tokenizer(texts, pairs)
    assert have.keys() == want.keys()
    assert all(have[name].equal(want[name]) for name in have)


def test_a_text_over_the_limit_is_refused_in_one_line(tokenizer):
    with pytest.raises(ValueError, match="10002 tokens and the limit is 512") as error:
        tokenizer.encode("word " * 10_000)
    assert "\n" not in str(error.value)
    assert len(tokenizer.encode("word " * 10_000, truncate=True).input_ids) == 512
    assert len(tokenizer.encode("word " * 10_000, max_length=None).input_ids) == 10_002


def test_empty_text_is_cls_and_sep(tokenizer):
    assert [tokenizer.pieces[i] for i in tokenizer.encode("").input_ids] == ["[CLS]", "[SEP]"]


def test_decode_undoes_what_can_be_undone(tokenizer):
    ids = tokenizer.encode("Tokenization, unmasked").input_ids
    assert tokenizer.decode(ids) == "tokenization , unmasked"
    assert tokenizer.decode(ids, skip_special=False).startswith("[CLS] ")


@pytest.mark.parametrize(
    "call",
    [lambda t: t("one text"), lambda t: t([]), lambda t: t(["a"], ["b", "c"])],
    ids=["text", "nothing", "pairs"],
)
def test_a_batch_that_is_none_is_refused(tokenizer, call):
    with pytest.raises(ValueError, match="texts"):
        call(tokenizer)


# --- The vocabulary -----------------------------------------------------------------------------


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_a_vocabulary_without_a_special_token_is_refused_by_name(token, tmp_path):
    pieces = [piece for piece in [*SPECIAL_TOKENS, "a", "##a"] if piece != token]
    with pytest.raises(ValueError, match=f"has no \\{token[:-1]}\\]"):
        WordPiece(pieces)
    (tmp_path / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    with pytest.raises(ValueError, match="vocab.txt: the vocabulary has no"):
        WordPiece.from_folder(tmp_path)


def test_vocabularies_that_can_not_be_ids_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'a' more than once"):
        WordPiece([*SPECIAL_TOKENS, "a", "a"])
    with pytest.raises(ValueError, match="without a gap"):
        WordPiece({**{token: i for i, token in enumerate(SPECIAL_TOKENS)}, "a": 9})
    with pytest.raises(ValueError, match="can not be read"):
        WordPiece.from_folder(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="not UTF-8"):
        WordPiece.from_folder(tmp_path)


def test_a_saved_vocabulary_is_read_by_hugging_face(tmp_path):
    ours = WordPiece(train_wordpiece(TINY, 40))
    ours.save(tmp_path)
    theirs = BertTokenizer.from_pretrained(tmp_path)
    for text in ("masked tasks", "task untuned masks"):
        assert theirs(text)["input_ids"] == ours.encode(text).input_ids
    assert WordPiece.from_folder(tmp_path).vocab == ours.vocab


# --- Training -----------------------------------------------------------------------------------


def test_counts_of_a_tiny_corpus_by_hand():
    merger = Merger(TINY)
    assert merger.pieces["##s"] == 5 + 4 + 6 + 3 + 3  # tasks has two
    assert merger.pairs[("##a", "##s")] == merger.pairs[("##s", "##k")] == 18
    assert merger.best(by_count) == ("##a", "##s")  # the tie goes to the alphabet
    assert merger.best(by_ratio) == ("##u", "##n")  # 2 / (2 · 2)


@pytest.mark.parametrize("rule", [by_count, by_ratio, by_likelihood])
def test_counts_kept_up_to_date_are_those_counted_anew(rule):
    merger = Merger({**TINY, "aaaa": 3, "aaa": 1})  # neighbours that overlap
    for _ in range(12):
        merger.merge(merger.best(rule))
        anew = Merger(TINY)
        anew.word_counts, anew.words = merger.word_counts, merger.words
        anew.pieces.clear(), anew.pairs.clear()
        for word in merger.words:
            anew._count(word, +1)
        assert +merger.pieces == +anew.pieces and merger.pairs == anew.pairs


def test_the_likelihood_rule_is_the_gain_of_the_unigram_likelihood():
    def log_likelihood(pieces):
        total = pieces.total()
        return sum(n * math.log(n / total) for n in pieces.values() if n)

    for pair in [("##a", "##s"), ("##e", "##d"), ("t", "##a")]:
        merger = Merger(TINY)
        before = log_likelihood(merger.pieces)
        gain = by_likelihood(
            merger.pairs[pair], merger.pieces[pair[0]], merger.pieces[pair[1]],
            merger.pieces.total(),
        )  # fmt: skip
        merger.merge(pair)
        assert gain == pytest.approx(log_likelihood(merger.pieces) - before)


def test_training_gives_a_vocabulary_that_can_cut_all_its_words():
    vocab = train_wordpiece(TINY, 40)
    assert vocab[:5] == list(SPECIAL_TOKENS) and len(vocab) == len(set(vocab)) <= 40
    assert all("[UNK]" not in longest_match(word, set(vocab)) for word in TINY)
    assert "mask" in vocab and "task" in vocab
    assert train_wordpiece(TINY, 30) == vocab[:30]  # merges come in order, and always the same
    assert len(train_wordpiece(TINY, 1000)) < 1000  # nothing left to merge


def test_training_by_count_finds_the_librarys_pieces():
    words = {w: n for w, n in count_words(docs_corpus(False).sentences()[::100]).items() if n > 2}
    words = {word: n for word, n in words.items() if word.isascii()}
    ours = train_wordpiece(words, 500)
    theirs = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    theirs.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(vocab_size=500, show_progress=False)
    theirs.train_from_iterator((" ".join([word] * n) for word, n in words.items()), trainer)
    merged = [p for p in ours[5:] if len(p.removeprefix("##")) > 1][:-50]
    assert len(set(merged) & set(theirs.get_vocab())) > 0.95 * len(merged)


def test_training_by_ratio_leaves_words_in_more_pieces():
    sentences = docs_corpus(False).sentences()
    words = {w: n for w, n in count_words(sentences[::100]).items() if w.isascii() and n > 2}
    unseen = {w: n for w, n in count_words(sentences[7::200]).items() if w.isascii()}

    def pieces(rule):
        vocab = set(train_wordpiece(words, 400, rule))
        return sum(n * len(longest_match(word, vocab)) for word, n in unseen.items())

    assert pieces(by_ratio) > 1.3 * pieces(by_count)


@pytest.mark.parametrize(
    "texts, size, why",
    [([], 100, "no words"), (["", " "], 100, "no words"), (["abc"], 7, "too small"),
     ("one text", 100, "write .text.")],
)  # fmt: skip
def test_training_that_can_not_work_is_refused(texts, size, why):
    with pytest.raises(ValueError, match=why):
        train_wordpiece(texts, size)
