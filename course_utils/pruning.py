"""Lesson 12: pruning: single weights, heads, neurons; and weights that share a value.

    mask = magnitude_mask(weight, 0.5)                    # True = kept; exactly half of them
    model = sparse_copy(model, "movement")                # masks of learned scores
    step = PruningStep(schedule, DistillationStep())      # of fine_tune: `backward=step`
    dense = finished(model)                               # the zeros written into the weights
    small = shrink(model, heads={0: [1, 5]}, neurons={0: range(700)})   # really smaller matrices
    save_pruned(small, tokenizer, folder); load_pruned(folder)

Masked, a matrix is as large and as slow as before. Shrunk, it has fewer rows or columns.
"""

import copy
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from tokenizers import Tokenizer
from torch import Tensor, nn

from course_utils.bert import BertConfig
from course_utils.finetuning import (
    Batch,
    BertForSequenceClassification,
    Features,
    TextClassifier,
    backward,
    collate,
    load_tokenizer,
    read_labels,
    save_labels,
    to_device,
)
from course_utils.quantization import linear_names, replace_parts, to_bytes

# --- Scores and masks -----------------------------------------------------------------------------


def pruned_count(numbers: int, sparsity: float) -> int:
    """How many of so many numbers go: sparsity · numbers, rounded. ValueError outside [0, 1)."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is {sparsity}; it must be at least 0 and below 1.")
    return min(round(sparsity * numbers), numbers - 1)


def top_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Keep the numbers with the highest scores: bool, of the shape of `scores`, True = kept.

    Exactly `pruned_count` of them are False: of equal scores the first ones go. At least one stays.
    Raises ValueError for NaN, infinity, an empty tensor, and a sparsity outside [0, 1).
    """
    if not scores.numel():
        raise ValueError(f"the tensor of shape {tuple(scores.shape)} is empty: nothing to prune.")
    if not scores.isfinite().all():
        bad = (~scores.isfinite()).sum().item()
        raise ValueError(f"NaN or infinity at {bad} places: they have no order.")
    flat = scores.detach().flatten()
    count = pruned_count(len(flat), sparsity)
    if not count:
        return torch.ones_like(scores, dtype=torch.bool)
    limit = flat.kthvalue(count).values
    below, equal = flat < limit, flat == limit
    go = below | (equal & (equal.cumsum(0) <= count - below.sum()))
    return ~go.view(scores.shape)


def magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Keep the weights that are farthest from 0; see `top_mask`.

    Source: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks".
    """
    return top_mask(weight.abs(), sparsity)


def global_masks(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """One ranking for all tensors together: name → mask. A tensor may lose all its numbers."""
    if not scores:
        raise ValueError("there are no tensors to rank.")
    whole = top_mask(torch.cat([one.flatten() for one in scores.values()]), sparsity)
    parts = whole.split([one.numel() for one in scores.values()])
    return {name: part.view(scores[name].shape) for name, part in zip(scores, parts)}


def encoder_weights(model: nn.Module) -> dict[str, Tensor]:
    """name of the layer → weight (out, in), of all linear layers of the encoder: what is pruned."""
    names = [name for name in linear_names(model) if ".encoder." in f".{name}"]
    return {name: model.get_submodule(name).weight for name in names}


def masked_copy(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy with zeros where the masks (name of a linear layer → bool) are False."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            changed.get_submodule(name).weight.mul_(mask)
    return changed


def sparsity_of(tensors: Iterable[Tensor]) -> float:
    """Share of exact zeros among all numbers of the tensors."""
    zeros = total = 0
    for tensor in tensors:
        zeros, total = zeros + (tensor == 0).sum().item(), total + tensor.numel()
    return zeros / total


# --- Which weight, and what becomes of the rest ---------------------------------------------------


def input_hessian(x: Tensor, damping: float = 0.0) -> Tensor:
    """Second derivative of ½ · mean squared error of a linear layer's output, by its weights.

    x (examples, in) → (in, in): xᵀx / examples, the same for every output; damping is added to the
    diagonal, as a share of its mean: with it the inverse exists.
    """
    hessian = x.T @ x / len(x)
    return hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=x.dtype)


def damage(weight: Tensor, hessian: Tensor) -> Tensor:
    """What it costs to set one weight to 0 and leave the others: ½ w_q² H_qq. weight (…, in)

    Source: LeCun, Denker and Solla 1990, "Optimal Brain Damage", equation 5.
    """
    return weight**2 * hessian.diagonal() / 2


def surgeon_cost(weight: Tensor, inverse: Tensor) -> Tensor:
    """What it costs when the others move to make up for it: ½ w_q² / [H⁻¹]_qq. weight (…, in)

    Source: Hassibi and Stork 1993, "Optimal Brain Surgeon", equation 5.
    """
    return weight**2 / inverse.diagonal() / 2


def without_weight(weight: Tensor, inverse: Tensor, q: int) -> Tensor:
    """The weights of one output (in,) with number q at 0 and the others adjusted.

    δw = −w_q / [H⁻¹]_qq · H⁻¹ e_q; inverse (in, in). Source: as `surgeon_cost`.
    """
    changed = weight - weight[q] / inverse[q, q] * inverse[:, q]
    changed[q] = 0.0  # exactly
    return changed


# --- Gradually, and by movement -------------------------------------------------------------------


def cubic_sparsity(
    step: int, start: int, steps: int, interval: int, initial: float, final: float
) -> float:
    """The sparsity at a training step: fast at first, slow at the end.

    final + (initial − final) · (1 − k / steps)³ after k = ⌊(step − start) / interval⌋ prunings, k
    from 0 to steps; `initial` before `start`.
    Raises ValueError for a sparsity outside [0, 1), final < initial, and less than one step or
    interval. Source: Zhu and Gupta 2017, "To prune, or not to prune", equation 1.
    """
    if not 0 <= initial <= final < 1:
        raise ValueError(f"{initial} → {final}: it takes 0 ≤ initial ≤ final < 1.")
    if steps < 1 or interval < 1:
        raise ValueError(f"{steps} prunings every {interval} steps: both must be at least 1.")
    done = min(max((step - start) // interval, 0), steps) / steps
    return final + (initial - final) * (1 - done) ** 3


def movement_gradient(weight: Tensor, x: Tensor, output_gradient: Tensor) -> Tensor:
    """The gradient that reaches the scores S of a layer y = x (W ⊙ mask)ᵀ: ∂L/∂S = ∂L/∂W′ ⊙ W.

    weight (out, in), x (rows, in), output_gradient ∂L/∂y (rows, out) → (out, in)

    The mask is a step of S, with no slope anywhere; the straight-through estimator takes the slope
    as 1. S falls where ∂L/∂W′ and W have the same sign: where training pushes W towards 0.
    Source: Sanh, Wolf and Rush 2020, "Movement Pruning", section 4.
    """
    return (output_gradient.T @ x) * weight


def soft_mask(scores: Tensor, threshold: float = 0.5) -> Tensor:
    """1 where sigmoid(score) is above the threshold, else 0; backward, the sigmoid's slope.

    How many stay is learned, with a price on mean sigmoid(score) (`PruningStep.keep`). Raises
    ValueError for a threshold outside (0, 1). Source: Sanh, Wolf and Rush 2020, section 4.2.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; sigmoid lies between 0 and 1.")
    smooth = scores.sigmoid()
    return (smooth > threshold).to(scores.dtype) + (smooth - smooth.detach())


class SparseLinear(nn.Linear):
    """A linear layer whose weight is multiplied by a mask, in training and after.

    linear   the layer whose weights it takes
    how      "magnitude": the weights themselves are ranked. "movement": the parameter `scores` is,
             which begins at 0 and learns. "soft": kept is what has sigmoid(score) above
             `threshold`, however many; scores begin at 2
    The mask is made by `refresh(sparsity)`, not at every step; that of "soft" is made at every one.
    What is masked takes part in no product, gets no gradient, and stays at its value: with a
    higher score it can come back.
    """

    HOW = ("magnitude", "movement", "soft")

    def __init__(self, linear: nn.Linear, how: str = "magnitude", threshold: float = 0.5) -> None:
        if how not in self.HOW:
            raise ValueError(f"there is no way {how!r}; take one of {', '.join(self.HOW)}.")
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.how, self.threshold = how, threshold
        first = {"magnitude": None, "movement": 0.0, "soft": 2.0}[how]
        self.scores = None
        if first is not None:
            self.scores = nn.Parameter(torch.full_like(self.weight, first))
        self.register_buffer("mask", torch.ones_like(self.weight))

    @torch.no_grad()
    def refresh(self, sparsity: float = 0.0) -> None:
        """Rank again. "soft" does not read the sparsity."""
        if self.how == "soft":
            kept = soft_mask(self.scores, self.threshold)
        elif self.how == "movement":
            kept = top_mask(self.scores, sparsity)
        else:
            kept = magnitude_mask(self.weight, sparsity)
        self.mask.copy_(kept)

    def masked(self) -> Tensor:
        """(out, in): the weight that is used; gradients reach weight and scores through it."""
        if self.scores is None:
            return self.weight * self.mask
        if self.how == "soft":
            return self.weight * soft_mask(self.scores, self.threshold)
        straight = self.scores - self.scores.detach()  # 0, with the slope of the scores
        return self.weight * (self.mask + straight)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)"""
        return F.linear(x, self.masked(), self.bias)


def sparse_copy(model: nn.Module, how: str = "magnitude", threshold: float = 0.5) -> nn.Module:
    """A copy whose encoder's linear layers are `SparseLinear`, nothing masked yet."""
    return replace_parts(
        model, encoder_weights(model), lambda name, linear: SparseLinear(linear, how, threshold)
    )


def sparse_layers(model: nn.Module) -> list[SparseLinear]:
    """The layers with a mask, in order."""
    return [part for part in model.modules() if isinstance(part, SparseLinear)]


def finished(model: nn.Module) -> nn.Module:
    """A copy with ordinary linear layers again, the zeros written into their weights."""
    changed = copy.deepcopy(model)
    for name, part in list(changed.named_modules()):
        if isinstance(part, SparseLinear):
            if part.how == "soft":
                part.refresh()
            linear = nn.Linear(part.in_features, part.out_features, part.bias is not None)
            linear.weight = nn.Parameter(part.weight.detach() * part.mask)
            linear.bias = part.bias
            owner, _, own = name.rpartition(".")
            setattr(changed.get_submodule(owner), own, linear)
    return changed.eval()


@dataclass
class PruningStep:
    """A step of `fine_tune` (its `backward`) that ranks again first.

    schedule  step (from 0) → sparsity, see `cubic_sparsity`
    inner     (model, batch) → loss, adds the gradients
    every     so many steps from one ranking to the next; they go on when the sparsity is constant
    keep      λ of "soft": λ · mean sigmoid(score) is added to the loss; higher, fewer are kept
    """

    schedule: Callable[[int], float]
    inner: Callable[[nn.Module, Batch], Tensor] = backward
    every: int = 1
    keep: float = 0.0
    step: int = 0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """(model, batch) → loss (), its gradients added to the parameters"""
        layers = sparse_layers(model)
        if self.step % self.every == 0:
            for layer in layers:
                layer.refresh(self.schedule(self.step))
        self.step += 1
        loss = self.inner(model, batch)
        if self.keep:
            numbers = sum(layer.scores.numel() for layer in layers)
            extra = sum(layer.scores.sigmoid().sum() for layer in layers) * self.keep / numbers
            extra.backward()
            loss = loss + extra.detach()
        return loss


# --- Whole heads and neurons ----------------------------------------------------------------------


def head_importance(a: Tensor, gradient: Tensor, num_heads: int) -> Tensor:
    """mean over the texts of |Σ a · ∂L/∂a|, the sum over a head's tokens and features.

    a         what the heads give to the output matrix, side by side (texts, tokens, heads · d_k)
    gradient  ∂L/∂a of each text's own loss, of the same shape
    returns   (num_heads,). A neuron is a head of one feature: num_heads = intermediate_size

    It is |∂L/∂ξ| of a gate ξ = 1 on each head. Source: Michel, Levy and Neubig 2019, "Are Sixteen
    Heads Really Better than One?", equation 2.
    """
    change = (a * gradient).sum(1)  # (texts, heads · d_k) over tokens
    return change.unflatten(1, (num_heads, -1)).sum(2).abs().mean(0)  # (num_heads,)


def importance(
    model: nn.Module, features: Sequence[Features], batch_size: int = 16
) -> tuple[Tensor, Tensor]:
    """How much the loss would move if a head, or a neuron, were switched off, to first order.

    features  examples with labels
    returns   `head_importance` of the heads (layers, heads) and the neurons (layers, intermediate)

    One backward pass for all. All layers must have as many heads and neurons.
    """
    model = copy.deepcopy(model).requires_grad_(True).eval()
    layers, seen = model.bert.encoder.layers, {}

    def keep(key: tuple[int, str]) -> Callable:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            inputs[0].retain_grad()
            seen[key] = inputs[0]

        return hook

    for i, layer in enumerate(layers):
        layer.attention.output.register_forward_pre_hook(keep((i, "heads")))
        layer.feed_forward.contract.register_forward_pre_hook(keep((i, "neurons")))
    moved: dict[str, list[Tensor]] = {"heads": [], "neurons": []}  # a (layers, width) a batch
    for start in range(0, len(features), batch_size):
        few = features[start : start + batch_size]
        loss = model(**to_device(collate(few), model)).loss
        (loss * len(few)).backward()  # the sum over the texts, not their mean
        for kind, found in moved.items():
            rows = []
            for i, layer in enumerate(layers):
                a = seen[i, kind].detach()  # (texts, tokens, width)
                count = layer.attention.num_heads if kind == "heads" else a.size(2)
                rows.append(len(few) * head_importance(a, seen[i, kind].grad, count))
            found.append(torch.stack(rows).cpu())
    return tuple(sum(found) / len(features) for found in moved.values())


def kept_numbers(scores: Tensor, sparsity: float) -> list[list[int]]:
    """For each row of scores (layers, n) the numbers of those that stay, rising."""
    return [top_mask(row, sparsity).nonzero().flatten().tolist() for row in scores]


Chosen = Mapping[int, Sequence[int]]  # layer, counted from 0 → what goes


def check_chosen(chosen: Chosen | None, sizes: Sequence[int], what: str) -> dict[int, list[int]]:
    """layer → what *stays*. ValueError for one that is not there, and where nothing would stay."""
    kept = {}
    for i, gone in (chosen or {}).items():
        if not 0 <= i < len(sizes):
            raise ValueError(f"there is no layer {i}; they are 0 to {len(sizes) - 1}.")
        gone = set(gone)
        wrong = sorted(gone - set(range(sizes[i])))
        if wrong:
            raise ValueError(f"layer {i} has no {what} {wrong[0]}; they are 0 to {sizes[i] - 1}.")
        kept[i] = [one for one in range(sizes[i]) if one not in gone]
        if not kept[i]:
            raise ValueError(
                f"layer {i} would have no {what} left; drop the layer itself (keep_layers)."
            )
    return kept


def part_of(linear: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None):
    """A linear layer with these rows (outputs) or columns (inputs) of another's weight alone."""
    weight, bias = linear.weight.detach(), linear.bias
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias.detach()[rows]
    if columns is not None:
        weight, bias = weight[:, columns], None if bias is None else bias.detach()
    small = nn.Linear(weight.size(1), weight.size(0), bias is not None, device=weight.device)
    small.weight = nn.Parameter(weight.clone())
    if bias is not None:
        small.bias = nn.Parameter(bias.clone())
    return small


def shrink_feed_forward(
    expand: nn.Linear, contract: nn.Linear, kept: Sequence[int]
) -> tuple[nn.Linear, nn.Linear]:
    """The two layers of a feed-forward part with these neurons alone, in this order.

    expand (hidden → intermediate), contract (intermediate → hidden); kept: numbers of neurons
    returns  new layers, hidden → len(kept) and len(kept) → hidden; contract's bias is whole

    Raises ValueError for no neuron, and for one that is not there.
    """
    rows = torch.as_tensor(list(kept), dtype=torch.long)  # (kept,)
    if not len(rows) or not 0 <= rows.min() <= rows.max() < expand.out_features:
        raise ValueError(f"kept must be numbers from 0 to {expand.out_features - 1}, at least one.")
    return part_of(expand, rows=rows), part_of(contract, columns=rows)


def shrink(
    model: nn.Module, heads: Chosen | None = None, neurons: Chosen | None = None
) -> nn.Module:
    """A copy without these heads and neurons of the feed-forward: its matrices are smaller.

    heads, neurons  layer (from 0) → numbers of what goes

    Head h is rows h · d_k to (h + 1) · d_k of query, key and value, and the same columns of the
    output; neuron j is row j of `expand`, and column j of `contract`. The answers are those of the
    model with zeros there (`switched_off`). Raises ValueError for a number that is not there, and
    where a layer would lose all.
    """
    small = copy.deepcopy(model)
    layers = small.bert.encoder.layers
    stay = check_chosen(heads, [layer.attention.num_heads for layer in layers], "head")
    for i, kept in stay.items():
        attention = layers[i].attention
        d_k = attention.query.out_features // attention.num_heads
        rows = torch.tensor([h * d_k + j for h in kept for j in range(d_k)])  # (kept · d_k,)
        for name in ("query", "key", "value"):
            setattr(attention, name, part_of(getattr(attention, name), rows=rows))
        attention.output = part_of(attention.output, columns=rows)
        attention.num_heads = len(kept)
    widths = [layer.feed_forward.expand.out_features for layer in layers]
    for i, kept in check_chosen(neurons, widths, "neuron").items():
        part = layers[i].feed_forward
        part.expand, part.contract = shrink_feed_forward(part.expand, part.contract, kept)
    return small


def switched_off(
    model: nn.Module, heads: Chosen | None = None, neurons: Chosen | None = None
) -> nn.Module:
    """A copy in which these heads and neurons give 0: the same shapes, `shrink`'s answers."""
    masked = copy.deepcopy(model)
    layers = masked.bert.encoder.layers
    stay = check_chosen(heads, [layer.attention.num_heads for layer in layers], "head")
    with torch.no_grad():
        for i in stay:
            attention = layers[i].attention
            d_k = attention.query.out_features // attention.num_heads
            for h in heads[i]:
                attention.output.weight[:, h * d_k : (h + 1) * d_k] = 0.0
        widths = [layer.feed_forward.expand.out_features for layer in layers]
        for i in check_chosen(neurons, widths, "neuron"):
            layers[i].feed_forward.contract.weight[:, list(neurons[i])] = 0.0
    return masked


def others(kept: Sequence[Sequence[int]], size: int) -> dict[int, list[int]]:
    """What `shrink` is to take away, of what is to stay in each layer."""
    return {i: sorted(set(range(size)) - set(row)) for i, row in enumerate(kept)}


FILE = "model.safetensors"
ABOUT = "pruned.json"  # heads and width of every layer: config.json knows one number for all


def save_pruned(model: BertForSequenceClassification, tokenizer: Tokenizer, folder: Path | str):
    """Write a model of `shrink` → the file of weights; `load_pruned` reads its folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / FILE)
    shapes = [
        {"heads": layer.attention.num_heads, "neurons": layer.feed_forward.expand.out_features}
        for layer in model.bert.encoder.layers
    ]
    (folder / ABOUT).write_text(json.dumps(shapes), encoding="utf-8")
    model.config.save(folder, model.architecture)
    save_labels(folder, model.labels)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / FILE


def load_pruned(folder: Path | str) -> TextClassifier:
    """The classifier of a folder that `save_pruned` wrote. ValueError where its files are not."""
    folder = Path(folder)
    if not (folder / FILE).is_file() or not (folder / ABOUT).is_file():
        raise ValueError(f"{folder} holds no {FILE} with {ABOUT}; write it with save_pruned.")
    shapes = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    config = BertConfig.from_folder(folder)
    whole = BertForSequenceClassification(config, read_labels(folder))
    gone = {  # which ones does not matter: all numbers come from the file
        "heads": {i: range(s["heads"], config.num_attention_heads) for i, s in enumerate(shapes)},
        "neurons": {i: range(s["neurons"], config.intermediate_size) for i, s in enumerate(shapes)},
    }
    model = shrink(whole, gone["heads"], gone["neurons"])
    model.load_state_dict(load_file(folder / FILE))
    return TextClassifier(model.eval(), load_tokenizer(folder))


# --- Weights that share a value -------------------------------------------------------------------


@dataclass(frozen=True)
class SharedWeights:
    """A matrix as a codebook and a number of `bits` bits for each weight.

    codebook  (2^bits,), the values; indices  int8, of the weight's shape, from −2^(bits−1) on
    """

    codebook: Tensor
    indices: Tensor
    bits: int

    def dequantize(self) -> Tensor:
        """The weight, every number replaced by its entry of the codebook."""
        return self.codebook[self.indices.long() + 2 ** (self.bits - 1)]

    def nbytes(self) -> int:
        """Bytes of codebook and packed indices."""
        packed = to_bytes(self.indices, self.bits)
        return packed.numel() + self.codebook.numel() * self.codebook.element_size()


def share_weights(weight: Tensor, bits: int = 4) -> SharedWeights:
    """The 2^bits values that k-means finds, and each weight's nearest.

    The centres begin evenly spaced over the range of the weights, which keeps some for the few
    large ones. Raises ValueError for NaN and infinity, an empty tensor, fewer different weights
    than values, and bits outside 2 to 8. Source: Han, Mao and Dally 2016, "Deep Compression",
    section 3 ("linear" initialization).
    """
    if not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"bits is {bits!r}; indices of 2 to 8 bits are stored.")
    top_mask(weight, 0.0)  # refuses what has no order
    flat, count = weight.detach().flatten().double(), 2**bits
    if len(flat.unique()) < count:
        raise ValueError(f"there are fewer than {count} different weights: keep them as they are.")
    first = torch.linspace(flat.min(), flat.max(), count, dtype=flat.dtype)  # (count,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = KMeans(count, init=first[:, None].numpy(), n_init=1, max_iter=50).fit(
            flat[:, None].numpy()
        )
    order = torch.from_numpy(found.cluster_centers_[:, 0]).sort()  # (count,)
    rank = order.indices.argsort()  # old number → rising number
    indices = rank[torch.from_numpy(found.labels_).long()] - 2 ** (bits - 1)
    return SharedWeights(
        order.values.to(weight.dtype), indices.to(torch.int8).view(weight.shape), bits
    )
