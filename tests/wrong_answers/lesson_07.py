"""Wrong answers of lesson 07 on no list of known mistakes: the cases must reject them too."""

import torch
from torch import nn

from course_utils.adapters import Adapter, LoRALinear
from course_utils.adversarial import fgm_backward
from course_utils.finetuning import parameter_groups
from course_utils.multitask import uncertainty_loss
from course_utils.truncation import truncate


def groups_with_double_decay(model, learning_rate, weight_decay, layer_decay=1.0):
    return parameter_groups(model, learning_rate, weight_decay, layer_decay**2)


def groups_without_embeddings(model, learning_rate, weight_decay, layer_decay=1.0):
    table = set(model.bert.embeddings.parameters())
    groups = parameter_groups(model, learning_rate, weight_decay, layer_decay)
    return [g | {"params": [p for p in g["params"] if p not in table]} for g in groups]


def groups_that_forget_biases(model, learning_rate, weight_decay, layer_decay=1.0):
    groups = parameter_groups(model, learning_rate, weight_decay, layer_decay)
    return [g | {"params": [p for p in g["params"] if p.dim() > 1]} for g in groups]


def truncates_one_too_many(pieces, room, strategy="head", head_share=0.25):
    return truncate(pieces, room - 1, strategy, head_share)


def truncates_from_the_middle(pieces, room, strategy="head", head_share=0.25):
    if strategy == "head+tail" and len(pieces) > room:
        start = (len(pieces) - room) // 2
        return list(pieces[start : start + room])
    return truncate(pieces, room, strategy, head_share)


def fgm_with_the_mean_of_both(model, batch, epsilon=0.5):
    loss = fgm_backward(model, batch, epsilon)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= 2
    return loss


def fgm_on_the_head(model, batch, epsilon=0.5):
    loss = model(**batch).loss
    loss.backward()
    weight = model.classifier.weight
    before = weight.detach().clone()
    weight.data.add_(epsilon * weight.grad / weight.grad.norm())
    model(**batch).loss.backward()
    weight.data.copy_(before)
    return loss.detach()


def weighs_by_softmax(losses, log_variances):
    return (torch.softmax(-log_variances, 0) * losses + log_variances / 2).sum()


def weighs_with_clamped_variances(losses, log_variances):
    return uncertainty_loss(losses, log_variances.clamp(min=0))


class AdapterWithNorm(Adapter):
    def forward(self, x):
        return x + self.up(self.activation(self.down(nn.functional.layer_norm(x, x.shape[-1:]))))


class AdapterOfHalf(Adapter):
    def forward(self, x):
        return x + 0.5 * self.up(self.activation(self.down(x)))


class LoRAByRoot(LoRALinear):
    def __init__(self, linear, rank, alpha=16.0):
        super().__init__(linear, rank, alpha)
        self.scale = alpha / rank**0.5


class LoRAWithTanh(LoRALinear):
    def forward(self, x):
        return self.linear(x) + self.scale * torch.tanh(x @ self.A.T) @ self.B.T


WRONG = {
    "tuning/layer-groups": [
        groups_with_double_decay,
        groups_without_embeddings,
        groups_that_forget_biases,
    ],
    "tuning/truncate": [truncates_one_too_many, truncates_from_the_middle],
    "tuning/fgm": [fgm_with_the_mean_of_both, fgm_on_the_head],
    "tuning/uncertainty": [weighs_by_softmax, weighs_with_clamped_variances],
    "tuning/adapter": [AdapterWithNorm, AdapterOfHalf],
    "tuning/lora": [LoRAByRoot, LoRAWithTanh],
}
