"""Lesson 07: what to do with a text that is too long, and what padding costs."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from course_utils.finetuning import Features, predict

STRATEGIES = ("head", "tail", "head+tail")


def truncate(
    pieces: Sequence[int], room: int, strategy: str = "head", head_share: float = 0.25
) -> list[int]:
    """At most `room` of a text's pieces (no special tokens): its beginning, its end, or both.

    strategy  "head" keeps the first, "tail" the last, "head+tail" round(head_share · room) from the
              beginning and the rest from the end, in the text's order

    A text that fits is kept whole. Raises ValueError for an unknown strategy and a room below 1.
    Source: Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section 5.3.1 (128
    from the head and 382 from the tail were best on IMDb).
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}; take one of {', '.join(STRATEGIES)}.")
    if room < 1:
        raise ValueError(f"room is {room}; at least one piece must fit.")
    pieces = list(pieces)
    if len(pieces) <= room:
        return pieces
    head = {"head": room, "tail": 0, "head+tail": round(head_share * room)}[strategy]
    return pieces[:head] + pieces[len(pieces) - (room - head) :]


def windows(pieces: Sequence[int], room: int, stride: int) -> list[list[int]]:
    """Overlapping stretches of at most `room` pieces, one every `stride`, until the end is reached.

    Each piece is in at least one. Raises ValueError for a stride that is not in 1 … room.
    """
    if not 1 <= stride <= room:
        raise ValueError(f"stride is {stride}; with {room} pieces a window take 1 to {room}.")
    starts = [0]
    while starts[-1] + room < len(pieces):
        starts.append(starts[-1] + stride)
    return [list(pieces[start : start + room]) for start in starts]


def pieces_of(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Each text's piece ids, without special tokens, uncut."""
    return [row.ids for row in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def with_specials(tokenizer: Tokenizer, pieces: Sequence[int]) -> Features:
    """[CLS] pieces [SEP] as an example for `predict` or `fine_tune`."""
    cls, sep = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    return {"input_ids": [cls, *pieces, sep], "token_type_ids": [0] * (len(pieces) + 2)}


def encode_truncated(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int, strategy: str = "head"
) -> list[Features]:
    """`finetuning.encode` without labels, with a choice of what is cut."""
    room = max_length - 2
    return [
        with_specials(tokenizer, truncate(pieces, room, strategy))
        for pieces in pieces_of(tokenizer, texts)
    ]


def predict_windows(
    model: nn.Module, texts: Sequence[Sequence[Features]], pool: str = "mean"
) -> Tensor:
    """Each text read window by window; the windows' log probabilities, pooled → (texts, labels).

    texts  for each text its windows as examples, see `with_specials`
    pool   "mean" of the windows' log probabilities, or "max": the window with the surest label
    """
    if pool not in ("mean", "max"):
        raise ValueError(f'pool is {pool!r}; take "mean" or "max".')
    scores = predict(model, [part for text in texts for part in text]).log_softmax(-1)
    pooled = []
    for own in scores.split([len(text) for text in texts]):  # (windows of a text, labels)
        pooled.append(own.mean(0) if pool == "mean" else own[own.amax(-1).argmax()])
    return torch.stack(pooled)


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """The share of a run's cells that is padding, each batch padded to its own longest text.

    lengths (texts,) in pieces; batches of numbers of texts
    """
    cells = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    used = sum(lengths[i] for batch in batches for i in batch)
    return 1 - used / cells
