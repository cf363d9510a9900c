"""bertviz's views show in JupyterLab with no network."""

import nbformat
import pytest

pytest.importorskip(
    "playwright", reason="the browser tests need playwright: pip install -e .[test]"
)

from lab import Lab, chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        chromium() is None, reason="no Chromium here: `apt-get install chromium`, or the like"
    ),
]

TOKENS = "[CLS] the cat sat [SEP]"
CELLS = [
    "import torch\n"
    "from course_utils.classroom import draw_attention\n"
    f"tokens = {TOKENS!r}.split()\n"
    "weights = torch.stack([torch.eye(5), torch.full((5, 5), 0.2)])\n"
    "weights = weights[:, None].repeat(1, 3, 1, 1)  # (layers, heads, queries, keys)",
    'draw_attention(weights, tokens, view="head_view")',
    'draw_attention(weights, tokens, view="model_view")',
]


def test_bertviz_draws_its_lines_and_answers_a_choice_offline(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    notebook.metadata.kernelspec = {"name": "course-cpu", "display_name": "Course (CPU)"}
    nbformat.write(notebook, tmp_path / "views.ipynb")
    with Lab(tmp_path, "views.ipynb", theme="dark") as lab:
        lab.run_all()
        assert lab.errors() == []
        heads = lab.cell("head_view").frame_locator("iframe")
        heads.locator("#attention").wait_for(state="attached")
        assert heads.locator("#left text").all_text_contents() == TOKENS.split()
        assert strong_lines(heads) == 3 * 5  # three heads, each token on itself
        heads.locator("#layer").select_option("1")
        assert strong_lines(heads) == 3 * 25  # layer 1 looks everywhere alike
        layers = lab.cell("model_view").frame_locator("iframe")
        layers.locator("svg line").first.wait_for(state="attached")
        assert layers.locator("svg line").count() == 2 * 3 * 25
        layers.locator("svg > g > rect:not([class])").nth(4).click()
        assert layers.locator("text.token").all_text_contents() == 2 * TOKENS.split()
        assert lab.left == [] and lab.console == []


def strong_lines(frame) -> int:
    """Lines of the head view that are drawn, whatever their colour."""
    opacity = "lines => lines.map(line => +line.getAttribute('stroke-opacity'))"
    return sum(value > 0.05 for value in frame.locator("#attention line").evaluate_all(opacity))
