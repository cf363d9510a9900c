"""Each guard lets a small whole lesson pass and names what is broken in a broken one."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from guards import GUARDS, Lesson, blocks, bold_terms, is_house, proves, typed_names
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval.plugin import get_sanitize_patterns
from PIL import Image

from course_utils.classroom.claims import Claim, Verdict
from course_utils.classroom.exercises import Case, Exercise, Mistake, OpenExercise
from course_utils.classroom.render import KERNELSPEC, normalise, refusals

TESTS = Path(__file__).parent


def png(width: int = 715, height: int = 396) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def prose(source: str, name: str | None = None, **course):
    metadata = {"slideshow": {"slide_type": "slide"}} | ({"name": name} if name else {})
    return new_markdown_cell(source, metadata=metadata | ({"course": course} if course else {}))


def code(source: str, name: str, text: str = "", picture: bool = False, **course):
    outputs = [new_output("stream", name="stdout", text=text)] if text else []
    if picture:
        data = {"image/png": png(), "text/plain": "<Figure size 715x396 with 1 Axes>"}
        outputs.append(new_output("display_data", data=data))
        course = {"alt": "a line that climbs from 1 at width 1 to 32 at width 1024"} | course
    metadata = {"name": name, "slideshow": {"slide_type": "slide"}}
    return new_code_cell(
        source, outputs=outputs, metadata=metadata | ({"course": course} if course else {})
    )


def stub(query, key):
    """query (queries, d_k), key (keys, d_k) → scores (queries, keys)"""
    raise NotImplementedError("your turn")


ASKED = '''@exercise("topic/{n}")
def scores(query, key):
    """query (queries, d_k), key (keys, d_k) → scores (queries, keys)"""
    raise NotImplementedError("your turn")'''


def code_exercise(n: int) -> Exercise:
    return Exercise(
        id=f"topic/{n}",
        title="Scores",
        lesson="01",
        difficulty=1,
        minutes=5,
        reference=len,
        stub=stub,
        cases=[Case("one", lambda f: f([]))],
        hints=["a", "b"],
        mistakes=[Mistake(len, "no")] * 3,
    )


OPEN = OpenExercise("topic/open", "Open", "01", 5, 20, "task", ["hint"], ["rubric"], "answer")
CLAIM = Claim("topic/claim", "It doubles.", "somewhere", lambda r: Verdict(r > 1, ""), {}, {})
PARAGRAPH = " ".join(["word"] * 91)


def whole() -> Lesson:
    """The smallest lesson 01 that every guard accepts."""
    cells = [
        prose("# Attention\n\nYou build it. 20 minutes to read, 1 minute to run.", "title"),
        prose("## Objectives\n\n- write it\n- measure it\n- judge it"),
        code('start("01")', "setup", "Lesson 01 · attention · scale: small\n"),
        code("figure(1)", "cold-open", picture=True),
        prose("## 1 · Scores\n\nA **soft lookup** is $a + b$.", speaker="4 minutes; let them vote"),
        code("spread = measure()\nprint(spread)", "spread", "8\n"),
        code("figure(2)", "second", picture=True),
        code("figure(3)", "third", picture=True),
    ]
    for n in range(1, 5):
        cells.append(code(ASKED.replace("{n}", str(n)), f"exercise-{n}", "○ not attempted\n"))
        cells.append(code(f'solution("topic/{n}")', f"solution-{n}", "▸ folded\n"))
    cells += [
        code('solution("topic/open")', "solution-open", "▸ folded\n"),
        prose('> **Claim check.** *"It doubles."* You predict: …'),
        code(
            'claim_check("topic/claim", r=spread / 4)', "claim", "Claim    x\nVerdict  holds: y\n"
        ),
        code('quiz("01")', "quiz", "3 questions\n"),
        code('interview("01")', "interview", "1 question\n"),
    ]
    notebook = new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC})
    for n, cell in enumerate((c for c in cells if c.cell_type == "code"), start=1):
        cell.execution_count = n
    normalise(notebook)
    question = {"type": "multiple_choice", "question": "?", "proof": "01#spread"}
    options = [{"correct": True, "feedback": "yes"}, {"correct": False, "feedback": "no"}]
    return Lesson(
        "01",
        notebook,
        size=100_000,
        exercises=[*map(code_exercise, range(1, 5)), OPEN],
        claims=[CLAIM],
        quiz=[question | {"id": f"01/q{n}", "objective": n, "answers": options} for n in (1, 2, 3)],
        interview=[
            {
                "id": "01/why",
                "topic": "attention",
                "level": "junior",
                "question": {"en": "Why?"},
                "answer": {"en": "Because."},
                "points": ["a"],
                "wrong": {"answer": "no", "why": "as seen"},
                "follow_ups": ["and then?"],
                "proof": "01#spread",
            }
        ],
        glossary=[{"term": "soft lookup", "abbreviation": "", "lesson": "01"}],
        others={"01": notebook},
    )


def cell(lesson: Lesson, name: str):
    return next(c for c in lesson.cells if c.metadata.get("name") == name)


def set_source(name: str, source: str):
    return lambda lesson: cell(lesson, name).update(source=source)


def add_prose(source: str):
    return lambda lesson: lesson.cells.insert(5, prose(source))


def add_code(source: str, text: str = "", **course):
    def change(lesson):
        added = code(source, "added", text, **course)
        added.execution_count = len(lesson.code) + 1
        lesson.cells.append(added)

    return change


def tag(name: str, *tags: str, **course):
    def change(lesson):
        cell(lesson, name).metadata.update(tags=list(tags), course=course)

    return change


def move_down(name: str):
    def change(lesson):
        at = lesson.cells.index(cell(lesson, name))
        lesson.cells.insert(at + 1, lesson.cells.pop(at))

    return change


def ask_first(old: str, new: str):
    return set_source("exercise-1", ASKED.replace("{n}", "1").replace(old, new))


def claim(arguments: str, before: str = "", id_: str = "topic/claim"):
    return set_source("claim", f'{before}claim_check("{id_}", {arguments})')


def answers(**answer):
    return lambda lesson: lesson.quiz[0].update(answers=[answer, answer])


def output(name: str, new):
    return lambda lesson: cell(lesson, name).outputs.append(new)


def drop(name: str):
    def change(lesson):
        lesson.notebook.cells = [c for c in lesson.cells if c.metadata.get("name") != name]

    return change


def ignore_results(lesson):
    for one in lesson.code:
        if not is_house(one):
            one.metadata.tags = ["nbval-ignore-output"]
            one.metadata.course = {"reason": "it depends on the weather"}


ERROR = new_output("error", ename="ValueError", evalue="no", traceback=[])
RED = new_output("stream", name="stderr", text="UserWarning")
PICTURE = {"data": {"image/png": png(2000, 300)}, "output_type": "display_data", "metadata": {}}

AXES_TEXT = new_output("execute_result", data={"text/plain": "[Text(0.0, 1.0, 'Title')]"})

# guard, what is broken, part of what the guard says
BROKEN = [
    ("runs_in_order", lambda s: cell(s, "spread").update(execution_count=None), "has not run"),
    ("runs_in_order", move_down("second"), "ran as number"),
    ("runs_in_order", set_source("spread", " "), "empty code cell"),
    ("no_stored_error", output("spread", ERROR), "stores an error"),
    ("no_stored_error", output("spread", RED), "red text"),
    ("mostly_compared", ignore_results, "cells with results are compared"),
    ("uncompared_says_why", tag("spread", "nbval-ignore-output"), "no course.reason"),
    ("uncompared_says_why", tag("spread", reason="it differs by machine"), "but is compared"),
    ("uncompared_says_why", tag("spread", "nbval-skip"), "has the tag nbval-skip"),
    ("uncompared_says_why", set_source("spread", "# NBVAL_IGNORE_OUTPUT\n8"), "by a comment"),
    ("no_machine_in_it", set_source("spread", 'open("/home/ada/x")'), "/home"),
    ("no_machine_in_it", add_prose("Look into C:\\Users\\ada."), "C:\\Users"),
    ("no_machine_in_it", output("spread", new_output("stream", text="in /tmp/x1")), "/tmp"),
    ("no_machine_in_it", output("spread", new_output("stream", text="at 0x7f00aa")), "0x7f00aa"),
    ("is_normalised", lambda s: s.notebook.metadata.kernelspec.update(name="x"), "course-cpu"),
    ("is_normalised", lambda s: s.notebook.metadata.update(widgets={}), "'widgets'"),
    ("is_normalised", lambda s: s.notebook.metadata.language_info.update(version="3"), "version"),
    ("is_normalised", lambda s: cell(s, "spread").update(id="abc"), "another id"),
    ("is_small", lambda s: setattr(s, "size", 1_600_000), "1.60 MB"),
    ("plain_python", set_source("spread", "%time 8"), "not plain Python"),
    ("plain_python", set_source("spread", "spread = 8 / one;"), "ends in ;"),
    ("short_cells", set_source("spread", "spread = 8 / one\n" * 21), "21 lines"),
    ("short_cells", set_source("spread", "spread = 8 / one  # " + "x" * 90), "columns"),
    ("short_paragraphs", add_prose(PARAGRAPH), "91 words"),
    ("short_paragraphs", add_prose("> **In production.** " + PARAGRAPH), "words"),
    ("short_paragraphs", add_prose("- one\n- " + PARAGRAPH), "words"),
    ("short_paragraphs", add_prose("One.\n\nTwo.\n\nThree."), "more than 2 paragraphs"),
    ("small_figures", output("spread", nbformat.from_dict(PICTURE)), "(2000, 300)"),
    ("shows_no_axes_text", output("spread", AXES_TEXT), "ax.set(…)"),
    ("figures_have_alt", tag("second", alt="a plot"), "no course.alt"),
    ("named_cells", lambda s: cell(s, "spread").metadata.pop("name"), "no name"),
    ("named_cells", lambda s: cell(s, "second").metadata.update(name="spread"), "two cells"),
    ("named_cells", lambda s: cell(s, "second").metadata.update(name="a b"), "'a b'"),
    ("has_slides", lambda s: cell(s, "spread").metadata.pop("slideshow"), "no slide type"),
    ("speaker_notes", add_prose("## 2 · Masks\n\nText."), "no course.speaker"),
    ("plain_typography", add_prose("Well done \N{PARTY POPPER}"), "U+1F389"),
    ("plain_typography", add_prose("a zero\u200bwidth blank"), "U+200B"),
    ("links_lead_somewhere", add_prose("[next](02_nowhere.ipynb)"), "02_nowhere"),
    ("links_lead_somewhere", add_prose("[proof](#nowhere)"), "#nowhere"),
    ("opens_well", set_source("title", "Attention"), "not a title"),
    ("opens_well", set_source("title", "# Attention\n\n20 minutes to read."), "to run"),
    ("opens_well", lambda s: s.cells[1].update(source="- one\n- two"), "2 objectives"),
    ("opens_well", lambda s: [s.cells.insert(3, code("1", f"n{i}")) for i in "12"], "first three"),
    ("enough_figures", drop("third"), "2 figures"),
    ("exercises_match_bank", drop("solution-2"), "after topic/2"),
    ("exercises_match_bank", drop("exercise-2"), "topic/2 of the bank is asked 0"),
    ("exercises_match_bank", drop("solution-open"), "topic/open of the bank is asked 0"),
    ("exercises_match_bank", lambda s: s.exercises.pop(0), "not in the lesson's bank"),
    ("exercises_match_bank", lambda s: s.exercises.pop(), "one open one"),
    ("exercises_match_bank", ask_first("d_k", "width"), "docstring"),
    ("exercises_match_bank", ask_first(", key", ""), "signature"),
    ("claims_are_measured", claim("r=2.0"), "typed value"),
    ("claims_are_measured", claim("r=-float('2')"), "typed value"),
    ("claims_are_measured", claim("r=r", "r = 2.0\n"), "only values that"),
    ("claims_are_measured", claim(""), "by keyword"),
    ("claims_are_measured", claim("r=spread", id_="topic/other"), "topic/other"),
    ("claims_are_measured", tag("claim", "nbval-ignore-output"), "a verdict must be"),
    ("claims_are_measured", add_prose("**Claim check.** x"), "is a blockquote"),
    ("claims_are_measured", drop("claim"), "not followed by"),
    ("claims_are_measured", drop("claim"), "never checked"),
    ("no_typed_verdict", add_code('print("Verdict  holds: so it is")'), "prints a verdict"),
    ("no_typed_verdict", add_code('print(f"the claim is wrong: {spread}")'), "prints a verdict"),
    ("no_typed_verdict", add_code("tell()", "Verdict  holds: so it is\n"), "without claim_check"),
    ("no_typed_verdict", add_prose("**Verdict.** It holds."), "types a verdict"),
    ("has_quiz_and_interview", drop("quiz"), 'no cell quiz("01")'),
    ("has_quiz_and_interview", set_source("interview", 'interview("02")'), "another lesson"),
    ("quiz_is_whole", lambda s: s.quiz[0].update(proof="01#nowhere"), "is no cell"),
    ("quiz_is_whole", answers(correct=True), "not explained"),
    ("quiz_is_whole", answers(feedback="x"), "0 right answers"),
    ("quiz_is_whole", lambda s: s.quiz.pop(), "objective 3 has 0"),
    ("quiz_is_whole", lambda s: s.quiz[0].update(id="02/x"), "does not start"),
    ("interview_is_whole", lambda s: s.interview[0].update(proof="01#setup"), "neither asserts"),
    ("interview_is_whole", lambda s: s.interview[0].update(proof="07#x"), "is no cell"),
    ("interview_is_whole", lambda s: s.interview[0].pop("follow_ups"), "no follow_ups"),
    ("interview_is_whole", lambda s: s.interview[0].update(level="guru"), "guru"),
    ("interview_is_whole", lambda s: s.interview[0].update(answer={"en": "x " * 101}), "101 words"),
    ("interview_is_whole", lambda s: s.interview[0]["wrong"].pop("why"), "and a why"),
    ("interview_is_whole", lambda s: s.interview[0].update(answer={"zh": "x"}), "in English"),
    ("terms_in_glossary", add_prose("The **hard lookup** first."), "'hard lookup'"),
    ("terms_in_glossary", add_prose("A **soft lookup** again."), "a second time"),
    ("terms_in_glossary", lambda s: s.glossary.append(s.glossary[0] | {"term": "mask"}), "'mask'"),
]  # fmt: skip


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_a_whole_lesson_passes(guard):
    assert guard(whole()) == []


@pytest.mark.parametrize(
    "guard, change, says", BROKEN, ids=lambda part: part if isinstance(part, str) else ""
)
def test_a_broken_lesson_is_named(guard, change, says):
    lesson = whole()
    change(lesson)
    problems = next(g for g in GUARDS if g.__name__ == guard)(lesson)
    assert says in "\n".join(problems)


def test_every_guard_is_tried():
    assert {g.__name__ for g in GUARDS} == {guard for guard, _, _ in BROKEN}


def test_house_cells_can_not_fill_the_share():
    """Greetings and folded solutions are many: the share holds for the cells with results alone."""
    lesson = whole()
    assert [c.metadata.name for c in lesson.code if not is_house(c) and c.outputs] == [
        "cold-open", "spread", "second", "third", "claim",
    ]  # fmt: skip


def test_names_that_only_ever_hold_literals_are_typed():
    lesson = whole()
    add_code("import numpy as np\na = 4.0\nb = [1, 2]\nc = f()\nfor d in b: pass\ne = a + 1")(
        lesson
    )
    assert typed_names(lesson) == {"np", "a", "b"}


def test_blocks_of_markdown():
    text = (
        "# A\nplain\n\n> box\n\n- x\n- y\n\n| a |\n\n$$\nx\n\ny\n$$\n\n```\nc\n\nc\n```\n\n**b** x"
    )
    assert [k for k, _ in blocks(text)] == [
        "heading", "plain", "quote", "list", "table", "formula", "code", "plain",
    ]  # fmt: skip


def test_bold_that_is_structure_is_no_term():
    lesson = whole()
    add_prose(
        "> **In production.** a **queue** b\n\n**Sources.** x\n\n**Your turn: `a/b`** · 5 minutes"
    )(lesson)
    assert [term for term, _ in bold_terms(lesson)] == ["soft lookup", "queue"]


def test_what_proves_an_answer():
    assert proves(code("assert 1 + 1 == 2", "a"))
    assert proves(code("figure(1)", "a", picture=True))
    assert not proves(code('quiz("01")', "a", "3 questions"))
    assert not proves(prose("Believe me: 8."))


def test_render_refuses_what_must_not_be_stored():
    lesson = whole()
    assert refusals(lesson.notebook) == []
    cell(lesson, "spread").outputs = [
        RED,
        new_output("stream", text="see /work/x, 0xdeadbeef1 at 0xdeadbeef1"),
    ]
    assert len(refusals(lesson.notebook)) == 3


def test_rendering_is_stable_and_keeps_names():
    lesson = whole()
    lesson.cells[5].outputs = [
        new_output(
            "display_data",
            data={
                "application/vnd.jupyter.widget-view+json": {"model_id": "x"},
                "text/plain": "VBox()",
            },
        )
    ]
    lesson.cells[5].metadata.update(collapsed=True, scrolled=True)
    normalise(lesson.notebook)
    once = nbformat.writes(lesson.notebook)
    normalise(lesson.notebook)
    assert nbformat.writes(lesson.notebook) == once
    assert "model_id" not in once and "collapsed" not in once
    assert lesson.cells[5].id == "spread"


# --- nbval itself: an edited output is not a guard's matter but nbval's ---------------------------


def shown(kind: str, text: str, **more):
    return new_output(kind, data={"text/plain": text}, **more)


def run_nbval(path: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", path.parent,
         "--nbval", "--nbval-current-env", "--nbval-sanitize-with", TESTS / "nbval_sanitize.cfg",
         path],
        capture_output=True, text=True, cwd=path.parent,
    )  # fmt: skip


@pytest.mark.parametrize(
    "stored, passes", [("8 tokens\n", True), ("9 tokens\n", False)], ids=["as computed", "edited"]
)
def test_nbval_fails_on_an_edited_output(tmp_path, stored, passes):
    one = code("print(2 * 4, 'tokens')", "one", stored)
    one.execution_count = 1
    two = code("from ipywidgets import IntSlider\nIntSlider()", "two")
    two.outputs = [shown("execute_result", "[run this cell to move the slider]", execution_count=2)]
    three = code("from tqdm.auto import tqdm\nfor _ in tqdm([1], desc='a b'): pass", "three")
    three.outputs = [shown("display_data", "")]
    two.execution_count, three.execution_count = 2, 3
    path = tmp_path / "01_tiny.ipynb"
    nbformat.write(new_notebook(cells=[one, two, three]), path)
    result = run_nbval(path)
    assert (result.returncode == 0) == passes, result.stdout
    if not passes:
        assert "9 tokens" in result.stdout and "1 failed, 2 passed" in result.stdout


@pytest.mark.parametrize(
    "result",
    ["[0.429 0.260]", "96 % of 100%", "Linear(in_features=3)", "(2, 4, 7)", "Verdict  holds: so"],
)
def test_the_sanitizer_leaves_results_alone(result):
    for pattern, replacement in get_sanitize_patterns((TESTS / "nbval_sanitize.cfg").read_text()):
        assert re.sub(pattern, replacement, result) == result
