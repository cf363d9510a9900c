"""The cache keeps an entry whole or not at all, and makes a damaged one again."""

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from course_utils.data.cache import cache_dir, cached, find_cached, sha256

CONFIG = {"layers": 2, "seed": 0}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))


class Build:
    """Writes one file, and counts how often it was asked."""

    def __init__(self, text: str = "weights"):
        self.text = text
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "sub").mkdir()
        (folder / "sub" / "model.bin").write_text(self.text)


def test_cache_dir_follows_the_variable_and_else_the_system(tmp_path, monkeypatch):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("COURSE_CACHE")
    assert cache_dir().name == "bert-course"


def test_second_call_finds_what_the_first_one_built():
    build = Build()
    first = cached("teacher", CONFIG, build)
    assert (first / "sub" / "model.bin").read_text() == "weights"
    assert cached("teacher", dict(reversed(CONFIG.items())), build) == first
    assert build.calls == 1


def test_another_config_is_another_entry():
    build = Build()
    assert cached("teacher", CONFIG, build) != cached("teacher", CONFIG | {"seed": 1}, build)
    assert build.calls == 2


def test_find_cached_builds_nothing():
    assert find_cached("teacher", CONFIG) is None
    folder = cached("teacher", CONFIG, Build())
    assert find_cached("teacher", CONFIG) == folder


def cut_short(file: Path) -> None:
    file.write_text("wei")


def same_length(file: Path) -> None:
    file.write_text("WEIGHTS")
    os.utime(file, (0, 0))


@pytest.mark.parametrize("damage", [cut_short, same_length, Path.unlink])
def test_a_damaged_file_is_made_again(damage):
    build = Build()
    file = cached("teacher", CONFIG, build) / "sub" / "model.bin"
    damage(file)
    cached("teacher", CONFIG, build)
    assert file.read_text() == "weights"
    assert build.calls == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": {"sub/model.bin": 3}}'])
def test_a_damaged_stamp_is_no_stamp(text):
    build = Build()
    (cached("teacher", CONFIG, build) / "entry.json").write_text(text)
    cached("teacher", CONFIG, build)
    assert build.calls == 2


def test_a_copied_cache_is_good_though_its_dates_differ(tmp_path, monkeypatch):
    build = Build()
    cached("teacher", CONFIG, build)
    shutil.copytree(tmp_path / "cache", tmp_path / "moved", copy_function=shutil.copyfile)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "moved"))
    assert cached("teacher", CONFIG, build).is_relative_to(tmp_path / "moved")
    assert build.calls == 1


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def breaks_off(folder: Path) -> None:
        (folder / "half.bin").write_text("half")
        raise RuntimeError("no more electricity")

    with pytest.raises(RuntimeError, match="electricity"):
        cached("teacher", CONFIG, breaks_off)
    assert find_cached("teacher", CONFIG) is None
    assert [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock"] == [
        tmp_path / "cache" / "teacher"
    ]


def test_a_config_that_is_not_json_is_refused():
    with pytest.raises(ValueError, match="'teacher' is not plain JSON"):
        cached("teacher", {"seed": {1, 2}}, Build())


def _slow_build(folder: Path) -> None:
    with open(cache_dir() / "log.txt", "a") as log:
        log.write("built\n")
    time.sleep(1)  # long enough for the others to arrive and wait
    (folder / "model.bin").write_text("weights")


def _ask(_) -> str:
    return str(cached("teacher", CONFIG, _slow_build))


def test_processes_that_ask_at_once_build_once(tmp_path):
    (tmp_path / "cache").mkdir()
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        folders = pool.map(_ask, range(6), chunksize=1)
    assert len(set(folders)) == 1
    assert (tmp_path / "cache" / "log.txt").read_text() == "built\n"


def test_the_stamp_names_config_and_files():
    folder = cached("teacher", CONFIG, Build())
    stamp = json.loads((folder / "entry.json").read_text())
    assert stamp["config"] == CONFIG
    assert stamp["files"]["sub/model.bin"]["sha256"] == sha256(folder / "sub" / "model.bin")
    assert stamp["files"]["sub/model.bin"]["sha256"].startswith("9a129038")
