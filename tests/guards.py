"""What every lesson's notebook must keep to: pure functions from a lesson to a list of problems.

`GUARDS` holds them all; tests/test_notebooks.py runs them on the notebooks, tests/test_guards.py on
small broken ones. A problem is one sentence that names the cell.
"""

from __future__ import annotations

import ast
import base64
import builtins
import csv
import inspect
import json
import re
import struct
import textwrap
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from course_utils.classroom.exercises import bank_modules
from course_utils.classroom.render import ADDRESS, MACHINE_PATH, NOTEBOOK_BYTES, output_texts

REPOSITORY = Path(__file__).resolve().parents[1]
CELL_LINES, CELL_COLUMNS = 20, 100
PARAGRAPH_WORDS, PARAGRAPHS_IN_A_ROW = 90, 2
FIGURE_PIXELS, FIGURE_BYTES = (1000, 1200), 200_000
COMPARED_SHARE = 0.6
ALT_LENGTH = 30
ANSWER_WORDS = 100  # half a minute, spoken
SLIDES = {"slide", "subslide", "fragment", "skip", "notes"}
MARKS = set("×·√→←↑↓↔≤≥≈≠−–…“”‘’°±∞○●◐•✓✗▸◂§µ†′″²³½¼⌈⌉⌊⌋⟨⟩⊤‖¬∈∑∂")
# Called in every lesson; what these print says nothing about the lesson's results.
HOUSE = {
    "start",
    "use_mine",
    "exercise",
    "hint",
    "solution",
    "progress",
    "quiz",
    "interview",
    "glossary",
    "doctor",
}


@dataclass
class Lesson:
    """A lesson's notebook and what the rest of the course says about it."""

    number: str
    notebook: NotebookNode
    size: int = 0  # bytes on disk
    folder: Path = REPOSITORY / "notebooks"
    exercises: list = field(default_factory=list)  # of this lesson, from the bank
    claims: list = field(default_factory=list)
    quiz: list = field(default_factory=list)
    interview: list = field(default_factory=list)
    glossary: list = field(default_factory=list)  # the whole file, one dict a row
    others: dict[str, NotebookNode] = field(default_factory=dict)  # number -> notebook, all lessons

    @property
    def cells(self) -> list[NotebookNode]:
        return self.notebook.cells

    @property
    def code(self) -> list[NotebookNode]:
        return [c for c in self.cells if c.cell_type == "code"]

    @property
    def prose(self) -> list[NotebookNode]:
        return [c for c in self.cells if c.cell_type == "markdown"]

    @property
    def teaches(self) -> bool:
        """Lesson 00 shows around; from 01 on a lesson has figures and exercises."""
        return self.number != "00"


def notebook_paths() -> list[Path]:
    return sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def load_lessons() -> list[Lesson]:
    """Every lesson that has a notebook."""
    notebooks = {p.name[:2]: nbformat.read(p, as_version=4) for p in notebook_paths()}
    table = REPOSITORY / "data" / "glossary.csv"
    glossary = list(csv.DictReader(table.open(encoding="utf-8"))) if table.exists() else []
    lessons = []
    for path in notebook_paths():
        number = path.name[:2]
        bank = [m for m in bank_modules() if m.__name__.endswith(f"lesson_{number}")]
        quiz = REPOSITORY / "data" / "quizzes" / f"{number}.json"
        interview = REPOSITORY / "data" / "interview" / f"{number}.yaml"
        lessons.append(
            Lesson(
                number,
                notebooks[number],
                size=path.stat().st_size,
                exercises=[e for m in bank for e in m.EXERCISES],
                claims=[c for m in bank for c in getattr(m, "CLAIMS", [])],
                quiz=json.loads(quiz.read_text(encoding="utf-8")) if quiz.exists() else [],
                interview=yaml.safe_load(interview.read_text(encoding="utf-8"))
                if interview.exists()
                else [],
                glossary=glossary,
                others=notebooks,
            )
        )
    return lessons


# --- Reading a notebook --------------------------------------------------------------------------


def where(cell: NotebookNode) -> str:
    first = next((line for line in cell.source.splitlines() if line.strip()), "")
    return f"cell '{cell.metadata.get('name') or first[:60]}'"


def course(cell: NotebookNode, key: str) -> str:
    return cell.metadata.get("course", {}).get(key, "")


def tree(cell: NotebookNode) -> ast.Module:
    """The cell's syntax tree; an empty one where it is not plain Python."""
    try:
        return ast.parse(cell.source)
    except SyntaxError:
        return ast.parse("")


def called(node: ast.AST) -> str:
    """The name that a call calls: "solution" for solution(...), "show" for style.show(...)."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def calls(cell: NotebookNode, name: str) -> list[ast.Call]:
    return [node for node in ast.walk(tree(cell)) if called(node) == name]


def first_argument(call: ast.Call) -> str | None:
    value = call.args[0] if call.args else None
    return value.value if isinstance(value, ast.Constant) else None


def exercise_definitions(cell: NotebookNode) -> Iterator[tuple[str, ast.AST]]:
    """(id, def or class) for each `@exercise("id")`."""
    for node in ast.walk(tree(cell)):
        for decorator in getattr(node, "decorator_list", []):
            if called(decorator) == "exercise" and first_argument(decorator):
                yield first_argument(decorator), node


def outputs(cell: NotebookNode) -> list[NotebookNode]:
    return cell.get("outputs", [])


def is_picture(output: NotebookNode) -> bool:
    data = output.get("data", {})
    return any(k.startswith("image/") for k in data) or "<svg" in data.get("text/html", "")


def has_figure(cell: NotebookNode) -> bool:
    return any(is_picture(o) for o in outputs(cell)) and not is_house(cell)


def has_text(cell: NotebookNode) -> bool:
    """Does the cell print or return something to read (figures and their reprs are not)?"""
    return any(t.strip() for o in outputs(cell) if not is_picture(o) for t in output_texts(o))


def has_number(cell: NotebookNode) -> bool:
    texts = [t for o in outputs(cell) if not is_picture(o) for t in output_texts(o)]
    return any(re.search(r"\d", t) for t in texts)


def is_house(cell: NotebookNode) -> bool:
    """Does the cell only greet, ask or unfold (start, exercise, solution, quiz, …)?"""
    done = {called(s.value) for s in tree(cell).body if isinstance(s, ast.Expr)} - {""}
    if any(True for _ in exercise_definitions(cell)):
        done.add("exercise")
    return bool(done) and done <= HOUSE


def is_compared(cell: NotebookNode) -> bool:
    tags = cell.metadata.get("tags", [])
    return cell.execution_count is not None and "nbval-ignore-output" not in tags


def blocks(markdown: str) -> list[tuple[str, str]]:
    """Markdown as (kind, text): heading, quote, list, table, code, formula, html or plain."""
    found: list[tuple[str, str]] = []
    markdown = re.sub(r"(?ms)^(```|~~~).*?^\1[ \t]*$", "\n\n```\n\n", markdown)
    markdown = re.sub(r"(?s)\$\$.*?\$\$", "\n\n$$\n\n", markdown)
    for text in re.split(r"\n[ \t]*\n", markdown):
        text = text.strip()
        while text.startswith("#"):  # a heading may stand right above its text
            head, _, text = text.partition("\n")
            found.append(("heading", head))
            text = text.strip()
        if not text:
            continue
        kinds = {">": "quote", "|": "table", "`": "code", "$": "formula", "<": "html"}
        kind = kinds.get(text[0], "plain")
        if kind == "code" and not text.startswith("```") or kind == "formula" and text != "$$":
            kind = "plain"
        found.append(("list" if re.match(r"([-*+]|\d+\.) ", text) else kind, text))
    return found


def words(text: str) -> int:
    """Words of a paragraph; a formula counts as one."""
    return len(re.sub(r"\$[^$]+\$", "formula", text).split())


def without_code(markdown: str) -> str:
    """Markdown without fenced code, code spans and formulas."""
    markdown = re.sub(r"(?ms)^(```|~~~).*?^\1[ \t]*$", "", markdown)
    return re.sub(r"(?s)\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]*`", "", markdown)


def objectives(lesson: Lesson) -> list[str]:
    """The items of the first list that stands before the first code cell."""
    for cell in lesson.cells:
        if cell.cell_type == "code":
            break
        for kind, text in blocks(cell.source):
            if kind == "list":
                return re.findall(r"(?m)^(?:[-*+]|\d+\.) .+", text)
    return []


# --- Run, stored, compared -----------------------------------------------------------------------


def runs_in_order(lesson: Lesson) -> list[str]:
    """Every code cell has run, once, from top to bottom."""
    problems = []
    for expected, cell in enumerate(lesson.code, start=1):
        if not cell.source.strip():
            problems.append("there is an empty code cell")
        elif cell.execution_count is None:
            problems.append(f"{where(cell)} has not run")
        elif cell.execution_count != expected:
            problems.append(f"{where(cell)} ran as number {cell.execution_count}, not {expected}")
    return problems


def no_stored_error(lesson: Lesson) -> list[str]:
    errors = [
        f"{where(cell)} stores an error"
        for cell in lesson.code
        if any(o.output_type == "error" for o in outputs(cell))
    ]
    return errors + [
        f"{where(cell)} stores red text of a library"
        for cell in lesson.code
        if any(o.output_type == "stream" and o.name == "stderr" for o in outputs(cell))
    ]


def mostly_compared(lesson: Lesson) -> list[str]:
    """At least 60 % of the cells that show text are compared: of all, and of those with results."""
    problems = []
    text_cells = [c for c in lesson.code if has_text(c)]
    for what, cells in (
        ("cells with text", text_cells),
        ("cells with results", [c for c in text_cells if not is_house(c)]),
    ):
        compared = sum(is_compared(c) for c in cells)
        if cells and compared < COMPARED_SHARE * len(cells):
            problems.append(f"only {compared} of {len(cells)} {what} are compared")
    return problems


def uncompared_says_why(lesson: Lesson) -> list[str]:
    problems = []
    for cell in lesson.code:
        tags = cell.metadata.get("tags", [])
        ignored, reason = "nbval-ignore-output" in tags, course(cell, "reason")
        if ignored and len(reason) < 10:
            problems.append(f"{where(cell)} is not compared and gives no course.reason")
        if reason and not ignored:
            problems.append(f"{where(cell)} gives a reason but is compared")
        for tag in {"nbval-skip", "raises-exception", "nbval-raises-exception"} & set(tags):
            problems.append(f"{where(cell)} has the tag {tag}")
        if re.search(r"(?m)^\s*#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source):
            problems.append(f"{where(cell)} steers nbval by a comment; use a tag")
    return problems


def no_machine_in_it(lesson: Lesson) -> list[str]:
    """No path and no memory address of the machine that rendered."""
    problems = []
    for cell in lesson.cells:
        texts = [cell.source] + [t for o in outputs(cell) for t in output_texts(o)]
        for text in texts:
            hit = MACHINE_PATH.search(text) or ADDRESS.search(text)
            if hit:
                problems.append(f"{where(cell)} names the machine: {hit.group()}")
    return problems


def is_normalised(lesson: Lesson) -> list[str]:
    """The notebook comes out of `course.py render`: kernel, ids, no widget state, no junk."""
    problems = []
    if lesson.notebook.metadata.get("kernelspec", {}).get("name") != "course-cpu":
        problems.append("the kernel is not course-cpu")
    for junk in set(lesson.notebook.metadata) - {"kernelspec", "language_info", "course", "title"}:
        problems.append(f"the notebook's metadata holds {junk!r}; render it")
    if "version" in lesson.notebook.metadata.get("language_info", {}):
        problems.append("the notebook names a Python version; render it")
    for cell in lesson.cells:
        if cell.metadata.get("name") and cell.get("id") != cell.metadata.name:
            problems.append(f"{where(cell)} has another id than its name; render it")
    return problems


# --- Size and form -------------------------------------------------------------------------------


def is_small(lesson: Lesson) -> list[str]:
    if lesson.size >= NOTEBOOK_BYTES:
        return [f"the notebook has {lesson.size / 1e6:.2f} MB; limit {NOTEBOOK_BYTES / 1e6} MB"]
    return []


def plain_python(lesson: Lesson) -> list[str]:
    problems = []
    for cell in lesson.code:
        try:
            ast.parse(cell.source)
        except SyntaxError:
            problems.append(f"{where(cell)} is not plain Python (no magics, no shell)")
        if cell.source.rstrip().endswith(";"):
            problems.append(f"{where(cell)} ends in ;, and nbval shows what that hides")
    return problems


def short_cells(lesson: Lesson) -> list[str]:
    problems = []
    for cell in lesson.code:
        lines = cell.source.splitlines()
        if len(lines) > CELL_LINES:
            problems.append(f"{where(cell)} has {len(lines)} lines; limit {CELL_LINES}")
        widest = max(map(len, lines), default=0)
        if widest > CELL_COLUMNS:
            problems.append(f"{where(cell)} has a line of {widest} columns; limit {CELL_COLUMNS}")
    return problems


def short_paragraphs(lesson: Lesson) -> list[str]:
    problems = []
    for cell in lesson.prose:
        row = 0
        for kind, text in blocks(cell.source):
            row = row + 1 if kind == "plain" else 0
            if row == PARAGRAPHS_IN_A_ROW + 1 and not is_frame(cell):
                problems.append(
                    f"{where(cell)} has more than {PARAGRAPHS_IN_A_ROW} paragraphs on end"
                )
            parts = {"plain": [text], "list": re.split(r"(?m)^(?=(?:[-*+]|\d+\.) )", text)}
            if kind == "quote":
                parts["quote"] = re.split(r"\n\s*>\s*\n", text)
            for part in parts.get(kind, []):
                if words(part) > PARAGRAPH_WORDS:
                    problems.append(
                        f"{where(cell)} has a paragraph of {words(part)} words; "
                        f"limit {PARAGRAPH_WORDS}: {part[:50]!r}"
                    )
    return problems


def is_frame(cell: NotebookNode) -> bool:
    """The lesson's first words (promise, minutes, what to know first) and its last."""
    return bool(re.match(r"# |## What you can now do", cell.source))


def small_figures(lesson: Lesson) -> list[str]:
    problems = []
    for cell in lesson.code:
        for output in outputs(cell):
            png = base64.b64decode(output.get("data", {}).get("image/png", ""))
            if not png:
                continue
            size = struct.unpack(">II", png[16:24])  # width and height stand in PNG's first chunk
            if size[0] > FIGURE_PIXELS[0] or size[1] > FIGURE_PIXELS[1]:
                problems.append(
                    f"{where(cell)} has a figure of {size} pixels; limit {FIGURE_PIXELS}"
                )
            if len(png) > FIGURE_BYTES:
                problems.append(f"{where(cell)} has a figure of {len(png) // 1000} kB")
    return problems


def shows_no_axes_text(lesson: Lesson) -> list[str]:
    """A cell that ends with `ax.set(…)` shows what that returns, above its figure."""
    return [
        f"{where(cell)} shows what ax.set(…) returns; let another call be the last"
        for cell in lesson.code
        for output in outputs(cell)
        if re.search(r"\bText\(\S+, \S+, '", output.get("data", {}).get("text/plain", ""))
    ]


def figures_have_alt(lesson: Lesson) -> list[str]:
    return [
        f"{where(cell)} draws a figure and has no course.alt that tells it (with its numbers)"
        for cell in lesson.code
        if has_figure(cell) and len(course(cell, "alt")) < ALT_LENGTH
    ]


def named_cells(lesson: Lesson) -> list[str]:
    """Every code cell has a name; a name is unique and can be an anchor."""
    problems, seen = [], set()
    for cell in lesson.cells:
        name = cell.metadata.get("name")
        if name is None:
            if cell.cell_type == "code":
                problems.append(f"{where(cell)} has no name")
            continue
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or len(name) > 64:
            problems.append(f"the name {name!r} is not small letters, digits and single hyphens")
        if name in seen:
            problems.append(f"two cells are called {name!r}")
        seen.add(name)
    return problems


def has_slides(lesson: Lesson) -> list[str]:
    return [
        f"{where(cell)} has no slide type"
        for cell in lesson.cells
        if cell.metadata.get("slideshow", {}).get("slide_type") not in SLIDES
    ]


def speaker_notes(lesson: Lesson) -> list[str]:
    return [
        f"{where(cell)} opens a section and has no course.speaker"
        for cell in lesson.prose
        if re.match(r"## \d", cell.source) and not course(cell, "speaker")
    ]


def plain_typography(lesson: Lesson) -> list[str]:
    """No emoji: letters, digits, mathematical signs, ASCII and the marks in use."""
    problems = []
    for cell in lesson.cells:
        text = cell.source + "".join(
            output_text
            for o in outputs(cell)
            if not is_picture(o)
            for output_text in output_texts(o)
        )
        odd = {c for c in text if not is_plain(c)}
        if odd:
            shown = ", ".join(f"{c} (U+{ord(c):04X})" for c in sorted(odd))
            problems.append(f"{where(cell)} holds {shown}")
    return problems


def is_plain(character: str) -> bool:
    if character.isascii() or character in MARKS:
        return True
    category = unicodedata.category(character)
    return (
        category[0] in "LN"
        or category == "Sm"
        or category in ("Mn", "Zs")
        and character != "\ufe0f"
    )


def links_lead_somewhere(lesson: Lesson) -> list[str]:
    problems = []
    for cell in lesson.prose:
        for target in re.findall(r"\]\(([^)\s]+)\)", without_code(cell.source)):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            path = lesson.folder / file
            if file and not path.exists():
                problems.append(f"{where(cell)} links to {file}, which does not exist")
                continue
            notebook = lesson.notebook
            if file:
                notebook = lesson.others.get(path.name[:2]) if path.suffix == ".ipynb" else None
            if anchor and notebook is not None and not has_anchor(notebook, anchor):
                problems.append(f"{where(cell)} links to #{anchor}, which does not exist")
    return problems


def has_anchor(notebook: NotebookNode, anchor: str) -> bool:
    """A cell's id or name, or a heading as JupyterLab writes it (blanks become hyphens)."""
    anchor = anchor.removeprefix("cell-id=")
    names = {c.metadata.get("name") for c in notebook.cells} | {c.get("id") for c in notebook.cells}
    heads = [
        text.lstrip("# ")
        for c in notebook.cells
        if c.cell_type == "markdown"
        for kind, text in blocks(c.source)
        if kind == "heading"
    ]
    return anchor in names or anchor in {h.replace(" ", "-") for h in heads}


# --- What a lesson has ---------------------------------------------------------------------------


def opens_well(lesson: Lesson) -> list[str]:
    """Title, minutes to read and to run, three to five objectives, and a cold open."""
    problems = []
    first = lesson.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        return ["the first cell is not a title (`# …`)"]
    opening = first.source
    for cell in lesson.cells[1:]:
        if cell.cell_type == "code":
            break
        opening += "\n\n" + cell.source
    for verb in ("read", "run"):
        if not re.search(rf"\d+[^.\d]{{0,25}}\b{verb}|\b{verb}\w*[^.\d]{{0,25}}\d+", opening):
            problems.append(f"the title cell does not say how many minutes it takes to {verb}")
    if not 3 <= len(objectives(lesson)) <= 5:
        problems.append(f"the lesson opens with {len(objectives(lesson))} objectives; write 3 to 5")
    shown = [c for c in lesson.code[:3] if has_figure(c) or has_number(c) and not is_house(c)]
    if not shown:
        problems.append("none of the first three code cells shows a picture or a number")
    return problems


def enough_figures(lesson: Lesson) -> list[str]:
    figures = sum(has_figure(c) for c in lesson.code)
    wanted = max(3, len(objectives(lesson)))
    if lesson.teaches and figures < wanted:
        return [f"the lesson has {figures} figures; at least {wanted} (3, and one an objective)"]
    return []


def exercises_match_bank(lesson: Lesson) -> list[str]:
    """The notebook asks exactly the bank's exercises, each in the bank's words, solution below."""
    problems = []
    bank = {e.id: e for e in lesson.exercises}
    asked: list[str] = []
    for cell, after in zip(lesson.code, [*lesson.code[1:], None], strict=True):
        for id_, definition in exercise_definitions(cell):
            asked.append(id_)
            if id_ not in bank:
                problems.append(f"{where(cell)} asks {id_}, which is not in the lesson's bank")
            elif bank[id_].kind == "code":
                problems += stub_differs(id_, definition, bank[id_].stub)
            if after is None or id_ not in map(first_argument, calls(after, "solution")):
                problems.append(f'the code cell after {id_} is not solution("{id_}")')
        for call in calls(cell, "solution"):
            id_ = first_argument(call)
            if id_ in bank and bank[id_].kind == "open":
                asked.append(id_)
    for id_ in bank:
        if asked.count(id_) != 1:
            problems.append(f"{id_} of the bank is asked {asked.count(id_)} times")
    kinds = [e.kind for e in lesson.exercises]
    if lesson.teaches and (kinds.count("code") < 4 or "open" not in kinds):
        problems.append("a lesson has at least four exercises with code and one open one")
    return problems


def stub_differs(id_: str, cell_definition: ast.AST, stub: Callable) -> list[str]:
    """Signature and docstring of the notebook's stub against the bank's; each method's too."""
    bank_definition = ast.parse(textwrap.dedent(inspect.getsource(stub))).body[0]
    if contract(cell_definition) != contract(bank_definition):
        return [f"{id_}: signature or docstring in the notebook is not the bank's"]
    return []


def contract(definition: ast.AST) -> list:
    own = [ast.get_docstring(definition)]
    if isinstance(definition, ast.ClassDef):
        methods = [n for n in definition.body if isinstance(n, ast.FunctionDef)]
        return (
            own
            + [ast.unparse(b) for b in definition.bases]
            + [[m.name, contract(m)] for m in methods]
        )
    return own + [ast.unparse(definition.args)]


def claims_are_measured(lesson: Lesson) -> list[str]:
    """A box, a measurement, a verdict computed from it; never a typed one."""
    problems = []
    known = {c.id for c in lesson.claims}
    typed = typed_names(lesson)
    checked: list[str] = []
    for cell in lesson.code:
        for call in calls(cell, "claim_check"):
            id_ = first_argument(call)
            checked.append(id_)
            if id_ not in known:
                problems.append(f"{where(cell)} checks {id_}, which is not in the lesson's CLAIMS")
            problems += [f"{where(cell)}: {p}" for p in unmeasured(call, typed)]
            if not is_compared(cell):
                problems.append(f"{where(cell)} is not compared: a verdict must be")
    problems += [f"{id_} of CLAIMS is never checked" for id_ in known - set(checked)]
    for i, cell in enumerate(lesson.cells):
        if cell.cell_type != "markdown":
            continue
        if re.search(r"(?m)^\*\*Claim check\.\*\*", cell.source):
            problems.append(f"{where(cell)}: a claim check is a blockquote")
        if re.search(r"(?m)^> \*\*Claim check\.\*\*", cell.source):
            if not any(calls(c, "claim_check") for c in until_next_section(lesson.cells[i + 1 :])):
                problems.append(f"{where(cell)} is not followed by claim_check(…)")
    return problems


def until_next_section(cells: list[NotebookNode]) -> list[NotebookNode]:
    """The code cells before the next section or the next claim check."""
    found = []
    for cell in cells:
        if re.search(r"(?m)^## |^> \*\*Claim check", cell.source) and cell.cell_type == "markdown":
            break
        if cell.cell_type == "code":
            found.append(cell)
    return found


def unmeasured(call: ast.Call, typed: set[str]) -> list[str]:
    """What is wrong with a claim_check call: arguments that were typed instead of measured."""
    problems = []
    if len(call.args) != 1 or not call.keywords:
        problems.append("claim_check takes the id, then measurements by keyword")
    measured = 0
    for keyword in call.keywords:
        names = names_in(keyword.value)
        if not names:
            problems.append(f"claim_check gets a typed value for {keyword.arg}")
        measured += bool(names - typed)
    if call.keywords and not measured and not problems:
        problems.append("claim_check gets only values that were typed in a cell above")
    return problems


def names_in(node: ast.AST) -> set[str]:
    """Variables that an expression uses; the names of functions it calls are not among them."""
    functions = {id(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
    used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and id(n) not in functions}
    own = {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and hasattr(n.func, "id")}
    return used | (own - set(dir(builtins)) if not used else set())


def typed_names(lesson: Lesson) -> set[str]:
    """Names that no cell ever gives anything but a literal; modules measure nothing either."""
    values: dict[str, list[bool]] = {}
    for cell in lesson.code:
        for node in ast.walk(tree(cell)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    values.setdefault(alias.asname or alias.name.split(".")[0], [])
                continue
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                computed = any(isinstance(n, ast.Name | ast.Call) for n in ast.walk(node.value))
            elif isinstance(node, ast.For | ast.comprehension):
                targets, computed = [node.target], True
            elif isinstance(node, ast.With):
                targets, computed = [i.optional_vars for i in node.items if i.optional_vars], True
            elif isinstance(node, ast.NamedExpr):
                targets, computed = [node.target], True
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                values.setdefault(node.name, []).append(True)
                continue
            else:
                continue
            for target in targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        values.setdefault(name.id, []).append(computed)
    return {name for name, computed in values.items() if not any(computed)}


VERDICT = re.compile(
    r"(?i)\bverdict\b|\bdoes(n't| not) hold\b|\bclaim (is |was )?(true|false|wrong|holds)\b"
)


def no_typed_verdict(lesson: Lesson) -> list[str]:
    problems = []
    for cell in lesson.code:
        for node in ast.walk(tree(cell)):
            if called(node) in ("print", "display", "Markdown", "HTML"):
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and VERDICT.search(str(part.value)):
                        problems.append(
                            f"{where(cell)} prints a verdict that claim_check should compute"
                        )
        texts = "\n".join(t for o in outputs(cell) for t in output_texts(o))
        if re.search(r"(?m)^Verdict ", texts) and not calls(cell, "claim_check"):
            problems.append(f"{where(cell)} shows a verdict without claim_check")
    for cell in lesson.prose:
        if re.search(r"\*\*Verdict\b", cell.source):
            problems.append(f"{where(cell)} types a verdict; claim_check computes it")
    return problems


def has_quiz_and_interview(lesson: Lesson) -> list[str]:
    problems = []
    for name in ("quiz", "interview"):
        asked = [first_argument(call) for cell in lesson.code for call in calls(cell, name)]
        if lesson.teaches and lesson.number not in asked:
            problems.append(f'there is no cell {name}("{lesson.number}")')
        problems += [
            f"{name}({a!r}) belongs to another lesson" for a in asked if a != lesson.number
        ]
    return problems


def proof_cell(lesson: Lesson, proof: str) -> NotebookNode | None:
    number, _, name = str(proof).partition("#")
    notebook = lesson.notebook if number == lesson.number else lesson.others.get(number)
    cells = notebook.cells if notebook is not None else []
    return next((c for c in cells if c.metadata.get("name") == name and name), None)


def quiz_is_whole(lesson: Lesson) -> list[str]:
    """Every option explained, one right answer, 1 or 2 questions an objective, each proven."""
    problems, ids = [], [q.get("id", "?") for q in lesson.quiz]
    problems += [f"two questions are called {i}" for i in {i for i in ids if ids.count(i) > 1}]
    if not lesson.quiz and not lesson.teaches:
        return problems
    for question in lesson.quiz:
        id_, answers = question.get("id", "?"), question.get("answers", [])
        if not id_.startswith(f"{lesson.number}/"):
            problems.append(f"{id_} does not start with {lesson.number}/")
        right = sum(bool(a.get("correct")) for a in answers)
        if len(answers) < 2 or right < 1 or right > 1 and question["type"] == "multiple_choice":
            problems.append(f"{id_} has {right} right answers of {len(answers)}")
        if not all(a.get("feedback", "").strip() for a in answers):
            problems.append(f"{id_} has an option that is not explained")
        if proof_cell(lesson, question.get("proof", "")) is None:
            problems.append(f"{id_}: its proof {question.get('proof')!r} is no cell")
    about = [q.get("objective") for q in lesson.quiz]
    for n in range(1, len(objectives(lesson)) + 1):
        if about.count(n) not in (1, 2):
            problems.append(f"objective {n} has {about.count(n)} quiz questions; write 1 or 2")
    problems += [f"there is no objective {n}" for n in set(about) - set(range(1, 6))]
    return problems


def interview_is_whole(lesson: Lesson) -> list[str]:
    """Every question has all its parts, and a cell that proves the answer."""
    problems = []
    for item in lesson.interview:
        id_ = item.get("id", "?")
        for key in (
            "topic",
            "level",
            "question",
            "answer",
            "points",
            "wrong",
            "follow_ups",
            "proof",
        ):
            if not item.get(key):
                problems.append(f"interview {id_} has no {key}")
        for key in ("question", "answer"):
            if not dict(item.get(key) or {}).get("en"):
                problems.append(f"interview {id_} has no {key} in English")
        spoken = len(dict(item.get("answer") or {}).get("en", "").split())
        if spoken > ANSWER_WORDS:
            problems.append(f"interview {id_}: {spoken} words are not spoken in 30 seconds")
        if not {"answer", "why"} <= set(item.get("wrong") or {}):
            problems.append(f"interview {id_}: the usual wrong answer needs an answer and a why")
        if item.get("level") not in ("junior", "mid", "senior"):
            problems.append(f"interview {id_}: the level is {item.get('level')!r}")
        cell = proof_cell(lesson, item.get("proof", ""))
        if cell is None:
            problems.append(f"interview {id_}: its proof {item.get('proof')!r} is no cell")
        elif not proves(cell):
            problems.append(f"interview {id_}: {where(cell)} neither asserts nor measures anything")
    return problems


def proves(cell: NotebookNode) -> bool:
    """An assert, an exercise, a claim check, or a measurement that is stored."""
    if cell.cell_type != "code":
        return False
    if any(isinstance(n, ast.Assert) for n in ast.walk(tree(cell))) or calls(cell, "claim_check"):
        return True
    if any(True for _ in exercise_definitions(cell)):
        return True
    return has_figure(cell) or has_number(cell) and not is_house(cell)


def bold_terms(lesson: Lesson) -> list[tuple[str, NotebookNode]]:
    """Bold text that is a new term: no lead of a box, no heading or table, no end in . or :"""
    found = []
    for cell in lesson.prose:
        for kind, text in blocks(without_code(cell.source)):
            if kind in ("heading", "table", "code", "html"):
                continue
            text = re.sub(r"(?m)^(?:>\s*)+\*\*[^*]+\*\*", "", text)
            for bold in re.findall(r"\*\*([^*]+)\*\*", text):
                if bold.rstrip()[-1] not in ".:" and not bold.startswith("Your turn"):
                    found.append((" ".join(bold.split()), cell))
    return found


def terms_in_glossary(lesson: Lesson) -> list[str]:
    """A bold term is in the glossary, and bold once; a lesson's rows occur in the lesson."""
    problems, seen = [], set()
    known = {
        r[key].strip().casefold()
        for r in lesson.glossary
        for key in ("term", "abbreviation")
        if r[key]
    }
    for term, cell in bold_terms(lesson):
        key = term.casefold()
        if key not in known and key.removesuffix("s") not in known:
            problems.append(f"{where(cell)}: the bold term {term!r} is not in data/glossary.csv")
        if key in seen:
            problems.append(f"{where(cell)}: {term!r} is bold a second time")
        seen.add(key)
    text = " ".join(" ".join(c.source for c in lesson.prose).replace("*", "").split()).casefold()
    for row in lesson.glossary:
        if row["lesson"].strip().zfill(2) == lesson.number and row["term"].casefold() not in text:
            problems.append(
                f"the glossary's {row['term']!r} does not occur in lesson {lesson.number}"
            )
    return problems


GUARDS: list[Callable[[Lesson], list[str]]] = [
    runs_in_order,
    no_stored_error,
    mostly_compared,
    uncompared_says_why,
    no_machine_in_it,
    is_normalised,
    is_small,
    plain_python,
    short_cells,
    short_paragraphs,
    small_figures,
    shows_no_axes_text,
    figures_have_alt,
    named_cells,
    has_slides,
    speaker_notes,
    plain_typography,
    links_lead_somewhere,
    opens_well,
    enough_figures,
    exercises_match_bank,
    claims_are_measured,
    no_typed_verdict,
    has_quiz_and_interview,
    quiz_is_whole,
    interview_is_whole,
    terms_in_glossary,
]
