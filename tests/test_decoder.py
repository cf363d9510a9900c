import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils import decoder as decoder_module
from course_utils.attention import MultiHeadAttention, causal_mask
from course_utils.decoder import (
    Decoder,
    DecoderLayer,
    TokenEmbedding,
    Transformer,
    cached_attention,
    target_mask,
)

SETTINGS = settings(max_examples=25, deadline=None)


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    """Ours into PyTorch's, whose query, key and value lie in one (3·hidden, hidden)."""
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def copy_layer(ours, theirs) -> None:
    """An encoder or decoder layer of ours into PyTorch's."""
    copy_attention(ours.attention, theirs.self_attn)
    pairs = [(ours.attention_norm, theirs.norm1), (ours.feed_forward.expand, theirs.linear1)]
    pairs += [(ours.feed_forward.contract, theirs.linear2)]
    if isinstance(ours, DecoderLayer):
        copy_attention(ours.cross_attention, theirs.multihead_attn)
        pairs += [(ours.cross_norm, theirs.norm2), (ours.feed_forward_norm, theirs.norm3)]
    else:
        pairs += [(ours.feed_forward_norm, theirs.norm2)]
    for mine, other in pairs:
        other.load_state_dict(mine.state_dict())


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.dim() == 1))


def padded(batch: int, tokens: int) -> torch.Tensor:
    """True for the tokens of texts of random length, at least 1: (batch, tokens)."""
    return torch.arange(tokens) < torch.randint(1, tokens + 1, (batch, 1))


@SETTINGS
@given(
    heads=st.integers(1, 4),
    head_width=st.integers(1, 8),
    wide=st.integers(1, 32),
    batch=st.integers(1, 3),
    tokens=st.integers(1, 8),
    source=st.integers(1, 8),
    masked=st.booleans(),
    need_weights=st.booleans(),
    seed=st.integers(0, 999),
)
def test_layer_equals_pytorch(
    heads, head_width, wide, batch, tokens, source, masked, need_weights, seed
):
    torch.manual_seed(seed)
    hidden = heads * head_width
    # a LayerNorm over two features magnifies rounding errors without bound: float64
    ours = DecoderLayer(hidden, heads, wide, dropout=0.0, eps=1e-5).double()
    theirs = nn.TransformerDecoderLayer(
        hidden, heads, wide, 0.0, "gelu", 1e-5, batch_first=True
    ).double()
    randomise(ours)
    copy_layer(ours, theirs)
    x = torch.randn(batch, tokens, hidden, dtype=torch.float64)
    memory = torch.randn(batch, source, hidden, dtype=torch.float64)
    causal, real, memory_real = causal_mask(tokens), padded(batch, tokens), padded(batch, source)
    expected = theirs(
        x,
        memory,
        tgt_mask=~causal if masked else None,
        tgt_key_padding_mask=~real if masked else None,
        memory_key_padding_mask=~memory_real if masked else None,
    )
    output, weights, cross_weights = ours(
        x,
        memory,
        causal & real[:, None, None, :] if masked else None,
        memory_real[:, None, None, :] if masked else None,
        need_weights,
    )
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
    if need_weights:
        assert weights.shape == (batch, heads, tokens, tokens)
        assert cross_weights.shape == (batch, heads, tokens, source)
    else:
        assert weights is None and cross_weights is None


def test_encoder_and_decoder_together_equal_nn_transformer():
    torch.manual_seed(0)
    ours = Transformer(11, 13, 2, 16, 4, 24, max_length=9, dropout=0.0).eval()
    randomise(ours.encoder)
    randomise(ours.decoder)
    theirs = nn.Transformer(
        16, 4, 2, 2, 24, 0.0, "relu", layer_norm_eps=1e-12, batch_first=True
    ).eval()
    # PyTorch puts one more LayerNorm after each stack; the paper does not
    theirs.encoder.norm = theirs.decoder.norm = nn.Identity()
    theirs.encoder.enable_nested_tensor = False
    for mine, other in zip(ours.encoder.layers, theirs.encoder.layers, strict=True):
        copy_layer(mine, other)
    for mine, other in zip(ours.decoder.layers, theirs.decoder.layers, strict=True):
        copy_layer(mine, other)
    source_real, target_real = padded(3, 8), padded(3, 6)
    source = torch.randint(1, 11, (3, 8)) * source_real
    target = torch.randint(1, 13, (3, 6)) * target_real
    decoded = theirs(
        ours.source_embedding(source),
        ours.target_embedding(target),
        tgt_mask=~causal_mask(6),
        src_key_padding_mask=~source_real,
        tgt_key_padding_mask=~target_real,
        memory_key_padding_mask=~source_real,
    )
    expected = decoded @ ours.target_embedding.table.weight.T
    torch.testing.assert_close(
        ours(source, target)[target_real], expected[target_real], atol=1e-5, rtol=1e-4
    )


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(11, 9, 2, 16, 2, 32, max_length=12, dropout=0.0).eval()


def test_no_logit_depends_on_a_later_target_token(model):
    source, target = torch.randint(3, 11, (2, 7)), torch.randint(3, 9, (2, 6))
    changed = target.clone()
    changed[:, 4] = 3 + (target[:, 4] - 2) % 6
    before, after = model(source, target), model(source, changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_every_logit_depends_on_every_source_token(model):
    source, target = torch.randint(3, 11, (1, 5)), torch.randint(3, 9, (1, 4))
    vectors = model.source_embedding(source).detach().requires_grad_()
    memory = model.encoder(vectors).last_hidden_state
    logits, _ = model.decode(target, memory, torch.ones(1, 1, 1, 5, dtype=torch.bool))
    for position in range(4):
        gradient, *_ = torch.autograd.grad(logits[0, position, 3], vectors, retain_graph=True)
        assert gradient.abs().sum(-1).gt(0).all()


def test_padding_of_source_and_target_changes_nothing(model):
    source, target = torch.randint(3, 11, (1, 5)), torch.randint(3, 9, (1, 4))
    wide_source = torch.cat([source, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    wide_target = torch.cat([target, torch.zeros(1, 2, dtype=torch.long)], dim=1)
    torch.testing.assert_close(
        model(wide_source, wide_target)[:, :4], model(source, target), atol=1e-5, rtol=1e-5
    )


def test_target_mask_is_causal_and_hides_padding():
    mask = target_mask(torch.tensor([[1, 5, 6, 0], [1, 0, 0, 0]]))
    assert mask.shape == (2, 1, 4, 4) and mask.dtype == torch.bool
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    assert mask[1, 0].int().tolist() == [[1, 0, 0, 0]] * 4
    left = target_mask(torch.tensor([[0, 1, 5]]))
    assert left[0, 0].int().tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("bad", [torch.zeros(2, 3), torch.zeros(4, dtype=torch.long)])
def test_target_mask_says_what_it_wants(bad):
    with pytest.raises(ValueError, match="token_ids must be"):
        target_mask(bad)


@SETTINGS
@given(
    heads=st.integers(1, 4),
    head_width=st.integers(1, 6),
    batch=st.integers(1, 3),
    pieces=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=st.integers(0, 999),
)
def test_cached_attention_is_causal_attention_piece_by_piece(
    heads, head_width, batch, pieces, seed
):
    torch.manual_seed(seed)
    hidden, tokens = heads * head_width, sum(pieces)
    attention = MultiHeadAttention(hidden, heads).eval()
    randomise(attention)
    x = torch.randn(batch, tokens, hidden)
    whole, _ = attention(x, x, x, causal_mask(tokens))
    outputs, past = [], None
    for piece in x.split(pieces, dim=1):
        output, past = cached_attention(attention, piece, heads, past)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole, atol=1e-5, rtol=1e-4)
    assert past.key.shape == past.value.shape == (batch, heads, tokens, head_width)


@SETTINGS
@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    batch=st.integers(1, 3),
    pieces=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 999),
)
def test_logits_with_cache_equal_those_without(layers, heads, batch, pieces, seed):
    torch.manual_seed(seed)
    model = Transformer(9, 10, layers, 8 * heads, heads, 24, max_length=20, dropout=0.3).eval()
    source = torch.randint(1, 9, (batch, 6)) * padded(batch, 6)
    target = torch.randint(1, 10, (batch, sum(pieces)))
    with torch.no_grad():
        whole, cache, logits = model(source, target), model.start(source), []
        for piece in target.split(pieces, dim=1):
            some, cache = model.step(piece, cache)
            logits.append(some)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-5, rtol=1e-4)
    assert cache.length == sum(pieces)


def test_selected_rows_of_a_cache_go_on_as_those_rows(model):
    source, target = torch.randint(3, 11, (3, 5)), torch.randint(3, 9, (3, 4))
    rows = torch.tensor([2, 0, 2, 1])
    with torch.no_grad():
        _, cache = model.step(target[:, :3], model.start(source))
        picked, _ = model.step(target[rows, 3:], cache.select(rows))
        expected = model(source[rows], target[rows])[:, 3:]
    torch.testing.assert_close(picked, expected, atol=1e-5, rtol=1e-5)


def test_tied_output_is_one_table_and_untied_two():
    tied, untied = (Transformer(11, 9, hidden_size=16, tie_output=tie) for tie in (True, False))
    count = [sum(parameter.numel() for parameter in m.parameters()) for m in (tied, untied)]
    assert tied.output.weight is tied.target_embedding.table.weight
    assert count[1] - count[0] == 9 * 16
    logits = untied.eval()(torch.randint(3, 11, (2, 4)), torch.randint(3, 9, (2, 3)))
    assert logits.shape == (2, 3, 9)


def test_tied_table_learns_from_both_of_its_uses():
    model = Transformer(11, 9, hidden_size=16, dropout=0.0)
    target = torch.tensor([[1, 3, 4]])
    model(torch.randint(3, 11, (1, 4)), target).logsumexp(-1).sum().backward()
    gradient = model.target_embedding.table.weight.grad.abs().sum(-1)
    assert gradient.gt(0).all()  # as output every row; as input only 1, 3 and 4


def test_embedding_scales_by_the_root_and_counts_positions_from_start():
    embedding = TokenEmbedding(5, 16, 10, dropout=0.0).eval()
    ids = torch.tensor([[3, 1, 4]])
    expected = embedding.table.weight[ids] * 4.0 + embedding.positions[2:5]
    torch.testing.assert_close(embedding(ids, start=2), expected)


def test_too_long_a_text_is_named():
    model = Transformer(5, 5, 1, 8, 2, 8, max_length=6)
    with pytest.raises(ValueError, match="7 tokens are more than the 6 positions"):
        model(torch.ones(1, 7, dtype=torch.long), torch.ones(1, 2, dtype=torch.long))


def test_all_parameters_get_a_gradient(model):
    logits = model(torch.randint(3, 11, (2, 5)), torch.randint(3, 9, (2, 4)))
    logits.square().mul(torch.randn(9)).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_parts_are_looked_up_when_a_layer_is_built(monkeypatch):
    class Marked(MultiHeadAttention):
        pass

    class MarkedLayer(DecoderLayer):
        pass

    monkeypatch.setattr(decoder_module, "MultiHeadAttention", Marked)
    layer = DecoderLayer(4, 1, 8)
    assert isinstance(layer.attention, Marked) and isinstance(layer.cross_attention, Marked)
    monkeypatch.setattr(decoder_module, "DecoderLayer", MarkedLayer)
    assert all(isinstance(one, MarkedLayer) for one in Decoder(2, 4, 1, 8).layers)


class ReadersAttention(torch.nn.Module):
    """Another reader's answer to lesson 01: the four layers have the names asked for, nothing else
    does."""

    def __init__(self, hidden_size, num_heads, dropout=0.0):
        super().__init__()
        self.h, self.drop = num_heads, nn.Dropout(dropout)
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(hidden_size, hidden_size))

    def forward(self, query, key, value, mask=None, need_weights=True):
        cut = lambda x: x.unflatten(-1, (self.h, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = cut(self.query(query)), cut(self.key(key)), cut(self.value(value))
        scores = q @ k.transpose(-2, -1) / k.size(-1) ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -1e9)
        weights = scores.softmax(-1)
        return self.output((self.drop(weights) @ v).transpose(1, 2).flatten(2)), weights


def test_a_readers_attention_carries_the_decoder_and_its_cache(monkeypatch):
    monkeypatch.setattr(decoder_module, "MultiHeadAttention", ReadersAttention)
    torch.manual_seed(0)
    model = Transformer(9, 10, 2, 16, 2, 24, max_length=8, dropout=0.0).eval()
    assert isinstance(model.decoder.layers[0].cross_attention, ReadersAttention)
    source, target = torch.randint(3, 9, (2, 5)), torch.randint(3, 10, (2, 6))
    with torch.no_grad():
        whole, cache, logits = model(source, target), model.start(source), []
        for token in target.split(1, dim=1):
            some, cache = model.step(token, cache)
            logits.append(some)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-5, rtol=1e-4)


def test_a_readers_cache_may_be_a_plain_pair(monkeypatch, model):
    ours = decoder_module.cached_attention
    monkeypatch.setattr(
        decoder_module,
        "cached_attention",
        lambda *args: (lambda output, pair: (output, tuple(pair)))(*ours(*args)),
    )
    source, target = torch.randint(3, 11, (3, 5)), torch.randint(3, 9, (3, 4))
    with torch.no_grad():
        _, cache = model.step(target[:, :3], model.start(source))
        picked, _ = model.step(target[:, 3:], cache.select(torch.tensor([0, 1, 2])))
        torch.testing.assert_close(picked, model(source, target)[:, 3:], atol=1e-5, rtol=1e-5)


def test_heads_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="divide"):
        DecoderLayer(8, 3, 16)
