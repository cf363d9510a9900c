#!/usr/bin/env python3
"""The course's one command.

    python3 course.py lab             set everything up, open JupyterLab on the first lesson
    python3 course.py test            set everything up, run every test and every notebook
    python3 course.py test PATH ...   only these tests (.py) and notebooks (.ipynb)
    python3 course.py render 01 02    run notebooks and write them back with their outputs
    python3 course.py doctor          what works here, and what to do about what does not
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

# The standard library only, and nothing newer than Python 3.8 before check_python has run:
# an older Python must still be able to say that it is too old.

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "course-installed.txt"  # what .venv was installed from, or UNFINISHED
UNFINISHED = "unfinished"
LAB_SETTINGS = ROOT / "course_utils" / "classroom" / "jupyter"
FIRST_NOTEBOOK = "notebooks/00_start_here.ipynb"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
GIGABYTES_NEEDED = 5
PROCESSES = 2  # for tests; each computes with one thread

MORE_HELP = """\
The first call makes an environment in .venv (about 2 GB, some minutes) and fetches a pretrained
encoder (90 MB); from then on nothing needs a network and a call takes seconds. Called from an
activated environment (venv or conda) that has the packages, it uses that one and makes none.

environment variables
  COURSE_CACHE   where weights and trained models are kept (default: this system's cache folder)
  COURSE_MINE    where your passing exercises are saved (default: mine/ in this folder)
  COURSE_SCALE   small (default, no network) or full (the real data sets, for a GPU)
  HF_ENDPOINT    a mirror of the Hugging Face Hub

Lost? `python3 course.py doctor` says what to mend.
"""


def main(words: list[str]) -> int:
    check_python()
    verbs = {"lab": lab, "test": test, "render": render, "doctor": doctor}
    if words and not words[0].startswith("-") and words[0] not in verbs:
        nearest = difflib.get_close_matches(words[0], verbs, n=1, cutoff=0.0)[0]
        sys.exit(f"course.py does not know '{words[0]}'. Did you mean: python3 course.py {nearest}")
    parser = make_parser()
    args = parser.parse_args(words)
    if args.verb is None:
        parser.print_help()
        return 0
    return verbs[args.verb](args)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=MORE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python3 course.py VERB ...   (VERB --help for one verb)",
    )
    name = "python3 course.py"
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", prog=name)
    words = verbs.add_parser("lab", help="open JupyterLab on the first lesson")
    words.add_argument("--no-browser", action="store_true", help="only print the address")
    words.add_argument("--port", type=int, metavar="N", help="default: 8888 or the next free one")
    words = verbs.add_parser("test", help="run the tests and all notebooks")
    words.add_argument("paths", nargs="*", metavar="PATH", help="a test or a notebook")
    words = verbs.add_parser("render", help="run notebooks and store their outputs")
    words.add_argument("numbers", nargs="*", metavar="NN", help="a lesson; default: all")
    verbs.add_parser("doctor", help="check versions, device, cache, weights, disk")
    return parser


# ---------------------------------------------------------------- the verbs


def lab(args: argparse.Namespace) -> int:
    python = prepare()
    command = [python, "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}", "--log-level=WARN"]
    command.append(f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK}")
    command.append("--LabApp.extension_manager=readonly")  # asks nobody what else there is
    command.append("--KernelManager.transport_encryption=auto")  # else each kernel warns
    command += ["--ServerApp.jpserver_extensions", "nbclassic=False"]  # here for its scripts only
    if args.port:
        command.append(f"--port={args.port}")
    if args.no_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container, say; Jupyter refuses otherwise
    # one more folder of settings, for this run: no news, no look for updates
    settings = [str(LAB_SETTINGS), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, settings))
    print("JupyterLab starts. Ctrl-C, twice, ends it.", flush=True)
    os.chdir(ROOT)
    if os.name == "posix":
        os.execv(python, command)  # JupyterLab takes this process's place: signals reach it
    return run(command, dict(os.environ))


def test(args: argparse.Namespace) -> int:
    for path in [path.split("::")[0] for path in args.paths]:
        if not (ROOT / path).exists():
            sys.exit(f"there is no {path} here; give tests (.py) or notebooks (.ipynb)")
    python = prepare()
    notebooks = [path for path in args.paths if path.endswith(".ipynb")]
    tests = [path for path in args.paths if not path.endswith(".ipynb")]
    if not args.paths:
        notebooks, tests = ["notebooks"], ["tests"]
    results = {}
    with fresh_place() as env:
        if not args.paths:
            results["style (ruff)"] = run([python, "-m", "ruff", "check", "--quiet"], env)
        if tests:
            results["tests"] = run(pytest_command(python, tests), env)
        if notebooks:
            gpu = cuda_answers(python)
            write_kernels(python, Path(env["JUPYTER_PATH"]), threads=1, gpu=gpu)
            numbers = {Path(path).name[:2] for path in notebooks}
            if notebooks == ["notebooks"] or numbers & {"06", "08", "09", "10"}:
                # trained before, on all cores: a bar in a cell is no output that was stored
                run([python, "-m", "course_utils.prepare"], dict(os.environ))
            for kernel in ["course-cpu", "course-gpu"] if gpu else ["course-cpu"]:
                command = notebooks_command(python, notebooks, kernel)
                results[f"notebooks on {kernel}"] = run(command, env)
            if not gpu:
                results["notebooks on course-gpu"] = None
    print()
    for what, code in results.items():
        if code is None:
            print(f"{what}: SKIPPED, CUDA does not answer on this machine")
        else:
            print(f"{what}: {'FAILED' if code else 'passed'}")
    return 1 if any(results.values()) else 0


def render(args: argparse.Namespace) -> int:
    python = prepare()
    with fresh_place() as env:
        return run([python, "-m", "course_utils.classroom.render", *args.numbers], env)


def doctor(args: argparse.Namespace) -> int:
    python = ready_environment()
    stale = not python and venv_python().is_file() and STAMP.is_file()
    if stale and STAMP.read_text() != UNFINISHED:
        print("[fix] environment: its packages or its place have changed → python3 course.py lab")
        python = str(venv_python())
    elif not python:
        print(f"[ok]  Python: {sys.version.split()[0]}")
        print("[fix] environment: none yet, or an unfinished one → python3 course.py lab")
        return 1
    # the file by itself: importing its package fails where a library is broken
    code = "import runpy; runpy.run_path('course_utils/classroom/doctor.py', None, '__main__')"
    return run([python, "-c", code], dict(os.environ)) or int(stale)


# ---------------------------------------------------------------- the environment


def check_python() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 (an older one may well call this file)
        sys.exit(
            f"The course needs Python 3.11 or newer, and this is {sys.version.split()[0]}: "
            "install one (python.org, or conda) and call course.py with it."
        )


def prepare() -> str:
    """Everything a lesson needs is there: packages, encoder, kernels. Returns the interpreter."""
    python = ready_environment() or install()
    if subprocess.call([python, "-m", "course_utils.data.weights"], cwd=ROOT):
        print("Going on without it: lesson 00 then uses a small random encoder.")
    prefix = VENV if python == str(venv_python()) else Path(sys.prefix)
    write_kernels(python, prefix / "share" / "jupyter", threads=2, gpu=cuda_answers(python))
    return python


def ready_environment() -> str | None:
    """The interpreter that has the packages: the activated environment's, or that of .venv."""
    prefix = Path(sys.prefix).resolve()
    activated = sys.prefix != sys.base_prefix or (prefix / "conda-meta").is_dir()
    if activated and prefix != VENV.resolve():
        lacking = missing_packages()
        if not lacking:
            return sys.executable
        print(f"The active environment lacks {', '.join(lacking)}: using .venv instead.")
    complete = STAMP.is_file() and STAMP.read_text() == fingerprint() and venv_python().is_file()
    return str(venv_python()) if complete else None


def missing_packages() -> list[str]:
    """Names from pyproject.toml that this interpreter does not have, and the course itself."""
    project = pyproject()
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    missing = []
    for name in [re.match(r"[\w.-]+", requirement).group() for requirement in wanted]:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    # -P: this folder itself must not count as an installed package
    code = "import course_utils; print(course_utils.__path__[0])"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    if not found.stdout or Path(found.stdout.strip()).resolve().parent != ROOT:
        missing.append("this course (pip install -e .)")
    return missing


def pyproject() -> dict:
    import tomllib  # came with Python 3.11

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def fingerprint() -> str:
    """Changes when something else has to be installed, or the same thing in another place."""
    versions = (ROOT / "constraints.txt").read_text()
    return hashlib.sha256(json.dumps([pyproject(), versions, str(ROOT)]).encode()).hexdigest()


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install() -> str:
    """Makes .venv, or brings it up to date; one whose first installation broke off starts anew."""
    if STAMP.is_file() and STAMP.read_text() == UNFINISHED:
        print("An earlier installation did not finish: starting it again.")
        shutil.rmtree(VENV)
    if venv_python().is_file():
        print("Bringing .venv up to date.", flush=True)
    else:
        free = shutil.disk_usage(ROOT).free / 1e9
        if free < GIGABYTES_NEEDED:
            sys.exit(f"The course needs {GIGABYTES_NEEDED} GB of disk; {free:.0f} GB are free.")
        VENV.mkdir(exist_ok=True)
        STAMP.write_text(UNFINISHED)
        if subprocess.call([sys.executable, "-m", "venv", str(VENV)]):
            sys.exit("This Python makes no environments (on Debian: apt install python3-venv).")
        print("Installing the packages into .venv: about 2 GB, some minutes.", flush=True)
    began = time.time()
    constraints = ["-c", str(ROOT / "constraints.txt")]
    if wants_torch_for_cpu():
        pip_install("--no-deps", "--index-url", TORCH_CPU_INDEX, *constraints, "torch")
    pip_install(*constraints, "-e", ".[test]")
    STAMP.write_text(fingerprint())
    print(f"Installed in {time.time() - began:.0f} s.", flush=True)
    return str(venv_python())


def wants_torch_for_cpu() -> bool:
    """On Linux the default torch brings 3 GB for NVIDIA cards: without a card, take the other."""
    if not sys.platform.startswith("linux") or has_nvidia_driver():
        return False
    try:
        return urllib.request.urlopen(TORCH_CPU_INDEX + "/torch/", timeout=3).status == 200
    except (OSError, ValueError):
        return False


def pip_install(*what: str) -> None:
    """pip, with one status line in place of its log; ends with one sentence when it fails."""
    log = VENV / "install.log"
    command = [str(venv_python()), "-m", "pip", "install", "--progress-bar", "off", *what]
    env = {"PIP_RETRIES": "2", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **os.environ}
    began = time.time()
    with open(log, "w") as file:
        pip = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)
    try:
        while pip.poll() is None:
            time.sleep(0.5)
            said = log.read_text(errors="replace")
            steps = re.findall(r"(?m)^ *((?:Collecting|Downloading|Installing) .*)", said) or [""]
            if sys.stdout.isatty():
                print(f"\r{time.time() - began:4.0f} s {steps[-1][:70]:70}", end="", flush=True)
    finally:
        pip.kill()
        if sys.stdout.isatty():
            print("\r" + " " * 78, end="\r")
    if pip.returncode:
        why = why_pip_failed(log.read_text(errors="replace"))
        sys.exit(f"{why} Then call course.py again. (pip's log: {log})")


def why_pip_failed(log: str) -> str:
    if re.search(r"No space left|not enough space", log):
        return "The disk is full: make room."
    if re.search(r"(?i)failed to establish|name resolution|getaddrinfo|timed out|ProxyError", log):
        return "The first installation needs a network, and none answers: connect to one."
    errors = re.findall(r"(?m)^ *ERROR: (.*)", log)
    return f"pip could not install the packages: {errors[0] if errors else 'see its log'}."


# ---------------------------------------------------------------- kernels


def has_nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def cuda_answers(python: str) -> bool:
    if not has_nvidia_driver():
        return False  # importing torch takes seconds: not only to be told no
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.call([python, "-c", code], stderr=subprocess.DEVNULL) == 0


def write_kernels(python: str, jupyter: Path, threads: int, gpu: bool) -> None:
    """Writes course-cpu and, with `gpu`, course-gpu below the folder `jupyter`/kernels."""
    everywhere = {
        "OMP_NUM_THREADS": str(threads),  # more only slow the small matrices of the lessons down
        "MKL_NUM_THREADS": str(threads),
        # a thread that waits sleeps: spinning, two threads beside other work are slower than one
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONHASHSEED": "0",  # sets of strings in the same order in every run
        "TOKENIZERS_PARALLELISM": "false",  # no warning when a tokenizer meets a fork
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no warning of the debugger in the terminal
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers shows one for every file that it saves
    }
    # cuBLAS gives the same sums in every run only with a fixed workspace
    gpu_only = {"COURSE_DEVICE": "cuda", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    kernels = {"course-cpu": ("Course (CPU)", {"COURSE_DEVICE": "cpu"})}
    if gpu:
        kernels["course-gpu"] = ("Course (GPU)", gpu_only)
    else:
        shutil.rmtree(jupyter / "kernels" / "course-gpu", ignore_errors=True)
    for name, (title, env) in kernels.items():
        kernel = {
            "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": title,
            "language": "python",
            "interrupt_mode": "signal",
            # the words of ipykernel's own kernel.json: it can debug, and encrypt what it says
            "kernel_protocol_version": "5.5",
            "metadata": {"debugger": True, "supported_encryption": ["curve"]},
            "env": {**everywhere, **env},
        }
        folder = jupyter / "kernels" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kernel.json").write_text(json.dumps(kernel, indent=1))


# ---------------------------------------------------------------- tests


def pytest_command(python: str, paths: list[str]) -> list[str]:
    alone = len(paths) == 1 and (ROOT / paths[0].split("::")[0]).is_file()
    shared_out = [] if alone else ["-n", str(PROCESSES), "--dist", "loadscope"]
    return [python, "-m", "pytest", *shared_out, *paths]


def notebooks_command(python: str, notebooks: list[str], kernel: str) -> list[str]:
    command = pytest_command(python, notebooks)
    command += ["--nbval", "--nbval-sanitize-with", "tests/nbval_sanitize.cfg"]
    return [*command, "--nbval-cell-timeout", "600", "--nbval-kernel-name", kernel]


@contextlib.contextmanager
def fresh_place():
    """An environment in which nobody has done an exercise yet, and which leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True) as place:
        here = {
            "COURSE_MINE": "mine",
            "COURSE_PROGRESS": "progress.json",
            "IPYTHONDIR": "ipython",
            "JUPYTER_PATH": "jupyter",
        }
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        paths = {name: str(Path(place) / value) for name, value in here.items()}
        yield {**os.environ, **threads, **paths, "COURSE_SCALE": "small"}


def run(command: list[str], env: dict[str, str]) -> int:
    sys.stdout.flush()
    return subprocess.call(command, cwd=ROOT, env=env)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same call goes on from here.")
