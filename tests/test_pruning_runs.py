"""The stored comparisons of lesson 12: their settings, and that a row comes out again."""

import dataclasses

import pytest

from course_utils import pruning_runs as runs
from course_utils.data.stored import DATA, stored_result
from course_utils.distillation_runs import gain, right_of
from course_utils.pruning import encoder_weights, load_pruned, sparsity_of

STORED = [name for name in runs.SWEEPS if (DATA / "results" / f"pruning_{name}.json").exists()]


@pytest.fixture(scope="module")
def pruning():
    return runs.Pruning()


@pytest.mark.parametrize("sweep", STORED)
def test_stored_rows_are_those_of_the_command(sweep):
    found = stored_result(f"pruning_{sweep}")
    seeds = [int(s) for s in found["command"].split("--seeds ")[1].split()]
    assert f"pruning_runs {sweep} " in found["command"]
    assert found["recipes"] == runs.recipes(sweep)  # else: run the command again
    expected = {(name, seed) for name in runs.SWEEPS[sweep] for seed in seeds}  # each once
    assert sorted((row["setting"], row["seed"]) for row in found["rows"]) == sorted(expected)
    for row in found["rows"]:
        right = right_of([row], row["setting"])
        assert right.shape == (1, 900)
        assert right.mean() == pytest.approx(row["in_scope_argmax"], abs=1e-6)


@pytest.mark.skipif("structures" not in STORED, reason="the command has not run yet")
def test_a_stored_row_comes_out_again(pruning):
    name = "half the neurons"
    (found,) = (
        row
        for row in stored_result("pruning_structures")["rows"]
        if (row["setting"], row["seed"]) == (name, 0)
    )
    row = pruning.row(name, runs.SWEEPS["structures"][name])
    assert row["parameters"] == found["parameters"]
    assert row["bytes"] == pytest.approx(found["bytes"], rel=1e-3)
    assert row["in_scope_argmax"] == pytest.approx(found["in_scope_argmax"], abs=0.025)
    assert row["times_1"] > 0 and row["times_32"] > 0


@pytest.mark.skipif("structures" not in STORED, reason="the command has not run yet")
def test_half_of_the_heads_and_neurons_is_faster_and_loses_less_than_two_points():
    rows, name = stored_result("pruning_structures")["rows"], "half of both, retrained"
    assert len({row["seed"] for row in rows}) >= 3
    difference, low, high = gain(rows, "float", name)
    assert low <= difference <= high and difference > -0.02
    for row in rows:
        if row["setting"] == name:
            assert row["times_1"] > 1.3 and row["times_32"] > 1.3


@pytest.mark.parametrize("how", runs.WAYS)
def test_pruning_while_distilling_ends_at_the_sparsity(pruning, how):
    pruning.teaching.examples, kept = pruning.teaching.examples[:64], pruning.teaching.examples
    try:
        recipe = dataclasses.replace(runs.GRADUAL, epochs=10)
        model = pruning.gradual(0.9, how, recipe)
    finally:
        pruning.teaching.examples = kept
    for weight in encoder_weights(model).values():
        assert (weight == 0).float().mean().item() == pytest.approx(0.9, abs=1e-5)


def test_heads_and_neurons_go_by_importance_or_are_drawn(pruning):
    half = runs.SWEEPS["structures"]["half of both"]
    heads, neurons = pruning.chosen(pruning.student, half)
    assert {len(gone) for gone in heads.values()} == {6}
    assert {len(gone) for gone in neurons.values()} == {768}
    drawn = pruning.chosen(pruning.student, dataclasses.replace(half, drawn=True))
    assert drawn[0] != heads and drawn == pruning.chosen(
        pruning.student, dataclasses.replace(half, drawn=True)
    )
    small = pruning.shrunk(pruning.student, half)
    assert sparsity_of(encoder_weights(small).values()) == 0  # really gone, not zeros


def test_the_folder_holds_the_shrunk_student():
    found = load_pruned(runs.pruned_folder(progress=False))
    layers = found.model.bert.encoder.layers
    assert [layer.attention.num_heads for layer in layers] == [6] * 3
    assert [layer.feed_forward.expand.out_features for layer in layers] == [768] * 3
    assert found.labels == runs.Teaching().teacher.labels
