"""Lesson 11: the quantized student, run by run, seed by seed.

    python -m course_utils.quantization_runs ways          # data/results/quantization_ways.json
    python -m course_utils.quantization_runs bits          # 8, 4, 3, 2; weights, and activations
    python -m course_utils.quantization_runs calibration   # which range, from how many texts

Student seed s is lesson 09's (`distillation_runs.student_folder`), and learned from teacher seed s.
Rows of a seed quantize the same student and are measured on the same texts.
"""

import copy
import dataclasses
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from course_utils.distillation import DistillationStep, collate_soft, with_teacher
from course_utils.distillation_runs import SOFT_WEIGHT, TEMPERATURE, Teaching, student_folder
from course_utils.finetuning import Features, FineTuning, TextClassifier, fine_tune
from course_utils.quantization import (
    Per,
    calibrate,
    fake_quantize_model,
    load_quantized,
    observe_inputs,
    save_quantized,
)
from course_utils.sweep_command import run_command

QAT = FineTuning(epochs=3, learning_rate=3e-4, frozen_layers=None)
SAMPLES = (1, 3, 10, 30, 100, 500)


@dataclass(frozen=True)
class Setting:
    """How a row is quantized; see `quantization.fake_quantize_model`.

    weight_bits  None: the row is the float student
    method       of `calibrate`: static ranges, from `samples` training texts. None: dynamic ones
    train        quantization-aware: `QAT`, with the float student as the teacher
    kernel       measured on the integer kernel, from the file, and not as fake quantization
    """

    weight_bits: int | None = 8
    input_bits: int | None = None
    per: Per = "row"
    clip: bool = False
    embedding_bits: int | None = 8
    method: str | None = None
    samples: int = 100
    train: bool = False
    kernel: bool = False


FLOAT = Setting(weight_bits=None, embedding_bits=None)
STATIC = dict(input_bits=8, method="min-max")
SWEEPS = {
    "ways": {
        "float": FLOAT,
        "weights int8": Setting(),
        "dynamic int8": Setting(input_bits=8, kernel=True),
        "static int8": Setting(**STATIC),
        "trained int8": Setting(**STATIC, train=True),
        "2 bits": Setting(2, 8, clip=True),
        "trained 2 bits": Setting(2, 8, clip=True, train=True),
    },
    "bits": {
        "float": FLOAT,
        **{f"{b} bits, a tensor": Setting(b, per="tensor") for b in (8, 4, 3, 2)},
        **{f"{b} bits, a row": Setting(b) for b in (8, 4, 3, 2)},
        **{f"{b} bits, a row, clipped": Setting(b, clip=True) for b in (4, 3, 2)},
        **{f"{b} bits, groups of 64, clipped": Setting(b, per=64, clip=True) for b in (4, 3, 2)},
        "4 bits, tables too": Setting(4, per=64, clip=True, embedding_bits=4),
        **{f"8 bits, inputs {b}": Setting(8, b) for b in (8, 6, 5, 4)},
    },
    "calibration": {
        "float": FLOAT,
        "dynamic": Setting(input_bits=8),
        **{
            f"{method}, {n}": Setting(input_bits=8, method=method, samples=n)
            for method in ("min-max", "percentile", "entropy", "mse")
            for n in SAMPLES
        },
    },
}


class Quantizing:
    """A float student, its texts, and what of it is needed again and again.

    seed  of the student and its teacher, and of the calibration texts' order
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.teaching = seed, Teaching(seed=seed)
        found = TextClassifier.from_folder(student_folder(seed=seed))
        self.student, self.tokenizer = found.model, found.tokenizer
        self._seen: dict[int, dict] = {}

    def texts(self, count: int) -> list[Features]:
        """The first `count` training texts of a shuffled order: more are the same ones and more."""
        order = list(range(len(self.teaching.features["train"])))
        random.Random(self.seed).shuffle(order)
        return [self.teaching.features["train"][i] for i in order[:count]]

    def inputs(self, count: int) -> dict:
        """What the layers read on so many texts; the last answer is kept."""
        if count not in self._seen:
            self._seen = {count: observe_inputs(self.student, self.texts(count))}
        return self._seen[count]

    def quantized(self, setting: Setting) -> nn.Module:
        """The fake-quantized student of a setting, before any training."""
        ranges = None
        if setting.method is not None:
            ranges = calibrate(self.inputs(setting.samples), setting.method, setting.input_bits)
        return fake_quantize_model(
            self.student, setting.weight_bits, setting.input_bits, ranges,
            embedding_bits=setting.embedding_bits, per=setting.per, clip=setting.clip,
        )  # fmt: skip

    def trained(self, model: nn.Module, recipe: FineTuning = QAT, progress=False) -> nn.Module:
        """The model after quantization-aware training; its word tables stay as they are."""
        model = copy.deepcopy(model)
        model.bert.embeddings.requires_grad_(False)
        recipe = dataclasses.replace(recipe, seed=self.seed)
        examples = with_teacher(self.student, self.teaching.features["train"])
        step = DistillationStep(TEMPERATURE, SOFT_WEIGHT)
        fine_tune(model, examples, recipe, collate_soft, backward=step, progress=progress)
        return model

    def row(self, name: str, setting: Setting) -> dict:
        """setting, seed, bytes of the file, parameters, and the scores of `Teaching.score`."""
        model = self.student if setting == FLOAT else self.quantized(setting)
        if setting.train:
            model = self.trained(model)
        with tempfile.TemporaryDirectory() as folder:
            if setting == FLOAT:
                TextClassifier(model, self.tokenizer).save(folder)
                size = (Path(folder) / "model.safetensors").stat().st_size
            else:
                size = save_quantized(model, self.tokenizer, folder, setting.embedding_bits)
                size = size.stat().st_size
                if setting.kernel:
                    model = load_quantized(folder).model
        with torch.inference_mode():
            scores = self.teaching.score(model)
        return {"setting": name, "seed": self.seed, "bytes": size} | scores


def recipes(sweep: str) -> dict:
    """The settings of a sweep, and how its trained rows are trained, as plain JSON."""
    found = {name: dataclasses.asdict(setting) for name, setting in SWEEPS[sweep].items()}
    trained = any(setting.train for setting in SWEEPS[sweep].values())
    return {"settings": found} | ({"training": dataclasses.asdict(QAT)} if trained else {})


def main(arguments: Sequence[str] | None = None) -> None:
    run_command(
        "quantization_runs",
        "the student of lesson 09, quantized in many ways, seed by seed",
        SWEEPS,
        recipes,
        Quantizing,
        dict.fromkeys(SWEEPS, "float"),
        arguments,
    )


if __name__ == "__main__":
    main()
