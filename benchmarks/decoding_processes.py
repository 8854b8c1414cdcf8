"""What decoding in processes of its own costs: `images.decode` in this process against `DecoderPool`.

python benchmarks/decoding_processes.py
python benchmarks/decoding_processes.py --rounds 3

The same JPEGs for every way, side by side in each round; the figures are medians over the rounds. Ratios are
to `images.decode` in one thread: above 1 is faster. The last line is one JSON object. Plain Python; under a
minute on two cores.
"""

import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glied.config import parse, run
from glied.vision.decoder_pool import DecoderPool
from glied.vision.images import decode

SIZES = {"small": (400, 300, 100), "large": (6000, 4000, 2)}
"""Width, height and number of the images of a batch."""

Decode = Callable[[Sequence[bytes]], Any]


@dataclass(frozen=True, kw_only=True)
class Config:
    """How long to measure."""

    rounds: int = 7
    """Batches of each kind for each way."""
    processes: tuple[int, ...] = (1, 2)
    """Sizes of the pools."""


def main() -> int:
    """Measure and print."""
    config = parse(Config, description=__doc__)
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        ways = _ways(config.processes, stack)
        for name, (width, height, count) in SIZES.items():
            batch = [_jpeg(width, height, seed) for seed in range(count)]
            print(f"{name}: {count} JPEGs of {width} x {height}, {len(batch[0]):,} bytes the first")
            figures[name] = _compare(ways, batch, config.rounds)
        megabytes = _resident_megabytes([pid for pool in _pools(ways) for pid in pool.pids])
    print(f"resident memory of the processes afterwards: {megabytes} MB")
    print(json.dumps(figures))
    return 0


def _ways(processes: Sequence[int], stack: ExitStack) -> dict[str, Decode]:
    threads = stack.enter_context(ThreadPoolExecutor(2))
    ways: dict[str, Decode] = {
        "1 thread here": lambda batch: [decode(data) for data in batch],
        "2 threads here": lambda batch: list(threads.map(decode, batch)),
    }
    return ways | {f"pool of {count}": stack.enter_context(DecoderPool(count)).decode for count in processes}


def _pools(ways: dict[str, Decode]) -> list[DecoderPool]:
    return [pool for way in ways.values() if isinstance(pool := getattr(way, "__self__", None), DecoderPool)]


def _compare(ways: dict[str, Decode], batch: list[bytes], rounds: int) -> dict[str, dict[str, float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(batch)
            if round_number > 0:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["1 thread here"])
    figures = {}
    for name, times in seconds.items():
        median = statistics.median(times)
        figures[name] = {"images_per_s": len(batch) / median, "ratio": base / median}
        print(f"  {name:<15} {len(batch) / median:8.1f} images/s   x {base / median:.2f}")
    return figures


def _resident_megabytes(pids: Sequence[int]) -> list[int]:
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return [int(status.split("VmRSS:")[1].split()[0]) // 1024 for status in statuses]


def _jpeg(width: int, height: int, seed: int) -> bytes:
    """Blurred colors with grain: about the bytes of a photograph."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = random.integers(-6, 7, (height, width, 1))
    buffer = io.BytesIO()
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


if __name__ == "__main__":
    run(main)
