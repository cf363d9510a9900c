"""The command of stored comparisons: what is kept, run again, and merged."""

import pytest

from course_utils import sweep_command as command
from course_utils.data import stored

SETTINGS = {"float": {"bits": None}, "a": {"bits": 8}, "b": {"bits": 4}}


class Runner:
    """Counts what it is asked for."""

    asked: list = []

    def __init__(self, seed):
        self.seed = seed

    def row(self, name, setting):
        Runner.asked.append((self.seed, name))
        return {"setting": name, "seed": self.seed, "in_scope_argmax": 0.5}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "DATA", tmp_path)
    monkeypatch.setattr(command, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(command, "gain", lambda rows, a, b: (0.0, 0.0, 0.0))
    Runner.asked = []


def recipes(sweep, training="once"):
    return {"settings": dict(SETTINGS), "training": training}


def run(*arguments, recipes=recipes):
    command.run_command(
        "toy_runs", "a toy", {"all": SETTINGS}, recipes, Runner, {"all": "float"},
        ["all", *map(str, arguments)],
    )  # fmt: skip


def test_rows_are_stored_in_order_and_a_second_call_runs_what_is_missing(capsys):
    run("--seeds", 1, "--only", "b")
    run("--seeds", 0, 1)
    assert Runner.asked == [(1, "b"), (0, "float"), (0, "a"), (0, "b"), (1, "float"), (1, "a")]
    found = stored.stored_result("toy_all")
    assert found["command"] == "python -m course_utils.toy_runs all --seeds 0 1"
    expected = [(seed, name) for seed in (0, 1) for name in SETTINGS]
    assert [(row["seed"], row["setting"]) for row in found["rows"]] == expected
    assert "a " in capsys.readouterr().out
    run("--seeds", 0, 1)
    assert len(Runner.asked) == 6
    run("--seeds", 0, "--anew", "--only", "a")
    assert Runner.asked[6:] == [(0, "a")]
    run("--seeds", 5, "--dry-run")
    assert len(stored.stored_result("toy_all")["rows"]) == 6


def test_a_row_is_run_again_when_its_setting_has_changed():
    run("--seeds", 0)
    now = recipes("all")
    now["settings"] = SETTINGS | {"a": {"bits": 7}}
    assert [row["setting"] for row in command.stored_rows("toy_all", now)] == ["float", "b"]
    assert command.stored_rows("toy_all", recipes("all", "twice")) == []
    assert command.stored_rows("none", now) == []


def test_rows_that_another_process_has_stored_stay():
    now, line = recipes("all"), "python"
    mine = [{"setting": "a", "seed": 0, "by": "me"}]
    theirs = [{"setting": "a", "seed": 0, "by": "them"}, {"setting": "float", "seed": 1}]
    command.save_rows("toy_all", line, theirs, now)
    rows = command.save_rows("toy_all", line, mine, now)
    assert rows == [mine[0], theirs[1]] == stored.stored_result("toy_all")["rows"]


def test_a_setting_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        run("--only", "c")
    assert "no setting 'c'; there are: float, a, b" in capsys.readouterr().err
