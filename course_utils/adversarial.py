"""Lesson 07: adversarial training: each step also learns from the worst small push (FGM, PGD).

    fine_tune(model, features, recipe, backward=partial(fgm_backward, epsilon=0.5))

The push goes to the table of word pieces, where a text becomes numbers, along its gradient. After
the step's gradients are there the table holds its old numbers again, bit for bit: they are copied
back, since adding and subtracting the same push does not round to the start.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from course_utils.finetuning import Batch


def push(gradient: Tensor, epsilon: float) -> Tensor:
    """The step of length epsilon that raises the loss most, to first order: ε · g / ‖g‖.

    gradient (…) → (…); a gradient of zeros gives zeros, as there is no direction to take.
    Source: Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised Text
    Classification", equation 5.
    """
    norm = gradient.norm()
    return epsilon * gradient / norm if norm > 0 else torch.zeros_like(gradient)


def project(offset: Tensor, radius: float) -> Tensor:
    """Back into the ball: an offset longer than radius is shortened to it, others stay."""
    norm = offset.norm()
    return offset * (radius / norm) if norm > radius else offset


def embedding_table(model: nn.Module) -> nn.Parameter:
    """The weights that get pushed. Raises ValueError where they are frozen: no gradient then."""
    table = model.bert.embeddings.token.weight
    if not table.requires_grad:
        raise ValueError(
            "the token embeddings are frozen, so they have no gradient to push along; "
            "train with frozen_layers=0."
        )
    return table


@contextmanager
def restored(parameter: nn.Parameter) -> Iterator[None]:
    """Whatever happens inside, afterwards the parameter has its old numbers, bit for bit."""
    before = parameter.detach().clone()
    try:
        yield
    finally:
        parameter.data.copy_(before)


def fgm_backward(model: nn.Module, batch: Batch, epsilon: float = 0.5) -> Tensor:
    """A step of FGM (fast gradient method): the gradients of the loss and of the pushed loss.

    Both are added to the parameters' gradients, so the step learns from the text as it is and from
    its worst neighbour at distance epsilon. → the plain loss, (). Costs two passes instead of one.
    Source: Goodfellow et al. 2015, section 4; Miyato et al. 2017, section 3.
    """
    loss = model(**batch).loss
    loss.backward()
    table = embedding_table(model)
    with restored(table):
        table.data += push(table.grad, epsilon)
        model(**batch).loss.backward()  # its gradient is added to the first
    return loss.detach()


def pgd_backward(
    model: nn.Module, batch: Batch, epsilon: float = 0.5, step: float = 0.2, steps: int = 3
) -> Tensor:
    """A step of PGD (projected gradient descent): several small pushes, kept within epsilon.

    Each push follows a new gradient; only the gradient at the last place is added to the one of
    the plain loss. → the plain loss, (). Costs steps + 1 passes.
    Source: Madry et al. 2018, section 2.1.
    """
    loss = model(**batch).loss
    loss.backward()
    table = embedding_table(model)
    start = table.detach().clone()
    plain = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    with restored(table):
        for number in range(steps):
            offset = table.data - start + push(table.grad, step)
            table.data.copy_(start + project(offset, epsilon))
            model.zero_grad()
            if number == steps - 1:  # the last place: from here its gradient counts
                for parameter, gradient in zip(model.parameters(), plain):
                    parameter.grad = gradient
            model(**batch).loss.backward()
    return loss.detach()


def worst_case_loss(model: nn.Module, batch: Batch, epsilon: float) -> tuple[float, float]:
    """(plain loss, loss after one push of length epsilon); weights and gradients stay as they were.

    batch  with labels
    """
    table = embedding_table(model)
    before = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    plain = model(**batch).loss
    plain.backward()
    with restored(table), torch.no_grad():
        table.data += push(table.grad, epsilon)
        pushed = model(**batch).loss
    for parameter, gradient in zip(model.parameters(), before):
        parameter.grad = gradient
    return plain.item(), pushed.item()


