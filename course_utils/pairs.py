"""Lesson 06: two texts: read together by a cross-encoder, or apart by a bi-encoder.

A cross-encoder is `BertForSequenceClassification` on `[CLS] first [SEP] second [SEP]`: every token
sees both texts. A bi-encoder gives each text a vector of its own, and compares the vectors:

    model = BiEncoder.from_encoder(folder)
    features = encode_apart(tokenizer, functions, summaries, labels)
    fine_tune(model, features, recipe, collate=collate_apart)
    vectors = model.vectors(tokenizer, functions)          # once, and then kept
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from course_utils.bert import Bert, BertConfig, find_folder, load_tensors, read_tensors
from course_utils.finetuning import (
    Batch,
    Features,
    TaskOutput,
    collate,
    encode,
    to_device,
)
from course_utils.pretraining import truncate_pair
from course_utils.similarity import mean_pooling

# --- Together -------------------------------------------------------------------------------------


def pair_input(
    first: Sequence[int], second: Sequence[int], cls_id: int, sep_id: int, max_length: int = 128
) -> Features:
    """Two lists of token ids, no special ones → input_ids, token_type_ids of one packed pair.

    `[CLS] first [SEP] second [SEP]`, token type 0 up to and with the first [SEP], 1 behind it. What
    is over max_length is taken off the end of whichever is the longer, one token at a time; of two
    equally long ones off the second. ValueError for a max_length under 5.

    What `encode` gets from the tokenizer. Source: Devlin et al. 2019, section 3 and figure 2.
    """
    if max_length < 5:
        raise ValueError(f"max_length is {max_length}; three special tokens and a token each: 5.")
    first, second = truncate_pair(list(first), list(second), max_length - 3)
    return {
        "input_ids": [cls_id, *first, sep_id, *second, sep_id],
        "token_type_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1),
    }


# --- Apart ----------------------------------------------------------------------------------------


def encode_apart(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str],
    labels: Sequence[int] | None = None,
    max_length: int = 64,
) -> list[Features]:
    """Pairs of texts → one dictionary each: input_ids, second_input_ids, labels if given."""
    first = encode(tokenizer, texts, labels=labels, max_length=max_length)
    second = encode(tokenizer, pairs, max_length=max_length)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} texts but {len(second)} pairs; one for each is needed.")
    return [f | {"second_input_ids": s["input_ids"]} for f, s in zip(first, second)]


def collate_apart(features: Sequence[Features]) -> Batch:
    """Two padded tensors a batch, each with its mask; see `finetuning.collate`."""
    second = collate([{"input_ids": f["second_input_ids"]} for f in features])
    first = collate([{k: v for k, v in f.items() if k != "second_input_ids"} for f in features])
    return first | {f"second_{name}": tensor for name, tensor in second.items()}


class BiEncoder(nn.Module):
    """One encoder for both texts, the mean of its vectors for each, and their cosine.

    As a classifier: the logit of "yes" is scale · (cosine − cut), that of "no" is 0. Trained on
    that, pairs that belong together come out above the cut and others below.

    Source: Reimers and Gurevych 2019, Sentence-BERT, section 3; it puts a softmax on (u, v, |u−v|),
    which needs both vectors again for each pair, where a cosine is one dot product.
    """

    labels = ["no", "yes"]

    def __init__(self, config: BertConfig, scale: float = 20.0, cut: float = 0.3) -> None:
        super().__init__()
        self.config, self.scale, self.cut = config, scale, cut
        self.bert = Bert(config, with_pooler=False)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, tokens), (batch, tokens) → (batch, hidden_size), each of length 1"""
        states = self.bert(input_ids, attention_mask, need_weights=False).last_hidden_state
        return F.normalize(mean_pooling(states, attention_mask), dim=-1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        second_input_ids: Tensor,
        second_attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> TaskOutput:
        """Both texts (batch, tokens), labels (batch,) of 0 and 1 → loss, logits (batch, 2)"""
        first = self.embed(input_ids, attention_mask)  # (batch, hidden_size)
        second = self.embed(second_input_ids, second_attention_mask)  # (batch, hidden_size)
        yes = self.scale * ((first * second).sum(-1) - self.cut)  # (batch,)
        logits = torch.stack([torch.zeros_like(yes), yes], dim=-1)  # (batch, 2)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return TaskOutput(loss, logits)

    @torch.inference_mode()
    def vectors(
        self, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int = 64, max_length: int = 64
    ) -> Tensor:
        """Texts → (texts, hidden_size), on the CPU: what an index keeps."""
        was_training = self.training
        self.eval()
        features = encode(tokenizer, texts, max_length=max_length)
        order = sorted(range(len(features)), key=lambda i: len(features[i]["input_ids"]))
        found = torch.empty(len(features), self.config.hidden_size)
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            batch = to_device(collate([features[i] for i in numbers]), self)
            found[numbers] = self.embed(batch["input_ids"], batch["attention_mask"]).cpu()
        self.train(was_training)
        return found

    @classmethod
    def from_encoder(cls, folder_or_hub_name: Path | str, **changes) -> "BiEncoder":
        """A bi-encoder on a folder's weights: there is nothing new to draw.

        changes  scale and cut
        """
        folder = find_folder(folder_or_hub_name)
        model = cls(BertConfig.from_folder(folder), **changes)
        load_tensors(model.bert, read_tensors(folder))
        return model.eval()

    from_pretrained = from_encoder  # a fine-tuned one is an encoder like any other

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the encoder; `AutoModel.from_pretrained(folder)` loads it."""
        self.bert.save_pretrained(folder)


# --- Ranking --------------------------------------------------------------------------------------


def rank_of(scores: Tensor, right: Sequence[int]) -> Tensor:
    """(queries,): the place of the right candidate, 1 = first; ties count against it.

    scores (queries, candidates), the higher the better; right: its number for each query
    """
    right = torch.as_tensor(right)
    if scores.dim() != 2 or right.shape != scores.shape[:1]:
        raise ValueError(
            f"scores {tuple(scores.shape)} must be (queries, candidates), with one right candidate "
            f"a query; there are {tuple(right.shape)}."
        )
    own = scores.gather(1, right[:, None])  # (queries, 1)
    return (scores >= own).sum(1)


def ranking_scores(ranks: Tensor) -> dict[str, float]:
    """mrr: the mean of 1 / rank; recall_at_1, recall_at_10: shares with the right one so high."""
    ranks = ranks.double()
    return {
        "mrr": (1 / ranks).mean().item(),
        "recall_at_1": (ranks <= 1).double().mean().item(),
        "recall_at_10": (ranks <= 10).double().mean().item(),
    }
