"""Wrong answers of lesson 10 on no list of known mistakes: the cases must reject them too."""

import torch
import torch.nn.functional as F

from course_utils.augmentation import split_words, tinybert_augment
from course_utils.tinybert import attention_loss, hidden_loss, uniform_layers
from course_utils.trimming import trim_table


def map_backwards(teacher_layers, student_layers):
    return uniform_layers(teacher_layers, student_layers)[::-1]


def map_of_every_second_layer(teacher_layers, student_layers):
    uniform_layers(teacher_layers, student_layers)
    return tuple(min(2 * m, teacher_layers) for m in range(1, student_layers + 1))


def hidden_loss_without_the_first_token(student, teacher, projection, mask):
    return hidden_loss(student[:, 1:], teacher[:, 1:], projection, mask[:, 1:])


def hidden_loss_by_cosine(student, teacher, projection, mask):
    real = mask.bool()
    if not real.any():
        return (projection(student) * 0).sum()
    return (1 - F.cosine_similarity(projection(student)[real], teacher.detach()[real])).mean()


def hidden_loss_smooth(student, teacher, projection, mask):
    real = mask.bool()
    if not real.any():
        return (projection(student) * 0).sum()
    return F.smooth_l1_loss(projection(student)[real], teacher.detach()[real])


def attention_loss_of_the_first_head(student, teacher, mask):
    attention_loss(student, teacher, mask)
    return attention_loss(student[:, :1], teacher[:, :1], mask)


def attention_loss_without_the_diagonal(student, teacher, mask):
    other = 1 - torch.eye(student.size(-1), dtype=student.dtype)
    return attention_loss(student * other, teacher * other, mask)


def augments_from_the_second_word_on(text, candidates, probability=0.4, generator=None):
    new = tinybert_augment(text, candidates, probability, generator).split(" ")
    return " ".join([split_words(text)[0], *new[1:]])


def augments_with_every_second_candidate(text, candidates, probability=0.4, generator=None):
    return tinybert_augment(
        text, lambda words, place: candidates(words, place)[::2], probability, generator
    )


def table_with_room_for_one_more(table, used):
    smaller, place = trim_table(table, used)
    return torch.cat([smaller, smaller[:1]]), place


def table_normalised(table, used):
    smaller, place = trim_table(table, used)
    return F.normalize(smaller, dim=-1), place


WRONG = {
    "tinybert/layer-map": [map_backwards, map_of_every_second_layer],
    "tinybert/hidden-loss": [
        hidden_loss_without_the_first_token,
        hidden_loss_by_cosine,
        hidden_loss_smooth,
    ],
    "tinybert/attention-loss": [
        attention_loss_of_the_first_head,
        attention_loss_without_the_diagonal,
    ],
    "tinybert/augment": [augments_from_the_second_word_on, augments_with_every_second_candidate],
    "tinybert/trim": [table_with_room_for_one_more, table_normalised],
}
