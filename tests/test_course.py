"""course.py: its words, which environment it takes, the kernels it writes, what it runs.

That it makes a whole environment out of nothing takes minutes and a network: tried by hand.
"""

import ast
import functools
import http.server
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

FILE = Path(__file__).parents[1] / "course.py"
spec = importlib.util.spec_from_file_location("course", FILE)
course = importlib.util.module_from_spec(spec)
spec.loader.exec_module(course)


def call(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, FILE, *words], capture_output=True, text=True)


# ---------------------------------------------------------------- words


@pytest.mark.parametrize("words", [["--help"], []])
def test_help_names_every_verb_and_variable(words):
    shown = call(*words)
    assert shown.returncode == 0
    for word in ("lab", "test PATH", "render 01 02", "doctor", "COURSE_CACHE", "HF_ENDPOINT"):
        assert word in shown.stdout


@pytest.mark.parametrize(
    "word, nearest", [("tset", "test"), ("labs", "lab"), ("docter", "doctor"), ("rendr", "render")]
)
def test_an_unknown_word_gets_the_nearest_verb(word, nearest):
    with pytest.raises(SystemExit) as ended:
        course.main([word])
    assert str(ended.value).endswith(f"Did you mean: python3 course.py {nearest}")


def test_lab_takes_a_port_and_no_browser():
    args = course.make_parser().parse_args(["lab", "--no-browser", "--port", "9000"])
    assert (args.verb, args.no_browser, args.port) == ("lab", True, 9000)


def test_a_path_that_is_not_there_is_refused_before_anything_is_set_up():
    with pytest.raises(SystemExit, match="there is no tests/test_nothing.py here"):
        course.main(["test", "tests/test_nothing.py::test_x"])


# ---------------------------------------------------------------- a bare Python


def test_it_imports_the_standard_library_only():
    tree = ast.parse(FILE.read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - sys.stdlib_module_names == set()


def test_an_older_python_can_read_it_and_is_told_so(monkeypatch):
    tree = ast.parse(FILE.read_text(), feature_version=(3, 8))
    at_the_top = {a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names}
    assert "tomllib" not in at_the_top  # came with 3.11
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    with pytest.raises(SystemExit, match="needs Python 3.11 or newer"):
        course.main(["lab"])


# ---------------------------------------------------------------- which environment


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A course folder with its own dependencies and no .venv; this Python is not activated."""
    project = '[project]\ndependencies = ["no-such-package>=1", "pytest>=9"]\n'
    extra = '[project.optional-dependencies]\ntest = ["nbval"]\n'
    (tmp_path / "pyproject.toml").write_text(project + extra)
    (tmp_path / "constraints.txt").write_text("pytest==9.2.0\n")
    monkeypatch.setattr(course, "ROOT", tmp_path)
    monkeypatch.setattr(course, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(course, "STAMP", tmp_path / ".venv" / "stamp.txt")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "python"))
    return tmp_path


def make_venv(stamp: str) -> None:
    course.venv_python().parent.mkdir(parents=True)
    course.venv_python().write_text("an interpreter")
    course.STAMP.write_text(stamp)


def test_no_venv_is_not_ready(bare):
    assert course.ready_environment() is None


def test_a_completed_venv_is_ready_until_what_is_to_be_installed_changes(bare):
    make_venv(course.fingerprint())
    assert course.ready_environment() == str(course.venv_python())
    with open(bare / "pyproject.toml", "a") as file:
        file.write("[tool.ruff]\nline-length = 99\n")  # nothing to install
    assert course.ready_environment() == str(course.venv_python())
    (bare / "constraints.txt").write_text("pytest==9.3.0\n")
    assert course.ready_environment() is None


def test_a_venv_without_its_interpreter_is_not_ready(bare):
    make_venv(course.fingerprint())
    course.venv_python().unlink()
    assert course.ready_environment() is None


def test_an_unfinished_venv_is_not_ready_and_is_started_again(bare, monkeypatch):
    make_venv(course.UNFINISHED)
    assert course.ready_environment() is None
    monkeypatch.setattr(course, "GIGABYTES_NEEDED", 10**9)  # stops before it installs
    with pytest.raises(SystemExit, match="GB of disk"):
        course.install()
    assert not (bare / ".venv").exists()


@pytest.mark.parametrize("stamp", [None, course.UNFINISHED])
def test_doctor_without_an_environment_says_how_to_make_one(bare, capsys, stamp):
    if stamp:
        make_venv(stamp)
    assert course.main(["doctor"]) == 1
    assert "none yet, or an unfinished one → python3 course.py lab" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands in for the interpreter")
def test_doctor_looks_into_an_environment_that_is_out_of_date(bare, capfd):
    make_venv("another fingerprint")
    course.venv_python().write_text("#!/bin/sh\necho '[ok]  looked'\n")
    course.venv_python().chmod(0o755)
    assert course.main(["doctor"]) == 1
    said = capfd.readouterr().out
    assert "[fix] environment: its packages or its place have changed" in said
    assert "[ok]  looked" in said


def test_an_activated_environment_without_the_packages_is_not_used(bare, monkeypatch, capsys):
    monkeypatch.setattr(sys, "prefix", str(bare / "activated"))
    assert course.ready_environment() is None
    shown = capsys.readouterr().out
    assert "lacks no-such-package, this course" in shown
    assert "pytest" not in shown and "nbval" not in shown


@pytest.mark.parametrize("kind", ["venv", "conda"])
def test_an_activated_environment_with_the_packages_is_used(tmp_path, monkeypatch, kind):
    if course.missing_packages():
        pytest.skip("this interpreter is not one that the course is installed in")
    monkeypatch.setattr(course, "VENV", tmp_path / "another")
    monkeypatch.setattr(course, "STAMP", tmp_path / "another" / "stamp.txt")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path if kind == "conda" else "/usr"))
    if kind == "conda":
        assert course.ready_environment() is None  # the system's own Python: nobody activated it
        (tmp_path / "conda-meta").mkdir()
    assert course.ready_environment() == sys.executable


def test_too_little_disk_is_said_before_anything_is_made(bare, monkeypatch):
    monkeypatch.setattr(course, "GIGABYTES_NEEDED", 10**9)
    with pytest.raises(SystemExit, match="needs 1000000000 GB of disk; .* GB are free"):
        course.install()
    assert not (bare / ".venv").exists()


@pytest.mark.parametrize(
    "log, sentence",
    [
        ("Failed to establish a new connection: [Errno -3] Temporary failure", "needs a network"),
        ("ReadTimeoutError: Read timed out.", "needs a network"),
        ("ERROR: [Errno 28] No space left on device", "disk is full"),
        ("x\nERROR: No matching distribution found for torch==9", "distribution found for torch=="),
    ],
)
def test_why_pip_failed_is_one_sentence(log, sentence):
    said = course.why_pip_failed(log)
    assert sentence in said and "\n" not in said


def test_torch_for_the_cpu_only_where_its_index_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(course, "has_nvidia_driver", lambda: False)
    (tmp_path / "torch").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(course, "TORCH_CPU_INDEX", f"http://127.0.0.1:{server.server_port}")
        assert course.wants_torch_for_cpu()
        monkeypatch.setattr(course, "has_nvidia_driver", lambda: True)
        assert not course.wants_torch_for_cpu()
        monkeypatch.setattr(course, "has_nvidia_driver", lambda: False)
        (tmp_path / "torch").rmdir()
        assert not course.wants_torch_for_cpu()
        server.shutdown()
    assert not course.wants_torch_for_cpu()


# ---------------------------------------------------------------- kernels and JupyterLab


def kernel(folder: Path, name: str) -> dict:
    return json.loads((folder / "kernels" / name / "kernel.json").read_text())


def test_kernels_carry_their_device_and_threads(tmp_path):
    course.write_kernels("/env/python", tmp_path, threads=2, gpu=True)
    cpu, gpu = kernel(tmp_path, "course-cpu"), kernel(tmp_path, "course-gpu")
    assert (cpu["display_name"], gpu["display_name"]) == ("Course (CPU)", "Course (GPU)")
    assert (cpu["env"]["COURSE_DEVICE"], gpu["env"]["COURSE_DEVICE"]) == ("cpu", "cuda")
    assert cpu["env"]["OMP_NUM_THREADS"] == cpu["env"]["MKL_NUM_THREADS"] == "2"
    assert cpu["env"]["OMP_WAIT_POLICY"] == "PASSIVE"
    assert gpu["env"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert cpu["argv"][0] == gpu["argv"][0] == "/env/python"


def test_a_gpu_kernel_goes_when_cuda_answers_no_more(tmp_path):
    course.write_kernels("/env/python", tmp_path, threads=2, gpu=True)
    course.write_kernels("/env/python", tmp_path, threads=2, gpu=False)
    assert [folder.name for folder in (tmp_path / "kernels").iterdir()] == ["course-cpu"]


def test_jupyterlab_is_told_to_ask_for_no_news(monkeypatch):
    from jupyterlab_server.settings_utils import _get_overrides

    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(course.LAB_SETTINGS))
    overrides, error = _get_overrides("no-such-folder")
    notification = overrides["@jupyterlab/apputils-extension:notification"]
    assert not error
    assert notification == {"fetchNews": "false", "checkForUpdates": False}


# ---------------------------------------------------------------- test


def test_tests_and_notebooks_run_in_a_place_of_their_own(monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "full")
    with course.fresh_place() as env:
        places = [Path(env[name]) for name in ("COURSE_MINE", "COURSE_PROGRESS", "JUPYTER_PATH")]
        assert not any(place.exists() for place in places)
        assert places[0].parent.is_dir()
        assert env["COURSE_SCALE"] == "small"
    assert not places[0].parent.exists()


def test_notebooks_are_compared_by_nbval_on_the_kernel_named():
    command = course.notebooks_command("python", ["notebooks"], "course-gpu")
    assert command[command.index("--nbval-kernel-name") + 1] == "course-gpu"
    assert (FILE.parent / command[command.index("--nbval-sanitize-with") + 1]).is_file()
    assert "--nbval" in command and command[1:3] == ["-m", "pytest"]


@pytest.fixture
def set_up(monkeypatch):
    """As after set-up, with no GPU: this interpreter has the packages."""
    monkeypatch.setattr(course, "prepare", lambda: sys.executable)
    monkeypatch.setattr(course, "has_nvidia_driver", lambda: False)


@pytest.mark.parametrize("claim, code", [("2 + 2 == 4", 0), ("2 + 2 == 5", 1)])
def test_a_failing_test_is_an_error_code(tmp_path, set_up, capfd, claim, code):
    path = tmp_path / "test_sum.py"
    path.write_text(f"def test_sum():\n    assert {claim}\n")
    assert course.main(["test", str(path)]) == code
    shown = capfd.readouterr().out
    assert shown.strip().splitlines()[-1] == f"tests: {'FAILED' if code else 'passed'}"
    assert "course-gpu" not in shown and "ruff" not in shown


@pytest.mark.parametrize("stored, code", [("cpu 1\n", 0), ("cpu 2\n", 1)])
def test_a_notebook_runs_on_the_cpu_kernel_and_the_missing_gpu_is_said(
    tmp_path, set_up, capfd, stored, code
):
    cell = new_code_cell(
        'import os\nprint(os.environ["COURSE_DEVICE"], os.environ["OMP_NUM_THREADS"])',
        execution_count=1,
        outputs=[new_output("stream", name="stdout", text=stored)],
    )
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "lesson.ipynb")
    assert course.main(["test", str(tmp_path / "lesson.ipynb")]) == code
    assert capfd.readouterr().out.strip().splitlines()[-2:] == [
        f"notebooks on course-cpu: {'FAILED' if code else 'passed'}",
        "notebooks on course-gpu: SKIPPED, CUDA does not answer on this machine",
    ]


def test_the_script_for_every_change_calls_the_readme_command():
    script = FILE.parent / ".ci" / "run"
    assert script.read_text().strip().endswith("exec python3 course.py test")
    if shutil.which("bash"):
        assert subprocess.run(["bash", "-n", script]).returncode == 0
