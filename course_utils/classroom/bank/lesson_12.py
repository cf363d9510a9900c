"""Lesson 12, pruning: its exercises, their known mistakes, and its claims."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from course_utils import pruning
from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, fill_


def _draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _refusal(function, *arguments):
    """The name of the error that a call raises, or "no error"."""
    try:
        function(*arguments)
    except Exception as error:
        return type(error).__name__
    return "no error"


# --- pruning/top-mask -----------------------------------------------------------------------------


def top_mask_stub(scores, sparsity):
    """→ bool, of the shape of scores, True = kept: the numbers with the highest scores stay

    pruned_count(scores.numel(), sparsity) of them go, exactly that many: of equal scores the first
    ones (in the order of scores.flatten()). At least one stays. ValueError for NaN or infinity, an
    empty tensor, and a sparsity outside [0, 1).
    """
    raise NotImplementedError("your turn")


TIES = torch.tensor([[0.5, 0.1, 0.5], [0.1, 0.9, 0.5]])


def _mask_case(scores, sparsity):
    def run(implementation):
        mask = implementation(scores.clone(), sparsity)
        return {"pruned": int((mask == 0).sum()), "mask": mask.int()}

    return run


def _mask_dtype(implementation):
    return str(implementation(TIES.clone(), 0.5).dtype)


def _mask_refused(implementation):
    bad = torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("inf")]), torch.empty(0)
    found = [_refusal(implementation, one, 0.5) for one in bad]
    return found + [_refusal(implementation, TIES.clone(), s) for s in (-0.1, 1.0)]


def _mask(scores, sparsity, *, by=lambda s: s, count=None, ties="first", check=True, keep=True):
    """The reference in parts, one of which each known mistake changes."""
    if check:
        pruning.top_mask(scores, sparsity)
    flat = by(scores).flatten()
    wanted = count(len(flat), sparsity) if count else pruning.pruned_count(len(flat), sparsity)
    if ties == "all":
        if not wanted:
            return torch.ones_like(scores, dtype=torch.bool)
        return by(scores) > flat.sort().values[wanted - 1]
    if ties == "none":
        return by(scores) >= flat.sort().values[min(wanted, len(flat) - 1)]
    order = flat.argsort(stable=True, descending=ties == "highest")
    mask = torch.ones(len(flat), dtype=torch.bool)
    mask[order[:wanted]] = False
    return (mask if keep else ~mask).view(scores.shape)


def _mask_wrong(**switches):
    def top_mask(scores, sparsity):
        return _mask(scores, sparsity, **switches)

    return top_mask


TOP_MASK = Exercise(
    id="pruning/top-mask",
    lesson="12",
    title="Keep the highest scores",
    difficulty=2,
    minutes=12,
    reference=pruning.top_mask,
    stub=top_mask_stub,
    cases=[
        Case("ten numbers, 30 %", _mask_case(_draw(0, 10), 0.3)),
        Case("a matrix, half", _mask_case(_draw(1, 4, 6), 0.5)),
        Case("nothing is pruned", _mask_case(_draw(2, 5), 0.0)),
        Case("six numbers with ties, half", _mask_case(TIES, 0.5)),
        Case("all numbers equal, half", _mask_case(torch.zeros(2, 4), 0.5)),
        Case("a sparsity that does not come out even", _mask_case(_draw(3, 7), 0.5)),
        Case("three numbers, 99 %", _mask_case(_draw(4, 3), 0.99)),
        Case("the mask's dtype", _mask_dtype),
        Case("what is refused", _mask_refused),
    ],
    hints=[
        "How many numbers go is known before you look at them. Which ones: sort, or find the "
        "value at that rank.",
        "A comparison with a limit (scores > limit) prunes too many or too few where scores are "
        "equal. torch.argsort(stable=True) keeps equal scores in order, so its first ones go.",
        "flat = scores.flatten(); order = flat.argsort(stable=True); then set the mask to False at "
        "order[:pruned_count(len(flat), sparsity)].",
    ],
    mistakes=[
        Mistake(
            _mask_wrong(ties="all"),
            "You compare with a limit, and all numbers equal to it go: more than were asked for. "
            "With a tensor of equal numbers nothing stays.",
        ),
        Mistake(
            _mask_wrong(ties="none"),
            "You compare with a limit, and all numbers equal to it stay: fewer go than were asked "
            "for. With a tensor of equal numbers nothing is pruned.",
        ),
        Mistake(
            _mask_wrong(by=torch.abs),
            "You rank by the absolute value. These are scores: a negative one is a low one. "
            "`magnitude_mask` takes the absolute value before it asks you.",
        ),
        Mistake(
            _mask_wrong(ties="highest"),
            "The highest scores go and the lowest stay; it is to be the other way round.",
        ),
        Mistake(
            _mask_wrong(keep=False),
            "Your mask is True where a number goes. True = kept.",
        ),
        Mistake(
            _mask_wrong(count=lambda n, s: int(n * s)),
            "You round the number of pruned ones down; `pruned_count` rounds to the nearest.",
        ),
        Mistake(
            _mask_wrong(count=lambda n, s: round(n * s)),
            "With three numbers and 99 % nothing stays. At least one does: see `pruned_count`.",
        ),
        Mistake(
            lambda scores, sparsity: _mask(scores, sparsity).to(scores.dtype),
            "The mask is right, but it holds floats. Give it back as bool.",
        ),
        Mistake(
            _mask_wrong(check=False),
            "NaN or infinity, an empty tensor, or a sparsity outside [0, 1) goes through: raise "
            "ValueError. NaN sorts as the largest score.",
        ),
    ],
)

# --- pruning/cubic --------------------------------------------------------------------------------


def cubic_sparsity_stub(step, start, steps, interval, initial, final):
    """→ the sparsity at a training step: final + (initial − final) · (1 − k / steps)³

    k = how many prunings were done before or at this step: one every `interval` steps from `start`
    on (at `start` itself k is 0), at most `steps` of them; `initial` before `start`. ValueError
    unless 0 ≤ initial ≤ final < 1 and steps and interval are at least 1.
    """
    raise NotImplementedError("your turn")


def _cubic_case(*arguments):
    return lambda implementation: float(implementation(*arguments))


def _cubic_refused(implementation):
    bad = ((3, 0, 4, 1, 0.5, 0.2), (3, 0, 4, 1, 0.0, 1.0), (3, 0, 0, 1, 0.0, 0.5),
           (3, 0, 4, 0, 0.0, 0.5))  # fmt: skip
    return [_refusal(implementation, *one) for one in bad]


def _cubic(
    step, start, steps, interval, initial, final, *, power=3, stairs=True, low=True, high=True,
    turned=False, shifted=True, check=True
):  # fmt: skip
    if check:
        pruning.cubic_sparsity(step, start, steps, interval, initial, final)
    since = step - start if shifted else step
    done = since // interval if stairs else since / interval
    done = max(done, 0) if low else done
    done = min(done, steps) if high else done
    rest = 1 - done / steps
    if turned:
        return initial + (final - initial) * (1 - rest) ** power
    return final + (initial - final) * rest**power


def _cubic_wrong(**switches):
    def cubic_sparsity(step, start, steps, interval, initial, final):
        return _cubic(step, start, steps, interval, initial, final, **switches)

    return cubic_sparsity


CUBIC = Exercise(
    id="pruning/cubic",
    lesson="12",
    title="The cubic schedule",
    difficulty=1,
    minutes=8,
    reference=pruning.cubic_sparsity,
    stub=cubic_sparsity_stub,
    cases=[
        Case("at the start", _cubic_case(10, 10, 5, 4, 0.1, 0.9)),
        Case("in the middle", _cubic_case(18, 10, 5, 4, 0.1, 0.9)),
        Case("between two prunings", _cubic_case(21, 10, 5, 4, 0.1, 0.9)),
        Case("at the last pruning", _cubic_case(30, 10, 5, 4, 0.1, 0.9)),
        Case("long after it", _cubic_case(1000, 10, 5, 4, 0.1, 0.9)),
        Case("before the start", _cubic_case(3, 10, 5, 4, 0.1, 0.9)),
        Case("from 0 to 97 %", _cubic_case(150, 50, 40, 10, 0.0, 0.97)),
        Case("what is refused", _cubic_refused),
    ],
    hints=[
        "Count the prunings first: so many whole intervals lie between start and step.",
        "Before the start the count must not fall below 0, and after the last pruning not rise "
        "above `steps`: min(max(k, 0), steps).",
    ],
    mistakes=[
        Mistake(
            _cubic_wrong(power=1),
            "That is a straight line: as much is pruned at the end as at the beginning, when fewer "
            "weights are left to take over. Cube the rest.",
        ),
        Mistake(
            _cubic_wrong(turned=True),
            "Your curve is slow first and fast at the end. It is to be the other way round: what "
            "is cubed is the part that is still to come, 1 − k / steps.",
        ),
        Mistake(
            _cubic_wrong(stairs=False),
            "Between two prunings the sparsity stays: count whole intervals (//).",
        ),
        Mistake(
            _cubic_wrong(high=False),
            "After the last pruning the count goes on rising. It ends at `steps`.",
        ),
        Mistake(
            _cubic_wrong(low=False),
            "Before the start your sparsity is below `initial`: the count is negative there.",
        ),
        Mistake(_cubic_wrong(shifted=False), "The count begins at step 0; it begins at `start`."),
        Mistake(
            _cubic_wrong(check=False),
            "A schedule that can not be goes through; raise ValueError.",
        ),
    ],
)

# --- pruning/movement-gradient --------------------------------------------------------------------


def movement_gradient_stub(weight, x, output_gradient):
    """→ (out, in): the gradient of the scores S of a layer y = x · (W ⊙ mask(S))ᵀ

    weight W (out, in), x (rows, in), output_gradient ∂L/∂y (rows, out). The mask counts as the
    scores themselves on the way back (straight-through): ∂L/∂S = ∂L/∂W′ ⊙ W, where W′ = W ⊙ mask
    is the weight that was used. So the gradient reaches the scores of masked weights too.
    """
    raise NotImplementedError("your turn")


def _movement_case(rows, width, out):
    def run(implementation):
        given = _draw(5, out, width), _draw(6, rows, width), _draw(7, rows, out)
        return implementation(*given)

    return run


MOVEMENT = Exercise(
    id="pruning/movement-gradient",
    lesson="12",
    title="The gradient of a score",
    difficulty=3,
    minutes=15,
    reference=pruning.movement_gradient,
    stub=movement_gradient_stub,
    cases=[
        Case("one row, one output", _movement_case(1, 3, 1)),
        Case("five rows, 4 → 3", _movement_case(5, 4, 3)),
        Case("five rows, 3 → 3", _movement_case(5, 3, 3)),
        Case("sixteen rows, 2 → 6", _movement_case(16, 2, 6)),
    ],
    hints=[
        "First ∂L/∂W′ of an ordinary linear layer. Its entry (j, k) sums over the rows what output "
        "j is asked to change times input k.",
        "y = x W′ᵀ gives ∂L/∂W′ = (∂L/∂y)ᵀ x. Then W′ = W ⊙ mask: what is the slope of W′ by the "
        "mask?",
    ],
    mistakes=[
        Mistake(
            lambda weight, x, output_gradient: output_gradient.T @ x,
            "That is ∂L/∂W′, the gradient of a weight. A score is multiplied by its weight on the "
            "way forward, so on the way back too.",
        ),
        Mistake(
            lambda weight, x, output_gradient: (output_gradient.T @ x) * weight.abs(),
            "The weight's sign is lost. It matters: the same gradient pulls a positive weight "
            "towards 0 and a negative one away from it.",
        ),
        Mistake(
            lambda weight, x, output_gradient: -(output_gradient.T @ x) * weight,
            "The sign is turned. This is the gradient; the optimizer subtracts it itself.",
        ),
        Mistake(
            lambda weight, x, output_gradient: (output_gradient.T @ x) * weight / len(x),
            "You take the mean over the rows. Where a mean belongs, it is in ∂L/∂y already.",
        ),
        Mistake(
            lambda weight, x, output_gradient: ((output_gradient.T @ x) * weight).sum(
                1, keepdim=True
            ),
            "One number for each output, {shape}: every weight has a score of its own, (out, in).",
        ),
        Mistake(
            lambda weight, x, output_gradient: (x.T @ output_gradient) * weight.T,
            "Your result is transposed, {shape}; it has the shape of the weight, (out, in).",
        ),
    ],
)

# --- pruning/soft-mask ----------------------------------------------------------------------------


def soft_mask_stub(scores, threshold=0.5):
    """→ 1.0 where sigmoid(score) is above the threshold, else 0.0, of the shape of scores

    Backward, its gradient is the sigmoid's, as if nothing had been cut. ValueError for a threshold
    outside (0, 1).
    """
    raise NotImplementedError("your turn")


def _soft_case(threshold):
    def run(implementation):
        scores = torch.tensor([[-3.0, -0.2, 0.0], [0.3, 1.5, 4.0]], requires_grad=True)
        mask = implementation(scores, threshold)
        gradient = torch.zeros_like(scores)
        if mask.requires_grad:
            weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
            gradient = torch.autograd.grad((mask * weights).sum(), scores)[0]
        return {"mask": mask.detach().float(), "gradient": gradient}

    return run


def _soft_refused(implementation):
    return [_refusal(implementation, torch.zeros(2), t) for t in (0.0, 1.0, -1.0)]


def _checked(threshold):
    pruning.soft_mask(torch.zeros(1), threshold)


def _soft_wrong(forward, slope):
    def soft_mask(scores, threshold=0.5):
        _checked(threshold)
        smooth = slope(scores)
        return forward(scores, threshold) + smooth - smooth.detach()

    return soft_mask


def _above(scores, threshold):
    return (scores.sigmoid() > threshold).float()


def soft_mask_flat(scores, threshold=0.5):
    _checked(threshold)
    return _above(scores, threshold)


def soft_mask_smooth(scores, threshold=0.5):
    _checked(threshold)
    return scores.sigmoid()


def soft_mask_half_smooth(scores, threshold=0.5):
    _checked(threshold)
    return _above(scores, threshold) * scores.sigmoid()


def soft_mask_unchecked(scores, threshold=0.5):
    smooth = scores.sigmoid()
    return _above(scores, threshold) + smooth - smooth.detach()


SOFT_MASK = Exercise(
    id="pruning/soft-mask",
    lesson="12",
    title="A threshold that learns",
    difficulty=3,
    minutes=12,
    reference=pruning.soft_mask,
    stub=soft_mask_stub,
    cases=[
        Case("threshold 0.5", _soft_case(0.5)),
        Case("threshold 0.2", _soft_case(0.2)),
        Case("threshold 0.9", _soft_case(0.9)),
        Case("what is refused", _soft_refused),
    ],
    hints=[
        "A comparison has no gradient. Lesson 11's trick gives a number one value forward and "
        "another's gradient backward.",
        "smooth − smooth.detach() is 0, and has the gradient of smooth. Add it to the hard mask.",
    ],
    mistakes=[
        Mistake(
            soft_mask_flat, "The mask is right, but no gradient passes: the scores never move."
        ),
        Mistake(
            soft_mask_smooth,
            "You give the sigmoid itself. The mask is to be 0 or 1 forward; the sigmoid is for the "
            "way back.",
        ),
        Mistake(
            soft_mask_half_smooth,
            "What is kept is multiplied by its sigmoid: forward the mask is 0 or 1.",
        ),
        Mistake(
            _soft_wrong(_above, lambda scores: scores),
            "The gradient is 1 everywhere, that of the scores. The sigmoid's slope is asked for: "
            "far from 0 a score hardly moves.",
        ),
        Mistake(
            _soft_wrong(lambda s, t: (s > t).float(), torch.sigmoid),
            "You compare the score with the threshold; its sigmoid is to be compared.",
        ),
        Mistake(
            _soft_wrong(lambda s, t: (s.sigmoid() < t).float(), torch.sigmoid),
            "What lies below the threshold stays; what lies above it is to stay.",
        ),
        Mistake(
            _soft_wrong(lambda s, t: (s.sigmoid() >= t).float(), torch.sigmoid),
            "A score whose sigmoid is exactly the threshold stays; only what lies above it does.",
        ),
        Mistake(soft_mask_unchecked, "A threshold outside (0, 1) goes through: raise ValueError."),
    ],
)

# --- pruning/head-importance ----------------------------------------------------------------------


def head_importance_stub(a, gradient, num_heads):
    """→ (num_heads,): the mean over texts of |Σ a · ∂L/∂a|, the sum over a head's tokens, features

    a (texts, tokens, heads · d_k) is what the heads give, side by side as `merge_heads` puts them;
    gradient, of the same shape, is ∂L/∂a of each text's own loss.
    """
    raise NotImplementedError("your turn")


def _head_case(texts, tokens, heads, d_k):
    def run(implementation):
        given = _draw(8, texts, tokens, heads * d_k), _draw(9, texts, tokens, heads * d_k)
        return implementation(*given, heads)

    return run


def _heads(a, gradient, num_heads, *, inner=lambda x: x, outer=torch.abs, split=None,
           over=lambda x: x.mean(0)):  # fmt: skip
    change = inner(a * gradient).sum(1)  # (texts, heads · d_k)
    parts = (split or (lambda x, n: x.unflatten(1, (n, -1)).sum(2)))(change, num_heads)
    return over(outer(parts))


def _heads_wrong(**switches):
    def head_importance(a, gradient, num_heads):
        return _heads(a, gradient, num_heads, **switches)

    return head_importance


HEADS = Exercise(
    id="pruning/head-importance",
    lesson="12",
    title="How much a head matters",
    difficulty=3,
    minutes=15,
    reference=pruning.head_importance,
    stub=head_importance_stub,
    cases=[
        Case("one text, two heads", _head_case(1, 3, 2, 2)),
        Case("five texts, three heads", _head_case(5, 4, 3, 4)),
        Case("as many heads as features of one", _head_case(4, 3, 3, 3)),
        Case("neurons: heads of one feature", _head_case(6, 5, 8, 1)),
    ],
    hints=[
        "A gate ξ multiplies all that a head gives: ∂L/∂ξ at ξ = 1 is Σ a · ∂L/∂a over everything "
        "that the gate reaches. What does it reach in one text?",
        "Sum over the tokens, split the features into (heads, d_k), sum over d_k. Only then the "
        "absolute value, text by text, and then the mean.",
    ],
    mistakes=[
        Mistake(
            _heads_wrong(outer=lambda x: x, over=lambda x: x.mean(0).abs()),
            "You take the mean over the texts before the absolute value. Texts that pull to "
            "different sides then cancel, and a head that matters in all of them looks idle.",
        ),
        Mistake(
            _heads_wrong(inner=torch.abs),
            "You take the absolute value of each product. A gate switches a whole head: within a "
            "text the products add up with their signs.",
        ),
        Mistake(
            _heads_wrong(outer=lambda x: x),
            "There is no absolute value, so importance may be negative.",
        ),
        Mistake(
            _heads_wrong(split=lambda x, n: x.unflatten(1, (-1, n)).sum(1)),
            "The features are split the wrong way: head h has the h-th run of d_k *neighbouring* "
            "features, not every num_heads-th one.",
        ),
        Mistake(
            _heads_wrong(split=lambda x, n: x.unflatten(1, (n, -1)).mean(2)),
            "You take the mean over a head's features; a gate reaches all of them: their sum.",
        ),
        Mistake(
            _heads_wrong(over=lambda x: x.sum(0)),
            "You add up over the texts; take the mean, or the number of texts decides.",
        ),
        Mistake(
            lambda a, gradient, num_heads: (
                gradient.sum(1).unflatten(1, (num_heads, -1)).sum(2).abs().mean(0)
            ),
            "The gradient alone says how the loss follows a shift of `a`. A gate multiplies: "
            "a · ∂L/∂a.",
        ),
    ],
)

# --- pruning/shrink -------------------------------------------------------------------------------


def shrink_feed_forward_stub(expand, contract, kept):
    """→ (expand, contract), new nn.Linear layers with these neurons alone, in the order of kept

    expand (hidden → intermediate), contract (intermediate → hidden); kept: numbers of neurons. The
    new layers have len(kept) between them, are trained apart from the old ones, and answer like
    the old ones with all other neurons at 0. ValueError for no neuron, and one that is not there.
    """
    raise NotImplementedError("your turn")


def _layers():
    return fill_(nn.Linear(4, 6), 1), fill_(nn.Linear(6, 4), 2)


def _shrink_case(kept):
    def run(implementation):
        expand, contract = implementation(*_layers(), list(kept))
        x = _draw(10, 3, 4)
        return {
            "expand": expand.weight,
            "expand's bias": expand.bias,
            "contract": contract.weight,
            "contract's bias": contract.bias,
            "answers": contract(F.gelu(expand(x))),
            "widths": [expand.out_features, contract.in_features],
        }

    return run


def _shrink_apart(implementation):
    expand, contract = _layers()
    before = expand.weight.detach().clone(), contract.bias.detach().clone()
    small = implementation(expand, contract, [1, 4])
    with torch.no_grad():
        small[0].weight.zero_()
        small[1].bias.zero_()
    same = torch.equal(expand.weight, before[0]) and torch.equal(contract.bias, before[1])
    trained = all(p.requires_grad and p.is_leaf for part in small for p in part.parameters())
    return f"the old layers are as they were: {same}; the new ones can be trained: {trained}"


def _shrink_refused(implementation):
    return [_refusal(implementation, *_layers(), kept) for kept in ([], [6], [-1])]


def _shrink(
    expand, contract, kept, *, check=True, sort=False, bias=True, whole=True, shared=False,
    complement=False, zero=False
):  # fmt: skip
    if check:
        pruning.shrink_feed_forward(expand, contract, kept)
    kept = list(kept)
    if sort:
        kept = sorted(kept)
    if complement:
        kept = [i for i in range(expand.out_features) if i not in kept] or [0]
    if zero:
        small = copy.deepcopy((expand, contract))
        gone = [i for i in range(expand.out_features) if i not in kept]
        with torch.no_grad():
            small[1].weight[:, gone] = 0
        return small
    a = nn.Linear(expand.in_features, len(kept))
    b = nn.Linear(len(kept), contract.out_features)
    with torch.no_grad():
        a.weight.copy_(expand.weight[kept])
        if bias:
            a.bias.copy_(expand.bias[kept])
        else:
            a.bias.zero_()
        b.weight.copy_(contract.weight[:, kept])
        b.bias.copy_(contract.bias * (1 if whole else len(kept) / expand.out_features))
    if shared:
        b.bias = contract.bias
    return a, b


def _shrink_wrong(**switches):
    def shrink_feed_forward(expand, contract, kept):
        return _shrink(expand, contract, kept, **switches)

    return shrink_feed_forward


SHRINK = Exercise(
    id="pruning/shrink",
    lesson="12",
    title="A smaller feed-forward",
    difficulty=3,
    minutes=12,
    reference=pruning.shrink_feed_forward,
    stub=shrink_feed_forward_stub,
    cases=[
        Case("three of six neurons", _shrink_case([0, 2, 5])),
        Case("in another order", _shrink_case([4, 1])),
        Case("one neuron", _shrink_case([3])),
        Case("all of them", _shrink_case(range(6))),
        Case("apart from the old layers", _shrink_apart),
        Case("what is refused", _shrink_refused),
    ],
    hints=[
        "A neuron is one row of expand.weight with its number of expand.bias, and one column of "
        "contract.weight. What of contract.bias is its own?",
        "expand.weight[kept] takes rows, contract.weight[:, kept] columns. Copy them into new "
        "nn.Linear layers under torch.no_grad(); negative numbers index from the end, so check.",
    ],
    mistakes=[
        Mistake(
            _shrink_wrong(bias=False),
            "The first layer's bias is lost: a neuron has one number of it.",
        ),
        Mistake(
            _shrink_wrong(whole=False),
            "The second layer's bias belongs to the outputs, all of which stay: copy it whole.",
        ),
        Mistake(
            _shrink_wrong(complement=True),
            "You take away what is named in `kept`; it is what stays.",
        ),
        Mistake(
            _shrink_wrong(sort=True),
            "The neurons are in another order than in `kept`. The answers are the same, but the "
            "rows are not where the caller expects them.",
        ),
        Mistake(
            _shrink_wrong(zero=True),
            "You set the other neurons to 0. The layers are as large and as slow as before: make "
            "new ones with fewer rows and columns.",
        ),
        Mistake(
            _shrink_wrong(shared=True),
            "New and old layer share a parameter: training the one changes the other. Copy it.",
        ),
        Mistake(
            _shrink_wrong(check=False),
            "No neuron at all, or one that is not there (−1 counts from the end), goes through: "
            "raise ValueError.",
        ),
    ],
)

EXERCISES = [TOP_MASK, CUBIC, MOVEMENT, SOFT_MASK, HEADS, SHRINK]

# --- Claims ---------------------------------------------------------------------------------------


def _judge_faster(zeros, shrunk):
    """times as fast as dense: 90 % zeros in the same kernel, and half the heads and neurons gone"""
    if zeros > 1.2:
        return Verdict(True, "zeros in the same matrices were faster here.")
    return Verdict(
        False,
        f"with 90 % zeros the same kernel takes as long ({zeros:.1f} times as fast): it multiplies "
        f"by 0 like by any number. With half the heads and neurons really gone it is {shrunk:.1f} "
        "times as fast.",
    )


def _judge_magnitude(low, first, slow):
    """accuracy that movement gains: low, the interval's lower end at 97 %, first at 85 %; slow: at
    97 % with a sixth of the learning rate"""
    rest = f"at 85 % it gains {100 * first:+.1f}, at 97 % and a lower rate {100 * slow:+.1f}"
    ahead = "ahead" if low > 0 else "not ahead"
    words = f"at 97 % movement is {ahead} by more than chance in these runs; {rest} points."
    return Verdict(low <= 0, words)


def _judge_sharing(counted, stored):
    """share of the tensors' numbers that a count finds, and of the bytes that are on disk"""
    if counted < 0.9:
        return Verdict(True, "the count itself is smaller.")
    return Verdict(
        False,
        f"counting parameters gives {counted:.0%} of what there was: every weight is still a "
        f"number. With codebook and indices the file has {stored:.0%} of the bytes.",
    )


CLAIMS = [
    Claim(
        id="pruning/faster",
        statement="Pruning makes the model faster.",
        source="goes round",
        judge=_judge_faster,
        holds=dict(zeros=2.0, shrunk=1.7),
        fails=dict(zeros=1.0, shrunk=1.7),
    ),
    Claim(
        id="pruning/magnitude",
        statement="Magnitude pruning is right for fine-tuned models.",
        source="goes round",
        judge=_judge_magnitude,
        holds=dict(low=-0.02, first=-0.01, slow=0.2),
        fails=dict(low=0.02, first=-0.01, slow=0.2),
    ),
    Claim(
        id="pruning/sharing",
        statement="Weight sharing reduces the number of parameters.",
        source="goes round",
        judge=_judge_sharing,
        holds=dict(counted=0.1, stored=0.1),
        fails=dict(counted=1.0, stored=0.13),
    ),
]
