"""Lesson 12: the student pruned in many ways, run by run, seed by seed.

    python -m course_utils.pruning_runs oneshot      # data/results/pruning_oneshot.json
    python -m course_utils.pruning_runs gradual      # magnitude against movement, while distilled
    python -m course_utils.pruning_runs structures   # heads, neurons, layers: accuracy and time
    python -m course_utils.pruning_runs orders       # distil, prune, quantize: in what order?

Student seed s is lesson 09's (`distillation_runs.student_folder`), and learned from teacher seed s.
Rows of a seed are measured on the same texts.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils.data.cache import cached
from course_utils.data.weights import pretrained_encoder
from course_utils.distillation import DistillationStep, collate_soft, keep_layers
from course_utils.distillation_runs import (
    LAYERS,
    SOFT_WEIGHT,
    TEMPERATURE,
    Teaching,
    student_folder,
)
from course_utils.finetuning import (
    Batch,
    BertForSequenceClassification,
    FineTuning,
    TextClassifier,
    collate,
    fine_tune,
    set_dropout,
)
from course_utils.pruning import (
    PruningStep,
    cubic_sparsity,
    encoder_weights,
    finished,
    global_masks,
    importance,
    kept_numbers,
    magnitude_mask,
    masked_copy,
    others,
    save_pruned,
    shrink,
    sparse_copy,
    sparsity_of,
)
from course_utils.quantization import fake_quantize_model, save_quantized
from course_utils.sweep_command import run_command
from course_utils.timing import in_turns

GRADUAL = FineTuning(epochs=16, learning_rate=6e-4, frozen_layers=None)  # 800 steps
SLOW = 1e-4  # a learning rate at which the weights stay near where they began
RETRAIN = FineTuning(epochs=8, learning_rate=4e-4, frozen_layers=None)  # 400 steps
LONG = FineTuning(
    epochs=16, learning_rate=6e-4, frozen_layers=None
)  # student and retraining in one


@dataclass(frozen=True)
class Setting:
    """How a row is pruned.

    sparsity        of single weights of the encoder's linear layers
    how             "magnitude" or "movement": while the student is distilled, from the teacher's
                    layers on (`GRADUAL`). None: once, from the finished student, no training
    slow            with the learning rate `SLOW`
    pretrained      from the layers of the encoder before any fine-tuning, under a new head
    globally        one ranking for all layers, not one each
    heads, neurons  share of them that goes, in every layer
    drawn           they are drawn, not the least important ones
    layers          the student's that stay, from 1; None = all
    retrain         with `RETRAIN`, against the teacher's answers
    before          heads and neurons go from the *teacher*, and then its layers are distilled
                    (`LONG`)
    weight_bits     quantized afterwards, `tables` the embeddings; with `aware` in the retraining
    """

    sparsity: float = 0.0
    how: str | None = None
    slow: bool = False
    pretrained: bool = False
    globally: bool = False
    heads: float = 0.0
    neurons: float = 0.0
    drawn: bool = False
    layers: tuple[int, ...] | None = None
    retrain: bool = False
    before: bool = False
    weight_bits: int | None = None
    tables: int | None = None
    aware: bool = False


FLOAT, HALF = Setting(), dict(heads=0.5, neurons=0.5)
INT8 = dict(weight_bits=8, tables=8)
ONESHOT = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
HIGH = (0.85, 0.9, 0.95, 0.97)
WAYS = ("magnitude", "movement")
SWEEPS = {
    "oneshot": {
        "float": FLOAT,
        **{f"a layer, {s:.0%}": Setting(s) for s in ONESHOT},
        **{f"all together, {s:.0%}": Setting(s, globally=True) for s in ONESHOT},
    },
    "gradual": {
        "dense": Setting(how="magnitude"),
        **{f"{how}, {s:.0%}": Setting(s, how) for s in HIGH for how in WAYS},
        **{f"{how}, 97%, slow": Setting(0.97, how, slow=True) for how in WAYS},
        **{f"{how}, 97%, pretrained": Setting(0.97, how, pretrained=True) for how in WAYS},
    },
    "structures": {
        "float": FLOAT,
        "retrained": Setting(retrain=True),
        "half the heads": Setting(heads=0.5),
        "half the neurons": Setting(neurons=0.5),
        "half of both": Setting(**HALF),
        "half of both, drawn": Setting(**HALF, drawn=True),
        "half the heads, retrained": Setting(heads=0.5, retrain=True),
        "half the neurons, retrained": Setting(neurons=0.5, retrain=True),
        "half of both, retrained": Setting(**HALF, retrain=True),
        "half of both, drawn, retrained": Setting(**HALF, drawn=True, retrain=True),
        "three quarters of both, retrained": Setting(heads=0.75, neurons=0.75, retrain=True),
        "layers 1 and 3": Setting(layers=(1, 3)),
        "layers 1 and 3, retrained": Setting(layers=(1, 3), retrain=True),
        "layer 3, retrained": Setting(layers=(3,), retrain=True),
    },
    "orders": {
        "float": FLOAT,
        "distil, quantize": Setting(**INT8),
        "distil, prune, quantize": Setting(**HALF, **INT8),
        "distil, prune, retrain, quantize": Setting(**HALF, retrain=True, **INT8),
        "distil, prune, retrain quantized": Setting(**HALF, retrain=True, **INT8, aware=True),
        "prune, distil, quantize": Setting(**HALF, before=True, **INT8),
        "distil, prune, retrain, 4 bits": Setting(**HALF, retrain=True, weight_bits=4, tables=4),
        "distil, prune, retrain in 4 bits": Setting(
            **HALF, retrain=True, weight_bits=4, tables=4, aware=True
        ),
    },
}
BASE = {"oneshot": "float", "gradual": "dense", "structures": "float", "orders": "float"}


class Pruning:
    """A student, its teacher's texts, and how long the student takes. seed  of all three."""

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.teaching = seed, Teaching(seed=seed)
        found = TextClassifier.from_folder(student_folder(seed=seed))
        self.student, self.tokenizer = found.model, found.tokenizer

    # --- Training

    def step(self) -> DistillationStep:
        """What every training here minimizes: lesson 09's loss."""
        return DistillationStep(TEMPERATURE, SOFT_WEIGHT)

    def train(
        self,
        model: nn.Module,
        recipe: FineTuning,
        step: Callable[[nn.Module, Batch], Tensor] | None = None,
        progress: bool | str = False,
    ) -> nn.Module:
        """The model, trained in place against the teacher's answers; its word tables stay."""
        model.requires_grad_(True).bert.embeddings.requires_grad_(False)
        recipe = dataclasses.replace(recipe, seed=self.seed)
        fine_tune(model, self.teaching.examples, recipe, collate_soft,
                  backward=step or self.step(), progress=progress)  # fmt: skip
        return model.eval()

    def untuned(self) -> nn.Module:
        """Every second layer of the pretrained encoder, under a head drawn from the seed."""
        whole = BertForSequenceClassification.from_encoder(
            pretrained_encoder(), self.teaching.teacher.labels, self.seed
        )
        return set_dropout(keep_layers(whole, LAYERS["3 layers"]), 0.0)

    def gradual(
        self,
        sparsity: float,
        how: str,
        recipe: FineTuning = GRADUAL,
        start: nn.Module | None = None,
        progress: bool | str = False,
    ) -> nn.Module:
        """A student distilled while its masks grow, zeros written in.

        start  None: every second of the teacher's layers, as lesson 09's student begins

        The first tenth of the steps prunes nothing, the last 40 % keep the sparsity.
        """
        sparse = sparse_copy(start or self.teaching.student("3 layers"), how)
        steps = recipe.epochs * -(-len(self.teaching.examples) // recipe.batch_size)

        def schedule(step: int) -> float:
            return cubic_sparsity(step, steps // 10, max(steps // 2 // 10, 1), 10, 0.0, sparsity)

        step = PruningStep(schedule, self.step(), every=5)
        return finished(self.train(sparse, recipe, step, progress))

    # --- Shrinking

    def chosen(self, model: nn.Module, setting: Setting) -> tuple[dict, dict]:
        """Heads and neurons that go: layer → numbers; the least important on the training texts."""
        scores = importance(model, self.teaching.features["train"])
        if setting.drawn:
            generator = torch.Generator().manual_seed(self.seed)
            scores = tuple(torch.rand(one.shape, generator=generator) for one in scores)
        shares = setting.heads, setting.neurons
        return tuple(
            others(kept_numbers(one, share), one.size(1)) for one, share in zip(scores, shares)
        )

    def shrunk(self, model: nn.Module, setting: Setting) -> nn.Module:
        """The model without layers, heads and neurons, untrained."""
        if setting.layers:
            model = keep_layers(model, setting.layers)
        if setting.heads or setting.neurons:
            model = shrink(model, *self.chosen(model, setting))
        return model

    def model(self, setting: Setting) -> nn.Module:
        """The pruned model of a setting, trained where the setting says so."""
        if setting.how:
            rate = SLOW if setting.slow else GRADUAL.learning_rate
            recipe = dataclasses.replace(GRADUAL, learning_rate=rate)
            start = self.untuned() if setting.pretrained else None
            return self.gradual(setting.sparsity, setting.how, recipe, start)
        if setting.sparsity:
            weights = encoder_weights(self.student)
            if setting.globally:
                scores = {name: weight.abs() for name, weight in weights.items()}
                return masked_copy(self.student, global_masks(scores, setting.sparsity))
            return masked_copy(
                self.student,
                {name: magnitude_mask(w, setting.sparsity) for name, w in weights.items()},
            )
        if setting.before:
            start = keep_layers(self.shrunk(self.teaching.teacher, setting), LAYERS["3 layers"])
            model = self.train(start, LONG)
        else:
            model = self.shrunk(self.student, setting)
            if setting.aware:
                model = self.quantized(model, setting)
            if setting.retrain:
                model = self.train(model, RETRAIN)
        if setting.weight_bits and not setting.aware:
            model = self.quantized(model, setting)
        return model

    def quantized(self, model: nn.Module, setting: Setting) -> nn.Module:
        """Fake-quantized, for the accuracy; `save_quantized` for the bytes."""
        fine = setting.weight_bits < 8
        return fake_quantize_model(
            model, setting.weight_bits, embedding_bits=setting.tables,
            per=64 if fine else "row", clip=fine,
        )  # fmt: skip

    # --- Measuring

    def row(self, name: str, setting: Setting) -> dict:
        """setting, seed, the share of zeros, parameters, bytes, times, and `Teaching.score`.

        times_1, times_32  how many times as fast as the float student, texts one by one and in
                           batches of 32, on one thread, in turns
        """
        model = self.model(setting)
        with tempfile.TemporaryDirectory() as folder:
            if setting.weight_bits:
                file = save_quantized(model, self.tokenizer, folder, setting.tables)
            else:
                file = save_pruned(model, self.tokenizer, folder)
            size = file.stat().st_size
        row = {
            "setting": name,
            "seed": self.seed,
            "sparsity": sparsity_of(encoder_weights(finished(model)).values()),
            "parameters": sum(p.numel() for p in model.parameters()),
            "bytes": size,
        }
        if not setting.weight_bits and not setting.how and not setting.sparsity:
            row |= self.times(model)
        with torch.inference_mode():
            return row | self.teaching.score(model)

    def times(self, model: nn.Module) -> dict[str, float]:
        """times_1 and times_32, see `row`."""
        texts = self.teaching.features["test"]
        models, found = {"float": self.student, "model": model}, {}
        for size in (1, 32):
            batches = [collate(texts[i : i + size]) for i in range(0, 20 * size, size)]
            ready = [{k: v for k, v in batch.items() if k != "labels"} for batch in batches]

            def read(one: nn.Module, ready: list = ready) -> None:
                for batch in ready:
                    one(**batch)

            taken = in_turns({k: partial(read, one) for k, one in models.items()}, rounds=5)
            found[f"times_{size}"] = taken["float"] / taken["model"]
        return found


def pruned_folder(seed: int = 0, progress: bool = True) -> Path:
    """The folder of the student without half of its heads and neurons, retrained; `load_pruned`.

    Trained at the first call, about a minute on two cores, with a bar; then cached.
    """
    name = "half of both, retrained"
    setting = SWEEPS["structures"][name]
    config = {
        "setting": recipes("structures")["settings"][name],
        "retrain": dataclasses.asdict(RETRAIN),
        "student": student_folder(seed=seed, progress=progress).name,
    }

    def build(folder: Path) -> None:
        pruning = Pruning(seed)
        words = "half of the heads and neurons" if progress else False
        small = pruning.shrunk(pruning.student, setting)
        save_pruned(pruning.train(small, RETRAIN, progress=words), pruning.tokenizer, folder)

    return cached("pruned", config, build)


def recipes(sweep: str) -> dict:
    """The settings of a sweep, and how its rows are trained, as plain JSON."""
    usual, found = dataclasses.asdict(FLOAT), {}
    for name, setting in SWEEPS[sweep].items():  # what is as usual is left out
        changed = {k: v for k, v in dataclasses.asdict(setting).items() if v != usual[k]}
        found[name] = {k: list(v) if isinstance(v, tuple) else v for k, v in changed.items()}
    training = {
        "oneshot": {},
        "gradual": {"gradual": GRADUAL, "slow": dataclasses.replace(GRADUAL, learning_rate=SLOW)},
        "structures": {"retrain": RETRAIN},
        "orders": {"retrain": RETRAIN, "long": LONG},
    }[sweep]
    return {"settings": found} | {k: dataclasses.asdict(v) for k, v in training.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    run_command(
        "pruning_runs",
        "the student of lesson 09, pruned in many ways, seed by seed",
        SWEEPS,
        recipes,
        Pruning,
        BASE,
        arguments,
    )


if __name__ == "__main__":
    main()
