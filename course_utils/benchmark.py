"""Lesson 06: one table for every technique of the course: same texts, same threads, same rules.

    board = Benchmark.open("assistant")                    # grows from lesson to lesson
    board.run([Entry("MiniLM", folder, kind="fine-tuned"),
               Entry("TF-IDF", other, kind="baseline", loader=TFIDF)])
    board.markdown(), board.columns(), board.scatter(ax), board.compare("TF-IDF", "MiniLM")

Each row is measured in a fresh process, see `measuring.py`: its memory is its own, and every
library gets the same number of threads before it is imported. The rows of one run take turns, so
that a busy minute of the machine hits all of them.
"""

import argparse
import base64
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from course_utils import out_of_scope
from course_utils.baselines import TfidfClassifier as TfidfClassifier
from course_utils.charts import Circle, named_circles
from course_utils.data.cache import STAMP, cache_dir, sha256
from course_utils.measuring import MIB, Station, thread_environment

TEXT_CLASSIFIER = "course_utils.finetuning:TextClassifier.from_folder"
TFIDF = "course_utils.baselines:TfidfClassifier.from_folder"
DATA_SETS = {"assistant": "load_assistant", "clinc150": "load_clinc150"}  # in course_utils.data
OUT_OF_SCOPE = ("out_of_scope", "oos")  # what data sets call the label for everything else
KINDS = {  # kind of row → colour in the scatter; each is one of the course's colours
    "baseline": "#767676",
    "fine-tuned": "#0072B2",
    "distilled": "#D55E00",
    "quantized": "#009E73",
    "pruned": "#CC79A7",
    "trimmed": "#E69F00",
    "onnx": "#56B4E9",
    "yours": "#000000",
}
METRICS = {
    f"{part}_{rule}": (part, rule)
    for part in ("accuracy", "in_scope", "oos_recall")
    for rule in ("argmax", "threshold")
}

# --- What is measured, and how --------------------------------------------------------------------


@dataclass(frozen=True)
class Protocol:
    """How a row is measured. Rows of one table share it.

    threads           of every library
    rounds            in each, every row of a run is timed once; the median of the rounds counts
    warm_up           texts before each round, not timed; from validation
    latency_texts     timed one by one: a sample of the test texts, drawn from `seed`
    throughput_texts  timed in batches of batch_size, as they come
    """

    threads: int = 1
    rounds: int = 3
    warm_up: int = 20
    latency_texts: int = 200
    throughput_texts: int = 192
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            least = 0 if name in ("warm_up", "seed") else 1
            if value < least:
                raise ValueError(f"{name} is {value}; it must be {least} or more.")


@dataclass(frozen=True)
class Queries:
    """The texts that every row answers. Numbers count in `labels`; label `oos` is out of scope."""

    name: str
    labels: tuple[str, ...]
    validation: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        found = [name for name in self.labels if name in OUT_OF_SCOPE]
        if len(found) != 1 or len(set(self.labels)) < len(self.labels):
            raise ValueError(
                f"{self.name}: labels must be different names, and one of them "
                f"{' or '.join(OUT_OF_SCOPE)}."
            )
        for split in ("validation", "test"):
            numbers = [number for _, number in getattr(self, split)]
            if not numbers or not 0 <= min(numbers) <= max(numbers) < len(self.labels):
                raise ValueError(
                    f"{self.name}: {split} must hold (text, number of a label) pairs, the numbers "
                    f"below {len(self.labels)}."
                )

    @classmethod
    def load(cls, name: str) -> "Queries":
        """A data set of the course, by its name in DATA_SETS."""
        from course_utils import data

        if name not in DATA_SETS:
            raise ValueError(f"there are no queries {name!r}; take one of {', '.join(DATA_SETS)}.")
        found = getattr(data, DATA_SETS[name])()
        return cls(
            name,
            tuple(found["test"].features["intent"].names),
            *(tuple(zip(found[s]["text"], found[s]["intent"])) for s in ("validation", "test")),
        )

    @property
    def oos(self) -> int:
        """The number of the out-of-scope label."""
        return next(i for i, name in enumerate(self.labels) if name in OUT_OF_SCOPE)

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of all texts and labels."""
        whole = json.dumps([self.labels, self.validation, self.test])
        return hashlib.sha256(whole.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Entry:
    """Something to measure: a folder and what loads it, or a classifier that is loaded already.

    name        of the row; a row of the same name is replaced
    folder      what the loader is called with; its files are the bytes on disk
    kind        one of KINDS, for the colour
    loader      "module:Class.method", called as loader(folder, **options) in the new process
    options     keyword arguments of the loader, plain JSON
    files       names in the folder that the loader needs; without them, all but the cache's stamp
    classifier  with `labels` and `logits(texts)`, in place of a folder: measured in this process
    """

    name: str
    folder: Path | str | None = None
    kind: str = "fine-tuned"
    loader: str = TEXT_CLASSIFIER
    options: dict[str, Any] = field(default_factory=dict)
    files: Sequence[str] | None = None
    classifier: Any = None

    def __post_init__(self) -> None:
        if not self.name or "|" in self.name or "\n" in self.name:
            raise ValueError(f"the name {self.name!r} must be words without | and line breaks.")
        if (self.folder is None) == (self.classifier is None):
            raise ValueError(f"{self.name}: give either a folder or a classifier.")
        if self.kind not in KINDS:
            raise ValueError(f"{self.name}: kind {self.kind!r} is none of {', '.join(KINDS)}.")
        for wanted in ("labels", "logits"):
            if self.classifier is not None and not hasattr(self.classifier, wanted):
                raise ValueError(f"{self.name}: a classifier has labels and logits(texts).")
        if self.folder is not None and not Path(self.folder).exists():
            raise ValueError(f"{self.name}: there is no {self.folder}.")
        if ":" not in self.loader:
            raise ValueError(f'{self.name}: loader {self.loader!r} must be "module:name".')

    def paths(self) -> dict[str, Path]:
        """name → path of every file that counts. ValueError for one that is not there."""
        folder = Path(self.folder)
        if folder.is_file():
            return {folder.name: folder}
        names = self.files or sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and path.name != STAMP
        )
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{self.name}: the folder has no file {missing[0]!r}.")
        return {name: folder / name for name in names}

    def fingerprint(self) -> str:
        """Changes with the loader, its options, and every byte of the files."""
        files = {name: sha256(path) for name, path in self.paths().items()}
        whole = json.dumps([self.kind, self.loader, self.options, files], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Row:
    """What was measured of one entry.

    p50_ms …          median over the rounds of that round's percentile, over texts at batch 1
    rounds_p50_ms     a number a round: how steady it was
    texts_per_second  in batches, median over the rounds
    files, bytes      name → size on disk, and their sum; None for what was not saved
    memory_mib        peak resident memory while loading and answering, above `libraries_mib`: the
                      bare interpreter with the loader's module imported. None in this process
    scores            of `out_of_scope.scores`, on test; `threshold` was chosen on validation
    cores_used        processor time / time while timed
    yardstick_ms      time of a fixed matrix product in the same minutes: the machine's speed
    setting           machine, threads, data, protocol: rows of one table agree in it
    answers           argmax and in_scope (numbers of labels) and confidence (largest in-scope
                      probability) of every test text, packed: see `unpack`
    """

    name: str
    kind: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    texts_per_second: float
    rounds_p50_ms: list[float]
    files: dict[str, int] | None
    memory_mib: float | None
    libraries_mib: float | None
    scores: dict[str, float]
    device: str
    versions: dict[str, str]
    date: str
    cores_used: float
    yardstick_ms: float
    setting: dict[str, Any]
    loader: str | None
    fingerprint: str | None
    note: str
    answers: dict[str, str]

    @property
    def bytes(self) -> int | None:
        """On disk: the sum of `files`."""
        return None if self.files is None else sum(self.files.values())


class Comparison(NamedTuple):
    """Row b against row a on the same test texts; see `Benchmark.compare`."""

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    only_a: int
    only_b: int
    texts: int

    @property
    def verdict(self) -> str:
        """ "better", "worse", or "not told apart": whether b's interval lies off 0."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not told apart"

    def __str__(self) -> str:
        points = [f"{100 * x:+.1f}" for x in (self.difference, self.low, self.high)]
        return (
            f"{self.b} against {self.a}, {self.metric}: {points[0]} points, 95 % interval "
            f"{points[1]} to {points[2]}: {self.verdict} ({self.texts} texts: "
            f"{self.only_b} right only with {self.b}, {self.only_a} only with {self.a})."
        )


def machine() -> str:
    """The processor, its cores and the system, in words."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, subprocess.SubprocessError, StopIteration):
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            name = subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
        elif sys.platform.startswith("linux"):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            name = next(x for x in lines if x.startswith("model name")).split(":")[1].strip()
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


# --- Statistics -----------------------------------------------------------------------------------


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share, `right` of `total`. Stays inside 0 to 1, also at the ends.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    if not 0 <= right <= total or total == 0:
        raise ValueError(f"{right} of {total} is no share.")
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of mean(b) − mean(a), where a and b say what was right of each.

    a, b  (texts,) of one run each, or (runs, texts): run i of both had the same training seed

    Texts are drawn with replacement, a text's two answers together; of several runs these are drawn
    too, both sides' together, so the interval also says what other seeds would change.
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape or a.ndim not in (1, 2) or not a.size:
        raise ValueError(f"answers of shapes {a.shape} and {b.shape} are not to the same texts.")
    gained, lost = np.atleast_2d(b & ~a), np.atleast_2d(a & ~b)  # (runs, texts)
    runs, texts = gained.shape
    generator = np.random.default_rng(seed)
    if runs == 1:  # only the numbers of texts gained and lost matter: drawn at once
        shares = np.array([gained.sum(), lost.sum(), texts - gained.sum() - lost.sum()]) / texts
        drawn = generator.multinomial(texts, shares, size=resamples)  # (resamples, 3)
        differences = (drawn[:, 0] - drawn[:, 1]) / texts
    else:
        change = gained.astype(np.int64) - lost  # (runs, texts): +1, 0, −1
        times = generator.multinomial(runs, np.full(runs, 1 / runs), size=resamples)
        differences = np.empty(resamples)
        for i, weights in enumerate(times):
            means = weights @ change / runs  # (texts,), of the runs drawn
            differences[i] = means[generator.integers(texts, size=texts)].mean()
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


def pack(values: np.ndarray, dtype: str) -> str:
    """Numbers as a short string for a JSON file."""
    return base64.b64encode(zlib.compress(np.asarray(values).astype(dtype).tobytes(), 9)).decode()


def unpack(text: str, dtype: str) -> np.ndarray:
    """What `pack` packed: (texts,)"""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=dtype)


PACKED = {"argmax": "<u2", "in_scope": "<u2", "confidence": "<f4", "labels": "<u2"}


class Figure(float):
    """A number that writes itself with three significant digits: 0.954, 12.3, 1,230."""

    def __format__(self, spec: str) -> str:
        if self == 0 or not math.isfinite(self):
            return "0" if self == 0 else str(float(self))
        decimals = 2 - math.floor(math.log10(abs(float(f"{float(self):.3g}"))))
        return f"{round(float(self), decimals):,.{max(0, decimals)}f}"

    __str__ = __repr__ = lambda self: format(self)


# --- The processes --------------------------------------------------------------------------------


class Child:
    """A process that measures one entry; it waits while the others have their turn."""

    def __init__(self, entry: Entry, job: dict[str, Any]) -> None:
        self.name = entry.name
        self.errors = tempfile.TemporaryFile()
        path = os.pathsep.join(os.path.abspath(place) for place in sys.path)
        threads = thread_environment(job["threads"])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "course_utils.measuring"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, encoding="utf-8",
            env={**os.environ, **threads, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        )  # fmt: skip
        place = {"loader": entry.loader, "folder": str(entry.folder), "options": entry.options}
        try:
            self.about = self.ask(do="begin", **place, **job)
        except BaseException:  # Ctrl-C too must leave no process behind
            self.close()
            raise

    def ask(self, **order: Any) -> dict[str, Any]:
        """One command, one reply. ValueError when the process fails, with its last words."""
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        reply = json.loads(line) if line else {"error": self.last_words()}
        if "error" in reply:
            raise ValueError(f"{self.name} could not be measured: {reply['error']}")
        return reply

    def last_words(self) -> str:
        """The last line that the process wrote before it ended."""
        self.process.wait(timeout=10)
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        ended = f"its process ended ({self.process.returncode})"
        return f"{ended}: {lines[-1]}" if lines else f"{ended}."

    def round(self) -> dict[str, Any]:
        """See `Station.round`."""
        return self.ask(do="round")

    def answers(self, texts: Sequence[str]) -> tuple[np.ndarray, float | None, float | None]:
        """Logits (texts, labels), and the memory in MiB: above the libraries, the libraries'."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "logits.npy"
            high = self.ask(do="answers", texts=list(texts), to=str(path))["peak"]
            logits = np.load(path)
        low = self.about["libraries"]
        return logits, max(0, high - low) / MIB, low / MIB

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                stream.close()


class Here:
    """The same for a classifier that lives in this process, where no memory can be told apart."""

    def __init__(self, entry: Entry, job: dict[str, Any]) -> None:
        self.name, self.threads = entry.name, job["threads"]
        self.station = Station(entry.classifier, job)
        with self.limited():
            self.about = self.station.about() | {"threads": self.threads}

    @contextlib.contextmanager
    def limited(self) -> Iterator[None]:
        """The benchmark's number of threads, and afterwards the kernel's own again."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with threadpool_limits(self.threads):
                yield
        finally:
            torch.set_num_threads(before)

    def round(self) -> dict[str, Any]:
        with self.limited():
            return self.station.round()

    def answers(self, texts: Sequence[str]) -> tuple[np.ndarray, float | None, float | None]:
        with self.limited():
            return self.station.answers(texts), None, None

    def close(self) -> None:
        pass


# --- The table ------------------------------------------------------------------------------------


class Benchmark:
    """Rows that were measured alike. Shows itself as a Markdown table in a notebook.

    queries   the texts; None for a table that is only read
    protocol  how rows are measured
    path      the file that follows every change; None keeps the rows in memory
    """

    def __init__(
        self, queries: Queries, protocol: Protocol | None = None, path: Path | str | None = None
    ) -> None:
        protocol = protocol or Protocol()
        self._queries = queries
        self.path = None if path is None else Path(path)
        self.rows: dict[str, Row] = {}
        self.setting = {
            "machine": machine(),
            "threads": protocol.threads,
            "data": f"{queries.name} {queries.fingerprint}",
            "protocol": dataclasses.asdict(protocol),
        }
        self.oos = queries.oos
        self.labels = list(queries.labels)
        self.test_labels = np.array([number for _, number in queries.test])  # (texts,)

    # --- a table and its file

    @classmethod
    def open(cls, name: str = "assistant", protocol: Protocol | None = None) -> "Benchmark":
        """The reader's own table in the cache: the rows of earlier lessons, kept at every change.

        One for each machine, protocol (threads included) and state of the data: what can not be
        compared never meets. A damaged file is put aside, and the table starts anew.
        """
        empty = cls(Queries.load(name), protocol)
        key = hashlib.sha256(json.dumps(empty.setting, sort_keys=True).encode()).hexdigest()[:8]
        path = cache_dir() / "benchmark" / f"{name}-{key}.json"
        empty.path = path
        if path.exists():
            try:
                empty.rows = cls.load(path).rows
            except ValueError:
                os.replace(path, path.with_suffix(".damaged"))
        return empty

    @classmethod
    def load(cls, path: Path | str) -> "Benchmark":
        """What `save` wrote. ValueError for a file that is no table."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            board = cls.__new__(cls)
            board._queries, board.path = None, Path(path)
            board.setting, board.labels, board.oos = (
                found["setting"], found["labels"], found["oos"],
            )  # fmt: skip
            board.test_labels = unpack(found["test_labels"], PACKED["labels"]).astype(int)
            board.rows = {row["name"]: Row(**row) for row in found["rows"]}
        except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
            raise ValueError(f"{path} is no table of a benchmark: {error}") from None
        return board

    def save(self, path: Path | str | None = None) -> Path:
        """Write all rows, with every answer, as JSON; whole or not at all."""
        path = Path(path or self.path or "")
        if not path.name:
            raise ValueError("this table has no file yet; give save() a path.")
        record = {
            "setting": self.setting,
            "labels": self.labels,
            "oos": self.oos,
            "test_labels": pack(self.test_labels, PACKED["labels"]),
            "rows": [dataclasses.asdict(row) for row in self.rows.values()],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(new, path)
        return path

    def add(self, row: Row) -> None:
        """Put a row in, in place of one of its name. ValueError if it was measured otherwise."""
        self._same(row.setting, f"the row {row.name!r}")
        self._change(lambda rows: rows | {row.name: row})

    def remove(self, name: str) -> None:
        """Take a row out. ValueError names those that there are."""
        self._change(lambda rows: {k: row for k, row in rows.items() if k != self[name].name})

    def _change(self, change: Callable[[dict[str, Row]], dict[str, Row]]) -> None:
        """Change the rows as they are in the file: another notebook may have added some."""
        if self.path is None:
            self.rows = change(self.rows)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            if self.path.exists():
                found = self.load(self.path)
                self._same(found.setting, f"the table in {self.path.name}")
                self.rows = found.rows
            self.rows = change(self.rows)
            self.save()

    def _same(self, other: dict[str, Any], what: str) -> None:
        """Raise ValueError unless `other` is the setting of this table."""
        for name, mine in self.setting.items():
            if other.get(name) != mine:
                raise ValueError(
                    f"{what} has another {name} ({other.get(name)}) than this table ({mine}): "
                    "measure it here again, or keep it in a table of its own."
                )

    @property
    def protocol(self) -> Protocol:
        """How the rows are measured."""
        return Protocol(**self.setting["protocol"])

    @property
    def queries(self) -> Queries:
        """The texts. ValueError for a table read from a file whose data set is no longer there."""
        if self._queries is None:
            name, fingerprint = self.setting["data"].rsplit(" ", 1)
            found = Queries.load(name)
            if found.fingerprint != fingerprint:
                raise ValueError(f"the texts of {name} have changed: open a new table for them.")
            self._queries = found
        return self._queries

    # --- measuring

    def run(self, entries: Iterable[Entry], again: bool = False, progress: bool = True) -> None:
        """Measure entries, taking turns, and put them in.

        again  measure also what this table has already, from the same files

        Raises ValueError for two entries of one name, labels that are not the data's, logits that
        are not numbers, and a row that used more cores than there are threads.
        """
        entries = list(entries)
        names = [entry.name for entry in entries]
        if len(set(names)) < len(names):
            raise ValueError(f"two rows of one run have the same name: {', '.join(names)}.")
        self._same(self.setting | {"machine": machine()}, "this machine")
        entries = [entry for entry in entries if again or not self._has(entry)]
        if not entries:
            return
        cache_dir().mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache_dir() / "benchmark.lock")  # two that measure at once disturb both
        with lock, contextlib.ExitStack() as stack:
            steps = len(entries) * (self.protocol.rounds + 2)
            bar = stack.enter_context(
                tqdm(total=steps, desc="measuring", unit="step", disable=not progress)
            )
            stations = []
            for entry in entries:
                station = (Here if entry.folder is None else Child)(entry, self._job())
                stack.callback(station.close)
                self._check(entry.name, station.about)
                stations.append(station)
                bar.update()
            rounds = {entry.name: [] for entry in entries}
            for number in range(self.protocol.rounds):
                for station in stations[:: -1 if number % 2 else 1]:  # there, and back again
                    rounds[station.name].append(self._fair(station.name, station.round()))
                    bar.update()
            for entry, station in zip(entries, stations):
                self.add(self._row(entry, station, rounds[entry.name]))
                bar.update()

    def measure(self, classifier: Any, name: str = "yours", kind: str = "yours") -> None:
        """Measure a classifier that lives in this kernel. Its row has no peak memory.

        For what no folder holds: blocks that `use_mine()` has put in place, say.
        """
        self.run([Entry(name, kind=kind, classifier=classifier)], again=True)

    def _job(self) -> dict[str, Any]:
        """The texts, the same for every row."""
        p, queries = self.protocol, self.queries
        texts = [text for text, _ in queries.test]
        random.Random(p.seed).shuffle(texts)
        return {
            "threads": p.threads,
            "batch_size": p.batch_size,
            "warm_up": [text for text, _ in queries.validation[: p.warm_up]],
            "latency": texts[: p.latency_texts],
            "throughput": texts[: p.throughput_texts],
        }

    def _has(self, entry: Entry) -> bool:
        row = self.rows.get(entry.name)
        return bool(row and entry.folder and row.fingerprint == entry.fingerprint())

    def _fair(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        """A round's figures. ValueError where more cores worked than there are threads."""
        threads = self.protocol.threads
        if found["seconds"] > 0.5 and found["cores_used"] > threads + 0.5:
            raise ValueError(
                f"{name} used {found['cores_used']:.1f} cores where {threads} "
                f"{'thread is' if threads == 1 else 'threads are'} allowed: "
                "pass OMP_NUM_THREADS on to its library."
            )
        return found

    def _check(self, name: str, about: dict[str, Any]) -> None:
        """Raise ValueError unless threads and labels are those of this table."""
        if about["threads"] != self.protocol.threads:
            raise ValueError(
                f"{name} runs with {about['threads']} threads, the table's rows with "
                f"{self.protocol.threads}: its loader must not change their number."
            )
        labels, known = about["labels"], set(self.labels)
        if len(set(labels)) < len(labels) or not known - {self.labels[self.oos]} <= set(labels):
            missing = sorted(known - set(labels))
            raise ValueError(f"{name} lacks labels of the data: {', '.join(missing[:3])} …")
        if set(labels) - known:
            raise ValueError(f"{name} has labels the data do not: {sorted(set(labels) - known)}.")

    def _in_order(self, name: str, logits: np.ndarray, labels: list[str]) -> torch.Tensor:
        """Logits (texts, labels) with the columns in the data's order; −∞ where one is lacking."""
        if not np.isfinite(logits).all():
            text = int(np.argwhere(~np.isfinite(logits))[0, 0])
            raise ValueError(f"{name}: a logit of text {text} is not a finite number.")
        whole = torch.full((len(logits), len(self.labels)), -math.inf)
        whole[:, [self.labels.index(label) for label in labels]] = torch.from_numpy(logits)
        return whole

    def _row(self, entry: Entry, station: Child | Here, rounds: list[dict]) -> Row:
        median = {
            k: statistics.median(r[k] for r in rounds) for k in rounds[0] if k != "latency_ms"
        }
        texts = {s: [text for text, _ in getattr(self.queries, s)] for s in ("validation", "test")}
        found, memory, libraries = station.answers([*texts["validation"], *texts["test"]])
        logits = self._in_order(entry.name, found, station.about["labels"])
        validation, test = logits.split([len(texts["validation"]), len(texts["test"])])
        right = torch.tensor([number for _, number in self.queries.validation])  # (texts,)
        threshold = out_of_scope.choose_threshold(validation, right, self.oos)
        scores = out_of_scope.scores(test, torch.from_numpy(self.test_labels), self.oos, threshold)
        answers = {
            "argmax": out_of_scope.decide(test, self.oos),
            "in_scope": out_of_scope.decide(test, self.oos, threshold=0.0),
            "confidence": out_of_scope.max_probability(test, self.oos),
        }
        percentiles = [np.percentile(r["latency_ms"], [50, 95, 99]) for r in rounds]
        p50, p95, p99 = (float(x) for x in np.median(percentiles, axis=0))
        here = entry.folder is None
        return Row(
            name=entry.name, kind=entry.kind, p50_ms=p50, p95_ms=p95, p99_ms=p99,
            texts_per_second=median["texts_per_second"],
            rounds_p50_ms=[float(p[0]) for p in percentiles],
            files=_saved(entry.classifier) if here else _sizes(entry.paths()),
            memory_mib=memory, libraries_mib=libraries, scores=scores,
            device=station.about["device"], versions=station.about["versions"],
            date=date.today().isoformat(), cores_used=median["cores_used"],
            yardstick_ms=median["yardstick_ms"], setting=self.setting,
            loader=None if here else entry.loader,
            fingerprint=None if here else entry.fingerprint(),
            note="measured in the notebook's own process: no peak memory" if here else "",
            answers={k: pack(v.numpy(), PACKED[k]) for k, v in answers.items()},
        )  # fmt: skip

    # --- reading it

    def __getitem__(self, name: str) -> Row:
        """The row of this name. ValueError names those that there are."""
        if name not in self.rows:
            there = ", ".join(self.rows) or "none yet"
            raise ValueError(f"there is no row {name!r}; there are: {there}.")
        return self.rows[name]

    def right(self, name: str, metric: str = "in_scope_argmax") -> np.ndarray:
        """Which of the metric's test texts a row has right: (texts,), bool. metric: see METRICS"""
        if metric not in METRICS:
            raise ValueError(f"there is no metric {metric!r}; take one of {', '.join(METRICS)}.")
        row, (part, rule) = self[name], METRICS[metric]
        found = {key: unpack(text, PACKED[key]) for key, text in row.answers.items()}
        decided = found["argmax"]
        if rule == "threshold":
            sure = found["confidence"] >= row.scores["threshold"]
            decided = np.where(sure, found["in_scope"], self.oos)
        known = self.test_labels != self.oos
        chosen = {"accuracy": np.ones_like(known), "in_scope": known, "oos_recall": ~known}[part]
        return (decided == self.test_labels)[chosen]

    def interval(self, name: str, metric: str = "in_scope_argmax") -> tuple[float, float]:
        """The 95 % interval of a row's metric, by `wilson`."""
        right = self.right(name, metric)
        return wilson(int(right.sum()), len(right))

    def compare(
        self, a: str, b: str, metric: str = "in_scope_argmax", resamples: int = 10_000
    ) -> Comparison:
        """What row b gains over row a, with the 95 % interval of a paired bootstrap over texts.

        Two rows answer the same texts, so the interval is narrower than the rows' own. It says
        what other texts would change, not what another training seed would.
        """
        left, right = self.right(a, metric), self.right(b, metric)
        low, high = paired_bootstrap(left, right, resamples)
        gained, lost = int((right & ~left).sum()), int((left & ~right).sum())
        difference = (gained - lost) / len(left)
        return Comparison(a, b, metric, difference, low, high, lost, gained, len(left))

    def columns(self, *headings: str) -> dict[str, list]:
        """Heading, with its unit → a value for each row; all of them, or those that are named.

        For `classroom.table`. Numbers write themselves with three significant digits.
        """
        rows = list(self.rows.values())

        def numbers(values: Iterable[float | None]) -> list[Figure | None]:
            return [None if value is None else Figure(value) for value in values]

        table = {"row": [row.name for row in rows]}
        table |= {
            "p50, ms": numbers(row.p50_ms for row in rows),
            "p95, ms": numbers(row.p95_ms for row in rows),
            "p99, ms": numbers(row.p99_ms for row in rows),
            "texts/s": numbers(row.texts_per_second for row in rows),
            "disk, MiB": numbers(row.bytes and row.bytes / MIB for row in rows),
            "memory, MiB": numbers(row.memory_mib for row in rows),
        }
        for rule in ("argmax", "threshold"):
            for part, words in (("in_scope", "in scope"), ("oos_recall", "OOS recall")):
                values = [100 * row.scores[f"{part}_{rule}"] for row in rows]
                table[f"{words}, {rule}, %"] = numbers(values)
        table["AUROC"] = numbers(row.scores["auroc"] for row in rows)
        for heading in headings:
            if heading not in table:
                raise ValueError(f"there is no column {heading!r}; there are: {'; '.join(table)}.")
        return {name: table[name] for name in ("row", *headings)} if headings else table

    def markdown(self) -> str:
        """The table, the best of each column bold, and under it how it was measured."""
        columns = self.columns()
        cells = {"row": [row.replace("*", "\\*") for row in columns.pop("row")]}
        for heading, values in columns.items():
            known = [value for value in values if value is not None]
            least = heading.endswith(("ms", "MiB"))
            best = str((min if least else max)(known)) if len(known) > 1 else None
            text = ["–" if value is None else str(value) for value in values]
            cells[heading] = [f"**{x}**" if x == best else x for x in text]
        lines = [f"| {' | '.join(cells)} |", f"| --- |{' ---: |' * len(columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in zip(*cells.values())]
        return "\n".join([*lines, "", *self.how()])

    def _repr_markdown_(self) -> str:
        return self.markdown()

    __repr__ = _repr_markdown_

    def scatter(self, ax: Any, metric: str = "in_scope_argmax", fontsize: float = 9) -> None:
        """Draw the rows into matplotlib's axes; call it when the figure has its other parts.

        x is latency p50 in ms (log), y the metric in percent with its 95 % interval as a thin line,
        the area bytes on disk, the colour the kind. Each row is named beside its circle.
        """
        if not self.rows:
            raise ValueError("the table has no row to draw; measure one with run().")
        largest = max(row.bytes or 0 for row in self.rows.values()) or 1
        circles = []
        for name, row in self.rows.items():
            low, high = self.interval(name, metric)
            size = "not saved" if row.bytes is None else f"{Figure(row.bytes / MIB)} MiB"
            circles.append(
                Circle(
                    f"{name}\n{size}", row.p50_ms, 100 * self.right(name, metric).mean(),
                    100 * low, 100 * high, max(8.0, 700 * (row.bytes or 0) / largest),
                    KINDS[row.kind],
                )
            )  # fmt: skip
        threads = "1 thread" if self.protocol.threads == 1 else f"{self.protocol.threads} threads"
        part, rule = METRICS[metric]
        words = {"accuracy": "accuracy", "in_scope": "in-scope accuracy"}.get(part, "OOS recall")
        ax.set_xlabel(f"latency p50, ms (one text, {threads}); area: bytes on disk")
        ax.set_ylabel(f"{words}, %" + (" (threshold)" if rule == "threshold" else ""))
        named_circles(ax, circles, fontsize)

    def how(self) -> list[str]:
        """How the rows were measured, a sentence each."""
        p, known = self.protocol, self.test_labels != self.oos
        threads = "1 thread" if p.threads == 1 else f"{p.threads} threads"
        low, high = wilson(round(0.95 * known.sum()), int(known.sum()))
        found = [
            f"{self.setting['data'].split()[0]}: {known.sum():,} test texts in scope, "
            f"{(~known).sum():,} out of scope. {self.setting['machine']}; {threads} for every row.",
            f"From text to logits: latency of {p.latency_texts} texts one by one, throughput of "
            f"{p.throughput_texts} in batches of {p.batch_size}, after {p.warm_up} to warm up; "
            f"median of {p.rounds} rounds in which the rows take turns.",
            "Disk: the sizes of all files that the row is loaded from. Memory: peak resident "
            "memory of a process of its own, above the interpreter with the libraries imported.",
            "Threshold: the largest that loses at most 1 point in scope on validation. A share "
            f"near 95 % in scope has a 95 % interval of {100 * low:.1f} to {100 * high:.1f}.",
        ]
        found += [f"{row.name}: {row.note}." for row in self.rows.values() if row.note]
        gpu = [row.name for row in self.rows.values() if row.device != "cpu"]
        found += [f"On a GPU: {', '.join(gpu)}."] if gpu else []
        busy = [r.name for r in self.rows.values() if r.device == "cpu" and r.cores_used < 0.8]
        if busy:
            found.append(
                f"The machine was busy with something else while these were measured, so they "
                f"look slower than they are: {', '.join(busy)}."
            )
        speeds = {row.name: row.yardstick_ms for row in self.rows.values()}
        if speeds and max(speeds.values()) > 1.3 * min(speeds.values()):
            slow = max(speeds, key=speeds.__getitem__)
            found.append(
                f"The machine itself was {speeds[slow] / min(speeds.values()):.1f} times slower "
                f"while {slow} was measured than at its best: run it again beside the others."
            )
        return found


def _sizes(paths: dict[str, Path]) -> dict[str, int]:
    return {name: path.stat().st_size for name, path in paths.items()}


def _saved(classifier: Any) -> dict[str, int] | None:
    """The files that a live classifier would be saved as, if it can be."""
    if not hasattr(classifier, "save"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        classifier.save(folder)
        return _sizes({p.name: p for p in sorted(Path(folder).rglob("*")) if p.is_file()})


# --- The command ----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m course_utils.benchmark measure NAME FOLDER`, or `show`: the reader's table."""
    parser = argparse.ArgumentParser(
        prog="python -m course_utils.benchmark", description="the table of all techniques"
    )
    parser.add_argument("--data", choices=list(DATA_SETS), default="assistant")
    parser.add_argument("--threads", type=int, default=Protocol.threads)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="print the table")
    one = commands.add_parser("measure", help="add a row, or measure it again")
    one.add_argument("name")
    one.add_argument("folder", type=Path)
    one.add_argument("--kind", choices=list(KINDS), default="fine-tuned")
    one.add_argument("--loader", default=TEXT_CLASSIFIER)
    options = parser.parse_args(arguments)
    try:
        board = Benchmark.open(options.data, Protocol(threads=options.threads))
        if options.command == "measure":
            entry = Entry(options.name, options.folder, options.kind, options.loader)
            board.run([entry], again=True)
    except ValueError as error:
        sys.exit(str(error))
    print(board.markdown())


if __name__ == "__main__":
    main()
