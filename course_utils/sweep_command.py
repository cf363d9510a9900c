"""The command of stored comparisons: settings times seeds, row by row, and it can be stopped.

A module with settings calls `run_command` from its `main`; the rows go to data/results/.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from filelock import FileLock

from course_utils.data.cache import cache_dir
from course_utils.data.stored import save_result, stored_result
from course_utils.distillation_runs import gain


def stored_rows(name: str, now: dict) -> list[dict]:
    """The rows of data/results/NAME.json that were made by the settings of today.

    now  the sweep's recipes as plain JSON: "settings" (name → setting), and anything else, with
         which all rows were made
    """
    try:
        stored = stored_result(name)
    except ValueError:
        return []
    then = stored["recipes"]
    if {k: v for k, v in now.items() if k != "settings"} != {
        k: v for k, v in then.items() if k != "settings"
    }:
        return []
    same = {k for k, setting in now["settings"].items() if then["settings"].get(k) == setting}
    return [row for row in stored["rows"] if row["setting"] in same]


def save_rows(name: str, line: str, rows: list[dict], now: dict) -> list[dict]:
    """Store the rows, with those that another process has stored since → all of them."""

    def key(row: dict) -> tuple[int, str]:
        return row["seed"], row["setting"]

    with FileLock(str(cache_dir() / f"{name}.lock")):
        here = {key(row) for row in rows}
        rows = rows + [row for row in stored_rows(name, now) if key(row) not in here]
        order = list(now["settings"])
        rows.sort(key=lambda row: (row["seed"], order.index(row["setting"])))
        seeds = " ".join(map(str, sorted({row["seed"] for row in rows})))
        save_result(name, f"{line} --seeds {seeds}", rows, recipes=now)
    return rows


def run_command(
    module: str,
    description: str,
    sweeps: Mapping[str, Mapping[str, Any]],
    recipes: Callable[[str], dict],
    start: Callable[[int], Any],
    base: Mapping[str, str],
    arguments: Sequence[str] | None = None,
) -> None:
    """Run `python -m course_utils.MODULE SWEEP`, and store its rows as PREFIX_SWEEP.

    module   its name; PREFIX is what stands before "_runs"
    sweeps   sweep → name of a setting → setting
    recipes  of a sweep, see `stored_rows`
    start    seed → an object whose row(name, setting) is a dictionary with setting, seed and
             the scores of `Teaching.score`
    base     sweep → the setting that the summary compares all others with
    """
    parser = argparse.ArgumentParser(f"python -m course_utils.{module}", description=description)
    parser.add_argument("sweep", choices=list(sweeps))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="these settings alone")
    parser.add_argument("--dry-run", action="store_true", help="print the rows, store nothing")
    parser.add_argument("--anew", action="store_true", help="run stored rows again too")
    options = parser.parse_args(arguments)
    sweep, settings = options.sweep, sweeps[options.sweep]
    unknown = set(options.only or ()) - set(settings)
    if unknown:
        parser.error(f"there is no setting {unknown.pop()!r}; there are: {', '.join(settings)}")
    name = f"{module.removesuffix('_runs')}_{sweep}"
    rows = [] if options.anew or options.dry_run else stored_rows(name, recipes(sweep))
    for seed in options.seeds:
        done = {row["setting"] for row in rows if row["seed"] == seed}
        wanted = [one for one in options.only or settings if one not in done]
        runner = start(seed) if wanted else None
        for one in wanted:  # a stopped command goes on at the next row
            row = runner.row(one, settings[one])
            rows.append(row)
            print({k: v for k, v in row.items() if k != "right"}, flush=True)
            if not options.dry_run:
                command = f"python -m course_utils.{module} {sweep}"
                rows = save_rows(name, command, rows, recipes(sweep))
    summary(rows, base[sweep])


def summary(rows: list[dict], base: str) -> None:
    """Print each setting's mean, and what it gains over `base` where that has the same seeds."""
    names = dict.fromkeys(row["setting"] for row in rows)
    seeds = {name: {row["seed"] for row in rows if row["setting"] == name} for name in names}
    for name, own in seeds.items():
        found = [row["in_scope_argmax"] for row in rows if row["setting"] == name]
        line = f"{name:34s} {statistics.mean(found):.4f} ({len(found)})"
        if name != base and seeds.get(base) == own:
            points = [f"{100 * x:+.1f}" for x in gain(rows, base, name)]
            line += f" {points[0]} points, 95 % from {points[1]} to {points[2]}"
        print(line)
