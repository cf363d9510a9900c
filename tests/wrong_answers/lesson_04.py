"""Wrong answers of lesson 04 on no list of known mistakes: the cases must reject them too."""

import torch
from torch import nn

from course_utils.bert import BertEmbeddings, Pooler, extended_attention_mask
from course_utils.wordpiece import longest_match


def match_of_the_plural(word, vocab, unknown="[UNK]", max_characters=100):
    """Tries the word without its last letter when the whole word is not there."""
    if word in vocab or word[:-1] not in vocab:
        return longest_match(word, vocab, unknown, max_characters)
    return [word[:-1], "##" + word[-1]]


def match_that_allows_any_single_character(word, vocab, unknown="[UNK]", max_characters=100):
    characters = {mark + c for mark in ("", "##") for c in word}
    return longest_match(word, set(vocab) | characters, unknown, max_characters)


def match_with_two_pieces_at_most(word, vocab, unknown="[UNK]", max_characters=100):
    pieces = longest_match(word, vocab, unknown, max_characters)
    return pieces if len(pieces) < 3 else [unknown]


class EmbeddingsWithoutPaddingVector(BertEmbeddings):
    """The vectors of padding are set to zero."""

    def forward(self, input_ids, token_type_ids=None):
        return super().forward(input_ids, token_type_ids) * (input_ids != 0)[..., None]


class EmbeddingsCountedFromTheEnd(BertEmbeddings):
    def forward(self, input_ids, token_type_ids=None):
        flipped = None if token_type_ids is None else token_type_ids.flip(1)
        return super().forward(input_ids.flip(1), flipped).flip(1)


class EmbeddingsThatAverage(BertEmbeddings):
    """The mean of the three in place of the sum: LayerNorm hides it, but for a token with eps."""

    def __init__(self, config):
        super().__init__(config)
        self.norm = nn.Identity()

    def forward(self, input_ids, token_type_ids=None):
        return super().forward(input_ids, token_type_ids) / 3


def mask_of_the_first_row(attention_mask, dtype=torch.float32):
    mask = extended_attention_mask(attention_mask, dtype)
    return mask[:1].expand_as(mask)


def mask_half_as_low(attention_mask, dtype=torch.float32):
    return extended_attention_mask(attention_mask, dtype) / 2


class PoolerOfFirstAndLast(Pooler):
    def forward(self, hidden_states):
        return super().forward((hidden_states[:, :1] + hidden_states[:, -1:]) / 2)


class PoolerWithResidual(Pooler):
    def forward(self, hidden_states):
        return torch.tanh(hidden_states[:, 0] + self.dense(hidden_states[:, 0]))


WRONG = {
    "wordpiece/longest-match": [
        match_of_the_plural,
        match_that_allows_any_single_character,
        match_with_two_pieces_at_most,
    ],
    "bert/embeddings": [
        EmbeddingsWithoutPaddingVector,
        EmbeddingsCountedFromTheEnd,
        EmbeddingsThatAverage,
    ],
    "bert/extended-mask": [mask_of_the_first_row, mask_half_as_low],
    "bert/pooler": [PoolerOfFirstAndLast, PoolerWithResidual],
    "bert/weight-map": [
        lambda: ("attention.value", "attention.output.dense"),
        lambda: ("attention_norm", "attention.output.dense"),
    ],
}
