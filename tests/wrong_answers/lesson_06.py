"""Wrong answers of lesson 06 on no list of known mistakes: the cases must reject them too."""

import torch
import torch.nn.functional as F

from course_utils.calibration import expected_calibration_error
from course_utils.finetuning import BertForSequenceClassification, TaskOutput, collate
from course_utils.out_of_scope import choose_threshold, in_scope
from course_utils.pairs import pair_input


class ClassifierWithTanh(BertForSequenceClassification):
    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None):
        output = self.bert(input_ids, attention_mask, token_type_ids)
        logits = self.classifier(self.dropout(output.pooler_output)).tanh()
        return TaskOutput(None if labels is None else F.cross_entropy(logits, labels), logits)


class ClassifierWithSmoothing(BertForSequenceClassification):
    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None):
        loss, logits = super().forward(input_ids, attention_mask, token_type_ids, labels)
        if labels is not None:
            loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        return TaskOutput(loss, logits)


class ClassifierThatDropsAfter(BertForSequenceClassification):
    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None):
        output = self.bert(input_ids, attention_mask, token_type_ids)
        logits = self.dropout(self.classifier(output.pooler_output))
        return TaskOutput(None if labels is None else F.cross_entropy(logits, labels), logits)


def collate_one_longer(features, pad_id=0):
    batch = collate(features, pad_id)
    ids = batch["input_ids"]
    return batch | {"input_ids": F.pad(ids, (0, 1), value=pad_id)}


def collate_in_floats(features, pad_id=0):
    batch = collate(features, pad_id)
    return batch | {"attention_mask": batch["attention_mask"].float()}


def error_in_percent(confidence, right, bins=10):
    return 100 * expected_calibration_error(confidence, right, bins)


def error_of_wrong_answers(confidence, right, bins=10):
    return expected_calibration_error(confidence, ~right.bool(), bins)


def threshold_at_the_quantile(logits, labels, oos, max_loss=0.01):
    threshold = choose_threshold(logits, labels, oos, max_loss)
    return threshold * 0.999


def threshold_of_half(logits, labels, oos, max_loss=0.01):
    choose_threshold(logits, labels, oos, max_loss)
    return 0.5


def energy_of_mean(logits, oos):
    return in_scope(logits, oos).logsumexp(-1) - torch.tensor(logits.size(1) - 1.0).log()


def energy_at_two(logits, oos):
    return 2 * (in_scope(logits, oos) / 2).logsumexp(-1)


def pair_with_types_of_three(first, second, cls_id, sep_id, max_length=128):
    found = pair_input(first, second, cls_id, sep_id, max_length)
    return found | {"token_type_ids": [*found["token_type_ids"][:-1], 0]}


def pair_padded(first, second, cls_id, sep_id, max_length=128):
    found = pair_input(first, second, cls_id, sep_id, max_length)
    blank = [0] * (max_length - len(found["input_ids"]))
    return {name: row + blank for name, row in found.items()}


WRONG = {
    "finetuning/classifier": [
        ClassifierWithTanh,
        ClassifierWithSmoothing,
        ClassifierThatDropsAfter,
    ],
    "finetuning/collate": [collate_one_longer, collate_in_floats],
    "finetuning/calibration-error": [error_in_percent, error_of_wrong_answers],
    "finetuning/threshold": [threshold_at_the_quantile, threshold_of_half],
    "finetuning/energy": [energy_of_mean, energy_at_two],
    "finetuning/pair-input": [pair_with_types_of_three, pair_padded],
}
