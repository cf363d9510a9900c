"""Time the course's encoder against torch.nn.TransformerEncoder, without attention weights.

    python3 tests/benchmarks/encoder.py
    python3 tests/benchmarks/encoder.py --layers 4 --hidden 256 --heads 4 --batch 8 --tokens 64

Same shapes, eval mode, no gradients. The contestants run in turn within one process, so that a busy
machine slows all of them; medians and ratios are printed, ours once with the fused kernels and once
by the formulas (`layers.FUSED = False`).
"""

import argparse
import statistics
import time

import torch
from torch import nn

from course_utils import layers
from course_utils.encoder import Encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = dict(layers=12, hidden=768, heads=12, batch=8, tokens=128, rounds=9)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    hidden, wide = options.hidden, 4 * options.hidden

    ours = Encoder(options.layers, hidden, options.heads, wide).eval()
    layer = nn.TransformerEncoderLayer(
        hidden, options.heads, wide, activation="gelu", batch_first=True
    )
    theirs = nn.TransformerEncoder(layer, options.layers).eval()  # takes PyTorch's own fast path
    x = torch.randn(options.batch, options.tokens, hidden)

    def run_ours(fused: bool) -> None:
        layers.FUSED = fused
        ours(x)

    contestants = {
        "nn.TransformerEncoder": lambda: theirs(x),
        "ours": lambda: run_ours(True),
        "ours, by the formulas": lambda: run_ours(False),
    }
    times = {name: [] for name in contestants}
    with torch.inference_mode():
        for round_number in range(options.rounds + 2):
            for name, run in contestants.items():
                started = time.perf_counter()
                run()
                if round_number >= 2:  # the first two warm up
                    times[name].append(time.perf_counter() - started)
    layers.FUSED = True
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians["nn.TransformerEncoder"]
    shape = f"{options.layers} × {hidden}, batch {options.batch} × {options.tokens} tokens"
    print(f"{shape}, {torch.get_num_threads()} threads")
    for name, median in medians.items():
        print(f"{name:24s} {1000 * median:9.2f} ms   ratio {median / base:.2f}")


if __name__ == "__main__":
    main()
