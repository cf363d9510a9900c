"""Lesson 11: times that can be compared: in turns, on one thread, the median.

A benchmark of whole classifiers, with memory and accuracy, is `benchmark.py`'s.
"""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def in_turns(
    functions: Mapping[str, Callable[[], object]], rounds: int = 40, threads: int = 1
) -> dict[str, float]:
    """Median microseconds of each function.

    All are called in each round, one after the other, so that a busy moment of the machine hits
    all; the first round warms up and is not counted. The thread count is put back at the end.
    """
    taken: dict[str, list[float]] = {name: [] for name in functions}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for number in range(rounds + 1):
                for name, function in functions.items():
                    started = time.perf_counter()
                    function()
                    if number:
                        taken[name].append(1e6 * (time.perf_counter() - started))
    finally:
        torch.set_num_threads(before)
    return {name: statistics.median(found) for name, found in taken.items()}
