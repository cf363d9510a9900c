"""Lesson 09: distillation with Hugging Face's `Trainer`: one method changed, two arguments added.

    arguments = DistillationArguments(output_dir="student", temperature=4.0, soft_weight=0.9)
    trainer = DistillationTrainer(student, arguments, teacher=teacher,
                                  train_dataset=features, data_collator=collate_soft)
    trainer.train()

Student and teacher are Hugging Face models, or any whose forward returns `.logits`.
"""

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from course_utils.distillation import TEACHER, check_temperature, distillation_loss, teacher_answers


@dataclass
class DistillationArguments(TrainingArguments):
    """`TrainingArguments` with the two numbers of the loss, see `distillation_loss`."""

    temperature: float = field(default=2.0, metadata={"help": "softens both sides, above 0"})
    soft_weight: float = field(default=0.5, metadata={"help": "weight of the soft loss, 0 to 1"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)
        if not 0 <= self.soft_weight <= 1:
            raise ValueError(f"soft_weight is {self.soft_weight}; it must be in [0, 1].")
        # else the Trainer drops what the student's forward does not name: the teacher's logits
        self.remove_unused_columns = False


class DistillationTrainer(Trainer):
    """A `Trainer` whose loss is `distillation_loss`.

    teacher  answers live, in eval mode and without gradients; or None, where each example carries
             its logits (`with_teacher`, collated by `collate_soft`)

    ValueError where a training batch has neither. An evaluation batch without them is scored with
    the labels alone.
    """

    def __init__(self, *args: Any, teacher: nn.Module | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        # our loss is the mean of a batch: the Trainer has to divide it when it adds up several
        self.model_accepts_loss_kwargs = False
        self.teacher = teacher
        if teacher is not None:
            self.teacher = teacher.to(self.args.device).eval()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The loss of a batch, and the student's outputs if they are asked for."""
        if not model.training and self.teacher is None and TEACHER not in inputs:
            labels = inputs["labels"]
            outputs = model(**{k: v for k, v in inputs.items() if k != "labels"})
            loss = F.cross_entropy(outputs.logits, labels)
        else:
            inputs, labels, teacher_logits = teacher_answers(inputs, self.teacher)
            outputs = model(**inputs)
            loss = distillation_loss(
                outputs.logits, teacher_logits, labels, self.args.temperature,
                self.args.soft_weight,
            )  # fmt: skip
        return (loss, outputs) if return_outputs else loss
