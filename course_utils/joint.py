"""Lesson 08: intent and slots together: one encoder, read once, under two heads.

    assistant = Assistant.from_folder(folder)
    assistant(["move 200 dollars from savings to checking"])
    # [Understood(intent="transfer_make", confidence=0.98, spans=[(5, 16, "amount"), …])]
"""

import json
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
from course_utils.token_classification import (
    Span,
    Words,
    decode,
    read_words,
    tags_to_spans,
)


class BertForIntentAndSlots(nn.Module):
    """BERT with a head for the text, on its pooled [CLS] vector, and one for each token.

    config      of the encoder; its hidden_dropout_prob is the heads' too
    intents     the intents' names, in the order of their logits
    tags        the tags, in the order of their logits
    slot_share  the slots' part in the loss, the intent's is the rest

    Source: Chen, Zhuo and Wang 2019, "BERT for Joint Intent Classification and Slot Filling",
    section 3.2; they sum the slots' loss over the tokens. Tags learn more slowly than
    intents, hence more here.
    """

    architecture = "BertForIntentAndSlots"  # the course's own; Hugging Face has none

    def __init__(
        self,
        config: BertConfig,
        intents: Sequence[str],
        tags: Sequence[str],
        slot_share: float = 0.75,
    ) -> None:
        super().__init__()
        if not 0 <= slot_share <= 1:
            raise ValueError(f"slot_share is {slot_share}; it is a share of the loss, in [0, 1].")
        self.config, self.slot_share = config, slot_share
        self.intents, self.labels = list(intents), list(tags)
        self.bert = Bert(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.intent_classifier = nn.Linear(config.hidden_size, len(self.intents))
        self.classifier = nn.Linear(config.hidden_size, len(self.labels))
        initialize(self.intent_classifier, config.initializer_range)
        initialize(self.classifier, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        intent: Tensor | None = None,
    ) -> TaskOutput:
        """Inputs and labels (batch, tokens) as for `BertForTokenClassification`, intent (batch,)
        → loss, logits (batch, tokens, tags + intents)

        The intent's logits stand behind the tags', the same at each token: so what reads `.logits`
        elsewhere in the course reads this model too. `split` takes them apart.
        """
        output = self.bert(input_ids, attention_mask, token_type_ids, need_weights=False)
        slots = self.classifier(self.dropout(output.last_hidden_state))  # (batch, tokens, tags)
        intents = self.intent_classifier(self.dropout(output.pooler_output))  # (batch, intents)
        loss = None
        if labels is not None and intent is not None:
            slot_loss = F.cross_entropy(slots.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
            intent_loss = F.cross_entropy(intents, intent)
            loss = self.slot_share * slot_loss + (1 - self.slot_share) * intent_loss
        everywhere = intents[:, None].expand(-1, slots.size(1), -1)  # (batch, tokens, intents)
        return TaskOutput(loss, torch.cat([slots, everywhere], dim=-1))

    def split(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(…, tokens, tags + intents) → slots (…, tokens, tags), intents (…, intents)"""
        slots, intents = logits.split([len(self.labels), len(self.intents)], dim=-1)
        return slots, intents[..., 0, :]

    @classmethod
    def from_encoder(
        cls,
        folder_or_hub_name: Path | str,
        intents: Sequence[str],
        tags: Sequence[str],
        seed: int = 0,
    ) -> "BertForIntentAndSlots":
        """A pretrained encoder under two new heads, drawn from `seed`."""
        return on_encoder(lambda config: cls(config, intents, tags), folder_or_hub_name, seed)

    @classmethod
    def from_pretrained(cls, folder_or_hub_name: Path | str) -> "BertForIntentAndSlots":
        """A fine-tuned model, both heads and their names included."""
        folder = find_folder(folder_or_hub_name)
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "intents" not in found:
            raise ValueError(f"{folder / 'config.json'} names no intents: this is no joint model.")
        model = cls(BertConfig.from_folder(folder), found["intents"], read_labels(folder))
        load_tensors(model, read_tensors(folder))
        return model.eval()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors. Hugging Face's BertForTokenClassification loads
        the folder as well: encoder and slots, and leaves the intent's head aside."""
        save_folder(self, self.config, folder, self.architecture)
        save_labels(folder, self.labels)
        path = Path(folder) / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["intents"] = self.intents
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def joint_features(tag_examples: Sequence[Features], intents: Sequence[int]) -> list[Features]:
    """The examples of `tag_features`, each with its intent's number."""
    return [one | {"intent": int(i)} for one, i in zip(tag_examples, intents, strict=True)]


class Understood(NamedTuple):
    """What the assistant makes of a text: its intent, the intent's probability, and the slots."""

    intent: str
    confidence: float
    spans: list[Span]


class Assistant:
    """A joint model and its tokenizer: `assistant(texts)` → one `Understood` each."""

    def __init__(
        self, model: BertForIntentAndSlots, tokenizer: Tokenizer, max_length: int = 128
    ) -> None:
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length

    @classmethod
    def from_folder(cls, folder: Path | str) -> "Assistant":
        """The assistant of a folder that holds model.safetensors, config.json, tokenizer.json."""
        return cls(BertForIntentAndSlots.from_pretrained(folder), load_tokenizer(folder))

    def read(self, words: Sequence[Words]) -> tuple[Tensor, list[list[str]]]:
        """→ the intents' logits (texts, intents), and for each text one tag a word"""
        parts = [self.model.split(row) for row in predict(self.model, [w.features for w in words])]
        tags = [decode(slots, one, self.model.labels) for (slots, _), one in zip(parts, words)]
        return torch.stack([intents for _, intents in parts]), tags

    def __call__(self, texts: Sequence[str]) -> list[Understood]:
        words = read_words(self.tokenizer, texts, self.max_length)
        logits, tags = self.read(words)
        confidence, best = logits.softmax(-1).max(-1)  # (texts,) each
        return [
            Understood(self.model.intents[i], p, tags_to_spans(row, one.offsets))
            for i, p, row, one in zip(best.tolist(), confidence.tolist(), tags, words)
        ]
