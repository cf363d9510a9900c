"""Lesson 08: answers that stand in the text: where one starts and ends, or that there is none.

    finder = AnswerFinder.from_folder(folder)
    finder(["What is the default of axis?"], [docstring])   # [Answer(text, start, end, score, …)]

Every window is `[CLS] question [SEP] part of the context [SEP]`. An answer is a pair of pieces, the
first and the last; [CLS] for both says that this window holds no answer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
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
from course_utils.finetuning import Features, TaskOutput, load_tokenizer, on_encoder, predict

Offsets = list[tuple[int, int] | None]

# --- Windows --------------------------------------------------------------------------------------


class Window(NamedTuple):
    """A part of a context, with its question in front.

    example   number of the question that it belongs to
    features  input_ids, token_type_ids
    offsets   for each piece (start, end) in characters *of the whole context*; None for pieces that
              are not of the context: [CLS], the question, [SEP]
    """

    example: int
    features: Features
    offsets: Offsets


def window_starts(pieces: int, room: int, stride: int) -> list[int]:
    """Where windows of `room` pieces begin in a context of `pieces`, `stride` of them shared by
    neighbours; the last window reaches the end.

    Raises ValueError unless 0 <= stride < room. Beware of the word: Google's `doc_stride` is the
    step from window to window, room − stride here; Hugging Face's `stride` is the overlap, as here.
    """
    if not 0 <= stride < room:
        raise ValueError(f"stride {stride} must be 0 or more, and less than the room, {room}.")
    starts = [0]
    while starts[-1] + room < pieces:
        starts.append(starts[-1] + room - stride)
    return starts


def make_windows(
    tokenizer: Tokenizer,
    questions: Sequence[str],
    contexts: Sequence[str],
    max_length: int = 128,
    stride: int = 32,
) -> list[Window]:
    """Questions and contexts → windows of at most max_length pieces, one or more a question.

    stride  so many pieces of the context stand in both of two neighbouring windows; an answer of
            that length or less is whole in one of them

    A question may take half of the window, what is longer is cut at its end. Raises ValueError for
    lists of unequal lengths and a window without room for stride + 1 pieces of context.
    """
    if len(questions) != len(contexts):
        raise ValueError(f"{len(questions)} questions for {len(contexts)} contexts.")
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    asked = tokenizer.encode_batch(list(questions), add_special_tokens=False)
    texts = tokenizer.encode_batch(list(contexts), add_special_tokens=False)
    windows = []
    for number, (question, text) in enumerate(zip(asked, texts)):
        front = [cls, *question.ids[: max_length // 2 - 2], sep]
        room = max_length - len(front) - 1
        for start in window_starts(len(text.ids), room, stride):
            ids = text.ids[start : start + room]
            features = {
                "input_ids": [*front, *ids, sep],
                "token_type_ids": [0] * len(front) + [1] * (len(ids) + 1),
            }
            offsets = [None] * len(front) + text.offsets[start : start + room] + [None]
            windows.append(Window(number, features, offsets))
    return windows


def answer_pieces(offsets: Offsets, start: int, end: int) -> tuple[int, int]:
    """Characters of the context → (first, last) piece of this window; (0, 0), [CLS], where the
    answer is not whole in the window, or is none (start < 0).

    start, end  characters, end not included. Pieces that share a character with it belong to it
    """
    inside = [i for i, o in enumerate(offsets) if o is not None and o[0] < end and start < o[1]]
    if start < 0 or not inside:
        return 0, 0
    first, last = inside[0], inside[-1]
    if offsets[first][0] > start or offsets[last][1] < end:  # a part of it is in another window
        return 0, 0
    return first, last


def span_characters(offsets: Offsets, first: int, last: int) -> tuple[int, int]:
    """(first, last) piece of a window → (start, end), characters of the context, end not included.

    Raises ValueError for pieces that are not of the context, and a last before its first.
    """
    if last < first or offsets[first] is None or offsets[last] is None:
        raise ValueError(f"pieces {first} to {last} are no span of the context.")
    return offsets[first][0], offsets[last][1]


def answer_features(
    windows: Sequence[Window], starts: Sequence[int], ends: Sequence[int]
) -> list[Features]:
    """Examples for `fine_tune`: the windows, each with start_positions and end_positions.

    starts, ends  for each *question* the characters of its answer; −1 where there is none
    """
    features = []
    for window in windows:
        place = answer_pieces(window.offsets, starts[window.example], ends[window.example])
        features.append(
            window.features | {"start_positions": place[0], "end_positions": place[1]}
        )
    return features


# --- The model ------------------------------------------------------------------------------------


class BertForQuestionAnswering(nn.Module):
    """BERT, and on every token's last vector one linear layer to two numbers: start and end.

    Source: Devlin et al. 2019, section 4.2: "a start vector S and an end vector E"; section 4.3
    for [CLS] as the answer to what the text does not answer.
    """

    architecture = "BertForQuestionAnswering"  # Hugging Face's class that loads our folder

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config, with_pooler=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        initialize(self.qa_outputs, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> TaskOutput:
        """Inputs (batch, tokens) as for `Bert`, positions (batch,) → loss, the mean of the two
        ends' cross-entropies, and logits (batch, tokens, 2): [..., 0] start, [..., 1] end"""
        output = self.bert(input_ids, attention_mask, token_type_ids, need_weights=False)
        logits = self.qa_outputs(output.last_hidden_state)  # (batch, tokens, 2)
        loss = None
        if start_positions is not None and end_positions is not None:
            start_logits, end_logits = logits.unbind(-1)  # (batch, tokens) each
            loss = F.cross_entropy(start_logits, start_positions) / 2
            loss = loss + F.cross_entropy(end_logits, end_positions) / 2
        return TaskOutput(loss, logits)

    @classmethod
    def from_encoder(
        cls, folder_or_hub_name: Path | str, seed: int = 0, **changes
    ) -> "BertForQuestionAnswering":
        """A pretrained encoder under a new head, the head drawn from `seed`.

        changes  fields of BertConfig to replace, `hidden_dropout_prob=0.0` say
        """
        return on_encoder(cls, folder_or_hub_name, seed, **changes)

    @classmethod
    def from_pretrained(cls, folder_or_hub_name: Path | str) -> "BertForQuestionAnswering":
        """A fine-tuned model, head included."""
        folder = find_folder(folder_or_hub_name)
        model = cls(BertConfig.from_folder(folder))
        load_tensors(model, read_tensors(folder))
        return model.eval()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors, so that Hugging Face's class of the same name
        loads the folder, and `from_pretrained` here."""
        save_folder(self, self.config, folder, self.architecture)


# --- From logits to an answer ---------------------------------------------------------------------


def best_span(
    start_logits: Tensor, end_logits: Tensor, allowed: Tensor, max_length: int = 30
) -> tuple[int, int, float]:
    """→ (first, last, score): the pair of pieces with the largest start + end logit.

    start_logits, end_logits  (pieces,)
    allowed                   (pieces,) bool, True = a piece of the context
    max_length                pieces that an answer may have

    Both ends are allowed ones, first <= last, and last − first < max_length. All pairs are looked
    at. Raises ValueError when no piece is allowed. Source: Devlin et al. 2019, section 4.2.
    """
    if not allowed.any():
        raise ValueError("no piece is allowed: the window holds nothing of the context.")
    sums = start_logits[:, None] + end_logits[None, :]  # (first, last)
    fits = torch.ones_like(sums, dtype=torch.bool).triu().tril(max_length - 1)
    fits = fits & allowed[:, None] & allowed[None, :]  # (first, last)
    best = int(sums.masked_fill(~fits, -torch.inf).argmax())
    first, last = divmod(best, len(allowed))
    return first, last, sums[first, last].item()


def best_of_windows(
    spans: Sequence[tuple[int, int, float]], offsets: Sequence[Offsets]
) -> tuple[int, int, float]:
    """The best of the windows' spans, in characters of the context: (start, end, score).

    spans    for each window of one context (first, last, score), pieces counted in that window
    offsets  for each window the `offsets` of `Window`

    Scores are sums of logits, not probabilities: a softmax within each window would make a sure
    wrong window equal to a sure right one. Of equal scores the first window's counts. Raises
    ValueError when there is no window.
    """
    if not spans:
        raise ValueError("there is no window to choose from.")
    window = max(range(len(spans)), key=lambda i: spans[i][2])  # the first of equal ones
    first, last, score = spans[window]
    start, end = span_characters(offsets[window], first, last)
    return start, end, score


class Answer(NamedTuple):
    """What a model answers.

    text        context[start:end]; "" when it says that there is no answer
    start, end  characters of the context; −1 without an answer
    score       the best span's start + end logit
    no_answer   [CLS]'s start + end logit: what speaks for no answer, the least of all windows
    """

    text: str
    start: int
    end: int
    score: float
    no_answer: float

    @property
    def difference(self) -> float:
        """no_answer − score: above a threshold the model declines to answer."""
        return self.no_answer - self.score


def find_answers(
    logits: Sequence[Tensor],
    windows: Sequence[Window],
    contexts: Sequence[str],
    max_answer: int = 30,
) -> list[Answer]:
    """Logits of windows (pieces, 2) → for each context its best span over all of its windows.

    Nothing is declined here: see `decline`. A context without pieces has the answer "".
    """
    spans: list[list] = [[] for _ in contexts]
    offsets: list[list[Offsets]] = [[] for _ in contexts]
    nothing = [float("inf")] * len(contexts)
    for row, window in zip(logits, windows, strict=True):
        number = window.example
        nothing[number] = min(nothing[number], (row[0, 0] + row[0, 1]).item())
        allowed = torch.tensor([place is not None for place in window.offsets])  # (pieces,)
        if allowed.any():
            spans[number].append(best_span(row[:, 0], row[:, 1], allowed, max_answer))
            offsets[number].append(window.offsets)
    answers = []
    for number, context in enumerate(contexts):
        if spans[number]:
            start, end, score = best_of_windows(spans[number], offsets[number])
            answers.append(Answer(context[start:end], start, end, score, nothing[number]))
        else:
            answers.append(Answer("", -1, -1, float("-inf"), nothing[number]))
    return answers


def decline(answers: Sequence[Answer], threshold: float) -> list[str]:
    """The answers' texts, "" where no_answer − score is above the threshold."""
    return ["" if answer.difference > threshold else answer.text for answer in answers]


def choose_threshold(differences: Sequence[float], gains: Sequence[float]) -> float:
    """The threshold on no_answer − score with the best mean score; chosen on validation.

    differences  for each question no_answer − score
    gains        for each question what answering scores, less what declining scores: F1 of the
                 given answer where the question has one, −1 where it has none

    Answered is where difference <= threshold. The threshold is one of the differences, or −∞
    (never answer); of equally good ones the smallest. Raises ValueError for unequal lengths or no
    question. Source: SQuAD 2.0's evaluation script, `find_best_thresh`.
    """
    if len(differences) != len(gains) or not len(gains):
        raise ValueError(f"{len(differences)} differences for {len(gains)} gains; at least one.")
    best, threshold, total = 0.0, float("-inf"), 0.0
    rows = sorted(zip(differences, gains))
    for i, (difference, gain) in enumerate(rows):
        total += gain
        if i + 1 < len(rows) and rows[i + 1][0] == difference:
            continue  # equal ones are answered together, or not at all
        if total > best + 1e-9:
            best, threshold = total, difference
    return threshold


class AnswerFinder:
    """A fine-tuned model and its tokenizer: questions and contexts in, answers out.

    threshold  on no_answer − score, from `choose_threshold`; +∞ answers everything
    """

    def __init__(
        self,
        model: BertForQuestionAnswering,
        tokenizer: Tokenizer,
        max_length: int = 128,
        stride: int = 32,
        threshold: float = float("inf"),
    ) -> None:
        self.model, self.tokenizer, self.threshold = model, tokenizer, threshold
        self.max_length, self.stride = max_length, stride

    @classmethod
    def from_folder(cls, folder: Path | str, **settings) -> "AnswerFinder":
        """The finder of a folder that holds model.safetensors, config.json, tokenizer.json."""
        model = BertForQuestionAnswering.from_pretrained(folder)
        return cls(model, load_tokenizer(folder), **settings)

    def windows(self, questions: Sequence[str], contexts: Sequence[str]) -> list[Window]:
        """The windows that the model reads."""
        return make_windows(self.tokenizer, questions, contexts, self.max_length, self.stride)

    def candidates(self, questions: Sequence[str], contexts: Sequence[str]) -> list[Answer]:
        """For each question its best span, nothing declined."""
        windows = self.windows(questions, contexts)
        logits = predict(self.model, [window.features for window in windows])
        return find_answers(logits, windows, contexts)

    def __call__(self, questions: Sequence[str], contexts: Sequence[str]) -> list[Answer]:
        found = self.candidates(questions, contexts)
        return [
            answer._replace(text="", start=-1, end=-1) if answer.difference > self.threshold
            else answer
            for answer in found
        ]  # fmt: skip
