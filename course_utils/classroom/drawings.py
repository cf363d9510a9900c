"""Attention as a picture: a labelled heat map, or lines between two columns of tokens."""

from collections.abc import Sequence

import torch
from ipywidgets import IntSlider
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from torch import Tensor

from course_utils.classroom.bertviz_frames import Frame, bertviz_frame
from course_utils.classroom.sliders import explore
from course_utils.classroom.style import COLOR, HEAT, figure

VIEWS = ("map", "lines", "heads", "head_view", "model_view")
NUMBERS_UP_TO = 10  # rows and columns: in a larger map the numbers would not be legible
LINE_WIDTH = 5.0  # points, of a weight of 1
LINE_FROM = 0.05  # weights below this are left out of the lines


def draw_attention(
    weights: Tensor | Sequence[Tensor],
    query_tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    view: str = "map",
    layer: int | None = None,
    head: int | None = None,
    title: str | None = None,
    static: bool = False,
    ax: Axes | None = None,
) -> Frame | None:
    """Draw attention weights: who looks at whom, and how much.

    weights: (queries, keys), (heads, queries, keys) or (layers, heads, queries, keys), or the tuple
        of (1, heads, queries, keys), one a layer, that Hugging Face's models return.
    query_tokens, key_tokens: the words along the rows and the columns; key_tokens are the
        query_tokens when not given (self-attention).
    view: "map": heat map, with the weights written in its cells up to 10 × 10; several heads side
        by side, layers below each other. "lines": tokens left and right, the thicker the line the
        larger the weight; layer and head by slider, and in the stored notebook all heads. "heads":
        the lines of all heads of one layer. "head_view", "model_view": bertviz's, interactive.
    layer, head: which ones, counted from 0; all when not given ("lines", "heads": layer 0).
    title: the finding, in a few words.
    static: "lines" without sliders (the same as "heads", or one drawing where a head is given).
    ax: axes to draw one map or one set of lines into.

    Raises ValueError for shapes, tokens, a view, a layer or a head that do not fit together.
    """
    weights = _four_axes(weights)  # (layers, heads, queries, keys)
    query_tokens = list(query_tokens)
    key_tokens = query_tokens if key_tokens is None else list(key_tokens)
    _check(weights, query_tokens, key_tokens, view, layer, head)
    layers, heads = weights.shape[:2]
    if view in ("head_view", "model_view"):
        if query_tokens != key_tokens:
            raise ValueError(f'view="{view}" shows self-attention: give query_tokens only')
        return bertviz_frame(view, weights, query_tokens, layer or 0, head)
    one = (layer is not None or layers == 1) and (head is not None or heads == 1)
    if ax is not None and not one:
        raise ValueError(f"ax holds one of {layers} × {heads} drawings: give layer and head")
    draw = attention_map if view == "map" else attention_lines
    if one:
        if ax is None:
            _, ax = figure(height=_height(view, query_tokens, key_tokens))
        draw(weights[layer or 0, head or 0], query_tokens, key_tokens, ax)
        ax.set_title(title or "")
    elif view == "map":
        rows = range(layers) if layer is None else [layer]
        columns = range(heads) if head is None else [head]
        _small_multiples(draw, weights, query_tokens, key_tokens,
                         [[(i, j) for j in columns] for i in rows], title)  # fmt: skip
    elif view == "heads" or static:
        _all_heads(weights, query_tokens, key_tokens, layer or 0, head, title)
    else:
        _lines_with_sliders(weights, query_tokens, key_tokens, layer, head, title)
    return None


def attention_map(
    weights: Tensor, query_tokens: list[str], key_tokens: list[str], ax: Axes
) -> None:
    """weights (queries, keys) as a heat map on ax: a row is a query, a column a key."""
    low, high = _range(weights)
    image = _shades(weights, ax, low, high)
    long = sum(len(token) + 2 for token in key_tokens) > 60
    ax.set_xticks(range(len(key_tokens)), key_tokens, parse_math=False,
                  rotation=90 if long else 0)  # fmt: skip
    ax.set_yticks(range(len(query_tokens)), query_tokens, parse_math=False)
    ax.set_xlabel("key (looked at)")
    ax.set_ylabel("query (looking)")
    if max(weights.shape) <= NUMBERS_UP_TO:
        for i, row in enumerate(weights.tolist()):
            for j, weight in enumerate(row):
                dark = weight == weight and weight - low > 0.6 * (high - low)
                ax.text(j, i, _cell(weight), ha="center", va="center",
                        color="white" if dark else "black", fontsize=10)  # fmt: skip
    else:
        ax.figure.colorbar(image, ax=ax, pad=0.02)


def _range(weights: Tensor) -> tuple[float, float]:
    """(lowest, highest) of the finite weights; the lowest is at most 0."""
    finite = weights[weights.isfinite()]
    if not finite.numel():
        return 0.0, 1.0
    low = min(0.0, finite.min().item())
    return low, max(finite.max().item(), low + 1e-9)


def _shades(weights: Tensor, ax: Axes, low: float, high: float):
    """The cells of a heat map; NaN and infinite weights are grey."""
    values = weights.where(weights.isfinite(), torch.nan).numpy()
    cmap = colormaps[HEAT].with_extremes(bad="#D9D9D9")
    image = ax.imshow(values, cmap=cmap, vmin=low, vmax=high, aspect="auto")
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set(visible=True, color="#BFBFBF")
    return image


def attention_lines(
    weights: Tensor, query_tokens: list[str], key_tokens: list[str], ax: Axes, fontsize: float = 11
) -> None:
    """weights (queries, keys) as lines on ax from each query, left, to each key, right.

    A line's width is its weight times LINE_WIDTH points; weights below LINE_FROM have no line.
    """
    rows = max(len(query_tokens), len(key_tokens))
    left, right = _places(len(query_tokens), rows), _places(len(key_tokens), rows)
    drawn = [
        ((0.0, left[i]), (1.0, right[j]), weight)
        for i, row in enumerate(weights.tolist())
        for j, weight in enumerate(row)
        if weight >= LINE_FROM
    ]
    ax.add_collection(
        LineCollection(
            [[start, end] for start, end, _ in drawn],
            linewidths=[LINE_WIDTH * weight for *_, weight in drawn],
            colors=COLOR["query"],
            alpha=0.75,
            capstyle="round",
        )
    )
    write = dict(va="center", fontsize=fontsize, parse_math=False)
    for y, token in zip(left, query_tokens):
        ax.text(-0.04, y, token, ha="right", **write)
    for y, token in zip(right, key_tokens):
        ax.text(1.04, y, token, ha="left", **write)
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(rows - 0.5, -0.5)  # first token on top
    ax.axis("off")


def _places(count: int, rows: int) -> list[float]:
    """Heights of `count` tokens, centred beside a longer column of `rows`."""
    return [i + (rows - count) / 2 for i in range(count)]


def _cell(weight: float) -> str:
    """A weight as its cell says it: two decimals, or a name for what is not a number."""
    if weight != weight:
        return "NaN"
    if weight in (float("inf"), float("-inf")):
        return "∞" if weight > 0 else "−∞"
    return f"{weight:.2f}".replace("-", "−")


def _small_multiples(draw, weights, query_tokens, key_tokens, grid, title) -> None:
    """One small drawing for each (layer, head) of grid, a list of rows; all on one scale."""
    rows, columns = len(grid), max(map(len, grid))
    tokens = max(len(query_tokens), len(key_tokens))
    each = min(2.2, max(6.5 / columns, 0.17 * tokens if columns <= 4 else 0.0))
    fig, axes = figure(columns, rows, height=rows * (each + 0.25) + 0.5, squeeze=False)
    low, high = _range(torch.stack([weights[cell] for row in grid for cell in row]))
    for axes_row, cells in zip(axes, grid):
        for ax in axes_row[len(cells) :]:
            ax.axis("off")
        for ax, (layer, head) in zip(axes_row, cells):
            if draw is attention_lines:
                size = min(10, 72 * each / tokens * 0.8)  # points, so that the tokens do not touch
                draw(weights[layer, head], query_tokens, key_tokens, ax, fontsize=size)
            else:
                image = _shades(weights[layer, head], ax, low, high)
                ax.set(xticks=[], yticks=[])
                if rows == 1 and columns <= 4:
                    ax.set_xticks(range(len(key_tokens)), key_tokens, rotation=90, parse_math=False)
                    if ax is axes_row[0]:
                        ax.set_yticks(range(len(query_tokens)), query_tokens, parse_math=False)
            one_layer = len({layer for row in grid for layer, _ in row}) == 1
            name = f"head {head}" if one_layer else f"layer {layer}, head {head}"
            name = name if one_layer or columns <= 4 else f"{layer}·{head}"
            ax.set_title(name, fontsize=9, fontweight="normal", loc="center")
    if draw is attention_map:
        fig.colorbar(image, ax=axes, pad=0.01, aspect=40)
    if title:
        fig.suptitle(title, fontsize=12, fontweight="bold", x=0.02, ha="left")


def _all_heads(weights, query_tokens, key_tokens, layer, head, title) -> None:
    heads = range(weights.shape[1]) if head is None else [head]
    if len(weights) > 1:
        title = f"{title} (layer {layer})" if title else f"layer {layer}"
    widest = max(map(len, query_tokens + key_tokens))
    columns = 4 if widest <= 8 else 3 if widest <= 12 else 2
    cells = [(layer, j) for j in heads]
    grid = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    _small_multiples(attention_lines, weights, query_tokens, key_tokens, grid, title)


def _lines_with_sliders(weights, query_tokens, key_tokens, layer, head, title) -> None:
    layers, heads = weights.shape[:2]
    sliders = {}
    if layers > 1 and layer is None:
        sliders["layer"] = IntSlider(value=0, max=layers - 1)
    if heads > 1 and head is None:
        sliders["head"] = IntSlider(value=0, max=heads - 1)

    def lines_of(layer=layer or 0, head=head or 0):
        _, ax = figure(height=_height("lines", query_tokens, key_tokens))
        attention_lines(weights[layer, head], query_tokens, key_tokens, ax)
        where = f"layer {layer}, head {head}" if layers > 1 else f"head {head}"
        ax.set_title(f"{title} ({where})" if title else where)

    def all_heads():
        _all_heads(weights, query_tokens, key_tokens, layer or 0, head, title)

    explore(lines_of, static=all_heads, **sliders)


def _height(view: str, query_tokens: list[str], key_tokens: list[str]) -> float:
    """Inches that keep the tokens legible: 0.28 a row."""
    rows = len(query_tokens) if view == "map" else max(len(query_tokens), len(key_tokens))
    return min(max(3.6 if view == "map" else 2.0, 0.28 * rows + 0.9), 9.0)


def _four_axes(weights: Tensor | Sequence[Tensor]) -> Tensor:
    """Any of the accepted forms -> (layers, heads, queries, keys), float32 on the CPU."""
    if isinstance(weights, (tuple, list)) and weights and isinstance(weights[0], Tensor):
        if any(w.ndim != 4 or len(w) != 1 or w.shape != weights[0].shape for w in weights):
            raise ValueError(
                "a tuple of attentions holds one (1, heads, queries, keys) a layer; got "
                f"{[tuple(w.shape) for w in weights]}: draw one sentence at a time"
            )
        weights = torch.cat(list(weights))  # (layers, heads, queries, keys)
    weights = torch.as_tensor(weights).detach().float().cpu()
    if not 2 <= weights.ndim <= 4 or 0 in weights.shape:
        raise ValueError(
            "weights must be (queries, keys), (heads, queries, keys) or "
            f"(layers, heads, queries, keys); got shape {tuple(weights.shape)}"
        )
    while weights.ndim < 4:
        weights = weights.unsqueeze(0)
    return weights


def _check(weights, query_tokens, key_tokens, view, layer, head) -> None:
    layers, heads, queries, keys = weights.shape
    if view not in VIEWS:
        raise ValueError(f"view is {view!r}: write one of {', '.join(VIEWS)}")
    if (len(query_tokens), len(key_tokens)) != (queries, keys):
        raise ValueError(
            f"the weights are {queries} queries × {keys} keys, the tokens are "
            f"{len(query_tokens)} × {len(key_tokens)}: give one token for each"
        )
    for name, number, count in (("layer", layer, layers), ("head", head, heads)):
        if number is not None and not 0 <= number < count:
            raise ValueError(f"{name} {number} does not exist: the weights have 0 to {count - 1}")
