"""Lesson 08: entities: a tag for every word, spans out of tags, and decoding that keeps to BIO.

    tagger = SpanTagger.from_folder(folder)
    tagger(["move 200 dollars to savings"])       # [[(5, 16, "amount"), (20, 27, "account")]]

A span is (start, end, type): text[start:end] is an entity of that type, end not included.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn

from course_utils.bert import (
    Bert,
    BertConfig,
    find_folder,
    load_tensors,
    read_tensors,
    save_folder,
)
from course_utils.encoder import initialize
from course_utils.finetuning import (
    Features,
    TaskOutput,
    load_tokenizer,
    on_encoder,
    predict,
    read_labels,
    save_labels,
)
from course_utils.pretraining import IGNORE

Span = tuple[int, int, str]

# --- Spans and tags -------------------------------------------------------------------------------


def tag_names(types: Iterable[str]) -> list[str]:
    """The tags of BIO for these types: O, then B-x and I-x for each type x."""
    return ["O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]


def spans_to_tags(spans: Iterable[Span], words: Sequence[tuple[int, int]]) -> list[str]:
    """One tag a word: B-x where a span of type x begins, I-x where it goes on, O elsewhere.

    spans  (start, end, type) in characters, none overlapping
    words  (start, end) in characters, in order

    A word belongs to a span when the two share a character. Raises ValueError for spans that
    overlap, and for a span that no word touches: it would be lost without a sound.
    Source: Ramshaw and Marcus 1995, section 4.1 (as IOB1; B at every beginning is IOB2).
    """
    tags, end_before = ["O"] * len(words), 0
    for start, end, kind in sorted(spans):
        if start < end_before:
            raise ValueError(f"the span ({start}, {end}, {kind}) overlaps the one before it.")
        inside = [i for i, (a, b) in enumerate(words) if a < end and start < b]
        if not inside:
            raise ValueError(f"no word stands at characters {start} to {end} ({kind}).")
        for i in inside:
            tags[i] = f"I-{kind}"
        tags[inside[0]] = f"B-{kind}"
        end_before = end
    return tags


def tags_to_spans(tags: Sequence[str], words: Sequence[tuple[int, int]]) -> list[Span]:
    """The spans that the tags describe, in characters, in order.

    tags   one a word: "O", "B-x", "I-x"
    words  (start, end) in characters

    An I-x that continues no x begins a span, as in CoNLL's script; so every list of tags means
    something. Raises ValueError where tags and words differ in number.
    """
    if len(tags) != len(words):
        raise ValueError(f"{len(tags)} tags for {len(words)} words; one for each is needed.")
    spans: list[Span] = []
    before = "O"
    for tag, (start, end) in zip(tags, words):
        if tag != "O":
            kind = tag[2:]
            if tag.startswith("I-") and before[2:] == kind:
                spans[-1] = (spans[-1][0], end, kind)
            else:
                spans.append((start, end, kind))
        before = tag
    return spans


# --- Words and pieces -----------------------------------------------------------------------------


class Words(NamedTuple):
    """A text as a tagger reads it.

    features  input_ids, token_type_ids of its pieces, [CLS] and [SEP] among them
    word_ids  for each piece the number of its word, None for [CLS] and [SEP]
    offsets   for each word (start, end), characters of the text
    """

    features: Features
    word_ids: list[int | None]
    offsets: list[tuple[int, int]]

    def first_pieces(self) -> dict[int, int]:
        """word → place of its first piece; words that were cut off are missing"""
        return first_pieces(self.word_ids)


def first_pieces(word_ids: Sequence[int | None]) -> dict[int, int]:
    """word → place of its first piece among the pieces"""
    places: dict[int, int] = {}
    for place, word in enumerate(word_ids):
        if word is not None:
            places.setdefault(word, place)
    return places


def read_words(
    tokenizer: Tokenizer, texts: Sequence[str] | Sequence[list[str]], max_length: int = 128
) -> list[Words]:
    """Texts → their words and pieces, in the tokenizer's own way of splitting.

    texts  strings, or lists of words where the data comes in words; these count as joined by spaces

    What is longer than max_length pieces is cut at its end: `word_ids` ends there, `offsets` does
    not. Raises ValueError for a mixture of both kinds and for an empty list.
    """
    texts = list(texts)
    split = bool(texts) and not isinstance(texts[0], str)
    if not texts or any(isinstance(text, str) == split for text in texts):
        raise ValueError("texts must be strings, or all of them lists of words; at least one.")
    rows = tokenizer.encode_batch([list(text) if split else text for text in texts], split)
    return [_words(row, text, split, max_length) for row, text in zip(rows, texts)]


def _words(row: Encoding, text: str | list[str], split: bool, max_length: int) -> Words:
    offsets: list[tuple[int, int]] = []
    if split:
        for word in text:
            start = offsets[-1][1] + 1 if offsets else 0
            offsets.append((start, start + len(word)))
    else:
        for word, (start, end) in zip(row.word_ids, row.offsets):
            if word is None:
                continue
            if word == len(offsets):
                offsets.append((start, end))
            offsets[word] = (offsets[word][0], end)
    ids, types, word_ids = row.ids, row.type_ids, row.word_ids
    if len(ids) > max_length:  # the last one, [SEP], stays
        ids, types = [*ids[: max_length - 1], ids[-1]], types[:max_length]
        word_ids = [*word_ids[: max_length - 1], None]
    return Words({"input_ids": ids, "token_type_ids": types}, word_ids, offsets)


def align_labels(
    word_ids: Sequence[int | None], labels: Sequence[int], ignore: int = IGNORE
) -> list[int]:
    """Labels of words → labels of pieces: the word's on its first piece, `ignore` elsewhere.

    word_ids  for each piece the number of its word, None for [CLS], [SEP] and padding
    labels    for each word its label's number

    Words without a piece (cut off) lose their label. Raises ValueError when a piece belongs to a
    word that has no label. Source: Devlin et al. 2019, section 5.3: "the representation of the
    first sub-token as the input to the token-level classifier".
    """
    highest = max((word for word in word_ids if word is not None), default=-1)
    if highest >= len(labels):
        raise ValueError(f"word {highest} has no label: there are {len(labels)}.")
    aligned, before = [], None
    for word in word_ids:
        aligned.append(ignore if word is None or word == before else labels[word])
        before = word
    return aligned


def tag_features(
    words: Sequence[Words], tags: Sequence[Sequence[str]], names: Sequence[str]
) -> list[Features]:
    """Examples for `fine_tune`: the words' pieces, with labels aligned to them.

    tags   for each text one tag a word
    names  all tags, in the order of the model's logits
    """
    number = {name: i for i, name in enumerate(names)}
    return [
        one.features | {"labels": align_labels(one.word_ids, [number[tag] for tag in row])}
        for one, row in zip(words, tags, strict=True)
    ]


# --- The model ------------------------------------------------------------------------------------


class BertForTokenClassification(nn.Module):
    """BERT, and on every token's last vector dropout and one linear layer to the tags' logits.

    config  of the encoder; its hidden_dropout_prob is the head's too
    labels  the tags, in the order of the logits

    There is no pooler: nothing would read it. Source: Devlin et al. 2019, section 5.3 and
    figure 4 (d).
    """

    architecture = "BertForTokenClassification"  # Hugging Face's class that loads our folder

    def __init__(self, config: BertConfig, labels: Sequence[str]) -> None:
        super().__init__()
        self.config, self.labels = config, list(labels)
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise ValueError(f"labels must be different names, at least one; got {self.labels}.")
        self.bert = Bert(config, with_pooler=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, len(self.labels))
        initialize(self.classifier, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> TaskOutput:
        """Inputs (batch, tokens) as for `Bert`; labels (batch, tokens), −100 where a token is not
        judged → loss, logits (batch, tokens, tags)"""
        output = self.bert(input_ids, attention_mask, token_type_ids, need_weights=False)
        logits = self.classifier(self.dropout(output.last_hidden_state))  # (batch, tokens, tags)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
        return TaskOutput(loss, logits)

    @classmethod
    def from_encoder(
        cls, folder_or_hub_name: Path | str, labels: Sequence[str], seed: int = 0
    ) -> "BertForTokenClassification":
        """A pretrained encoder under a new head, the head drawn from `seed`."""
        return on_encoder(lambda config: cls(config, labels), folder_or_hub_name, seed)

    @classmethod
    def from_pretrained(cls, folder_or_hub_name: Path | str) -> "BertForTokenClassification":
        """A fine-tuned model, head and tags (`id2label` of config.json) included."""
        folder = find_folder(folder_or_hub_name)
        model = cls(BertConfig.from_folder(folder), read_labels(folder))
        load_tensors(model, read_tensors(folder))
        return model.eval()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors, so that Hugging Face's class of the same name
        loads the folder, and `from_pretrained` here."""
        save_folder(self, self.config, folder, self.architecture)
        save_labels(folder, self.labels)


# --- Decoding -------------------------------------------------------------------------------------


def bio_rules(tags: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What BIO allows: (first (tags,), following (tags, tags)), 0 = allowed, −∞ = not.

    first[j] is for a text that begins with tag j; following[i, j] for tag j right behind tag i.
    Only one thing is forbidden: an I-x anywhere but behind B-x or I-x.
    """
    first = torch.zeros(len(tags))
    following = torch.zeros(len(tags), len(tags))
    for j, tag in enumerate(tags):
        if tag.startswith("I-"):
            first[j] = -torch.inf
            for i, before in enumerate(tags):
                if before[2:] != tag[2:]:
                    following[i, j] = -torch.inf
    return first, following


def count_illegal(tags: Sequence[str]) -> int:
    """How many I-x of a text stand where they continue no x."""
    return sum(
        tag.startswith("I-") and before[2:] != tag[2:] for before, tag in zip(["O", *tags], tags)
    )


def viterbi(scores: Tensor, first: Tensor, following: Tensor) -> list[int]:
    """The path with the largest sum: one tag a word, judged together.

    scores     (words, tags), what each word says for each tag: log-probabilities, or logits
    first      (tags,), added for the tag that the text begins with
    following  (tags, tags), following[i, j] added for tag j right behind tag i; −∞ forbids it

    → a tag's number for each word, [] for a text without words. Work: words · tags². Source:
    Viterbi 1967; Lample et al. 2016, section 2.2, for tagging.
    """
    if not len(scores):
        return []
    best = scores[0] + first  # (tags,): the best sum of a path that ends in this tag
    came_from = []
    for word in scores[1:]:
        sums = best[:, None] + following  # (tags before, tags)
        best, back = sums.max(0)
        best = best + word
        came_from.append(back)
    path = [int(best.argmax())]
    for back in reversed(came_from):
        path.append(int(back[path[-1]]))
    return path[::-1]


def decode(
    logits: Tensor, words: Words, names: Sequence[str], constrained: bool = True
) -> list[str]:
    """Logits of a text's pieces (pieces, tags) → one tag a word, "O" for words that were cut off.

    constrained  True: the likeliest list of tags that BIO allows (Viterbi).
                 False: each word's likeliest tag, whatever its neighbours have
    """
    places = words.first_pieces()
    tags = ["O"] * len(words.offsets)
    if places:
        scores = logits[list(places.values())].float().log_softmax(-1)  # (words, tags)
        found = viterbi(scores, *bio_rules(names)) if constrained else scores.argmax(-1).tolist()
        for word, number in zip(places, found):
            tags[word] = names[number]
    return tags


class SpanTagger:
    """A fine-tuned model and its tokenizer: texts in, spans out.

    `tagger(texts)` → for each text its spans (start, end, type), characters;
    `tagger.tags(words)` → for each text one tag a word.
    """

    def __init__(
        self, model: BertForTokenClassification, tokenizer: Tokenizer, max_length: int = 128
    ) -> None:
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length

    @classmethod
    def from_folder(cls, folder: Path | str) -> "SpanTagger":
        """The tagger of a folder that holds model.safetensors, config.json, tokenizer.json."""
        return cls(BertForTokenClassification.from_pretrained(folder), load_tokenizer(folder))

    def words(self, texts: Sequence[str] | Sequence[list[str]]) -> list[Words]:
        """The texts as `read_words` gives them."""
        return read_words(self.tokenizer, texts, self.max_length)

    def logits(self, words: Sequence[Words]) -> list[Tensor]:
        """For each text (pieces, tags)"""
        return predict(self.model, [one.features for one in words])

    def tags(self, words: Sequence[Words], constrained: bool = True) -> list[list[str]]:
        """For each text one tag a word; see `decode`."""
        return [
            decode(row, one, self.model.labels, constrained)
            for row, one in zip(self.logits(words), words)
        ]

    def __call__(self, texts: Sequence[str], constrained: bool = True) -> list[list[Span]]:
        words = self.words(texts)
        return [
            tags_to_spans(tags, one.offsets)
            for tags, one in zip(self.tags(words, constrained), words)
        ]
