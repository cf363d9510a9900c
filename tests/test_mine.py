"""A passing answer is kept, survives a restart, and carries later code; whatever else is left out.

The answers are written into cells of real kernels, as a reader writes them.
"""

import nbformat
import pytest
from nbclient import NotebookClient

from course_utils.classroom import mine
from course_utils.classroom.exercises import find_exercise

SETUP = """
import torch
from torch import nn
from course_utils import similarity
from course_utils.classroom import exercise, use_mine
"""
RIGHT = '''
SMALL = 1e-12

def length(x):
    return x.norm(dim=-1, keepdim=True) + SMALL

@exercise("start/cosine-similarity")
def my_cosine(left, right):
    """mine"""
    return (left / length(left)) @ (right / length(right)).T
'''
WRONG = """
@exercise("start/cosine-similarity")
def my_cosine(left, right):
    return left @ right.T
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(cell, cell, …) -> what each printed, in a fresh kernel whose mine/ is tmp_path/mine."""
    monkeypatch.setenv("COURSE_MINE", str(tmp_path / "mine"))
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))

    def run(*cells: str) -> list[str]:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        NotebookClient(notebook, kernel_name="course-cpu", timeout=120).execute()
        return ["".join(o.get("text", "") for o in c.outputs) for c in notebook.cells]

    return run


def test_a_passing_answer_is_kept_and_used_after_a_restart(run, tmp_path):
    _, kept, same = run(SETUP, RIGHT, "print(my_cosine.__doc__)")
    assert kept == "✓ start/cosine-similarity: 2 of 2 checks passed. Kept in mine/start.py.\n"
    assert same == "mine\n"  # the name holds the reader's function
    text = (tmp_path / "mine" / "start.py").read_text(encoding="utf-8")
    assert "SMALL = 1e-12" in text and "def length(x):" in text  # what the answer needs came along
    assert "@exercise" not in text
    assert "# ---- start/cosine-similarity · my_cosine · lesson 00 · passed 20" in text

    cell = "use_mine(); print(similarity.cosine_similarity.__doc__)"
    later = "from course_utils.similarity import cosine_similarity as c; print(c.__doc__)"
    off = "use_mine(False); print(similarity.cosine_similarity.__doc__ == 'mine')"
    _, used, imported, back = run(SETUP, cell, later, off)
    assert "blocks are yours: start/cosine-similarity." in used and used.endswith("mine\n")
    assert imported == "mine\n"
    assert back.endswith("False\n")


def test_a_wrong_answer_is_not_kept_and_the_reference_goes_on(run, tmp_path):
    _, wrong, goes_on = run(
        SETUP, WRONG, "print(my_cosine is similarity.cosine_similarity); use_mine()"
    )
    assert wrong.startswith("✗ start/cosine-similarity: That is the dot product")
    assert not (tmp_path / "mine").exists()
    assert goes_on.startswith("True\nNone of yours yet")


def test_an_answer_that_passes_no_longer_is_left_out_with_its_reason(run, tmp_path):
    run(SETUP, RIGHT)
    path = tmp_path / "mine" / "start.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("@ (right / length(right)).T", "@ right.T"), encoding="utf-8")
    _, printed = run(SETUP, "use_mine()")
    assert "None of yours yet" in printed
    assert "Left out: start/cosine-similarity: The rows of `right` still have" in printed
    path.write_text(text.replace("def my_cosine(", "def my_cosine(("), encoding="utf-8")
    _, printed = run(SETUP, "use_mine()")
    assert "Left out: start/cosine-similarity: it does not run (SyntaxError" in printed


def test_solving_again_replaces_the_block_and_leaves_the_others(run, tmp_path):
    pooling = """
@exercise("start/mean-pooling")
def my_pooling(hidden_states, attention_mask):
    mask = attention_mask[..., None]
    return (hidden_states * mask).sum(1) / mask.sum(1)
"""
    run(SETUP, RIGHT, pooling, RIGHT.replace('"""mine"""', '"""second"""'))
    text = (tmp_path / "mine" / "start.py").read_text(encoding="utf-8")
    assert text.count("# ---- ") == 2 and '"""second"""' in text and '"""mine"""' not in text
    assert text.index("start/mean-pooling") < text.index("start/cosine-similarity")


def test_what_only_the_notebook_has_is_not_kept(run, tmp_path):
    answer = """
table = {"one": torch.ones(1)}

@exercise("start/cosine-similarity")
def my_cosine(left, right):
    unit = lambda x: x / x.norm(dim=-1, keepdim=True) * table["one"]
    return unit(left) @ unit(right).T
"""
    _, printed = run(SETUP, answer)
    assert "✓" in printed and "Not kept in mine/: it uses 'table'" in printed
    assert not (tmp_path / "mine").exists()


def test_without_an_answer_every_block_is_the_reference(run, tmp_path):
    _, printed = run(SETUP, "use_mine()")
    assert printed.startswith("None of yours yet: every block is the reference.\n")


ATTENTION = '''
from course_utils.attention import fused_attention, merge_heads, split_heads
from course_utils.attention import scaled_dot_product_attention

@exercise("attention/multi-head-attention")
class MyAttention(nn.Module):
    """num_heads attentions side by side."""

    def __init__(self, hidden_size, num_heads, dropout=0.0):
        super().__init__()
        self.num_heads, self.dropout = num_heads, nn.Dropout(dropout)
        self.query, self.key, self.value, self.output = (
            nn.Linear(hidden_size, hidden_size) for _ in range(4)
        )

    def forward(self, query, key, value, mask=None, need_weights=True):
        q, k, v = (
            split_heads(layer(x), self.num_heads)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        _, weights = scaled_dot_product_attention(q, k, v, mask)
        output = self.output(merge_heads(self.dropout(weights) @ v))
        return output, weights if need_weights else None
'''


def test_the_encoder_of_lesson_02_runs_on_the_attention_written_in_lesson_01(run):
    _, kept = run(SETUP, ATTENTION)
    assert "✓ attention/multi-head-attention" in kept and "Kept in mine/attention.py" in kept
    reference = (
        "torch.manual_seed(0); x = torch.randn(2, 5, 16); from course_utils import encoder\n"
    )
    reference += "torch.manual_seed(1); theirs = encoder.Encoder(2, 16, 4, 32).eval()(x)[0]"
    mine = "use_mine(); torch.manual_seed(1); model = encoder.Encoder(2, 16, 4, 32).eval()\n"
    mine += "print(type(model.layers[0].attention).__module__)\n"
    mine += "print(torch.allclose(model(x)[0], theirs, atol=1e-5))"
    _, _, printed = run(SETUP, reference, mine)
    assert "1 of" in printed and "attention/multi-head-attention" in printed
    assert printed.endswith("mine.attention\nTrue\n")


def test_a_folder_that_can_not_be_written_to_does_not_stop_a_lesson(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_MINE", str(tmp_path / "file" / "mine"))

    def answer(left, right):
        return left @ right.T

    said = mine.save(find_exercise("start/cosine-similarity"), answer)
    assert said.startswith("Not kept in mine/: ")
