"""Lesson 10, TinyBERT and layer mapping: its exercises, their known mistakes, and its claims."""

import torch
from torch import nn

from course_utils import augmentation, tinybert, trimming
from course_utils.augmentation import split_words
from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


def _draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=_seeded(seed), dtype=dtype)


def _refusal(call):
    """The name of the error that a call raises, or "no error"."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "no error"


# --- tinybert/layer-map ---------------------------------------------------------------------------


def uniform_layers_stub(teacher_layers, student_layers):
    """→ tuple of student_layers numbers: the teacher's layer for each student layer 1, 2, …, M

    Evenly spaced, g(m) = m * N / M; N teacher layers, M student layers, all counted from 1. Where
    that is a fraction, the nearest whole number, a half up. ValueError for fewer than one layer on
    either side, and for more student layers than teacher layers.
    """
    raise NotImplementedError("your turn")


def _lm_case(teacher, student):
    def layers(implementation):
        found = implementation(teacher, student)
        return type(found).__name__, [n if type(n) is int else repr(n) for n in found]

    return layers


def _lm_refusals(implementation):
    return {
        str(pair): _refusal(lambda pair=pair: implementation(*pair))
        for pair in ((4, 6), (4, 0), (0, 0), (4, -1))
    }


def _lm_wrong(layers, checked=True):
    """layers(N, M) → list; checked: with the reference's refusals"""

    def uniform_layers(teacher_layers, student_layers):
        if checked:
            tinybert.uniform_layers(teacher_layers, student_layers)
        return tuple(layers(teacher_layers, student_layers))

    return uniform_layers


def _each(formula):
    return _lm_wrong(lambda n, m: [formula(k, n, m) for k in range(1, m + 1)])


LAYER_MAP = Exercise(
    id="tinybert/layer-map",
    lesson="10",
    title="The uniform map",
    difficulty=1,
    minutes=8,
    reference=tinybert.uniform_layers,
    stub=uniform_layers_stub,
    cases=[
        Case("12 → 4", _lm_case(12, 4)),
        Case("12 → 6", _lm_case(12, 6)),
        Case("6 → 3", _lm_case(6, 3)),
        Case("12 → 5, which does not divide", _lm_case(12, 5)),
        Case("6 → 4, with two halves", _lm_case(6, 4)),
        Case("one student layer", _lm_case(7, 1)),
        Case("as many as the teacher's", _lm_case(3, 3)),
        Case("what can not be mapped", _lm_refusals),
    ],
    hints=[
        "One number for each *student* layer: m runs from 1 to M, and g(M) must be N. For 12 → 4 "
        "write the four numbers down first.",
        "A half up, in whole numbers: (2 * m * N + M) // (2 * M). Python's round would take a half "
        "to the even number.",
    ],
    mistakes=[
        Mistake(
            _lm_wrong(lambda n, m: [-(-k * m // n) for k in range(1, n + 1)]),
            "That is the inverted formula: a student layer for each teacher layer. Asked is one "
            "teacher layer for each student layer.",
        ),
        Mistake(
            _each(lambda k, n, m: n - m + k),
            "Those are the teacher's last layers, the map called top. Uniform spreads them evenly.",
        ),
        Mistake(
            _each(lambda k, n, m: k),
            "Those are the teacher's first layers, the map called bottom. Uniform spreads them.",
        ),
        Mistake(
            _each(lambda k, n, m: k * n // m),
            "You round down. 12 / 5 is 2.4, but 2 · 12 / 5 is 4.8, and 5 is nearer than 4.",
        ),
        Mistake(
            _each(lambda k, n, m: -(-k * n // m)),
            "You round up. 12 / 5 is 2.4, and 2 is nearer than 3.",
        ),
        Mistake(
            _each(lambda k, n, m: round(k * n / m)),
            "Python's round takes a half to the even number: 4.5 becomes 4. Asked is a half up.",
        ),
        Mistake(
            _each(lambda k, n, m: (2 * k * n + m) // (2 * m) - 1),
            "You count from 0. The teacher's first layer is 1, and 0 stands for the embeddings.",
        ),
        Mistake(
            _each(lambda k, n, m: 1 + (2 * (k - 1) * n + m) // (2 * m)),
            "You take the first layer of each block. The student's last layer must learn from the "
            "teacher's last: take m * N / M.",
        ),
        Mistake(
            _each(lambda k, n, m: round(1 + (k - 1) * (n - 1) / max(1, m - 1))),
            "You spread them between the teacher's first and last layer. The formula is m * N / M: "
            "12 → 4 begins with 3.",
        ),
        Mistake(
            _lm_wrong(lambda n, m: [0, *tinybert.uniform_layers(n, m), n + 1]),
            "You added the ends, 0 for the embeddings and N + 1 for the prediction. Asked are the "
            "layers between them.",
        ),
        Mistake(
            _lm_wrong(
                lambda n, m: [(2 * k * n + m) // (2 * m) for k in range(1, m + 1)], checked=False
            ),
            "The numbers are right; 6 student layers on a teacher of 4 go through without a word. "
            "Raise ValueError.",
        ),
    ],
)

# --- tinybert/hidden-loss -------------------------------------------------------------------------


def hidden_loss_stub(student_states, teacher_states, projection, attention_mask):
    """→ scalar: mean squared difference of projection(student_states) and teacher_states

    student_states (batch, tokens, d_s), teacher_states (batch, tokens, d_t), projection a layer
    d_s → d_t, attention_mask (batch, tokens), 1 = a token, 0 = padding. The mean is over real
    tokens and features; a batch of padding alone gives 0. No gradient reaches the teacher.
    """
    raise NotImplementedError("your turn")


_MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])


def _hl_projection(seed=0):
    layer = nn.Linear(4, 6, bias=False)
    layer.weight.data = _draw(seed, 6, 4)
    return layer


def _hl_case(mask, tokens=5, dtype=torch.float32):
    def run(implementation):
        student = _draw(1, len(mask), tokens, 4, dtype=dtype)
        teacher = _draw(2, len(mask), tokens, 6, dtype=dtype)
        return implementation(student, teacher, _hl_projection().to(dtype), mask).detach()

    return run


def _hl_padded_further(implementation):
    """The same texts, then with two more columns of padding that hold large numbers."""
    student, teacher = _draw(1, 2, 3, 4), _draw(2, 2, 3, 6)
    wide = [nn.functional.pad(one, (0, 0, 0, 2), value=9.0) for one in (student, teacher)]
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    pair = (
        implementation(student, teacher, _hl_projection(), mask[:, :3]),
        implementation(*wide, _hl_projection(), mask),
    )
    return [one.detach() for one in pair]


def _hl_gradients(implementation):
    student, teacher = _draw(1, 3, 5, 4).requires_grad_(), _draw(2, 3, 5, 6).requires_grad_()
    projection = _hl_projection()
    loss = implementation(student, teacher, projection, _MASK)
    if loss.requires_grad:
        loss.backward()
    found = {"student": student.grad, "teacher": teacher.grad, "projection": projection.weight.grad}
    return {name: torch.zeros(()) if grad is None else grad for name, grad in found.items()}


def _hl(
    student_states,
    teacher_states,
    projection,
    attention_mask,
    *,
    gap=lambda difference: difference.pow(2),
    mean=lambda gaps, real: (
        (gaps * real[..., None]).sum() / (real.sum().clamp(min=1) * gaps.size(-1))
    ),
    detach=lambda student, teacher: (student, teacher.detach()),
    project=lambda projection, states: projection(states),
):
    """The reference in parts, one of which each known mistake changes."""
    mine, other = detach(project(projection, student_states), teacher_states)
    return mean(gap(mine - other), attention_mask.to(mine.dtype))


def _hl_wrong(**switches):
    def hidden_loss(*args):
        return _hl(*args, **switches)

    return hidden_loss


def _by_text(gaps, real):
    texts = (gaps.mean(-1) * real).sum(1) / real.sum(1).clamp(min=1)  # (batch,)
    return texts.mean()


HIDDEN_LOSS = Exercise(
    id="tinybert/hidden-loss",
    lesson="10",
    title="Hidden states, through a projection",
    difficulty=2,
    minutes=12,
    reference=tinybert.hidden_loss,
    stub=hidden_loss_stub,
    cases=[
        Case("three texts, two of them padded", _hl_case(_MASK)),
        Case("nothing is padded", _hl_case(torch.ones(2, 4).long(), tokens=4)),
        Case("one text, float64", _hl_case(_MASK[1:2], dtype=torch.float64)),
        Case("the same texts, padded further", _hl_padded_further),
        Case("nothing but padding", _hl_case(torch.zeros(2, 3).long(), tokens=3)),
        Case("who gets a gradient", _hl_gradients),
    ],
    hints=[
        "Which side is projected? The student's: d_s → d_t. Then square the difference and look at "
        "its shape: (batch, tokens, d_t).",
        "attention_mask[..., None] is (batch, tokens, 1). Multiply, add up, and divide by the "
        "number of real tokens times d_t, at least 1; teacher_states.detach().",
    ],
    mistakes=[
        Mistake(
            _hl_wrong(mean=lambda gaps, real: gaps.mean()),
            "Padding counts: the same texts give another loss when they are padded further.",
        ),
        Mistake(
            _hl_wrong(mean=lambda gaps, real: (gaps * real[..., None]).mean()),
            "Padding is set to 0 but still counted in the mean. Divide by the number of real "
            "tokens.",
        ),
        Mistake(
            _hl_wrong(
                mean=lambda gaps, real: (gaps * real[..., None]).sum() / real.sum().clamp(min=1)
            ),
            "You add up over the features. The mean goes over tokens and features.",
        ),
        Mistake(
            _hl_wrong(mean=lambda gaps, real: (gaps * real[..., None]).sum()),
            "That is a sum; a long batch would weigh more than a short one. Take the mean.",
        ),
        Mistake(
            _hl_wrong(mean=_by_text),
            "You average each text first, so a token of a short text weighs more. Take one mean "
            "over all real tokens.",
        ),
        Mistake(
            _hl_wrong(
                mean=lambda gaps, real: (
                    (gaps * (1 - real)[..., None]).sum()
                    / ((1 - real).sum().clamp(min=1) * gaps.size(-1))
                )
            ),
            "You compare the padding and leave the tokens out: 1 is a token, 0 is padding.",
        ),
        Mistake(
            _hl_wrong(gap=torch.abs),
            "Those are absolute differences. Square them.",
        ),
        Mistake(
            lambda *args: _hl(*args).sqrt(),
            "That is the square root of the mean. Leave the mean as it is.",
        ),
        Mistake(
            _hl_wrong(
                mean=lambda gaps, real: (
                    (gaps * real[..., None]).sum() / (real.sum() * gaps.size(-1))
                )
            ),
            "A batch of padding alone gives 0 / 0. Divide by at least 1.",
        ),
        Mistake(
            _hl_wrong(detach=lambda student, teacher: (student, teacher)),
            "A gradient reaches the teacher: detach its states.",
        ),
        Mistake(
            _hl_wrong(detach=lambda student, teacher: (student.detach(), teacher)),
            "You detached the student, so it learns nothing. The teacher's side is to be detached.",
        ),
        Mistake(
            _hl_wrong(
                project=lambda projection, states: projection(states.detach()),
            ),
            "The projection learns and the student does not: its states are detached before they "
            "are projected.",
        ),
    ],
)

# --- tinybert/attention-loss ----------------------------------------------------------------------


def attention_loss_stub(student_scores, teacher_scores, attention_mask):
    """→ scalar: mean squared difference of the scores, before softmax

    student_scores, teacher_scores (batch, heads, tokens, tokens); attention_mask (batch, tokens),
    1 = a token, 0 = padding. The mean is over heads and over pairs of a real query and a real key;
    a batch of padding alone gives 0. ValueError for another number of heads. No gradient reaches
    the teacher.
    """
    raise NotImplementedError("your turn")


def _al_case(mask, heads=2, dtype=torch.float32):
    def run(implementation):
        shape = (len(mask), heads, mask.size(1), mask.size(1))
        student, teacher = _draw(1, *shape, dtype=dtype), _draw(2, *shape, dtype=dtype)
        return implementation(student, teacher, mask).detach()

    return run


def _al_corners(implementation):
    """Large numbers where the query, the key, or both are padding"""
    found = {}
    for name, rows, columns in (
        ("padded queries", slice(3, 5), slice(0, 3)),
        ("padded keys", slice(0, 3), slice(3, 5)),
        ("both", slice(3, 5), slice(3, 5)),
    ):
        student, teacher = _draw(1, 3, 2, 5, 5), _draw(2, 3, 2, 5, 5)
        student[1, :, rows, columns] = 50.0
        found[name] = implementation(student, teacher, _MASK).detach()
    return found


def _al_heads(implementation):
    shapes = {"1 and 3": (1, 3), "4 and 2": (4, 2)}
    return {
        name: _refusal(
            lambda a=a, b=b: implementation(_draw(1, 3, a, 5, 5), _draw(2, 3, b, 5, 5), _MASK)
        )
        for name, (a, b) in shapes.items()
    }


def _al_gradients(implementation):
    student, teacher = _draw(1, 3, 2, 5, 5).requires_grad_(), _draw(2, 3, 2, 5, 5).requires_grad_()
    loss = implementation(student, teacher, _MASK)
    if loss.requires_grad:
        loss.backward()
    found = {"student": student.grad, "teacher": teacher.grad}
    return {name: torch.zeros(()) if grad is None else grad for name, grad in found.items()}


def _pairs(mask):
    """(batch, 1, queries, keys): 1 where both are real"""
    return mask[:, None, :, None] * mask[:, None, None, :]


def _al_mean(squares, mask):
    pairs = _pairs(mask)
    return (squares * pairs).sum() / (pairs.sum().clamp(min=1) * squares.size(1))


def _al(
    student_scores,
    teacher_scores,
    attention_mask,
    *,
    before=lambda scores, mask: scores,
    mean=_al_mean,
    detach=True,
    checked=True,
):
    if checked and student_scores.size(1) != teacher_scores.size(1):
        raise ValueError("heads")
    mask = attention_mask.to(student_scores.dtype)
    other = teacher_scores.detach() if detach else teacher_scores
    gaps = before(student_scores, mask) - before(other, mask)
    return mean(gaps.pow(2), mask)


def _al_wrong(**switches):
    def attention_loss(*args):
        return _al(*args, **switches)

    return attention_loss


def _al_over(pairs, divide=None):
    """A mean over other pairs; divide(squares, pairs) → by what"""
    divide = divide or (lambda squares, chosen: chosen.sum().clamp(min=1) * squares.size(1))

    def mean(squares, mask):
        chosen = pairs(mask).expand(-1, 1, *squares.shape[2:])
        return (squares * chosen).sum() / divide(squares, chosen)

    return mean


def _weights(scores, mask):
    """softmax over real keys; rows without any are 0"""
    hidden = mask[:, None, None, :] == 0
    return scores.masked_fill(hidden, -1e9).softmax(-1).masked_fill(hidden, 0.0)


def _al_by_text(squares, mask):
    pairs = _pairs(mask)
    texts = (squares * pairs).sum((1, 2, 3)) / (pairs.sum((1, 2, 3)).clamp(min=1) * squares.size(1))
    return texts.mean()


ATTENTION_LOSS = Exercise(
    id="tinybert/attention-loss",
    lesson="10",
    title="Attention scores, without padding",
    difficulty=3,
    minutes=15,
    reference=tinybert.attention_loss,
    stub=attention_loss_stub,
    cases=[
        Case("three texts, two of them padded", _al_case(_MASK)),
        Case("nothing is padded, three heads", _al_case(torch.ones(2, 4).long(), heads=3)),
        Case("one text, float64", _al_case(_MASK[1:2], dtype=torch.float64)),
        Case("large numbers at padding", _al_corners),
        Case("nothing but padding", _al_case(torch.zeros(1, 3).long())),
        Case("another number of heads", _al_heads),
        Case("who gets a gradient", _al_gradients),
    ],
    hints=[
        "A score belongs to a pair. It counts where its query *and* its key are real: multiply a "
        "column of the mask with a row of it.",
        "pairs = mask[:, None, :, None] * mask[:, None, None, :] is (batch, 1, queries, keys). The "
        "sum is over all heads, so divide by pairs.sum() * heads, at least 1.",
        "Heads first: 1 head against 3 would be broadcast without a word, so compare size(1) and "
        "raise.",
    ],
    mistakes=[
        Mistake(
            _al_wrong(mean=lambda squares, mask: squares.mean()),
            "Padding counts, as query and as key; its scores are arbitrary.",
        ),
        Mistake(
            _al_wrong(mean=_al_over(lambda mask: mask[:, None, None, :])),
            "Only padded keys are left out. A padded query has a row of arbitrary scores too.",
        ),
        Mistake(
            _al_wrong(mean=_al_over(lambda mask: mask[:, None, :, None])),
            "Only padded queries are left out. The columns of padded keys still count.",
        ),
        Mistake(
            _al_wrong(mean=_al_over(_pairs, lambda squares, chosen: squares.numel())),
            "Pairs with padding are set to 0 and still counted, as if student and teacher agreed "
            "there. The published code does so for padded keys; divide by the real pairs.",
        ),
        Mistake(
            _al_wrong(mean=_al_over(_pairs, lambda squares, chosen: chosen.sum().clamp(min=1))),
            "You add up over the heads: pairs.sum() counts a pair once, and there are as many "
            "scores as heads.",
        ),
        Mistake(
            _al_wrong(mean=lambda squares, mask: (squares * _pairs(mask)).sum()),
            "That is a sum. Take the mean over heads and real pairs.",
        ),
        Mistake(
            _al_wrong(mean=_al_by_text),
            "You average each text first. Take one mean over all real pairs.",
        ),
        Mistake(
            _al_wrong(before=_weights),
            "You compare the weights, after softmax. The scores before it are asked for.",
        ),
        Mistake(
            _al_wrong(
                mean=lambda squares, mask: (
                    (squares * _pairs(mask)).sum() / (_pairs(mask).sum() * squares.size(1))
                )
            ),
            "A batch of padding alone gives 0 / 0. Divide by at least 1.",
        ),
        Mistake(
            _al_wrong(detach=False),
            "A gradient reaches the teacher: detach its scores.",
        ),
        Mistake(
            _al_wrong(checked=False),
            "The loss is right; but 1 head against 3 is broadcast without a word. Raise ValueError "
            "where the numbers of heads differ.",
        ),
    ],
)

# --- tinybert/augment -----------------------------------------------------------------------------


def tinybert_augment_stub(text, candidates, probability=0.4, generator=None):
    """→ the text with some words replaced, joined with spaces; words = split_words(text)

    Each word is replaced with `probability`, on its own, by one of candidates(words, place), drawn
    evenly; a word for which that list is empty stays. candidates is asked about the words as they
    were, and only about words that are to be replaced. All draws come from generator:
    torch.rand(n, generator=generator), torch.randint(n, (), generator=generator). ValueError for a
    probability outside [0, 1] and for a text without words.
    """
    raise NotImplementedError("your turn")


_CHOICES = {"card": ["slip", "pass", "note", "deck"], "my": ["our"], "pay": ["give"], "?": ["!"]}


def _choices(words, place):
    return _CHOICES.get(words[place], [])


def _au_everything(implementation):
    table = {"my": ["our"], "card": ["slip"], "?": ["!"]}
    text = "my card is in my bag?"
    return implementation(text, lambda words, place: table.get(words[place], []), 1.0, _seeded(0))


def _au_nothing(implementation):
    return implementation("pay my card, please", _choices, 0.0, _seeded(0))


def _au_share(**more):
    """What becomes of 4,000 equal words, in bands wide enough for any order of the draws"""

    def run(implementation):
        text = " ".join(["card"] * 4000)
        words = implementation(text, _choices, generator=_seeded(1), **more).split()
        counts = [words.count(word) / 4000 for word in ("card", *_CHOICES["card"])]
        steps = torch.tensor(counts).mul(20).round().div(20)  # to the nearest twentieth
        return {"words": len(words), "shares": steps}

    return run


def _au_spread(implementation):
    """How the number of replaced words in texts of ten varies"""
    text, generator = " ".join(["my"] * 10), _seeded(2)
    made = [implementation(text, _choices, 0.4, generator).split() for _ in range(200)]
    counts = torch.tensor([float(words.count("our")) for words in made])
    spread = counts.std().item()
    return {
        "always as many": spread == 0,
        "all or none": spread > 4,
        "as draws of its own for each word": 1.2 < spread < 1.9,
    }


def _au_asked(implementation):
    seen = set()

    def record(words, place):
        seen.add((" ".join(words), place))
        return ["x"]

    implementation("a b c d", record, 1.0, _seeded(3))
    return sorted(f"{words} / {place}" for words, place in seen)


def _au_generator(implementation):
    text = " ".join(["card"] * 30)
    state = torch.get_rng_state()
    first, again = (implementation(text, _choices, 0.5, _seeded(4)) for _ in range(2))
    other = implementation(text, _choices, 0.5, _seeded(5))
    places = [[word == "card" for word in one.split()] for one in (first, again)]
    return {
        "same seed, same places": places[0] == places[1],
        "same seed, same text": first == again,
        "other seed, other text": first != other,
        "the global generator is left alone": torch.equal(torch.get_rng_state(), state),
    }


def _au_refusals(implementation):
    calls = {
        "1.5": lambda: implementation("my card", _choices, 1.5, _seeded(0)),
        "-0.1": lambda: implementation("my card", _choices, -0.1, _seeded(0)),
        "no words": lambda: implementation("  ", _choices, 0.4, _seeded(0)),
    }
    return {name: _refusal(call) for name, call in calls.items()}


def _au(
    text,
    candidates,
    probability=0.4,
    generator=None,
    *,
    hits=lambda n, p, g: (torch.rand(n, generator=g) < p).tolist(),
    pick=lambda found, g: found[int(torch.randint(len(found), (), generator=g))],
    without="stays",
    live=False,
    checked=True,
):
    if checked and (not 0 <= probability <= 1 or not split_words(text)):
        raise ValueError("refused")
    words = split_words(text)
    new = list(words)
    for place, hit in enumerate(hits(len(words), probability, generator)):
        found = candidates(new if live else words, place) if hit else []
        if found:
            new[place] = pick(found, generator)
        elif hit and without == "dropped":
            new[place] = ""
        elif hit and without == "masked":
            new[place] = "[MASK]"
    return " ".join(word for word in new if word)


def _au_wrong(default=0.4, **switches):
    def tinybert_augment(text, candidates, probability=default, generator=None):
        return _au(text, candidates, probability, generator, **switches)

    return tinybert_augment


def _fixed_number(n, p, g):
    chosen = set(torch.randperm(n, generator=g)[: round(p * n)].tolist())
    return [place in chosen for place in range(n)]


def _one_coin(n, p, g):
    return [bool(torch.rand((), generator=g) < p)] * n


AUGMENT = Exercise(
    id="tinybert/augment",
    lesson="10",
    title="Another version of a text",
    difficulty=2,
    minutes=12,
    reference=augmentation.tinybert_augment,
    stub=tinybert_augment_stub,
    cases=[
        Case("everything that can be replaced", _au_everything),
        Case("nothing is replaced", _au_nothing),
        Case("four in ten, evenly", _au_share(probability=0.4)),
        Case("eight in ten", _au_share(probability=0.8)),
        Case("the default", _au_share()),
        Case("each word on its own", _au_spread),
        Case("what the candidates are asked", _au_asked),
        Case("where the draws come from", _au_generator),
        Case("what is refused", _au_refusals),
    ],
    hints=[
        "One draw a word: torch.rand(len(words), generator=generator) < probability. Keep `words` "
        "as they are, and write into a copy.",
        "found = candidates(words, place); where it is not empty, "
        "found[int(torch.randint(len(found), (), generator=generator))].",
    ],
    mistakes=[
        Mistake(
            _au_wrong(hits=_fixed_number),
            "You replace a fixed number of words. Each word has a draw of its own, so the number "
            "varies.",
        ),
        Mistake(
            _au_wrong(hits=_one_coin),
            "One draw decides for the whole text. Each word has its own.",
        ),
        Mistake(
            _au_wrong(hits=lambda n, p, g: (torch.rand(n, generator=g) >= p).tolist()),
            "You keep a word with the probability with which it should be replaced.",
        ),
        Mistake(
            _au_wrong(hits=lambda n, p, g: (torch.rand(n) < p).tolist()),
            "Which words are replaced is drawn from the global generator. Pass "
            "generator=generator.",
        ),
        Mistake(
            _au_wrong(pick=lambda found, g: found[int(torch.randint(len(found), ()))]),
            "Which candidate is taken is drawn from the global generator. Pass "
            "generator=generator.",
        ),
        Mistake(
            _au_wrong(pick=lambda found, g: found[0]),
            "You always take the best candidate. They are drawn evenly.",
        ),
        Mistake(
            _au_wrong(
                pick=lambda found, g: found[
                    int(torch.randint(max(1, len(found) - 1), (), generator=g))
                ]
            ),
            "The last candidate is never taken: randint leaves its upper end out, so it must be "
            "len(found).",
        ),
        Mistake(
            _au_wrong(without="dropped"),
            "A word without candidates is lost. It stays as it is.",
        ),
        Mistake(
            _au_wrong(without="masked"),
            "A word without candidates is left as [MASK]. It stays as it is.",
        ),
        Mistake(
            _au_wrong(live=True),
            "The candidates are asked about a text that is changed already. Ask about the words as "
            "they were.",
        ),
        Mistake(
            _au_wrong(default=0.15),
            "Without a probability you take 0.15, BERT's share of masks. Here it is 0.4.",
        ),
        Mistake(
            _au_wrong(checked=False),
            "A probability of 1.5, or a text without words, goes through without a word. Raise "
            "ValueError.",
        ),
    ],
)

# --- tinybert/trim --------------------------------------------------------------------------------


def trim_table_stub(table, used):
    """→ (smaller table (kept, hidden_size), place): smaller[place[i]] is table[i] for each used id

    table (vocab_size, hidden_size); used: ids in any order, repeated or not, perhaps readable only
    once. Id 0, [PAD], is always kept. place is a dict, old id → new id, in the old order: the
    smallest id becomes 0. The smaller table is a copy. ValueError for an id that has no row.
    """
    raise NotImplementedError("your turn")


def _tt_case(used, rows=9):
    def run(implementation):
        smaller, place = implementation(_draw(0, rows, 3), list(used))
        return {"table": smaller, "place": place, "in this order": list(place)}

    return run


def _tt_iterator(implementation):
    smaller, place = implementation(_draw(0, 9, 3), (i for i in (4, 7, 4)))
    return [smaller, place]


def _tt_copy(implementation):
    table = _draw(0, 4, 3)
    smaller, _ = implementation(table, [0, 1, 2, 3])
    smaller += 1.0
    return table


def _tt_untouched(implementation):
    table = _draw(0, 9, 3)
    implementation(table, [2, 5])
    return table


def _tt_refusals(implementation):
    return {
        str(wrong): _refusal(lambda wrong=wrong: implementation(_draw(0, 4, 3), [1, wrong]))
        for wrong in (4, -1)
    }


def _tt(table, used, *, kept=lambda used: sorted({0, *used}), rows=None, place=None, checked=True):
    kept = list(kept(list(used)))
    if checked and kept and not 0 <= min(kept) <= max(kept) < len(table):
        raise ValueError("no row")
    smaller = rows(table, kept) if rows else table[kept].clone()
    return smaller, place(kept) if place else {old: new for new, old in enumerate(kept)}


def _tt_wrong(**switches):
    def trim_table(table, used):
        return _tt(table, used, **switches)

    return trim_table


def _zeroed(table, kept):
    whole = torch.zeros_like(table)
    whole[kept] = table[kept]
    return whole


def _by_count(used):
    return [0, *sorted(set(used) - {0}, key=lambda i: (-used.count(i), i))]


TRIM = Exercise(
    id="tinybert/trim",
    lesson="10",
    title="A smaller table",
    difficulty=2,
    minutes=10,
    reference=trimming.trim_table,
    stub=trim_table_stub,
    cases=[
        Case("a few ids, out of order and repeated", _tt_case([7, 2, 7, 5, 2, 7])),
        Case("[PAD] is among them", _tt_case([3, 0, 8])),
        Case("all of them", _tt_case(range(9))),
        Case("none", _tt_case([])),
        Case("many ids", _tt_case([12, 100, 9, 20, 3], rows=101)),
        Case("ids that can be read once", _tt_iterator),
        Case("the smaller table is a copy", _tt_copy),
        Case("the table itself stays", _tt_untouched),
        Case("an id without a row", _tt_refusals),
    ],
    hints=[
        "kept = sorted({0, *used}): a set for the repetitions, 0 for [PAD]. table[kept] takes "
        "these rows, and copies them.",
        "place is {old: new for new, old in enumerate(kept)}. A negative id would be taken from "
        "the end without an error: compare with 0 and len(table) first.",
    ],
    mistakes=[
        Mistake(
            _tt_wrong(kept=lambda used: sorted(set(used))),
            "[PAD] is lost. collate pads with id 0, so row 0 must stay what it was.",
        ),
        Mistake(
            _tt_wrong(kept=lambda used: dict.fromkeys([0, *used])),
            "The ids stand in the order in which they were met. Keep the old order, ascending.",
        ),
        Mistake(
            _tt_wrong(kept=lambda used: sorted([0, *used])),
            "Repeated ids give repeated rows. Each row once.",
        ),
        Mistake(
            _tt_wrong(kept=_by_count),
            "The most frequent come first. Keep the old order, ascending.",
        ),
        Mistake(
            _tt_wrong(kept=lambda used: [int(i) for i in sorted({"0", *map(str, used)})]),
            "The ids are sorted as text, 100 before 20. Sort them as numbers.",
        ),
        Mistake(
            _tt_wrong(place=lambda kept: dict(enumerate(kept))),
            "place runs the wrong way, from new to old. A text's ids are old ones.",
        ),
        Mistake(
            _tt_wrong(rows=lambda table, kept: table[: len(kept)].clone()),
            "You took the first rows, as many as are in use, not the rows in use.",
        ),
        Mistake(
            _tt_wrong(rows=_zeroed),
            "The unused rows are zeros now, and still there. Nothing is saved: cut them out.",
        ),
        Mistake(
            _tt_wrong(rows=lambda table, kept: table if len(kept) == len(table) else table[kept]),
            "With all ids in use you return the table itself: what is written into one is written "
            "into both. Copy it.",
        ),
        Mistake(
            _tt_wrong(checked=False),
            "A negative id takes a row from the end without an error. Raise ValueError for ids "
            "that have no row.",
        ),
    ],
)

# --- tinybert/better-map --------------------------------------------------------------------------

BETTER_MAP = OpenExercise(
    id="tinybert/better-map",
    lesson="10",
    title="A better map",
    difficulty=5,
    minutes=60,
    task="Six teacher layers, three student layers: there are 20 increasing maps. Find one that "
    "beats the uniform map 2, 4, 6 on the assistant, and show that it does; or show that these "
    "seeds can not tell. Same steps, same seeds, same augmented texts for all.",
    hints=[
        "Which layers of the teacher changed most when it was fine-tuned? Compare each layer's "
        "hidden states before and after, text by text. A layer that hardly changed knows no more "
        "about the task than the general stage has taught already.",
        "All 20 maps on one seed take an hour, and the best of 20 noisy numbers is mostly the "
        "luckiest. Choose three by reasoning first, then give those three seeds each.",
    ],
    rubric=[
        "The maps were chosen for a reason that can be written down before they are trained, and "
        "the reason is checked by the result.",
        "Maps were compared on validation texts; test was asked once, with the map that won.",
        "Every map ran on the same seeds, at least three, and the comparison is by pairs of runs "
        "with the same seed, with the spread of the differences.",
        "The general stage used the same map as the task stage, or the answer says what it means "
        "that it did not.",
        "If nothing won, the answer says how large a difference these seeds could have shown.",
    ],
    answer="""Look at the teacher before training anything. Fine-tuning froze its embeddings and its
two lowest layers (the recipe of the assistant's teacher), so layers 1 and 2 are those of MiniLM,
bit for bit: what they know the general stage can teach. The upper four moved. That speaks for a map
with its weight at the top, 3, 5, 6 say, and against bottom, which copies two layers that know
nothing of the task. It does not speak for top, 4, 5, 6: then the student's first layer has to do in
one step what took the teacher four.

```python
import numpy as np

from course_utils import tinybert_runs as runs
from course_utils.benchmark import paired_bootstrap

workshop, recipe = runs.Workshop(), runs.TinyBertRecipe()
maps = {"uniform": "2,4,6", "upper": "3,5,6", "top": "4,5,6"}
right = {name: [] for name in maps}
labels = torch.tensor(workshop.data["validation"]["intent"][:])
features = workshop.task.features(workshop.tokenizer, workshop.data["validation"])
for seed in range(3):
    for name, layers in maps.items():
        model, _, _ = workshop.distil(replace(recipe, layer_map=layers, seed=seed))
        right[name].append((predict(model.student, features).argmax(-1) == labels).numpy())
right = {name: np.stack(rows) for name, rows in right.items()}  # (seeds, texts) each
for name in ("upper", "top"):
    low, high = paired_bootstrap(right["uniform"], right[name])
    print(name, right[name].mean() - right["uniform"].mean(), low, high)
```

Judge by the interval, not by the better mean: with three seeds it is some points wide. Where it
holds 0, say how large a difference it leaves open. The paper's Table 4 has uniform in front of top
and bottom on every task, with a teacher of 12 layers, all of them trained.
A map can also be learned: BERT-EMD (Li et al. 2020) lets every student layer learn from every
teacher layer, with weights found by optimal transport.""",
)

EXERCISES = [LAYER_MAP, HIDDEN_LOSS, ATTENTION_LOSS, AUGMENT, TRIM, BETTER_MAP]

# --- Claims ---------------------------------------------------------------------------------------


def _judge_inverted(formula, paper):
    """formula: ⌈k·M/N⌉ for each teacher layer k; paper: g(m) for each student layer m"""
    if list(formula) == list(paper):
        return Verdict(True, "the formula gives the layers of the paper's map.")
    return Verdict(
        False,
        "it runs the other way and gives a student layer for each teacher layer, so that several "
        "teacher layers compete for one student layer. The paper's map has one teacher layer for "
        "each student layer: g(m) = m · N / M, for 12 → 4 the layers 3, 6, 9, 12.",
    )


def _judge_speed(ratio):
    """ratio: the time of 12 layers through that of 6 layers of the same width"""
    if ratio > 4:
        return Verdict(True, "six layers are that much faster than twelve of the same width.")
    return Verdict(
        False,
        "six layers of the same width are about twice as fast as twelve, as the paper's Table 1 "
        "has it: 2.0×. Half the layers are half the work. What the paper calls 9.4× faster is the "
        "narrow model, 4 × 312.",
    )


def _judge_keeps(same_set, mixed_sets):
    """same_set: student through teacher, both on the test set; mixed_sets: the student's score on
    the development set through the teacher's on the test set"""
    if same_set > 0.98:
        return Verdict(True, "student and teacher on the same set give that share.")
    if mixed_sets > same_set + 0.005:
        return Verdict(
            False,
            "on one and the same test set it keeps 96.8 %, 77.0 of 79.5. A larger share can come "
            "out where the student's score on the development set is divided by the teacher's on "
            "the test set.",
        )
    return Verdict(False, "on the same test set it keeps less, 77.0 of 79.5.")


def _judge_trimming(largest_gap, recut):
    """largest_gap: of the logits, on covered texts; recut: share of the words of other texts that
    are cut into other pieces"""
    if largest_gap > 1e-4:
        return Verdict(True, "the logits change, on covered texts too.")
    if recut > 0:
        return Verdict(
            False,
            "on covered texts pieces and logits are the same. The price is paid on the others: "
            "some of their words are cut into other pieces, and the answers can be worse. Count "
            "them before you cut.",
        )
    return Verdict(False, "pieces and logits are the same on every text that was looked at.")


def _judge_augmentation(growing, equal):
    """The gain in accuracy of N = 20 over N = 0: with as many passes over the texts for both, and
    with as many steps for both"""
    if growing < 0.005:
        return Verdict(False, "there is no gain here that would need a reason.")
    if equal > 0.5 * growing:
        return Verdict(True, "with as many steps for both, most of the gain is still there.")
    return Verdict(
        False,
        "with as many steps for both, most of the gain is gone: twenty times the texts were twenty "
        "times the steps. Compare at equal steps.",
    )


def _judge_general(gain, low, high):
    """What the general stage gains in accuracy, the task stage being the same, and the ends of its
    95 % interval"""
    if low <= 0:
        return Verdict(True, "these runs can not tell it from no loss: the interval holds 0.")
    return Verdict(
        False,
        f"without it the student loses {100 * gain:.1f} points, and the interval leaves "
        "0 out: worth having, and no more than that.",
    )


CLAIMS = [
    Claim(
        id="tinybert/inverted-formula",
        statement="The student's layer for teacher layer k is ⌈k·M/N⌉.",
        source="printed in tutorials",
        judge=_judge_inverted,
        holds=dict(formula=[3, 6, 9, 12], paper=[3, 6, 9, 12]),
        fails=dict(formula=[1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4], paper=[3, 6, 9, 12]),
    ),
    Claim(
        id="tinybert/speed",
        statement="TinyBERT-6 is 5.3× faster than BERT-base.",
        source="printed in tutorials",
        judge=_judge_speed,
        holds=dict(ratio=5.3),
        fails=dict(ratio=2.0),
    ),
    Claim(
        id="tinybert/keeps",
        statement="TinyBERT-4 keeps 98.7 % of its teacher's score.",
        source="what some tables give",
        judge=_judge_keeps,
        holds=dict(same_set=0.987, mixed_sets=0.987),
        fails=dict(same_set=0.9686, mixed_sets=0.987),
    ),
    Claim(
        id="tinybert/general",
        statement="The general stage can be left out; the task stage does the work.",
        source="what its cost suggests",
        judge=_judge_general,
        holds=dict(gain=0.004, low=-0.01, high=0.02),
        fails=dict(gain=0.05, low=0.03, high=0.07),
    ),
    Claim(
        id="tinybert/augmentation",
        statement="Twenty versions of each text make a better student: it sees more data.",
        source="how the gain is mostly told",
        judge=_judge_augmentation,
        holds=dict(growing=0.1, equal=0.08),
        fails=dict(growing=0.1, equal=0.01),
    ),
    Claim(
        id="tinybert/trimming",
        statement="Trimming changes what the model answers to every text.",
        source="what one fears",
        judge=_judge_trimming,
        holds=dict(largest_gap=0.1, recut=0.0),
        fails=dict(largest_gap=0.0, recut=0.07),
    ),
]
