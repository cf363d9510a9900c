"""The benchmark: the same texts and threads for every row, and figures that say what they count."""

import dataclasses
import json
import math
import os
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from course_utils import benchmark, measuring, out_of_scope
from course_utils.baselines import TfidfClassifier
from course_utils.benchmark import Benchmark, Entry, Figure, Protocol, Queries, Row, wilson
from course_utils.classroom.style import COLOR, table

LABELS = ("card", "transfer", "trip", "out_of_scope")
OOS = 3

# A classifier in a module of its own, as a reader would write it. A text is "right:said:sure:n":
# it answers `said`, with a logit of `sure`.
TOY = """
import json, os
from pathlib import Path
import numpy as np

class Toy:
    labels = ["card", "transfer", "trip", "out_of_scope"]

    def __init__(self, log=None, name="", ballast=0, dies=False):
        if dies:
            print("no strength left", flush=True)
            os._exit(3)
        self.log, self.name = log, name
        self.ballast = np.ones(ballast * 2**17)  # MiB
        print("what a library prints while it loads")

    @classmethod
    def load(cls, folder, **options):
        if (Path(folder) / "broken").exists():
            raise ValueError("these weights are of another model")
        return cls(**options)

    def logits(self, texts):
        if self.log:
            with open(self.log, "a") as file:
                line = {"row": self.name, "texts": texts, "threads": os.environ["OMP_NUM_THREADS"]}
                file.write(json.dumps(line | {"process": os.getpid()}) + "\\n")
        found = np.zeros((len(texts), len(self.labels)))
        for i, text in enumerate(texts):
            _, said, sure, _ = text.split(":")
            found[i, int(said)] = float(sure)
        return found
"""
exec(TOY, toy := {})
Toy = toy["Toy"]


def texts_of(kinds, seed):
    """(right, said, sure, how many) → pairs of text and label, in a random but fixed order."""
    rows = [(f"{r}:{s}:{sure}", r) for r, s, sure, many in kinds for _ in range(many)]
    order = np.random.default_rng(seed).permutation(len(rows))
    return tuple((f"{rows[j][0]}:{seed}{i}", rows[j][1]) for i, j in enumerate(order))


# in scope 90 of 100 right, 8 of these hesitantly; out of scope 20 of 50, 15 more only hesitant
TEST = [(0, 0, 9, 50), (1, 1, 9, 32), (2, 2, 2, 8), (2, 1, 9, 10), (3, 3, 9, 20), (3, 0, 1, 15)]
TEST += [(3, 1, 9, 15)]
VALIDATION = [(0, 0, 9, 50), (1, 1, 8, 49), (2, 2, 1.5, 1), (3, 3, 9, 5)]


def queries(test=TEST, validation=VALIDATION):
    return Queries("toys", LABELS, texts_of(validation, 1), texts_of(test, 2))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))


def board_of(protocol=None, **kinds):
    return Benchmark(queries(**kinds), protocol or Protocol(rounds=1, latency_texts=3))


class Skilled(Toy):
    """Right on every in-scope test text but the first `wrong`, and sure of it."""

    def __init__(self, wrong=0):
        super().__init__()
        self.wrong = wrong

    def logits(self, texts):
        found = np.zeros((len(texts), 4))
        for i, text in enumerate(texts):
            right, _, _, number = text.split(":")
            fails = number.startswith("2") and int(number[1:]) < self.wrong
            found[i, (int(right) + fails) % 4] = 9
        return found


# --- in processes of their own --------------------------------------------------------------------

PROTOCOL = Protocol(threads=2, rounds=2, warm_up=4, latency_texts=7, throughput_texts=70)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two rows, of which one keeps 60 MiB; the log of every call; and this process is large."""
    place = tmp_path_factory.mktemp("toys")
    (place / "toy_of_a_reader.py").write_text(TOY)
    own = np.ones(200 * 2**17)  # 200 MiB of the parent's own
    entries = []
    for name, ballast in (("light", 0), ("heavy", 60)):
        (folder := place / name).mkdir()
        (folder / "weights.bin").write_bytes(bytes(5000))
        (folder / "labels.json").write_bytes(bytes(24))
        (folder / "entry.json").write_bytes(bytes(999))
        options = {"log": str(place / "log"), "name": name, "ballast": ballast}
        entries.append(Entry(name, folder, "baseline", "toy_of_a_reader:Toy.load", options))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", str(place / "cache"))
        patch.syspath_prepend(place)
        board = Benchmark(queries(), PROTOCOL, place / "table.json")
        board.run(entries, progress=False)
    assert own[0] == 1
    log = [json.loads(line) for line in (place / "log").read_text().splitlines()]
    return board, log, entries


def test_every_row_answers_the_same_texts_in_the_same_order(measured):
    _, log, _ = measured
    seen = {
        name: [call["texts"] for call in log if call["row"] == name] for name in ("light", "heavy")
    }
    assert seen["light"] == seen["heavy"]
    singles = [call for call in seen["light"] if len(call) == 1]
    assert len(singles) == 2 * (4 + 7)  # rounds · (warm-up + latency)
    timed = [len(call) for call in seen["light"][4:15]]
    assert timed == [4, *[1] * 7, 32, 32, 6]  # the warm-up's batch, one by one, in batches
    validation = {text for text, _ in queries().validation}
    assert all(call[0] in validation for call in singles[:4])
    assert not any(call[0] in validation for call in singles[4:11])
    answered = sum(map(len, seen["light"])) - 2 * (4 + 4 + 7 + 70)
    assert answered == len(queries().validation) + len(queries().test)


def test_rows_take_turns_there_and_back_again(measured):
    _, log, _ = measured
    timed = [call["row"] for call in log if len(call["texts"]) == 1]
    turns = [row for i, row in enumerate(timed) if i == 0 or timed[i - 1] != row]
    assert turns == ["light", "heavy", "light"]  # heavy's second round follows its first


def test_every_row_has_a_process_of_its_own_with_the_tables_threads(measured):
    board, log, _ = measured
    processes = {(call["row"], call["process"]) for call in log}
    assert len(processes) == 2 and os.getpid() not in {pid for _, pid in processes}
    assert {call["threads"] for call in log} == {"2"}
    assert board["light"].setting["threads"] == 2


def test_peak_memory_is_the_rows_own_and_not_the_parents(measured):
    board, _, _ = measured
    light, heavy = board["light"].memory_mib, board["heavy"].memory_mib
    assert 0 < light < 40  # the parent holds 200 MiB more
    assert heavy - light == pytest.approx(60, abs=8)
    assert 5 < board["light"].libraries_mib < 150  # numpy, no torch


def test_bytes_are_the_sizes_of_the_files_without_the_caches_stamp(measured):
    board, _, entries = measured
    assert board["light"].files == {"labels.json": 24, "weights.bin": 5000}
    assert board["light"].bytes == 5024
    chosen = dataclasses.replace(entries[0], files=["weights.bin"])
    assert list(chosen.paths()) == ["weights.bin"]
    with pytest.raises(ValueError, match="light: the folder has no file 'model.onnx'"):
        dataclasses.replace(entries[0], files=["model.onnx"]).paths()


def test_a_row_says_where_when_and_with_what_it_was_measured(measured):
    row = measured[0]["light"]
    assert row.device == "cpu" and row.versions["numpy"] == np.__version__
    assert "torch" not in row.versions and len(row.date) == 10
    assert row.setting["machine"] == benchmark.machine() and len(row.rounds_p50_ms) == 2
    assert 0 < row.p50_ms <= row.p95_ms <= row.p99_ms and row.texts_per_second > 0


def test_what_is_there_from_the_same_files_is_not_measured_again(measured, monkeypatch):
    board, _, entries = measured
    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "Child", lambda *_: pytest.fail("measured again"))
        board.run(entries, progress=False)
    changed = dataclasses.replace(entries[0], options={})
    assert board._has(entries[0]) and not board._has(changed)


def test_a_classifier_that_fails_gives_one_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_of_a_reader.py").write_text(TOY)
    (tmp_path / "broken").touch()
    entry = Entry("mine", tmp_path, loader="toy_of_a_reader:Toy.load")
    board = board_of()
    with pytest.raises(ValueError, match="mine could not be measured: .*another model"):
        board.run([entry], progress=False)
    dying = dataclasses.replace(entry, loader="toy_of_a_reader:Toy", options={"dies": True})
    with pytest.raises(ValueError, match="mine could not be measured"):
        board.run([dying], progress=False)
    with pytest.raises(ValueError, match="no_such_module"):
        board.run([dataclasses.replace(entry, loader="no_such_module:Toy")], progress=False)
    assert board.rows == {}


def test_our_own_text_classifier_is_a_row_with_the_tables_threads_in_torch(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    from course_utils.bert import BertConfig
    from course_utils.finetuning import BertForSequenceClassification, TextClassifier

    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = BertConfig(
        vocab_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=128,
    )  # fmt: skip
    model = BertForSequenceClassification(config, LABELS).eval()
    TextClassifier(model, tokenizer).save(tmp_path / "tiny")
    board = board_of(Protocol(threads=2, rounds=1, latency_texts=3, throughput_texts=8))
    board.run([Entry("tiny", tmp_path / "tiny")], progress=False)  # refuses other thread counts
    row = board["tiny"]
    assert row.versions["torch"] == torch.__version__ and row.device == "cpu"
    assert set(row.files) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert row.memory_mib > 0


# --- what counts as right -------------------------------------------------------------------------


def test_scores_by_argmax_and_by_threshold_are_those_counted_by_hand():
    board = board_of()
    board.measure(Toy(), "toy", "baseline")
    scores = board["toy"].scores
    # one in-scope validation text may be lost: the hesitant one; then the threshold is the next
    assert scores["threshold"] == pytest.approx(math.e**8 / (math.e**8 + 3), rel=1e-5)
    assert scores["in_scope_argmax"] == pytest.approx(0.90)
    assert scores["oos_recall_argmax"] == pytest.approx(20 / 50)
    assert scores["in_scope_threshold"] == pytest.approx(0.82)
    assert scores["oos_recall_threshold"] == pytest.approx(35 / 50)
    assert scores["accuracy_threshold"] == pytest.approx((82 + 35) / 150)


def test_the_threshold_is_chosen_on_validation_only():
    rows = {}
    for name, kinds in {
        "as it is": {},
        "other test": {"test": [(0, 0, 3, 40), (3, 0, 8.5, 20)]},
        "other validation": {"validation": [(0, 0, 4, 100), (3, 3, 1, 4)]},
    }.items():
        board = board_of(**kinds)
        board.measure(Toy())
        rows[name] = board["yours"].scores["threshold"]
    assert rows["as it is"] == rows["other test"]
    assert rows["as it is"] > rows["other validation"]


def test_stored_answers_give_every_metric_again():
    board = board_of()
    board.measure(Toy(), "toy")
    for metric in benchmark.METRICS:
        assert board.right("toy", metric).mean() == pytest.approx(board["toy"].scores[metric])
    assert [len(board.right("toy", m)) for m in ("accuracy_argmax", "in_scope_argmax")] == [
        150,
        100,
    ]
    with pytest.raises(ValueError, match="no metric 'f1'"):
        board.right("toy", "f1")


class Shuffled(Toy):
    labels = ["out_of_scope", "trip", "card", "transfer"]

    def logits(self, texts):
        return torch.from_numpy(super().logits(texts))[:, [3, 2, 0, 1]]


class InScopeOnly(Toy):
    labels = ["card", "transfer", "trip"]

    def logits(self, texts):
        return Toy.logits(self, [text.replace(":3:", ":0:") for text in texts])


def test_labels_are_matched_by_name_and_out_of_scope_may_be_lacking():
    board = board_of()
    for name, classifier in {"a": Toy(), "b": Shuffled(), "c": InScopeOnly()}.items():
        board.measure(classifier, name)
    assert board["a"].scores == board["b"].scores and board["a"].answers == board["b"].answers
    assert board["c"].scores["oos_recall_argmax"] == 0
    assert board["c"].scores["oos_recall_threshold"] > 0


def broken(**parts):
    return type("Broken", (Toy,), parts)()


@pytest.mark.parametrize(
    "classifier, message",
    [
        (broken(labels=["card", "trip", "out_of_scope"]), "lacks labels of the data: transfer"),
        (broken(labels=[*LABELS, "weather"]), "labels the data do not: .'weather'"),
        (broken(logits=lambda self, texts: np.zeros((len(texts), 3))), r"\(texts, labels\) is"),
        (broken(logits=lambda self, texts: np.full((len(texts), 4), np.nan)), "not a finite"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(classifier, message):
    board = board_of()
    with pytest.raises(ValueError, match=message):
        board.measure(classifier)
    assert board.rows == {}


def test_a_row_that_takes_more_cores_than_it_may_is_refused():
    board = board_of(Protocol(threads=1))
    alone = {"seconds": 2.0, "cores_used": 1.02}
    assert board._fair("onnx", alone) is alone
    with pytest.raises(ValueError, match="onnx used 3.9 cores where 1 thread is allowed"):
        board._fair("onnx", {"seconds": 2.0, "cores_used": 3.9})


def test_a_live_classifier_is_measured_here_and_says_that_it_has_no_memory():
    before = torch.get_num_threads()
    seen = []

    class Watching(Toy):
        def logits(self, texts):
            seen.append(torch.get_num_threads())
            return super().logits(texts)

        def save(self, folder):
            with open(os.path.join(folder, "all.bin"), "wb") as file:
                file.write(bytes(77))

    board = board_of(Protocol(threads=before + 1, rounds=1, latency_texts=3))
    board.measure(Watching())
    assert set(seen) == {before + 1} and torch.get_num_threads() == before
    row = board["yours"]
    assert row.memory_mib is None and row.files == {"all.bin": 77}
    assert "yours: measured in the notebook's own process: no peak memory." in board.markdown()
    assert board.columns()["memory, MiB"] == [None]


def test_latency_is_the_median_over_rounds_of_each_rounds_percentile(monkeypatch):
    rounds = iter([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [2.0, 4.0, 6.0]])

    def fake(self):
        return {
            "latency_ms": next(rounds), "texts_per_second": 5.0, "seconds": 0.1,
            "cores_used": 1.0, "yardstick_ms": 1.0,
        }  # fmt: skip

    monkeypatch.setattr(measuring.Station, "round", fake)
    board = board_of(Protocol(rounds=3))
    board.measure(Toy())
    row = board["yours"]
    assert row.rounds_p50_ms == [2.0, 20.0, 4.0] and row.p50_ms == 4.0
    assert row.p99_ms == pytest.approx(5.96)


# --- the table ------------------------------------------------------------------------------------


@pytest.fixture
def board():
    """Three rows with figures that a person chose."""
    board = board_of()
    for name, kind, wrong, p50, size, memory in (
        ("TF-IDF", "baseline", 40, 0.81234, 4 * 2**20, 9.0),
        ("MiniLM", "fine-tuned", 6, 12.3456, 90_912_620, 266.0),
        ("MiniLM int8", "quantized", 8, 4.5, 23 * 2**20, None),
    ):
        board.measure(Skilled(wrong), name, kind)
        figures = dict(p50_ms=p50, p95_ms=2 * p50, p99_ms=3 * p50, texts_per_second=1234.5 / p50)
        figures |= dict(files={"x": size}, memory_mib=memory, note="", cores_used=1.0)
        board.add(dataclasses.replace(board[name], yardstick_ms=10.0, **figures))
    return board


def test_a_table_comes_back_from_its_file(board, tmp_path):
    path = board.save(tmp_path / "table.json")
    again = Benchmark.load(path)
    assert again.rows == board.rows and again.markdown() == board.markdown()
    assert (again.right("MiniLM") == board.right("MiniLM")).all()
    assert path.stat().st_size < 9_000  # answers are packed
    with pytest.raises(ValueError, match="no file yet"):
        board.save()
    path.write_text('{"rows": 3}')
    with pytest.raises(ValueError, match="table.json is no table of a benchmark"):
        Benchmark.load(path)


def test_a_row_of_the_same_name_is_replaced_and_one_can_be_taken_out(board):
    board.measure(Skilled(0), "MiniLM")
    assert list(board.rows) == ["TF-IDF", "MiniLM", "MiniLM int8"]
    assert board["MiniLM"].scores["in_scope_argmax"] == 1
    board.remove("MiniLM")
    assert list(board.rows) == ["TF-IDF", "MiniLM int8"]
    with pytest.raises(ValueError, match="no row 'MiniLM'; there are: TF-IDF, MiniLM int8"):
        board["MiniLM"]


@pytest.mark.parametrize(
    "name, value", [("machine", "a phone"), ("threads", 4), ("data", "toys 000000000000")]
)
def test_rows_that_can_not_be_compared_are_refused(board, name, value):
    row = board["MiniLM"]
    other = dataclasses.replace(row, setting=row.setting | {name: value})
    with pytest.raises(ValueError, match=f"'MiniLM' has another {name} .*: measure it here again"):
        board.add(other)
    assert board["MiniLM"] is row


def test_a_table_of_another_machine_is_read_but_not_added_to(board, tmp_path, monkeypatch):
    path = board.save(tmp_path / "table.json")
    monkeypatch.setattr(benchmark, "machine", lambda: "a phone")
    again = Benchmark.load(path)
    assert "MiniLM" in again.markdown()
    with pytest.raises(ValueError, match="this machine has another machine .a phone."):
        again.measure(Toy())


def test_the_readers_table_grows_in_the_cache(monkeypatch):
    monkeypatch.setattr(Queries, "load", classmethod(lambda cls, name: queries()))
    protocol = Protocol(rounds=1, latency_texts=3)
    lesson06, lesson07 = (Benchmark.open("assistant", protocol) for _ in range(2))
    lesson06.measure(Toy(), "first")
    lesson07.measure(Toy(), "second")  # opened before the first was there
    assert list(Benchmark.open("assistant", protocol).rows) == ["first", "second"]
    assert Benchmark.open("assistant", Protocol(rounds=1, threads=2)).rows == {}
    lesson06.path.write_text("{ cut short")
    assert Benchmark.open("assistant", protocol).rows == {}
    assert lesson06.path.with_suffix(".damaged").exists()


def test_the_markdown_table_has_units_three_digits_and_the_best_in_bold(board):
    lines = board.markdown().splitlines()
    assert lines[0].startswith("| row | p50, ms | p95, ms | p99, ms | texts/s | disk, MiB |")
    assert lines[0].count("|") == lines[1].count("|") == lines[3].count("|")
    tfidf, minilm, int8 = ([cell.strip() for cell in line.split("|")] for line in lines[2:5])
    assert tfidf[1:6] == ["TF-IDF", "**0.812**", "**1.62**", "**2.44**", "**1,520**"]
    assert minilm[1:4] == ["MiniLM", "12.3", "24.7"] and minilm[6:8] == ["86.7", "266"]
    assert int8[7] == "–" and tfidf[7] == "**9.00**"
    best = 100 * board["MiniLM"].scores["in_scope_argmax"]
    assert minilm[8] == f"**{Figure(best)}**"
    text = board.markdown()
    for said in ("toys: 100 test texts in scope, 50 out of scope", "1 thread for every row",
                 "latency of 3 texts", "sizes of all files", "peak resident", "on validation",
                 benchmark.machine()):  # fmt: skip
        assert said in text
    assert board._repr_markdown_() == repr(board) == text


def test_the_table_says_when_the_machine_was_busy_or_slow(board):
    assert "busy" not in board.markdown() and "slower" not in board.markdown()
    board.add(dataclasses.replace(board["MiniLM"], cores_used=0.4, yardstick_ms=21.0))
    text = board.markdown()
    assert "look slower than they are: MiniLM." in text
    assert "2.1 times slower while MiniLM was measured" in text


def test_columns_go_into_the_houses_table(board):
    shown = table(board.columns("p50, ms", "disk, MiB", "memory, MiB"), best="memory, MiB:min")
    assert shown.header == ["row", "p50, ms", "disk, MiB", "memory, MiB"]
    assert shown.rows[1] == ["MiniLM", "12.3", "86.7", "266"] and shown.rows[2][3] == "–"
    assert shown.best == 0 and shown.numeric[1:] == [True] * 3
    with pytest.raises(ValueError, match="no column 'speed'; there are: row; p50, ms"):
        board.columns("speed")


@pytest.mark.parametrize(
    "value, text",
    [(0.95449, "0.954"), (12.345, "12.3"), (9.996, "10.0"), (1234.5, "1,230"), (100, "100"),
     (0, "0"), (-0.0123456, "-0.0123")],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value, text):
    assert f"{Figure(value):,.5f}" == str(Figure(value)) == text


# --- figure ---------------------------------------------------------------------------------------


def test_the_scatter_shows_latency_accuracy_bytes_and_kind(board):
    fig, ax = plt.subplots(figsize=(6.5, 3.6))
    board.scatter(ax)
    circles = {tuple(np.round(c.get_offsets()[0], 3)): c for c in ax.collections}
    areas = {}
    for name, row in board.rows.items():
        at = (round(row.p50_ms, 3), round(100 * row.scores["in_scope_argmax"], 3))
        circle = circles[at]
        areas[name] = circle.get_sizes()[0]
        assert np.allclose(
            circle.get_facecolor()[0][:3], plt.matplotlib.colors.to_rgb(KINDS[row.kind])
        )
    assert ax.get_xscale() == "log" and "ms" in ax.get_xlabel() and "%" in ax.get_ylabel()
    sizes = {name: row.bytes for name, row in board.rows.items()}
    assert areas["MiniLM"] / areas["MiniLM int8"] == pytest.approx(
        sizes["MiniLM"] / sizes["MiniLM int8"]
    )
    assert {t.get_text() for t in ax.texts} == {
        "TF-IDF\n4.00 MiB", "MiniLM\n86.7 MiB", "MiniLM int8\n23.0 MiB",
    }  # fmt: skip
    low, high = board.interval("MiniLM")
    lines = [line.get_ydata() for line in ax.lines]
    assert any(np.allclose(y, [100 * low, 100 * high]) for y in lines if len(y) == 2)
    plt.close(fig)
    with pytest.raises(ValueError, match="no row to draw"):
        board_of().scatter(ax)


KINDS = benchmark.KINDS


def test_colours_are_the_courses():
    assert set(KINDS.values()) <= set(COLOR.values())
    assert KINDS["baseline"] == COLOR["baseline"] and KINDS["distilled"] == COLOR["student"]


def test_names_in_the_scatter_do_not_overlap(board):
    base = board["MiniLM"]
    for i, (name, p50) in enumerate(
        [("distilled, 3 layers", 11.9), ("pruned 50 %", 12.1), ("trimmed vocabulary", 12.6),
         ("student ONNX", 4.6), ("student ONNX int8", 4.4), ("BERT-base", 52)]
    ):  # fmt: skip
        board.add(dataclasses.replace(base, name=name, p50_ms=p50, files={"x": (i + 1) * 10**7}))
    fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained", dpi=110)
    ax.set_title("A finding")
    board.scatter(ax)
    fig.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 9
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    frame = fig.bbox
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and b.y1 <= frame.y1 for b in boxes)
    plt.close(fig)


# --- statistics -----------------------------------------------------------------------------------


def test_wilson_intervals_are_the_known_ones():
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    with pytest.raises(ValueError, match="11 of 10"):
        wilson(11, 10)


def test_the_bootstrap_gives_the_known_interval_of_a_paired_difference():
    right = np.array([True] * 600 + [False] * 400)
    assert benchmark.paired_bootstrap(right, right) == (0, 0)
    assert benchmark.paired_bootstrap(right & False, right | True) == (1, 1)
    better = right.copy()
    better[:10], better[600:630] = False, True  # 10 lost, 30 gained
    low, high = benchmark.paired_bootstrap(right, better)
    spread = 1.96 * math.sqrt((0.04 - 0.02**2) / 1000)  # of a mean of −1, 0 and 1
    assert (low, high) == pytest.approx((0.02 - spread, 0.02 + spread), abs=1.5e-3)
    # the same shares from other texts each, unpaired, would be told apart by nothing
    apart = better[np.random.default_rng(0).permutation(1000)]
    wide = benchmark.paired_bootstrap(right, apart)
    assert wide[1] - wide[0] > 3 * (high - low)
    with pytest.raises(ValueError, match="not to the same texts"):
        benchmark.paired_bootstrap(right, right[:5])


def test_the_bootstrap_over_runs_is_wider_where_runs_disagree():
    generator = np.random.default_rng(0)
    a = np.tile(generator.random(500) < 0.6, (3, 1))  # (runs, texts)
    same, apart = a.copy(), a.copy()
    wrong = np.flatnonzero(~a[0])
    same[:, wrong[:30]] = True  # each run gains 30 texts
    for run, gained in enumerate((0, 30, 60)):  # 30 on average
        apart[run, wrong[:gained]] = True
    low, high = benchmark.paired_bootstrap(a, same)
    one = benchmark.paired_bootstrap(a[0], same[0])
    assert (low, high) == pytest.approx(one, abs=3e-3)  # runs that agree add nothing
    wide = benchmark.paired_bootstrap(a, apart)
    assert wide[1] - wide[0] > 1.5 * (high - low) and wide[0] < low
    with pytest.raises(ValueError, match="not to the same texts"):
        benchmark.paired_bootstrap(a, same[:2])


def test_comparing_rows_says_better_worse_or_not_told_apart(board):
    gain = board.compare("TF-IDF", "MiniLM")
    tfidf, minilm = board.right("TF-IDF"), board.right("MiniLM")
    assert gain.difference == pytest.approx(minilm.mean() - tfidf.mean())
    assert gain.verdict == "better" and gain.only_a == 0 and gain.texts == 100
    assert board.compare("MiniLM", "TF-IDF").verdict == "worse"
    close = board.compare("MiniLM", "MiniLM int8")
    assert close.verdict == "not told apart" and close.low <= close.difference <= close.high
    assert "95 % interval" in str(gain) and "better (100 texts" in str(gain)
    assert board.compare("TF-IDF", "MiniLM") == gain  # drawn from a fixed seed


# --- bad input, baseline, command -----------------------------------------------------------------


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Protocol(rounds=0), "rounds is 0; it must be 1 or more"),
        (lambda: Entry("a"), "either a folder or a classifier"),
        (lambda: Entry("a", "/no/such/folder"), "there is no"),
        (lambda: Entry("a|b", "."), "without |"),
        (lambda: Entry("a", ".", kind="magic"), "kind 'magic' is none of baseline"),
        (lambda: Entry("a", ".", loader="course_utils"), "module:name"),
        (lambda: Entry("a", classifier=3), "labels and logits"),
        (lambda: Queries("q", ("a", "b"), (("t", 0),), (("t", 0),)), "one of them out_of_scope"),
        (lambda: Queries("q", LABELS, (), (("t", 0),)), "validation must hold"),
        (lambda: Queries("q", LABELS, (("t", 0),), (("t", 4),)), "test must hold"),
        (lambda: Queries.load("weather"), "take one of assistant"),
        (lambda: board_of().run([Entry("a", ".")] * 2), "have the same name: a, a"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_baselines_logits_are_its_probabilities_and_survive_saving(tmp_path):
    texts = ["lost my card", "card gone", "send money", "wire it", "fly to rome", "book a trip"]
    numbers = [0, 0, 1, 1, 2, 2]
    classifier = TfidfClassifier.train(texts, numbers, LABELS[:3])
    classifier.save(tmp_path / "tfidf")
    again = TfidfClassifier.from_folder(tmp_path / "tfidf")
    assert (
        again.labels == list(LABELS[:3]) and (again.logits(texts) == classifier.logits(texts)).all()
    )
    found = torch.from_numpy(again.logits(texts)).softmax(-1)
    assert np.allclose(found, again.pipeline.predict_proba(texts))
    two = TfidfClassifier.train(texts[:4], numbers[:4], LABELS[:2])
    found = torch.from_numpy(two.logits(texts)).softmax(-1)
    assert np.allclose(found, two.pipeline.predict_proba(texts))
    with pytest.raises(ValueError, match="the pipeline knows 3 of 4 labels"):
        TfidfClassifier(classifier.pipeline, LABELS)
    with pytest.raises(ValueError, match="holds no pipeline.joblib"):
        TfidfClassifier.from_folder(tmp_path)


def test_the_command_measures_a_row_and_shows_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Queries, "load", classmethod(lambda cls, name: queries()))
    monkeypatch.setattr(benchmark.Protocol, "rounds", 1)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_of_a_reader.py").write_text(TOY)
    words = ["--loader", "toy_of_a_reader:Toy.load", "--kind", "baseline"]
    benchmark.main(["measure", "toy", str(tmp_path), *words])
    assert "| toy |" in capsys.readouterr().out
    benchmark.main(["show"])
    assert "| toy |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="there is no"):
        benchmark.main(["measure", "toy", str(tmp_path / "nowhere")])


def test_rows_are_plain_data(board):
    assert isinstance(board["MiniLM"], Row)
    json.dumps(dataclasses.asdict(board["MiniLM"]))
    assert out_of_scope.auroc(torch.tensor([1.0, 0.0]), torch.tensor([0, OOS]), OOS) == 1
