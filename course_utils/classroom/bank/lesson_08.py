"""Lesson 08, tokens and spans: its exercises, their known mistakes, and its claims."""

import torch

from course_utils import question_answering, token_classification
from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise
from course_utils.token_classification import bio_rules, tag_names

INFINITY = float("inf")


def _draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- tokens/bio-spans -----------------------------------------------------------------------------


def tags_to_spans_stub(tags, words):
    """→ list of (start, end, type), in characters, in order

    tags: one a word, "O", "B-x" or "I-x"; words: (start, end) of each word, in characters. An I-x
    that continues no x begins a span. ValueError where tags and words differ in number.
    """
    raise NotImplementedError("your turn")


WORDS = [(0, 4), (5, 8), (9, 16), (17, 21), (22, 29), (29, 30)]


def _bio(*tags):
    def run(implementation):
        return [tuple(span) for span in implementation(list(tags), WORDS[: len(tags)])]

    return run


def _bio_lengths(implementation):
    return implementation(["O", "B-x"], WORDS)


def _spans(tags, words, *, b_only=False, b_ignored=False, type_ignored=False, last=False,
           end_of_first=False, one_more=False, numbers=False, checked=True, gap=False):  # fmt: skip
    """The reference in one piece, with a switch for each known mistake."""
    if checked and len(tags) != len(words):
        raise ValueError("one tag for each word")
    spans, before = [], "O"
    for i, (tag, (start, end)) in enumerate(zip(tags, words)):
        if numbers:
            start, end = i, i + 1
        kind, goes_on = tag[2:], tag.startswith("I-") or b_ignored
        follows = before != "O" or (gap and bool(spans))
        if tag != "O" and follows and goes_on and (type_ignored or spans[-1][2] == kind):
            spans[-1] = (spans[-1][0], spans[-1][1] if end_of_first else end, spans[-1][2])
        elif tag != "O" and not (b_only and tag.startswith("I-")):
            spans.append((start, end, kind))
        before = tag if not (b_only and tag.startswith("I-") and before == "O") else "O"
    if last and before != "O" and spans:
        spans.pop()
    return [(a, b + 1, kind) for a, b, kind in spans] if one_more else spans


def _bio_wrong(**switches):
    def tags_to_spans(tags, words):
        return _spans(tags, words, **switches)

    return tags_to_spans


BIO_SPANS = Exercise(
    id="tokens/bio-spans",
    lesson="08",
    title="Tags back to spans",
    difficulty=2,
    minutes=10,
    reference=token_classification.tags_to_spans,
    stub=tags_to_spans_stub,
    cases=[
        Case("one span of two words", _bio("O", "B-amount", "I-amount", "O", "B-account")),
        Case("the text ends inside a span", _bio("O", "O", "B-x", "I-x")),
        Case("two spans side by side", _bio("B-x", "B-x", "I-x", "O")),
        Case("another type without a B", _bio("B-x", "I-y", "I-y")),
        Case("an I behind an O", _bio("O", "I-x", "I-x", "O", "I-x")),
        Case("nothing but O", _bio("O", "O", "O")),
        Case("no gap between two words", _bio("O", "O", "O", "O", "B-x", "I-x")),
        Case("six words and two tags are refused", _bio_lengths),
    ],
    hints=[
        "Walk through tags and words together, and remember the tag before. When does a tag go on "
        "with the span before it, and when does it begin one?",
        "It goes on only if it is I-x and the tag before was B-x or I-x, the same x: then the last "
        "span's end becomes this word's end. Every other tag but O begins a span.",
    ],
    mistakes=[
        Mistake(
            _bio_wrong(b_only=True),
            "An I-x that continues nothing is lost. CoNLL's script lets it begin a span, and so "
            "must you, or illegal tags cost you whole entities.",
        ),
        Mistake(
            _bio_wrong(b_ignored=True),
            "Two spans of one type side by side became one. A B begins a new span, always: that "
            "is what it is for.",
        ),
        Mistake(
            _bio_wrong(type_ignored=True),
            "An I-y behind an x went on with the x. It continues spans of its own type only.",
        ),
        Mistake(
            _bio_wrong(last=True),
            "A span that the text ends in is missing: close it after the loop.",
        ),
        Mistake(
            _bio_wrong(end_of_first=True),
            "Every span ends with its first word: move the end along with each I.",
        ),
        Mistake(
            _bio_wrong(one_more=True),
            "The ends are one too far: a word's end is already behind its last character.",
        ),
        Mistake(
            _bio_wrong(numbers=True),
            "These are numbers of words. Asked for are characters: words[i] has them.",
        ),
        Mistake(
            _bio_wrong(gap=True),
            "An I-x behind an O joined an earlier x, over the gap. Look at the tag just before.",
        ),
        Mistake(
            _bio_wrong(checked=False),
            "The spans are right; tags and words of different number go through without a word. "
            "zip stops at the shorter one: raise ValueError first.",
        ),
    ],
)

# --- tokens/align-labels --------------------------------------------------------------------------


def align_labels_stub(word_ids, labels, ignore=-100):
    """→ one label for each piece: the word's on its first piece, `ignore` elsewhere

    word_ids: for each piece the number of its word, None for [CLS], [SEP] and padding. labels: one
    number for each word. Words that were cut off have no piece. ValueError for a piece of a word
    that has no label.
    """
    raise NotImplementedError("your turn")


def _al(word_ids, labels, **settings):
    def run(implementation):
        return [int(label) for label in implementation(word_ids, labels, **settings)]

    return run


def _align(word_ids, labels, ignore=-100, *, all_pieces=False, last=False, shifted=False,
           in_turn=False, zero=False, no_specials=False, fixed=False, zeros_out=False,
           checked=True):  # fmt: skip
    """The reference in one piece, with a switch for each known mistake."""
    if checked and max((w for w in word_ids if w is not None), default=-1) >= len(labels):
        raise ValueError("a word without a label")
    ignore = -100 if fixed else ignore
    found, before = [], None
    for place, word in enumerate(word_ids):
        after = word_ids[place + 1] if place + 1 < len(word_ids) else None
        if word is None:
            if not no_specials:
                found.append(0 if zero else ignore)
        elif in_turn:  # the k-th piece gets the k-th label
            k = place - 1
            found.append(labels[k] if 0 <= k < len(labels) else ignore)
        elif all_pieces or (word != after if last else word != before):
            given = labels[word] if word < len(labels) else ignore
            found.append(ignore if zeros_out and not given else given)
        else:
            found.append(ignore)
        before = word
    if shifted:  # [CLS] was forgotten: everything stands one place too early
        found = [*found[1:], ignore]
    return found


def _al_wrong(**switches):
    def align_labels(word_ids, labels, ignore=-100):
        return _align(word_ids, labels, ignore, **switches)

    return align_labels


PIECES = [None, 0, 1, 1, 1, 2, 3, 3, None]
ALIGN_LABELS = Exercise(
    id="tokens/align-labels",
    lesson="08",
    title="Labels of words, on pieces",
    difficulty=2,
    minutes=10,
    reference=token_classification.align_labels,
    stub=align_labels_stub,
    cases=[
        Case("four words, two of them in pieces", _al(PIECES, [5, 6, 7, 8])),
        Case("label 0 is a label", _al(PIECES, [0, 3, 0, 0])),
        Case("padding at the end", _al([None, 0, 0, 1, None, None, None], [2, 1])),
        Case("two words were cut off", _al([None, 0, 1, None], [4, 3, 2, 1])),
        Case("one piece a word", _al([None, 0, 1, 2, None], [3, 2, 1])),
        Case("another number to ignore", _al([None, 0, 0, None], [1], ignore=-1)),
        Case("a word without a label is refused", _al([None, 0, 1, None], [4])),
    ],
    hints=[
        "Which pieces are first ones? Those whose word differs from the word of the piece before.",
        "before = None; for word in word_ids: ignore if word is None or word == before, else "
        "labels[word]; then before = word.",
    ],
    mistakes=[
        Mistake(
            _al_wrong(shifted=True),
            "Every label stands one place too early: [CLS] is a piece too, and has no label. This "
            "is the classic off-by-one; the loss falls all the same.",
        ),
        Mistake(
            _al_wrong(in_turn=True),
            "You gave the k-th piece the k-th label. Behind the first word that has two pieces "
            "every label is wrong: go by word_ids.",
        ),
        Mistake(
            _al_wrong(all_pieces=True),
            "Every piece of a word has its label. Then long words count more, and B-x stands on "
            "each of their pieces, as if each began a span: only the first piece counts here.",
        ),
        Mistake(
            _al_wrong(last=True),
            "The label stands on the last piece of a word. BERT's paper, and `decode` here, read "
            "the first one.",
        ),
        Mistake(
            _al_wrong(zero=True),
            "[CLS], [SEP] and padding have label 0, and 0 is a tag (O). Give them `ignore`.",
        ),
        Mistake(
            _al_wrong(zeros_out=True),
            "Words with label 0 are ignored: 0 is false in Python, but it is a tag. Ask `is None`.",
        ),
        Mistake(
            _al_wrong(no_specials=True),
            "There are fewer labels than pieces: [CLS], [SEP] and padding need one too, `ignore`.",
        ),
        Mistake(_al_wrong(fixed=True), "-100 is the default only: use `ignore`."),
        Mistake(
            _al_wrong(checked=False),
            "The labels are right; a piece of a word without a label goes through. Raise "
            "ValueError: somewhere words were lost or split otherwise.",
        ),
    ],
)

# --- tokens/viterbi -------------------------------------------------------------------------------


def viterbi_stub(scores, first, following):
    """→ list of ints: the path of tags with the largest sum, one for each word

    scores (words, tags): what each word says for each tag. first (tags,): added for the first
    word's tag. following (tags, tags): following[i, j] is added for tag j right behind tag i; -inf
    forbids it. Of equal sums any path will do. [] for a text without words.
    """
    raise NotImplementedError("your turn")


def _vi(words, tags, seed, strength=1.0):
    def run(implementation):
        scores, first = _draw(seed, words, tags), strength * _draw(seed + 1, tags)
        following = strength * _draw(seed + 2, tags, tags)
        return [int(tag) for tag in implementation(scores, first, following)]

    return run


def _vi_many(implementation):
    return [_vi(7, 3, 10 * seed, 2.0)(implementation) for seed in range(6)]


def _vi_rules(implementation):
    names = tag_names(["x", "y"])
    rules = bio_rules(names)
    return [
        [int(tag) for tag in implementation(2 * _draw(40 + seed, 8, len(names)), *rules)]
        for seed in range(6)
    ]


def _vi_long(implementation):
    """200 words: looking at all paths would take longer than the universe has time"""
    return _vi(200, 5, 70)(implementation)


def _vi_empty(implementation):
    return list(implementation(torch.zeros(0, 3), torch.zeros(3), torch.zeros(3, 3)))


def _viterbi(scores, first, following, *, greedy=False, local=False, no_first=False,
             transposed=False, no_following=False, reversed_path=False, wrong_end=False,
             product=False):  # fmt: skip
    """The reference in one piece, with a switch for each known mistake."""
    if not len(scores):
        return []
    following = following.T if transposed else following
    best = scores[0] + (0 if no_first else first)
    if greedy:  # word by word, no way back
        path = [int(best.argmax())]
        for word in scores[1:]:
            path.append(int((word + following[path[-1]]).argmax()))
        return path
    if no_following:
        return scores.argmax(-1).tolist()
    back = []
    for word in scores[1:]:
        sums = (best[:, None] * following) if product else (best[:, None] + following)
        top, where = sums.max(0)
        best = (word + following.max(0).values) if local else word + top
        back.append(where)
    path = [int(scores[-1].argmax()) if wrong_end else int(best.argmax())]
    for where in reversed(back):
        path.append(int(where[path[-1]]))
    return path if reversed_path else path[::-1]


def _vi_wrong(**switches):
    def viterbi(scores, first, following):
        return _viterbi(scores, first, following, **switches)

    return viterbi


VITERBI = Exercise(
    id="tokens/viterbi",
    lesson="08",
    title="The best path, not the best words",
    difficulty=4,
    minutes=25,
    reference=token_classification.viterbi,
    stub=viterbi_stub,
    cases=[
        Case("three words, three tags", _vi(3, 3, 1)),
        Case("six texts of seven words", _vi_many),
        Case("six texts under the rules of BIO", _vi_rules),
        Case("one word", _vi(1, 4, 5)),
        Case("200 words, in time", _vi_long),
        Case("no word", _vi_empty),
    ],
    hints=[
        "Keep one number for each tag: the sum of the best path so far that ends in it. How do you "
        "get the numbers for the next word from them?",
        "sums = best[:, None] + following is (tags before, tags); its maximum over the tags "
        "before, plus the word's scores, is the next `best`. Keep the argmax too: it says where "
        "each path came from.",
        "At the end take best.argmax(), then walk back through the kept argmaxes, last to first, "
        "and turn the path round.",
    ],
    mistakes=[
        Mistake(
            _vi_wrong(greedy=True),
            "You fixed one word after the other. A tag that is good now may leave only bad ones "
            "for the next word: keep the best path for *each* tag, and choose at the end.",
        ),
        Mistake(
            _vi_wrong(no_following=True),
            "Each word has its likeliest tag, whatever stands beside it: `following` is not used.",
        ),
        Mistake(
            _vi_wrong(local=True),
            "The sum of the path so far is lost at each word: add it to the next word's scores.",
        ),
        Mistake(_vi_wrong(no_first=True), "`first` is not used: it counts for the first word."),
        Mistake(
            _vi_wrong(transposed=True),
            "The transitions are the wrong way round: following[i, j] is from i to j.",
        ),
        Mistake(
            _vi_wrong(reversed_path=True),
            "The path runs from the last word to the first: turn it round.",
        ),
        Mistake(
            _vi_wrong(wrong_end=True),
            "You began the way back at the last word's likeliest tag. Begin at the largest sum.",
        ),
        Mistake(
            _vi_wrong(product=True),
            "You multiplied. Log-probabilities, and −∞, are added.",
        ),
    ],
)

# --- answers/best-span ----------------------------------------------------------------------------


def best_span_stub(start_logits, end_logits, allowed, max_length=30):
    """→ (first, last, score): the pair of pieces with the largest start + end logit

    start_logits, end_logits (pieces,); allowed (pieces,), bool, True = a piece of the context. Both
    pieces are allowed, first <= last, and the span has at most max_length pieces. score: the sum,
    as float; of equal sums any pair. ValueError where no piece is allowed.
    """
    raise NotImplementedError("your turn")


def _bs(pieces, seed, max_length=30, allowed=None):
    def run(implementation):
        start, end = _draw(seed, pieces), _draw(seed + 1, pieces)
        mask = torch.ones(pieces, dtype=torch.bool)
        if allowed is not None:
            mask[:] = False
            mask[allowed] = True
        first, last, score = implementation(start, end, mask, max_length)
        return int(first), int(last), float(score)

    return run


def _bs_many(max_length, seed):
    def run(implementation):
        return [_bs(12, seed + 2 * i, max_length)(implementation) for i in range(6)]

    return run


def _bs_crossed(implementation):
    """the best start stands behind the best end"""
    start = torch.tensor([0.0, 1.0, 2.0, 9.0, 0.0])
    end = torch.tensor([0.0, 9.0, 0.0, 1.0, 2.5])
    first, last, score = implementation(start, end, torch.ones(5, dtype=torch.bool))
    return int(first), int(last), float(score)


def _bs_specials(implementation):
    """[CLS], the question and [SEP] have the largest logits, and are no answer"""
    start, end = _draw(3, 10), _draw(4, 10)
    start[:4] += 20
    end[:4] += 20
    end[9] += 20
    allowed = torch.arange(10).clamp(4, 8) == torch.arange(10)
    first, last, score = implementation(start, end, allowed)
    return int(first), int(last), float(score)


def _bs_negative(implementation):
    """all sums are far below 0"""
    first, last, score = implementation(
        _draw(8, 6) - 50, _draw(9, 6) - 50, torch.ones(6, dtype=torch.bool)
    )
    return int(first), int(last), float(score)


def _bs_nothing(implementation):
    return implementation(torch.zeros(3), torch.zeros(3), torch.zeros(3, dtype=torch.bool))


def _best(start, end, allowed, max_length=30, *, alone=False, order=True, limit=0, strict=False,
          length=True, mask="both", zeros=False, exclusive=False, checked=True,
          start_first=False):  # fmt: skip
    """The reference in one piece, with a switch for each known mistake."""
    if checked and not allowed.any():
        raise ValueError("no piece is allowed")
    pieces = len(start)
    if alone:
        start, end = (x.masked_fill(~allowed, -INFINITY) for x in (start, end))
        first, last = int(start.argmax()), int(end.argmax())
        return first, last, (start[first] + end[last]).item()
    sums = start[:, None] + end[None, :]
    fits = torch.ones(pieces, pieces, dtype=torch.bool)
    if order:
        fits = fits.triu(1 if strict else 0)
    if length:
        fits = fits.tril(max_length - 1 + limit)
    if mask in ("both", "start"):
        fits = fits & allowed[:, None]
    if mask in ("both", "end"):
        fits = fits & allowed[None, :]
    if start_first:  # the best start, and then the best end that fits it
        best_start = start.masked_fill(~fits.any(1), -INFINITY).argmax()
        fits = fits & (torch.arange(pieces) == best_start)[:, None]
    flat = sums * fits if zeros else sums.masked_fill(~fits, -INFINITY)
    first, last = divmod(int(flat.argmax()), pieces)
    return first, last + exclusive, sums[first, last].item()


def _bs_wrong(**switches):
    def best_span(start_logits, end_logits, allowed, max_length=30):
        return _best(start_logits, end_logits, allowed, max_length, **switches)

    return best_span


BEST_SPAN = Exercise(
    id="answers/best-span",
    lesson="08",
    title="The best span",
    difficulty=3,
    minutes=15,
    reference=question_answering.best_span,
    stub=best_span_stub,
    cases=[
        Case("six times twelve pieces", _bs_many(30, 50)),
        Case("the best start stands behind the best end", _bs_crossed),
        Case("at most three pieces", _bs_many(3, 90)),
        Case("at most one piece", _bs_many(1, 120)),
        Case("[CLS], question and [SEP] have large logits", _bs_specials),
        Case("sums far below 0", _bs_negative),
        Case("a single allowed piece", _bs(7, 20, allowed=[3])),
        Case("no allowed piece is refused", _bs_nothing),
    ],
    hints=[
        "start_logits[:, None] + end_logits[None, :] has all sums at once, (first, last). Which of "
        "them may not win?",
        "triu() keeps first <= last, tril(max_length − 1) keeps short spans, allowed[:, None] & "
        "allowed[None, :] keeps the context. Fill the rest with −∞, then argmax.",
        "argmax of a matrix counts through its rows: first, last = divmod(index, pieces).",
    ],
    mistakes=[
        Mistake(
            _bs_wrong(alone=True),
            "You took the best start and the best end, each on its own. The end may stand before "
            "the start then, or too far behind: look at pairs.",
        ),
        Mistake(
            _bs_wrong(start_first=True),
            "You fixed the best start and looked for an end to it. A slightly worse start may have "
            "a much better end: look at all pairs.",
        ),
        Mistake(_bs_wrong(order=False), "A span may not end before it starts: first <= last."),
        Mistake(_bs_wrong(strict=True), "An answer may be one piece: first <= last, not <."),
        Mistake(_bs_wrong(length=False), "max_length is not kept."),
        Mistake(
            _bs_wrong(limit=1),
            "One piece too long: a span from first to last has last − first + 1 pieces.",
        ),
        Mistake(_bs_wrong(limit=-1), "One piece too short: a span of max_length pieces is fine."),
        Mistake(
            _bs_wrong(mask="none"),
            "[CLS], the question and [SEP] can be the answer: only allowed pieces may.",
        ),
        Mistake(_bs_wrong(mask="start"), "The end may stand on a piece that is not allowed."),
        Mistake(_bs_wrong(mask="end"), "The start may stand on a piece that is not allowed."),
        Mistake(
            _bs_wrong(zeros=True),
            "You set forbidden pairs to 0, and 0 beats every sum below 0. Use −∞.",
        ),
        Mistake(
            _bs_wrong(exclusive=True),
            "`last` is one too far: here it is the last piece itself, not the one behind it.",
        ),
        Mistake(
            _bs_wrong(checked=False),
            "Right wherever there is an answer; without an allowed piece the result is "
            "meaningless. Raise ValueError.",
        ),
    ],
)

# --- answers/best-of-windows ----------------------------------------------------------------------


def best_of_windows_stub(spans, offsets):
    """→ (start, end, score): the best of the windows' spans, in characters of the whole context

    spans: for each window (first, last, score), pieces counted in that window, `last` is part of
    the span. offsets: for each window and piece (start, end), characters of the whole context, or
    None for [CLS], question and [SEP]. Of equal scores the first window's counts. ValueError where
    there is no window.
    """
    raise NotImplementedError("your turn")


def _some_windows(windows, seed):
    """windows of eight pieces, two of them shared; pieces of unequal lengths, gaps between"""
    lengths = torch.randint(1, 6, (60,), generator=torch.Generator().manual_seed(seed)).tolist()
    places, at = [], 0
    for i, length in enumerate(lengths):
        places.append((at, at + length))
        at += length + (i % 3 > 0)  # some pieces touch: "##" continues a word
    offsets = [[None] * 4 + places[6 * w : 6 * w + 8] + [None] for w in range(windows)]
    scores = _draw(seed, windows).tolist()
    spans = [(4 + (3 * w + seed) % 5, 4 + (3 * w + seed) % 5 + w % 3, s)
             for w, s in enumerate(scores)]  # fmt: skip
    return spans, offsets


def _bw(windows, seed):
    def run(implementation):
        start, end, score = implementation(*_some_windows(windows, seed))
        return int(start), int(end), float(score)

    return run


def _bw_many(implementation):
    return [_bw(5, seed)(implementation) for seed in range(8)]


def _bw_equal(implementation):
    spans, offsets = _some_windows(3, 2)
    start, end, score = implementation([(a, b, 1.5) for a, b, _ in spans], offsets)
    return int(start), int(end), float(score)


def _bw_below_zero(implementation):
    spans, offsets = _some_windows(4, 3)
    start, end, score = implementation([(a, b, s - 9) for a, b, s in spans], offsets)
    return int(start), int(end), float(score)


def _bw_none(implementation):
    return implementation([], [])


def _windows(spans, offsets, *, which="best", end="last", own_start=False, strict=False,
             first_offsets=False, inclusive=False, floor=None, checked=True):  # fmt: skip
    """The reference in one piece, with a switch for each known mistake."""
    if not spans:
        if checked:
            raise ValueError("there is no window")
        return -1, -1, -INFINITY
    scores = [score for _, _, score in spans]
    window = scores.index(max(scores))
    if which == "first":
        window = 0
    elif which == "last of equals":
        window = len(scores) - 1 - scores[::-1].index(max(scores))
    elif which == "longest":
        window = max(range(len(spans)), key=lambda i: spans[i][1] - spans[i][0])
    if floor is not None and scores[window] <= floor:
        return -1, -1, floor
    first, last, score = spans[window]
    table = offsets[0] if first_offsets else offsets[window]
    start, stop = table[first][0], table[last][1 if end == "last" else 0]
    if end == "first":
        stop = table[first][1]
    if own_start:  # counted from the window's own beginning
        shift = next(place[0] for place in table if place is not None)
        start, stop = start - shift, stop - shift
    return start, stop - inclusive, score


def _bw_wrong(**switches):
    def best_of_windows(spans, offsets):
        return _windows(spans, offsets, **switches)

    return best_of_windows


BEST_OF_WINDOWS = Exercise(
    id="answers/best-of-windows",
    lesson="08",
    title="From windows back to characters",
    difficulty=2,
    minutes=10,
    reference=question_answering.best_of_windows,
    stub=best_of_windows_stub,
    cases=[
        Case("eight contexts of five windows", _bw_many),
        Case("one window", _bw(1, 4)),
        Case("equal scores", _bw_equal),
        Case("all scores below 0", _bw_below_zero),
        Case("no window is refused", _bw_none),
    ],
    hints=[
        "First the window: the one with the largest score. Piece numbers mean something only "
        "together with the offsets of *their* window.",
        "start is offsets[window][first][0], end is offsets[window][last][1]: the start of the "
        "first piece, the end of the last.",
    ],
    mistakes=[
        Mistake(
            _bw_wrong(first_offsets=True),
            "The pieces of one window were looked up in the first window's offsets. Each window "
            "has its own.",
        ),
        Mistake(_bw_wrong(which="first"), "You answered from the first window. Take the best."),
        Mistake(
            _bw_wrong(which="longest"),
            "You took the longest span. The largest score decides.",
        ),
        Mistake(
            _bw_wrong(end="start of last"),
            "The answer stops before its last piece: take that piece's end, not its start.",
        ),
        Mistake(
            _bw_wrong(end="first"),
            "The answer stops behind its first piece: the end comes from piece `last`.",
        ),
        Mistake(
            _bw_wrong(own_start=True),
            "These characters are counted from the window's beginning. The offsets already count "
            "from the context's: subtract nothing.",
        ),
        Mistake(
            _bw_wrong(inclusive=True),
            "The end is one character short: it is the place behind the last character.",
        ),
        Mistake(
            _bw_wrong(which="last of equals"),
            "Of equal scores the first window's counts: compare with >, not >=.",
        ),
        Mistake(
            _bw_wrong(floor=0.0),
            "You began the search at 0, and scores below 0 never win. Logits have no zero.",
        ),
        Mistake(
            _bw_wrong(checked=False),
            "Right; but without a window there is no answer to give. Raise ValueError.",
        ),
    ],
)

# --- answers/threshold ----------------------------------------------------------------------------


def choose_threshold_stub(differences, gains):
    """→ float: the threshold on no_answer − score with the largest total gain

    differences: for each question no_answer − score; answered is where difference <= threshold.
    gains: for each question what answering wins over declining: F1 of the answer, or −1 where there
    is nothing to answer. The threshold is one of the differences, or −inf (never answer); of
    equally good ones the smallest. ValueError for unequal lengths or no question.
    """
    raise NotImplementedError("your turn")


def _th(differences, gains):
    def run(implementation):
        return float(implementation(list(differences), list(gains)))

    return run


def _th_many(implementation):
    found = []
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        differences = torch.randn(20, generator=g).tolist()
        gains = torch.where(
            torch.rand(20, generator=g) < 0.55, torch.rand(20, generator=g), torch.tensor(-1.0)
        ).tolist()
        found.append(float(implementation(differences, gains)))
    return found


def _threshold(differences, gains, *, sign=1, count=False, ties=True, smallest=True, below=False,
               never=True, single=False, zero=False, checked=True):  # fmt: skip
    """The reference in one piece, with a switch for each known mistake."""
    if checked and (len(differences) != len(gains) or not len(gains)):
        raise ValueError("one gain for each difference")
    if zero:
        return 0.0
    rows = sorted(zip(differences, gains), key=lambda row: row[0])
    if single:  # the question with the largest gain of its own
        return max(rows, key=lambda row: row[1])[0]

    def total(t):
        chosen = [g for d, g in rows if (d < t if below else sign * d <= sign * t)]
        if count:
            return sum(1 if g > 0 else -1 for g in chosen)
        return sum(chosen)

    best, threshold = (0.0, -INFINITY) if never else (-INFINITY, None)
    running = 0.0
    for difference, gain in rows:
        running += gain
        value = total(difference) if ties else running
        if value > best + 1e-9 or (not smallest and value > best - 1e-9):
            best, threshold = value, difference
    return threshold


def _th_wrong(**switches):
    def choose_threshold(differences, gains):
        return _threshold(differences, gains, **switches)

    return choose_threshold


THRESHOLD = Exercise(
    id="answers/threshold",
    lesson="08",
    title="When to decline",
    difficulty=3,
    minutes=15,
    reference=question_answering.choose_threshold,
    stub=choose_threshold_stub,
    cases=[
        Case("eight times twenty questions", _th_many),
        Case("four questions", _th([-3.0, -1.0, 0.5, 2.0], [1.0, 0.4, -1.0, 0.9])),
        Case("better never to answer", _th([-1.0, 0.0, 1.0], [-1.0, 0.3, -1.0])),
        Case("every question has an answer", _th([2.0, -1.0, 0.0], [1.0, 1.0, 0.5])),
        Case("equal differences", _th([0.0, 0.0, 1.0, 2.0], [1.0, -1.0, 0.6, -1.0])),
        Case("equally good thresholds", _th([0.0, 1.0, 2.0, 3.0], [1.0, -1.0, 1.0, -1.0])),
        Case("one difference, three questions", _th([1.0, 1.0, 1.0], [1.0, -1.0, -1.0])),
        Case("unequal lengths are refused", _th([1.0, 2.0], [1.0])),
        Case("no question is refused", _th([], [])),
    ],
    hints=[
        "Sort the questions by their difference. A threshold answers all questions up to some "
        "place in that order: what is the total gain up to there?",
        "A running sum over the sorted gains, and its largest value. Begin with 0 and −inf: "
        "answering nothing gains nothing.",
        "Two questions with the same difference are answered together: look at the running sum "
        "only behind the last of them.",
    ],
    mistakes=[
        Mistake(
            _th_wrong(sign=-1),
            "Answered is where difference <= threshold: a small no_answer − score means that the "
            "model is sure of its span. Yours answers the others.",
        ),
        Mistake(
            _th_wrong(never=False),
            "Where every answer would cost, −inf, never to answer, is the best threshold.",
        ),
        Mistake(
            _th_wrong(count=True),
            "You counted right and wrong answers. A gain may be a part: add the gains themselves.",
        ),
        Mistake(
            _th_wrong(ties=False),
            "Questions with the same difference are answered together or not at all: no threshold "
            "lies between them.",
        ),
        Mistake(_th_wrong(smallest=False), "Of equally good thresholds take the smallest."),
        Mistake(
            _th_wrong(below=True),
            "A question whose difference equals the threshold is answered too: <=.",
        ),
        Mistake(
            _th_wrong(single=True),
            "You took the difference of the question with the largest gain. The total over all "
            "answered questions counts.",
        ),
        Mistake(_th_wrong(zero=True), "0 is a threshold like any other. Choose it by the gains."),
        Mistake(
            _th_wrong(checked=False),
            "The threshold is right; unequal lengths and no question go through. Raise ValueError.",
        ),
    ],
)

# --- tokens/learned-transitions (open) ------------------------------------------------------------

LEARNED_TRANSITIONS = OpenExercise(
    id="tokens/learned-transitions",
    lesson="08",
    title="Transitions that were counted",
    difficulty=4,
    minutes=45,
    task="Viterbi only forbids so far. Count in the training tags how often each tag follows each "
    "other, give Viterbi the logarithms of those shares, and find out whether entity F1 rises.",
    hints=[
        "Count pairs of neighbouring tags over all training texts, add a little to each allowed "
        "count so that no logarithm is −∞ by chance, and divide each row by its sum.",
        "The tagger's own scores have seen the neighbours too, so adding the whole logarithm "
        "counts that knowledge twice: try weights from 0 to 1, and choose on validation.",
    ],
    rubric=[
        "What BIO forbids stays forbidden, whatever the counts say.",
        "Unseen pairs that BIO allows keep a small share: you say how you smoothed.",
        "The weight of the transitions was chosen on validation, the result is told on test, with "
        "weight 0 (the rules alone) beside it.",
        "You tried it on a strong and on a weak tagger, or with few training texts.",
        "You can say what a conditional random field would do differently.",
    ],
    answer="""Counts over the training tags, 0.1 added to each, rows divided by their sums, rules
kept; entity F1 by Viterbi with the logarithms times a weight (one seed each):

| weight | MiniLM, validation | MiniLM, test | small, 400 texts, validation | test |
| --- | --- | --- | --- | --- |
| no rules at all | 0.927 | 0.903 | 0.272 | 0.250 |
| 0 (the rules alone) | 0.945 | 0.924 | 0.306 | 0.280 |
| 0.1 | 0.947 | 0.928 | 0.317 | 0.292 |
| 0.25 | 0.947 | 0.932 | 0.319 | 0.269 |
| 0.5 | 0.947 | 0.937 | 0.149 | 0.159 |
| 1 | 0.930 | 0.925 | 0.014 | 0.010 |

1. **The rules come first**: 1 to 3 points in these two taggers, before anything is counted.
2. **A little of the counts helps the strong one**: 0.924 becomes 0.928 to 0.937. Validation, 350
   texts, can not tell 0.1 from 0.5; whoever picks 0.5 because of its test figure has fitted the
   test. For the weak one validation picks 0.25, and test *loses* a point: so small a gain is
   within the noise of one seed.
3. **The whole logarithm ruins the weak tagger.** Its words are unsure, so the counts decide, and
   they say: after O comes O.
4. **A conditional random field** learns such weights together with the tagger, so that nothing is
   counted twice; here they were added to scores that have seen the neighbours already.

Not tried: other amounts of smoothing, more seeds, counts by type of the next word.""",
)

EXERCISES = [
    BIO_SPANS,
    ALIGN_LABELS,
    VITERBI,
    BEST_SPAN,
    BEST_OF_WINDOWS,
    THRESHOLD,
    LEARNED_TRANSITIONS,
]

# --- Claims ---------------------------------------------------------------------------------------


def _judge_accuracy(silent_accuracy, silent_f1, accuracy, f1):
    """word accuracy and entity F1 of a tagger that always says O, and of a trained one"""
    if silent_accuracy < 0.6 or silent_f1 > 0:
        return Verdict(True, "a tagger that finds nothing has a low accuracy too.")
    apart = (
        "and the trained tagger misses or breaks a larger share of entities than of words"
        if accuracy > f1
        else "though the trained tagger's F1 is not below its accuracy"
    )
    return Verdict(
        False,
        "a tagger that always says O is right on most words, and finds nothing at all: its "
        f"accuracy is high, its entity F1 is 0; {apart}.",
    )


def _judge_rules(illegal_strong, gain_strong, illegal_weak, gain_weak):
    """of a well-trained and of a weak tagger: forbidden tags, each word judged alone, and what
    entity F1 gains when Viterbi forbids them"""
    if illegal_strong == 0 or gain_strong <= 0:
        return Verdict(True, "the well-trained tagger breaks no rule, or gains nothing by them.")
    more = "a weaker one more" if illegal_weak > illegal_strong else "a weaker one as well"
    return Verdict(
        False,
        f"also the well-trained tagger gives forbidden tags, {more}: each word is judged alone, "
        "and where it is unsure, neighbours disagree. Forbidding them raises its entity F1 a "
        "little, without any training.",
    )


def _judge_on_their_own(behind, too_far):
    """shares of the questions where the best end stands before the best start, and where it stands
    too far behind it. Elsewhere the two make a legal span, and then it is the best pair."""
    if behind == too_far == 0:
        return Verdict(True, "the best start and the best end make a span every time.")
    what = [
        words
        for words, share in (
            ("the best end stands before the best start", behind),
            ("the two are further apart than an answer may be long", too_far),
        )
        if share > 0
    ]
    return Verdict(
        False,
        f"at some questions {', at others '.join(what)}; there is no answer to cut out then. The "
        "best pair is looked for among the legal pairs.",
    )


def _judge_two_in_one(slots_alone, slots_joint, intents_alone, intents_joint):
    """entity F1 and intent accuracy in scope, of two models and of one"""
    lost = {"slots": slots_alone - slots_joint, "intents": intents_alone - intents_joint}
    pays = [name for name, points in lost.items() if points > 0.015]
    if len(pays) == 2:
        return Verdict(True, "the joint model is more than a point and a half behind in both.")
    if pays:
        (free,) = lost.keys() - pays
        return Verdict(
            False,
            f"one of the two pays: the {pays[0]} lose more than a point and a half, the {free} do "
            "not. Who pays depends on the weights of the losses.",
        )
    return Verdict(
        False,
        "one encoder under two heads stays within a point and a half of two encoders, in both "
        "tasks, and reads each text once instead of twice.",
    )


CLAIMS = [
    Claim(
        id="tokens/accuracy",
        statement="Nearly all words have the right tag, so nearly all entities are found.",
        source="goes round",
        judge=_judge_accuracy,
        holds=dict(silent_accuracy=0.3, silent_f1=0.0, accuracy=0.95, f1=0.9),
        fails=dict(silent_accuracy=0.8, silent_f1=0.0, accuracy=0.95, f1=0.9),
    ),
    Claim(
        id="tokens/rules-learned",
        statement="A well-trained tagger has learned BIO's rules from its data, so decoding needs "
        "none.",
        source="goes round",
        judge=_judge_rules,
        holds=dict(illegal_strong=0, gain_strong=0.0, illegal_weak=300, gain_weak=0.03),
        fails=dict(illegal_strong=50, gain_strong=0.012, illegal_weak=300, gain_weak=0.03),
    ),
    Claim(
        id="answers/on-their-own",
        statement="Take the likeliest start and the likeliest end: that is the answer.",
        source="tutorials",
        judge=_judge_on_their_own,
        holds=dict(behind=0.0, too_far=0.0),
        fails=dict(behind=0.1, too_far=0.03),
    ),
    Claim(
        id="tokens/two-in-one",
        statement="A model that does two tasks at once does each of them worse.",
        source="goes round",
        judge=_judge_two_in_one,
        holds=dict(slots_alone=0.92, slots_joint=0.88, intents_alone=0.95, intents_joint=0.91),
        fails=dict(slots_alone=0.92, slots_joint=0.915, intents_alone=0.95, intents_joint=0.91),
    ),
]
