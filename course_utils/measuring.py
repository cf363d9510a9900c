"""Lesson 06: one classifier's time, memory and answers, taken in a process of its own.

`benchmark.py` starts `python -m course_utils.measuring` once for each row and talks to it in lines
of JSON. This module imports almost nothing, so that such a process holds its classifier and the
libraries of that classifier, and the thread counts are set before any of them is imported.
"""

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

MIB = 2**20
LIBRARIES = ("torch", "onnxruntime", "sklearn", "tokenizers", "transformers", "numpy")


def thread_environment(threads: int) -> dict[str, str]:
    """The variables from which the libraries take their number of threads when they are imported.

    ONNX Runtime reads none of them: what loads it passes `OMP_NUM_THREADS` on.
    """
    names = ("OMP", "MKL", "OPENBLAS", "BLIS", "NUMEXPR", "RAYON")
    found = {f"{name}_NUM_THREADS": str(threads) for name in names}
    return found | {"VECLIB_MAXIMUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


def load(loader: str, folder: str, options: dict[str, Any]) -> Callable[[], Any]:
    """Import what "package.module:Class.method" names → a function that calls it on the folder."""
    module, _, name = loader.partition(":")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return lambda: found(folder, **options)


def resident() -> int:
    """The bytes of this process that are in memory now."""
    return psutil.Process().memory_info().rss


def forget_peak() -> None:
    """Let the peak start anew, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak() -> int:
    """The most bytes of this process that were in memory at once."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):  # not ru_maxrss: on Linux that has the parent's peak
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    found = psutil.Process().memory_info()
    if hasattr(found, "peak_wset"):  # Windows
        return found.peak_wset
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def yardstick() -> float:
    """Milliseconds for a fixed piece of arithmetic: how fast the machine is at this moment."""
    matrix = np.full((256, 256), 0.01, dtype=np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(10):
            matrix @ matrix
        times.append(time.perf_counter() - start)
    return sorted(times)[2] * 1000


class Station:
    """Measures one loaded classifier: `logits(texts)` → (texts, labels), and `labels`.

    job  warm_up, latency and throughput: lists of texts; batch_size
    """

    def __init__(self, classifier: Any, job: dict[str, Any]) -> None:
        self.classifier, self.job = classifier, job

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, labels), float32, on the CPU: an answer counts when it can be read."""
        found = self.classifier.logits(list(texts))
        if hasattr(found, "detach"):  # a tensor, perhaps on a GPU
            found = found.detach().cpu()
        found = np.asarray(found, dtype=np.float32)
        wanted = (len(texts), len(self.classifier.labels))
        if found.shape != wanted:
            raise ValueError(f"logits of shape {found.shape}; (texts, labels) is {wanted}.")
        return found

    def batches(self, texts: Sequence[str]) -> list[Sequence[str]]:
        """The texts in their order, batch_size at a time."""
        size = self.job["batch_size"]
        return [texts[start : start + size] for start in range(0, len(texts), size)]

    def round(self) -> dict[str, Any]:
        """Time each text alone, then all batches, after a warm-up that is not timed.

        latency_ms  a number a text: from the text to its logits, tokenization included
        cores_used  processor time / time, over both
        """
        for text in self.job["warm_up"]:
            self.logits([text])
        for batch in self.batches(self.job["warm_up"]):
            self.logits(batch)
        unit = yardstick()
        latency, processor, start = [], time.process_time(), time.perf_counter()
        for text in self.job["latency"]:
            before = time.perf_counter()
            self.logits([text])
            latency.append((time.perf_counter() - before) * 1000)
        batched = time.perf_counter()
        for batch in self.batches(self.job["throughput"]):
            self.logits(batch)
        end = time.perf_counter()
        return {
            "latency_ms": latency,
            "texts_per_second": len(self.job["throughput"]) / (end - batched),
            "seconds": end - start,
            "cores_used": (time.process_time() - processor) / (end - start),
            "yardstick_ms": unit,
        }

    def answers(self, texts: Sequence[str]) -> np.ndarray:
        """Logits of all texts, (texts, labels), in their order.

        Not timed, so texts of about equal length are read together, with little padding.
        """
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = np.concatenate([self.logits(b) for b in self.batches([texts[i] for i in order])])
        logits = np.empty_like(found)
        logits[order] = found
        return logits

    def about(self) -> dict[str, Any]:
        """Labels, device and threads as they are here, and the versions of what is loaded."""
        torch = sys.modules.get("torch")
        modules = {name: sys.modules.get(name) for name in LIBRARIES}
        versions = {"python": ".".join(map(str, sys.version_info[:3]))}
        versions |= {k: m.__version__ for k, m in modules.items() if hasattr(m, "__version__")}
        return {
            "labels": list(self.classifier.labels),
            "device": self.device(),
            "threads": torch.get_num_threads() if torch else int(os.environ["OMP_NUM_THREADS"]),
            "versions": versions,
        }

    def device(self) -> str:
        """ "cpu" or "cuda": the classifier's own word, or where its parameters are."""
        device = getattr(self.classifier, "device", None)
        model = getattr(self.classifier, "model", None)
        if device is None and hasattr(model, "parameters"):
            device = next((p.device for p in model.parameters()), None)
        return str(getattr(device, "type", device) or "cpu")


# --- The process ----------------------------------------------------------------------------------


def begin(job: dict[str, Any]) -> tuple[Station, dict[str, Any]]:
    """Load the classifier; the station, and what it is.

    libraries  bytes in memory when all of the loader's module is imported, and no model loaded
    """
    make = load(job["loader"], job["folder"], job["options"])
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(job["threads"])
    gc.collect()
    forget_peak()
    libraries = resident()
    station = Station(make(), job)
    return station, station.about() | {"libraries": libraries}


def main() -> None:
    """Answer each line of standard input, a command in JSON, with a line of JSON."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not come between the replies
    sys.stdout = sys.stderr
    station = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if order["do"] == "begin":
                station, reply = begin(order)
            elif order["do"] == "round":
                reply = station.round()
            elif order["do"] == "answers":
                np.save(order["to"], station.answers(order["texts"]))
                reply = {"peak": peak()}
        except Exception as error:  # whatever a reader's classifier may raise
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
