"""The way of an image from its bytes to its committed row: how much code it runs through, and how fast.

    python benchmarks/way.py
    python benchmarks/way.py --full --out way.json
    python benchmarks/way.py --recipe configs/caption/photographs.yaml --images photos

`functions` and `files` count the distinct functions of glied, and the files they are in, that run in this
process for one image: fetch, the fused stage, the driver's checks, the two writes. Ray and the decoder's
subprocess are left out, and so is what only the first image needs. `images_per_s` and `cpu_ms_per_image` are
of the fused stage on one thread, chunk after chunk, as a worker runs it; the time of the processor counts
where other work shares the machine. The short form describes 128 scenes, --full 1,000.
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

import glied
from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_job, fetch_stage
from glied.bulk.chunks import split
from glied.bulk.items import Chunk, DescribedChunk, Stage
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.bulk.run.bulk_run import execute
from glied.config import parse, run

PACKAGE = str(Path(glied.__file__).parent)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured."""

    recipe: str = "configs/caption/demo.yaml"
    """Config of jobs/caption_dataset.py."""
    images: str | None = None
    """Folder of images; null renders scenes."""
    full: bool = False
    """The long form."""
    folder: str = "runs/way"
    """Where scenes and runs are."""
    out: str | None = None
    """Where to write the result as JSON."""


class CalledFunctions:
    """The distinct functions of glied that run between `start` and `stop`, in all threads."""

    def __init__(self) -> None:
        """None yet."""
        self.names: set[tuple[str, str]] = set()

    def start(self) -> None:
        """Begin to count."""
        threading.setprofile(self._count)
        sys.setprofile(self._count)

    def stop(self) -> None:
        """End counting."""
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # None is allowed, as for sys.setprofile

    def _count(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            # A comprehension or a lambda is no function of its own to a reader.
            name = code.co_qualname.split(".<locals>.<")[0].split(".<")[0]
            self.names.add((code.co_filename.removeprefix(PACKAGE + "/"), name))


def functions_of_one_image(job: CaptionDatasetConfig, stage: Stage) -> CalledFunctions:
    """What runs for the second of two images, each a unit and a chunk of its own."""
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
    """The fetched chunks of all images."""
    table = pa.concat_tables(inputs(open_source(job.input, "/nowhere"), job.input))
    fetch = fetch_stage(job.input, job.resources)
    pieces = split(0, 0, table, images=64, size=8 << 20)
    return [fetch(piece.table) for piece in pieces]


def rates(stage: Stage, tables: Sequence[pa.Table]) -> dict[str, float]:
    """Images/s and processor time per image, after a chunk to warm up."""
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
    """Count and time."""
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
    given = [f"--config={config.recipe}", f"--input.uri={images}", f"--output.uri={folder / 'run'}"]
    stage = caption_factory(parse(CaptionDatasetConfig, given)).build()
    short = parse(CaptionDatasetConfig, [*given, "--input.limit=2", "--output.unit_size=1"])
    called = functions_of_one_image(short, stage)
    figures = rates(stage, chunks_of(parse(CaptionDatasetConfig, given)))
    result = {
        "functions": len(called.names),
        "files": len({file for file, _ in called.names}),
        **figures,
        "recipe": config.recipe,
        "names": sorted(f"{file}: {name}" for file, name in called.names),
    }
    if config.out:
        Path(config.out).write_text(json.dumps(result, indent=1) + "\n")
    result.pop("names")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    run(main)
