"""Lesson 01, attention from scratch: its exercises, their known mistakes, and its claims."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course_utils import attention, positions
from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise, fill_


def _draw(seed, *shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]


# --- attention/scores -----------------------------------------------------------------------------


def attention_scores_stub(query, key):
    """query (batch, heads, queries, d_k), key (batch, heads, keys, d_k)
    → scores (batch, heads, queries, keys): each query with each key, scaled
    """
    raise NotImplementedError("your turn")


def _scores_by_hand(implementation):
    query = torch.tensor([[[[1.0, 2.0, 0.0, 1.0]]]])
    key = torch.tensor([[[[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 5.0, -2.0]]]])
    return implementation(query, key)  # (4, 2) / 2


def _scores_of(*sizes, dtype=torch.float32):
    batch, heads, queries, keys, d_k = sizes

    def run(implementation):
        return implementation(
            *_draw(1, (batch, heads, queries, d_k), (batch, heads, keys, d_k), dtype=dtype)
        )

    return run


def _scores_unscaled(query, key):
    return query @ key.transpose(-2, -1)


def _scores_by_width(query, key):
    return query @ key.transpose(-2, -1) / query.size(-1)


def _scores_by_hidden_size(query, key):
    return query @ key.transpose(-2, -1) / math.sqrt(query.size(1) * query.size(-1))


def _scores_by_keys(query, key):
    return query @ key.transpose(-2, -1) / math.sqrt(key.size(-2))


def _scores_by_heads(query, key):
    return query @ key.transpose(-2, -1) / math.sqrt(query.size(1))


def _scores_keys_first(query, key):
    return key @ query.transpose(-2, -1) / math.sqrt(query.size(-1))


def _scores_multiplied(query, key):
    return query @ key.transpose(-2, -1) * math.sqrt(query.size(-1))


def _scores_with_softmax(query, key):
    return torch.softmax(attention.attention_scores(query, key), dim=-1)


SCORES = Exercise(
    id="attention/scores",
    lesson="01",
    title="Scaled scores",
    difficulty=1,
    minutes=5,
    reference=attention.attention_scores,
    stub=attention_scores_stub,
    cases=[
        Case("one query, two keys, by hand: 4 and 2, halved", _scores_by_hand),
        Case("four heads, batch of two, 3 queries, 5 keys", _scores_of(2, 4, 3, 5, 8)),
        Case("one head, batch of one", _scores_of(1, 1, 4, 6, 16)),
        Case("as many keys as d_k", _scores_of(2, 2, 3, 6, 6)),
        Case("float64", _scores_of(2, 3, 4, 4, 5, dtype=torch.float64)),
    ],
    hints=[
        "How many products does one score add up? Which axis of key must meet which of query?",
        "query @ key.transpose(-2, -1) is (batch, heads, queries, keys). Divide it by the square "
        "root of query.size(-1).",
    ],
    mistakes=[
        Mistake(
            _scores_unscaled, "Your scores are √d_k times too large: you left out the scaling."
        ),
        Mistake(
            _scores_by_width,
            "You divided by d_k. Variances add, so the spread is its square root.",
        ),
        Mistake(
            _scores_by_hidden_size,
            "You divided by the square root of the whole hidden size; each head adds up only d_k "
            "products.",
        ),
        Mistake(
            _scores_by_keys,
            "You divided by the square root of the number of keys; what is added up in one score "
            "is d_k products.",
        ),
        Mistake(
            _scores_by_heads,
            "You divided by the square root of the number of heads. What is added up in one score "
            "is d_k products, the last axis.",
        ),
        Mistake(
            _scores_keys_first,
            "The shape came out {shape}: you have a row for each key. Put query on the left of the "
            "product and transpose key.",
        ),
        Mistake(_scores_multiplied, "You multiplied by √d_k; scaling divides by it."),
        Mistake(
            _scores_with_softmax,
            "These are weights, not scores: the softmax comes after the mask, in a later step.",
        ),
    ],
)

# --- attention/padding-mask -----------------------------------------------------------------------


def padding_mask_stub(attention_mask):
    """attention_mask (batch, keys) of 1 = a token, 0 = padding
    → bool (batch, 1, 1, keys), True = may attend: fits the scores (batch, heads, queries, keys)
    """
    raise NotImplementedError("your turn")


_LENGTHS_3_5_1 = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])


def _mask_used(implementation):
    query, key, value = _draw(3, (3, 2, 5, 4), (3, 2, 5, 4), (3, 2, 5, 4))
    mask = implementation(_LENGTHS_3_5_1)
    return attention.scaled_dot_product_attention(query, key, value, mask)[1]


def _mask_inverted(attention_mask):
    return (attention_mask == 0)[:, None, None, :]


def _mask_without_axes(attention_mask):
    return attention_mask.bool()


def _mask_of_queries(attention_mask):
    return attention_mask.bool()[:, None, :, None]


def _mask_of_numbers(attention_mask):
    return attention_mask[:, None, None, :]


def _mask_of_floats(attention_mask):
    return attention_mask[:, None, None, :].float()


def _mask_additive(attention_mask):
    return (1.0 - attention_mask[:, None, None, :].float()) * -1e9


def _mask_of_infinities(attention_mask):
    padding = (attention_mask == 0)[:, None, None, :]
    return torch.zeros(padding.shape).masked_fill(padding, float("-inf"))


def _mask_three_axes(attention_mask):
    return attention_mask.bool()[:, None, :]


def _mask_both_sides(attention_mask):
    real = attention_mask.bool()
    return real[:, None, None, :] & real[:, None, :, None]


PADDING_MASK = Exercise(
    id="attention/padding-mask",
    lesson="01",
    title="A mask for a padded batch",
    difficulty=2,
    minutes=5,
    reference=attention.padding_mask,
    stub=padding_mask_stub,
    cases=[
        Case("three texts of 3, 5 and 1 tokens", lambda f: f(_LENGTHS_3_5_1)),
        Case("as many texts as keys", lambda f: f(torch.tensor([[1, 1], [1, 0]]))),
        Case("a bool attention mask", lambda f: f(torch.tensor([[True, True, False]]))),
        Case("padding in front", lambda f: f(torch.tensor([[0, 0, 1, 1]]))),
        Case("the weights of two heads under your mask", _mask_used),
    ],
    hints=[
        "The scores have four axes. Which two of them does padding not depend on?",
        "attention_mask.bool() has two axes; indexing with [:, None, None, :] puts two of size 1 "
        "between them.",
    ],
    mistakes=[
        Mistake(
            _mask_inverted,
            "Your mask is True on padding. Here True means “may attend”; the other convention is "
            "PyTorch's key_padding_mask.",
        ),
        Mistake(
            _mask_without_axes,
            "{shape} does not line up with (batch, heads, queries, keys): broadcasting starts at "
            "the last axis, so the batch would meet the queries.",
        ),
        Mistake(
            _mask_of_queries,
            "You masked the rows, the queries: padding could still be looked at. Keys are the last "
            "axis.",
        ),
        Mistake(_mask_of_numbers, "These are numbers; a mask is boolean: .bool()."),
        Mistake(_mask_of_floats, "These are floats; a mask is boolean: .bool()."),
        Mistake(
            _mask_additive,
            "That is an additive mask, made to be added to scores. Ours is boolean: True = may "
            "attend.",
        ),
        Mistake(
            _mask_of_infinities,
            "0 and −∞ make an additive mask: right when added to the scores, but a float. Ours is "
            "boolean, True = may attend, and the attention does the filling.",
        ),
        Mistake(
            _mask_three_axes,
            "One axis short: {shape} would put the batch where the heads are.",
        ),
        Mistake(
            _mask_both_sides,
            "You blocked the padding's rows as well. That is not needed: nobody reads what a "
            "padding position computes. One row of keys serves every query.",
        ),
    ],
)

# --- attention/scaled-dot-product -----------------------------------------------------------------


def scaled_dot_product_attention_stub(query, key, value, mask=None):
    """query (batch, heads, queries, d_k), key (batch, heads, keys, d_k),
    value (batch, heads, keys, d_v), mask bool (True = may attend), broadcastable to the scores
    → output (batch, heads, queries, d_v), weights (batch, heads, queries, keys)
    A row of the mask with no True gives zeros in both, and no NaN in the gradient.
    """
    raise NotImplementedError("your turn")


def _attend(mask=None, dtype=torch.float32, gradient=False, sizes=(2, 3, 4, 4, 8, 5)):
    batch, heads, queries, keys, d_k, d_v = sizes
    shapes = (batch, heads, queries, d_k), (batch, heads, keys, d_k), (batch, heads, keys, d_v)

    def run(implementation):
        inputs = _draw(5, *shapes, dtype=torch.float32)
        inputs = [(2 * t).to(dtype).requires_grad_(gradient) for t in inputs]
        result = implementation(*inputs, mask)
        if not gradient:
            return result
        return torch.autograd.grad(result[0].sum(), inputs)

    return run


_PADDED = attention.padding_mask(torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]))
_ONE_EMPTY = attention.padding_mask(torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]]))
_CAUSAL = attention.causal_mask(4)


def _lookup_by_hand(implementation):
    query = torch.tensor([[[[0.0, 0.0]]]])  # matches both keys equally: the mean of the values
    key = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    value = torch.tensor([[[[10.0], [20.0]]]])
    return implementation(query, key, value)


def _sdpa_unscaled(query, key, value, mask=None):
    return attention.scaled_dot_product_attention(
        query * math.sqrt(query.size(-1)), key, value, mask
    )


def _sdpa_inverted_mask(query, key, value, mask=None):
    return attention.scaled_dot_product_attention(
        query, key, value, None if mask is None else ~mask
    )


def _sdpa_fill_where_true(query, key, value, mask=None):
    scores = attention.attention_scores(query, key)
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    weights = scores.softmax(-1)
    return weights @ value, weights


def _sdpa_no_mask(query, key, value, mask=None):
    return attention.scaled_dot_product_attention(query, key, value)


def _sdpa_big_number(query, key, value, mask=None):
    scores = attention.attention_scores(query, key)
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e9)
    weights = scores.softmax(-1)
    return weights @ value, weights


def _sdpa_nan(query, key, value, mask=None):
    scores = attention.attention_scores(query, key)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1)
    return weights @ value, weights


def _sdpa_nan_added(query, key, value, mask=None):
    scores = attention.attention_scores(query, key)
    if mask is not None:
        scores = scores + torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1)
    return weights @ value, weights


def _sdpa_nan_in_gradient(query, key, value, mask=None):
    scores = attention.attention_scores(query, key)
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=scores.dtype).masked_fill(~mask, float("-inf"))
        scores = scores + bias
    weights = scores.softmax(-1)
    weights = weights.masked_fill(weights.isnan(), 0.0)
    return weights @ value, weights


def _sdpa_mask_after(query, key, value, mask=None):
    weights = attention.attention_scores(query, key).softmax(-1)
    if mask is not None:
        weights = weights * mask
    return weights @ value, weights


def _sdpa_zero_scores(query, key, value, mask=None):
    scores = attention.attention_scores(query, key)
    if mask is not None:
        scores = scores * mask
    weights = scores.softmax(-1)
    return weights @ value, weights


def _sdpa_over_queries(query, key, value, mask=None):
    scores = attention.attention_scores(query, key)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-2).nan_to_num(0.0)
    return weights @ value, weights


def _sdpa_over_queries_plain(query, key, value, mask=None):
    scores = attention.attention_scores(query, key)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-2)
    return weights @ value, weights


def _sdpa_over_queries_but_empty(query, key, value, mask=None):
    scores = attention.attention_scores(query, key)
    if mask is None:
        weights = scores.softmax(-2)
    else:
        empty = ~mask.any(-1, keepdim=True)
        scores = scores.masked_fill(~(mask | empty), float("-inf"))
        weights = scores.softmax(-2).masked_fill(empty, 0.0)
    return weights @ value, weights


def _sdpa_output_only(query, key, value, mask=None):
    return attention.scaled_dot_product_attention(query, key, value, mask)[0]


def _sdpa_weights_first(query, key, value, mask=None):
    return attention.scaled_dot_product_attention(query, key, value, mask)[::-1]


SCALED_DOT_PRODUCT = Exercise(
    id="attention/scaled-dot-product",
    lesson="01",
    title="Scaled dot-product attention",
    difficulty=3,
    minutes=10,
    reference=attention.scaled_dot_product_attention,
    stub=scaled_dot_product_attention_stub,
    cases=[
        Case("a query that matches both keys gets the mean of 10 and 20", _lookup_by_hand),
        Case("no mask, d_v other than d_k", _attend(sizes=(2, 3, 4, 6, 8, 5))),
        Case("a padding mask", _attend(_PADDED)),
        Case("a causal mask", _attend(_CAUSAL)),
        Case("a text that is all padding gives zeros", _attend(_ONE_EMPTY)),
        Case("its gradient holds no NaN", _attend(_ONE_EMPTY, gradient=True)),
        Case("float64, batch of one", _attend(dtype=torch.float64, sizes=(1, 1, 2, 3, 4, 4))),
    ],
    hints=[
        "Scores, mask, softmax, mix: four lines. Which axis must sum to 1, and what should a "
        "forbidden score be before the softmax so that its weight comes out as exactly 0?",
        "scores.masked_fill(~mask, float('-inf')), then softmax over the last axis. A row of −∞ "
        "alone becomes NaN: find those rows first, empty = ~mask.any(-1, keepdim=True).",
        "Fill with −∞ only where ~(mask | empty), so that an empty row goes through the softmax "
        "like any other, and set its weights to 0 afterwards: .masked_fill(empty, 0.0).",
    ],
    mistakes=[
        Mistake(
            _sdpa_unscaled, "The scaling is missing: divide the scores by √d_k before the softmax."
        ),
        Mistake(
            _sdpa_inverted_mask,
            "You kept what the mask forbids and forbade what it keeps: True means “may attend”, so "
            "fill where ~mask.",
        ),
        Mistake(
            _sdpa_fill_where_true,
            "You filled where the mask is True, so you hid what may be seen: True means “may "
            "attend”. Fill where ~mask.",
        ),
        Mistake(
            _sdpa_no_mask, "Without a mask this is right; with one, nothing changes: use mask."
        ),
        Mistake(
            _sdpa_big_number,
            "Almost: −1e9 is a large number, not −∞. A row where everything is masked comes out as "
            "the mean of all values, padding included, instead of zeros.",
        ),
        Mistake(
            _sdpa_nan,
            "A row where everything is masked came out as NaN: softmax over nothing but −∞ is 0/0. "
            "Such a row should give zeros.",
        ),
        Mistake(
            _sdpa_nan_added,
            "An added −∞ makes an empty row NaN, forward and backward, and the gradient carries it "
            "to every weight. Such a row should give zeros: fill, and let no NaN arise.",
        ),
        Mistake(
            _sdpa_nan_in_gradient,
            "The forward pass is right, but the gradient of an empty row is NaN, and one NaN "
            "spoils every weight it reaches. Keep the NaN from arising; replacing it comes late.",
        ),
        Mistake(
            _sdpa_mask_after,
            "You masked after the softmax: the rows no longer sum to 1, because masked keys had "
            "already taken their share.",
        ),
        Mistake(
            _sdpa_zero_scores,
            "You set masked scores to 0, and softmax gives exp(0) = 1 its share: a forbidden key "
            "is still seen. The score that softmax turns into 0 is −∞.",
        ),
        Mistake(
            _sdpa_over_queries,
            "Your softmax runs over the queries: columns sum to 1. Each query shares out its "
            "attention over the keys: dim=-1.",
        ),
        Mistake(
            _sdpa_over_queries_plain,
            "Your softmax runs over dim=-2, the queries; each query shares out its attention over "
            "the keys: dim=-1. (A hidden key's column is −∞ alone; hence the NaN.)",
        ),
        Mistake(
            _sdpa_over_queries_but_empty,
            "Empty rows are in order, but your softmax runs over dim=-2, the queries. The weights "
            "of one query, a row, must sum to 1: dim=-1.",
        ),
        Mistake(_sdpa_output_only, "Return both: output, weights."),
        Mistake(_sdpa_weights_first, "Both are right, in the wrong order: output first."),
    ],
)

# --- attention/split-heads ------------------------------------------------------------------------


def split_heads_stub(hidden_states, num_heads):
    """hidden_states (batch, length, hidden) → (batch, heads, length, d_k), d_k = hidden / heads;
    head h gets features h·d_k … (h+1)·d_k − 1 of every token
    """
    raise NotImplementedError("your turn")


def _count(*shape):
    return torch.arange(math.prod(shape), dtype=torch.float32).view(*shape)


def _split_viewed(hidden_states, num_heads):
    batch, length, hidden = hidden_states.shape
    return hidden_states.reshape(batch, num_heads, length, hidden // num_heads)


def _split_untransposed(hidden_states, num_heads):
    batch, length, hidden = hidden_states.shape
    return hidden_states.reshape(batch, length, num_heads, hidden // num_heads)


def _split_interleaved(hidden_states, num_heads):
    batch, length, hidden = hidden_states.shape
    return hidden_states.reshape(batch, length, hidden // num_heads, num_heads).permute(0, 3, 1, 2)


def _split_sizes_swapped(hidden_states, num_heads):
    batch, length, hidden = hidden_states.shape
    return hidden_states.reshape(batch, length, hidden // num_heads, num_heads).transpose(1, 2)


def _split_into_batch(hidden_states, num_heads):
    return attention.split_heads(hidden_states, num_heads).flatten(0, 1)


SPLIT_HEADS = Exercise(
    id="attention/split-heads",
    lesson="01",
    title="Split into heads",
    difficulty=3,
    minutes=5,
    reference=attention.split_heads,
    stub=split_heads_stub,
    cases=[
        Case("two texts of 5 tokens, 12 features, 3 heads", lambda f: f(_count(2, 5, 12), 3)),
        Case("one text, 4 tokens, 4 heads of 2", lambda f: f(_count(1, 4, 8), 4)),
        Case("one head", lambda f: f(_count(2, 3, 4), 1)),
        Case("as many heads as features", lambda f: f(_count(2, 3, 4), 4)),
        Case("float64", lambda f: f(_count(1, 2, 6).double(), 2)),
    ],
    hints=[
        "Two steps: cut the last axis in two, then move the heads in front of the length. Which "
        "neighbours must stay neighbours?",
        "hidden_states.view(batch, length, num_heads, d_k) keeps a token's features together; "
        ".transpose(1, 2) then swaps length and heads.",
    ],
    mistakes=[
        Mistake(
            _split_viewed,
            "The shape is right and the contents are not: view straight to (batch, heads, length, "
            "d_k) mixes features of different tokens. Cut the last axis first, then transpose.",
        ),
        Mistake(
            _split_untransposed,
            "The shape came out {shape}: the heads are still behind the length. transpose(1, 2) is "
            "missing.",
        ),
        Mistake(
            _split_interleaved,
            "Head h got every heads-th feature instead of a run of neighbours: view as (…, "
            "num_heads, d_k), not (…, d_k, num_heads).",
        ),
        Mistake(
            _split_sizes_swapped,
            "num_heads and d_k changed places: {shape} should be (batch, heads, length, d_k).",
        ),
        Mistake(
            _split_into_batch,
            "You joined heads and batch into one axis, {shape}. Keep both: masks broadcast over "
            "the heads.",
        ),
    ],
)

# --- attention/merge-heads ------------------------------------------------------------------------


def merge_heads_stub(per_head):
    """per_head (batch, heads, length, d_k) → (batch, length, heads · d_k): undoes split_heads"""
    raise NotImplementedError("your turn")


def _merge_reshaped(per_head):
    batch, heads, length, d_k = per_head.shape
    return per_head.reshape(batch, length, heads * d_k)


def _merge_viewed(per_head):
    batch, heads, length, d_k = per_head.shape
    return per_head.transpose(1, 2).view(batch, length, heads * d_k)


def _merge_interleaved(per_head):
    return per_head.permute(0, 2, 3, 1).flatten(2)


def _merge_averaged(per_head):
    return per_head.mean(1)


def _merge_added(per_head):
    return per_head.sum(1)


def _merge_unflattened(per_head):
    return per_head.transpose(1, 2)


MERGE_HEADS = Exercise(
    id="attention/merge-heads",
    lesson="01",
    title="Merge the heads",
    difficulty=3,
    minutes=5,
    reference=attention.merge_heads,
    stub=merge_heads_stub,
    cases=[
        Case("two texts, 3 heads, 5 tokens, d_k = 4", lambda f: f(_count(2, 3, 5, 4))),
        Case("one head", lambda f: f(_count(2, 1, 3, 4))),
        Case("as many heads as tokens", lambda f: f(_count(1, 3, 3, 2))),
        Case("what split_heads made", lambda f: f(attention.split_heads(_count(2, 4, 6), 3))),
        Case("float64", lambda f: f(_count(1, 2, 2, 2).double())),
    ],
    hints=[
        "Walk back: first put the heads beside their token again, then join the last two axes.",
        "per_head.transpose(1, 2) is (batch, length, heads, d_k); .contiguous().view(batch, "
        "length, heads * d_k), or .flatten(2), joins the last two axes.",
    ],
    mistakes=[
        Mistake(
            _merge_reshaped,
            "The shape is right and the contents are not: without transpose(1, 2) first, one "
            "token's row holds other tokens' features.",
        ),
        Mistake(
            _merge_viewed,
            "view can not join these axes: transpose changed only how the memory is read. Copy "
            "first with .contiguous(), or use .reshape or .flatten.",
        ),
        Mistake(
            _merge_interleaved,
            "The heads are interleaved, feature by feature. Head 0's d_k features come first, then "
            "head 1's: (…, heads, d_k) before joining.",
        ),
        Mistake(
            _merge_averaged,
            "You averaged the heads. They stand side by side: heads · d_k features.",
        ),
        Mistake(
            _merge_added, "You added the heads up. They stand side by side: heads · d_k features."
        ),
        Mistake(_merge_unflattened, "Still four axes, {shape}: join the last two."),
    ],
)

# --- attention/multi-head-attention ---------------------------------------------------------------


class MultiHeadAttentionStub(nn.Module):
    """num_heads attentions side by side. Linear layers: query, key, value, output, all
    hidden_size → hidden_size, with bias. dropout acts on the weights, in training only;
    the weights that are returned are those before dropout.
    """

    def __init__(self, hidden_size, num_heads, dropout=0.0):
        raise NotImplementedError("your turn")

    def forward(self, query, key, value, mask=None, need_weights=True):
        """query (batch, queries, hidden_size), key and value (batch, keys, hidden_size)
        → output (batch, queries, hidden_size), weights (batch, heads, queries, keys) or None
        """
        raise NotImplementedError("your turn")


def _many_heads(heads, masked=False, crossed=False, need_weights=True, gradient=False):
    def run(implementation):
        layer = fill_(implementation(12, heads), seed=1)
        query, key, value = _draw(7, (2, 4, 12), (2, 4, 12), (2, 4, 12))
        if not crossed:
            key = value = query
        mask = _PADDED if masked else None
        if gradient:
            layer(query, key, value, mask)[0].square().sum().backward()
            return {name: p.grad for name, p in layer.named_parameters()}
        return layer(query, key, value, mask, need_weights=need_weights)

    return run


def _longer_keys(implementation):
    layer = fill_(implementation(8, 2), seed=2)
    query, memory = _draw(8, (1, 3, 8), (1, 6, 8))
    return layer(query, memory, memory)


def _parameters(implementation):
    named = implementation(12, 3).named_parameters()
    return {name: tuple(p.shape) for name, p in sorted(named)}


def _dropout_acts(implementation):
    layer = fill_(implementation(12, 3, dropout=0.5), seed=3)
    (x,) = _draw(9, (2, 6, 12))
    still = layer(x, x, x)[0]
    again = layer(x, x, x)[0]
    layer.train()
    moved = layer(x, x, x)[0]
    return {
        "same twice in eval": torch.equal(still, again),
        "other in train": not torch.allclose(still, moved),
    }


def _in_training(implementation, value, output_weight):
    """Eval's weights, then training's output and weights, dropout 0.5, value layer the identity.

    Two heads of 8, 8 keys, a batch of one. What is compared is structure, not numbers: which
    weights are dropped may follow from any order of draws.
    """
    layer = fill_(implementation(16, 2, dropout=0.5), seed=4)
    parameters = dict(layer.named_parameters())
    known = {"value.weight": torch.eye(16), "output.weight": output_weight}
    known |= {"value.bias": torch.zeros(16), "output.bias": torch.zeros(16)}
    with torch.no_grad():
        for name in known.keys() & parameters.keys():
            parameters[name].copy_(known[name])
    query, key = _draw(10, (1, 8, 16), (1, 8, 16))
    before = layer(query, key, value)[1]
    return before, *layer.train()(query, key, value)


def _dropout_of_weights(implementation):
    value = torch.eye(8).repeat(1, 2)[None]  # key j: feature j of each head, so weights show
    before, output, weights = _in_training(implementation, value, torch.eye(16))
    seen = attention.split_heads(output, 2)  # (1, heads, queries, keys)
    dropped = seen == 0
    return {
        "each weight dropped or doubled": bool((dropped | seen.isclose(2 * before)).all()),
        "each query drops its own": not bool((dropped == dropped[:, :, :1]).all()),
        "returned rows sum to 1": bool((weights.sum(-1) - 1).abs().max() < 1e-4),
    }


def _dropout_of_alike_features(implementation):
    value = torch.arange(1.0, 9.0)[None, :, None].expand(1, 8, 16)  # key j: j + 1 throughout
    each = attention.split_heads(_in_training(implementation, value, torch.eye(16))[1], 2)
    added = _in_training(implementation, value, torch.full((16, 16), 1 / 16))[1]
    return {
        "alike in each head": torch.allclose(each, each[..., :1], rtol=1e-4),
        "alike when output adds them up": torch.allclose(added, added[..., :1], rtol=1e-4),
    }


class _Wrong(attention.MultiHeadAttention):
    """The reference with its steps as methods, so that each mistake changes one."""

    def split(self, x):
        return attention.split_heads(x, self.num_heads)

    def merge(self, x):
        return attention.merge_heads(x)

    def attend(self, q, k, v, mask):
        return attention.scaled_dot_product_attention(q, k, v, mask)

    def project(self, query, key, value):
        return self.query(query), self.key(key), self.value(value)

    def finish(self, mixed):
        return self.output(mixed)

    def forward(self, query, key, value, mask=None, need_weights=True):
        q, k, v = (self.split(x) for x in self.project(query, key, value))
        mixed, weights = self.attend(q, k, v, mask)
        if self.training and self.dropout:
            mixed = F.dropout(weights, self.dropout) @ v
        return self.finish(self.merge(mixed)), weights if need_weights else None


class _NoOutputProjection(_Wrong):
    def finish(self, mixed):
        return mixed


class _NoOutputLayer(_Wrong):
    def __init__(self, hidden_size, num_heads, dropout=0.0):
        super().__init__(hidden_size, num_heads, dropout)
        del self.output

    def finish(self, mixed):
        return mixed


class _WithoutBias(_Wrong):
    def __init__(self, hidden_size, num_heads, dropout=0.0):
        super().__init__(hidden_size, num_heads, dropout)
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(hidden_size, hidden_size, bias=False))


class _NoSuper(_Wrong):
    def __init__(self, hidden_size, num_heads, dropout=0.0):
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)  # raises


class _SplitByView(_Wrong):
    def split(self, x):
        return _split_viewed(x, self.num_heads)


class _MergeByView(_Wrong):
    def merge(self, x):
        return _merge_reshaped(x)


class _AllFromQuery(_Wrong):
    def project(self, query, key, value):
        return self.query(query), self.key(query), self.value(query)


class _ValueFromKey(_Wrong):
    def project(self, query, key, value):
        return self.query(query), self.key(key), self.value(key)


class _ValueFromQuery(_Wrong):
    def project(self, query, key, value):
        return self.query(query), self.key(key), self.value(query)


class _OneLayerForKeyAndValue(_Wrong):
    def project(self, query, key, value):
        return self.query(query), self.key(key), self.key(value)


class _MaskIgnored(_Wrong):
    def attend(self, q, k, v, mask):
        return attention.scaled_dot_product_attention(q, k, v)


class _ScaledByHidden(_Wrong):
    def attend(self, q, k, v, mask):
        return attention.scaled_dot_product_attention(q / math.sqrt(self.num_heads), k, v, mask)


class _AveragedWeights(_Wrong):
    def forward(self, *arguments, **keywords):
        output, weights = super().forward(*arguments, **keywords)
        return output, None if weights is None else weights.mean(1)


class _AlwaysWeights(_Wrong):
    def forward(self, query, key, value, mask=None, need_weights=True):
        return super().forward(query, key, value, mask)


class _DropoutIgnored(_Wrong):
    def __init__(self, hidden_size, num_heads, dropout=0.0):
        super().__init__(hidden_size, num_heads)


class _DropoutAlways(_Wrong):
    def forward(self, query, key, value, mask=None, need_weights=True):
        training, self.training = self.training, True
        result = super().forward(query, key, value, mask, need_weights)
        self.training = training
        return result


class _DropoutOfFeatures(_Wrong):
    """Dropout, but not of weights: subclasses say of what."""

    def __init__(self, hidden_size, num_heads, dropout=0.0):
        super().__init__(hidden_size, num_heads)  # none of the weights
        self.of_features = nn.Dropout(dropout)


class _DropoutOfOutput(_DropoutOfFeatures):
    def finish(self, mixed):
        return self.of_features(self.output(mixed))


class _DropoutOfMixed(_DropoutOfFeatures):
    def finish(self, mixed):
        return self.output(self.of_features(mixed))


class _DropoutOfValues(_DropoutOfFeatures):
    def project(self, query, key, value):
        return self.query(query), self.key(key), self.of_features(self.value(value))


class _ReturnsDropped(_Wrong):
    def __init__(self, hidden_size, num_heads, dropout=0.0):
        super().__init__(hidden_size, num_heads)
        self.of_weights = nn.Dropout(dropout)

    def attend(self, q, k, v, mask):
        _, weights = attention.scaled_dot_product_attention(q, k, v, mask)
        weights = self.of_weights(weights)
        return weights @ v, weights


MULTI_HEAD = Exercise(
    id="attention/multi-head-attention",
    lesson="01",
    title="Multi-head attention",
    difficulty=4,
    minutes=15,
    reference=attention.MultiHeadAttention,
    stub=MultiHeadAttentionStub,
    cases=[
        Case("the names and shapes of the parameters", _parameters),
        Case("self-attention, one head", _many_heads(1)),
        Case("self-attention, three heads", _many_heads(3)),
        Case("with a padding mask", _many_heads(3, masked=True)),
        Case("query, key and value from three sources", _many_heads(2, crossed=True)),
        Case("3 queries, 6 keys", _longer_keys),
        Case("need_weights=False gives None", _many_heads(3, masked=True, need_weights=False)),
        Case("gradients of every parameter", _many_heads(3, masked=True, gradient=True)),
        Case("dropout acts in training, and only there", _dropout_acts),
        Case("it drops weights, and the weights returned are whole", _dropout_of_weights),
        Case("it drops no features: those alike stay alike", _dropout_of_alike_features),
    ],
    hints=[
        "You have all the parts: three linear layers, split_heads, scaled_dot_product_attention, "
        "merge_heads, one more linear layer.",
        "In __init__: super().__init__(), keep num_heads and dropout, then self.query = "
        "nn.Linear(hidden_size, hidden_size), and the same for key, value, output.",
        "mixed, weights = scaled_dot_product_attention(q, k, v, mask) with q, k, v split into "
        "heads; return self.output(merge_heads(mixed)), weights if need_weights else None. For "
        "dropout, mix again: F.dropout(weights, self.dropout, self.training) @ v.",
    ],
    mistakes=[
        Mistake(
            _NoOutputProjection,
            "The heads are side by side, but nothing has mixed them yet: the last step is "
            "self.output(...).",
        ),
        Mistake(
            _NoOutputLayer,
            "A layer is missing, self.output: it mixes what the heads found, and is the last step.",
        ),
        Mistake(
            _WithoutBias,
            "Your linear layers have no bias. BERT's have one: leave out bias=False.",
        ),
        Mistake(
            _NoSuper,
            "super().__init__() is missing: an nn.Module can hold no layers before that call. Make "
            "it the first line of __init__.",
        ),
        Mistake(
            _SplitByView,
            "Right with one head only: the split mixes features of different tokens. Cut the last "
            "axis first, then transpose.",
        ),
        Mistake(
            _MergeByView,
            "Right with one head only: before the axes are joined, heads and length must be "
            "swapped back.",
        ),
        Mistake(
            _AllFromQuery,
            "Right for self-attention only: keys and values are made from the key and value "
            "inputs, not from query.",
        ),
        Mistake(
            _ValueFromQuery,
            "Your values are made from query. Right for self-attention only: self.value(value).",
        ),
        Mistake(
            _ValueFromKey,
            "Right while key and value are the same tensor: values are made from the value input.",
        ),
        Mistake(
            _OneLayerForKeyAndValue,
            "You used self.key for the values too. Matching and answering are different jobs: "
            "self.value(value).",
        ),
        Mistake(
            _MaskIgnored, "Without a mask this is right: hand the mask on to the attention as well."
        ),
        Mistake(
            _ScaledByHidden,
            "Right with one head only: the scores are divided by √hidden_size, and a head is only "
            "d_k wide.",
        ),
        Mistake(
            _AveragedWeights,
            "Your weights are averaged over the heads, which is what PyTorch does by default. Keep "
            "them all: (batch, heads, queries, keys).",
        ),
        Mistake(
            _AlwaysWeights, "With need_weights=False the second thing returned should be None."
        ),
        Mistake(
            _DropoutIgnored,
            "All right but dropout: in training, some attention weights should be dropped before "
            "they mix the values.",
        ),
        Mistake(
            _DropoutAlways,
            "Your dropout also acts in eval(): F.dropout needs training=self.training, or use "
            "nn.Dropout.",
        ),
        Mistake(
            _DropoutOfOutput,
            "Your dropout acts on the output. Here it drops attention weights: a query forgets "
            "whole keys, and what it does mix stays complete.",
        ),
        Mistake(
            _DropoutOfMixed,
            "Your dropout acts on the mixed values: single features are lost. It belongs one step "
            "earlier, on the weights that mix them.",
        ),
        Mistake(
            _DropoutOfValues,
            "Your dropout acts on the values, so all queries lose the same features. It belongs on "
            "the weights, anew for each query.",
        ),
        Mistake(
            _ReturnsDropped,
            "The output is right; the weights you return are those after dropout, whose rows no "
            "longer sum to 1. Return the ones before.",
        ),
    ],
)

# --- attention/sinusoidal-positions ---------------------------------------------------------------


def sinusoidal_positions_stub(length, hidden_size, base=10_000.0):
    """→ (length, hidden_size), float32
    feature 2i is sin(position / base^(2i / hidden_size)), feature 2i + 1 the cosine of that angle
    """
    raise NotImplementedError("your turn")


def _position_column(length):
    return torch.arange(length, dtype=torch.float32)[:, None]  # (length, 1)


def _interleave(sines, cosines):
    return torch.stack([sines, cosines], -1).flatten(-2)


def _frequencies(hidden_size, base):
    return base ** (-torch.arange(0, hidden_size, 2) / hidden_size)  # (hidden_size / 2,)


def _sinusoids_in_halves(length, hidden_size, base=10_000.0):
    angle = _position_column(length) * _frequencies(hidden_size, base)
    return torch.cat([angle.sin(), angle.cos()], -1)


def _sinusoids_swapped(length, hidden_size, base=10_000.0):
    angle = _position_column(length) * _frequencies(hidden_size, base)
    return _interleave(angle.cos(), angle.sin())


def _sinusoids_each_its_own(length, hidden_size, base=10_000.0):
    angle = _position_column(length) * base ** (-torch.arange(hidden_size) / hidden_size)
    return _interleave(angle[:, 0::2].sin(), angle[:, 1::2].cos())


def _sinusoids_half_exponent(length, hidden_size, base=10_000.0):
    angle = _position_column(length) * base ** (-torch.arange(hidden_size // 2) / hidden_size)
    return _interleave(angle.sin(), angle.cos())


def _sinusoids_by_column(length, hidden_size, base=10_000.0):
    angle = _position_column(length) * base ** (-2 * torch.arange(hidden_size) / hidden_size)
    return _interleave(angle[:, 0::2].sin(), angle[:, 1::2].cos())


def _sinusoids_multiplied(length, hidden_size, base=10_000.0):
    angle = _position_column(length) / _frequencies(hidden_size, base)
    return _interleave(angle.sin(), angle.cos())


def _sinusoids_from_one(length, hidden_size, base=10_000.0):
    angle = (_position_column(length) + 1) * _frequencies(hidden_size, base)
    return _interleave(angle.sin(), angle.cos())


def _sinusoids_transposed(length, hidden_size, base=10_000.0):
    return positions.sinusoidal_positions(length, hidden_size, base).T


def _sinusoids_fixed_base(length, hidden_size, base=10_000.0):
    return positions.sinusoidal_positions(length, hidden_size)


SINUSOIDAL = Exercise(
    id="attention/sinusoidal-positions",
    lesson="01",
    title="Sinusoidal positions",
    difficulty=3,
    minutes=10,
    reference=positions.sinusoidal_positions,
    stub=sinusoidal_positions_stub,
    cases=[
        Case("one pair of features: sin and cos of 0, 1, 2", lambda f: f(3, 2)),
        Case("6 positions, 8 features", lambda f: f(6, 8)),
        Case("40 positions, 32 features", lambda f: f(40, 32)),
        Case("base 100", lambda f: f(12, 6, 100.0)),
        Case("position 0 alone: 0, 1, 0, 1", lambda f: f(1, 4)),
    ],
    hints=[
        "First the angles, (length, hidden_size / 2): one position times one frequency for each "
        "pair. A column (length, 1) times a row (hidden_size / 2,) broadcasts to all of them.",
        "frequency = base ** (-torch.arange(0, hidden_size, 2) / hidden_size), and angle = "
        "torch.arange(length)[:, None] * frequency. Then fill an empty tensor: table[:, 0::2] = "
        "angle.sin(), table[:, 1::2] = angle.cos().",
    ],
    mistakes=[
        Mistake(
            _sinusoids_in_halves,
            "All sines, then all cosines: that is how the paper's own code lays them out (a "
            "permutation of the features, harmless). Here they alternate, as in the paper's text.",
        ),
        Mistake(_sinusoids_swapped, "Sine and cosine changed places: even features are sines."),
        Mistake(
            _sinusoids_each_its_own,
            "Each feature has a frequency of its own. A sine and its cosine share one angle, with "
            "the exponent 2i / hidden_size where i counts pairs; only then is a shift a rotation.",
        ),
        Mistake(
            _sinusoids_half_exponent,
            "The exponent runs to ½ only: with i counting pairs it is 2i / hidden_size.",
        ),
        Mistake(
            _sinusoids_by_column,
            "Your exponent is 2 · column / hidden_size. In 2i / hidden_size i counts pairs: i = "
            "column // 2, the same for a sine and its cosine.",
        ),
        Mistake(
            _sinusoids_multiplied,
            "You multiplied by base^(2i / hidden_size); the position is divided by it.",
        ),
        Mistake(_sinusoids_from_one, "Your first position is 1; positions count from 0."),
        Mistake(_sinusoids_transposed, "The shape is {shape}: one row for each position, please."),
        Mistake(_sinusoids_fixed_base, "Right for base 10,000 only: use the argument base."),
    ],
    tolerance=1e-4,
)

# --- attention/sliding-window ---------------------------------------------------------------------


SLIDING_WINDOW = OpenExercise(
    id="attention/sliding-window",
    lesson="01",
    title="A window with a way out",
    difficulty=4,
    minutes=20,
    task=(
        "Each token sees `window` neighbours on either side. In addition, token 0 ([CLS]) sees all "
        "and is seen by all.\n\n"
        "1. Write the mask, and draw it for 16 tokens and a window of 2.\n"
        "2. How many pairs does it allow for n tokens? Say the formula before you count.\n"
        "3. Without [CLS]: how many layers does it take until token 0 can know about token n − 1? "
        "And with it? Prove both with powers of the mask.\n"
        "4. Does this mask make attention faster? Measure, and explain what you see."
    ),
    hints=[
        "For part 3: if mask[i, j] says that i sees j, then (mask @ mask)[i, j] > 0 says that i "
        "sees j through one other token.",
        "For part 4: count the multiplications that scaled_dot_product_attention does under any "
        "mask. Which of them does the mask save?",
    ],
    rubric=[
        "The mask is boolean, symmetric, True on the diagonal, and all True in row 0 and column 0.",
        "The formula: n(2w + 1) − w(w + 1) for the window, plus 2(n − 1 − w) for [CLS]; it equals "
        "the count for at least two pairs of n and w, and you say that it grows linearly in n.",
        "⌈(n − 1) / w⌉ layers without [CLS], 1 with it for token 0, 2 for any other pair; shown "
        "with powers of the mask, not only said.",
        "You measured that a mask alone saves no time: every score is computed and then thrown "
        "away. Only code that never computes them (blocks, a sparse kernel) is faster.",
    ],
    answer=(
        "```python\n"
        "def window_with_cls(length, window):\n"
        "    mask = sliding_window_mask(length, window)   # (length, length)\n"
        "    mask[0, :] = mask[:, 0] = True               # [CLS] sees all, all see [CLS]\n"
        "    return mask\n"
        "\n"
        "def pairs(n, w):\n"
        "    return n * (2 * w + 1) - w * (w + 1) + 2 * (n - 1 - w)\n"
        "\n"
        "assert pairs(16, 2) == window_with_cls(16, 2).sum() == 100\n"
        "assert pairs(64, 8) == window_with_cls(64, 8).sum()\n"
        "\n"
        "def layers_until(mask, query, key):\n"
        "    reach, layers = mask.float(), 1\n"
        "    while reach[query, key] == 0:\n"
        "        reach, layers = ((reach @ mask.float()) > 0).float(), layers + 1\n"
        "    return layers\n"
        "\n"
        "assert layers_until(sliding_window_mask(16, 2), 0, 15) == 8    # ceil(15 / 2)\n"
        "assert layers_until(window_with_cls(16, 2), 0, 15) == 1\n"
        "assert layers_until(window_with_cls(16, 2), 4, 15) == 2        # by way of [CLS]\n"
        "```\n\n"
        "Attention under this mask takes as long as under none, or a little longer: the product of "
        "queries and keys is computed in full and most of it is overwritten with −∞. The saving "
        "comes from code that goes through the sequence in blocks of w tokens and multiplies each "
        "block of queries with the three blocks of keys around it: n · 3w scores instead of n². "
        "Longformer (Beltagy et al. 2020, section 3) does that, with global tokens like this "
        "[CLS]."
    ),
)

EXERCISES = [
    SCORES,
    PADDING_MASK,
    SCALED_DOT_PRODUCT,
    SPLIT_HEADS,
    MERGE_HEADS,
    MULTI_HEAD,
    SINUSOIDAL,
    SLIDING_WINDOW,
]


# --- Claims ---------------------------------------------------------------------------------------

SAME = 0.02  # accuracies that differ by no more than this count as equal


def _judge_sqrt(root, constants):
    """The worst seed's accuracy at (narrow, wide) heads: with √d_k, and for each constant."""

    def behind(measured):
        names = ("narrow", "wide")
        return [n for n, got, best in zip(names, measured, root) if got < best - 0.1]

    fails = {constant: behind(measured) for constant, measured in constants.items()}
    if not any(fails.values()):
        return Verdict(True, "every constant tried keeps up with √d_k at both widths.")
    told = ", ".join(
        f"{constant} falls behind in {' and '.join(where)} heads"
        for constant, where in fails.items()
        if where
    )
    kept = [constant for constant, where in fails.items() if not where]
    rest = (
        f" {', '.join(kept)} keeps up: scores that start too small can grow, scores that start too "
        "large hardly shrink."
        if kept
        else ""
    )
    return Verdict(False, f"{told}.{rest}")


def _judge_extrapolation(inside, outside):
    """Accuracy on positions seen in training, and on positions beyond."""
    if inside < 0.9:
        return Verdict(False, "the model did not even learn the lengths it was trained on.")
    if outside >= inside - 0.05:
        return Verdict(True, "it answers beyond the training length as well as within it.")
    return Verdict(
        False,
        "every position has an encoding, but what was learned on the trained ones does not carry "
        "over to those beyond.",
    )


def _judge_doubling(ratio):
    """Time of a BERT-base layer at 256 tokens over its time at 128."""
    if ratio > 3:
        return Verdict(True, "the layer takes nearer to 4 times as long.")
    return Verdict(
        False,
        "from 128 to 256 tokens a layer takes nearer to 2 times as long. Only scores and mixing "
        "grow with the square, and here they are a small part.",
    )


def _judge_heads(one_lookup, two_lookups):
    """{heads: accuracy} on a task with one lookup and on one with two, at equal parameters."""

    def best_of_many(accuracy):
        return max(value for heads, value in accuracy.items() if heads > 1)

    gains = {
        "one lookup": best_of_many(one_lookup) > one_lookup[1] + SAME,
        "two lookups": best_of_many(two_lookups) > two_lookups[1] + SAME,
    }
    most = max(two_lookups)
    narrow = (
        " The most and narrowest heads fall behind again."
        if two_lookups[most] < best_of_many(two_lookups) - SAME
        else ""
    )
    if all(gains.values()):
        return Verdict(True, f"several heads are ahead on both tasks.{narrow}")
    if gains["two lookups"]:
        return Verdict(
            False,
            "several heads are far ahead where one answer needs two lookups, and no better where "
            f"one lookup is enough.{narrow}",
        )
    return Verdict(False, "several heads are not ahead even where the answer needs two lookups.")


CLAIMS = [
    Claim(
        id="attention/sqrt-d-k",
        statement="√d_k is a numerical trick; any constant would do.",
        source="goes round",
        judge=_judge_sqrt,
        holds=dict(root=(1.0, 1.0), constants={"4": (1.0, 0.99)}),
        fails=dict(root=(1.0, 1.0), constants={"1": (0.5, 0.4), "4": (1.0, 0.8), "16": (1, 1)}),
    ),
    Claim(
        id="attention/sinusoids-extrapolate",
        statement="Sinusoidal positions extrapolate to lengths not seen in training.",
        source="Vaswani et al. 2017, section 3.5, says “may allow”; it goes round as a fact",
        judge=_judge_extrapolation,
        holds=dict(inside=0.99, outside=0.97),
        fails=dict(inside=0.99, outside=0.4),
    ),
    Claim(
        id="attention/doubling",
        statement="Doubling the sequence makes BERT 4 times slower.",
        source="goes round",
        judge=_judge_doubling,
        holds=dict(ratio=4.0),
        fails=dict(ratio=2.1),
    ),
    Claim(
        id="attention/many-heads",
        statement="Many heads beat one at equal parameters.",
        source="goes round",
        judge=_judge_heads,
        holds=dict(one_lookup={1: 0.8, 4: 0.99}, two_lookups={1: 0.1, 4: 0.99}),
        fails=dict(one_lookup={1: 1.0, 4: 1.0}, two_lookups={1: 0.1, 4: 0.99, 16: 0.3}),
    ),
]
