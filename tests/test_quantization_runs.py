"""The stored comparisons of lesson 11: their settings, and that a row comes out again."""

import pytest

from course_utils import quantization_runs as runs
from course_utils.data.stored import DATA, stored_result
from course_utils.distillation_runs import gain, right_of

STORED = [name for name in runs.SWEEPS if (DATA / "results" / f"quantization_{name}.json").exists()]


@pytest.fixture(scope="module")
def quantizing():
    return runs.Quantizing()


@pytest.mark.parametrize("sweep", STORED)
def test_stored_rows_are_those_of_the_command(sweep):
    found = stored_result(f"quantization_{sweep}")
    seeds = [int(s) for s in found["command"].split("--seeds ")[1].split()]
    assert f"quantization_runs {sweep} " in found["command"]
    assert found["recipes"] == runs.recipes(sweep)  # else: run the command again
    expected = {(name, seed) for name in runs.SWEEPS[sweep] for seed in seeds}  # each once
    assert sorted((row["setting"], row["seed"]) for row in found["rows"]) == sorted(expected)
    for row in found["rows"]:
        right = right_of([row], row["setting"])
        assert right.shape == (1, 900)
        assert right.mean() == pytest.approx(row["in_scope_argmax"], abs=1e-6)


@pytest.mark.skipif("ways" not in STORED, reason="the command has not run yet")
def test_a_stored_row_comes_out_again(quantizing):
    (found,) = (
        row
        for row in stored_result("quantization_ways")["rows"]
        if (row["setting"], row["seed"]) == ("dynamic int8", 0)
    )
    row = quantizing.row("dynamic int8", runs.SWEEPS["ways"]["dynamic int8"])
    assert row["bytes"] == pytest.approx(found["bytes"], rel=1e-3)
    assert row["in_scope_argmax"] == pytest.approx(found["in_scope_argmax"], abs=0.025)


@pytest.mark.skipif("ways" not in STORED, reason="the command has not run yet")
def test_dynamic_int8_loses_less_than_a_point():
    rows = stored_result("quantization_ways")["rows"]
    difference, low, high = gain(rows, "float", "dynamic int8")
    assert low <= difference <= high
    assert difference > -0.01
    if len({row["seed"] for row in rows}) >= 3:
        assert low > -0.01


def test_more_calibration_texts_are_the_same_ones_and_more(quantizing):
    few, many = quantizing.texts(3), quantizing.texts(30)
    assert many[:3] == few and len(many) == 30
    assert len({str(text["input_ids"]) for text in many}) > 20
    ranges = [runs.calibrate(quantizing.inputs(n), "min-max") for n in (1, 3)]
    for name, (low, high) in ranges[0].items():  # more texts never make min-max narrower
        assert ranges[1][name][0] <= low and ranges[1][name][1] >= high


def test_training_moves_the_layers_and_leaves_the_tables(quantizing):
    setting = runs.Setting(2, 8, clip=True)
    start = quantizing.quantized(setting)
    quantizing.teaching.features["train"], kept = (
        quantizing.teaching.features["train"][:32],
        quantizing.teaching.features["train"],
    )
    try:
        recipe = runs.dataclasses.replace(runs.QAT, epochs=1)
        after = quantizing.trained(start, recipe)
    finally:
        quantizing.teaching.features["train"] = kept
    before, now = start.state_dict(), after.state_dict()
    moved = {name for name in before if not before[name].equal(now[name])}
    assert "bert.encoder.layers.0.attention.query.weight" in moved
    assert not any(name.startswith("bert.embeddings.") for name in moved)


def test_a_setting_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        runs.main(["ways", "--only", "int9"])
    assert "no setting 'int9'; there are: float, weights int8" in capsys.readouterr().err
