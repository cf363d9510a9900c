"""doctor() says [ok] or [fix] a line, with what to do; false when something is to be fixed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils.classroom import doctor as public_doctor
from course_utils.classroom.doctor import Finding, Findings, doctor
from course_utils.data import cache, weights

GOOD = Finding("disk", "80 GB free")
BAD = Finding("weights", "not there", "fetch <them>")


@pytest.fixture
def look(monkeypatch, tmp_path):
    """Runs the doctor on an empty cache and one kernel; gives the lines by name."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    register(tmp_path, "course-cpu", sys.executable)
    return lambda: {finding.what: finding for finding in doctor()}


def register(tmp_path: Path, name: str, python: str) -> None:
    folder = tmp_path / "jupyter" / "kernels" / name
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"argv": [python, "-m", "ipykernel_launcher"], "display_name": name, "language": "py"}
    (folder / "kernel.json").write_text(json.dumps(spec))


def test_the_lesson_gets_this_doctor():
    assert public_doctor is doctor


def test_lines_say_ok_or_fix_with_what_to_do():
    assert str(GOOD) == "[ok]  disk: 80 GB free"
    assert str(BAD) == "[fix] weights: not there → fetch <them>"
    assert repr(Findings([GOOD, BAD])) == f"{GOOD}\n{BAD}"


def test_findings_are_true_when_nothing_is_to_be_fixed():
    assert Findings([GOOD])
    assert not Findings([GOOD, BAD])


def test_the_notebook_table_has_every_line_escaped():
    table = Findings([GOOD, BAD])._repr_html_()
    assert table.count("<tr>") == 3
    assert "fetch &lt;them&gt;" in table and "80 GB free" in table


def test_all_eight_things_are_looked_at(look):
    names = ["Python", "packages", "device", "kernels", "cache", "weights", "disk", "memory"]
    assert list(look()) == names


def test_no_line_has_a_path_of_this_machine(look, tmp_path):
    lines = "\n".join(map(str, look().values()))
    assert str(tmp_path) not in lines and str(Path.home()) not in lines
    assert "$COURSE_CACHE" in lines


def test_missing_weights_are_to_be_fixed_and_not_fetched(look, tmp_path):
    assert look()["weights"].fix == "python3 course.py lab, once with a network"
    assert not (tmp_path / "cache").exists()


def test_weights_whose_bytes_changed_are_noticed_though_size_and_date_did_not(look, monkeypatch):
    monkeypatch.setattr(weights, "FILES", {"vocab.txt": cache.hashlib.sha256(b"words").hexdigest()})
    folder = cache.cached(
        weights.NAME, {"files": weights.FILES}, lambda f: (f / "vocab.txt").write_bytes(b"words")
    )
    assert look()["weights"].found == "the pretrained encoder, 1 files, sha256 as published"
    before = (folder / "vocab.txt").stat()
    (folder / "vocab.txt").write_bytes(b"wards")
    os.utime(folder / "vocab.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look()["weights"].found == "vocab.txt changed on this disk"
    assert "delete the folder all-MiniLM-L6-v2" in look()["weights"].fix


def test_another_version_than_the_tested_one_is_named(look, tmp_path, monkeypatch):
    module = sys.modules["course_utils.classroom.doctor"]
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    (tmp_path / "constraints.txt").write_text("# tested\nnumpy==0.1\nno-such-package==3.0\n")
    line = look()["packages"]
    assert "numpy " in line.found and "(tested: 0.1)" in line.found
    assert "no-such-package missing (tested: 3.0)" in line.found
    assert line.fix.startswith("pip install -c constraints.txt")


def test_kernels_must_be_there_and_point_to_an_interpreter(look, tmp_path):
    assert look()["kernels"].fix == ""
    register(tmp_path, "course-gpu", "/gone/python")
    assert look()["kernels"].found == "course-gpu points nowhere"


def test_a_missing_cpu_kernel_is_to_be_fixed(look, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "jupyter")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("jupyter_core.paths.ENV_JUPYTER_PATH", [])
    monkeypatch.setattr("jupyter_core.paths.SYSTEM_JUPYTER_PATH", [])
    assert str(look()["kernels"]) == (
        "[fix] kernels: course-cpu is not registered → python3 course.py lab"
    )


def test_a_gpu_kernel_without_cuda_is_to_be_fixed(look, monkeypatch):
    import torch

    monkeypatch.setenv("COURSE_DEVICE", "cuda")
    assert bool(look()["device"].fix) != torch.cuda.is_available()


def test_a_cache_that_is_a_file_is_to_be_fixed(look, tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    assert look()["cache"].fix == "set COURSE_CACHE elsewhere"


def test_little_disk_and_memory_are_to_be_fixed(look, monkeypatch):
    module = sys.modules["course_utils.classroom.doctor"]
    monkeypatch.setattr(module, "DISK_GB", 10**9)
    monkeypatch.setattr(module, "MEMORY_GB", 10**9)
    assert look()["disk"].fix.startswith("make room")
    assert look()["memory"].fix.startswith("close something")


def test_a_check_that_breaks_is_a_line_and_the_others_go_on(look, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    lines = look()
    assert "python3 course.py lab" in lines["memory"].fix
    assert len(lines) == 8


def test_the_command_speaks_where_a_library_is_broken_and_ends_with_an_error_code(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('half of torch is missing')")
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no matplotlib')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "COURSE_CACHE": str(tmp_path)}
    alone = f"import runpy; runpy.run_path({doctor.__code__.co_filename!r}, None, '__main__')"
    command = [sys.executable, "-c", alone]  # as course.py does
    ended = subprocess.run(command, env=env, capture_output=True, text=True)
    assert "[fix] compute device: ImportError: half of torch is missing → " in ended.stdout
    assert "[fix] weights" in ended.stdout and "[ok]  Python" in ended.stdout
    assert ended.stderr == ""
    assert ended.returncode == 1
