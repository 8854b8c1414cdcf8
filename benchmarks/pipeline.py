"""How much of the machine the bulk pipeline gives to the models: Ray Data against a plain loop, side by side.

python benchmarks/pipeline.py
python benchmarks/pipeline.py --full --out pipeline.json
python benchmarks/pipeline.py --full --stage millisecond --out pipeline_1ms.json

The plain loop is one process per worker that calls the same fetching and the same stage, with the same
chunks, batches and decode prefetch, and writes nothing. The pipeline is the whole job with manifest,
gathering and commits. The short form runs each once over 500 scenes, --full both in turn, three times, over
2,000 (5,000 with --stage millisecond); the medians count. A rate is that of the images between the first
and the last tenth (steady state); what the whole takes beyond its images at that rate is its fixed cost.
--stage millisecond replaces the models by a stage that takes 1 ms of processor time per image, which shows
the overhead per image.
"""

import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from glied.bulk import chunks
from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_job, fetch_stage
from glied.bulk.items import Chunk, DescribedChunk, Stage, StageFactory, Stream
from glied.bulk.job_parts import actor_pool
from glied.bulk.plan.sources.fetch import FETCHED
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.bulk.row_schemas import CAPTIONS, OK
from glied.bulk.run.bulk_run import execute
from glied.config import parse, run


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared."""

    stage: Literal["models", "millisecond"] = "models"
    """The shipped models, or 1 ms per image."""
    full: bool = False
    """The long form."""
    folder: str = "runs/pipeline"
    """Where scenes and runs are."""
    out: str | None = None
    """Where to write the result as JSON."""


@dataclass(frozen=True)
class Millisecond:
    """Builds a stage that takes 1 ms of processor time per image."""

    def build(self) -> Stage:
        """Nothing to load."""
        return _spend_a_millisecond_each


def _spend_a_millisecond_each(table: pa.Table) -> pa.Table:
    rows = []
    for row in table.select(FETCHED.names).to_pylist():
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        blank = dict.fromkeys(CAPTIONS.names)
        rows.append(blank | {"id": row["id"], "uri": row["uri"], "status": OK, "model": "1 ms"})
    return pa.Table.from_pylist(rows, schema=CAPTIONS)


Arrivals = list[tuple[float, int]]
"""Seconds since the start and images, per chunk; and last, when all was done, without an image."""


def through_ray(job: CaptionDatasetConfig, factory: StageFactory, folder: Path) -> Arrivals:
    """The whole job on Ray, as a process of its own would do it."""
    from glied.bulk.ray.stream import RayStream

    shutil.rmtree(folder, ignore_errors=True)
    arrivals: Arrivals = []
    start = time.perf_counter()

    def timed(stream: Stream) -> Stream:
        def timing(chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
            for result in stream(chunks, isolated=isolated):
                arrivals.append((time.perf_counter() - start, result.table.num_rows))
                yield result

        return timing

    worker = job.resources.worker
    pool = actor_pool(factory, worker, threads=worker.threads)
    stream = RayStream(fetch_stage(job.input, job.resources), [pool], job.resources)
    execute(caption_job(job), timed(stream))
    return [*arrivals, (time.perf_counter() - start, 0)]


def plainly(job: CaptionDatasetConfig, factory: StageFactory) -> Arrivals:
    """A process per worker, each with its share of the chunks."""
    table = pa.concat_tables(inputs(open_source(job.input, "/nowhere"), job.input))
    size, resources = job.output.unit_size, job.resources
    pieces = [
        piece
        for unit, first in enumerate(range(0, table.num_rows, size))
        for piece in chunks.split(
            unit, 0, table.slice(first, size), images=resources.chunk.images, size=resources.chunk.bytes
        )
    ]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    start = time.time()
    workers = [
        context.Process(target=_work, args=(job, factory, pieces[rank :: job.resources.worker.count], queue))
        for rank in range(job.resources.worker.count)
    ]
    for worker in workers:
        worker.start()
    arrivals = [(moment - start, count) for moment, count in (queue.get() for _ in pieces)]
    for worker in workers:
        worker.join()
    return [*sorted(arrivals), (time.time() - start, 0)]


def _work(job: CaptionDatasetConfig, factory: StageFactory, pieces: list[Chunk], queue: Any) -> None:
    import torch

    torch.set_num_threads(job.resources.worker.threads)
    fetch, stage = fetch_stage(job.input, job.resources), factory.build()
    for piece in pieces:
        queue.put((time.time(), stage(fetch(piece.table)).num_rows))


def steady_rate(arrivals: Arrivals) -> float:
    """Images/s between the first and the last tenth of the images."""
    total = sum(count for _, count in arrivals)
    seen, inside = 0, []
    for moment, count in arrivals:
        seen += count
        if 0.1 * total <= seen <= 0.9 * total:
            inside.append((moment, count))
    return sum(count for _, count in inside[1:]) / (inside[-1][0] - inside[0][0])


def fixed_cost(arrivals: Arrivals) -> float:
    """Seconds beyond all images at the steady rate: start-up, first and last images, the end."""
    return arrivals[-1][0] - sum(count for _, count in arrivals) / steady_rate(arrivals)


def main() -> int:
    """Run both sides in turn and compare."""
    config = parse(Config, description=__doc__)
    images, repeats = (2000 if config.stage == "models" else 5000, 3) if config.full else (500, 1)
    folder = Path(config.folder).absolute()
    scenes = folder / f"scenes-{images}"
    if not scenes.exists():
        options = ["--out", str(scenes), "--split", "test", "--count", str(images)]
        subprocess.run([sys.executable, "jobs/make_scenes.py", *options], check=True)
    places = [f"--input.uri={scenes / 'images'}", f"--output.uri={folder / 'run'}"]
    job = parse(CaptionDatasetConfig, ["--config=configs/caption/demo.yaml", *places])
    factory: StageFactory = caption_factory(job) if config.stage == "models" else Millisecond()
    sides: dict[str, Callable[[], Arrivals]] = {
        "plain": lambda: plainly(job, factory),
        "ray": lambda: through_ray(job, factory, folder / "run"),
    }
    runs: dict[str, list[Arrivals]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            runs[name].append(side())
            print(f"{name}: {steady_rate(runs[name][-1]):.1f} images/s", flush=True)
    plain, ray = (statistics.median(map(steady_rate, runs[name])) for name in sides)
    result = {
        "images_per_s": round(ray, 1),
        "plain_images_per_s": round(plain, 1),
        "efficiency": round(ray / plain, 3),
        "fixed_s": round(statistics.median(map(fixed_cost, runs["ray"])), 1),
        "plain_fixed_s": round(statistics.median(map(fixed_cost, runs["plain"])), 1),
        "overhead_ms_per_image": round(1000 * job.resources.worker.count * (1 / ray - 1 / plain), 3),
        "every_images_per_s": {
            name: [round(steady_rate(one), 1) for one in some] for name, some in runs.items()
        },
        "stage": config.stage,
        "images": images,
        "workers": job.resources.worker.count,
    }
    if config.out:
        Path(config.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    run(main)
