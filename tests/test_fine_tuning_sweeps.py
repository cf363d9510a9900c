"""The sweeps of lesson 07, and what is stored of them. Lesson 07 itself repeats three rows live."""

from dataclasses import replace

import pytest
import torch

from course_utils import fine_tuning_sweeps as sweeps
from course_utils.data.stored import stored_result
from course_utils.finetuning import predict


@pytest.fixture(scope="module")
def task():
    return sweeps.TrimmedExamples()


def few(task, count=16):
    return task.encode(sweeps.Texts(task.test.texts[:count], task.test.labels[:count]))


def test_the_task_is_ten_intents_and_what_must_not_be_forgotten_is_others(task):
    assert len(task.intents) == 10 and len(task.others) == 20
    assert not set(task.intents) & set(task.others)
    assert (len(task.train), len(task.test)) == (100, 300)
    assert (len(task.memory), len(task.queries)) == (200, 200)


def test_cutting_the_table_changes_no_answer(task):
    whole = sweeps.FewExamples.model(task, seed=0).eval()
    part = task.model(seed=0).eval()
    assert part.bert.embeddings.token.num_embeddings < 6000
    texts = sweeps.Texts(task.test.texts[:16], task.test.labels[:16])
    expected = predict(whole, sweeps.FewExamples.encode(task, texts))
    torch.testing.assert_close(predict(part, few(task)), expected, atol=1e-5, rtol=1e-5)


def test_a_piece_that_was_cut_is_refused_not_replaced(task):
    with pytest.raises(ValueError, match="no row for: .*snail"):
        task.encode(sweeps.Texts(["my snail lost its card"], [0]))


@pytest.mark.parametrize("sweep", sweeps.SWEEPS)
def test_stored_rows_are_those_of_the_command(sweep):
    stored = stored_result(f"sweep_{sweep}")
    seeds = [int(seed) for seed in stored["command"].split("--seeds ")[1].split()]
    rows = [(row["setting"], row["seed"]) for row in stored["rows"]]
    assert len(rows) == len(set(rows))
    assert set(rows) == {(name, seed) for name in sweeps.SWEEPS[sweep] for seed in seeds}
    assert sweeps.stored_rows(sweep) == stored["rows"]  # made by today's base recipe
    for measure in ("accuracy", *sweeps.MEASURES[sweep]):
        assert all(0 <= row[measure] <= 1 for row in stored["rows"])


def test_what_the_encoder_knows_before_training_comes_out_again(task):
    before = task.kept(task.model().bert)
    assert before == pytest.approx(stored_result("sweep_rates")["before"], abs=0.03)


def test_the_stored_rates_show_too_small_right_and_forgetting():
    stored = stored_result("sweep_rates")
    accuracy = {k: mean for k, (mean, _, _) in sweeps.summary(stored["rows"]).items()}
    kept = {k: mean for k, (mean, _, _) in sweeps.summary(stored["rows"], "kept").items()}
    best = max(accuracy, key=accuracy.get)
    assert best not in ("1e-05", "0.003")
    assert accuracy["1e-05"] < accuracy[best] - 0.2 > accuracy["0.003"]
    assert kept["1e-05"] > stored["before"] - 0.05 and kept["0.003"] < 0.5 * stored["before"]


def test_an_augmented_text_is_another_one_at_each_reading(task):
    found = sweeps.Texts(["my card was stolen"], [3])
    rows = sweeps.Augmented(task, found, lambda text: text + " yesterday", seed=0)
    lengths = {len(rows[0]["input_ids"]) for _ in range(20)}
    assert len(lengths) == 2 and rows[0]["labels"] == 3 and len(rows) == 1


KINDS = [
    ("data", "mixup"),
    ("tasks", "LoRA"),
    ("tasks", "3 layers shared"),
    ("recipe", "no clipping"),
]


@pytest.mark.parametrize("sweep, name", KINDS)
def test_each_kind_of_run_gives_its_row(task, monkeypatch, sweep, name):
    if "typos" in sweeps.MEASURES[sweep]:
        task = sweeps.FewExamples()
    monkeypatch.setattr(sweeps, "BASE", replace(sweeps.BASE, epochs=1))
    small = sweeps.Texts(task.train.texts[::10], task.train.labels[::10])
    for part in ("train", "test", "memory", "queries"):
        monkeypatch.setattr(task, part, small)
    row = sweeps.run(task, sweep, name, seed=0)
    assert {"setting", "seed", "seconds", "loss", "accuracy"} <= row.keys()
    assert set(sweeps.MEASURES[sweep]) <= row.keys()
