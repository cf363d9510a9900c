"""Lesson 05: pretraining BERT: masked tokens (MLM) and next-sentence pairs (NSP).

From raw text to a loss: sentences of documents become pairs (`nsp_pairs`), pairs become a batch
(`pack`), a few tokens of the batch are hidden (`mask_tokens`), and a BERT with two heads
(`BertForPreTraining`) is asked what stood there and whether the second sentence followed the first.

Everything follows section 3.1 and appendix A of Devlin et al., "BERT" (2019). The command
`python -m course_utils.pretraining` trains with it; its loop is in `pretraining_run.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.bert import (
    ACTIVATIONS,
    Bert,
    BertConfig,
    find_folder,
    load_tensors,
    read_tensors,
    save_folder,
)
from course_utils.encoder import initialize
from course_utils.layers import LayerNorm, activation_function
from course_utils.wordpiece import SPECIAL_TOKENS

IGNORE = -100  # a label that counts nowhere: F.cross_entropy's own default
IS_NEXT, NOT_NEXT = 0, 1  # Hugging Face's convention, and that of the released weights


# --- Masked language modelling: what to hide ----------------------------------------------------


def mask_tokens(
    input_ids: Tensor,
    special_tokens_mask: Tensor,
    mask_token_id: int,
    vocab_size: int,
    probability: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose tokens to predict; hide most of them, change a few, leave a few as they are.

    Each token that is not special is chosen with `probability`, on its own. Of the chosen, 80 %
    become [MASK], 10 % any token of the vocabulary, 10 % stay.

    input_ids            (batch, tokens), integers; not changed
    special_tokens_mask  (batch, tokens), 1 = [CLS], [SEP] or [PAD]: never chosen
    mask_token_id        id of [MASK]
    vocab_size           replacements are drawn from 0 … vocab_size − 1
    generator            where the draws come from; None = torch's global one
    returns masked_input_ids (batch, tokens) and labels (batch, tokens): the token that stood there
    where chosen, −100 elsewhere

    Raises ValueError for a probability outside [0, 1] (0 chooses nothing, 1 every token), for
    shapes that differ, and for a mask_token_id outside the vocabulary.
    Source: Devlin et al. 2019, section 3.1, task 1, and appendix A.1. Google's code chooses exactly
    15 % of each sequence; choosing each token on its own is Hugging Face's way, right on average.
    """
    check_masking(input_ids, special_tokens_mask, mask_token_id, vocab_size, probability)
    chosen = uniform(input_ids.shape, input_ids.device, generator) < probability
    chosen &= ~special_tokens_mask.bool()  # (batch, tokens)
    return corrupt(input_ids, chosen, mask_token_id, vocab_size, generator)


def choose_words(
    special_tokens_mask: Tensor,
    continues_word: Tensor,
    probability: float = 0.15,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose whole words: all pieces of a word, or none of them.

    special_tokens_mask  (batch, tokens), 1 = [CLS], [SEP] or [PAD]: never chosen
    continues_word       (batch, tokens), True where a piece continues the one before it ("##ing")
    returns chosen (batch, tokens), bool: each word with `probability`, on its own

    A continuing piece right behind a special token (its word was cut off) begins a word of its own.
    Source: google-research/bert, README, "Whole Word Masking" (May 2019).
    """
    if continues_word.shape != special_tokens_mask.shape:
        raise ValueError(
            f"continues_word is {tuple(continues_word.shape)}, special_tokens_mask "
            f"{tuple(special_tokens_mask.shape)}; one flag a token is needed in both."
        )
    special = special_tokens_mask.bool()
    after_special = F.pad(special, (1, 0), value=True)[:, :-1]  # the first token is at a start too
    starts = ~continues_word.bool() | special | after_special  # (batch, tokens)
    position = torch.arange(starts.size(1), device=starts.device).expand_as(starts)
    # the latest start at or before each token: the place where its word begins
    first_piece = torch.where(starts, position, 0).cummax(dim=1).values  # (batch, tokens)
    draw = uniform(starts.shape, starts.device, generator)
    return (draw.gather(1, first_piece) < probability) & ~special  # one draw a word


def whole_word_mask(
    input_ids: Tensor,
    special_tokens_mask: Tensor,
    continues_word: Tensor,
    mask_token_id: int,
    vocab_size: int,
    probability: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """`mask_tokens`, but all pieces of a word are chosen together or not at all (`choose_words`).

    continues_word  (batch, tokens), True where a piece continues the one before it ("##ing")

    The pieces of a chosen word are then hidden, changed or left one by one, 80/10/10. Other
    arguments, result and errors as in `mask_tokens`.
    """
    check_masking(input_ids, special_tokens_mask, mask_token_id, vocab_size, probability)
    chosen = choose_words(special_tokens_mask, continues_word, probability, generator)
    return corrupt(input_ids, chosen, mask_token_id, vocab_size, generator)


def corrupt(
    input_ids: Tensor,
    chosen: Tensor,
    mask_token_id: int,
    vocab_size: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """80 % of the chosen tokens become [MASK], 10 % a random token, 10 % stay.

    input_ids (batch, tokens), chosen (batch, tokens) bool → masked_input_ids, labels. One draw
    decides between the three: two independent draws would not give these shares.
    """
    labels = input_ids.masked_fill(~chosen, IGNORE)
    fate = uniform(input_ids.shape, input_ids.device, generator)  # in [0, 1)
    random_ids = torch.randint(
        vocab_size, input_ids.shape, generator=generator, device=draw_device(input_ids, generator)
    ).to(input_ids)
    masked = input_ids.masked_fill(chosen & (fate < 0.8), mask_token_id)
    masked = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), random_ids, masked)
    return masked, labels


def draw_device(like: Tensor, generator: torch.Generator | None) -> torch.device:
    """A generator draws only on its own device."""
    return like.device if generator is None else generator.device


def uniform(
    shape: Sequence[int], device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """Numbers in [0, 1), drawn on the generator's device and moved to `device`."""
    on = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=on).to(device)


def check_masking(
    input_ids: Tensor,
    special_tokens_mask: Tensor,
    mask_token_id: int,
    vocab_size: int,
    probability: float,
) -> None:
    """Raise ValueError, with what to do, for arguments that masking can not work with."""
    if not 0 <= probability <= 1:  # also catches NaN
        raise ValueError(f"probability is {probability}; it must lie in [0, 1], BERT's is 0.15.")
    if special_tokens_mask.shape != input_ids.shape:
        raise ValueError(
            f"special_tokens_mask is {tuple(special_tokens_mask.shape)}, input_ids "
            f"{tuple(input_ids.shape)}; one flag a token is needed."
        )
    if input_ids.is_floating_point():
        raise ValueError(f"input_ids are {input_ids.dtype}; token ids are integers.")
    if not 0 <= mask_token_id < vocab_size:
        raise ValueError(
            f"mask_token_id is {mask_token_id}, the vocabulary has ids 0 to {vocab_size - 1}; "
            'take tokenizer.token_to_id("[MASK]").'
        )


# --- Next-sentence prediction: which pairs ------------------------------------------------------


class NspPair(NamedTuple):
    """Two segments of token ids, without special tokens, and IS_NEXT (0) or NOT_NEXT (1)."""

    first: list[int]
    second: list[int]
    label: int


def nsp_pairs(
    documents: Sequence[Sequence[Sequence[int]]],
    generator: torch.Generator | None = None,
    max_length: int = 128,
) -> list[NspPair]:
    """Each sentence with what followed it, or, half of the time, with one of another document.

    documents   documents of sentences of token ids, in document order, without special tokens
    max_length  longest sequence, [CLS] and two [SEP] included; the longer segment is cut first
    returns a pair for each sentence that has a successor, in document order: shuffle before use

    The other document is drawn evenly among all but this one, then a sentence evenly within it:
    never the same document, so no "random" sentence is the true one by accident.
    Raises ValueError for fewer than two documents with text, and for a max_length under 5 (two
    tokens and three special ones).
    Source: Devlin et al. 2019, section 3.1, task 2, and appendix A.2. The paper's segments are
    spans of several sentences; give such spans as "sentences" to have the same.
    """
    if max_length < 5:
        raise ValueError(f"max_length is {max_length}; [CLS] a [SEP] b [SEP] alone takes 5.")
    filled = [[list(s) for s in document if len(s)] for document in documents]
    filled = [document for document in filled if document]
    if len(filled) < 2:
        raise ValueError(
            f"nsp_pairs got {len(filled)} documents with text; a sentence from another document "
            "needs at least two."
        )
    device = None if generator is None else generator.device
    pairs = []
    for index, document in enumerate(filled):
        # columns: is the pair real? which other document? which sentence in it?
        draws = torch.rand(len(document) - 1, 3, generator=generator, device=device).tolist()
        for place, (coin, which, where) in enumerate(draws):
            if coin < 0.5:
                second, label = document[place + 1], IS_NEXT
            else:
                other = int(which * (len(filled) - 1))
                other += other >= index  # skip this document
                second = filled[other][int(where * len(filled[other]))]
                label = NOT_NEXT
            pairs.append(NspPair(*truncate_pair(document[place], second, max_length - 3), label))
    return pairs


def truncate_pair(
    first: Sequence[int], second: Sequence[int], max_tokens: int
) -> tuple[list[int], list[int]]:
    """Take tokens off the end of whichever is longer until both together fit in max_tokens.

    At equal length the second gives first. A segment of at most half of max_tokens is never cut.
    Source: google-research/bert, `create_pretraining_data.py`, `truncate_seq_pair` (which takes
    from front or end by a coin).
    """
    first, second = list(first), list(second)
    surplus = max(0, len(first) + len(second) - max_tokens)
    # first the difference in length goes, then both give in turn
    longer_by = len(first) - len(second)
    alone = min(surplus, abs(longer_by))
    rest = surplus - alone
    from_first = (alone if longer_by > 0 else 0) + rest // 2
    from_second = (alone if longer_by < 0 else 0) + rest - rest // 2
    return first[: len(first) - from_first], second[: len(second) - from_second]


class Batch(NamedTuple):
    """Packed sequences, each (batch, tokens), and the pairs' labels (batch,)."""

    input_ids: Tensor
    token_type_ids: Tensor
    attention_mask: Tensor
    special_tokens_mask: Tensor
    next_sentence_label: Tensor


def pack(
    pairs: Sequence[tuple[Sequence[int], Sequence[int], int]],
    cls_token_id: int,
    sep_token_id: int,
    pad_token_id: int = 0,
) -> Batch:
    """[CLS] first [SEP] second [SEP], padded to the longest of the batch.

    pairs  (first, second, label) each; an empty second gives [CLS] first [SEP], one segment

    token_type_ids are 0 up to the first [SEP] with it, 1 for the rest, 0 in padding;
    special_tokens_mask is True at [CLS], [SEP] and padding. Raises ValueError without pairs.
    Source: Devlin et al. 2019, section 3, figure 2.
    """
    if not pairs:
        raise ValueError("pack got no pairs; a batch needs at least one.")
    rows = []
    for first, second, _ in pairs:
        left = [cls_token_id, *first, sep_token_id]
        right = [*second, sep_token_id] if second else []
        special = [1] + [0] * len(first) + [1] + ([0] * len(second) + [1] if second else [])
        rows.append((left + right, [0] * len(left) + [1] * len(right), special))
    longest = max(len(ids) for ids, _, _ in rows)
    shape = (len(rows), longest)
    input_ids = torch.full(shape, pad_token_id)
    token_type_ids, attention_mask = torch.zeros(shape).long(), torch.zeros(shape).long()
    special_tokens_mask = torch.ones(shape, dtype=torch.bool)
    for row, (ids, types, special) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        token_type_ids[row, : len(ids)] = torch.tensor(types)
        attention_mask[row, : len(ids)] = 1
        special_tokens_mask[row, : len(ids)] = torch.tensor(special).bool()
    labels = torch.tensor([label for _, _, label in pairs])
    return Batch(input_ids, token_type_ids, attention_mask, special_tokens_mask, labels)


# --- The two heads and the model ----------------------------------------------------------------


class MlmHead(nn.Module):
    """Hidden states → a score for each token of the vocabulary.

        logits = LayerNorm(gelu(dense(hidden))) · token_embeddingᵀ + bias

    config                   hidden_size, vocab_size, hidden_act, layer_norm_eps, initializer_range
    token_embedding_weight   (vocab_size, hidden_size): the embedding's own parameter, not a copy.
                             Tied: what reads a token in also scores it on the way out.

    New parameters: hidden · (hidden + 1) for `dense`, 2 · hidden for `norm`, vocab_size for `bias`.
    Raises ValueError for a weight of another shape.
    Source: google-research/bert, `run_pretraining.py`, `get_masked_lm_output`; tying: Press and
    Wolf 2017, "Using the Output Embedding to Improve Language Models".
    """

    def __init__(self, config: BertConfig, token_embedding_weight: nn.Parameter) -> None:
        super().__init__()
        if token_embedding_weight.shape != (config.vocab_size, config.hidden_size):
            raise ValueError(
                f"token_embedding_weight is {tuple(token_embedding_weight.shape)}; the config asks "
                f"for ({config.vocab_size}, {config.hidden_size})."
            )
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation_function(ACTIVATIONS[config.hidden_act])
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        initialize(self, config.initializer_range)
        self.token_embedding_weight = token_embedding_weight

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states (..., hidden_size) → logits (..., vocab_size)"""
        x = self.norm(self.activation(self.dense(hidden_states)))  # (..., hidden_size)
        return F.linear(x, self.token_embedding_weight, self.bias)  # (..., vocab_size)


class NspHead(nn.Module):
    """The pooled first position → two scores: IS_NEXT, NOT_NEXT.

    Source: Devlin et al. 2019, appendix A.2; google-research/bert, `run_pretraining.py`,
    `get_next_sentence_output`.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, 2)
        initialize(self, config.initializer_range)

    def forward(self, pooler_output: Tensor) -> Tensor:
        """pooler_output (batch, hidden_size) → logits (batch, 2)"""
        return self.dense(pooler_output)


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of −log softmax(logits)[label] over the chosen tokens; 0 where none is chosen.

    logits (..., vocab_size), labels (...) with −100 where nothing is asked → scalar. Averaging over
    no token would be 0/0: the sum of nothing, 0, keeps a batch without masks from spoiling a run.
    """
    chosen = labels != IGNORE
    losses = F.cross_entropy(logits[chosen], labels[chosen], reduction="sum")
    return losses / chosen.sum().clamp(min=1)


class PretrainingOutput(NamedTuple):
    """What `BertForPreTraining` returns; a loss is None where its labels were not given.

    `loss` the sum of the losses there are; `mlm_logits` (batch, tokens, vocab_size), or with labels
    (chosen tokens, vocab_size), in the order of `labels[labels != -100]`; `nsp_logits` (batch, 2).
    """

    loss: Tensor | None
    mlm_loss: Tensor | None
    nsp_loss: Tensor | None
    mlm_logits: Tensor
    nsp_logits: Tensor


class BertForPreTraining(nn.Module):
    """BERT with the two heads it is pretrained with.

    With labels the MLM head runs on the chosen tokens only: at 15 % that is a seventh of its work,
    and the head is the largest matrix of a small model.

    Source: Devlin et al. 2019, section 3.1 and appendix A.2: the loss is the sum of the two.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config)
        self.mlm = MlmHead(config, self.bert.embeddings.token.weight)
        self.nsp = NspHead(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
    ) -> PretrainingOutput:
        """input_ids, attention_mask, token_type_ids (batch, tokens) as for `Bert`.

        labels               (batch, tokens), −100 where nothing is asked
        next_sentence_label  (batch,), 0 = the second segment followed the first, 1 = it did not
        """
        output = self.bert(input_ids, attention_mask, token_type_ids, need_weights=False)
        hidden_states = output.last_hidden_state  # (batch, tokens, hidden_size)
        nsp_logits = self.nsp(output.pooler_output)  # (batch, 2)
        token_loss = pair_loss = None
        if labels is None:
            mlm_logits = self.mlm(hidden_states)  # (batch, tokens, vocab_size)
        else:
            chosen = labels != IGNORE
            mlm_logits = self.mlm(hidden_states[chosen])  # (chosen tokens, vocab_size)
            token_loss = mlm_loss(mlm_logits, labels[chosen])
        if next_sentence_label is not None:
            pair_loss = F.cross_entropy(nsp_logits, next_sentence_label)
        losses = [part for part in (token_loss, pair_loss) if part is not None]
        return PretrainingOutput(
            sum(losses) if losses else None, token_loss, pair_loss, mlm_logits, nsp_logits
        )

    @classmethod
    def from_pretrained(cls, folder_or_hub_name: Path | str) -> "BertForPreTraining":
        """A model with the weights of a folder or of a name on the Hub, heads included, in eval
        mode. Errors as `Bert.from_pretrained`; a file without the heads' tensors names them."""
        folder = find_folder(folder_or_hub_name)
        model = cls(BertConfig.from_folder(folder))
        load_tensors(model, read_tensors(folder))
        return model.eval()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors, the tied matrix once, so that Hugging Face's
        `BertForPreTraining.from_pretrained(folder)` loads it."""
        save_folder(self, self.config, folder, "BertForPreTraining")


# --- The learning rate, the baseline, and what comes out ----------------------------------------


def linear_warmup_decay(step: int, warmup_steps: int, total_steps: int) -> float:
    """Factor on the learning rate: 0 → 1 in warmup_steps, then straight down to 0 at total_steps.

    For `torch.optim.lr_scheduler.LambdaLR`. Past total_steps it stays 0. Raises ValueError for a
    negative step or a warm-up longer than the whole.
    Source: Devlin et al. 2019, appendix A.2 (10,000 of 1,000,000 steps).
    """
    if step < 0 or not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"step {step}, warmup_steps {warmup_steps}, total_steps {total_steps}: they must be "
            "0 or more, and the warm-up no longer than the whole."
        )
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


class UnigramBaseline(NamedTuple):
    """What one can reach without reading the sentence: `loss` in nats, `accuracy` a share."""

    loss: float
    accuracy: float


def unigram_baseline(counts: Tensor, labels: Tensor) -> UnigramBaseline:
    """How well token frequencies alone predict: the bar that a masked language model must clear.

    counts  (vocab_size,), how often each token stands in the training text
    labels  any shape, −100 where nothing is asked
    returns the mean of −log share(label), and how often the most frequent token is right

    One is added to each count, so that a token never seen has a share too. Raises ValueError where
    no label is asked.
    """
    asked = labels[labels != IGNORE]
    if not len(asked):
        raise ValueError("unigram_baseline got no label to predict; all are -100.")
    shares = (counts.double() + 1) / (counts.double() + 1).sum()
    loss = -shares[asked].log().mean().item()
    return UnigramBaseline(loss, (asked == counts.argmax()).double().mean().item())


# --- Filling masks ------------------------------------------------------------------------------


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """"[CLS]", "[SEP]", … → their ids. ValueError names one that the vocabulary lacks."""
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL_TOKENS}
    lacking = [name for name, number in ids.items() if number is None]
    if lacking:
        raise ValueError(f"the tokenizer's vocabulary has no {lacking[0]}; this is no BERT's.")
    return ids


@torch.inference_mode()
def fill_mask(
    model: BertForPreTraining, tokenizer: Tokenizer, text: str, count: int = 5
) -> list[list[tuple[str, float]]]:
    """What the model would write at each [MASK] of a text: its `count` best pieces, best first.

    tokenizer  of the tokenizers library, the one that the model was trained with
    returns    for each [MASK], in order, `count` times (piece, probability)

    The special tokens are no answer and are left out. Raises ValueError for a text without [MASK],
    for one with more tokens than the model has positions, and for a vocabulary that lacks a
    special token.
    """
    special = special_ids(tokenizer)
    device = model.nsp.dense.weight.device
    input_ids = torch.tensor([tokenizer.encode(text).ids], device=device)  # (1, tokens)
    masked = input_ids == special["[MASK]"]
    if not masked.any():
        raise ValueError("fill_mask got a text without [MASK]; write it where a piece is missing.")
    hidden_states = model.eval().bert(input_ids, need_weights=False).last_hidden_state
    logits = model.mlm(hidden_states[masked])  # (masks, vocab_size)
    logits[:, list(special.values())] = float("-inf")
    best = logits.softmax(-1).topk(count)
    return [
        [(tokenizer.id_to_token(i), share) for i, share in zip(ids, shares)]
        for ids, shares in zip(best.indices.tolist(), best.values.tolist())
    ]


if __name__ == "__main__":
    from course_utils.pretraining_run import main

    main()
