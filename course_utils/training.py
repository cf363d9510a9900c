"""Lesson 03: what the original Transformer was trained with: label smoothing and its rate schedule.

Vaswani et al. 2017, "Attention Is All You Need", sections 5.3 and 5.4.
"""

import torch
from torch import Tensor


def label_smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float = 0.1, ignore_index: int = -100
) -> Tensor:
    """Cross-entropy against targets that keep a little for the other classes.

    The target gives the label 1 − smoothing, and spreads smoothing evenly over all classes, the
    label included.

    logits        (..., classes)
    labels        (...), int64; those equal to ignore_index do not count
    smoothing     0 (plain cross-entropy) to 1
    returns       a scalar: the mean over the labels that count, NaN where there is none

    Equal to `F.cross_entropy(logits, labels, label_smoothing=smoothing, ignore_index=…)`.
    Raises ValueError for a smoothing outside 0 to 1 and for shapes that do not fit.
    Source: Szegedy et al. 2016, section 7; Vaswani et al. 2017, section 5.4.
    """
    if not 0.0 <= smoothing <= 1.0:
        raise ValueError(f"smoothing must lie between 0 and 1, not at {smoothing}")
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} need labels of shape {tuple(logits.shape[:-1])}, "
            f"not {tuple(labels.shape)}"
        )
    log_probs = torch.log_softmax(logits, dim=-1)  # (..., classes)
    counts = labels != ignore_index
    index = labels.where(counts, 0)[..., None]  # (..., 1); ignored labels point anywhere
    of_label = -log_probs.gather(-1, index)[..., 0]  # (...)
    of_all = -log_probs.mean(-1)  # (...): evenly spread over all classes
    loss = (1.0 - smoothing) * of_label + smoothing * of_all
    return loss[counts].mean()


def noam_rate(step: int, hidden_size: int, warmup_steps: int = 4000) -> float:
    """The learning rate of the original Transformer at a step, counted from 1.

        hidden_size^(−1/2) · min(step^(−1/2), step · warmup_steps^(−3/2))

    It rises in a straight line for warmup_steps steps, then falls as 1/√step; the two meet at
    (hidden_size · warmup_steps)^(−1/2). Raises ValueError for a step or warmup_steps below 1.
    Source: Vaswani et al. 2017, section 5.3, equation 3.
    """
    if step < 1 or warmup_steps < 1:
        raise ValueError(f"steps are counted from 1; got step {step}, warmup_steps {warmup_steps}")
    return hidden_size**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)
