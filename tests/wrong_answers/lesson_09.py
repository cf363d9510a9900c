"""Wrong answers of lesson 09 on no list of known mistakes: the cases must reject them too."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from course_utils.distillation import (
    TEACHER,
    centred_logit_loss,
    check_temperature,
    distillation_loss,
    keep_layers,
    relation_loss,
    soften,
    with_teacher,
)


def softens_by_the_root(logits, temperature=1.0):
    check_temperature(temperature)
    return soften(logits, temperature**0.5)


def softens_towards_even_shares(logits, temperature=1.0):
    check_temperature(temperature)
    probabilities, even = logits.softmax(-1), torch.full_like(logits, 1 / logits.size(-1))
    return even + (probabilities - even) / temperature


def softens_upwards_only(logits, temperature=1.0):
    check_temperature(temperature)
    return soften(logits, max(temperature, 1.0))


def loss_in_both_directions(student, teacher, labels, temperature=2.0, soft_weight=0.5):
    one = distillation_loss(student, teacher, labels, temperature, soft_weight)
    q, p = (soften(logits, temperature) for logits in (student, teacher.detach()))
    reverse = temperature**2 * (q * (q.log() - p.log())).sum(-1).mean()
    forward = distillation_loss(student, teacher, None, temperature, 1.0)
    return one + soft_weight * (reverse - forward) / 2


def loss_of_logits(student, teacher, labels, temperature=2.0, soft_weight=0.5):
    soft = F.mse_loss(student, teacher.detach())
    hard = F.cross_entropy(student, labels) if soft_weight < 1 else 0.0
    return soft_weight * soft + (1 - soft_weight) * hard


def loss_that_ignores_its_weight(student, teacher, labels, temperature=2.0, soft_weight=0.5):
    return distillation_loss(student, teacher, labels, temperature, 0.5 if soft_weight < 1 else 1)


def loss_whose_labels_teach_nothing(student, teacher, labels, temperature=2.0, soft_weight=0.5):
    soft = distillation_loss(student, teacher, None, temperature, 1.0)
    if soft_weight == 1:
        return soft
    return soft_weight * soft + (1 - soft_weight) * F.cross_entropy(student.detach(), labels)


def limit_by_the_largest(student_logits, teacher_logits):
    top = [z - z.amax(-1, keepdim=True) for z in (student_logits, teacher_logits.detach())]
    return 0.5 * F.mse_loss(*top)


def limit_of_one_over_labels_squared(student_logits, teacher_logits):
    return centred_logit_loss(student_logits, teacher_logits) / student_logits.size(-1)


def limit_whose_student_does_not_learn(student_logits, teacher_logits):
    return centred_logit_loss(student_logits.detach(), teacher_logits) + 0 * student_logits.sum()


def keeps_them_from_the_top_down(model, layers):
    student = keep_layers(model, layers)
    student.bert.encoder.layers = nn.ModuleList(list(student.bert.encoder.layers)[::-1])
    return student


def keeps_one_too_few(model, layers):
    keep_layers(model, layers)
    return keep_layers(model, layers[:-1] or layers)


def keeps_with_another_count(model, layers):
    student = keep_layers(model, layers)
    config = dataclasses.replace(student.config, num_hidden_layers=len(layers) + 1)
    student.config = student.bert.config = config
    return student


def keeps_and_freezes_the_embeddings(model, layers):
    student = keep_layers(model, layers)
    student.bert.embeddings.requires_grad_(False)
    return student


def caches_the_next_texts_logits(teacher, features, batch_size=64):
    rows = with_teacher(teacher, features, batch_size)
    logits = [row[TEACHER] for row in rows]
    return [row | {TEACHER: other} for row, other in zip(rows, logits[1:] + logits[:1])]


def caches_centred_logits(teacher, features, batch_size=64):
    rows = with_teacher(teacher, features, batch_size)
    return [row | {TEACHER: row[TEACHER] - row[TEACHER].mean()} for row in rows]


def caches_and_forgets_the_labels(teacher, features, batch_size=64):
    rows = with_teacher(teacher, features, batch_size)
    return [{k: v for k, v in row.items() if k != "labels"} for row in rows]


def relations_of_neighbours(student_vectors, teacher_vectors):
    relation_loss(student_vectors, teacher_vectors)
    pairs = [F.normalize(v, dim=-1) for v in (student_vectors, teacher_vectors.detach())]
    student, teacher = ((v[1:] * v[:-1]).sum(-1) for v in pairs)
    return F.mse_loss(student, teacher)


def relations_of_centred_vectors(student_vectors, teacher_vectors):
    return relation_loss(student_vectors - student_vectors.mean(0), teacher_vectors)


def relations_by_the_root(student_vectors, teacher_vectors):
    return relation_loss(student_vectors, teacher_vectors).clamp(min=1e-12).sqrt()


WRONG = {
    "distillation/soften": [
        softens_by_the_root,
        softens_towards_even_shares,
        softens_upwards_only,
    ],
    "distillation/loss": [
        loss_in_both_directions,
        loss_of_logits,
        loss_that_ignores_its_weight,
        loss_whose_labels_teach_nothing,
    ],
    "distillation/centred-limit": [
        limit_by_the_largest,
        limit_of_one_over_labels_squared,
        limit_whose_student_does_not_learn,
    ],
    "distillation/keep-layers": [
        keeps_them_from_the_top_down,
        keeps_one_too_few,
        keeps_with_another_count,
        keeps_and_freezes_the_embeddings,
    ],
    "distillation/with-teacher": [
        caches_the_next_texts_logits,
        caches_centred_logits,
        caches_and_forgets_the_labels,
    ],
    "distillation/relations": [
        relations_of_neighbours,
        relations_of_centred_vectors,
        relations_by_the_root,
    ],
}
