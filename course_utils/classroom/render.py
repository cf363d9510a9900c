"""Execute lesson notebooks and write them back, normalised: `python3 course.py render [NN ...]`.

Each notebook runs top to bottom in a fresh course-cpu kernel, as on the day a reader opens it:
nothing in `mine/`, no progress, small scale. A notebook whose cell fails is not written.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import NoSuchKernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from course_utils.classroom.lessons import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"
KERNEL = "course-cpu"
CELL_SECONDS = 600
NOTEBOOK_BYTES = 1_500_000
FIGURE_BYTES = 100_000  # a larger figure is stored with a palette
KERNELSPEC = {"display_name": "Course (CPU)", "language": "python", "name": KERNEL}
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}
EDITOR_METADATA = {
    "collapsed",
    "scrolled",
    "editable",
    "trusted",
    "deletable",
    "execution",
    "jp-MarkdownHeadingCollapsed",
    "lines_to_next_cell",
}
WIDGET = "application/vnd.jupyter.widget-view+json"
BAR = re.compile(
    r".*(\d+%\||\dit \[).*\]\s*$"
)  # tqdm's: "loss:  40%|####      | 2/5 [00:01<00:02]"
WIDGET_NOTE = (
    "[run this cell to move the slider]"  # tests/nbval_sanitize.cfg makes the live one the same
)
# A path of the machine that rendered: /home/..., C:\Users\...; not https://example.org/home/
MACHINE_PATH = re.compile(
    r"(?<![\w.~\-])/(?:root|work|home|tmp|Users|private|mnt)(?=[/\s\"'`,;:)\]]|$)"
    r"|[A-Za-z]:\\+(?:Users|Windows|Program Files)"
)
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")


class RenderError(Exception):
    """A notebook that can not be stored; the message says which cell and why."""


class StaticClient(NotebookClient):
    """Executes as nbval does: what a widget draws inside itself lands in the cell's own outputs.

    So a slider's figure is stored as a plain figure, which is what a reader without a kernel sees.
    """

    at = 0  # index of the cell that runs

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs) -> NotebookNode:
        self.at = cell_index
        return await super().async_execute_cell(cell, cell_index, *args, **kwargs)

    def on_comm_open_jupyter_widget(self, msg: dict) -> None:
        return None

    def clear_output(self, outs: list, msg: dict, cell_index: int) -> None:
        return None


def label(cell: NotebookNode, index: int) -> str:
    """How messages name a cell: its name, else its place and first line."""
    name = cell.metadata.get("name")
    first = next(iter(cell.source.strip().splitlines()), "")
    return f"cell '{name}'" if name else f"cell {index} ({first[:50]})"


def output_texts(output: NotebookNode) -> list[str]:
    """Everything readable in an output: streams, plain text, HTML, SVG; not the pictures' bytes."""
    if output.output_type == "stream":
        return [output.text]
    if output.output_type == "error":
        return [output.ename, output.evalue, *output.traceback]
    return [v for k, v in output.data.items() if isinstance(v, str) and k != "image/png"]


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Run every cell in place, in a fresh kernel whose working directory is `folder`."""
    with tempfile.TemporaryDirectory() as fresh:
        env = os.environ | {
            "COURSE_MINE": str(Path(fresh) / "mine"),
            "COURSE_PROGRESS": str(Path(fresh) / "progress.json"),
            "COURSE_SCALE": "small",
        }
        client = StaticClient(
            notebook,
            kernel_name=KERNEL,
            timeout=CELL_SECONDS,
            record_timing=False,
            store_widget_state=False,
            force_raise_errors=True,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
        )
        try:
            client.execute(env=env, stderr=subprocess.DEVNULL)  # the kernel greets there
        except NoSuchKernel:
            raise RenderError(
                f"the kernel {KERNEL} is not registered; `python3 course.py lab` does that"
            ) from None
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            where = label(notebook.cells[client.at], client.at)
            raise RenderError(f"{where} failed:\n{error}") from None


def cell_ids(cells: list[NotebookNode]) -> list[str]:
    """One id a cell: its name, else a hash of its source; a repeat gets a number."""
    ids: list[str] = []
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        wanted = cell.metadata.get("name") or digest
        unique, n = wanted, 2
        while unique in ids:
            unique, n = f"{wanted}-{n}", n + 1
        ids.append(unique)
    return ids


def still(data: dict) -> dict:
    """A widget lives in a kernel only: keep the picture beside it, or one line in its place."""
    if "image/png" in data:
        return {mime: content for mime, content in data.items() if mime != WIDGET}
    is_bar = BAR.match(data.get("text/plain", ""))
    return {"text/plain": "" if is_bar else WIDGET_NOTE}


def smaller(png: str) -> str:
    """The same picture with a palette of 256 colours, where that is smaller."""
    from PIL import Image

    original = base64.b64decode(png)
    packed = io.BytesIO()
    picture = Image.open(io.BytesIO(original)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return png if packed.tell() >= len(original) else base64.b64encode(packed.getvalue()).decode()


def normalise(notebook: NotebookNode) -> None:
    """Take out what two renderings need not share: random ids, editor metadata, widgets."""
    kept = {k: v for k, v in notebook.metadata.items() if k in ("course", "title")}
    notebook.metadata = NotebookNode(kept | {"kernelspec": KERNELSPEC, "language_info": LANGUAGE})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell, cell_id in zip(notebook.cells, cell_ids(notebook.cells), strict=True):
        cell.id = cell_id
        cell.metadata = NotebookNode(
            {k: v for k, v in cell.metadata.items() if k not in EDITOR_METADATA}
        )
        for output in cell.get("outputs", []):
            if "data" in output and WIDGET in output.data:
                output.data = NotebookNode(still(output.data))
            if len(output.get("data", {}).get("image/png", "")) > FIGURE_BYTES:
                output.data["image/png"] = smaller(output.data["image/png"])


def refusals(notebook: NotebookNode) -> list[str]:
    """What must not be stored: red text of a library, a path or memory address of this machine."""
    found = []
    for index, cell in enumerate(notebook.cells):
        texts = [cell.source]
        for output in cell.get("outputs", []):
            texts += output_texts(output)
            if output.output_type == "stream" and output.name == "stderr":
                found.append(
                    f"{label(cell, index)} writes to stderr (a warning is dealt with in start(); "
                    f"a progress bar comes from tqdm.auto):\n{output.text[:500]}"
                )
        for pattern, what in (
            (MACHINE_PATH, "a path of this machine"),
            (ADDRESS, "a memory address"),
        ):
            hit = next((m for t in texts if (m := pattern.search(t))), None)
            if hit:
                around = hit.string[max(0, hit.start() - 30) : hit.end() + 30].replace("\n", " ")
                found.append(f"{label(cell, index)} holds {what}: …{around}…")
    size = len(nbformat.writes(notebook).encode())
    if size > NOTEBOOK_BYTES:
        found.append(
            f"the notebook is {size / 1e6:.1f} MB, more than {NOTEBOOK_BYTES / 1e6:.1f} MB"
        )
    return found


def render(path: Path) -> None:
    """Execute, normalise and write one notebook; on RenderError the file is as it was."""
    notebook = nbformat.read(path, as_version=4)
    execute(notebook, path.parent)
    normalise(notebook)
    problems = refusals(notebook)
    if problems:
        raise RenderError("\n".join(problems))
    nbformat.validate(notebook)
    part = path.with_suffix(".ipynb.part")
    part.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")
    os.replace(part, path)


def find(number: str, folder: Path = NOTEBOOKS) -> Path:
    """notebooks/NN_*.ipynb for "NN", "N" or a path. Raises RenderError where there is none."""
    if number.endswith(".ipynb"):
        return Path(number).resolve()
    found = sorted(folder.glob(f"{number.zfill(2)}_*.ipynb"))
    if not found:
        there = ", ".join(sorted(p.name[:2] for p in folder.glob("[0-9]*.ipynb"))) or "none yet"
        raise RenderError(f"there is no lesson {number}; lessons: {there}")
    return found[0]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="course.py render", description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", metavar="NN", help="lesson numbers (none: all)")
    numbers = parser.parse_args(arguments).lessons
    failed = 0
    try:
        paths = [find(n) for n in numbers] if numbers else sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    except RenderError as error:
        print(error, file=sys.stderr)
        return 2
    for path in paths:
        print(f"{path.name}: running …", flush=True)
        try:
            render(path)
            print(f"{path.name}: written, {path.stat().st_size / 1e3:.0f} kB", flush=True)
        except RenderError as error:
            print(f"{path.name}: not written\n{error}", file=sys.stderr, flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
