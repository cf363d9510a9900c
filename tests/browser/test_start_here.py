"""Lesson 00 as a reader meets it: JupyterLab in a real browser, nothing leaving the machine."""

import io
import shutil
from pathlib import Path

import pytest

pytest.importorskip(
    "playwright", reason="the browser tests need playwright: pip install -e .[test]"
)

from lab import NOTEBOOK, Lab, chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        chromium() is None, reason="no Chromium here: `apt-get install chromium`, or the like"
    ),
]

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
MEAN_OF_EVERYTHING = """@exercise("start/mean-pooling")
def my_mean_pooling(hidden_states, attention_mask):
    return hidden_states.mean(dim=1)"""

# The contrast of an element's text with what lies behind it, by the WCAG's formula.
CONTRAST = """e => {
    const numbers = text => text.match(/[\\d.]+/g).map(Number);
    const light = rgb => rgb.slice(0, 3)
        .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    let behind = e, colour;
    do {
        colour = numbers(getComputedStyle(behind).backgroundColor);
        behind = behind.parentElement;
    }
    while (behind && colour.length === 4 && colour[3] === 0);
    const [a, b] = [light(numbers(getComputedStyle(e).color)), light(colour)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the notebooks, 00_start_here open and run from the top."""
    folder = tmp_path_factory.mktemp("reader")
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(notebook, folder)
    with Lab(folder, "00_start_here.ipynb") as lab:
        lab.run_all(timeout=300)
        yield lab


def pixels(element) -> list[tuple]:
    from PIL import Image

    picture = Image.open(io.BytesIO(element.screenshot())).convert("RGB")
    return list(picture.get_flattened_data())


def test_run_all_finishes_with_no_error_output(lab):
    code = [c for c in lab.cells() if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    assert lab.errors() == []


def test_quiz_explains_each_answer_at_a_click(lab):
    questions = lab.cell("quiz(").locator(".Quiz")
    for i in range(questions.count()):
        question = questions.nth(i)
        said = set()
        for option in question.locator("label.MCButton").all():
            option.click()
            said.add(question.locator(".Feedback").inner_text())
        assert len(said) == question.locator("label.MCButton").count() > 1, (
            "an answer says nothing new"
        )
        assert "" not in said
    right = questions.first.locator('label.MCButton[data-correct="true"]')
    right.focus()
    lab.page.keyboard.press("Enter")  # without a mouse
    assert "correct" in questions.first.locator(".Feedback").get_attribute("class").split()


def test_moving_a_slider_changes_the_figures_pixels(lab):
    cell = lab.cell('view="lines"')
    picture = cell.locator(".widget-image").first
    before = pixels(picture)
    assert len(set(before)) > 2, "the figure is blank"
    cell.locator(".widget-slider [role=slider]").last.focus()
    lab.page.keyboard.press("ArrowRight")
    lab.page.wait_for_timeout(2000)
    after = pixels(picture)
    assert len(after) == len(before), "the figure jumps"
    assert sum(a != b for a, b in zip(before, after)) > 200


def test_a_wrong_answer_is_told_what_it_did(lab):
    lab.rewrite('@exercise("start/mean-pooling")', MEAN_OF_EVERYTHING)
    outputs = lab.cells()[lab.index('@exercise("start/mean-pooling")')]["outputs"]
    said = "".join("".join(output.get("text", "")) for output in outputs)
    assert "You averaged over padding as well" in said
    assert lab.errors() == []


def test_an_interview_answers_proof_leads_to_its_cell(lab):
    cell = lab.cell("interview(")
    cell.locator("summary").first.click()
    link = cell.locator("details a").first
    name = link.get_attribute("href").removeprefix("#cell-id=")
    link.click()
    lab.page.wait_for_timeout(1500)
    find = f"{NOTEBOOK}.content.widgets.find(w => w.model.id === {name!r})"
    assert lab.page.evaluate(f"{find} !== undefined"), f"no cell has the id {name}: render 00"
    assert 0 <= lab.page.evaluate(f"{find}.node.getBoundingClientRect().top") < 800


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_texts_are_legible_in_both_themes(lab, theme):
    lab.page.evaluate(
        "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme
    )
    lab.page.wait_for_timeout(2000)
    lab.cell("quiz(").locator("label.MCButton").first.click()
    for code, parts in {
        "quiz(": ["label.MCButton", ".Feedback:not(:empty)"],
        "interview(": ["summary", "p"],
        "solution(": ["summary"],
    }.items():
        for part in parts:
            contrast = lab.cell(code).locator(part).first.evaluate(CONTRAST)
            assert contrast >= 4.5, f"{code} {part}: {contrast:.1f}"


def test_no_request_left_the_machine(lab):
    assert lab.left == []
