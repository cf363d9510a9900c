"""Lesson 04: WordPiece, how BERT cuts text: learn a vocabulary, cut by the longest match, encode.

    tokenizer = WordPiece.from_folder(folder)        # reads vocab.txt
    tokenizer.tokenize("unmasked words")             # ['un', '##mas', '##ked', 'words']
    bert(**tokenizer(["one text", "another"]))       # a padded batch of tensors

A piece that does not begin its word begins with "##". The pieces are those of Hugging Face's
BertTokenizer (tests/test_wordpiece.py, on random Unicode as well as on prose).
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUES = "##"

# --- From text to words -----------------------------------------------------------------------


def basic_tokenize(text: str, lowercase: bool = True) -> list[str]:
    """Cut text into words: at white space, around each punctuation mark and each Chinese character.

    Control characters go. With `lowercase` letters become small and lose their accents ("Élan" →
    "elan"), as in the uncased BERTs.

    Source: google-research/bert, `tokenization.py`, `BasicTokenizer`.
    """
    text = "".join(_cleaned(character) for character in text)
    if lowercase:
        # NFD writes é as e and an accent of its own, of category Mn
        text = unicodedata.normalize("NFD", text)
        text = "".join(c.lower() for c in text if unicodedata.category(c) != "Mn")
    return "".join(f" {c} " if is_punctuation(c) else c for c in text).split()


def _cleaned(character: str) -> str:
    category = unicodedata.category(character)
    if character in "\t\n\r" or category.startswith("Z"):
        return " "
    if character == "\ufffd" or category in ("Cc", "Cf", "Co"):
        return ""
    return f" {character} " if is_chinese(character) else character


def is_punctuation(character: str) -> bool:
    """Unicode's punctuation, and every mark of ASCII ("$", "+" and "^" too)."""
    ascii_mark = character.isascii() and character.isprintable() and not character.isalnum()
    return ascii_mark and character != " " or unicodedata.category(character).startswith("P")


def is_chinese(character: str) -> bool:
    """A character of the CJK blocks: Chinese is written without spaces. Kana and Hangul are not."""
    code = ord(character)
    return code >= 0x3400 and any(first <= code <= last for first, last in CJK_BLOCKS)


CJK_BLOCKS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


# --- From a word to pieces ----------------------------------------------------------------------


def longest_match(
    word: str, vocab: Container[str], unknown: str = "[UNK]", max_characters: int = 100
) -> list[str]:
    """Cut one word: from the left, each time the longest piece that the vocabulary has.

    Pieces after the first are looked up with "##" in front. If at some place nothing fits, not even
    one character, the whole word is `unknown`; so is a word of more than max_characters.

    Source: Wu et al. 2016, section 4.1 (WordPiece); google-research/bert, `tokenization.py`,
    `WordpieceTokenizer` (the longest match).
    """
    if len(word) > max_characters:
        return [unknown]
    pieces, start = [], 0
    while start < len(word):
        mark = CONTINUES if start else ""
        for end in range(len(word), start, -1):
            if mark + word[start:end] in vocab:
                break
        else:
            return [unknown]
        pieces.append(mark + word[start:end])
        start = end
    return pieces


# --- Learning a vocabulary --------------------------------------------------------------------

Score = Callable[[int, int, int, int], float]  # (count of the pair, of left, of right, of all)


def by_count(pair: int, left: int, right: int, total: int) -> float:
    """The most frequent pair: byte-pair encoding's rule, and that of the tokenizers library."""
    return pair


def by_ratio(pair: int, left: int, right: int, total: int) -> float:
    """count(ab) / (count(a) · count(b)): the rule most often told as WordPiece's."""
    return pair / (left * right)


def by_likelihood(pair: int, left: int, right: int, total: int) -> float:
    """How much log-likelihood the text gains, each piece drawn by its share, if the pair is merged.

    Schuster and Nakajima 2012, section 3, choose the unit that raises the likelihood most.
    """

    def part(count: int) -> float:
        return count * math.log(count) if count > 0 else 0.0

    # Σ count · log(count / total) = Σ part(count) − part(total), before and after
    before = part(left) + part(right) - part(total)
    after = part(pair) + part(left - pair) + part(right - pair) - part(total - pair)
    return after - before


def train_wordpiece(
    texts: Iterable[str] | Mapping[str, int],
    vocab_size: int,
    score: Score = by_count,
    lowercase: bool = True,
) -> list[str]:
    """Learn a vocabulary: begin with single characters, merge the best pair, again and again.

    texts       texts, or a mapping from word to how often it occurs
    vocab_size  pieces in the end, special tokens and characters included; less where the words
                hold no more pairs
    score       which pair is the best: `by_count`, `by_ratio` or `by_likelihood`
    returns     the vocabulary: special tokens, every character as the beginning of a word and as
                its continuation, then the merged pieces in the order in which they were found

    Ties go to the pair that comes first in the alphabet, so that a corpus gives one vocabulary.
    Raises ValueError for no words, and for a vocab_size too small for the characters.

    Google published neither its trainer nor its exact rule (google-research/bert, README, "Learning
    a new WordPiece vocabulary").
    """
    words = dict(texts) if isinstance(texts, Mapping) else count_words(texts, lowercase)
    if not words:
        raise ValueError("the texts hold no words; a vocabulary is learned from some.")
    characters = sorted({character for word in words for character in word})
    vocab = [*SPECIAL_TOKENS, *characters, *(CONTINUES + c for c in characters)]
    if vocab_size < len(vocab):
        raise ValueError(
            f"vocab_size {vocab_size} is too small: the special tokens and characters alone are "
            f"{len(vocab)}."
        )
    merger = Merger(words)
    known = set(vocab)
    while len(vocab) < vocab_size and merger.pairs:
        piece = merger.merge(merger.best(score))
        if piece not in known:  # two ways of merging can lead to the same piece
            vocab.append(piece)
            known.add(piece)
    return vocab


def count_words(texts: Iterable[str], lowercase: bool = True) -> Counter[str]:
    """How often each word occurs, after `basic_tokenize`."""
    if isinstance(texts, str):
        raise ValueError("texts must be a list of texts; for one text write [text].")
    return Counter(word for text in texts for word in basic_tokenize(text, lowercase))


class Merger:
    """Words cut into pieces, with the counts that choose the next merge kept up to date.

    words   {word: pieces}, at first its characters
    pieces  {piece: count}
    pairs   {(left, right): count}, neighbours inside a word
    """

    def __init__(self, word_counts: Mapping[str, int]) -> None:
        self.word_counts = dict(word_counts)
        self.words = {
            word: [word[0], *(CONTINUES + c for c in word[1:])] for word in word_counts if word
        }
        self.pieces: Counter[str] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.where: dict[tuple[str, str], set[str]] = {}  # pair: the words that hold it
        for word in self.words:
            self._count(word, +1)

    def _count(self, word: str, sign: int) -> None:
        """Add a word's pieces and pairs to the counts, or take them out (sign −1)."""
        pieces, times = self.words[word], sign * self.word_counts[word]
        for piece in pieces:
            self.pieces[piece] += times
        for pair in zip(pieces, pieces[1:]):
            self.pairs[pair] += times
            if sign > 0:
                self.where.setdefault(pair, set()).add(word)
            elif not self.pairs[pair]:
                del self.pairs[pair]

    def best(self, score: Score) -> tuple[str, str]:
        """The pair with the highest score; of equal ones the first in the alphabet."""
        total = self.pieces.total()
        scores = {
            pair: score(count, self.pieces[pair[0]], self.pieces[pair[1]], total)
            for pair, count in self.pairs.items()
        }
        highest = max(scores.values())
        return min(pair for pair, value in scores.items() if value == highest)

    def merge(self, pair: tuple[str, str]) -> str:
        """Join the pair wherever it stands; return the new piece."""
        left, right = pair
        new = left + right.removeprefix(CONTINUES)
        for word in self.where.pop(pair):
            self._count(word, -1)
            old, joined, place = self.words[word], [], 0
            while place < len(old):
                fits = tuple(old[place : place + 2]) == pair
                joined.append(new if fits else old[place])
                place += 2 if fits else 1
            self.words[word] = joined
            self._count(word, +1)
        return new


# --- The tokenizer ----------------------------------------------------------------------------


class Encoding(NamedTuple):
    """One text or pair, as ids: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP].

    `token_type_ids` are 0 up to the first [SEP] and 1 behind it.
    """

    input_ids: list[int]
    token_type_ids: list[int]


class WordPiece:
    """BERT's tokenizer over a given vocabulary.

    vocab           the pieces in the order of their ids, or a mapping from piece to id 0, 1, 2, …
    lowercase       as the vocabulary was made: True for the uncased BERTs
    max_characters  a longer word becomes [UNK]

    Raises ValueError for a vocabulary that lacks a special token or has a piece twice.
    """

    def __init__(
        self,
        vocab: Sequence[str] | Mapping[str, int],
        lowercase: bool = True,
        max_characters: int = 100,
    ) -> None:
        self.pieces = sorted(vocab, key=vocab.get) if isinstance(vocab, Mapping) else list(vocab)
        self.vocab = {piece: id for id, piece in enumerate(self.pieces)}
        missing = [token for token in SPECIAL_TOKENS if token not in self.vocab]
        if missing:
            raise ValueError(f"the vocabulary has no {', '.join(missing)}; BERT needs each once.")
        if len(self.vocab) != len(self.pieces):
            twice = next(p for p, times in Counter(self.pieces).items() if times > 1)
            raise ValueError(f"the vocabulary has {twice!r} more than once; ids must be unique.")
        if isinstance(vocab, Mapping) and self.vocab != dict(vocab):
            raise ValueError("the vocabulary's ids must be 0, 1, 2, … without a gap.")
        self.lowercase = lowercase
        self.max_characters = max_characters

    @classmethod
    def from_folder(cls, folder: Path | str, lowercase: bool = True) -> "WordPiece":
        """Read `vocab.txt`, a piece a line. Raises ValueError for a file that can not be used."""
        path = Path(folder) / "vocab.txt"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise ValueError(f"{path} can not be read: {reason}.") from None
        try:
            return cls(text.removesuffix("\n").split("\n"), lowercase)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, folder: Path | str) -> None:
        """Write `vocab.txt`, which Hugging Face's BertTokenizer reads too."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = "\n".join(self.pieces) + "\n"
        (Path(folder) / "vocab.txt").write_text(text, encoding="utf-8")

    def tokenize(self, text: str) -> list[str]:
        """Text → pieces, without [CLS] and [SEP]. A special token in the text stays whole."""
        pieces = []
        for part in re.split(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])", text):
            if part in SPECIAL_TOKENS:
                pieces.append(part)
                continue
            for word in basic_tokenize(part, self.lowercase):
                pieces += longest_match(word, self.vocab, max_characters=self.max_characters)
        return pieces

    def encode(
        self,
        text: str,
        pair: str | None = None,
        max_length: int | None = 512,
        truncate: bool = False,
    ) -> Encoding:
        """A text, or a pair of texts, as ids with [CLS] and [SEP].

        An empty text is [CLS] [SEP]. With more than max_length tokens (None: no limit) the text is
        refused with a ValueError, or with `truncate` cut: always the longer of the two, at its end.
        """
        first, second = self.tokenize(text), None if pair is None else self.tokenize(pair)
        special = 2 if second is None else 3
        total = len(first) + len(second or ()) + special
        if max_length is not None and total > max_length:
            if not truncate:
                raise ValueError(
                    f"the text has {total} tokens and the limit is {max_length}: split it, or pass "
                    "truncate=True."
                )
            if max_length < special:
                raise ValueError(f"max_length {max_length} leaves no room beside [CLS] and [SEP].")
            truncate_longer_first(first, second, max_length - special)
        tokens = ["[CLS]", *first, "[SEP]"]
        segments = [0] * len(tokens)
        if second is not None:
            tokens += [*second, "[SEP]"]
            segments += [1] * (len(second) + 1)
        return Encoding([self.vocab[token] for token in tokens], segments)

    def __call__(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        max_length: int | None = 512,
        truncate: bool = False,
    ) -> dict[str, Tensor]:
        """Texts, or texts and their pairs, as a padded batch for `bert(**batch)`.

        Returns input_ids, token_type_ids and attention_mask, each (texts, longest), integers.
        Raises ValueError for no texts, another number of pairs, and texts over the limit.
        """
        if isinstance(texts, str) or not len(texts):
            raise ValueError("texts must be a list with at least one text: [text].")
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(pairs)} pairs: give one pair a text.")
        seconds = [None] * len(texts) if pairs is None else pairs
        rows = [self.encode(a, b, max_length, truncate) for a, b in zip(texts, seconds)]
        longest = max(len(row.input_ids) for row in rows)

        def padded(lists: Iterable[list[int]], value: int) -> Tensor:
            return torch.tensor([one + [value] * (longest - len(one)) for one in lists])

        return {
            "input_ids": padded((row.input_ids for row in rows), self.vocab["[PAD]"]),
            "token_type_ids": padded((row.token_type_ids for row in rows), 0),
            "attention_mask": padded(([1] * len(row.input_ids) for row in rows), 0),
        }

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Ids → text: pieces joined at "##", words at spaces. Case and spacing are not restored."""
        pieces = [self.pieces[int(id)] for id in ids]
        if skip_special:
            pieces = [piece for piece in pieces if piece not in SPECIAL_TOKENS]
        return " ".join(pieces).replace(" " + CONTINUES, "")


def truncate_longer_first(first: list[str], second: list[str] | None, room: int) -> None:
    """Shorten two lists in place, always the longer one and at its end, until both fit in `room`.

    Where they are equally long the second gives way. (The tokenizers library differs by one token
    where `room` is odd: it gives the odd place to the text that was longer.)

    Source: google-research/bert, `create_pretraining_data.py`, `truncate_seq_pair`.
    """
    second = [] if second is None else second
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
