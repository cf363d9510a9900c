"""Lesson 06, fine-tuning: its exercises, their known mistakes, and its claims."""

import copy
import math

import torch
import torch.nn.functional as F

from course_utils import calibration, finetuning, out_of_scope, pairs
from course_utils.bert import BertConfig
from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise, fill_
from course_utils.finetuning import BertForSequenceClassification, TaskOutput
from course_utils.out_of_scope import decide, max_probability


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


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


# --- finetuning/classifier ------------------------------------------------------------------------


class ClassifierStub(BertForSequenceClassification):
    """BERT and a new head. `self.bert`, `self.dropout` and `self.classifier` (an nn.Linear) are
    made already; `self.bert(input_ids, attention_mask, token_type_ids)` has a `.pooler_output`.

    forward: ids, mask and types (batch, tokens), labels (batch,) or None → TaskOutput(loss, logits)
    with logits (batch, labels) and loss the mean cross-entropy, None without labels
    """

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None):
        raise NotImplementedError("your turn")


def _tiny(**changes):
    sizes = dict(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=10,
    )  # fmt: skip
    return BertConfig(**sizes | changes)


def _classifier(implementation, labels=3, train=False, **changes):
    model = fill_(implementation(_tiny(**changes), [str(i) for i in range(labels)]), 1)
    return model.train(train)


_IDS = torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0], [2, 11, 12, 3]])  # (batch, tokens)
_MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
_TYPES = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]])
_LABELS = torch.tensor([2, 0, 1])


def _cl_logits(implementation):
    output = _classifier(implementation)(_IDS)
    return {"loss without labels": output.loss, "logits": output.logits.detach()}


def _cl_loss(implementation):
    output = _classifier(implementation)(_IDS, _MASK, _TYPES, _LABELS)
    return {"loss": output.loss.detach(), "logits": output.logits.detach()}


def _cl_padding(implementation):
    model = _classifier(implementation)
    return model(_IDS[1:2], _MASK[1:2]).logits.detach()


def _cl_types(implementation):
    model = _classifier(implementation, labels=2)
    return model(_IDS, token_type_ids=_TYPES).logits.detach()


def _cl_dropout(implementation):
    """With everything dropped, what is left is the bias of the last layer."""
    model = _classifier(
        implementation, train=True, hidden_dropout_prob=1.0, attention_probs_dropout_prob=0.0
    )
    return model(_IDS, _MASK, _TYPES).logits.detach()


def _cl_gradient(implementation):
    model = _classifier(implementation)
    model(_IDS, _MASK, _TYPES, _LABELS).loss.backward()
    return {
        "of the head": model.classifier.weight.grad,
        "of the embeddings": model.bert.embeddings.token.weight.grad,
    }


def _cl_mistake(pool=None, drop=True, soft=False, mask=True, types=True, loss=None, detach=False):
    class Wrong(BertForSequenceClassification):
        def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None):
            output = self.bert(
                input_ids, attention_mask if mask else None, token_type_ids if types else None
            )
            vector = pool(output) if pool else output.pooler_output
            vector = vector.detach() if detach else vector
            logits = self.classifier(self.dropout(vector) if drop else vector)
            shown = logits.softmax(-1) if soft else logits
            if labels is None:
                return TaskOutput(None, shown)
            return TaskOutput((loss or F.cross_entropy)(shown, labels), shown)

    return Wrong


CLASSIFIER = Exercise(
    id="finetuning/classifier",
    lesson="06",
    title="BERT under a new head",
    difficulty=2,
    minutes=10,
    reference=finetuning.BertForSequenceClassification,
    stub=ClassifierStub,
    cases=[
        Case("three texts, three labels", _cl_logits),
        Case("with a mask, segments and labels", _cl_loss),
        Case("padding changes nothing", _cl_padding),
        Case("two segments, two labels", _cl_types),
        Case("everything dropped", _cl_dropout),
        Case("the gradient reaches the embeddings", _cl_gradient),
    ],
    hints=[
        "Three lines: run self.bert, take its pooler_output, put it through what stands in "
        "__init__. Which of the two comes first?",
        "logits = self.classifier(self.dropout(output.pooler_output)); the loss is "
        "F.cross_entropy(logits, labels) where there are labels. F.cross_entropy takes logits.",
    ],
    mistakes=[
        Mistake(
            _cl_mistake(pool=lambda o: o.last_hidden_state[:, 0]),
            "You took [CLS] itself. BERT's code has the pooler in between: pooler_output.",
        ),
        Mistake(
            _cl_mistake(pool=lambda o: o.last_hidden_state.mean(1)),
            "You averaged the tokens, padding too. The head reads pooler_output.",
        ),
        Mistake(
            _cl_mistake(pool=lambda o: o.last_hidden_state[:, -1]),
            "You took the last token, which may be padding. The head reads pooler_output.",
        ),
        Mistake(_cl_mistake(drop=False), "The dropout before the linear layer is missing."),
        Mistake(
            _cl_mistake(soft=True),
            "These are probabilities. Return logits: cross_entropy takes the softmax itself.",
        ),
        Mistake(
            _cl_mistake(mask=False),
            "Padding changes the result: give attention_mask to self.bert.",
        ),
        Mistake(
            _cl_mistake(types=False),
            "The segments change nothing: give token_type_ids to self.bert.",
        ),
        Mistake(
            _cl_mistake(loss=lambda logits, y: F.cross_entropy(logits.softmax(-1), y)),
            "The loss took a softmax twice: cross_entropy expects logits. It trains, but slowly, "
            "and never gets near 0.",
        ),
        Mistake(
            _cl_mistake(loss=lambda logits, y: F.cross_entropy(logits, y, reduction="sum")),
            "The loss is a sum over the batch. Take the mean, or the learning rate means another "
            "thing at each batch size.",
        ),
        Mistake(
            _cl_mistake(detach=True),
            "The numbers are right, but no gradient reaches BERT: only the head would learn.",
        ),
    ],
)

# --- finetuning/collate ---------------------------------------------------------------------------


def collate_stub(features, pad_id=0):
    """features: dictionaries whose values are lists of ints (a number a token) or single ints
    → dictionary of tensors, for the same names and "attention_mask"

    Lists become (batch, tokens), as long as the longest input_ids of this batch, filled up at their
    end: input_ids with pad_id, labels with -100, all others with 0. Single ints become (batch,).
    attention_mask (batch, tokens), ints: 1 where the text has a token, also one whose id happens to
    be pad_id. ValueError for no features.
    """
    raise NotImplementedError("your turn")


_TEXTS = [
    {"input_ids": [2, 7, 8, 9, 3], "token_type_ids": [0, 0, 0, 1, 1], "labels": 4},
    {"input_ids": [2, 5, 3], "token_type_ids": [0, 0, 1], "labels": 0},
    {"input_ids": [2, 6, 0, 3], "token_type_ids": [0, 0, 0, 0], "labels": 2},  # a real piece 0
]
_TAGGED = [
    {"input_ids": [2, 7, 3], "labels": [-100, 1, -100]},
    {"input_ids": [2, 5, 9, 8, 3], "labels": [-100, 0, 2, 2, -100]},
]


def _co(features, **options):
    def run(implementation):
        return implementation(copy.deepcopy(features), **options)

    return run


def _co_untouched(implementation):
    features = copy.deepcopy(_TEXTS)
    implementation(features)
    return features == _TEXTS


def _co_refusal(implementation):
    return _refusals([lambda: implementation([])])


def _collate(
    features, pad_id=0, label_fill=-100, type_fill=0, left=False, mask="length", length=None,
    labels_column=False, bool_mask=False,
):  # fmt: skip
    """The reference in one piece, with a switch for each known mistake."""
    if not features:
        raise ValueError("no features")
    longest = length or max(len(f["input_ids"]) for f in features)
    batch = {}
    for name, first in features[0].items():
        values = [f[name] for f in features]
        if isinstance(first, list):
            fill = {"input_ids": pad_id, "labels": label_fill}.get(name, type_fill)
            blank = [[fill] * (longest - len(v)) for v in values]
            values = [b + v if left else v + b for v, b in zip(values, blank)]
        elif labels_column:
            values = [[v] for v in values]
        batch[name] = torch.tensor(values)
    if mask == "length":
        rows = [[1] * len(f["input_ids"]) for f in features]
        blank = [[0] * (longest - len(r)) for r in rows]
        rows = [b + r if left else r + b for r, b in zip(rows, blank)]
        batch["attention_mask"] = torch.tensor(rows)
    elif mask == "ids":
        batch["attention_mask"] = (batch["input_ids"] != pad_id).long()
    elif mask == "ones":
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    elif mask == "reversed":
        batch["attention_mask"] = 1 - _collate(features)["attention_mask"]
    if bool_mask:
        batch["attention_mask"] = batch["attention_mask"].bool()
    return batch


def _co_wrong(**switches):
    def collate(features, pad_id=0):
        return _collate(features, pad_id, **switches)

    return collate


def _co_zero_pad(features, pad_id=0):
    return _collate(features, 0)


def _co_in_place(features, pad_id=0):
    longest = max((len(f["input_ids"]) for f in features), default=0)
    batch = _collate(features, pad_id)
    for f in features:
        f["input_ids"] += [pad_id] * (longest - len(f["input_ids"]))
    return batch


def _co_types_pad(features, pad_id=0):
    return _collate(features, pad_id, type_fill=pad_id)


def _co_unchecked(features, pad_id=0):
    return _collate(features, pad_id) if features else {}


COLLATE = Exercise(
    id="finetuning/collate",
    lesson="06",
    title="Texts of unequal lengths in one batch",
    difficulty=2,
    minutes=10,
    reference=finetuning.collate,
    stub=collate_stub,
    cases=[
        Case("three texts with one label each", _co(_TEXTS)),
        Case("a label a token", _co(_TAGGED)),
        Case("padding has another number: 1", _co(_TEXTS[:2], pad_id=1)),
        Case("one text", _co(_TEXTS[1:2])),
        Case("the features stay as they were", _co_untouched),
        Case("nothing to collate is refused", _co_refusal),
    ],
    hints=[
        "longest = max(len(f['input_ids']) for f in features). For each name: are its values lists "
        "or numbers? Only lists are filled up.",
        "row + [fill] * (longest - len(row)), with fill = {'input_ids': pad_id, 'labels': -100}"
        ".get(name, 0). The mask comes from the lengths, not from the ids.",
    ],
    mistakes=[
        Mistake(
            _co_wrong(mask="ids"),
            "The mask asks which ids differ from pad_id, so a real piece of that number is hidden. "
            "Count lengths instead.",
        ),
        Mistake(_co_wrong(mask="ones"), "The mask is 1 everywhere: padding would be read."),
        Mistake(_co_wrong(mask="reversed"), "The mask is the wrong way round: 1 = a token."),
        Mistake(_co_wrong(mask="none"), "There is no attention_mask in the batch."),
        Mistake(_co_wrong(bool_mask=True), "The mask is bool; make it ints, like the tokenizer's."),
        Mistake(
            _co_wrong(label_fill=0),
            "Labels of tokens are filled with 0, which is a label. Fill with -100, which the loss "
            "passes over.",
        ),
        Mistake(_co_wrong(left=True), "You filled up in front. BERT's [CLS] stands at position 0."),
        Mistake(
            _co_wrong(length=8),
            "Every batch is padded to a fixed length. Take the longest of this batch: the rest is "
            "work for nothing.",
        ),
        Mistake(_co_wrong(labels_column=True), "Single numbers became (batch, 1); make (batch,)."),
        Mistake(_co_types_pad, "token_type_ids are filled with pad_id; only input_ids are."),
        Mistake(_co_zero_pad, "input_ids are filled with 0 whatever pad_id says."),
        Mistake(_co_in_place, "You lengthened the features themselves: the next epoch gets them."),
        Mistake(_co_unchecked, "Right, but an empty batch goes through: raise ValueError."),
    ],
)

# --- finetuning/calibration-error -----------------------------------------------------------------


def calibration_error_stub(confidence, right, bins=10):
    """confidence (answers,) in [0, 1], right (answers,) bool → ECE, a float

    Sort the answers into `bins` bins of equal width: (0, 1/bins], (1/bins, 2/bins], …; exactly 0
    belongs to the first. For each bin that is not empty: |mean confidence − share of right ones|,
    weighted by the bin's share of all answers; ECE is the sum.
    """
    raise NotImplementedError("your turn")


def _ce(confidence, right, **options):
    def run(implementation):
        flags = torch.tensor(right).bool()
        return float(implementation(torch.tensor(confidence), flags, **options))

    return run


def _ce_many(implementation):
    confidence = torch.rand(500, generator=_seeded(0)) ** 0.3
    right = torch.rand(500, generator=_seeded(1)) < confidence**2
    return [float(implementation(confidence, right, bins=b)) for b in (1, 2, 5, 15)]


def _ce_parts(confidence, right, bins):
    """(share, mean confidence, accuracy) of each bin, None where it is empty"""
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    found = []
    for i in range(bins):
        inside = place == i
        if inside.any():
            n = inside.double().mean().item()
            found.append((n, confidence[inside].double().mean().item(),
                          right[inside].double().mean().item()))  # fmt: skip
    return found


def _ce_unweighted(confidence, right, bins=10):
    gaps = [abs(c - a) for _, c, a in _ce_parts(confidence, right, bins)]
    return sum(gaps) / len(gaps)


def _ce_all_bins(confidence, right, bins=10):
    return sum(abs(c - a) for _, c, a in _ce_parts(confidence, right, bins)) / bins


def _ce_largest(confidence, right, bins=10):
    return max(abs(c - a) for _, c, a in _ce_parts(confidence, right, bins))


def _ce_signed(confidence, right, bins=10):
    return sum(n * (c - a) for n, c, a in _ce_parts(confidence, right, bins))


def _ce_abs_of_all(confidence, right, bins=10):
    return abs(_ce_signed(confidence, right, bins))


def _ce_squared(confidence, right, bins=10):
    return sum(n * (c - a) ** 2 for n, c, a in _ce_parts(confidence, right, bins))


def _ce_left_closed(confidence, right, bins=10):
    place = (confidence * bins).floor().long().clamp(0, bins - 1)
    return _ce_placed(confidence, right, bins, place)


def _ce_placed(confidence, right, bins, place):
    total = 0.0
    for i in range(bins):
        inside = place == i
        if inside.any():
            gap = confidence[inside].double().mean() - right[inside].double().mean()
            total += inside.double().mean().item() * abs(gap.item())
    return total


def _ce_zero_lost(confidence, right, bins=10):
    place = (confidence * bins).ceil().long() - 1
    return _ce_placed(confidence, right, bins, place)


def _ce_middles(confidence, right, bins=10):
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return _ce_placed((place.double() + 0.5) / bins, right, bins, place)


def _ce_each_answer(confidence, right, bins=10):
    return (confidence.double() - right.double()).abs().mean().item()


CALIBRATION_ERROR = Exercise(
    id="finetuning/calibration-error",
    lesson="06",
    title="Expected calibration error",
    difficulty=3,
    minutes=15,
    reference=calibration.expected_calibration_error,
    stub=calibration_error_stub,
    cases=[
        Case(
            "six answers by hand",
            _ce([0.95, 0.92, 0.97, 0.62, 0.65, 0.35], [True, True, False, True, False, False]),
        ),
        Case("500 answers, 1 to 15 bins", _ce_many),
        Case(
            "on the edges",
            _ce([0.5, 0.25, 0.5, 0.75, 1.0, 0.6, 0.4], [1, 0, 0, 1, 1, 1, 1], bins=4),
        ),
        Case("exactly 0", _ce([0.0, 0.0, 0.9], [True, False, True], bins=2)),
        Case("too sure here, too modest there",
             _ce([0.9, 0.9, 0.3, 0.3], [True, False, True, False])),
    ],  # fmt: skip
    hints=[
        "First the number of each answer's bin. With bins closed above, that is the ceiling of "
        "confidence · bins, less 1; what happens at exactly 0?",
        "For i in range(bins): inside = place == i; skip if none; add inside.float().mean() · "
        "|confidence[inside].mean() − right[inside].float().mean()|.",
    ],
    mistakes=[
        Mistake(_ce_unweighted, "Each bin counts the same: weight it by its share of the answers."),
        Mistake(
            _ce_all_bins, "You divided by the number of bins: weight each by its share of answers."
        ),
        Mistake(_ce_largest, "This is the largest gap (MCE). ECE is their weighted mean."),
        Mistake(
            _ce_signed,
            "Too sure and too modest bins cancel out: take the absolute value of each gap.",
        ),
        Mistake(
            _ce_abs_of_all,
            "You took the absolute value at the end; bins have cancelled out by then. Take it of "
            "each gap.",
        ),
        Mistake(_ce_squared, "The gaps are squared. ECE takes absolute values."),
        Mistake(
            _ce_left_closed,
            "Answers exactly on an edge fall into the bin above. Bins are closed above: (low, "
            "high].",
        ),
        Mistake(_ce_zero_lost, "A confidence of exactly 0 is in no bin; put it into the first."),
        Mistake(
            _ce_middles, "You took the bins' middles. Take the mean confidence of their answers."
        ),
        Mistake(
            _ce_each_answer,
            "This is a mean over single answers: a right one at 0.7 would count as an error of "
            "0.3. Compare means of bins.",
        ),
    ],
)

# --- finetuning/threshold -------------------------------------------------------------------------


def threshold_stub(logits, labels, oos, max_loss=0.01):
    """logits (queries, labels), labels (queries,) of validation, oos a label → threshold, a float

    decide answers where the largest in-scope probability is at least the threshold; at 0 always.
    Wanted is the largest threshold that loses at most max_loss * (number of in-scope queries) of
    the in-scope queries that are right at threshold 0; queries out of scope do not count. 1.0 where
    all of them may be lost. ValueError where no query is in scope, or max_loss is not in [0, 1).
    """
    raise NotImplementedError("your turn")


def _th_queries(n=400, labels=6, seed=0, oos=5):
    generator = _seeded(seed)
    y = torch.randint(labels, (n,), generator=generator)
    logits = torch.randn(n, labels, generator=generator)
    logits[torch.arange(n), y] += 2.5 * torch.rand(n, generator=generator)
    logits[y == oos, oos] -= 0.5
    return logits, y


def _th(max_loss, **draw):
    def run(implementation):
        oos = draw.get("oos", 5)
        logits, y = _th_queries(**draw)
        return float(implementation(logits, y, oos, max_loss))

    return run


def _th_ties(implementation):
    """Three confidences, each of many queries: a tie is given up whole or not at all."""
    peaks = torch.tensor([1.0, 2.0, 4.0]).repeat_interleave(torch.tensor([10, 30, 60]))
    logits = torch.zeros(100, 4)
    y = torch.arange(100) % 3
    logits[torch.arange(100), y] = peaks
    return [float(implementation(logits, y, 3, loss)) for loss in (0.0, 0.05, 0.1, 0.2, 0.45)]


def _th_default(implementation):
    logits, y = _th_queries(n=900, seed=3)
    return float(implementation(logits, y, 5))


def _th_few_right(implementation):
    logits, y = _th_queries(n=60, seed=4)
    y[y != 5] = (y[y != 5] + 1) % 5  # mostly wrong
    right = (decide(logits, 5, 0.0) == y)[y != 5]
    return float(implementation(logits, y, 5, max_loss=0.9)), int(right.sum())


def _th_refusals(implementation):
    logits = torch.zeros(3, 4)
    inside, outside = torch.tensor([0, 1, 3]), torch.tensor([3, 3, 3])
    return _refusals(
        [
            lambda: implementation(logits, outside, 3),
            lambda: implementation(logits, inside, 3, max_loss=1.0),
            lambda: implementation(logits, inside, 3, max_loss=-0.1),
        ]
    )


def _threshold(
    logits, labels, oos, max_loss=0.01, right="forced", only_known=True, shift=0, share_of="known",
    confidence=None, only_right=True, checked=True, rounding=math.floor,
):  # fmt: skip
    """The reference in one piece, with a switch for each known mistake."""
    if checked and not 0 <= max_loss < 1:
        raise ValueError("max_loss")
    known = labels != oos
    if checked and not known.any():
        raise ValueError("none in scope")
    if only_known:
        logits, labels = logits[known], labels[known]
    hit = decide(logits, oos, 0.0 if right == "forced" else None) == labels
    sure = (confidence or max_probability)(logits, oos)
    chosen = sure[hit] if only_right else sure
    total = len(chosen) if share_of == "right" else len(labels)
    lost = rounding(max_loss * total + 1e-9) + shift
    chosen = chosen.sort().values
    return chosen[max(0, lost)].item() if lost < len(chosen) else 1.0


def _th_wrong(**switches):
    def choose_threshold(logits, labels, oos, max_loss=0.01):
        return _threshold(logits, labels, oos, max_loss, **switches)

    return choose_threshold


def _th_max_accuracy(logits, labels, oos, max_loss=0.01):
    """the threshold with the best accuracy over all queries, out-of-scope ones included"""
    if not 0 <= max_loss < 1 or not (labels != oos).any():
        raise ValueError("refused")
    candidates = max_probability(logits, oos).sort().values.tolist()
    found = [(decide(logits, oos, t) == labels).float().mean().item() for t in candidates]
    return candidates[found.index(max(found))]


def _th_grid(logits, labels, oos, max_loss=0.01):
    exact = _threshold(logits, labels, oos, max_loss)
    return math.floor(100 * exact) / 100


def _th_smallest(logits, labels, oos, max_loss=0.01):
    _threshold(logits, labels, oos, max_loss)
    return 0.0


def _any_probability(logits, oos):
    return logits.softmax(-1).amax(-1)


def _in_scope_softmax(logits, oos):
    return out_of_scope.in_scope(logits, oos).softmax(-1).amax(-1)


THRESHOLD = Exercise(
    id="finetuning/threshold",
    lesson="06",
    title="The threshold that costs one point",
    difficulty=3,
    minutes=15,
    reference=out_of_scope.choose_threshold,
    stub=threshold_stub,
    cases=[
        Case("400 queries, 5 points may go", _th(0.05)),
        Case("400 queries, nothing may go", _th(0.0)),
        Case("200 queries, 20 points, the out-of-scope label is the first",
             _th(0.2, n=200, seed=1, oos=0)),
        Case("one point, the default", _th_default),
        Case("ties", _th_ties),
        Case("more may go than is right", _th_few_right),
        Case("what is refused", _th_refusals),
    ],  # fmt: skip
    hints=[
        "A threshold gives up exactly the right answers whose max_probability is below it. Sort "
        "those confidences: how many may be below?",
        "known = labels != oos; right = decide(logits[known], oos, 0.0) == labels[known]; "
        "sorted_ = max_probability(logits[known], oos)[right].sort().values; with "
        "lost = floor(max_loss · number of known), the answer is sorted_[lost]. It is kept itself, "
        "as decide asks for at least the threshold.",
    ],
    tolerance=1e-6,
    mistakes=[
        Mistake(
            _th_wrong(only_right=False),
            "You count every answer that falls below as a loss. A wrong one costs nothing: only "
            "right ones are lost.",
        ),
        Mistake(
            _th_wrong(right="argmax"),
            "Right is judged with the out-of-scope class competing. The rule has no such class: "
            "decide(logits, oos, 0.0).",
        ),
        Mistake(
            _th_wrong(share_of="right"),
            "The loss is a share of the right answers. It is a share of all in-scope queries, "
            "points of accuracy.",
        ),
        Mistake(
            _th_wrong(only_known=False),
            "Queries out of scope are counted too, and a service does not know those beforehand. "
            "Take the in-scope ones.",
        ),
        Mistake(
            _th_wrong(shift=1),
            "One answer too many is given up: with sorted confidences the k-th, counted from 0, "
            "gives up k.",
        ),
        Mistake(_th_wrong(shift=-1), "One more could go: the threshold is too low by one answer."),
        Mistake(
            _th_wrong(rounding=lambda x: math.ceil(x - 2e-9)),
            "You rounded up: at most max_loss may go, so round down.",
        ),
        Mistake(
            _th_max_accuracy,
            "You maximised accuracy on validation, which has another share of out-of-scope queries "
            "than life has.",
        ),
        Mistake(
            _th_wrong(confidence=_any_probability),
            "The largest probability may be that of the out-of-scope class: max_probability looks "
            "at the others.",
        ),
        Mistake(
            _th_wrong(confidence=_in_scope_softmax),
            "You took the softmax over the in-scope labels only; decide compares the probability "
            "among all labels.",
        ),
        Mistake(
            _th_grid,
            "The threshold lies on a grid of hundredths, below the largest one. The confidences "
            "themselves are the candidates.",
        ),
        Mistake(_th_smallest, "0 loses nothing, and finds nothing. Ask for the largest."),
        Mistake(
            _th_wrong(checked=False),
            "Right where there is something to choose. No query in scope, or a max_loss outside "
            "[0, 1), must raise ValueError.",
        ),
    ],
)

# --- finetuning/pair-input ------------------------------------------------------------------------


def pair_input_stub(first, second, cls_id, sep_id, max_length=128):
    """Two lists of token ids, without special ones → {"input_ids": [...], "token_type_ids": [...]}

    [CLS] first [SEP] second [SEP]; type 0 up to and with the first [SEP], 1 behind it. Where that
    is longer than max_length, tokens go off the end of the longer text, one at a time; of two
    equally long ones off the second. ValueError for a max_length under 5.
    """
    raise NotImplementedError("your turn")


_FIRST, _SECOND = list(range(10, 17)), list(range(30, 34))  # 7 and 4 tokens


def _pi(first, second, **options):
    def run(implementation):
        found = implementation(list(first), list(second), 2, 3, **options)
        return {name: list(found[name]) for name in ("input_ids", "token_type_ids")}

    return run


def _pi_untouched(implementation):
    first, second = list(_FIRST), list(_SECOND)
    implementation(first, second, 2, 3, max_length=8)
    return first == _FIRST and second == _SECOND


def _pi_refusals(implementation):
    return _refusals(
        [lambda n=n: implementation(_FIRST[:], _SECOND[:], 2, 3, max_length=n) for n in (4, 0, 5)]
    )


def _pair(
    first, second, cls_id, sep_id, max_length=128, switch=0, types="right", last_sep=True,
    middle_sep=True, cut="longest", room=3, second_cls=False, checked=True,
):  # fmt: skip
    """The reference in one piece, with a switch for each known mistake."""
    if checked and max_length < 5:
        raise ValueError("max_length")
    first, second = list(first), list(second)
    space = max_length - room
    if cut == "longest":
        while len(first) + len(second) > space:
            (first if len(first) > len(second) else second).pop()
    elif cut == "ties first":
        while len(first) + len(second) > space:
            (first if len(first) >= len(second) else second).pop()
    elif cut == "front":
        while len(first) + len(second) > space:
            (first if len(first) > len(second) else second).pop(0)
    elif cut == "second":
        second = second[: max(0, space - len(first))]
    elif cut == "first":
        first = first[: max(0, space - len(second))]
    elif cut == "halves" and len(first) + len(second) > space:
        first, second = first[: space // 2], second[: space // 2]
    head = [cls_id, *first] + [sep_id] * middle_sep
    tail = [cls_id] * second_cls + [*second] + [sep_id] * last_sep
    ids = head + tail
    type_ids = [0] * (len(head) + switch) + [1] * (len(tail) - switch)
    if types == "zero":
        type_ids = [0] * len(ids)
    elif types == "swapped":
        type_ids = [1 - t for t in type_ids]
    if cut == "packed":
        ids, type_ids = ids[:max_length], type_ids[:max_length]
    return {"input_ids": ids, "token_type_ids": type_ids}


def _pi_wrong(**switches):
    def pair_input(first, second, cls_id, sep_id, max_length=128):
        return _pair(first, second, cls_id, sep_id, max_length, **switches)

    return pair_input


def _pi_swapped(first, second, cls_id, sep_id, max_length=128):
    return _pair(second, first, cls_id, sep_id, max_length)


def _pi_in_place(first, second, cls_id, sep_id, max_length=128):
    result = _pair(first, second, cls_id, sep_id, max_length)
    del first[3:]
    return result


PAIR_INPUT = Exercise(
    id="finetuning/pair-input",
    lesson="06",
    title="Two texts, one input",
    difficulty=2,
    minutes=10,
    reference=pairs.pair_input,
    stub=pair_input_stub,
    cases=[
        Case("7 and 4 tokens, room enough", _pi(_FIRST, _SECOND)),
        Case("the same in 12 places: 2 over", _pi(_FIRST, _SECOND, max_length=12)),
        Case("the same in 8 places", _pi(_FIRST, _SECOND, max_length=8)),
        Case("4 and 7 tokens in 10 places", _pi(_SECOND, _FIRST, max_length=10)),
        Case("5 and 5 tokens in 12 places", _pi(_FIRST[:5], range(40, 45), max_length=12)),
        Case("the lists stay as they were", _pi_untouched),
        Case("max_length 4 and 0 are refused, 5 is not", _pi_refusals),
    ],
    hints=[
        "How many of max_length are left for the two texts? While they are longer together, one "
        "token goes: off which?",
        "[cls_id, *first, sep_id, *second, sep_id]; the types are [0] * (len(first) + 2) + "
        "[1] * (len(second) + 1), after the cut. Work on copies of the lists.",
    ],
    mistakes=[
        Mistake(_pi_wrong(types="zero"), "All types are 0: from the second text on they are 1."),
        Mistake(_pi_wrong(types="swapped"), "The types are the wrong way round: the first is 0."),
        Mistake(_pi_wrong(switch=-1), "The first [SEP] belongs to the first text: type 0."),
        Mistake(_pi_wrong(switch=1), "The types change one place too late."),
        Mistake(_pi_wrong(last_sep=False), "The [SEP] at the end is missing."),
        Mistake(_pi_wrong(middle_sep=False), "There is no [SEP] between the two texts."),
        Mistake(
            _pi_wrong(second_cls=True, room=4), "There is one [CLS] only, in front of the first."
        ),
        Mistake(
            _pi_wrong(cut="packed"),
            "You cut the packed pair, so its last [SEP] falls off. Cut the texts, then pack.",
        ),
        Mistake(
            _pi_wrong(cut="second"),
            "Only the second text is cut, even where the first is the longer one.",
        ),
        Mistake(_pi_wrong(cut="first"), "Only the first text is cut."),
        Mistake(
            _pi_wrong(cut="halves"),
            "Both texts are cut to half of the room. A short one is left whole while the other is "
            "longer.",
        ),
        Mistake(_pi_wrong(cut="ties first"), "Of two equally long texts the second gives first."),
        Mistake(_pi_wrong(cut="front"), "You cut in front. Tokens go off the end."),
        Mistake(_pi_wrong(room=2), "There are three special tokens; you left room for two."),
        Mistake(_pi_swapped, "The two texts have changed places."),
        Mistake(_pi_in_place, "You cut the caller's own list. Copy it first."),
        Mistake(_pi_wrong(checked=False), "max_length 4 leaves no room: raise ValueError."),
    ],
)

# --- finetuning/energy ----------------------------------------------------------------------------


def energy_stub(logits, oos):
    """logits (queries, labels), oos a label → (queries,): log Σ exp of the in-scope logits

    The higher, the more in scope. Logits of 1,000 must not overflow.
    """
    raise NotImplementedError("your turn")


def _en(seed, *shape, oos=1, times=1.0, shift=0.0):
    def run(implementation):
        logits = times * torch.randn(*shape, generator=_seeded(seed)) + shift
        return implementation(logits, oos)

    return run


def _en_wrong(part):
    def negative_energy(logits, oos):
        return part(logits, torch.cat([logits[:, :oos], logits[:, oos + 1 :]], dim=1))

    return negative_energy


def _en_last(logits, oos):
    return logits[:, :-1].logsumexp(-1)


ENERGY = Exercise(
    id="finetuning/energy",
    lesson="06",
    title="Energy as a score",
    difficulty=1,
    minutes=5,
    reference=out_of_scope.negative_energy,
    stub=energy_stub,
    cases=[
        Case("four queries, five labels", _en(0, 4, 5)),
        Case("the out-of-scope label is the first", _en(1, 3, 4, oos=0)),
        Case("one query, two labels", _en(2, 1, 2)),
        Case("logits of a thousand", _en(3, 4, 6, oos=5, shift=1000.0)),
    ],
    hints=[
        "Leave the column oos out first. torch has a function for log Σ exp that does not "
        "overflow.",
        "in_scope(logits, oos).logsumexp(-1)",
    ],
    mistakes=[
        Mistake(
            _en_wrong(lambda all_, known: all_.logsumexp(-1)),
            "The out-of-scope logit is in the sum: it would speak for the queries it speaks "
            "against.",
        ),
        Mistake(_en_last, "You left out the last column; the label to leave out is oos."),
        Mistake(
            _en_wrong(lambda all_, known: -known.logsumexp(-1)),
            "This is the energy itself, higher for what is out of scope. Turn its sign.",
        ),
        Mistake(
            _en_wrong(lambda all_, known: known.exp().sum(-1).log()),
            "exp overflows: inf at logits of a thousand. logsumexp takes the largest out first.",
        ),
        Mistake(_en_wrong(lambda all_, known: known.amax(-1)), "This is the largest logit alone."),
        Mistake(_en_wrong(lambda all_, known: known.exp().sum(-1)), "The logarithm is missing."),
        Mistake(
            _en_wrong(lambda all_, known: known.softmax(-1).logsumexp(-1)),
            "You took the softmax first, which throws away how large the logits were.",
        ),
        Mistake(
            _en_wrong(lambda all_, known: known.logsumexp(0)),
            "The sum ran over the queries; it runs over the labels.",
        ),
    ],
)

# --- finetuning/hand-over (open) ------------------------------------------------------------------

HAND_OVER = OpenExercise(
    id="finetuning/hand-over",
    lesson="06",
    title="When should it hand over?",
    difficulty=4,
    minutes=45,
    task="Decide, for a business you know, which queries the assistant answers and which a person "
    "does; defend the threshold with costs, and say how you would notice that it has gone stale.",
    hints=[
        "Write down what four things cost: a right answer, a wrong answer, an out-of-scope query "
        "that is answered, a query that a person takes although the machine had it right.",
        "The share of out-of-scope queries in life is not the test set's. Draw the best threshold "
        "against that share.",
    ],
    rubric=[
        "The costs are numbers with a unit and a reason, and not all intents cost the same: a "
        "wrong card_stolen is no wrong seat_choose.",
        "The threshold is chosen on validation, and its cost is told on test.",
        "It says what happens when the share of out-of-scope queries is half or twice as large.",
        "Confidence is calibrated, or the rule does not need it to be.",
        "It names what is watched in use (share handed over, confidence histogram, a labelled "
        "sample) and what would trigger a new threshold.",
    ],
    answer="""One way, for a bank, in minutes of a person's time. Handing over: 4. A wrong answer in
a harmless intent: 8, as the customer writes again and then a person answers after all. A wrong
answer about a stolen card: 200. A right answer: 0.

1. **With costs a rule follows.** Answer where p · 0 + (1 − p) · wrong < 4, so where
   p > 1 − 4 / wrong, if all mistakes cost the same: 0.5 for the harmless. They do not, and what a
   mistake costs hangs on what was *meant*: a stolen card that is read as a lost one is dear. So
   weigh every possibility: answer a where Σ_j p_j · cost(a, j) < 4. That needs p to mean what it
   says: fit T on validation, check the reliability diagram on test.
2. **Out of scope** is one of the j, and p knows it from the training mix only. With
   10 % out of scope instead of the test's share, weigh each of those queries down accordingly and
   draw the cost against the threshold again. If the best threshold hardly moves, take it; if it
   does, take the one that is least bad over the likely shares.
3. **What to watch.** The share handed over, week by week; the histogram of confidence; 100 answered
   queries a week, labelled by hand: their error rate with its interval. A new product brings new
   queries, all of them out of scope at first: cluster what is handed over.""",
)

EXERCISES = [
    CLASSIFIER,
    COLLATE,
    CALIBRATION_ERROR,
    ENERGY,
    THRESHOLD,
    PAIR_INPUT,
    HAND_OVER,
]

# --- Claims ---------------------------------------------------------------------------------------


def _judge_glue(base, large, before):
    """averages of the nine columns of the BERT paper's table 1, three rows of it"""
    said = dict(base=78.5, large=80.4, before=68.9)
    found = dict(base=base, large=large, before=before)
    if all(abs(said[name] - found[name]) < 0.06 for name in said):
        return Verdict(True, "these are the averages of the paper's table 1.")
    return Verdict(
        False,
        "the rows of the paper's table 1 average to 79.6 for base, 82.1 for large and 74.0 for the "
        "best before GPT. 80.4 and 68.9 are GLUE's official score, which counts MNLI once and adds "
        "WNLI: two averages of one benchmark, never to be mixed.",
    )


def _judge_pretraining(pretrained, random):
    """{examples of each intent: accuracy}, of one architecture, mean over seeds"""
    few, many = min(pretrained), max(pretrained)
    gaps = {n: pretrained[n] - random[n] for n in (few, many)}
    if gaps[few] > 0.2 and gaps[many] > 0.2:
        return Verdict(
            True,
            "the same architecture, data and recipe from random weights stays far behind, with few "
            "examples and with all there are.",
        )
    if gaps[few] > 0.2:
        return Verdict(False, "with few examples it is; with many the random start catches up.")
    return Verdict(False, "the random start does about as well here.")


def _judge_balanced(argmax, threshold):
    """scores of one set of logits under two decision rules: accuracy, in_scope, oos_recall"""
    moved = threshold["accuracy"] - argmax["accuracy"]
    lost = argmax["in_scope"] - threshold["in_scope"]
    if abs(moved) < 0.01:
        return Verdict(True, "the decision rule hardly moves accuracy.")
    way = "up" if moved > 0 else "down"
    return Verdict(
        False,
        f"the same logits, another decision rule: accuracy goes {way} by points while in-scope "
        f"accuracy {'falls' if lost > 0 else 'does not fall'}. Intents are balanced, in and out of "
        "scope are not; report both apart.",
    )


def _judge_confidence(inside, outside):
    """calibration errors in scope and out of scope, softmax over the intents alone; out of scope
    no answer can be right, so the error there is the mean confidence"""
    if inside < 0.1 and outside < 0.1:
        return Verdict(True, "on both kinds of queries confidence and accuracy agree.")
    like = "nearly so" if inside < 0.1 else "not so"
    sure = "the model is sure of itself too" if outside > 0.5 else "it claims more than it can hold"
    return Verdict(
        False,
        f"on queries like those of training it is {like}; on queries out of scope {sure}, where "
        "no intent can be right. Confidence is worth what it was measured on.",
    )


def _judge_cross(cross_accuracy, apart_accuracy, cross_passes, apart_passes):
    """accuracy of both on pairs; encoder passes of both for one search in an index of vectors"""
    if cross_accuracy > apart_accuracy and cross_passes < 10 * apart_passes:
        return Verdict(True, "it judges better and costs no more.")
    if cross_accuracy > apart_accuracy:
        judged, advice = "judges pairs better", "Search apart, then read the best few together."
    else:
        judged = "judges no better with the pairs it had to learn from"
        advice = "Search apart; re-rank only with a model that has proved to order better."
    return Verdict(
        False,
        f"reading both together {judged}, and every query meets every candidate in an encoder pass "
        f"of its own. {advice}",
    )


CLAIMS = [
    Claim(
        id="finetuning/glue",
        statement="On GLUE BERT-base has 78.5 and BERT-large 80.4; before it was 68.9.",
        source="tutorials",
        judge=_judge_glue,
        holds=dict(base=78.5, large=80.4, before=68.9),
        fails=dict(base=79.6, large=82.1, before=74.0),
    ),
    Claim(
        id="finetuning/pretraining",
        statement="Pretraining is what makes it work.",
        source="goes round",
        judge=_judge_pretraining,
        holds=dict(pretrained={5: 0.7, 50: 0.95}, random={5: 0.1, 50: 0.4}),
        fails=dict(pretrained={5: 0.7, 50: 0.95}, random={5: 0.1, 50: 0.94}),
    ),
    Claim(
        id="finetuning/balanced",
        statement="The data set is balanced, so accuracy is the metric.",
        source="goes round; CLINC150 is balanced over its 150 intents",
        judge=_judge_balanced,
        holds=dict(
            argmax=dict(accuracy=0.95, in_scope=0.95, oos_recall=0.9),
            threshold=dict(accuracy=0.951, in_scope=0.948, oos_recall=0.93),
        ),
        fails=dict(
            argmax=dict(accuracy=0.874, in_scope=0.955, oos_recall=0.51),
            threshold=dict(accuracy=0.915, in_scope=0.944, oos_recall=0.78),
        ),
    ),
    Claim(
        id="finetuning/confidence",
        statement="A softmax of 0.9 means: right nine times in ten.",
        source="goes round",
        judge=_judge_confidence,
        holds=dict(inside=0.02, outside=0.05),
        fails=dict(inside=0.02, outside=0.5),
    ),
    Claim(
        id="finetuning/cross-encoder",
        statement="The cross-encoder is better, so search with it.",
        source="goes round",
        judge=_judge_cross,
        holds=dict(cross_accuracy=0.9, apart_accuracy=0.8, cross_passes=1, apart_passes=1),
        fails=dict(cross_accuracy=0.9, apart_accuracy=0.8, cross_passes=400, apart_passes=1),
    ),
]
