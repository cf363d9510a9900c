"""Lesson 07: more examples from few: EDA, masked-language-model substitution, mixup; and typos.

Lesson 10 adds TinyBERT's augmentation, many versions of each text. Everything random is drawn from
a generator that is passed in. A text is a list of words here: `text.split()` and `" ".join(words)`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils.bert import BertEmbeddings
from course_utils.finetuning import Batch
from course_utils.pretraining import BertForPreTraining

Synonyms = Callable[[str], list[str]]  # word → words that may stand in its place, best first
Candidates = Callable[[Sequence[str], int], list[str]]  # (words, place) → what may stand there
# words that carry the sentence; no other word may stand in their place
STOP_WORDS = frozenset(
    "a about after all am an and any are as at back be been before but by can can't could did do "
    "does don't for from get go going had has have he her here hi how i i'd i'm i've if in into is "
    "it it's its just like me my need no not now of off on once one or our out over please she so "
    "some still than thanks that that's the their them then there they this to today too two up us "
    "want was we were what when where which who why will with without won't would yes you "
    "your".split()
)


def _below(limit: int, generator: torch.Generator | None) -> int:
    """A whole number in 0 … limit − 1"""
    return int(torch.randint(limit, (), generator=generator))


def _order(number: int, generator: torch.Generator | None) -> list[int]:
    return torch.randperm(number, generator=generator).tolist()


# --- EDA: four easy operations --------------------------------------------------------------------


class EmbeddingNeighbours:
    """Synonyms without a network: a word's nearest neighbours in an encoder's table of pieces.

    tokenizer, table (vocab_size, hidden_size)  of a pretrained encoder
    count       so many neighbours, those with a cosine of at least `least`
    average     look a word of several pieces up by the mean of its pieces' rows

    `neighbours(word)` → list of words. Only whole words of letters are neighbours. A stop word has
    none, and without `average` neither has a word that is no single piece. Nearness is use, not
    meaning: opposites are near too. A mean of pieces is a rough guess: "##s" says little of a word.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        table: Tensor,
        count: int = 5,
        least: float = 0.5,
        average: bool = False,
    ) -> None:
        self.tokenizer, self.table, self.average = tokenizer, table.detach(), average
        vocabulary = tokenizer.get_vocab()
        self.words = [w for w in vocabulary if w.isascii() and w.isalpha() and len(w) > 2]
        self.words.sort(key=vocabulary.__getitem__)
        rows = torch.tensor([vocabulary[word] for word in self.words])
        self.vectors = F.normalize(table.detach()[rows].float(), dim=-1)  # (words, hidden_size)
        self.row = {word: i for i, word in enumerate(self.words)}
        self.count, self.least = count, least

    def __call__(self, word: str) -> list[str]:
        row, vector = self.row.get(word.lower()), self.vector(word)
        if vector is None or word.lower() in STOP_WORDS:
            return []
        cosines = self.vectors @ vector  # (words,)
        if row is not None:
            cosines[row] = -1.0  # the word itself
        best = cosines.topk(min(self.count, len(cosines)))
        return [
            self.words[i]
            for value, i in zip(best.values.tolist(), best.indices.tolist())
            if value >= self.least
        ]

    def vector(self, word: str) -> Tensor | None:
        """(hidden_size,), of length 1: where the word is looked up; None for one without a place"""
        row = self.row.get(word.lower())
        if row is not None:
            return self.vectors[row]
        pieces = self.tokenizer.encode(word, add_special_tokens=False)
        if not self.average or not pieces.ids or "[UNK]" in pieces.tokens:
            return None
        return F.normalize(self.table[pieces.ids].float().mean(0), dim=-1)


def replace_words(
    words: Sequence[str], count: int, synonyms: Synonyms, generator: torch.Generator | None = None
) -> list[str]:
    """Up to `count` words that have synonyms, each replaced by one of them."""
    words, left = list(words), count
    for place in _order(len(words), generator):
        found = synonyms(words[place]) if left else []
        if found:
            words[place] = found[_below(len(found), generator)]
            left -= 1
    return words


def insert_words(
    words: Sequence[str], count: int, synonyms: Synonyms, generator: torch.Generator | None = None
) -> list[str]:
    """Up to `count` times a synonym of one of the words, put at any place."""
    words = list(words)
    candidates = [word for word in words if synonyms(word)]
    for _ in range(count if candidates else 0):
        found = synonyms(candidates[_below(len(candidates), generator)])
        word = found[_below(len(found), generator)]
        words.insert(_below(len(words) + 1, generator), word)
    return words


def swap_words(
    words: Sequence[str], count: int, generator: torch.Generator | None = None
) -> list[str]:
    """`count` times two words, drawn anew, change places."""
    words = list(words)
    for _ in range(count if len(words) > 1 else 0):
        i, j = _order(len(words), generator)[:2]
        words[i], words[j] = words[j], words[i]
    return words


def delete_words(
    words: Sequence[str], probability: float, generator: torch.Generator | None = None
) -> list[str]:
    """Each word is left out with this probability; of a text that loses all, one word stays."""
    stays = torch.rand(len(words), generator=generator) >= probability  # (words,)
    kept = [word for word, stay in zip(words, stays.tolist()) if stay]
    return kept or [words[_below(len(words), generator)]]


def eda(
    text: str, synonyms: Synonyms, alpha: float = 0.1, generator: torch.Generator | None = None
) -> str:
    """One of the four operations, drawn evenly, on the share alpha of the words (at least one).

    Source: Wei and Zou 2019, "EDA: Easy Data Augmentation Techniques for Boosting Performance on
    Text Classification Tasks", section 2.
    """
    words = text.split()
    if not words:
        raise ValueError("there is no word in the text, so none can be changed.")
    count = max(1, round(alpha * len(words)))
    operations = (
        lambda: replace_words(words, count, synonyms, generator),
        lambda: insert_words(words, count, synonyms, generator),
        lambda: swap_words(words, count, generator),
        lambda: delete_words(words, alpha, generator),
    )
    return " ".join(operations[_below(4, generator)]())


def splice(texts: Sequence[str], count: int, generator: torch.Generator | None = None) -> list[str]:
    """`count` new texts, each the beginning of one text and the end of another.

    They read like no customer, and no label is right for them; but a teacher answers them too
    (lesson 09). Raises ValueError where there is no text, or one without a word.
    """
    pieces = [text.split() for text in texts]
    if not pieces or not all(pieces):
        raise ValueError("splicing needs texts with at least a word each.")
    made = []
    for _ in range(count):
        first, second = (pieces[_below(len(pieces), generator)] for _ in range(2))
        start = first[: 1 + _below(len(first), generator)]
        made.append(" ".join(start + second[_below(len(second), generator) :]))
    return made


# --- Substitution by a masked language model ------------------------------------------------------


@torch.inference_mode()
def mlm_substitutes(
    model: BertForPreTraining,
    tokenizer: Tokenizer,
    words: Sequence[str],
    place: int,
    count: int = 10,
) -> list[tuple[str, float]]:
    """What a masked language model puts in the place of words[place]: (word, probability), best
    first; the word itself and parts of words are left out.

    Unlike a table of synonyms it reads the sentence around the gap. Source: Kobayashi 2018,
    "Contextual Augmentation", section 3 (there with the label as a second input).
    """
    cls, sep, mask = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[MASK]"))
    before, after = (
        tokenizer.encode(" ".join(part), add_special_tokens=False).ids
        for part in (words[:place], words[place + 1 :])
    )
    ids = torch.tensor([[cls, *before, mask, *after, sep]])
    chances = model(ids).mlm_logits[0, 1 + len(before)].softmax(-1)  # (vocab_size,)
    best = chances.topk(min(4 * count, len(chances)))
    found = [
        (tokenizer.id_to_token(i), chance)
        for chance, i in zip(best.values.tolist(), best.indices.tolist())
    ]
    return [(w, p) for w, p in found if w.isalpha() and w != words[place].lower()][:count]


def mlm_substitute(
    model: BertForPreTraining,
    tokenizer: Tokenizer,
    text: str,
    count: int = 1,
    generator: torch.Generator | None = None,
) -> str:
    """`count` words, stop words excepted, replaced by a draw from the model's own probabilities."""
    words = text.split()
    places = [i for i in _order(len(words), generator) if words[i].lower() not in STOP_WORDS]
    for place in places[:count]:
        found = mlm_substitutes(model, tokenizer, words, place)
        if found:
            chances = torch.tensor([chance for _, chance in found])  # (candidates,)
            words[place] = found[int(torch.multinomial(chances, 1, generator=generator))][0]
    return " ".join(words)


# --- TinyBERT's augmentation (lesson 10) ----------------------------------------------------------


MARK = r"[!-/:-@\[-`{-~]"  # ASCII punctuation: BERT splits a text there, whatever stands beside it
WORD = rf"(?:(?!{MARK})\S)+"
WORDS = re.compile(rf"{WORD}(?:'{WORD})*|{MARK}")


def split_words(text: str) -> list[str]:
    """Words and punctuation marks, each for itself: "it isn't my card?" → it, isn't, my, card, ?

    Joined with spaces they give BERT the same pieces as the text.
    """
    return WORDS.findall(text)


class TinyBertCandidates:
    """(words, place) → up to `count` words that may stand in the place of words[place].

    model, tokenizer  a masked language model: asked where the word is one of *its* pieces
    neighbours        asked for all other words, say EmbeddingNeighbours(…, average=True)
    count             candidates of a word; the paper takes 15

    Stop words, numbers and punctuation have no candidates. An answer is kept: the copies of a text
    ask the same again. Of a text too long for the model the words around the place are read.

    Source: Jiao et al. 2020 (TinyBERT), section 3.2, algorithm 1, with GloVe for the neighbours. In
    the published code (`data_augmentation.py`) the model also sees the whole sentence as a second
    segment, so that the word itself is mostly among its candidates.
    """

    def __init__(
        self,
        model: BertForPreTraining,
        tokenizer: Tokenizer,
        neighbours: Synonyms,
        count: int = 15,
    ) -> None:
        self.model, self.tokenizer, self.neighbours = model.eval(), tokenizer, neighbours
        self.count = count
        self.found: dict[tuple[tuple[str, ...], int], list[str]] = {}

    def __call__(self, words: Sequence[str], place: int) -> list[str]:
        key = (tuple(words), place)
        if key not in self.found:
            self.found[key] = self.look_up(words, place)
        return self.found[key]

    def look_up(self, words: Sequence[str], place: int) -> list[str]:
        """The same, asked anew."""
        word = words[place]
        if not (word.isascii() and word.isalpha()) or word.lower() in STOP_WORDS:
            return []
        if len(self.tokenizer.encode(word, add_special_tokens=False).ids) > 1:
            return self.neighbours(word)[: self.count]
        around = self.window(words, place)
        found = mlm_substitutes(
            self.model, self.tokenizer, words[around], place - around.start, self.count
        )
        return [candidate for candidate, _ in found]

    def window(self, words: Sequence[str], place: int) -> slice:
        """All words, or as many on either side of the place as the model can read."""
        lengths = [len(self.tokenizer.encode(w, add_special_tokens=False).ids) for w in words]
        room = self.model.config.max_position_embeddings - 2  # [CLS] and [SEP]
        reach = len(words)
        while reach and sum(lengths[max(0, place - reach) : place + reach + 1]) > room:
            reach -= 1
        return slice(max(0, place - reach), place + reach + 1)


def tinybert_augment(
    text: str,
    candidates: Candidates,
    probability: float = 0.4,
    generator: torch.Generator | None = None,
) -> str:
    """Each word of the text is replaced with `probability`, on its own, by one of its candidates,
    drawn evenly; a word without candidates stays.

    candidates  (words, place) → list of words; asked about the text as it was, for replaced words
                only. words are those of `split_words`, and what is returned is joined with spaces

    Raises ValueError for a text without words and a probability outside [0, 1].
    Source: Jiao et al. 2020 (TinyBERT), section 3.2, algorithm 1. As printed it asks about a text
    that holds the words replaced so far; the published code asks about the original, as here.
    """
    if not 0 <= probability <= 1:  # also catches NaN
        raise ValueError(f"probability is {probability}; it must lie in [0, 1], TinyBERT's is 0.4.")
    words = split_words(text)
    if not words:
        raise ValueError("there is no word in the text, so none can be changed.")
    hit = (torch.rand(len(words), generator=generator) < probability).tolist()  # (words,)
    new = list(words)
    for place, replaced in enumerate(hit):
        found = candidates(words, place) if replaced else []
        if found:
            new[place] = found[_below(len(found), generator)]
    return " ".join(new)


class AugmentedTexts(NamedTuple):
    """The originals, each followed by its new versions.

    sources     for each text the number of its original: labels follow as labels[source]
    duplicates  so many new versions were like another version of their text, and were left out
    """

    texts: list[str]
    sources: list[int]
    duplicates: int


def augment_texts(
    texts: Sequence[str],
    times: int,
    candidates: Candidates,
    probability: float = 0.4,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> AugmentedTexts:
    """Each text, and up to `times` new versions of it by `tinybert_augment`.

    A version that is there already, or is the original, is left out and counted; nothing is drawn
    in its place, as in the published code. times 0 gives the texts as they are. The same generator
    gives the same texts. Raises ValueError for negative times, and as `tinybert_augment`.
    """
    if times < 0:
        raise ValueError(f"times is {times}; it must be 0 or more, TinyBERT's is 20.")
    found, sources, duplicates = [], [], 0
    for number, text in enumerate(tqdm(texts, "augmenting", unit="text", disable=not progress)):
        versions = {" ".join(split_words(text)): text}  # as it would be written → the text
        for _ in range(times):
            new = tinybert_augment(text, candidates, probability, generator)
            duplicates += new in versions
            versions.setdefault(new, new)
        found += versions.values()
        sources += [number] * len(versions)
    return AugmentedTexts(found, sources, duplicates)


# --- Mixup ----------------------------------------------------------------------------------------


@contextmanager
def mixed_embeddings(
    embeddings: BertEmbeddings, partner: Tensor, share: float
) -> Iterator[BertEmbeddings]:
    """Inside, the embeddings of text i are share · e_i + (1 − share) · e_partner[i].

    partner (batch,)  for each text the number of another of the batch
    """

    def mix(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return share * output + (1 - share) * output[partner]  # (batch, tokens, hidden_size)

    handle = embeddings.register_forward_hook(mix)
    try:
        yield embeddings
    finally:
        handle.remove()


def mixup_backward(model: nn.Module, batch: Batch, alpha: float = 0.2) -> Tensor:
    """A training step on mixtures: embeddings and losses of two texts in the share λ : 1 − λ.

    λ is drawn once a batch from Beta(alpha, alpha), most often near 0 or 1; partners are a shuffle
    of the batch. A token is hidden from attention where both texts have padding. → the mixed loss
    Source: Zhang et al. 2018, "mixup", section 2; Guo et al. 2019, "Augmenting Data with Mixup for
    Sentence Classification", section 3 (wordMixup).
    """
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    labels = batch["labels"]
    partner = torch.randperm(len(labels)).to(labels.device)  # (batch,)
    mask = batch["attention_mask"]
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    inputs["attention_mask"] = mask | mask[partner]  # (batch, tokens)
    with mixed_embeddings(model.bert.embeddings, partner, share):
        logits = model(**inputs).logits  # (batch, labels)
    loss = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(
        logits, labels[partner]
    )
    loss.backward()
    return loss.detach()


# --- Typos ----------------------------------------------------------------------------------------

KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def add_typos(text: str, rate: float = 0.1, generator: torch.Generator | None = None) -> str:
    """Each word of four letters or more gets a typo with the probability `rate`.

    One of four, drawn evenly: two neighbouring letters swapped, one dropped, one doubled, one hit
    on the key beside it. The first letter stays right, as it mostly does in life.
    """
    words = text.split(" ")
    hit = (torch.rand(len(words), generator=generator) < rate).tolist()
    for number, word in enumerate(words):
        if not hit[number] or sum(letter.isalpha() for letter in word) < 4:
            continue
        place = 1 + _below(len(word) - 2, generator)  # neither the first nor the last
        kind = _below(4, generator)
        here, behind = word[place], word[place + 1]
        middle = (behind + here, behind, here + here + behind, beside(here, generator) + behind)
        words[number] = word[:place] + middle[kind] + word[place + 2 :]
    return " ".join(words)


def beside(letter: str, generator: torch.Generator | None = None) -> str:
    """A letter of a neighbouring key in the same row; what is no letter stays."""
    for row in KEYBOARD:
        if letter.lower() in row:
            place = row.index(letter.lower())
            near = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            return near[_below(len(near), generator)]
    return letter
