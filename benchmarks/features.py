"""Import of published features: memory, speed, bytes.

python benchmarks/features.py                      # 200 images
python benchmarks/features.py --full true --out benchmarks/results/features.json     # 10,000 images

The script writes a TSV in the published format (36 regions of 2048 values after a ReLU), imports it as
float32 and as float16 with jobs/import_features.py, exports the float32 store again and compares the two
files. Memory is the peak resident set of each job.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.measurement import print_result
from glied.config import parse, run
from glied.data import features, published_features
from glied.errors import JobError

REGIONS, SIZE, DISTINCT = 36, 2048, 64


@dataclass(frozen=True, kw_only=True)
class Config:
    """Number of images, and where the files go."""

    full: bool = False
    """Use 10,000 images instead of 200."""
    folder: str = "runs/features_benchmark"
    """Folder of the files, 16 GB with `full`; they are deleted at the end."""
    out: str | None = None
    """File for the result as JSON."""


def write_tsv(path: Path, count: int) -> None:
    """Write a TSV of `count` images with `DISTINCT` different sets of regions."""
    generator = np.random.default_rng(0)
    lines = []
    for _ in range(DISTINCT):
        corners = generator.uniform(0, 1, (REGIONS, 2, 2)) * (640, 480)
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
        values = np.maximum(generator.normal(0, 1, (REGIONS, SIZE)), 0).astype(np.float32)
        lines.append(published_features.format_tsv("", published_features.Published(boxes, values, 640, 480)))
    with path.open("wb") as file:
        for number in range(count):
            file.write(str(number).encode() + lines[number % DISTINCT])


def run_job(name: str, *options: str) -> tuple[float, float]:
    """Run a job; return its seconds and its peak resident memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, f"jobs/{name}.py", *options], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise JobError(f"{name} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure(folder: Path, count: int) -> dict[str, object]:
    """Measure imports, random access and the export with `count` images."""
    tsv, exported = folder / "features.tsv", folder / "exported.tsv"
    write_tsv(tsv, count)
    result: dict[str, object] = {"images": count, "tsv_mb": round(tsv.stat().st_size / 1e6)}
    for dtype in ("float32", "float16"):
        store = str(folder / dtype)
        options = [f"--input.uri={tsv}", f"--output.uri={store}", "--extractor=benchmark", f"--dtype={dtype}"]
        seconds, peak = run_job("import_features", *options)
        size = features.stored_size(store, count)
        result[dtype] = {
            "seconds": round(seconds, 1),
            "images_per_s": round(count / seconds, 1),
            "peak_mb": round(peak),
            "bytes_per_image": size.bytes // size.images,
        }
    seconds, peak = run_job("export_features", f"--store={folder / 'float32'}", f"--out={exported}")
    same = digest(exported) == digest(tsv)
    return result | {"export": {"seconds": round(seconds, 1), "peak_mb": round(peak), "equal_bytes": same}}


def main() -> int:
    """Measure and print the figures."""
    config = parse(Config, description=__doc__)
    folder = Path(config.folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        result = measure(folder, 10_000 if config.full else 200)
    finally:
        shutil.rmtree(folder)
    print_result(result, config.out)
    return 0


if __name__ == "__main__":
    run(main)
