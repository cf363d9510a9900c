"""Lesson 04, BERT from the inside: its exercises, their known mistakes, and its claims."""

import torch
from torch import nn

from course_utils import bert, wordpiece
from course_utils.bert import BertConfig
from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise, fill_
from course_utils.layers import LayerNorm

# --- wordpiece/longest-match ----------------------------------------------------------------------


def longest_match_stub(word, vocab, unknown="[UNK]", max_characters=100):
    """word (text), vocab (a set of pieces) → its pieces (list of text): from the left, each time
    the longest one that vocab has, "##" before all but the first. [unknown] if nothing fits at some
    place, or if the word has more than max_characters.
    """
    raise NotImplementedError("your turn")


_PIECES = frozenset(
    "un mask token able play 7 a b ab abc x ##x t task "
    "##mask ##masked ##ed ##e ##d ##s ##ization ##ize ##iz ##er ##b ##c ##cd ##bcd ##d ##ask "
    "##askx ##sk kl ##mn ##lmn op opq ##qr # A".split()  # "#" itself is a piece, as in BERT's
)


def _cut(*words, **more):
    return lambda implementation: [implementation(word, _PIECES, **more) for word in words]


def _cut_greedily(word, vocab, unknown, piece_of):
    pieces, rest = [], word
    while rest:
        piece = piece_of(rest, "##" if pieces else "")
        if piece is None:
            return [unknown]
        pieces.append(piece[0])
        rest = rest[piece[1] :]
    return pieces


def _shortest_first(word, vocab, unknown="[UNK]", max_characters=100):
    if len(word) > max_characters:
        return [unknown]

    def piece_of(rest, mark):
        found = (n for n in range(1, len(rest) + 1) if mark + rest[:n] in vocab)
        n = next(found, None)
        return n and (mark + rest[:n], n)

    return _cut_greedily(word, vocab, unknown, piece_of)


def _look_up_without_marks(word, vocab, unknown="[UNK]", max_characters=100):
    if len(word) > max_characters:
        return [unknown]

    def piece_of(rest, mark):
        n = next((n for n in range(len(rest), 0, -1) if rest[:n] in vocab), None)
        return n and (mark + rest[:n], n)

    return _cut_greedily(word, vocab, unknown, piece_of)


def _return_without_marks(word, vocab, unknown="[UNK]", max_characters=100):
    return [p.removeprefix("##") for p in _right(word, vocab, unknown, max_characters)]


def _right(word, vocab, unknown="[UNK]", max_characters=100):
    return wordpiece.longest_match(word, vocab, unknown, max_characters)


def _unknown_rest(word, vocab, unknown="[UNK]", max_characters=100, skip_one=False):
    if len(word) > max_characters:
        return [unknown]
    pieces, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if mark + word[start:end] in vocab), None)
        pieces.append(unknown if end is None else mark + word[start:end])
        start = end or (start + 1 if skip_one else len(word))
    return pieces


def _unknown_character(word, vocab, unknown="[UNK]", max_characters=100):
    return _unknown_rest(word, vocab, unknown, max_characters, skip_one=True)


def _known_start_only(word, vocab, unknown="[UNK]", max_characters=100):
    pieces = _unknown_rest(word, vocab, unknown, max_characters)
    return pieces[:-1] if len(pieces) > 1 and pieces[-1] == unknown else pieces


def _no_limit(word, vocab, unknown="[UNK]", max_characters=100):
    return _right(word, vocab, unknown, len(word))


def _limit_too_early(word, vocab, unknown="[UNK]", max_characters=100):
    return _right(word, vocab, unknown, max_characters - 1)


def _cut_off_at_limit(word, vocab, unknown="[UNK]", max_characters=100):
    return _right(word[:max_characters], vocab, unknown, max_characters)


def _text_for_unknown(word, vocab, unknown="[UNK]", max_characters=100):
    pieces = _right(word, vocab, unknown, max_characters)
    return unknown if pieces == [unknown] else pieces


def _fixed_unknown(word, vocab, unknown="[UNK]", max_characters=100):
    return _right(word, vocab, "[UNK]", max_characters)


def _fewest_pieces(word, vocab, unknown="[UNK]", max_characters=100):
    """Not greedy: of all ways to cut the word one with the fewest pieces."""
    if len(word) > max_characters:
        return [unknown]
    best = {0: []}
    for end in range(1, len(word) + 1):
        ways = [
            best[start] + [("##" if start else "") + word[start:end]]
            for start in range(end)
            if start in best and ("##" if start else "") + word[start:end] in vocab
        ]
        if ways:
            best[end] = min(ways, key=len)
    return best.get(len(word), [unknown])


def _backtracks(word, vocab, unknown="[UNK]", max_characters=100):
    """Goes back to a shorter piece where the longest leads to a dead end."""
    if len(word) > max_characters:
        return [unknown]

    def cut(start):
        if start == len(word):
            return []
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            rest = cut(end) if piece in vocab else None
            if rest is not None:
                return [piece, *rest]
        return None

    return cut(0) or [unknown]


def _lowercases(word, vocab, unknown="[UNK]", max_characters=100):
    return _right(word.lower(), vocab, unknown, max_characters)


def _from_the_right(word, vocab, unknown="[UNK]", max_characters=100):
    """The longest ending first."""
    if len(word) > max_characters:
        return [unknown]
    pieces, end = [], len(word)
    while end:
        starts = (s for s in range(end) if ("##" if s else "") + word[s:end] in vocab)
        start = next(starts, None)
        if start is None:
            return [unknown]
        pieces.insert(0, ("##" if start else "") + word[start:end])
        end = start
    return pieces


LONGEST_MATCH = Exercise(
    id="wordpiece/longest-match",
    lesson="04",
    title="The longest match",
    difficulty=2,
    minutes=15,
    reference=wordpiece.longest_match,
    stub=longest_match_stub,
    cases=[
        Case("words that the vocabulary has whole", _cut("mask", "play", "a", "7")),
        Case("pieces after the first carry ##", _cut("tokenization", "masked", "unmasked")),
        Case("the longest, not the shortest: abc, not a", _cut("abc", "abcd", "abbb")),
        Case("what begins a word does not continue one", _cut("playable", "untoken")),
        Case("nothing fits: the whole word is unknown", _cut("maskq", "q", "unqed", "tokenq")),
        Case("no way back from a longest match that leads nowhere", _cut("opqr")),
        Case("capital letters are looked up as they are", _cut("A", "Ab", "aB")),
        Case("the caller's own word for unknown", _cut("maskq", "a", unknown="?")),
        Case(
            "left to right, even where another cut would do",
            _cut("abcd", "taskx", "unmasked", "klmn"),
        ),
        Case(
            "100 characters are read, 101 are not",
            _cut("a" + "b" * 99, "a" + "b" * 100, "x" * 50, "x" * 200),
        ),
        Case("another limit", _cut("mask", "masks", "masked", max_characters=5)),
        Case("the pieces are a list", lambda f: type(f("masked", _PIECES)).__name__),
    ],
    hints=[
        "Keep a place `start` in the word. From there, try the longest end first: "
        "range(len(word), start, -1).",
        'At start 0 you look up word[start:end], later "##" + word[start:end]. Found: keep the '
        "piece and set start = end.",
        "If no end fits, return [unknown] at once: what you have cut so far is thrown away. "
        "Python's "
        "for … else is made for this.",
    ],
    mistakes=[
        Mistake(
            _shortest_first,
            "You took the shortest piece that fits. Try the ends from the far one to the near one.",
        ),
        Mistake(
            _look_up_without_marks,
            'You looked pieces up without "##" and wrote it on afterwards: "able" begins words, '
            '"##able" would continue them, and the vocabulary has them apart.',
        ),
        Mistake(
            _return_without_marks,
            'The pieces are right, the "##" is missing from what you return: ids belong to pieces '
            "with it.",
        ),
        Mistake(
            _unknown_rest,
            "You kept the pieces before the place where nothing fits. The whole word becomes one "
            "unknown.",
        ),
        Mistake(
            _unknown_character,
            "You put unknown in for one character and went on. The whole word becomes one unknown.",
        ),
        Mistake(
            _known_start_only,
            "You dropped the rest of the word without a trace where nothing fits; the answer is "
            "[unknown].",
        ),
        Mistake(
            _backtracks,
            "You went back to a shorter piece where the longest led to a dead end. BERT does not: "
            "[unknown].",
        ),
        Mistake(
            _lowercases,
            "You lowercased the word. Casing is decided before this step; look it up as it is.",
        ),
        Mistake(_no_limit, "max_characters is not used: a longer word is [unknown]."),
        Mistake(
            _limit_too_early,
            "A word of exactly max_characters is still read: only *more* are too many.",
        ),
        Mistake(
            _cut_off_at_limit,
            "You cut a long word off at max_characters; it should become [unknown] whole.",
        ),
        Mistake(_text_for_unknown, "Return a list also for an unknown word: [unknown]."),
        Mistake(_fixed_unknown, 'You wrote "[UNK]" out; use the argument `unknown`.'),
        Mistake(
            _fewest_pieces,
            "You searched for the fewest pieces. BERT is greedier: at each place the longest, even "
            "if the rest then needs more pieces, or does not fit at all.",
        ),
        Mistake(
            _from_the_right,
            "You began at the end of the word. BERT begins at its start, and that gives other "
            "pieces.",
        ),
    ],
)

# --- bert/embeddings ------------------------------------------------------------------------------


class EmbeddingsStub(nn.Module):
    """input_ids, token_type_ids (batch, tokens) → (batch, tokens, hidden_size): token, position and
    segment embedding added up, then `norm`, then `dropout`. Without token_type_ids all are 0.
    """

    def __init__(self, config):
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segment = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids, token_type_ids=None):
        raise NotImplementedError("your turn")


_SMALL = dict(
    vocab_size=20, hidden_size=6, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
    max_position_embeddings=9, type_vocab_size=3,
)  # fmt: skip
_IDS = torch.tensor([[2, 7, 7, 3, 0], [2, 19, 5, 11, 3]])
_SEGMENTS = torch.tensor([[0, 0, 1, 1, 0], [1, 0, 2, 2, 1]])


def _embed(ids, segments=None, dropout=0.0, train=False, dtype=torch.float32, hidden=6):
    def run(implementation):
        config = BertConfig(**{**_SMALL, "hidden_size": hidden}, hidden_dropout_prob=dropout)
        module = fill_(implementation(config), seed=1).to(dtype).train(train)
        return module(ids) if segments is None else module(ids, segments)

    return run


def _embed_half_dropped(implementation):
    config = BertConfig(**{**_SMALL, "hidden_size": 16}, hidden_dropout_prob=0.5)
    module = fill_(implementation(config), seed=2)
    ids = torch.arange(20).repeat(20)[: 60 * 6].view(60, 6)
    whole, left = module(ids), module.train()(ids)  # 60 · 6 · 16 numbers
    return {
        "zeros, to the nearest quarter": round(4 * (left == 0).double().mean().item()) / 4,
        "what is left is doubled": bool(((left == 0) | left.isclose(2 * whole, 1e-4, 1e-5)).all()),
    }


def _embed_gradients(implementation):
    module = fill_(implementation(BertConfig(**_SMALL)), seed=3)
    module(_IDS, _SEGMENTS).pow(3).sum().backward()
    return {name: p.grad for name, p in sorted(module.named_parameters())}


class _Sum(EmbeddingsStub):
    """Each mistake says its own `summed`, or more."""

    def forward(self, input_ids, token_type_ids=None):
        segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        return self.end(self.summed(input_ids, segments))

    def end(self, summed):
        return self.dropout(self.norm(summed))

    def places(self, input_ids):
        return self.position.weight[: input_ids.shape[1]]

    def summed(self, input_ids, segments):
        return self.token(input_ids) + self.places(input_ids) + self.segment(segments)


class _SumNoPositions(_Sum):
    def summed(self, input_ids, segments):
        return self.token(input_ids) + self.segment(segments)


class _SumNoSegments(_Sum):
    def summed(self, input_ids, segments):
        return self.token(input_ids) + self.places(input_ids)


class _SumTokensOnly(_Sum):
    def summed(self, input_ids, segments):
        return self.token(input_ids)


class _SumFromOne(_Sum):
    def places(self, input_ids):
        return self.position.weight[1 : input_ids.shape[1] + 1]


class _SumPositionOfSentence(_Sum):
    def places(self, input_ids):
        return self.position.weight[: len(input_ids), None]  # (batch, 1, hidden)


class _SumPositionOfToken(_Sum):
    def places(self, input_ids):
        return self.position(input_ids.clamp(max=8))


class _SumScaled(_Sum):
    def summed(self, input_ids, segments):
        scale = self.token.embedding_dim**0.5
        return self.token(input_ids) * scale + self.places(input_ids) + self.segment(segments)


class _SumNoNorm(_Sum):
    def end(self, summed):
        return self.dropout(summed)


class _SumNormOfTokens(_Sum):
    def forward(self, input_ids, token_type_ids=None):
        segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        rest = self.places(input_ids) + self.segment(segments)
        return self.dropout(self.norm(self.token(input_ids)) + rest)


class _SumDropoutFirst(_Sum):
    def end(self, summed):
        return self.norm(self.dropout(summed))


class _SumNoDropout(_Sum):
    def end(self, summed):
        return self.norm(summed)


class _SumDroppedTwice(_Sum):
    def end(self, summed):
        return self.dropout(self.dropout(self.norm(summed)))


class _SumSegmentsOfOne(_Sum):
    def forward(self, input_ids, token_type_ids=None):
        given = torch.ones_like(input_ids) if token_type_ids is None else token_type_ids
        return super().forward(input_ids, given)


class _SumSegmentsIgnored(_Sum):
    def forward(self, input_ids, token_type_ids=None):
        return super().forward(input_ids)


class _SumNoDefaultSegment(_Sum):
    def forward(self, input_ids, token_type_ids=None):
        if token_type_ids is not None:
            return super().forward(input_ids, token_type_ids)
        return self.end(self.token(input_ids) + self.places(input_ids))


EMBEDDINGS = Exercise(
    id="bert/embeddings",
    lesson="04",
    title="The input embeddings",
    difficulty=2,
    minutes=10,
    reference=bert.BertEmbeddings,
    stub=EmbeddingsStub,
    cases=[
        Case("two sentences in three segments", _embed(_IDS, _SEGMENTS)),
        Case("without token_type_ids", _embed(_IDS)),
        Case("one token", _embed(_IDS[:1, :1])),
        Case("as many tokens as there are positions", _embed(torch.arange(9)[None])),
        Case("three sentences of two tokens", _embed(torch.tensor([[1, 2], [2, 1], [4, 4]]))),
        Case("a longer text, float64", _embed(_IDS.repeat(2, 1), dtype=torch.float64, hidden=8)),
        Case("dropout of everything, in training", _embed(_IDS, _SEGMENTS, 1.0, train=True)),
        Case("dropout ½, in training", _embed_half_dropped),
        Case("dropout ½, in eval", _embed(_IDS, _SEGMENTS, 0.5)),
        Case("gradients", _embed_gradients),
    ],
    hints=[
        "Positions are 0, 1, 2, … for every sentence: torch.arange(input_ids.size(1)), on the "
        "device "
        "of input_ids.",
        "(batch, tokens, hidden) + (tokens, hidden) adds the same positions to each sentence. "
        "torch.zeros_like(input_ids) makes the missing segment ids.",
        "return self.dropout(self.norm(self.token(input_ids) + self.segment(…) + "
        "self.position(…)))",
    ],
    mistakes=[
        Mistake(_SumTokensOnly, "Position and segment embedding are missing: three look-ups."),
        Mistake(_SumNoPositions, "The position embedding is missing."),
        Mistake(_SumNoSegments, "The segment embedding is missing."),
        Mistake(_SumFromOne, "Your positions begin at 1 (RoBERTa's even at 2); BERT's begin at 0."),
        Mistake(
            _SumPositionOfSentence,
            "You counted positions along the batch: input_ids is (batch, tokens), so take size(1).",
        ),
        Mistake(
            _SumPositionOfToken,
            "You looked positions up by the token's id; a position is where the token stands.",
        ),
        Mistake(
            _SumScaled,
            "You multiplied the token embedding by √hidden_size, as the original Transformer does; "
            "BERT does not.",
        ),
        Mistake(_SumNoNorm, "The LayerNorm is missing: norm, then dropout."),
        Mistake(
            _SumNormOfTokens, "You normalised the token embedding alone; normalise the sum of all."
        ),
        Mistake(_SumDropoutFirst, "You dropped before the norm; BERT drops after it."),
        Mistake(_SumNoDropout, "In training nothing is dropped: end with self.dropout."),
        Mistake(_SumDroppedTwice, "You dropped twice: once is enough."),
        Mistake(_SumSegmentsOfOne, "Without token_type_ids every token is in segment 0, not 1."),
        Mistake(_SumSegmentsIgnored, "token_type_ids are given and not used."),
        Mistake(
            _SumNoDefaultSegment,
            "Without token_type_ids you added no segment vector at all. Segment 0 has one too, and "
            "BERT always adds it.",
        ),
    ],
)

# --- bert/extended-mask ---------------------------------------------------------------------------


def extended_mask_stub(attention_mask, dtype=torch.float32):
    """attention_mask (batch, keys), 1 = a token, 0 = padding → (batch, 1, 1, keys) of dtype, to be
    added to the scores: 0 for a token, dtype's lowest finite number for padding
    """
    raise NotImplementedError("your turn")


_ROWS = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])


def _mask_softmax(implementation):
    scores = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    return (scores + implementation(_ROWS)).softmax(-1)


def _mask_form(implementation):
    mask = implementation(_ROWS)
    return list(mask.shape), str(mask.dtype), mask.flatten().tolist()


def _lowest(attention_mask, dtype=torch.float32):
    return (1 - attention_mask.to(dtype))[:, None, None, :] * torch.finfo(dtype).min


def _mask_ten_thousand(attention_mask, dtype=torch.float32):
    return (1 - attention_mask.to(dtype))[:, None, None, :] * -10_000


def _mask_infinite(attention_mask, dtype=torch.float32):
    zeros = torch.zeros(attention_mask.shape, dtype=dtype)
    return zeros.masked_fill(~attention_mask.bool(), float("-inf"))[:, None, None, :]


def _mask_upside_down(attention_mask, dtype=torch.float32):
    return attention_mask.to(dtype)[:, None, None, :] * torch.finfo(dtype).min


def _mask_highest(attention_mask, dtype=torch.float32):
    return (1 - attention_mask.to(dtype))[:, None, None, :] * torch.finfo(dtype).max


def _mask_tiny(attention_mask, dtype=torch.float32):
    return (1 - attention_mask.to(dtype))[:, None, None, :] * torch.finfo(dtype).tiny


def _mask_two_axes(attention_mask, dtype=torch.float32):
    return _lowest(attention_mask, dtype)[:, 0, 0]


def _mask_three_axes(attention_mask, dtype=torch.float32):
    return _lowest(attention_mask, dtype)[:, 0]


def _mask_of_queries(attention_mask, dtype=torch.float32):
    return _lowest(attention_mask, dtype).transpose(-2, -1)


def _mask_square(attention_mask, dtype=torch.float32):
    keys = attention_mask.shape[1]
    return _lowest(attention_mask, dtype).expand(-1, 1, keys, keys)


def _mask_one_dtype(attention_mask, dtype=torch.float32):
    return _lowest(attention_mask)


def _mask_overflow(attention_mask, dtype=torch.float32):
    zeros = torch.zeros(attention_mask.shape)
    wide = zeros.masked_fill(~attention_mask.bool(), torch.finfo(torch.float32).min)
    return wide.to(dtype)[:, None, None, :]


def _mask_bool(attention_mask, dtype=torch.float32):
    return attention_mask.bool()[:, None, None, :]


def _mask_ones(attention_mask, dtype=torch.float32):
    return attention_mask.to(dtype)[:, None, None, :]


EXTENDED_MASK = Exercise(
    id="bert/extended-mask",
    lesson="04",
    title="The extended attention mask",
    difficulty=2,
    minutes=10,
    reference=bert.extended_attention_mask,
    stub=extended_mask_stub,
    cases=[
        Case("three sentences, form and numbers", _mask_form),
        Case("added to scores, then softmax", _mask_softmax),
        Case("float16", lambda f: f(_ROWS, torch.float16)),
        Case("bfloat16", lambda f: f(_ROWS, dtype=torch.bfloat16).float()),
        Case("a boolean mask", lambda f: f(_ROWS.bool())),
        Case("a mask of 32-bit integers, float64", lambda f: f(_ROWS.int(), torch.float64)),
        Case("one sentence of one token", lambda f: f(torch.ones(1, 1, dtype=torch.long))),
        Case("padding alone: softmax spreads evenly", lambda f: f(0 * _ROWS[:1]).softmax(-1)),
    ],
    hints=[
        "torch.finfo(dtype).min is the lowest finite number of a dtype. It is padding that gets "
        "it.",
        "Indexing with None adds an axis: attention_mask[:, None, None, :].",
        "torch.zeros(…, dtype=dtype).masked_fill(padding, torch.finfo(dtype).min), where padding "
        "is "
        "~attention_mask.bool()[:, None, None, :].",
    ],
    mistakes=[
        Mistake(
            _mask_ten_thousand,
            "You added −10,000, as Google's code does. It works while scores stay small; asked for "
            "is the lowest number of the dtype.",
        ),
        Mistake(
            _mask_infinite,
            "Minus infinity: a row of padding alone then gives NaN. Take the lowest finite number.",
        ),
        Mistake(_mask_upside_down, "Upside down: it is padding that must be pushed away."),
        Mistake(_mask_highest, "Padding got the highest number: now it takes all the attention."),
        Mistake(
            _mask_tiny,
            "finfo.tiny is the smallest *positive* number, next to nothing; finfo.min is the "
            "lowest.",
        ),
        Mistake(
            _mask_two_axes,
            "The shape came out {shape}: heads and queries need an axis each, (batch, 1, 1, keys).",
        ),
        Mistake(
            _mask_three_axes,
            "Three axes, {shape}: added to (batch, heads, queries, keys), the batch would meet the "
            "heads. One more None.",
        ),
        Mistake(
            _mask_of_queries,
            "Your keys stand on the query axis: padding must be hidden as a key, the last axis.",
        ),
        Mistake(
            _mask_square,
            "You wrote the mask out for every query; axes of size 1 broadcast, (batch, 1, 1, "
            "keys).",
        ),
        Mistake(_mask_one_dtype, "dtype is not used: the result is float32 whatever is asked for."),
        Mistake(
            _mask_overflow,
            "You took float32's lowest number and converted it: in float16 that is −infinity. Take "
            "that of the dtype.",
        ),
        Mistake(
            _mask_bool,
            "That is lesson 01's mask, True and False. This one is a number, to be added.",
        ),
        Mistake(
            _mask_ones,
            "Ones and zeros, added to scores, prefer tokens a little; they do not hide padding.",
        ),
    ],
)

# --- bert/pooler ----------------------------------------------------------------------------------


class PoolerStub(nn.Module):
    """hidden_states (batch, tokens, hidden_size) → (batch, hidden_size): the first token's vector
    through `dense`, then tanh
    """

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states):
        raise NotImplementedError("your turn")


def _pool(*shape, dtype=torch.float32):
    def run(implementation):
        config = BertConfig(**{**_SMALL, "hidden_size": shape[-1]})
        module = fill_(implementation(config), seed=4).to(dtype)
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=dtype)
        return module(x)

    return run


class _PoolNoTanh(PoolerStub):
    def forward(self, hidden_states):
        return self.dense(hidden_states[:, 0])


class _PoolNoDense(PoolerStub):
    def forward(self, hidden_states):
        return torch.tanh(hidden_states[:, 0])


class _PoolTanhFirst(PoolerStub):
    def forward(self, hidden_states):
        return self.dense(torch.tanh(hidden_states[:, 0]))


class _PoolMean(PoolerStub):
    def forward(self, hidden_states):
        return torch.tanh(self.dense(hidden_states.mean(1)))


class _PoolMax(PoolerStub):
    def forward(self, hidden_states):
        return torch.tanh(self.dense(hidden_states.amax(1)))


class _PoolLast(PoolerStub):
    def forward(self, hidden_states):
        return torch.tanh(self.dense(hidden_states[:, -1]))


class _PoolFirstSentence(PoolerStub):
    def forward(self, hidden_states):
        return torch.tanh(self.dense(hidden_states[0]))


class _PoolAllTokens(PoolerStub):
    def forward(self, hidden_states):
        return torch.tanh(self.dense(hidden_states))


class _PoolKeepAxis(PoolerStub):
    def forward(self, hidden_states):
        return torch.tanh(self.dense(hidden_states[:, :1]))


class _PoolSigmoid(PoolerStub):
    def forward(self, hidden_states):
        return torch.sigmoid(self.dense(hidden_states[:, 0]))


class _PoolNormed(PoolerStub):
    def forward(self, hidden_states):
        x = self.dense(hidden_states[:, 0])
        return x / x.norm(dim=-1, keepdim=True)


POOLER = Exercise(
    id="bert/pooler",
    lesson="04",
    title="The pooler",
    difficulty=1,
    minutes=5,
    reference=bert.Pooler,
    stub=PoolerStub,
    cases=[
        Case("two sentences of three tokens", _pool(2, 3, 6)),
        Case("one sentence of one token", _pool(1, 1, 4)),
        Case("three sentences of two tokens, float64", _pool(3, 2, 8, dtype=torch.float64)),
    ],
    hints=[
        "hidden_states[:, 0] is the first token of every sentence.",
        "torch.tanh(self.dense(…)) of it.",
    ],
    mistakes=[
        Mistake(_PoolNoTanh, "The tanh is missing: each number must end between −1 and 1."),
        Mistake(_PoolNoDense, "self.dense is not used: first the linear layer, then tanh."),
        Mistake(_PoolTanhFirst, "tanh came first: linear layer, then tanh."),
        Mistake(
            _PoolMean,
            "You averaged the tokens. That is mean pooling; BERT's pooler reads the first token "
            "only.",
        ),
        Mistake(_PoolMax, "You took the largest of each feature; take the first token."),
        Mistake(_PoolLast, "You took the last token; [CLS] is the first."),
        Mistake(
            _PoolFirstSentence,
            "hidden_states[0] is the first *sentence*. The first token of every sentence is [:, "
            "0].",
        ),
        Mistake(
            _PoolAllTokens,
            "The shape came out {shape}: all tokens are still there. Take the first, [:, 0].",
        ),
        Mistake(
            _PoolKeepAxis,
            "The shape came out {shape}: [:, :1] keeps the axis of tokens, [:, 0] removes it.",
        ),
        Mistake(_PoolSigmoid, "That is sigmoid, between 0 and 1; BERT takes tanh."),
        Mistake(_PoolNormed, "You gave each vector length 1; BERT takes tanh of every number."),
    ],
)

# --- bert/weight-map ------------------------------------------------------------------------------

# As in the lesson: one layer's lines; the fifth reads the wrong tensor.
COLLEAGUES_MAP = [
    ("attention.query", "attention.self.query"),
    ("attention.key", "attention.self.key"),
    ("attention.value", "attention.self.value"),
    ("attention.output", "attention.output.dense"),
    ("attention_norm", "output.LayerNorm"),
    ("feed_forward.expand", "intermediate.dense"),
    ("feed_forward.contract", "output.dense"),
    ("feed_forward_norm", "output.LayerNorm"),
]
_HOMES = [ours for ours, _ in COLLEAGUES_MAP]
_SOURCES = [
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
]  # fmt: skip


def mended_line():
    """→ (ours, theirs), two texts: the wrong line of COLLEAGUES_MAP, as it should read"""
    return "attention_norm", "attention.output.LayerNorm"


def mended_line_stub():
    """→ (ours, theirs), two texts: the wrong line of COLLEAGUES_MAP, as it should read"""
    raise NotImplementedError("your turn")


def _mended_map(implementation):
    """What the map does with the line put in: pairs of places (ours, theirs), −1 for unknown."""
    ours, theirs = implementation()
    mended = [(o, theirs if o == ours else t) for o, t in COLLEAGUES_MAP]
    place = {name: i for i, name in enumerate(_SOURCES)}
    return [place.get(t, -1) for _, t in mended]


WEIGHT_MAP = Exercise(
    id="bert/weight-map",
    lesson="04",
    title="Mend one line of a weight map",
    difficulty=2,
    minutes=10,
    reference=mended_line,
    stub=mended_line_stub,
    installs=False,
    cases=[
        Case("the line", lambda f: tuple(f())),
        Case("the map with that line: which tensor goes where", _mended_map),
    ],
    hints=[
        "Embeddings and the first attention weights are right, so embeddings, query and key are "
        "loaded well. What computes the layer's output from there?",
        "A file of eight tensors a layer, a map of eight lines: which tensor does no line read, "
        "and "
        "which is read twice?",
        "attention.output.LayerNorm is the norm after attention; output.LayerNorm, without "
        "attention "
        "in front, the one after the feed-forward part.",
    ],
    mistakes=[
        Mistake(
            lambda: ("feed_forward_norm", "output.LayerNorm"),
            "This line is right as it stands: output.LayerNorm, without attention in front, "
            "follows "
            "the feed-forward part. But you are close: another line reads the same tensor.",
        ),
        Mistake(
            lambda: ("feed_forward_norm", "attention.output.LayerNorm"),
            "Now attention_norm still reads output.LayerNorm, and the second norm reads the first "
            "one's tensor: the two are exchanged. It was the line of attention_norm.",
        ),
        Mistake(
            lambda: ("attention_norm", "output.LayerNorm"),
            "This is the wrong line, but as it stood. Which tensor should it read?",
        ),
        Mistake(
            lambda: ("attention_norm", "attention.LayerNorm"),
            "The right line, but the file has no such tensor: it is attention.output.LayerNorm.",
        ),
        Mistake(
            lambda: ("attention_norm", "attention.self.LayerNorm"),
            "The right line, but under attention.self there are only query, key and value: it is "
            "attention.output.LayerNorm.",
        ),
        Mistake(
            lambda: ("attention.output.LayerNorm", "attention_norm"),
            "The right line, the wrong way round: ours first, theirs second.",
        ),
        Mistake(
            lambda: ("attention.value", "attention.self.value"),
            "This line is right. It is a fair suspicion: a wrong value leaves the attention "
            "weights "
            "right as well.",
        ),
        Mistake(
            lambda: ("attention.output", "attention.output.dense"),
            "This line is right. Look at what follows the attention's output in the layer.",
        ),
        Mistake(
            lambda: ("attention.key", "attention.self.key"),
            "This line is right: with a wrong key the first attention weights would be off, and "
            "they "
            "are not.",
        ),
        Mistake(
            lambda: ("attention.query", "attention.self.query"),
            "This line is right: with a wrong query the first attention weights would be off, and "
            "they are not.",
        ),
        Mistake(
            lambda: ("feed_forward.expand", "intermediate.dense"),
            "This line is right: no other tensor of a layer has that shape.",
        ),
        Mistake(
            lambda: ("feed_forward.contract", "output.dense"),
            "This line is right: the narrowing matrix, 384 × 1536, is the only one of its shape.",
        ),
    ],
)

# --- bert/explain-a-head, open --------------------------------------------------------------------

EXPLAIN_A_HEAD = OpenExercise(
    id="bert/explain-a-head",
    lesson="04",
    title="Explain one attention head",
    difficulty=4,
    minutes=25,
    task="The real encoder has 6 · 12 = 72 heads. Choose one other than layer 0, head 2. Say in "
    "one "
    "sentence what it looks at, find a number that would show you wrong, measure it on at least 40 "
    "sentences of the docs corpus, and try one change of the input that should break it.",
    hints=[
        'draw_attention(attentions, tokens, view="lines") has a slider for layer and head. Good '
        "ones "
        "to begin with: layer 1 head 8, layer 2 head 11, layer 3 head 1, layer 4 head 9.",
        "Does it look at a place (the token before, the token behind, the first) or at a content "
        "(a "
        "pronoun's noun, the same word again)? Shuffle the words: a head of places does not mind.",
        "Say what the head does when it has nothing to do. Many heads of this encoder then look at "
        "[CLS].",
    ],
    rubric=[
        "One sentence that could be wrong, written before the measurement.",
        "A mean over many sentences, not one picture, beside what an even spread would give.",
        "A change of the input (words shuffled, positions reversed, a word replaced) and what it "
        "did.",
        "The tokens for which the sentence does not hold, and where these look instead.",
        "No word about what the model *understands*: attention says where a head reads, not what "
        "for.",
    ],
    answer="""**Layer 1, head 8: "it looks at the next token."** An even spread over 25 tokens
would give it 4 %.

```python
@torch.no_grad()
def weight_on_neighbour(step, layer, head, change=lambda ids: ids, sentences=sentences[:40]):
    found = []
    for text in sentences:
        ids = change(tokenizer([text])["input_ids"])
        weights = bert(ids).attentions[layer][0, head, 1:-1, 1:-1]  # without [CLS] and [SEP]
        found.append(weights.diagonal(step).mean())
    return torch.stack(found).mean().item()

def shuffled(ids):
    return ids[:, [0, *(torch.randperm(ids.shape[1] - 2) + 1).tolist(), -1]]

print(weight_on_neighbour(1, 1, 8), weight_on_neighbour(1, 1, 8, shuffled))
```

| layer 1, head 8, 40 sentences of 13 to 29 words | weight on the next token |
| --- | --- |
| as written | 0.69 |
| words shuffled | 0.71 |
| position vectors 1 to 511 in reverse order | 0.00; on the token *before*: 0.76 |
| the same position vector everywhere | 0.04, the even spread |

So it is a head of places: the order of the position vectors decides, the words hardly do. The
sentence is not the whole truth, though. In "The bank raised the interest rate, and the customers
who had loans paid more." these give most of their weight to [CLS] instead: *bank*, *customers*,
*loans*, nouns at the end of their phrase. "The next token, unless this token ends a noun phrase;
then [CLS]" is the better sentence, and the next one to measure.

Layer 4, head 9 is the opposite case: nearly every token looks at [CLS], *interest* looks at *rate*
with 0.85. And in "The animal did not cross the street because it was too tired." layer 3, head 1
sends *it* to *animal* with 0.69; whether it does so for other pronouns takes a list of sentences
with known answers (Clark and others 2019, section 4.3).""",
)

EXERCISES = [LONGEST_MATCH, EMBEDDINGS, EXTENDED_MASK, POOLER, WEIGHT_MAP, EXPLAIN_A_HEAD]


# --- Claims ---------------------------------------------------------------------------------------


def _judge_ratio(by_count: float, by_ratio: float) -> Verdict:
    """pieces for a word of unseen text, by two vocabularies of one size"""
    if by_ratio < 1.1 * by_count:
        return Verdict(True, "the ratio makes as good a vocabulary as counting does.")
    return Verdict(
        False,
        "taken at its word, the ratio merges rare pairs first, and unseen text falls into far more "
        "pieces. Google never published its rule; the tokenizers library counts.",
    )


def _judge_positions(learned: float, sinusoidal: float, none: float) -> Verdict:
    """accuracies on a task that needs positions"""
    if learned > sinusoidal + 0.02:
        return Verdict(True, "with learned positions the task is solved better.")
    without = ", and without positions it is not" if none < 0.5 else ""
    return Verdict(
        False,
        f"with sinusoidal positions the task is solved as well{without}. The Transformer paper "
        "found the same; BERT never reads beyond 512 tokens, so a table is enough.",
    )


def _judge_loads(complaints: int, difference: float) -> Verdict:
    """what the loader reported, and the largest difference of the outputs"""
    if complaints == 0 and difference < 1e-4:
        return Verdict(True, "every tensor found its place, and the outputs are right.")
    if complaints:
        return Verdict(True, "the loader named what was wrong.")
    return Verdict(
        False,
        "every tensor found a place of its shape, no error, and the outputs are wrong. Only "
        "comparing outputs shows it.",
    )


def _judge_sharing(parameters: float, operations: float) -> Verdict:
    """ALBERT's share of BERT's parameters and of its operations"""
    if operations < 0.9:
        return Verdict(True, "with shared layers there is less to compute.")
    return Verdict(
        False,
        "sharing shrinks what is stored, not what is computed: each layer still runs, with the "
        "same "
        "matrices.",
    )


CLAIMS = [
    Claim(
        id="wordpiece/ratio",
        statement="WordPiece merges the pair with the highest count(ab) / (count(a) · count(b)).",
        source="tutorials",
        judge=_judge_ratio,
        holds=dict(by_count=1.6, by_ratio=1.5),
        fails=dict(by_count=1.6, by_ratio=3.3),
    ),
    Claim(
        id="bert/learned-positions",
        statement="Learned positions are better than sinusoidal ones.",
        source="goes round",
        judge=_judge_positions,
        holds=dict(learned=1.0, sinusoidal=0.7, none=0.3),
        fails=dict(learned=1.0, sinusoidal=1.0, none=0.3),
    ),
    Claim(
        id="bert/it-loads",
        statement="If every tensor finds its place, the weights are right.",
        source="goes round",
        judge=_judge_loads,
        holds=dict(complaints=0, difference=2e-6),
        fails=dict(complaints=0, difference=5.0),
    ),
    Claim(
        id="bert/albert-faster",
        statement="ALBERT has an eighteenth of BERT's parameters, so it runs faster.",
        source="goes round",
        judge=_judge_sharing,
        holds=dict(parameters=0.2, operations=0.5),
        fails=dict(parameters=0.2, operations=1.0),
    ),
]
