"""doctor(): what works on this machine, and what to do about what does not.

Lines of two kinds: `[ok]`, and `[fix]` with what to do. In a lesson `doctor()` shows a table of
them; `python3 course.py doctor` prints them and exits non-zero when something is to be fixed.
"""

import html
import importlib.metadata
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

# course.py runs this file by itself, so that it can speak where importing the package fails: what
# may be missing is imported inside the check that needs it.
REPOSITORY = Path(__file__).resolve().parents[2]

DISK_GB = 2  # for what the lessons train and keep
MEMORY_GB = 3  # what a lesson's kernel and JupyterLab take together
SET_UP = "python3 course.py lab"


@dataclass
class Finding:
    """One line: what was looked at, what was found, and what to do (empty when all is well)."""

    what: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        if self.fix:
            return f"[fix] {self.what}: {self.found} → {self.fix}"
        return f"[ok]  {self.what}: {self.found}"


class Findings(list):
    """All lines; true when nothing is to be fixed. Shown as a table in a notebook."""

    def __bool__(self) -> bool:
        return not any(finding.fix for finding in self)

    def __repr__(self) -> str:
        return "\n".join(map(str, self))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{'[fix]' if line.fix else '[ok]'}</td>"
            + "".join(
                f'<td style="text-align:left">{html.escape(text)}</td>'
                for text in (line.what, line.found, line.fix)
            )
            + "</tr>"
            for line in self
        )
        heads = ("", "what", "found", "what to do")
        head = "".join(f'<th style="text-align:left">{text}</th>' for text in heads)
        return f"<table><tr>{head}</tr>{rows}</table>"


def doctor() -> Findings:
    """Looks at versions, device, kernels, cache, weights, disk and memory. Changes nothing."""
    checks = (python, packages, compute_device, kernels, cache, weights, disk, memory)
    findings = Findings()
    for check in checks:
        try:
            findings.append(check())
        except Exception as error:  # a broken package must not hide what the other lines say
            what = check.__name__.replace("_", " ")
            found = f"{type(error).__name__}: {error}".splitlines()[0]
            findings.append(Finding(what, found, f"{SET_UP} installs what is missing"))
    return findings


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", version, "" if sys.version_info >= (3, 11) else "use 3.11 or newer")


def packages() -> Finding:
    """The installed versions against constraints.txt."""
    pins = re.findall(r"(?m)^([\w.-]+)==(\S+)", (REPOSITORY / "constraints.txt").read_text())
    others = []
    for name, tested in pins:
        try:
            installed = importlib.metadata.version(name).split("+")[0]  # 2.13.0+cpu is 2.13.0
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if installed != tested:
            others.append(f"{name} {installed} (tested: {tested})")
    if not others:
        return Finding("packages", f"all {len(pins)} in the versions the course is tested with")
    found = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    return Finding("packages", found, "pip install -c constraints.txt -e .[test]")


def compute_device() -> Finding:
    import torch

    from course_utils.classroom.device import device

    try:
        kind = device().type
    except RuntimeError as error:  # the GPU kernel, and CUDA does not answer
        return Finding("device", "CUDA is asked for", str(error))
    name = torch.cuda.get_device_name() if kind == "cuda" else f"{torch.get_num_threads()} threads"
    return Finding("device", f"{kind} ({name})")


def kernels() -> Finding:
    from jupyter_client.kernelspec import KernelSpecManager

    specs = KernelSpecManager().get_all_specs()
    ours = {name: found["spec"] for name, found in specs.items() if name.startswith("course-")}
    lost = [name for name, spec in ours.items() if not shutil.which(spec["argv"][0])]
    if "course-cpu" not in ours or lost:
        found = f"{', '.join(lost)} points nowhere" if lost else "course-cpu is not registered"
        return Finding("kernels", found, SET_UP)
    return Finding("kernels", ", ".join(sorted(ours)))


def cache() -> Finding:
    from course_utils.data.cache import cache_dir

    folder = cache_dir()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Finding("cache", f"{shown(folder)} can not be written", "set COURSE_CACHE elsewhere")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Finding("cache", f"{size / 1e6:.0f} MB in {shown(folder)}")


def weights() -> Finding:
    from course_utils.data.cache import sha256
    from course_utils.data.weights import FILES, NAME, cached_encoder

    folder = cached_encoder()
    if folder is None:
        found = "the pretrained encoder is not there; lesson 00 uses a small random one"
        return Finding("weights", found, f"{SET_UP}, once with a network")
    changed = [name for name, expected in FILES.items() if sha256(folder / name) != expected]
    if changed:
        fix = f"delete the folder {NAME} in the cache, then {SET_UP}"
        return Finding("weights", f"{', '.join(changed)} changed on this disk", fix)
    return Finding("weights", f"the pretrained encoder, {len(FILES)} files, sha256 as published")


def disk() -> Finding:
    from course_utils.data.cache import cache_dir

    folder = cache_dir()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    fix = "" if free >= DISK_GB else f"make room: the lessons keep up to {DISK_GB} GB"
    return Finding("disk", f"{free:.0f} GB free", fix)


def memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 1e9
    fix = "" if free >= MEMORY_GB else f"close something: a lesson takes up to {MEMORY_GB} GB"
    return Finding("memory", f"{free:.0f} GB free", fix)


def shown(folder: Path) -> str:
    """A folder as a reader may print it in a stored notebook: nothing of this machine in it."""
    if os.environ.get("COURSE_CACHE"):
        return "$COURSE_CACHE"
    try:
        return f"~/{folder.relative_to(Path.home()).as_posix()}"
    except ValueError:
        return "this system's cache folder"


if __name__ == "__main__":
    result = doctor()
    print(result)
    sys.exit(0 if result else 1)
