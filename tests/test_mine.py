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


def test_a_table_of_a_reference_module_is_imported_by_the_kept_answer(run, tmp_path):
    answer = RIGHT.replace("SMALL = 1e-12", "from course_utils.bert import ACTIVATIONS").replace(
        "+ SMALL", "+ 1e-12 * len(ACTIVATIONS)"
    )
    _, printed = run(SETUP, answer)
    assert "Kept in mine/start.py." in printed
    text = (tmp_path / "mine" / "start.py").read_text(encoding="utf-8")
    assert "import ACTIVATIONS" in text and "gelu_new" not in text


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


LESSON_01 = """
import math
import torch.nn.functional as F
from course_utils.attention import attention_scores, fused_attention, merge_heads, split_heads
from course_utils.attention import scaled_dot_product_attention

@exercise("attention/scores")
def my_scores(query, key):
    return torch.einsum("...qd,...kd->...qk", query, key) / math.sqrt(query.shape[-1])

@exercise("attention/padding-mask")
def my_padding_mask(attention_mask):
    return (attention_mask != 0).unsqueeze(1).unsqueeze(2)

@exercise("attention/scaled-dot-product")
def my_attention(query, key, value, mask=None):
    scores = attention_scores(query, key)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, -1)
    weights = torch.where(torch.isfinite(scores).any(-1, keepdim=True), weights, 0.0)
    return weights @ value, weights

@exercise("attention/split-heads")
def my_split(hidden_states, num_heads):
    return torch.stack(hidden_states.chunk(num_heads, -1), 1)

@exercise("attention/merge-heads")
def my_merge(per_head):
    return torch.cat(per_head.unbind(1), -1)
"""
LESSON_02 = '''
from course_utils.attention import MultiHeadAttention
from course_utils.layers import FeedForward, LayerNorm, activation_function

@exercise("encoder/gelu")
def my_gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2

@exercise("encoder/layer-norm")
class MyNorm(nn.Module):
    """mine"""

    def __init__(self, hidden_size, eps=1e-12):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))
        self.eps = eps

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        return self.weight * centred / (variance + self.eps).sqrt() + self.bias

@exercise("encoder/feed-forward")
class MyFeedForward(nn.Module):
    """mine"""

    def __init__(self, hidden_size, intermediate_size, activation="gelu", dropout=0.0):
        super().__init__()
        self.expand = nn.Linear(hidden_size, intermediate_size)
        self.contract = nn.Linear(intermediate_size, hidden_size)
        self.activation = activation_function(activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(self.contract(self.activation(self.expand(x))))

@exercise("encoder/encoder-layer")
class MyLayer(nn.Module):
    """mine"""

    def __init__(
        self, hidden_size, num_heads, intermediate_size, dropout=0.1, activation="gelu", eps=1e-12
    ):
        super().__init__()
        self.attention = MultiHeadAttention(hidden_size, num_heads, dropout)
        self.attention_norm = LayerNorm(hidden_size, eps)
        self.feed_forward = FeedForward(hidden_size, intermediate_size, activation, dropout)
        self.feed_forward_norm = LayerNorm(hidden_size, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask=None, need_weights=False):
        attended, weights = self.attention(x, x, x, mask=mask, need_weights=need_weights)
        x = self.attention_norm(self.dropout(attended) + x)
        return self.feed_forward_norm(self.feed_forward(x) + x), weights
'''
LESSON_04 = '''
from course_utils.wordpiece import WordPiece

@exercise("wordpiece/longest-match")
def my_match(word, vocab, unknown="[UNK]", max_characters=100):
    pieces, rest = [], word
    while rest and len(word) <= max_characters:
        mark = "##" if pieces else ""
        n = next((n for n in range(len(rest), 0, -1) if mark + rest[:n] in vocab), 0)
        if n == 0:
            return [unknown]
        pieces, rest = [*pieces, mark + rest[:n]], rest[n:]
    return pieces if not rest else [unknown]

@exercise("bert/embeddings")
class MyEmbeddings(nn.Module):
    """mine"""

    def __init__(self, config):
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segment = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids, token_type_ids=None):
        x = self.token(input_ids) + self.position.weight[: input_ids.shape[1]]
        x = x + (self.segment.weight[0] if token_type_ids is None else self.segment(token_type_ids))
        return self.dropout(self.norm(x))

@exercise("bert/pooler")
class MyPooler(nn.Module):
    """mine"""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states):
        return self.dense(hidden_states[:, 0, :]).tanh()
'''
REAL_BERT = """
from course_utils.bert import Bert, BertConfig
from course_utils.classroom import blocks_of
from course_utils.data.weights import pretrained_encoder
from course_utils.wordpiece import WordPiece

folder = pretrained_encoder(progress=False)
texts, pairs = ["A text and", "its pair."], ["more of it", "here, longer than that"]
batch = WordPiece.from_folder(folder)(texts, pairs)
with torch.no_grad():
    reference = Bert.from_pretrained(folder)(**batch)
"""
USED = """
bert = Bert.from_pretrained(folder)
with torch.no_grad():
    blocks_of(lambda: bert(**batch))
    output = bert(**batch)
homes = [bert.embeddings, bert.pooler, bert.encoder.layers[5], bert.encoder.layers[5].attention,
         bert.encoder.layers[5].feed_forward, bert.embeddings.norm]
print(*(type(part).__module__ for part in homes))
pairs = zip(output.hidden_states, reference.hidden_states)
print(max((a - b).abs().max() for a, b in pairs).item() < 1e-4)
"""


def test_real_weights_run_in_a_bert_made_of_the_readers_blocks(run, tmp_path):
    """Lessons 01, 02 and 04 solved: all of BERT's twelve blocks are the reader's, and it is seen
    that their code ran. Then three answers are taken away again: nine of twelve."""
    printed = run(SETUP, LESSON_01, ATTENTION, LESSON_02, LESSON_04)
    assert "".join(printed).count("✓") == 13 and "✗" not in "".join(printed)
    *_, used = run(SETUP, REAL_BERT, "use_mine()", USED)
    assert used.startswith("12 of 12 blocks of this BERT are yours: attention/scores,")
    assert "mine.bert mine.bert mine.encoder mine.attention mine.encoder mine.encoder" in used
    assert used.endswith("True\n")

    (tmp_path / "mine" / "bert.py").unlink()
    encoder = (tmp_path / "mine" / "encoder.py").read_text(encoding="utf-8")
    norm = encoder.index("# ---- encoder/layer-norm")
    end = encoder.index("# ----", norm + 1)
    (tmp_path / "mine" / "encoder.py").write_text(encoder[:norm] + encoder[end:], encoding="utf-8")
    *_, used = run(SETUP, REAL_BERT, "use_mine()", USED)
    assert used.startswith("9 of 12 blocks of this BERT are yours:")
    assert "bert/" not in used.split(".\n")[0] and used.endswith("True\n")


def test_a_block_that_is_in_place_and_not_called_does_not_count(run):
    answer = LESSON_01.split('@exercise("attention/padding-mask")')[0]
    small = "BertConfig(20, 8, 1, 2, 8)"
    call = f"use_mine(); bert = Bert({small}).eval(); ids = torch.ones(1, 3).long()\n"
    call += "blocks_of(lambda: bert(ids))\nblocks_of(lambda: bert(ids, need_weights=False))"
    *_, printed = run(SETUP, answer, REAL_BERT.split("folder =")[0], call)
    assert "1 of 11 blocks of this BERT are yours: attention/scores." in printed  # no padding mask
    assert printed.endswith("0 of 9 blocks of this BERT are yours.\n")  # the fused kernel
