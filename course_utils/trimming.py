"""Lesson 10: a smaller vocabulary: without the rows of the embedding table that no text reads.

    trimmed = trim_vocabulary(model, tokenizer, texts)
    trimmed.model, trimmed.tokenizer, trimmed.kept

A text is covered when all its pieces are kept and none of them is [UNK]. A covered text is cut into
the same pieces as before. WordPiece takes, at each place of a word, the longest piece of its
vocabulary that fits there. The smaller vocabulary is a part of the larger one, so nothing longer
can fit; and the piece that was the longest is kept, so it still fits. Place by place both take the
same piece; its row is the same, so the model's numbers are.

Other texts lose. A word that needs a cut piece is cut otherwise, into pieces that the model may
never have seen together (`recut_share`), or is [UNK] where no pieces fit (`unknown_share`).
"""

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from tokenizers import Tokenizer
from torch import Tensor, nn

from course_utils.bert import Bert
from course_utils.wordpiece import CONTINUES, SPECIAL_TOKENS

PAD = 0  # the id that `finetuning.collate` pads with; its row stays, and stays the first


class Trimmed(NamedTuple):
    """The smaller model and its tokenizer; kept[new id] = old id, ascending."""

    model: nn.Module
    tokenizer: Tokenizer
    kept: list[int]


# --- The table ------------------------------------------------------------------------------------


def new_ids(used: Iterable[int]) -> dict[int, int]:
    """The ids in use, in any order and number, and 0 ([PAD]) → old id: new id.

    The old order is kept: the smallest id becomes 0, the next one 1, …
    """
    return {old: new for new, old in enumerate(sorted({PAD, *used}))}


def trim_table(table: Tensor, used: Iterable[int]) -> tuple[Tensor, dict[int, int]]:
    """The rows of an embedding table that are in use, and where each of them went.

    table    (vocab_size, hidden_size)
    used     ids in use, in any order, repeated or not
    returns  the smaller table (kept, hidden_size), a copy, and {old id: new id}, see `new_ids`

    smaller[place[i]] is table[i] for every id in use. Raises ValueError for an id without a row.
    """
    place = new_ids(used)
    if min(place) < 0 or max(place) >= len(table):
        wrong = min(place) if min(place) < 0 else max(place)
        raise ValueError(f"id {wrong} has no row: the table has rows 0 to {len(table) - 1}.")
    return table[list(place)].clone(), place


def keep_rows(model: nn.Module, used: Iterable[int]) -> dict[int, int]:
    """Cut the table of a model's Bert, in place → {old id: new id}.

    The config's vocab_size and pad_token_id follow. Raises ValueError for a model without a Bert,
    and for one whose head answers with pieces: that head would need cutting too.
    """
    if hasattr(model, "mlm"):
        raise ValueError("the MLM head answers with every piece; trim model.bert alone.")
    bert = model if isinstance(model, Bert) else getattr(model, "bert", None)
    if not isinstance(bert, Bert):
        raise ValueError(f"{type(model).__name__} holds no Bert as .bert, so there is no table.")
    weight = bert.embeddings.token.weight
    table, place = trim_table(weight.data, [bert.config.pad_token_id, *used])
    bert.embeddings.token = nn.Embedding.from_pretrained(table, freeze=not weight.requires_grad)
    bert.config = replace(
        bert.config, vocab_size=len(table), pad_token_id=place[bert.config.pad_token_id]
    )
    if model is not bert and hasattr(model, "config"):
        model.config = bert.config
    return place


def table_bytes(model: nn.Module) -> int:
    """Bytes of the table of word pieces: pieces · hidden_size · bytes of a number."""
    bert = model if isinstance(model, Bert) else model.bert
    weight = bert.embeddings.token.weight
    return weight.numel() * weight.element_size()


# --- The tokenizer --------------------------------------------------------------------------------


def trim_tokenizer(tokenizer: Tokenizer, place: dict[int, int]) -> Tokenizer:
    """A tokenizer that knows only the pieces of `place`, under their new ids.

    place  {old id: new id}, with [CLS], [SEP] and [UNK] among them

    Raises ValueError for a tokenizer that is no WordPiece: only of that the module's first lines
    prove that covered texts stay the same.
    """
    whole = json.loads(tokenizer.to_str())
    kind = whole["model"]["type"]
    if kind != "WordPiece":
        raise ValueError(f"the tokenizer is a {kind}; trimming is for WordPiece, BERT's.")
    vocabulary = whole["model"]["vocab"]
    whole["model"]["vocab"] = {p: place[i] for p, i in vocabulary.items() if i in place}
    whole["added_tokens"] = [
        token | {"id": place[token["id"]]}
        for token in whole["added_tokens"]
        if token["id"] in place
    ]
    if whole["padding"]:
        whole["padding"]["pad_id"] = place[whole["padding"]["pad_id"]]
    around = whole["post_processor"] or {}  # what puts [CLS] and [SEP] around a text, by id
    for token in around.get("special_tokens", {}).values():  # TemplateProcessing
        token["ids"] = [place[i] for i in token["ids"]]
    for name in {"cls", "sep"} & around.keys():  # BertProcessing
        around[name] = [around[name][0], place[around[name][1]]]
    return Tokenizer.from_str(json.dumps(whole))


def used_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> set[int]:
    """The ids of the pieces that these texts are cut into."""
    rows = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return {i for row in rows for i in row.ids}


def always_kept(tokenizer: Tokenizer, keep_characters: bool = True) -> set[int]:
    """The special tokens' ids and, if wanted, those of single characters, "a" and "##a" alike."""
    return {
        i
        for piece, i in tokenizer.get_vocab().items()
        if piece in SPECIAL_TOKENS or keep_characters and len(piece.removeprefix(CONTINUES)) == 1
    }


def trim_vocabulary(
    model: nn.Module,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    keep_characters: bool = True,
    also: Iterable[int] = (),
) -> Trimmed:
    """A copy of the model with the rows that these texts need, and a tokenizer that fits it.

    model            a `Bert`, or a module that holds one as `.bert`; it is not changed
    tokenizer        its WordPiece tokenizer; not changed either
    texts            what the model will read: a task's training texts, say
    keep_characters  keep all single characters too, so that any word made of known characters can
                     still be spelt and none of those becomes [UNK]
    also             ids of further pieces to keep

    Special tokens are always kept. Padding and truncation of the tokenizer stay as they are.
    Raises ValueError without anything to keep, for a tokenizer that is no WordPiece or has another
    number of pieces than the table, and as `keep_rows`.
    """
    texts, also = list(texts), set(also)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("texts must be a list of strings.")
    if not texts and not also:
        raise ValueError("there are no texts and no pieces to keep; give at least one.")
    truncation, padding = tokenizer.truncation, tokenizer.padding
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # a cut text would hide pieces it needs
    tokenizer.no_truncation()
    tokenizer.no_padding()
    smaller = copy.deepcopy(model)
    bert = smaller if isinstance(smaller, Bert) else getattr(smaller, "bert", None)
    if isinstance(bert, Bert) and bert.config.vocab_size != tokenizer.get_vocab_size():
        raise ValueError(
            f"the table has {bert.config.vocab_size} rows and the tokenizer "
            f"{tokenizer.get_vocab_size()} pieces; give the tokenizer that the model was made with."
        )
    used = used_ids(tokenizer, texts) | always_kept(tokenizer, keep_characters) | also
    place = keep_rows(smaller, used)
    if truncation:
        tokenizer.enable_truncation(**truncation)
    if padding:
        tokenizer.enable_padding(**padding)
    return Trimmed(smaller, trim_tokenizer(tokenizer, place), list(place))


# --- What is lost ---------------------------------------------------------------------------------


def pieces_of_words(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[str, ...]]:
    """The pieces of each word of the texts, one tuple a word, [UNK] where none fit."""
    words: dict[tuple[int, int], list[str]] = {}  # (text, word in it) → its pieces
    for text, row in enumerate(tokenizer.encode_batch(list(texts), add_special_tokens=False)):
        for word, piece in zip(row.word_ids, row.tokens):
            if word is not None:  # padding belongs to none
                words.setdefault((text, word), []).append(piece)
    return [tuple(pieces) for pieces in words.values()]


def unknown_share(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """The share of the texts' words that become [UNK]: what they say is lost. 0 without words."""
    words = pieces_of_words(tokenizer, texts)
    return sum("[UNK]" in pieces for pieces in words) / max(1, len(words))


def recut_share(before: Tokenizer, after: Tokenizer, texts: Sequence[str]) -> float:
    """The share of the texts' words that `after` cuts into other pieces than `before`.

    Both must split texts into the same words, as a tokenizer and its trimmed copy do. [UNK] counts
    as another piece.
    """
    pairs = list(zip(pieces_of_words(before, texts), pieces_of_words(after, texts), strict=True))
    return sum(old != new for old, new in pairs) / max(1, len(pairs))
