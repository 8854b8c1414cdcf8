"""What the benchmarks share: the machine's name, memory, subprocesses, and how results are printed."""

import json
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def print_result(result: object, out: str | None, *, indent: int | None = 1) -> None:
    """Write `result` to the file `out`, if given, and print it as one line of JSON."""
    if out:
        Path(out).write_text(json.dumps(result, indent=indent) + "\n")
    print(json.dumps(result))


def json_from_subprocess(script: str, *options: str) -> Any:
    """Run a benchmark script in a new process and return the JSON of its last line."""
    command = [sys.executable, script, *options]
    completed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(completed.stdout.splitlines()[-1])


def machine() -> str:
    """Return the processor's name and its number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {max(len(names), 1)} cores"


def torch_machine(device: str = "cpu") -> str:
    """Return the processor or GPU and the version of torch."""
    import torch

    name = torch.cuda.get_device_name() if device.startswith("cuda") else machine()
    return f"{name}, torch {torch.__version__}"


def memory_mb(field: str) -> int:
    """Return a size of this process from /proc (Linux): VmRSS, its memory, or VmHWM, its peak, in MiB."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) // 1024


def reset_peak_memory() -> None:
    """Restart the measurement of this process's peak memory, VmHWM (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> int:
    """Return the peak resident memory of this process since it started, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield consecutive slices of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))
