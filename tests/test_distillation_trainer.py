"""The same distillation by Hugging Face's Trainer: step for step that of the plain loop."""

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification

from course_utils.distillation import DistillationStep, collate_soft, with_teacher
from course_utils.distillation_trainer import DistillationArguments, DistillationTrainer
from course_utils.finetuning import to_device
from course_utils.pretraining import linear_warmup_decay
from tests.test_distillation import features, make_model, teacher  # noqa: F401 (fixtures)


def theirs(model, folder):
    """The same weights in Hugging Face's class"""
    model.save_pretrained(folder)
    return AutoModelForSequenceClassification.from_pretrained(folder)


def trainer_for(model, rows, folder, teacher=None, **changes):  # noqa: F811
    settings = dict(
        num_train_epochs=2, per_device_train_batch_size=8, learning_rate=1e-3, warmup_steps=0,
        weight_decay=0.01, lr_scheduler_type="linear", train_sampling_strategy="sequential",
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        temperature=3.0, soft_weight=0.7,
    )  # fmt: skip
    arguments = DistillationArguments(output_dir=str(folder), **{**settings, **changes})
    trainer = DistillationTrainer(
        model, arguments, teacher=teacher, train_dataset=rows, data_collator=collate_soft
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def plain_loop(model, rows, epochs=2, rate=1e-3):
    """lesson 06's loop, in order, with the step of this lesson"""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=rate,
    )
    steps, step, losses = epochs * -(-len(rows) // 8), DistillationStep(3.0, 0.7), []
    for _ in range(epochs):
        for start in range(0, len(rows), 8):
            for group in optimizer.param_groups:
                group["lr"] = rate * linear_warmup_decay(len(losses), 0, steps)
            batch = to_device(collate_soft(rows[start : start + 8]), model)
            losses.append(step(model.train(), batch).item())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return losses


def test_the_trainer_and_the_plain_loop_lose_the_same_at_every_step(teacher, features, tmp_path):  # noqa: F811
    rows = with_teacher(teacher, features)
    trainer = trainer_for(theirs(make_model(2), tmp_path / "a"), rows, tmp_path)
    trainer.train()
    found = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    ours = plain_loop(make_model(2), rows)
    assert found == pytest.approx(ours, abs=2e-4) and len(ours) == 6
    assert ours[-1] < ours[0]


def test_a_live_teacher_stays_in_eval_mode_without_gradients(teacher, features, tmp_path):  # noqa: F811
    master = theirs(teacher, tmp_path / "t").train()
    before = {k: v.clone() for k, v in master.state_dict().items()}
    trainer = trainer_for(theirs(make_model(2), tmp_path / "a"), features, tmp_path, master)
    trainer.train()
    assert not master.training and all(p.grad is None for p in master.parameters())
    assert all(v.equal(before[k]) for k, v in master.state_dict().items())
    cached = trainer_for(
        theirs(make_model(2), tmp_path / "b"), with_teacher(teacher, features), tmp_path
    )
    cached.train()
    for a, b in zip(trainer.model.parameters(), cached.model.parameters()):
        assert torch.allclose(a, b, atol=1e-4)


def test_two_half_batches_are_one_whole(teacher, features, tmp_path):  # noqa: F811
    rows = with_teacher(teacher, features)[:16]
    losses = []
    for i, changes in enumerate(
        [{}, dict(per_device_train_batch_size=4, gradient_accumulation_steps=2)]
    ):
        model = theirs(make_model(2), tmp_path / str(i))
        trainer = trainer_for(model, rows, tmp_path, num_train_epochs=3, **changes)
        trainer.train()
        losses.append([r["loss"] for r in trainer.state.log_history if "loss" in r])
    assert len(losses[0]) == 6 and losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_evaluation_needs_no_teacher_and_training_does(teacher, features, tmp_path):  # noqa: F811
    rows = with_teacher(teacher, features)
    model = theirs(make_model(2), tmp_path / "a")
    trainer = trainer_for(model, rows, tmp_path)
    scores = trainer.evaluate(features)
    assert 0 < scores["eval_loss"] < 10
    with pytest.raises(ValueError, match="with_teacher"):
        trainer_for(model, features, tmp_path).train()


@pytest.mark.parametrize(
    "change, message",
    [({"temperature": 0.0}, "temperature is 0"), ({"soft_weight": 1.2}, "soft_weight is 1.2")],
)
def test_numbers_that_can_not_be_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        DistillationArguments(output_dir=str(tmp_path), **change)


def test_the_arguments_are_read_from_a_command_line(tmp_path):
    parser = transformers.HfArgumentParser(DistillationArguments)
    words = ["--output_dir", str(tmp_path), "--temperature", "7", "--soft_weight", "0.88"]
    (arguments,) = parser.parse_args_into_dataclasses(words)
    assert (arguments.temperature, arguments.soft_weight) == (7.0, 0.88)
