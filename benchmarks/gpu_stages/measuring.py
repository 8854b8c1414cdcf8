"""Measurement on a GPU: warm-up, synchronized clock, medians, peak memory, and a device's ceilings."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_stages.setting import Row, Setting


@dataclass(frozen=True)
class Timing:
    """Seconds of a call over several rounds."""

    median: float
    least: float
    most: float
    rounds: int

    def row(self, count: int, unit: str) -> Row:
        """Return the figures of a call that processed `count` items; `spread` is range / median."""
        return {
            f"{unit}_per_s": round(count / self.median, 1),
            "ms": round(1000 * self.median, 3),
            "spread": round((self.most - self.least) / self.median, 3),
            "rounds": self.rounds,
        }


def synchronize(device: torch.device) -> None:
    """Wait for the pending work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def once(call: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of a call, including its asynchronous work on the device."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def timed(
    call: Callable[[], Any],
    device: torch.device,
    *,
    seconds: float = 1.0,
    least: int = 3,
    most: int = 20,
    warm_ups: int = 2,
) -> Timing:
    """Time a call: first `warm_ups` calls, then as many rounds as fit into `seconds`, within bounds."""
    for _ in range(warm_ups):
        call()
    times = [once(call, device)]
    rounds = max(least, min(most, int(seconds / max(times[0], 1e-6))))
    times += [once(call, device) for _ in range(rounds - 1)]
    return Timing(statistics.median(times), min(times), max(times), rounds)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Row]:
    """Measure the peak memory that torch allocates and reserves on the GPU, in MiB; nothing on a CPU."""
    peak: Row = {}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        peak["peak_mb"] = torch.cuda.max_memory_allocated(device) >> 20
        peak["reserved_mb"] = torch.cuda.max_memory_reserved(device) >> 20


def release(device: torch.device) -> None:
    """Release cached memory, so that it does not count in the next case."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Enable or disable TF32 for float32 products and convolutions within the block."""
    backends: Any = torch.backends  # its stubs lack fp32_precision
    products = (backends.cuda.matmul, backends.cudnn.conv)
    before = [product.fp32_precision for product in products]
    try:
        for product in products:
            product.fp32_precision = "tf32" if enabled else "ieee"
        yield
    finally:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision


def ceilings(setting: Setting) -> dict[str, float]:
    """Measure the rate of a large matrix product, the bandwidth of a large copy and the time of a launch.

    GB/s counts bytes read and bytes written.
    """
    device, size = setting.torch_device, setting.pick(256, 8192)
    rates = {}
    for name, dtype in (("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        with tf32(name == "tf32"):
            taken = timed(lambda: torch.mm(a, b), device, seconds=0.3)  # noqa: B023
        rates[f"tflops_{name}"] = 2 * size**3 / taken.median / 1e12
    source = torch.randn(setting.pick(1 << 20, 1 << 30), device=device)
    target = torch.empty_like(source)
    taken = timed(lambda: target.copy_(source), device, seconds=0.3)
    rates["gb_per_s"] = 2 * source.nbytes / taken.median / 1e9
    small = torch.zeros(1, device=device)

    def launches() -> None:
        for _ in range(1000):
            small.add_(1)

    rates["launch_us"] = timed(launches, device, seconds=0.1).median * 1e6 / 1000
    return {name: round(value, 3) for name, value in rates.items()}


def busy_cpu_seconds() -> float:
    """Return the busy seconds of all processors of the machine (Linux); 0 if they cannot be read."""
    try:
        user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    except OSError:
        return 0.0
    return (int(user) + int(nice) + int(system)) / 100
