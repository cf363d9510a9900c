"""Wrong answers of lesson 12 on no list of known mistakes: the cases must reject them too."""

import torch
from torch import nn

from course_utils.pruning import (
    cubic_sparsity,
    head_importance,
    movement_gradient,
    pruned_count,
    shrink_feed_forward,
    soft_mask,
    top_mask,
)


def last_of_the_equal_ones_go(scores, sparsity):
    return top_mask(scores.flip(range(scores.dim())), sparsity).flip(range(scores.dim()))


def one_more_goes(scores, sparsity):
    mask = top_mask(scores, sparsity)
    if pruned_count(scores.numel(), sparsity) and mask.sum() > 1:
        mask.view(-1)[mask.flatten().int().argmax()] = False
    return mask


def row_by_row(scores, sparsity):
    top_mask(scores, sparsity)
    if scores.dim() < 2:
        return top_mask(scores, sparsity)
    return torch.stack([top_mask(row, sparsity) for row in scores])


def quadratic(step, start, steps, interval, initial, final):
    found = cubic_sparsity(step, start, steps, interval, initial, final)
    rest = ((found - final) / (initial - final)) ** (1 / 3) if final > initial else 0
    return final + (initial - final) * rest**2


def one_pruning_ahead(step, start, steps, interval, initial, final):
    return cubic_sparsity(step + interval, start, steps, interval, initial, final)


def movement_of_half(weight, x, output_gradient):
    return movement_gradient(weight, x, output_gradient) / 2


def movement_of_the_first_row(weight, x, output_gradient):
    return movement_gradient(weight, x[:1], output_gradient[:1])


def soft_mask_with_half_the_slope(scores, threshold=0.5):
    mask = soft_mask(scores, threshold)
    return (mask + mask.detach()) / 2


def soft_mask_at_one_half(scores, threshold=0.5):
    soft_mask(scores, threshold)
    return soft_mask(scores, 0.5)


def heads_in_reverse(a, gradient, num_heads):
    return head_importance(a, gradient, num_heads).flip(0)


def heads_of_the_first_token(a, gradient, num_heads):
    return head_importance(a[:, :1], gradient[:, :1], num_heads)


def heads_by_squares(a, gradient, num_heads):
    parts = (a * gradient).sum(1).unflatten(1, (num_heads, -1)).sum(2)
    return parts.pow(2).mean(0).sqrt()


def shrunk_with_the_first_rows(expand, contract, kept):
    shrink_feed_forward(expand, contract, kept)
    return shrink_feed_forward(expand, contract, range(len(kept)))


def shrunk_with_the_columns_in_another_order(expand, contract, kept):
    a, b = shrink_feed_forward(expand, contract, kept)
    b.weight = nn.Parameter(b.weight.detach().flip(1))
    return a, b


WRONG = {
    "pruning/top-mask": [last_of_the_equal_ones_go, one_more_goes, row_by_row],
    "pruning/cubic": [quadratic, one_pruning_ahead],
    "pruning/movement-gradient": [movement_of_half, movement_of_the_first_row],
    "pruning/soft-mask": [soft_mask_with_half_the_slope, soft_mask_at_one_half],
    "pruning/head-importance": [heads_in_reverse, heads_of_the_first_token, heads_by_squares],
    "pruning/shrink": [shrunk_with_the_first_rows, shrunk_with_the_columns_in_another_order],
}
