"""Lesson 05, pretraining with MLM and NSP: its exercises, their known mistakes, and its claims.

Masking and drawing pairs are random, and a right answer may draw in any order. So these cases do
not compare draws: they count, and round the shares so coarsely that chance can not cross an edge
(5 standard deviations at least).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from course_utils import pretraining
from course_utils.bert import ACTIVATIONS, BertConfig
from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise, fill_
from course_utils.layers import LayerNorm, activation_function
from course_utils.pretraining import truncate_pair

MASK = 4


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


def _draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=_seeded(seed), dtype=dtype)


def _share(flags, digits=2):
    """The share that is True, rounded: True and False are counted, not compared one by one."""
    return round(flags.double().mean().item(), digits)


def _twentieths(flags):
    """The share that is True to the nearest 0.05: a few thousand draws are enough for 0.15."""
    return round(20 * flags.double().mean().item()) / 20


def _refusals(calls):
    """For each call: the name of the error that it raises, or "no error"."""
    found = []
    for call in calls:
        try:
            call()
            found.append("no error")
        except Exception as error:
            found.append(type(error).__name__)
    return found


# --- pretraining/mask-tokens ----------------------------------------------------------------------


def mask_tokens_stub(
    input_ids, special_tokens_mask, mask_token_id, vocab_size, probability=0.15, generator=None
):
    """→ (masked_input_ids, labels), both (batch, tokens); input_ids itself stays as it is

    Each token whose special_tokens_mask is 0 is chosen with `probability`, on its own. Of the
    chosen, 80 % become mask_token_id, 10 % any id from 0 to vocab_size - 1, 10 % stay. labels: what
    stood there where chosen, -100 elsewhere. All draws take generator=generator. ValueError for a
    probability outside [0, 1].
    """
    raise NotImplementedError("your turn")


def _mt_sentences():
    """200 × 1,000 tokens; every tenth is special, given as integers."""
    input_ids = torch.randint(5, 30_000, (200, 1_000), generator=_seeded(1))
    special = torch.zeros_like(input_ids)
    special[:, ::10] = 1
    return input_ids, special


def _mt_chosen(implementation):
    input_ids, special = _mt_sentences()
    masked, labels = implementation(input_ids, special, MASK, 30_000, generator=_seeded(2))
    chosen, special = labels != -100, special.bool()
    return {
        "share of the others that is chosen": _share(chosen[~special]),
        "special tokens chosen": _share(chosen[special]),
        "labels where chosen are what stood there": torch.equal(labels[chosen], input_ids[chosen]),
        "tokens not chosen stay": torch.equal(masked[~chosen], input_ids[~chosen]),
        "both of two neighbours": _share(chosen[:, 1:9] & chosen[:, 2:10]),
        "both of two sentences": _share(chosen[1:, 1:9] & chosen[:-1, 1:9]),
        "dtypes": (str(masked.dtype), str(labels.dtype)),
    }


def _mt_on_its_own(implementation):
    """Chosen one by one, the number of the chosen varies: by √(n · 0.15 · 0.85), binomially."""
    input_ids, special = torch.full((2000, 20), 9), torch.zeros(2000, 20)
    _, labels = implementation(input_ids, special.long(), MASK, 30_000, generator=_seeded(4))
    a_row = (labels != -100).sum(1).double().std().item()  # of 20 tokens: 1.6
    some = [
        implementation(input_ids[:50], special[:50].long(), MASK, 30_000, generator=_seeded(seed))
        for seed in range(40)
    ]
    a_batch = torch.stack([(found != -100).sum() for _, found in some]).double().std().item()
    return {
        "the number of chosen differs from row to row": 1.3 < a_row < 1.9,
        "and from batch to batch": 6 < a_batch < 18,  # of 1,000 tokens: 11.3
    }


def _mt_fates(implementation):
    input_ids, special = _mt_sentences()
    masked, labels = implementation(
        input_ids, special.bool(), MASK, 30_000, probability=1.0, generator=_seeded(3)
    )
    asked, others = special == 0, special == 1
    return {
        "[MASK]": _share(masked[asked] == MASK),
        "unchanged": _share(masked[asked] == input_ids[asked]),
        "asked": _share(labels[asked] == input_ids[asked]),
        "special tokens changed": _share(masked[others] != input_ids[others]),
    }


def _mt_random(implementation):
    input_ids = torch.full((200, 1_000), 7)
    masked, _ = implementation(
        input_ids, torch.zeros_like(input_ids), MASK, 50, 1.0, generator=_seeded(4)
    )
    changed = masked[(masked != MASK) & (masked != 7)]
    counts = torch.bincount(changed.clamp(min=0), minlength=50).double()
    return {
        "other tokens that appear": sorted(set(changed.tolist())),
        "share of the commonest, in tenths": round(10 * (counts.max() / counts.sum()).item()),
    }


def _mt_untouched(implementation):
    input_ids, special = _mt_sentences()
    before = input_ids.clone()
    implementation(input_ids, special, MASK, 30_000, generator=_seeded(5))
    return torch.equal(before, input_ids)


def _mt_seeds(implementation):
    input_ids, special = _mt_sentences()
    first, again, other = (
        implementation(input_ids, special, MASK, 30_000, generator=_seeded(seed))
        for seed in (6, 6, 7)
    )
    return {
        "equal seeds, equal masks": torch.equal(first[0], again[0]),
        "equal seeds, equal labels": torch.equal(first[1], again[1]),
        "other seeds, other masks": not torch.equal(first[0], other[0]),
    }


def _mt_edges(implementation):
    input_ids, special = _mt_sentences()
    none, no_labels = implementation(input_ids, special, MASK, 30_000, 0.0, generator=_seeded(8))
    _, all_labels = implementation(input_ids, special, MASK, 30_000, 1.0, generator=_seeded(8))
    return {
        "0 changes nothing": torch.equal(none, input_ids),
        "0 asks nothing": bool((no_labels == -100).all()),
        "1 asks every token that is not special": torch.equal(all_labels != -100, special == 0),
    }


def _mt_refusals(implementation):
    input_ids, special = torch.full((1, 4), 7), torch.zeros(1, 4, dtype=torch.long)
    return _refusals(
        [lambda p=p: implementation(input_ids, special, MASK, 50, p) for p in (-0.1, 1.1)]
    )


def _mt(
    input_ids,
    special_tokens_mask,
    mask_token_id,
    vocab_size,
    probability=0.15,
    generator=None,
    *,
    specials_too=False,
    shape=None,
    split="right",
    label=None,
    one_random=False,
    checked=True,
    everywhere=False,
):
    """The reference in one piece, with a switch for each known mistake."""
    if checked and not 0 <= probability <= 1:
        raise ValueError("probability must lie in [0, 1]")

    def rand(size=input_ids.shape):
        return torch.rand(size, generator=generator)

    chosen = (rand(shape(input_ids)) if shape else rand()) < probability
    chosen = chosen.expand(input_ids.shape)
    if not specials_too:
        chosen = chosen & ~special_tokens_mask.bool()
    if split == "right":
        fate = rand()
        hide, swap = fate < 0.8, (fate >= 0.8) & (fate < 0.9)
    elif split == "keep, then random":
        keep = rand() < 0.1
        swap = (rand() < 0.1) & ~keep
        hide = ~keep & ~swap
    elif split == "random among the rest":
        hide = rand() < 0.8
        swap = (rand() < 0.1) & ~hide
    elif split == "random last":
        hide, swap = rand() < 0.8, rand() < 0.1  # a swap may undo a mask
    elif split == "all masked":
        hide = torch.ones_like(chosen)
        swap = ~hide
    elif split == "no kept tenth":
        hide = rand() < 0.8
        swap = ~hide
    else:  # half of the rest each, but of 90 %
        fate = rand()
        hide, swap = fate < 0.9, (fate >= 0.9) & (fate < 0.95)
    target = torch.ones_like(chosen) if everywhere else chosen
    size = (1,) if one_random else input_ids.shape
    random_ids = torch.randint(vocab_size, size, generator=generator)
    masked = torch.where(target & hide, mask_token_id, input_ids)
    masked = torch.where(target & swap, random_ids, masked)
    labels = torch.where(chosen, input_ids, -100)
    return masked, (label(masked, labels, input_ids, chosen) if label else labels)


def _mt_wrong(**switches):
    def mask_tokens(*args, **kwargs):
        return _mt(*args, **kwargs, **switches)

    return mask_tokens


def _mt_in_place(input_ids, *args, **kwargs):
    masked, labels = _mt(input_ids, *args, **kwargs)
    input_ids.copy_(masked)
    return input_ids, labels


def _mt_label_after(input_ids, *args, **kwargs):
    masked, labels = _mt(input_ids, *args, **kwargs)
    return masked, torch.where(labels != -100, masked, -100)


def _mt_no_generator(*args, generator=None, **kwargs):
    return _mt(*args, generator=None, **kwargs)


def _mt_asks_the_rest(masked, labels, input_ids, chosen):
    return torch.where(chosen, -100, input_ids)


MASK_TOKENS = Exercise(
    id="pretraining/mask-tokens",
    lesson="05",
    title="Masking, 80/10/10",
    difficulty=3,
    minutes=15,
    reference=pretraining.mask_tokens,
    stub=mask_tokens_stub,
    cases=[
        Case("200,000 tokens: which are chosen", _mt_chosen),
        Case("each token on its own, no fixed number", _mt_on_its_own),
        Case("what becomes of the chosen", _mt_fates),
        Case("where random tokens come from", _mt_random),
        Case("input_ids stays as it was", _mt_untouched),
        Case("equal seeds", _mt_seeds),
        Case("probability 0 and 1", _mt_edges),
        Case("probability -0.1 and 1.1 are refused", _mt_refusals),
    ],
    hints=[
        "Draw one number a token, torch.rand(input_ids.shape, generator=generator), and compare it "
        "with probability. What must the special tokens be, whatever was drawn?",
        "One more draw a token decides its fate: below 0.8 [MASK], from 0.8 to 0.9 random, above "
        "that unchanged. Two draws for two fates would give other shares.",
        "masked = torch.where(chosen & (fate < 0.8), mask_token_id, input_ids), then the same with "
        "torch.randint(vocab_size, input_ids.shape, generator=generator) for 0.8 to 0.9; "
        "labels = torch.where(chosen, input_ids, -100).",
    ],
    mistakes=[
        Mistake(
            _mt_wrong(specials_too=True),
            "Special tokens are chosen too: the model would learn to guess [SEP] and padding. "
            "Take them out of what is chosen.",
        ),
        Mistake(
            _mt_wrong(label=lambda masked, labels, input_ids, chosen: input_ids.clone()),
            "Every token has a label. Only the chosen ones do; the rest is -100, which the loss "
            "passes over.",
        ),
        Mistake(
            _mt_wrong(label=lambda masked, labels, input_ids, chosen: labels.clamp(min=0)),
            "Where nothing is asked you wrote 0, and 0 is a token ([PAD]). Write -100.",
        ),
        Mistake(
            _mt_wrong(label=_mt_asks_the_rest),
            "The labels are the wrong way round: -100 where chosen, tokens where not.",
        ),
        Mistake(
            _mt_label_after,
            "The labels were read after masking, so they say [MASK]. They are what stood there "
            "before.",
        ),
        Mistake(
            _mt_wrong(
                label=lambda masked, labels, input_ids, chosen: torch.where(
                    masked != input_ids, input_ids, -100
                )
            ),
            "Only tokens that changed have a label. The kept tenth is asked too: that is why it "
            "is kept.",
        ),
        Mistake(
            _mt_wrong(split="keep, then random"),
            "You drew keep and random independently: random falls on kept tokens too, and 81/9/10 "
            "comes out. Let one draw decide.",
        ),
        Mistake(
            _mt_wrong(split="random among the rest"),
            "You drew [MASK] with 0.8 and then random with 0.1 among the rest: a tenth of a fifth "
            "is 2 %, and 80/2/18 comes out. Among the rest it takes 0.5.",
        ),
        Mistake(
            _mt_wrong(split="random last"),
            "A second draw of 0.1 falls on all chosen tokens and undoes some masks: 72/10/18. Let "
            "one draw decide.",
        ),
        Mistake(
            _mt_wrong(split="all masked"),
            "Every chosen token became [MASK]. Of ten, eight do; one becomes a random token, one "
            "stays.",
        ),
        Mistake(
            _mt_wrong(split="no kept tenth"),
            "80 % [MASK] and 20 % random: the tenth that stays as it is, is missing.",
        ),
        Mistake(
            _mt_wrong(split="90/5/5"),
            "Your shares are 90/5/5. BERT's are 80/10/10.",
        ),
        Mistake(
            _mt_wrong(everywhere=True),
            "Tokens that were not chosen changed as well: both steps apply to the chosen only.",
        ),
        Mistake(
            _mt_wrong(one_random=True),
            "One random token for all places: draw one for each, with the shape of input_ids.",
        ),
        Mistake(
            _mt_wrong(shape=lambda ids: ids.shape[-1:]),
            "One draw for all sentences: each has its masks at the same places. Draw with the "
            "shape of input_ids.",
        ),
        Mistake(
            _mt_wrong(shape=lambda ids: (ids.shape[0], 1)),
            "One draw a sentence: all of its tokens are chosen, or none. Draw one for each token.",
        ),
        Mistake(
            _mt_in_place,
            "You wrote into input_ids, so the text itself is lost for the next epoch. Work on a "
            "copy.",
        ),
        Mistake(
            _mt_no_generator,
            "Equal seeds gave different masks: give generator to every draw.",
        ),
        Mistake(
            _mt_wrong(checked=False),
            "Masks are right; a probability of -0.1 or 1.1 goes through without a word. Raise "
            "ValueError first.",
        ),
    ],
)

# --- pretraining/whole-words ----------------------------------------------------------------------


def choose_words_stub(special_tokens_mask, continues_word, probability=0.15, generator=None):
    """→ chosen (batch, tokens), bool: all pieces of a word, or none

    special_tokens_mask (batch, tokens), 1 = special, never chosen; continues_word (batch, tokens),
    True where a piece continues the one before it ("##ing"). Each word is chosen with
    `probability`, on its own. A continuing piece right behind a special token, or at the very
    beginning, begins a word. All draws take generator=generator.
    """
    raise NotImplementedError("your turn")


def _cw_words():
    """100 rows of [CLS], 250 times a word of three pieces and one of one piece, [SEP]."""
    row = torch.tensor([False, True, True, False]).repeat(250)
    edge = torch.zeros(1, dtype=torch.bool)
    continues = torch.cat([edge, row, edge]).expand(100, -1)
    special = torch.zeros(continues.shape, dtype=torch.long)
    special[:, 0] = special[:, -1] = 1
    return special, continues


def _cw_shares(implementation):
    special, continues = _cw_words()
    chosen = implementation(special, continues, generator=_seeded(1))
    inner = chosen[:, 1:-1].reshape(100, 250, 4)  # (rows, pairs of words, pieces)
    return {
        "dtype": str(chosen.dtype),
        "share chosen of a long word's pieces": [_twentieths(inner[..., i]) for i in range(3)],
        "share chosen of short words": _twentieths(inner[..., 3]),
        "long words torn apart": _share(inner[..., :3].any(-1) != inner[..., :3].all(-1)),
        "special tokens chosen": _share(chosen[special.bool()]),
        "a word and the next": _share(inner[..., 2] & inner[..., 3], 1),
        "a word and the one below it": _share(inner[1:, :, 0] & inner[:-1, :, 0], 1),
    }


def _cw_irregular(implementation):
    generator = _seeded(2)
    special = torch.rand(200, 60, generator=generator) < 0.1
    continues = (torch.rand(200, 60, generator=generator) < 0.5) & ~special
    chosen = implementation(special, continues, 0.5, generator=_seeded(3))
    inside = continues[:, 1:] & ~special[:, :-1]
    return {
        "torn words": int((chosen[:, 1:] != chosen[:, :-1])[inside].sum()),
        "special tokens chosen": int(chosen[special].sum()),
        "share chosen, in tenths": round(10 * chosen[~special].double().mean().item()),
    }


def _cw_cut_off(implementation):
    """a piece that continues a word of which the beginning was cut off"""
    special = torch.tensor([[1, 0, 0, 1]]).expand(4_000, 4)
    continues = torch.tensor([[False, True, False, False]]).expand(4_000, 4)
    chosen = implementation(special.bool(), continues, 0.3, generator=_seeded(4))
    first = implementation(special[:, 1:].bool(), continues[:, 1:], 0.3, generator=_seeded(5))
    return {
        "behind [CLS]": [_share(chosen[:, i], 1) for i in range(4)],
        "at the beginning": [_share(first[:, i], 1) for i in range(3)],
        "with the next word": _share(chosen[:, 1] & chosen[:, 2], 1),
    }


def _cw_edges(implementation):
    special, continues = _cw_words()
    nothing = implementation(special, continues, 0.0, generator=_seeded(6))
    everything = implementation(special, continues, 1.0, generator=_seeded(6))
    return int(nothing.sum()), torch.equal(everything, special == 0)


def _cw_seeds(implementation):
    special, continues = _cw_words()
    first, again, other = (
        implementation(special, continues, generator=_seeded(seed)) for seed in (7, 7, 8)
    )
    return torch.equal(first, again), torch.equal(first, other)


def _cw_starts(special, continues, cut_off=True):
    starts = ~continues.bool() | special.bool()
    if cut_off:
        starts = starts | F.pad(special.bool(), (1, 0), value=True)[:, :-1]
    starts[:, 0] = True
    return starts


def _cw_by_number(draw, special, continues, probability, cut_off=True, word=None):
    """number the words of each row, then look up one draw a word"""
    number = _cw_starts(special, continues, cut_off).long().cumsum(1) - 1  # (batch, tokens)
    return draw.gather(1, number) < probability


def _cw_pieces(special_tokens_mask, continues_word, probability=0.15, generator=None):
    draw = torch.rand(special_tokens_mask.shape, generator=generator)
    return (draw < probability) & ~special_tokens_mask.bool()


def _cw_any_piece(special_tokens_mask, continues_word, probability=0.15, generator=None):
    """a word is taken when any of its pieces is drawn"""
    drawn = _cw_pieces(special_tokens_mask, continues_word, probability, generator)
    number = _cw_starts(special_tokens_mask, continues_word).long().cumsum(1) - 1
    hits = torch.zeros(number.shape, dtype=torch.long).scatter_add_(1, number, drawn.long())
    return (hits.gather(1, number) > 0) & ~special_tokens_mask.bool()


def _cw_first_only(special_tokens_mask, continues_word, probability=0.15, generator=None):
    chosen = _cw_pieces(special_tokens_mask, continues_word, probability, generator)
    return chosen & ~continues_word.bool()


def _cw_specials_too(special_tokens_mask, continues_word, probability=0.15, generator=None):
    draw = torch.rand(special_tokens_mask.shape, generator=generator)
    return _cw_by_number(draw, special_tokens_mask, continues_word, probability)


def _cw_same_in_all_rows(special_tokens_mask, continues_word, probability=0.15, generator=None):
    draw = torch.rand(special_tokens_mask.shape[1], generator=generator)
    draw = draw.expand(special_tokens_mask.shape)
    chosen = _cw_by_number(draw, special_tokens_mask, continues_word, probability)
    return chosen & ~special_tokens_mask.bool()


def _cw_never_cut_off(special_tokens_mask, continues_word, probability=0.15, generator=None):
    """the cut-off piece belongs to [CLS], so it is never chosen"""
    special = special_tokens_mask.bool()
    draw = torch.rand(special.shape, generator=generator)
    chosen = _cw_by_number(draw, special, continues_word, probability, cut_off=False)
    behind = continues_word & F.pad(special, (1, 0), value=False)[:, :-1]
    while True:  # and what continues it
        more = behind | (continues_word & F.pad(behind, (1, 0), value=False)[:, :-1] & ~special)
        if torch.equal(more, behind):
            return chosen & ~special & ~behind
        behind = more


def _cw_previous_only(special_tokens_mask, continues_word, probability=0.15, generator=None):
    """a piece copies the draw of the piece before it, and the third piece copies the second's"""
    special = special_tokens_mask.bool()
    draw = torch.rand(special.shape, generator=generator)
    before = F.pad(draw, (1, 0), value=1.0)[:, :-1]
    inside = ~_cw_starts(special, continues_word)
    return (torch.where(inside, before, draw) < probability) & ~special


def _cw_no_generator(special_tokens_mask, continues_word, probability=0.15, generator=None):
    return pretraining.choose_words(special_tokens_mask, continues_word, probability)


WHOLE_WORDS = Exercise(
    id="pretraining/whole-words",
    lesson="05",
    title="Whole-word masking",
    difficulty=4,
    minutes=20,
    reference=pretraining.choose_words,
    stub=choose_words_stub,
    cases=[
        Case("50,000 words of three pieces and of one", _cw_shares),
        Case("irregular words and special tokens", _cw_irregular),
        Case("a piece whose word was cut off", _cw_cut_off),
        Case("probability 0 and 1", _cw_edges),
        Case("equal seeds", _cw_seeds),
    ],
    hints=[
        "Where does a word start? Where continues_word is False, where a special token stands, "
        "and right behind one.",
        "Number the words of each row: starts.long().cumsum(1) - 1 is 0 for all pieces of the "
        "first word, 1 for those of the second.",
        "draw = torch.rand(shape, generator=generator); draw.gather(1, number) gives each piece "
        "its word's draw. Compare with probability, take the special tokens out.",
    ],
    mistakes=[
        Mistake(
            _cw_pieces,
            "Pieces are chosen one by one, so words are torn apart. All pieces of a word share "
            "one draw.",
        ),
        Mistake(
            _cw_any_piece,
            "A word is chosen as soon as one of its pieces is drawn: words of three pieces are "
            "chosen 39 % of the time instead of 15 %. Draw once a word.",
        ),
        Mistake(
            _cw_first_only,
            "Only first pieces are chosen: the pieces that continue the word give it away. Choose "
            "them with it.",
        ),
        Mistake(
            _cw_previous_only,
            "A piece takes the draw of the piece before it; the third needs that of the first. "
            "Number the words, and look up one draw a word.",
        ),
        Mistake(_cw_specials_too, "Special tokens are chosen too: take them out at the end."),
        Mistake(
            _cw_same_in_all_rows,
            "All rows share one row of draws: their first words are all chosen, or none is.",
        ),
        Mistake(
            _cw_never_cut_off,
            "A continuing piece right behind a special token is never chosen: it begins a word.",
        ),
        Mistake(
            _cw_no_generator,
            "Equal seeds gave different words: give generator to every draw.",
        ),
    ],
)

# --- pretraining/nsp-pairs ------------------------------------------------------------------------


def nsp_pairs_stub(documents, generator=None, max_length=128):
    """→ list of (first, second, label) for each sentence that has a successor, in document order

    documents: documents of sentences of token ids. With probability 1/2 second is the next sentence
    and label is 0; else it is any sentence of any other document and label is 1. The pair is cut by
    truncate_pair(first, second, room), room being max_length less [CLS] and two [SEP]. All draws
    take generator=generator. ValueError for fewer than two documents.
    """
    raise NotImplementedError("your turn")


def _np_documents(documents, sentences, lengths=(3,)):
    """Each sentence repeats one number that tells its document and its place."""
    return [
        [[1000 * d + s] * lengths[d % len(lengths)] for s in range(sentences)]
        for d in range(documents)
    ]


def _plain_pairs(pairs):
    return [(list(first), list(second), int(label)) for first, second, label in pairs]


def _np_many(implementation):
    pairs = _plain_pairs(implementation(_np_documents(40, 101), _seeded(1), 64))
    first = [a[0] for a, _, _ in pairs]
    real = [(a[0], b[0]) for a, b, label in pairs if label == 0]
    drawn = [(a[0], b[0]) for a, b, label in pairs if label == 1]
    return {
        "pairs": len(pairs),
        "firsts in document order": first == [1000 * d + s for d in range(40) for s in range(100)],
        "share of label 0, in tenths": round(10 * len(real) / max(1, len(pairs))),
        "label 0: the next sentence": all(b == a + 1 for a, b in real),
        "label 1: another document": all(a // 1000 != b // 1000 for a, b in drawn),
        "documents drawn from": len({b // 1000 for _, b in drawn}),
        "many for one document": len({b // 1000 for a, b in drawn if a < 1000}) > 10,
        "many places drawn from": len({b % 1000 for _, b in drawn}) > 60,
        "labels alternate": all(x[2] != y[2] for x, y in zip(pairs, pairs[1:])),
    }


def _np_two(implementation):
    """With two documents a careless draw often lands in the document itself."""
    pairs = _plain_pairs(implementation(_np_documents(2, 900), _seeded(7), 16))
    for seed in range(8, 16):
        pairs += _plain_pairs(implementation(_np_documents(2, 900), _seeded(seed), 16))
    drawn = [(a[0], b[0]) for a, b, label in pairs if label == 1]
    return {"label 1: the other document, always": all(a // 1000 != b // 1000 for a, b in drawn)}


def _np_cut(implementation):
    pairs = _plain_pairs(implementation(_np_documents(2, 60, (10, 30)), _seeded(2), 24))
    return sorted({(len(a), len(b), label) for a, b, label in pairs})


def _np_short(implementation):
    """one document of two sentences, one of a single one, which can only be drawn"""
    documents = [[[5, 5], [6, 6]], [[7, 7]]]
    runs = [_plain_pairs(implementation(documents, _seeded(seed), 32)) for seed in range(40)]
    return sorted({str(run) for run in runs})


def _np_seeds(implementation):
    documents = _np_documents(5, 50)
    first, again, other = (
        _plain_pairs(implementation(documents, _seeded(seed), 64)) for seed in (3, 3, 4)
    )
    return first == again, first == other


def _np_refusals(implementation):
    return _refusals([lambda: implementation(_np_documents(1, 5), _seeded(5), 64)])


def _np(
    documents,
    generator=None,
    max_length=128,
    *,
    real_label=0,
    source="others",
    cut=lambda a, b, room: truncate_pair(a, b, room),
    specials=3,
    place="any",
    step=1,
    coin="random",
    checked=True,
    flat=False,
    half=0.5,
):
    """The reference in one piece, with a switch for each known mistake."""
    if checked and len(documents) < 2:
        raise ValueError("NSP needs two documents")

    def rand():
        return torch.rand(1, generator=generator).item()

    pairs, every = [], [s for document in documents for s in document]
    begins = [sum(map(len, documents[:i])) for i in range(len(documents))]
    for index, document in enumerate(documents):
        last = len(document) - 1
        if flat and index + 1 < len(documents):
            last += 1
        for at in range(0, last, step):
            follows = every[begins[index] + at + 1]
            is_real = rand() < half if coin == "random" else len(pairs) % 2 == 0
            if is_real:
                pairs.append((document[at], follows, real_label))
                continue
            if source == "others":
                pool = documents[(index + 1 + int(rand() * (len(documents) - 1))) % len(documents)]
            elif source == "any":
                pool = every
            elif source == "neighbour":
                pool = documents[(index + 1) % len(documents)]
            else:
                pool = document
            second = pool[int(rand() * len(pool)) if place == "any" else 0]
            pairs.append((document[at], second, 1 - real_label))
    return [(*cut(a, b, max_length - specials), label) for a, b, label in pairs]


def _np_wrong(**switches):
    def nsp_pairs(documents, generator=None, max_length=128):
        return _np(documents, generator, max_length, **switches)

    return nsp_pairs


def _np_no_generator(documents, generator=None, max_length=128):
    return _np(documents, None, max_length)


NSP_PAIRS = Exercise(
    id="pretraining/nsp-pairs",
    lesson="05",
    title="Next-sentence pairs",
    difficulty=3,
    minutes=15,
    reference=pretraining.nsp_pairs,
    stub=nsp_pairs_stub,
    cases=[
        Case("40 documents of 101 sentences", _np_many),
        Case("two documents, 16,000 pairs", _np_two),
        Case("lengths 10 and 30 into max_length 24", _np_cut),
        Case("a document of one sentence", _np_short),
        Case("equal seeds", _np_seeds),
        Case("one document alone is refused", _np_refusals),
    ],
    hints=[
        "Two loops: over documents with their index, and over each document's sentences but the "
        "last. torch.rand(1, generator=generator) < 0.5 tosses the coin.",
        "To draw another document, draw from one fewer, and step over this one: "
        "other = torch.randint(len(documents) - 1, (1,), generator=generator).item(), then "
        "other += other >= index.",
        "room = max_length - 3; pairs.append((*truncate_pair(first, second, room), label)).",
    ],
    mistakes=[
        Mistake(
            _np_wrong(real_label=1),
            "Your labels are 1 for the next sentence. In Hugging Face's BERT, and in the released "
            "weights, 0 is the next one.",
        ),
        Mistake(
            _np_wrong(source="any"),
            "Some pairs with label 1 come from the same document, and one may even be the true "
            "next sentence: draw from the others only.",
        ),
        Mistake(
            _np_wrong(source="own"),
            "The wrong sentence is drawn from the same document. BERT takes another document.",
        ),
        Mistake(
            _np_wrong(source="neighbour"),
            "The wrong sentence always comes from the document behind this one. Draw the document.",
        ),
        Mistake(
            _np_wrong(place="first"),
            "The wrong sentence is always the first of its document: the model would learn to spot "
            "first sentences.",
        ),
        Mistake(
            _np_wrong(cut=lambda a, b, room: (a, b)),
            "The pairs are not cut: with [CLS] and two [SEP] they are longer than max_length.",
        ),
        Mistake(
            _np_wrong(specials=0),
            "The pairs fill max_length by themselves. [CLS] and two [SEP] need three places: cut "
            "to max_length − 3.",
        ),
        Mistake(
            _np_wrong(cut=lambda a, b, room: (a[:room], b[: max(0, room - len(a))])),
            "Only the second segment is cut. The longer one gives first: call truncate_pair.",
        ),
        Mistake(
            _np_wrong(cut=lambda a, b, room: (a[: room // 2], b[: room // 2])),
            "Both segments are cut at half of the room, also where the other one is short: call "
            "truncate_pair.",
        ),
        Mistake(
            _np_wrong(step=2),
            "Each sentence is used once, so there are half as many pairs. Every sentence with a "
            "successor is a first segment.",
        ),
        Mistake(
            _np_wrong(flat=True),
            "A document's last sentence is paired with the first of the next document and called "
            "its successor. It has none.",
        ),
        Mistake(
            _np_wrong(coin="alternate"),
            "Real and wrong pairs alternate instead of being drawn.",
        ),
        Mistake(
            _np_wrong(half=0.15),
            "15 % of the pairs are real. That is the share of masked tokens; here it is one half.",
        ),
        Mistake(
            _np_no_generator,
            "Equal seeds gave different pairs: give generator to every draw.",
        ),
        Mistake(
            _np_wrong(checked=False),
            "All right but one document alone: there is no other to draw from. Raise ValueError.",
        ),
    ],
)

# --- pretraining/mlm-loss -------------------------------------------------------------------------


def mlm_loss_stub(logits, labels):
    """logits (..., vocab_size), labels (...), -100 where nothing is asked → scalar

    The mean of -log softmax(logits)[label] over the asked tokens; 0 where none is asked.
    """
    raise NotImplementedError("your turn")


def _ml_by_hand(implementation):
    logits = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 3.0, 0.0]])
    return implementation(logits, torch.tensor([0, 3, 1]))


def _ml_batch(*shape, dtype=torch.float32):
    def run(implementation):
        labels = torch.randint(0, shape[-1], shape[:-1], generator=_seeded(1))
        labels[..., ::2] = -100
        labels[0, 1] = 0  # the first token of the vocabulary is a token like any other
        labels[0, 3:] = -100  # and the sentences differ in how much they are asked
        return implementation(3 * _draw(2, *shape, dtype=dtype), labels)

    return run


def _ml_gradient(implementation):
    logits = _draw(3, 2, 5, 6).requires_grad_()
    labels = torch.tensor([[1, -100, -100, 4, -100], [-100, -100, 0, -100, -100]])
    implementation(logits, labels).backward()
    return logits.grad


def _ml_none(implementation):
    logits = _draw(4, 2, 3, 5).requires_grad_()
    loss = implementation(logits, torch.full((2, 3), -100))
    loss = torch.as_tensor(loss)
    if loss.requires_grad:
        loss.backward()
    grad = torch.zeros(2, 3, 5) if logits.grad is None else logits.grad
    return float(loss.detach()), grad


def _ml_tokens(logits, labels):
    """−log softmax at the label of every asked token"""
    asked = labels != -100
    log_shares = logits[asked].log_softmax(-1)
    return -log_shares.gather(-1, labels[asked][:, None])[:, 0], asked


def _ml_over_everything(logits, labels):
    losses, _ = _ml_tokens(logits, labels)
    return losses.sum() / labels.numel()


def _ml_sum(logits, labels):
    return _ml_tokens(logits, labels)[0].sum()


def _ml_by_sentence(logits, labels):
    if labels.dim() < 2:
        return pretraining.mlm_loss(logits, labels)
    rows = [pretraining.mlm_loss(x, y) for x, y in zip(logits, labels)]
    return torch.stack(rows).mean()


def _ml_nan(logits, labels):
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def _ml_positive_labels(logits, labels):
    return pretraining.mlm_loss(logits, torch.where(labels > 0, labels, -100))


def _ml_no_softmax(logits, labels):
    asked = labels != -100
    picked = logits[asked].gather(-1, labels[asked][:, None])
    return -picked.sum() / asked.sum().clamp(min=1)


def _ml_no_log(logits, labels):
    losses, asked = _ml_tokens(logits, labels)
    return -(-losses).exp().sum() / asked.sum().clamp(min=1)


def _ml_no_minus(logits, labels):
    return -pretraining.mlm_loss(logits, labels)


def _ml_softmax_twice(logits, labels):
    return pretraining.mlm_loss(logits.softmax(-1), labels)


def _ml_pads_as_zero(logits, labels):
    return F.cross_entropy(logits.flatten(0, -2), labels.clamp(min=0).flatten())


def _ml_base_two(logits, labels):
    return pretraining.mlm_loss(logits, labels) / math.log(2)


MLM_LOSS = Exercise(
    id="pretraining/mlm-loss",
    lesson="05",
    title="The masked-token loss",
    difficulty=2,
    minutes=10,
    reference=pretraining.mlm_loss,
    stub=mlm_loss_stub,
    cases=[
        Case("three tokens by hand", _ml_by_hand),
        Case("two sentences, every other token asked", _ml_batch(2, 9, 11)),
        Case("float64", _ml_batch(3, 7, 5, dtype=torch.float64)),
        Case("the gradient", _ml_gradient),
        Case("no token asked", _ml_none),
    ],
    hints=[
        "labels != -100 picks the asked tokens out of labels and out of logits alike.",
        "F.cross_entropy(logits[asked], labels[asked], reduction='sum') adds up; divide by how "
        "many there are. What is 0 / 0?",
        "… / asked.sum().clamp(min=1)",
    ],
    mistakes=[
        Mistake(
            _ml_nan,
            "Right, but for a batch in which nothing is asked: the mean of nothing is NaN, and one "
            "NaN ends a training run. Return 0 there.",
        ),
        Mistake(
            _ml_over_everything,
            "You divided by all tokens: only the asked ones count, so the loss came out about "
            "seven times too small at 15 %.",
        ),
        Mistake(_ml_sum, "This is the sum. Divide by the number of asked tokens."),
        Mistake(
            _ml_by_sentence,
            "You averaged a sentence at a time: tokens of sentences with few masks then weigh "
            "more. Take one mean over all asked tokens.",
        ),
        Mistake(
            _ml_positive_labels,
            "labels > 0 leaves out token 0, which is a token too. Ask for labels != -100.",
        ),
        Mistake(
            _ml_pads_as_zero,
            "Tokens with label -100 are trained towards token 0. They are to be left out.",
        ),
        Mistake(_ml_no_softmax, "The raw logits are in the loss: take log_softmax over them."),
        Mistake(_ml_no_log, "These are probabilities: the logarithm is missing."),
        Mistake(_ml_no_minus, "The sign is wrong: a loss is −log p."),
        Mistake(
            _ml_softmax_twice,
            "Softmax was taken twice: F.cross_entropy takes logits and does it itself.",
        ),
        Mistake(_ml_base_two, "This is in bits, log₂. The course counts in nats, torch.log."),
    ],
)

# --- pretraining/mlm-head -------------------------------------------------------------------------


class MlmHeadStub(nn.Module):
    """hidden_states (..., hidden_size) → logits (..., vocab_size): dense, activation, norm, then
    the dot product with every row of token_embedding_weight, plus bias
    """

    def __init__(self, config, token_embedding_weight):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation_function(ACTIVATIONS[config.hidden_act])
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.token_embedding_weight = token_embedding_weight  # (vocab_size, hidden_size)

    def forward(self, hidden_states):
        raise NotImplementedError("your turn")


def _mh(vocab_size, hidden_size, *shape, act="gelu"):
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_attention_heads=1,
        hidden_act=act,
        layer_norm_eps=0.1,  # large enough to be seen
    )

    def build(implementation):
        table = nn.Parameter(torch.zeros(vocab_size, hidden_size))
        return fill_(implementation(config, table), seed=1), table

    def run(implementation):
        return build(implementation)[0](_draw(2, *shape, hidden_size))

    def gradients(implementation):
        head, table = build(implementation)
        head(_draw(3, *shape, hidden_size)).pow(2).sum().backward()
        return table.grad, {name: p.grad for name, p in sorted(head.named_parameters())}

    return run, gradients


class _MhNoActivation(MlmHeadStub):
    def forward(self, hidden_states):
        x = self.norm(self.dense(hidden_states))
        return x @ self.token_embedding_weight.T + self.bias


class _MhNormFirst(MlmHeadStub):
    def forward(self, hidden_states):
        x = self.activation(self.norm(self.dense(hidden_states)))
        return x @ self.token_embedding_weight.T + self.bias


class _MhNoNorm(MlmHeadStub):
    def forward(self, hidden_states):
        x = self.activation(self.dense(hidden_states))
        return x @ self.token_embedding_weight.T + self.bias


class _MhNoBias(MlmHeadStub):
    def forward(self, hidden_states):
        x = self.norm(self.activation(self.dense(hidden_states)))
        return x @ self.token_embedding_weight.T


class _MhNoTransform(MlmHeadStub):
    def forward(self, hidden_states):
        return hidden_states @ self.token_embedding_weight.T + self.bias


class _MhUntransposed(MlmHeadStub):
    def forward(self, hidden_states):
        x = self.norm(self.activation(self.dense(hidden_states)))
        return x @ self.token_embedding_weight + self.bias


class _MhDetached(MlmHeadStub):
    def forward(self, hidden_states):
        x = self.norm(self.activation(self.dense(hidden_states)))
        return x @ self.token_embedding_weight.detach().T + self.bias


class _MhSoftmax(MlmHeadStub):
    def forward(self, hidden_states):
        x = self.norm(self.activation(self.dense(hidden_states)))
        return (x @ self.token_embedding_weight.T + self.bias).softmax(-1)


class _MhResidual(MlmHeadStub):
    def forward(self, hidden_states):
        x = self.norm(hidden_states + self.activation(self.dense(hidden_states)))
        return x @ self.token_embedding_weight.T + self.bias


MLM_HEAD = Exercise(
    id="pretraining/mlm-head",
    lesson="05",
    title="The masked-token head",
    difficulty=2,
    minutes=10,
    reference=pretraining.MlmHead,
    stub=MlmHeadStub,
    cases=[
        Case("two sentences of three tokens", _mh(9, 4, 2, 3)[0]),
        Case("one token", _mh(7, 6)[0]),
        Case("as many tokens as features", _mh(5, 5, 4)[0]),
        Case("another activation: relu", _mh(9, 4, 2, 3, act="relu")[0]),
        Case("gradients, the embedding's too", _mh(8, 3, 5)[1]),
    ],
    hints=[
        "The order is dense, activation, norm. There is no residual here.",
        "A logit is the dot product of the result with one row of the table. For all rows at once: "
        "x @ table.T, or F.linear(x, table, bias).",
    ],
    mistakes=[
        Mistake(_MhNoActivation, "The activation is missing between dense and norm."),
        Mistake(
            _MhNormFirst,
            "The norm comes before the activation. In BERT's head it stands behind it.",
        ),
        Mistake(_MhNoNorm, "The LayerNorm is missing: dense, activation, norm."),
        Mistake(
            _MhNoBias,
            "The bias is missing: one number a token, which mostly says how frequent it is.",
        ),
        Mistake(
            _MhNoTransform,
            "The hidden states meet the table directly: dense, activation and norm come first.",
        ),
        Mistake(
            _MhUntransposed,
            "The table is (vocab_size, hidden_size): multiply by its transpose, x @ table.T.",
        ),
        Mistake(
            _MhDetached,
            "The values are right, but no gradient reaches the table: do not detach it.",
        ),
        Mistake(
            _MhSoftmax,
            "These are probabilities. The head returns logits; the loss takes the softmax.",
        ),
        Mistake(_MhResidual, "There is no residual connection in the head."),
    ],
)

# --- pretraining/warmup-decay ---------------------------------------------------------------------


def linear_warmup_decay_stub(step, warmup_steps, total_steps):
    """→ factor on the learning rate: 0 at step 0, 1 at warmup_steps, then straight down to 0 at
    total_steps; it stays 0 from there on
    """
    raise NotImplementedError("your turn")


def _wd(warmup, total):
    def run(implementation):
        return [float(implementation(step, warmup, total)) for step in range(total + 3)]

    return run


def _wd_original(implementation):
    steps = (0, 1, 5_000, 10_000, 505_000, 1_000_000)
    return [float(implementation(step, 10_000, 1_000_000)) for step in steps]


def _wd_no_warmup(step, warmup_steps, total_steps):
    return max(0.0, (total_steps - step) / total_steps)


def _wd_constant(step, warmup_steps, total_steps):
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0


def _wd_product(step, warmup_steps, total_steps):
    up = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    return up * max(0.0, (total_steps - step) / total_steps)


def _wd_lower_of_two(step, warmup_steps, total_steps):
    up = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    return min(up, max(0.0, (total_steps - step) / total_steps))


def _wd_negative(step, warmup_steps, total_steps):
    if step < warmup_steps:
        return step / warmup_steps
    return (total_steps - step) / max(1, total_steps - warmup_steps)


def _wd_late(step, warmup_steps, total_steps):
    """the fall takes total_steps, counted from the end of the warm-up"""
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, 1 - (step - warmup_steps) / total_steps)


def _wd_one_early(step, warmup_steps, total_steps):
    return pretraining.linear_warmup_decay(step + 1, warmup_steps, total_steps)


def _wd_cosine(step, warmup_steps, total_steps):
    if step < warmup_steps:
        return step / warmup_steps
    share = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 0.5 * (1 + math.cos(math.pi * share))


def _wd_inverse_root(step, warmup_steps, total_steps):
    warmup_steps = max(1, warmup_steps)
    return min(step / warmup_steps, (warmup_steps / max(1, step)) ** 0.5)


def _wd_zero_division(step, warmup_steps, total_steps):
    if step / warmup_steps < 1:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


WARMUP_DECAY = Exercise(
    id="pretraining/warmup-decay",
    lesson="05",
    title="Warm-up and linear decay",
    difficulty=1,
    minutes=5,
    reference=pretraining.linear_warmup_decay,
    stub=linear_warmup_decay_stub,
    cases=[
        Case("4 steps up, 8 down", _wd(4, 12)),
        Case("BERT's: 10,000 of 1,000,000", _wd_original),
        Case("no warm-up", _wd(0, 5)),
        Case("one step up, one down", _wd(1, 2)),
    ],
    hints=[
        "Two straight lines: which one holds for step < warmup_steps?",
        "The second: what is left, total_steps - step, over all there was, total_steps - "
        "warmup_steps; and never below 0.",
    ],
    mistakes=[
        Mistake(_wd_no_warmup, "The warm-up is missing: it starts at 0 and climbs."),
        Mistake(_wd_constant, "It never falls: after the warm-up it goes straight down to 0."),
        Mistake(
            _wd_product,
            "You multiplied the climb with a fall from step 0, so it never reaches 1. The fall "
            "begins where the climb ends.",
        ),
        Mistake(
            _wd_lower_of_two,
            "The lower of two lines: they cross below 1. The fall begins at 1, where the climb "
            "ends.",
        ),
        Mistake(
            _wd_negative,
            "Past total_steps it is negative: the optimizer would climb the loss. max(0, …).",
        ),
        Mistake(
            _wd_late,
            "It reaches 0 too late: the fall takes total_steps − warmup_steps.",
        ),
        Mistake(_wd_one_early, "It is one step ahead: at step 0 the factor is 0."),
        Mistake(_wd_cosine, "This falls along a cosine. BERT's fall is a straight line."),
        Mistake(
            _wd_inverse_root,
            "This is the original Transformer's schedule (lesson 03). BERT's falls to 0 in a "
            "straight line.",
        ),
        Mistake(_wd_zero_division, "Without a warm-up you divide by 0: ask step < warmup_steps."),
    ],
)

# --- pretraining/better-recipe (open) -------------------------------------------------------------

BETTER_RECIPE = OpenExercise(
    id="pretraining/better-recipe",
    lesson="05",
    title="A better recipe for the same time",
    difficulty=5,
    minutes=60,
    task="Find a recipe that reaches a lower held-out loss in the same time as the lesson's.",
    hints=[
        "What does one step cost, and what does it teach? Time a few steps of each candidate "
        "before you train any of them to the end.",
        "Change one thing at a time, and give each candidate its own best learning rate: a recipe "
        "that loses at another's rate has not lost.",
    ],
    rubric=[
        "Both recipes had the same time on the same, otherwise idle machine, and you say how much.",
        "The comparison is on held-out documents, with the same masks for both, and the same "
        "vocabulary: with another one the loss per token means something else.",
        "The learning-rate schedule ends with the run: a run that is cut off before its decay is "
        "no result.",
        "At least three seeds of the winner and of the lesson's recipe; the difference is larger "
        "than the spread.",
        "You say what you tried that did not help.",
    ],
    answer="""Begin with the lesson's recipe as the first row, then change one thing at a time. What
was tried on the way to it, judged on held-out text with 15 % masks, each run once:

| recipe | steps × tokens a batch | masked tokens right | NSP right |
| --- | --- | --- | --- |
| 4 layers, 15 % masks, rate 3e-3 | 1,200 × 1,024 | 0.13 | 0.52 |
| 4 layers, 15 % masks, local start | 500 × 2,048 | 0.16 | 0.50 |
| 4 layers, 30 % masks, local start | 600 × 2,048 | 0.19 | 0.52 |
| 3 layers, 40 % masks, local start | 1,000 × 2,048 | 0.25 | 0.58 |

The rows differ in time, so they are hints and no ranking; your table needs equal times:

1. **Answers decide.** A short run is short of answers, not of steps: more masks helped most.
2. **Small and fast.** Fewer layers see more tokens in the same time. With an hour it turns round.
3. **A head start for attention.** Finding the neighbours is the first discovery of every run.
4. **A higher rate did not help**: at 5e-3 the loss stayed near the frequencies for 200 steps, and
   that run was stopped.

Not tried yet: 50 % masks, single sentences without NSP (RoBERTa, section 4.2), whole words,
other shapes at 2 layers, and three seeds of anything.""",
)

EXERCISES = [
    MASK_TOKENS,
    WHOLE_WORDS,
    NSP_PAIRS,
    MLM_LOSS,
    MLM_HEAD,
    WARMUP_DECAY,
    BETTER_RECIPE,
]

# --- Claims ---------------------------------------------------------------------------------------


def _judge_independent_draws(keep_first, mask_first):
    """each (masked, random, kept): shares of the chosen tokens"""
    right = (0.8, 0.1, 0.1)
    off = max(abs(a - b) for shares in (keep_first, mask_first) for a, b in zip(shares, right))
    if off < 0.005:
        return Verdict(True, "drawn independently, the shares are 80/10/10 all the same.")
    return Verdict(
        False,
        "the second draw meets tokens that the first has taken. Keep, then random gives 81/9/10; "
        "[MASK], then a tenth of the rest gives 80/2/18. One draw must decide between the three.",
    )


def _judge_whole_encoding(first_at_top, others_at_top, others_at_bottom):
    """sizes of the NSP loss's gradient at position 0 and at the others, on the last hidden states
    and on the embeddings"""
    if others_at_top > 0:
        return Verdict(True, "other positions of the last hidden states have a gradient too.")
    below = "every token" if others_at_bottom > 0 else "only [CLS]"
    return Verdict(
        False,
        "of the last hidden states the NSP loss reads position 0 alone, through the pooler; "
        f"through attention in the layers below, {below} has a part in what stands there.",
    )


def _judge_topic(overlap_nsp, overlap_sop):
    """accuracy of counting shared words: on NSP's pairs, and on pairs that are right or swapped"""
    if overlap_nsp < 0.55:
        return Verdict(True, "shared words alone do not tell a next sentence from a strange one.")
    blind = "at chance" if abs(overlap_sop - 0.5) < 0.02 else "away from chance"
    return Verdict(
        False,
        "most of the answers fall to counting shared words, which knows the topic and no order; "
        f"told apart by order alone (SOP), the same count is {blind}.",
    )


def _judge_accumulation(naive_gap, weighted_gap):
    """relative distance to the large batch's gradient: mean of means, and weighted by tokens"""
    if naive_gap < 0.01:
        return Verdict(True, "the mean of the parts' losses gives the large batch's gradient.")
    mended = "gives the large batch's gradient" if weighted_gap < 1e-3 else "is off as well"
    return Verdict(
        False,
        "each part divides by its own number of masked tokens, so tokens of parts with few masks "
        f"weigh more. Weighting each part by its masked tokens {mended}.",
    )


def _judge_mask_only(at_mask, at_kept, at_random):
    """accuracy of a trained model at the three kinds of asked places"""
    if at_kept < at_mask + 0.05:
        return Verdict(True, "at tokens that were left as they are it is no better than at [MASK].")
    return Verdict(
        False,
        "it is also asked at tokens that look untouched, and there it must weigh what it sees "
        "against what fits: far more kept tokens than hidden ones are right, and of replaced ones "
        + ("it still mends some." if at_random > 0.02 else "it mends hardly any."),
    )


CLAIMS = [
    Claim(
        id="pretraining/independent-draws",
        statement="Of the 15 % chosen, draw random and keep independently.",
        source="tutorials",
        judge=_judge_independent_draws,
        holds=dict(keep_first=(0.8, 0.1, 0.1), mask_first=(0.801, 0.1, 0.099)),
        fails=dict(keep_first=(0.81, 0.09, 0.1), mask_first=(0.8, 0.02, 0.18)),
    ),
    Claim(
        id="pretraining/whole-encoding",
        statement="NSP uses the whole encoding.",
        source="goes round",
        judge=_judge_whole_encoding,
        holds=dict(first_at_top=1.0, others_at_top=0.2, others_at_bottom=0.3),
        fails=dict(first_at_top=1.0, others_at_top=0.0, others_at_bottom=0.3),
    ),
    Claim(
        id="pretraining/nsp-topic",
        statement="NSP teaches a model how one sentence follows from another.",
        source="goes round",
        judge=_judge_topic,
        holds=dict(overlap_nsp=0.51, overlap_sop=0.5),
        fails=dict(overlap_nsp=0.72, overlap_sop=0.5),
    ),
    Claim(
        id="pretraining/accumulation",
        statement="The mean of k small batches' losses has the gradient of one batch k times as "
        "large.",
        source="goes round",
        judge=_judge_accumulation,
        holds=dict(naive_gap=1e-6, weighted_gap=1e-7),
        fails=dict(naive_gap=0.2, weighted_gap=1e-7),
    ),
    Claim(
        id="pretraining/mask-only",
        statement="BERT predicts at [MASK] only.",
        source="goes round",
        judge=_judge_mask_only,
        holds=dict(at_mask=0.3, at_kept=0.3, at_random=0.05),
        fails=dict(at_mask=0.3, at_kept=0.9, at_random=0.1),
    ),
]
