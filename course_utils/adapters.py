"""Lesson 07: a few new numbers instead of all the old ones: adapters, and LoRA.

    add_adapters(model.bert, bottleneck=32)       # or add_lora(model.bert, rank=8)
    trained_parameters(model)                     # (trained, all)
    fine_tune(model, features, FineTuning(frozen_layers=None, …))   # None: keep what is frozen

Both start as a change of nothing: right after they are put in, the model gives the same numbers.
"""

import torch
from torch import Tensor, nn

from course_utils.bert import Bert
from course_utils.layers import activation_function


class Adapter(nn.Module):
    """x + up(gelu(down(x))): a narrow detour around each token's vector.

    hidden_size  of x
    bottleneck   width of the detour; the adapter has 2 · hidden_size · bottleneck + hidden_size +
                 bottleneck parameters

    `up` starts at zero, so a new adapter returns x itself. x (…, hidden_size) → the same shape.
    Source: Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", section 2.1.
    """

    def __init__(self, hidden_size: int, bottleneck: int) -> None:
        super().__init__()
        if bottleneck < 1:
            raise ValueError(f"bottleneck is {bottleneck}; an adapter needs at least 1.")
        self.down = nn.Linear(hidden_size, bottleneck)
        self.up = nn.Linear(bottleneck, hidden_size)
        self.activation = activation_function("gelu")
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.activation(self.down(x))  # (…, bottleneck)
        return x + self.up(narrow)  # (…, hidden_size)


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trained product of two thin matrices.

        y = linear(x) + (alpha / rank) · x Aᵀ Bᵀ

    linear  `nn.Linear`; it is kept, and frozen
    rank    A is (rank, in_features), B (out_features, rank)
    alpha   the product's weight; with alpha / rank, a change of rank needs no new learning rate

    A is drawn from a normal, B starts at zero, so at first y = linear(x).
    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float = 16.0) -> None:
        super().__init__()
        if not 1 <= rank <= min(linear.in_features, linear.out_features):
            raise ValueError(
                f"rank is {rank}; take 1 to {min(linear.in_features, linear.out_features)}."
            )
        self.linear = linear.requires_grad_(False)
        self.scale = alpha / rank
        self.A = nn.Parameter(torch.empty(rank, linear.in_features))
        self.B = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.normal_(self.A, std=linear.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        low_rank = (x @ self.A.T) @ self.B.T  # (…, rank), then (…, out_features)
        return self.linear(x) + self.scale * low_rank

    def merged(self) -> nn.Linear:
        """One plain linear layer that gives the same numbers: nothing to pay when serving."""
        merged = nn.Linear(
            self.linear.in_features, self.linear.out_features, bias=self.linear.bias is not None
        ).to(self.linear.weight)
        with torch.no_grad():
            merged.weight.copy_(self.linear.weight + self.scale * self.B @ self.A)
            if self.linear.bias is not None:
                merged.bias.copy_(self.linear.bias)
        return merged


def add_adapters(bert: Bert, bottleneck: int = 32, seed: int = 0) -> Bert:
    """Freeze the encoder and put two adapters into each layer, in place.

    They stand behind the attention's output projection and behind the feed-forward part, before
    the residual sum. The adapters, the LayerNorms and the pooler are trained.
    Source: Houlsby et al. 2019, figure 2.
    """
    bert.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in bert.encoder.layers:
            for part, name in ((layer.attention, "output"), (layer.feed_forward, "contract")):
                linear = getattr(part, name)
                adapter = Adapter(linear.out_features, bottleneck)
                setattr(part, name, nn.Sequential(linear, adapter.to(linear.weight)))
            layer.attention_norm.requires_grad_(True)
            layer.feed_forward_norm.requires_grad_(True)
    if bert.pooler is not None:
        bert.pooler.requires_grad_(True)
    return bert


def add_lora(
    bert: Bert,
    rank: int = 8,
    alpha: float = 16.0,
    names: tuple[str, ...] = ("query", "value"),
    seed: int = 0,
) -> Bert:
    """Freeze the encoder and wrap each layer's attention projections `names`, in place.

    The thin matrices and the pooler are trained. Source: Hu et al. 2021, section 4.2 (queries and
    values).
    """
    bert.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in bert.encoder.layers:
            for name in names:
                linear = getattr(layer.attention, name)
                wrapped = LoRALinear(linear, rank, alpha).to(linear.weight)
                setattr(layer.attention, name, wrapped)
    if bert.pooler is not None:
        bert.pooler.requires_grad_(True)
    return bert


def merge_lora(bert: Bert) -> Bert:
    """Put one plain linear layer in the place of each LoRALinear; the outputs stay the same."""
    for layer in bert.encoder.layers:
        for name, part in list(layer.attention.named_children()):
            if isinstance(part, LoRALinear):
                setattr(layer.attention, name, part.merged())
    return bert


def trained_parameters(model: nn.Module) -> tuple[int, int]:
    """(how many numbers ask for a gradient, how many there are)"""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
