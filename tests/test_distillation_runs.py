"""The stored comparisons of lesson 09: how they are read, and that a row comes out again."""

import numpy as np
import pytest

from course_utils import distillation_runs as runs
from course_utils.benchmark import pack
from course_utils.data.stored import DATA, stored_result
from course_utils.finetuning import TextClassifier


def row(setting, seed, right):
    return {"setting": setting, "seed": seed, "right": pack(np.array(right), "u1")}


def test_rows_are_read_seed_by_seed_whatever_their_order():
    rows = [row("a", 1, [1, 0, 0]), row("b", 0, [0, 0, 0]), row("a", 0, [1, 1, 0])]
    found = runs.right_of(rows, "a")
    assert found.tolist() == [[True, True, False], [True, False, False]]
    with pytest.raises(ValueError, match="no row 'c'"):
        runs.right_of(rows, "c")


def test_a_gain_is_the_difference_of_means_with_an_interval_around_it():
    generator = np.random.default_rng(0)
    a = [generator.random(400) < 0.7 for _ in range(3)]
    b = [x | (generator.random(400) < 0.3) for x in a]
    rows = [
        row(n, s, x.astype(int)) for n, both in (("a", a), ("b", b)) for s, x in enumerate(both)
    ]
    difference, low, high = runs.gain(rows, "a", "b")
    assert difference == pytest.approx(np.mean(b) - np.mean(a))
    assert 0 < low < difference < high
    assert runs.gain(rows, "a", "a") == (0, 0, 0)
    back = runs.gain(rows, "b", "a")
    assert back[0] == pytest.approx(-difference) and back[2] < 0


def test_the_search_finds_a_hill():
    seen = []

    def hill(temperature, soft_weight):
        seen.append((temperature, soft_weight))
        return -((np.log(temperature) - 1) ** 2) - (soft_weight - 0.7) ** 2

    study = runs.search(hill, trials=30)
    assert len(seen) == 30 and study.best_value > -0.1
    assert all(1 <= t <= 20 and 0 <= w <= 1 for t, w in seen)
    again = runs.search(hill, trials=30)
    assert [t.params for t in again.trials] == [t.params for t in study.trials]  # one seed


STORED = [name for name in runs.SWEEPS if (DATA / "results" / f"distillation_{name}.json").exists()]


@pytest.mark.parametrize("sweep", STORED)
def test_stored_rows_are_those_of_the_command(sweep):
    stored = stored_result(f"distillation_{sweep}")
    seeds = [int(s) for s in stored["command"].split("--seeds ")[1].split()]
    assert f"distillation_runs {sweep} " in stored["command"]
    assert stored["recipes"] == runs.recipes(sweep)  # else: run the command again
    expected = {(name, seed) for name in runs.SWEEPS[sweep] for seed in seeds}  # each once
    assert sorted((row["setting"], row["seed"]) for row in stored["rows"]) == sorted(expected)
    for found in stored["rows"]:
        right = runs.right_of([found], found["setting"])
        assert right.shape == (1, 900)
        assert right.mean() == pytest.approx(found["in_scope_argmax"], abs=1e-6)


def test_a_student_is_trained_again_to_its_stored_row():
    stored = stored_result("distillation_students")
    (found,) = (
        row for row in stored["rows"] if (row["setting"], row["seed"]) == ("+ hidden states", 0)
    )
    folder = runs.student_folder("+ hidden states", progress=False)
    student = TextClassifier.from_folder(folder).model
    scores = runs.Teaching().score(student)
    assert student.config.num_hidden_layers == 3
    assert scores["in_scope_argmax"] == pytest.approx(found["in_scope_argmax"], abs=0.025)
    assert scores["auroc"] == pytest.approx(found["auroc"], abs=0.02)
