"""Count the functions that process an image from its bytes to its committed row, and measure their speed.

python benchmarks/code_path.py
python benchmarks/code_path.py --full --out code_path.json
python benchmarks/code_path.py --recipe configs/caption/photographs.yaml --images photos

`functions` and `files` count the distinct functions of glied that run in this process for one image, and
their files: fetching, the fused stage, the driver's checks and the two writes. Ray, the decoder's subprocess
and functions that only the first image needs are left out. `images_per_s` and `cpu_ms_per_image` are measured
for the fused stage on one thread, chunk after chunk, as a worker runs it; on a busy machine the CPU time is
the reliable figure. The short form describes 128 scenes, --full 1,000.
"""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

import glied
from benchmarks.measurement import print_result
from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_job, fetch_stage
from glied.bulk.chunks import split
from glied.bulk.items import Chunk, DescribedChunk, Stage
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.bulk.run.bulk_run import execute
from glied.config import parse, run

PACKAGE = str(Path(glied.__file__).parent)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    recipe: str = "configs/caption/demo.yaml"
    """Config of jobs/caption_dataset.py."""
    images: str | None = None
    """Folder of images; null for rendered scenes."""
    full: bool = False
    """The long form: more scenes."""
    folder: str = "runs/code_path"
    """Folder of the scenes and runs."""
    out: str | None = None
    """File for the result as JSON, with the names of the functions."""


class CalledFunctions:
    """Collects the distinct functions of glied that run between `start` and `stop`, in all threads."""

    def __init__(self) -> None:
        """Start with no functions."""
        self.names: set[tuple[str, str]] = set()

    def start(self) -> None:
        """Start counting."""
        threading.setprofile(self._count)
        sys.setprofile(self._count)

    def stop(self) -> None:
        """Stop counting."""
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # None is allowed, as for sys.setprofile

    def _count(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            # Comprehensions and lambdas count as part of their function.
            name = code.co_qualname.split(".<locals>.<")[0].split(".<")[0]
            self.names.add((code.co_filename.removeprefix(PACKAGE + "/"), name))


def functions_of_one_image(job: CaptionDatasetConfig, stage: Stage) -> CalledFunctions:
    """Collect the functions that run for the second of two images, each with its own unit and chunk."""
    called = CalledFunctions()
    fetch = fetch_stage(job.input, job.resources)

    def stream(chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
        for number, piece in enumerate(chunks):
            if number == 1:
                called.start()
            yield DescribedChunk(piece.unit, piece.start, stage(fetch(piece.table)))
            called.stop()  # the driver has committed the unit when it asks for the next result

    execute(caption_job(job), stream)
    return called


def chunks_of(job: CaptionDatasetConfig) -> list[pa.Table]:
    """Return the fetched chunks of all images."""
    table = pa.concat_tables(inputs(open_source(job.input, "/nowhere"), job.input))
    fetch = fetch_stage(job.input, job.resources)
    pieces = split(0, 0, table, images=64, size=8 << 20)
    return [fetch(piece.table) for piece in pieces]


def rates(stage: Stage, tables: Sequence[pa.Table]) -> dict[str, float]:
    """Measure images/s and CPU time per image, after a warm-up chunk."""
    stage(tables[0])
    images, start, cpu = 0, time.perf_counter(), time.process_time()
    for table in tables:
        images += stage(table).num_rows
    seconds, spent = time.perf_counter() - start, time.process_time() - cpu
    return {
        "images_per_s": round(images / seconds, 1),
        "cpu_ms_per_image": round(1000 * spent / images, 2),
        "images": images,
    }


def main() -> int:
    """Count the functions, measure the speed and print the figures."""
    import torch

    torch.set_num_threads(1)
    config = parse(Config, description=__doc__)
    folder = Path(config.folder).absolute()
    count = 1000 if config.full else 128
    images = Path(config.images or folder / f"scenes-{count}" / "images").absolute()
    if config.images is None and not images.exists():
        options = ["--out", str(images.parent), "--split", "test", "--count", str(count)]
        subprocess.run([sys.executable, "jobs/make_scenes.py", *options], check=True)
    shutil.rmtree(folder / "run", ignore_errors=True)
    options = [f"--config={config.recipe}", f"--input.uri={images}", f"--output.uri={folder / 'run'}"]
    stage = caption_factory(parse(CaptionDatasetConfig, options)).build()
    short = parse(CaptionDatasetConfig, [*options, "--input.limit=2", "--output.unit_size=1"])
    called = functions_of_one_image(short, stage)
    figures = rates(stage, chunks_of(parse(CaptionDatasetConfig, options)))
    result = {
        "functions": len(called.names),
        "files": len({file for file, _ in called.names}),
        **figures,
        "recipe": config.recipe,
    }
    names = sorted(f"{file}: {name}" for file, name in called.names)
    if config.out:
        Path(config.out).write_text(json.dumps(result | {"names": names}, indent=1) + "\n")
    print_result(result, None)
    return 0


if __name__ == "__main__":
    run(main)
