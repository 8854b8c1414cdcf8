"""Measure the memory of all processes of a bulk run over large photographs.

python benchmarks/memory.py --out memory.json

The input is a table of 2,000 rows that point to 64 JPEGs of 24 megapixels, made of scenes and noise. Memory
is the sum of the proportional set sizes of all processes of the job, which count shared memory once, sampled
twice a second.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.measurement import print_result
from glied.config import parse, run
from glied.demo_world.dataset import write_split
from glied.errors import JobError

FILES = 64
SIZE = (6000, 4000)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Number of photographs, and where the files go."""

    photographs: int = 2000
    """Number of rows of the table."""
    folder: str = "runs/memory"
    """Folder of the photographs and the run."""
    out: str | None = None
    """File for the result as JSON."""


def draw(folder: Path) -> None:
    """Write JPEGs of 24 megapixels with noise like that of a sensor."""
    write_split(folder / "scenes", "test", FILES, 0, os.cpu_count() or 1)
    noise = np.random.default_rng(0).normal(0, 6, (SIZE[1] // 4, SIZE[0] // 4, 3))
    for number, path in enumerate(sorted((folder / "scenes" / "images").iterdir())):
        pixels = np.asarray(Image.open(path).convert("RGB").resize(SIZE), np.int16)
        noisy = pixels + np.tile(noise, (4, 4, 1)).astype(np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02d}.jpg", quality=92)


def proportional_mb(session: int) -> dict[str, float]:
    """Return the proportional set sizes in MB of a session's processes, by process name."""
    sizes: dict[str, float] = {}
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
            if os.getsid(process.pid) == session:
                name = Path((process.cmdline() or [process.name()])[0]).name[:40]
                sizes[name] = sizes.get(name, 0.0) + process.memory_full_info().pss / 1e6
    return sizes


def main() -> int:
    """Run the job, sample its memory and print the figures."""
    config = parse(Config, description=__doc__)
    folder = Path(config.folder).absolute()
    if not (folder / f"{FILES - 1:02d}.jpg").exists():
        draw(folder)
    rows = ("id,uri", *(f"{row},{folder}/{row % FILES:02d}.jpg" for row in range(config.photographs)))
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    shutil.rmtree(folder / "run", ignore_errors=True)
    options = ["--config=configs/caption/demo.yaml", "--input.form=table", "--input.id_column=id"]
    options += [f"--input.uri={folder / 'table.csv'}", f"--output.uri={folder / 'run'}"]
    start, peak, at_peak = time.monotonic(), 0.0, {}
    job = subprocess.Popen([sys.executable, "jobs/caption_dataset.py", *options], start_new_session=True)
    try:
        while job.poll() is None:
            sizes = proportional_mb(job.pid)
            if sum(sizes.values()) > peak:
                peak, at_peak = sum(sizes.values()), sizes
            time.sleep(0.5)
    finally:
        job.terminate()  # does nothing to a job that has ended
    if job.returncode != 0:
        raise JobError(f"the job ended with {job.returncode}")
    largest = sorted(at_peak.items(), key=lambda pair: -pair[1])[:6]
    result = {
        "photographs": config.photographs,
        "peak_mb": round(peak),
        "at_peak_mb": {name: round(size) for name, size in largest},
        "seconds": round(time.monotonic() - start),
        "images_per_s": json.loads((folder / "run" / "summary.json").read_text())["images_per_s"],
    }
    print_result(result, config.out)
    return 0


if __name__ == "__main__":
    run(main)
