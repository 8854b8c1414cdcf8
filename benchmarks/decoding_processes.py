"""Compare decoding images in subprocesses (`DecoderPool`) with decoding in this process (`images.decode`).

python benchmarks/decoding_processes.py
python benchmarks/decoding_processes.py --rounds 3

All methods decode the same JPEGs in each round; the figures are medians over the rounds. Ratios are relative
to `images.decode` in one thread; above 1 is faster. The script takes less than a minute on two cores. The
last line is one JSON object.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.jpegs import synthetic_jpeg
from glied.config import parse, run
from glied.vision.decoder_pool import DecoderPool
from glied.vision.images import decode

SIZES = {"small": (400, 300, 100), "large": (6000, 4000, 2)}
"""Width, height and number of the images in a batch."""

Decode = Callable[[Sequence[bytes]], Any]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to compare."""

    rounds: int = 7
    """Number of rounds."""
    processes: tuple[int, ...] = (1, 2)
    """Sizes of the decoder pools."""


def main() -> int:
    """Compare the methods and print the figures."""
    config = parse(Config, description=__doc__)
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        methods = _methods(config.processes, stack)
        for name, (width, height, count) in SIZES.items():
            batch = [synthetic_jpeg(width, height, np.random.default_rng(seed)) for seed in range(count)]
            print(f"{name}: {count} JPEGs of {width} x {height}, the first has {len(batch[0]):,} bytes")
            figures[name] = _compare(methods, batch, config.rounds)
        megabytes = _resident_megabytes([pid for pool in _pools(methods) for pid in pool.pids])
    print(f"resident memory of the decoder processes at the end: {megabytes} MB")
    print(json.dumps(figures))
    return 0


def _methods(processes: Sequence[int], stack: ExitStack) -> dict[str, Decode]:
    threads = stack.enter_context(ThreadPoolExecutor(2))
    methods: dict[str, Decode] = {
        "1 thread": lambda batch: [decode(data) for data in batch],
        "2 threads": lambda batch: list(threads.map(decode, batch)),
    }
    pools = {f"pool of {count}": stack.enter_context(DecoderPool(count)).decode for count in processes}
    return methods | pools


def _pools(methods: dict[str, Decode]) -> list[DecoderPool]:
    owners = (getattr(method, "__self__", None) for method in methods.values())
    return [owner for owner in owners if isinstance(owner, DecoderPool)]


def _compare(methods: dict[str, Decode], batch: list[bytes], rounds: int) -> dict[str, dict[str, float]]:
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for round_number in range(rounds + 1):
        for name, method in methods.items():
            start = time.perf_counter()
            method(batch)
            if round_number > 0:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["1 thread"])
    figures = {}
    for name, times in seconds.items():
        median = statistics.median(times)
        figures[name] = {"images_per_s": len(batch) / median, "ratio": base / median}
        print(f"  {name:<15} {len(batch) / median:8.1f} images/s   x {base / median:.2f}")
    return figures


def _resident_megabytes(pids: Sequence[int]) -> list[int]:
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return [int(status.split("VmRSS:")[1].split()[0]) // 1024 for status in statuses]


if __name__ == "__main__":
    run(main)
