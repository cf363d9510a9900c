"""Lesson 07, what matters in fine-tuning: its exercises, their known mistakes, and its claims."""

import torch
from torch import nn

from course_utils import adapters, adversarial, finetuning, multitask, truncation
from course_utils.bert import BertConfig
from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise, fill_
from course_utils.finetuning import BertForSequenceClassification, freeze


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


def _classifier(layers=1, seed=1):
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=10,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return fill_(BertForSequenceClassification(config, ["a", "b", "c"]), seed)


def _batch():
    return {
        "input_ids": torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0], [2, 11, 12, 3]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]),
        "labels": torch.tensor([2, 0, 1]),
    }


# --- tuning/layer-groups --------------------------------------------------------------------------


def parameter_groups_stub(model, learning_rate, weight_decay, layer_decay=1.0):
    """→ list of dict(params, lr, weight_decay) for torch.optim.AdamW, the head's group last

    model.bert has embeddings, encoder.layers and a pooler; the head is what is outside model.bert.
    Head and pooler get learning_rate, the top layer learning_rate * layer_decay, the next one
    learning_rate * layer_decay**2, …, the embeddings the smallest rate. Tensors with one axis
    (biases, LayerNorm) get weight_decay 0. Parameters that ask for no gradient are in no group;
    all others in exactly one.
    """
    raise NotImplementedError("your turn")


def _settings(groups, model):
    """name → [rate, weight decay] of each group that holds the parameter"""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {name: [] for name in names.values()}
    for group in groups:
        for parameter in group["params"]:
            pair = [float(group["lr"]), float(group["weight_decay"])]
            found[names[id(parameter)]].append(pair)
    return found


def _lg_case(layers, frozen=0, **arguments):
    def run(implementation):
        model = _classifier(layers)
        freeze(model.bert, frozen)
        groups = implementation(model, **arguments)
        return _settings(groups, model) | {"rate of the last group": float(groups[-1]["lr"])}

    return run


def _lg(
    model,
    learning_rate,
    weight_decay,
    layer_decay=1.0,
    *,
    rate=lambda height, layers: height,
    decays=lambda name, parameter: parameter.dim() > 1,
    frozen_too=False,
    pooler_is_a_layer=False,
    turned=False,
):
    """The reference parameter by parameter, with a switch for each known mistake."""
    layers, groups = len(model.bert.encoder.layers), []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and not frozen_too:
            continue
        if name.startswith("bert.embeddings"):
            height = layers + 1
        elif name.startswith("bert.encoder"):
            height = layers - int(name.split(".")[3])
        else:
            height = 1 if pooler_is_a_layer and name.startswith("bert.") else 0
        factor = layer_decay ** rate(height, layers)
        if turned:
            factor = layer_decay ** (layers + 1 - height)
        decay = weight_decay if decays(name, parameter) else 0.0
        groups.append({"params": [parameter], "lr": learning_rate * factor, "weight_decay": decay})
    return groups


def _lg_wrong(**switches):
    def parameter_groups(*args, **kwargs):
        return _lg(*args, **kwargs, **switches)

    return parameter_groups


def _lg_line(model, learning_rate, weight_decay, layer_decay=1.0):
    """The rate falls in a line instead of by a factor."""
    groups = _lg(model, learning_rate, weight_decay, layer_decay)
    layers = len(model.bert.encoder.layers)
    names = {id(p): name for name, p in model.named_parameters()}
    for group in groups:
        name = names[id(group["params"][0])]
        height = layers + 1 - finetuning.layer_of(name, layers)
        group["lr"] = learning_rate * (1 - (1 - layer_decay) * height / (layers + 1))
    return groups


LAYER_GROUPS = Exercise(
    id="tuning/layer-groups",
    lesson="07",
    title="A learning rate for each layer",
    difficulty=3,
    minutes=15,
    reference=finetuning.parameter_groups,
    stub=parameter_groups_stub,
    cases=[
        Case(
            "three layers, decay 0.5",
            _lg_case(3, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5),
        ),
        Case("two layers, decay 1", _lg_case(2, learning_rate=3e-4, weight_decay=0.01)),
        Case(
            "embeddings and one layer frozen",
            _lg_case(3, frozen=1, learning_rate=2.0, weight_decay=0.1, layer_decay=0.8),
        ),
        Case(
            "no weight decay at all",
            _lg_case(1, learning_rate=1.0, weight_decay=0.0, layer_decay=0.9),
        ),
    ],
    hints=[
        'Walk over model.named_parameters(). The name tells the place: "bert.embeddings.…", '
        '"bert.encoder.layers.0.…", everything else is the pooler or the head.',
        "Of L layers, number n (from 0) is L − n steps below the head, the embeddings are L + 1. "
        "The rate is learning_rate * layer_decay**steps.",
        "A group may hold a single parameter: groups.append(dict(params=[parameter], lr=…, "
        "weight_decay=weight_decay if parameter.dim() > 1 else 0.0)).",
    ],
    mistakes=[
        Mistake(
            _lg_wrong(turned=True),
            "The rates run the wrong way: the layers near the text should move least, not most.",
        ),
        Mistake(
            _lg_wrong(rate=lambda height, layers: max(height - 1, 0)),
            "The top layer got the head's rate. It is one step below the head: layer_decay**1.",
        ),
        Mistake(
            _lg_wrong(rate=lambda height, layers: min(height, layers)),
            "The embeddings share the lowest layer's rate. They are one step further down.",
        ),
        Mistake(
            _lg_wrong(rate=lambda height, layers: height + 1),
            "The head's own rate is decayed. It gets learning_rate itself.",
        ),
        Mistake(
            _lg_line,
            "The rates fall in a line. They fall by the same factor from layer to layer: "
            "layer_decay**steps.",
        ),
        Mistake(
            _lg_wrong(decays=lambda name, parameter: True),
            "Biases and LayerNorm's parameters are decayed too. Give tensors with one axis "
            "weight_decay 0.",
        ),
        Mistake(
            _lg_wrong(decays=lambda name, parameter: not name.endswith("bias")),
            "LayerNorm's weights are decayed: their names end in weight, but they have one axis "
            "only.",
        ),
        Mistake(
            _lg_wrong(frozen_too=True),
            "Frozen parameters are in a group. Leave out what has requires_grad False: weight "
            "decay alone would be enough to move it.",
        ),
        Mistake(
            _lg_wrong(pooler_is_a_layer=True),
            "The pooler got the top layer's rate. It stands above the layers, with the head.",
        ),
    ],
)

# --- tuning/truncate ------------------------------------------------------------------------------


def truncate_stub(pieces, room, strategy="head", head_share=0.25):
    """→ list of at most `room` of the pieces, in the text's order

    strategy: "head" keeps the first, "tail" the last, "head+tail" round(head_share * room) from the
    beginning and the rest of the room from the end. A text that fits is kept whole. ValueError for
    any other strategy, also where the text fits.
    """
    raise NotImplementedError("your turn")


def _tr_case(length, *arguments, **more):
    return lambda implementation: list(implementation(list(range(length)), *arguments, **more))


def _tr_refusal(implementation):
    return _refusal(lambda: implementation(list(range(9)), 4, "middle"))


def _tr_untouched(implementation):
    pieces = list(range(9))
    implementation(pieces, 4, "tail")
    return pieces


def _tr(
    pieces,
    room,
    strategy="head",
    head_share=0.25,
    *,
    share=lambda head_share: head_share,
    order=lambda head, tail: head + tail,
    from_end=lambda pieces, count: pieces[len(pieces) - count :],
    whole=True,
    checked=True,
):
    if checked and strategy not in truncation.STRATEGIES:
        raise ValueError("unknown")
    pieces = list(pieces)
    if whole and len(pieces) <= room:
        return pieces
    if strategy == "head":
        return pieces[:room]
    head = round(share(head_share) * room) if strategy == "head+tail" else 0
    return order(pieces[:head], from_end(pieces, room - head))


def _tr_wrong(**switches):
    def truncate(*args, **kwargs):
        return _tr(*args, **kwargs, **switches)

    return truncate


TRUNCATE = Exercise(
    id="tuning/truncate",
    lesson="07",
    title="Head, tail, or both",
    difficulty=1,
    minutes=8,
    reference=truncation.truncate,
    stub=truncate_stub,
    cases=[
        Case("20 pieces into 8, head", _tr_case(20, 8)),
        Case("20 pieces into 8, tail", _tr_case(20, 8, "tail")),
        Case("20 pieces into 8, head and tail", _tr_case(20, 8, "head+tail")),
        Case("20 pieces into 7, two of them from the head", _tr_case(20, 7, "head+tail")),
        Case("half from each end", _tr_case(21, 6, "head+tail", head_share=0.5)),
        Case("everything from the head", _tr_case(20, 8, "head+tail", head_share=1.0)),
        Case("a text that fits", _tr_case(5, 8, "head+tail")),
        Case("a text that just fits", _tr_case(8, 8, "tail")),
        Case("an unknown strategy", _tr_refusal),
        Case("the pieces themselves stay", _tr_untouched),
    ],
    hints=[
        "First the easy case: when do you return all pieces? Then one slice from the beginning "
        "and one from the end.",
        "head = round(head_share * room); the tail has room - head pieces. pieces[-0:] is "
        "everything, so count the tail's start from the front: len(pieces) - (room - head).",
    ],
    mistakes=[
        Mistake(
            lambda pieces, room, strategy="head", head_share=0.25: (
                _tr(pieces, room) if strategy in truncation.STRATEGIES else _tr([], 1, "none")
            ),
            "You always keep the beginning. Look at strategy.",
        ),
        Mistake(
            lambda pieces, room, strategy="head", head_share=0.25: _tr(
                pieces, room, strategy, int(head_share * room) / max(room, 1)
            ),
            "You round down. A quarter of 7 is 1.75, so two pieces come from the beginning: round.",
        ),
        Mistake(
            _tr_wrong(share=lambda head_share: 0.5),
            "You take half from each end. head_share says how much comes from the beginning.",
        ),
        Mistake(
            _tr_wrong(share=lambda head_share: 1 - head_share),
            "head_share is the beginning's share of the room; you gave it to the end.",
        ),
        Mistake(
            _tr_wrong(order=lambda head, tail: tail + head),
            "The end stands before the beginning: keep the text's order.",
        ),
        Mistake(
            _tr_wrong(from_end=lambda pieces, count: pieces[-count:]),
            "With nothing left for the tail, pieces[-0:] is the whole text. Count from the front.",
        ),
        Mistake(
            _tr_wrong(from_end=lambda pieces, count: pieces[::-1][:count]),
            "The tail came out backwards.",
        ),
        Mistake(
            _tr_wrong(whole=False),
            "A text that fits came out changed, some pieces twice: return it whole first.",
        ),
        Mistake(
            _tr_wrong(checked=False),
            "The cuts are right; an unknown strategy goes through without a word. Raise "
            "ValueError.",
        ),
    ],
)

# --- tuning/fgm -----------------------------------------------------------------------------------


def fgm_backward_stub(model, batch, epsilon=0.5):
    """→ the plain loss, detached, (); adds two gradients to the parameters

    1. model(**batch).loss, and its gradient. 2. The table model.bert.embeddings.token.weight is
    pushed by epsilon * g / ‖g‖, g being the whole table's gradient (no push if all of it is zero).
    3. The loss there, and its gradient too. 4. The table gets its old numbers back, bit for bit.
    """
    raise NotImplementedError("your turn")


def _fgm_case(epsilon, head_is_zero=False):
    def run(implementation):
        model = _classifier()
        if head_is_zero:
            nn.init.zeros_(model.classifier.weight)
        loss = implementation(model, _batch(), epsilon=epsilon)
        return {
            "loss": loss,
            "asks for a gradient": loss.requires_grad,
            "of the head": model.classifier.weight.grad,
            "of the table": model.bert.embeddings.token.weight.grad,
        }

    return run


def _fgm_restored(implementation):
    found = {}
    for seed in range(4):
        model = _classifier(seed=seed)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        implementation(model, _batch(), epsilon=0.7)
        after = dict(model.named_parameters())
        found[f"nearly, seed {seed}"] = all(
            torch.allclose(after[n], p, atol=1e-4) for n, p in before.items()
        )
        found[f"bit for bit, seed {seed}"] = all(torch.equal(after[n], before[n]) for n in before)
    return found


def _fgm_default(implementation):
    model = _classifier()
    implementation(model, _batch())
    return model.classifier.weight.grad


def _fgm_accumulates(implementation):
    model = _classifier()
    model(**_batch()).loss.backward()
    implementation(model, _batch(), epsilon=0.3)
    return model.classifier.bias.grad


def _fgm(
    model,
    batch,
    epsilon=0.5,
    *,
    direction=adversarial.push,
    restore="copy",
    second=True,
    clear=False,
    returns="plain",
    pushed="token",
):
    loss = model(**batch).loss
    loss.backward()
    table = getattr(model.bert.embeddings, pushed).weight
    before = table.detach().clone()
    offset = direction(table.grad, epsilon)
    if clear:
        model.zero_grad()
    table.data.add_(offset)
    again = model(**batch).loss
    if second:
        again.backward()
    if restore == "copy":
        table.data.copy_(before)
    elif restore == "subtract":
        table.data.sub_(offset)
    return {"plain": loss.detach(), "pushed": again.detach(), "graph": loss}[returns]


def _fgm_wrong(**switches):
    def fgm_backward(*args, **kwargs):
        return _fgm(*args, **kwargs, **switches)

    return fgm_backward


FGM = Exercise(
    id="tuning/fgm",
    lesson="07",
    title="A step of FGM",
    difficulty=3,
    minutes=15,
    reference=adversarial.fgm_backward,
    stub=fgm_backward_stub,
    cases=[
        Case("both gradients, epsilon 0.7", _fgm_case(0.7)),
        Case("epsilon 0 gives the plain gradient twice", _fgm_case(0.0)),
        Case("a table without gradient is not pushed", _fgm_case(0.7, head_is_zero=True)),
        Case("every weight is what it was", _fgm_restored),
        Case("epsilon's default", _fgm_default),
        Case("gradients that are there already stay", _fgm_accumulates),
    ],
    hints=[
        "backward() adds to .grad. So two calls of it, one before and one after the push, are "
        "all that the two gradients need.",
        "Keep before = table.detach().clone(); push with table.data.add_(…), which autograd does "
        "not follow; after the second backward table.data.copy_(before).",
        "norm = table.grad.norm(); the push is epsilon * table.grad / norm, and only if norm > 0. "
        "Return loss.detach() of the first pass.",
    ],
    mistakes=[
        Mistake(
            _fgm_wrong(restore="no"),
            "The table stays pushed: after the second backward give it its old numbers back.",
        ),
        Mistake(
            _fgm_wrong(restore="subtract"),
            "The weights are nearly what they were, not exactly: adding and subtracting rounds "
            "twice. Copy the old numbers back.",
        ),
        Mistake(
            _fgm_wrong(direction=lambda g, epsilon: epsilon * g),
            "The push is as long as the gradient. Divide by its norm: every push has length "
            "epsilon.",
        ),
        Mistake(
            _fgm_wrong(direction=lambda g, epsilon: epsilon * g.sign()),
            "That is the sign of the gradient (FGSM, for pictures). FGM keeps its direction: "
            "g / ‖g‖.",
        ),
        Mistake(
            _fgm_wrong(direction=lambda g, epsilon: -adversarial.push(g, epsilon)),
            "The push lowers the loss. The worst neighbour lies along the gradient, not against "
            "it.",
        ),
        Mistake(
            _fgm_wrong(
                direction=lambda g, epsilon: (
                    epsilon * g / g.norm(dim=-1, keepdim=True).clamp(min=1e-12)
                )
            ),
            "Each row of the table was pushed by epsilon. The norm is that of the whole gradient.",
        ),
        Mistake(
            _fgm_wrong(direction=lambda g, epsilon: epsilon * g / g.norm()),
            "Where the gradient is all zeros you divide 0 by 0, and every weight becomes NaN.",
        ),
        Mistake(
            _fgm_wrong(clear=True),
            "The first gradient is lost. Do not clear gradients in between: both are added up.",
        ),
        Mistake(
            _fgm_wrong(second=False),
            "The pushed loss was computed, but its gradient is missing: call backward() there too.",
        ),
        Mistake(
            _fgm_wrong(returns="pushed"),
            "You returned the loss after the push. The plain one is what the history shows.",
        ),
        Mistake(
            _fgm_wrong(returns="graph"),
            "The loss that you returned still holds its graph: return loss.detach().",
        ),
        Mistake(
            _fgm_wrong(pushed="position"),
            "You pushed the table of positions. Take model.bert.embeddings.token.weight.",
        ),
    ],
)

# --- tuning/uncertainty ---------------------------------------------------------------------------


def uncertainty_loss_stub(losses, log_variances):
    """losses, log_variances (tasks,) → (): the sum over tasks of exp(-s) * loss + s / 2

    s = log σ² is learned, one a task: a loss that stays high is told to weigh less.
    """
    raise NotImplementedError("your turn")


def _un_case(tasks, seed, dtype=torch.float32):
    def run(implementation):
        losses = _draw(seed, tasks, dtype=dtype).abs().requires_grad_()
        variances = _draw(seed + 1, tasks, dtype=dtype).requires_grad_()
        total = implementation(losses, variances)
        total.backward()
        return {
            "loss": total.detach(),
            "gradient of the losses": losses.grad,
            "gradient of the variances": variances.grad,
        }

    return run


def _un_start(implementation):
    return implementation(torch.tensor([2.0, 0.5]), torch.zeros(2))


UNCERTAINTY = Exercise(
    id="tuning/uncertainty",
    lesson="07",
    title="Losses that weigh themselves",
    difficulty=2,
    minutes=8,
    reference=multitask.uncertainty_loss,
    stub=uncertainty_loss_stub,
    cases=[
        Case("at the start the weights are 1", _un_start),
        Case("two tasks", _un_case(2, 0)),
        Case("three tasks, float64", _un_case(3, 2, torch.float64)),
        Case("one task", _un_case(1, 4)),
    ],
    hints=[
        "Everything is element by element until the last step: a weight for each loss, a "
        "penalty for each task, then one sum.",
        "(torch.exp(-log_variances) * losses + log_variances / 2).sum()",
    ],
    mistakes=[
        Mistake(
            lambda losses, s: (torch.exp(s) * losses + s / 2).sum(),
            "The sign is turned: a large variance must make the weight small, exp(−s).",
        ),
        Mistake(
            lambda losses, s: (torch.exp(-s) * losses).sum(),
            "The penalty s / 2 is missing: without it every s grows for ever and all weights fall "
            "to 0.",
        ),
        Mistake(
            lambda losses, s: (torch.exp(-s) * losses + s).sum(),
            "The penalty is log σ = s / 2, as s is the logarithm of σ², not of σ.",
        ),
        Mistake(
            lambda losses, s: (torch.exp(-s) * losses / 2 + s / 2).sum(),
            "The factor 1/2 on the loss is that of the squared error; cross-entropy has none.",
        ),
        Mistake(
            lambda losses, s: (torch.exp(-s / 2) * losses + s / 2).sum(),
            "You divide by σ. The loss is divided by σ², that is exp(−s).",
        ),
        Mistake(
            lambda losses, s: (torch.exp(-s) * losses + s / 2).mean(),
            "That is the mean over the tasks; the sum is asked for.",
        ),
        Mistake(
            lambda losses, s: (torch.exp(-s).detach() * losses + s / 2).sum(),
            "The weight passes no gradient on to s: do not detach it, it is what is learned.",
        ),
    ],
)

# --- tuning/adapter -------------------------------------------------------------------------------


class AdapterStub(nn.Module):
    """x (…, hidden_size) → the same shape: x + up(gelu(down(x)))

    self.down and self.up: nn.Linear from hidden_size to bottleneck and back. A new adapter must
    return x itself, so up starts with weight and bias 0.
    """

    def __init__(self, hidden_size, bottleneck):
        super().__init__()
        raise NotImplementedError("your turn")

    def forward(self, x):
        raise NotImplementedError("your turn")


def _ad_new(implementation):
    x = _draw(0, 2, 3, 8)
    return implementation(8, 2)(x).detach() - x


def _ad_filled(*shape):
    return lambda implementation: fill_(implementation(8, 3), 1)(_draw(1, *shape)).detach()


def _ad_shapes(implementation):
    return {name: tuple(p.shape) for name, p in implementation(10, 4).named_parameters()}


def _ad_gradient(implementation):
    """In a new adapter the gradient must get in: into `up`, whose weight is zero."""
    torch.manual_seed(0)
    adapter = implementation(8, 2)
    adapter(_draw(2, 4, 8)).pow(2).sum().backward()
    return {"up can learn": bool(adapter.up.weight.grad.abs().sum() > 0)}


class _AdapterBase(nn.Module):
    def __init__(self, hidden_size, bottleneck, zero="both", bias=True):
        super().__init__()
        self.down = nn.Linear(hidden_size, bottleneck, bias=bias)
        self.up = nn.Linear(bottleneck, hidden_size, bias=bias)
        if zero in ("both", "weights", "all"):
            nn.init.zeros_(self.up.weight)
        if zero in ("both", "all") and bias:
            nn.init.zeros_(self.up.bias)
        if zero == "all":
            nn.init.zeros_(self.down.weight)
            nn.init.zeros_(self.down.bias)

    def forward(self, x):
        return x + self.up(nn.functional.gelu(self.down(x)))


def _ad_wrong(forward=None, **made):
    class Adapter(_AdapterBase):
        def __init__(self, hidden_size, bottleneck):
            torch.manual_seed(0)
            super().__init__(hidden_size, bottleneck, **made)

    if forward:
        Adapter.forward = forward
    return Adapter


_gelu = nn.functional.gelu

ADAPTER = Exercise(
    id="tuning/adapter",
    lesson="07",
    title="An adapter",
    difficulty=2,
    minutes=10,
    reference=adapters.Adapter,
    stub=AdapterStub,
    cases=[
        Case("a new one changes nothing", _ad_new),
        Case("with weights, a batch", _ad_filled(2, 3, 8)),
        Case("with weights, one vector", _ad_filled(8)),
        Case("its parameters", _ad_shapes),
        Case("a new one can learn", _ad_gradient),
    ],
    hints=[
        "Two nn.Linear in __init__, and nn.init.zeros_ for the weight and the bias of the second.",
        "forward is one line: x + self.up(torch.nn.functional.gelu(self.down(x))).",
    ],
    mistakes=[
        Mistake(
            _ad_wrong(lambda self, x: self.up(_gelu(self.down(x)))),
            "The residual x is missing: a new adapter would answer 0, and the layer's work is "
            "lost.",
        ),
        Mistake(
            _ad_wrong(zero="no"),
            "A new adapter changes its input: up must start at 0, weight and bias.",
        ),
        Mistake(
            _ad_wrong(zero="weights"),
            "up's weight starts at 0, its bias does not: every vector is shifted at first.",
        ),
        Mistake(
            _ad_wrong(lambda self, x: x + self.up(self.down(x))),
            "The activation is missing: two linear layers in a row are one linear layer.",
        ),
        Mistake(
            _ad_wrong(lambda self, x: x + self.up(torch.relu(self.down(x)))),
            "That is ReLU; the encoder's own activation, GELU, is asked for.",
        ),
        Mistake(
            _ad_wrong(lambda self, x: x + _gelu(self.up(self.down(x)))),
            "GELU stands behind up. It belongs into the narrow part, between down and up.",
        ),
        Mistake(
            _ad_wrong(lambda self, x: _gelu(x + self.up(self.down(x)))),
            "The activation is around the sum, so x itself is bent. Only the detour is.",
        ),
        Mistake(
            _ad_wrong(bias=False),
            "Both linear layers have a bias.",
        ),
    ],
)

# --- tuning/lora ----------------------------------------------------------------------------------


class LoRALinearStub(nn.Module):
    """y = linear(x) + (alpha / rank) * x Aᵀ Bᵀ; linear is an nn.Linear, kept as self.linear, frozen

    self.A (rank, in_features), any random start; self.B (out_features, rank), zeros; both are
    nn.Parameter. x (…, in_features) → (…, out_features). merged() → a new nn.Linear that gives the
    same numbers; this layer stays as it is.
    """

    def __init__(self, linear, rank, alpha=16.0):
        super().__init__()
        raise NotImplementedError("your turn")

    def forward(self, x):
        raise NotImplementedError("your turn")

    def merged(self):
        raise NotImplementedError("your turn")


def _lo_linear(bias=True):
    return fill_(nn.Linear(6, 5, bias=bias), 3)


def _lo_new(implementation):
    return implementation(_lo_linear(), 2)(_draw(0, 3, 6)).detach()


def _lo_filled(rank, bias=True, **more):
    def run(implementation):
        layer = fill_(implementation(_lo_linear(bias), rank, **more), 4)
        return layer(_draw(1, 2, 3, 6)).detach()

    return run


def _lo_merged(implementation):
    found = {}
    for bias in (True, False):
        layer = fill_(implementation(_lo_linear(bias), 2, alpha=6.0), 5)
        merged = layer.merged()
        found[f"a plain layer, bias {bias}"] = type(merged).__name__
        found[f"its outputs, bias {bias}"] = merged(_draw(2, 4, 6)).detach()
        found[f"the layer itself stays, bias {bias}"] = layer(_draw(2, 4, 6)).detach()
    return found


def _lo_trained(implementation):
    layer = implementation(_lo_linear(), 2)
    return {name: (tuple(p.shape), p.requires_grad) for name, p in layer.named_parameters()}


def _lo_gradient(implementation):
    torch.manual_seed(0)
    layer = implementation(_lo_linear(), 2)
    layer(_draw(3, 4, 6)).pow(2).sum().backward()
    return {
        "B can learn": bool(layer.B.grad.abs().sum() > 0),
        "A waits for B": bool(layer.A.grad.abs().sum() == 0),
    }


class _LoRA(nn.Module):
    def __init__(
        self, linear, rank, alpha=16.0, *, scale=lambda alpha, rank: alpha / rank,
        freeze=True, zero="B", forward_linear=True, merge_scale=True, merge_bias=True,
        in_place=False,
    ):  # fmt: skip
        super().__init__()
        torch.manual_seed(0)
        self.linear = linear.requires_grad_(not freeze)
        self.scale = scale(alpha, rank)
        self.A = nn.Parameter(torch.randn(rank, linear.in_features))
        self.B = nn.Parameter(torch.randn(linear.out_features, rank))
        for name in zero:
            nn.init.zeros_(getattr(self, name))
        self.forward_linear, self.merge_scale = forward_linear, merge_scale
        self.merge_bias, self.in_place = merge_bias, in_place

    def forward(self, x):
        low_rank = self.scale * (x @ self.A.T) @ self.B.T
        return self.linear(x) + low_rank if self.forward_linear else low_rank

    def merged(self):
        weight = self.linear.weight + (self.scale if self.merge_scale else 1.0) * self.B @ self.A
        if self.in_place:
            self.linear.weight.data.copy_(weight)
            return self.linear
        bias = self.linear.bias if self.merge_bias else None
        merged = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        merged.weight.data.copy_(weight)
        if bias is not None:
            merged.bias.data.copy_(bias)
        return merged


def _lo_wrong(**switches):
    class LoRALinear(_LoRA):
        def __init__(self, linear, rank, alpha=16.0):
            super().__init__(linear, rank, alpha, **switches)

    return LoRALinear


LORA = Exercise(
    id="tuning/lora",
    lesson="07",
    title="LoRA",
    difficulty=4,
    minutes=20,
    reference=adapters.LoRALinear,
    stub=LoRALinearStub,
    cases=[
        Case("a new one changes nothing", _lo_new),
        Case("rank 2, alpha 16", _lo_filled(2)),
        Case("rank 4, alpha 2, no bias", _lo_filled(4, bias=False, alpha=2.0)),
        Case("merged into one layer", _lo_merged),
        Case("what is trained", _lo_trained),
        Case("a new one can learn", _lo_gradient),
    ],
    hints=[
        "Which of the three tensors must be zero for a new layer to change nothing, and which "
        "must not be, for a gradient to get in? linear.requires_grad_(False) freezes.",
        "forward: self.linear(x) + self.scale * (x @ self.A.T) @ self.B.T, thin product first: "
        "(…, rank), then (…, out_features).",
        "merged: a new nn.Linear(in_features, out_features, bias=…) whose weight is "
        "self.linear.weight + self.scale * self.B @ self.A; copy the bias, if there is one.",
    ],
    mistakes=[
        Mistake(
            _lo_wrong(scale=lambda alpha, rank: alpha),
            "The product is weighed by alpha. It is alpha / rank.",
        ),
        Mistake(
            _lo_wrong(scale=lambda alpha, rank: rank / alpha),
            "The fraction is upside down: alpha / rank.",
        ),
        Mistake(
            _lo_wrong(scale=lambda alpha, rank: 1.0),
            "alpha has no effect: the product is weighed by alpha / rank.",
        ),
        Mistake(
            _lo_wrong(zero=""),
            "A new layer changes the output: B must start at zero.",
        ),
        Mistake(
            _lo_wrong(zero="AB"),
            "A and B are both zero: each waits for the other, and neither ever gets a gradient.",
        ),
        Mistake(
            _lo_wrong(zero="A"),
            "A starts at zero and B does not. It would learn, but the paper's way is B = 0.",
        ),
        Mistake(
            _lo_wrong(freeze=False),
            "The layer itself is still trained: linear.requires_grad_(False).",
        ),
        Mistake(
            _lo_wrong(forward_linear=False),
            "The layer's own output is missing: the product is added to linear(x).",
        ),
        Mistake(
            _lo_wrong(merge_scale=False),
            "merged() leaves out alpha / rank.",
        ),
        Mistake(
            _lo_wrong(merge_bias=False),
            "merged() loses the bias.",
        ),
        Mistake(
            _lo_wrong(in_place=True),
            "merged() changed the frozen layer itself, so forward now adds the product twice. "
            "Make a new nn.Linear.",
        ),
    ],
)

# --- tuning/budget --------------------------------------------------------------------------------

BUDGET = OpenExercise(
    id="tuning/budget",
    lesson="07",
    title="A better recipe for ten examples",
    difficulty=5,
    minutes=60,
    task="Ten look-alike intents, ten examples each, MiniLM, 100 steps at most (a step of FGM "
    "counts as two). Find a recipe that beats the base recipe's mean over seeds, and show that it "
    "does.",
    hints=[
        "Three seeds a recipe are about as much as patience allows: which differences can three "
        "seeds show at all? Look at the spread first.",
        "What costs no step: layer decay, the learning rate's peak, warm-up, a label-smoothing "
        "loss, augmentation, averaging the weights of the last steps.",
    ],
    rubric=[
        "The test texts chose nothing: recipes were compared on validation texts, the test was "
        "asked once, at the end.",
        "Every recipe ran on the same seeds, at least three, and the comparison is by pairs of "
        "runs with the same seed, or says how large the spread is.",
        "The budget is kept, and counted: passes, not only steps.",
        "One thing was changed at a time, or the answer says that it does not know which of its "
        "changes helped.",
        "What did not help is reported too.",
    ],
    answer="""Look for what the base recipe lacks, not for what is new. With 100 examples the two
risks are *too few steps* and *forgetting*. So first spend the budget: 100 steps at batch 16 are
14 epochs; the base recipe stops after 56. Then protect the lower layers while the upper ones move:
layer decay 0.8 with a peak of 5e-4. That is two changes at once, so "longer" alone runs as well.

```python
task = sweeps.TrimmedExamples()
held_out = task.pick("validation", task.intents)
recipes = {
    "base": sweeps.BASE,
    "longer": replace(sweeps.BASE, epochs=14),
    "longer, layered": replace(sweeps.BASE, epochs=14, learning_rate=5e-4, layer_decay=0.8),
}
scores = {name: [] for name in recipes}
for seed in range(3):
    for name, recipe in recipes.items():
        model = task.model(seed)
        fine_tune(model, task.encode(task.train), replace(recipe, seed=seed))
        scores[name].append(task.accuracy(model, held_out))
differences = {name: [b - a for a, b in zip(scores["base"], scores[name])] for name in scores}
```

Judge by `differences`: their mean against their own spread divided by √3. With three seeds the mean
has to be four times that (t with two degrees of freedom), with five not quite three times. If it is
less, the honest answer is "these seeds do not show it", and the cheaper recipe wins. Only then ask
the test, once, with the recipe that won.""",
)

EXERCISES = [LAYER_GROUPS, TRUNCATE, FGM, UNCERTAINTY, ADAPTER, LORA, BUDGET]

# --- Claims ---------------------------------------------------------------------------------------


def _judge_weight_decay(sgd_gap, adam_large, adam_small):
    """sgd_gap: L2 against decay under SGD; the others: what Adam with L2 leaves of a weight with
    large and with small gradients, as a share of where it began."""
    if sgd_gap > 1e-6:
        return Verdict(False, "the two differ even under plain SGD.")
    if abs(adam_large - adam_small) < 0.02:
        return Verdict(True, "under SGD and under Adam each weight shrinks as fast in both forms.")
    return Verdict(
        False,
        "under SGD they are the same step. Adam divides the L2 term by the size of the gradients "
        "with everything else, so weights with large gradients are hardly decayed; AdamW decays "
        "all at the same pace.",
    )


def _about(share):
    """A share in words that do not change with the machine's rounding"""
    steps = ((0.15, "about one in ten"), (0.35, "about a quarter"), (0.65, "about half"))
    for limit, words in steps:
        if share < limit:
            return words
    return "most"


def _judge_subtract(changed):
    if changed == 0:
        return Verdict(True, "every weight came back bit for bit.")
    return Verdict(
        False,
        f"adding and subtracting each round once, and {_about(changed)} of the pushed weights come "
        "back as another number. Copying the old ones back is exact.",
    )


def _judge_padding(largest_gap):
    if largest_gap > 1e-3:
        return Verdict(True, "the logits depend on how far a text is padded.")
    return Verdict(
        False,
        "with the attention mask the logits are the same within rounding, however far a text is "
        "padded: padding costs time and memory, not the answer.",
    )


def _judge_one_run(wrong_order):
    """wrong_order: the share of pairs of single runs that put two recipes in the order opposite to
    that of their means."""
    if wrong_order < 0.05:
        return Verdict(True, "single runs put the recipes in the order of their means.")
    return Verdict(
        False,
        f"of the pairs of single runs {_about(wrong_order)} put two recipes in the order opposite "
        "to that of their means. Compare means over seeds, and say how wide they spread.",
    )


CLAIMS = [
    Claim(
        id="tuning/weight-decay",
        statement="Weight decay is L2 regularisation.",
        source="goes round; it holds for SGD",
        judge=_judge_weight_decay,
        holds=dict(sgd_gap=0.0, adam_large=0.9, adam_small=0.9),
        fails=dict(sgd_gap=0.0, adam_large=0.99, adam_small=0.2),
    ),
    Claim(
        id="tuning/one-run",
        statement="One run shows which recipe is better.",
        source="how many comparisons are made",
        judge=_judge_one_run,
        holds=dict(wrong_order=0.0),
        fails=dict(wrong_order=0.3),
    ),
    Claim(
        id="tuning/padding",
        statement="Padding changes what the model says.",
        source="goes round",
        judge=_judge_padding,
        holds=dict(largest_gap=0.2),
        fails=dict(largest_gap=1e-6),
    ),
    Claim(
        id="tuning/subtract",
        statement="Subtract the push again, and the weights are restored.",
        source="a common short-cut",
        judge=_judge_subtract,
        holds=dict(changed=0.0),
        fails=dict(changed=0.3),
    ),
]
