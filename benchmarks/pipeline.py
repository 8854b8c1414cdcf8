"""Compare the throughput of the bulk pipeline on Ray Data with that of a plain loop over the same stages.

python benchmarks/pipeline.py
python benchmarks/pipeline.py --full --out pipeline.json
python benchmarks/pipeline.py --full --stage millisecond --out pipeline_1ms.json

The plain loop has one process per worker. It uses the same fetching, stage, chunks, batches and decode
prefetch, and writes nothing. The pipeline is the whole job with manifest and commits. The short form runs
each once over 500 scenes; --full alternates between them three times over 2,000 scenes (5,000 with --stage
millisecond) and reports the medians. The rate is the steady state, without the first and the last tenth of
the images; the fixed cost is the time that the run takes beyond its images at that rate. --stage millisecond
replaces the models by a stage that takes 1 ms of CPU time per image, which shows the overhead per image.
"""

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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.bulk_jobs import caption_config
from benchmarks.measurement import print_result
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
    """What to compare."""

    stage: Literal["models", "millisecond"] = "models"
    """The shipped models, or a stage that takes 1 ms per image."""
    full: bool = False
    """The long form: more images, three rounds."""
    folder: str = "runs/pipeline"
    """Folder of the scenes and runs."""
    out: str | None = None
    """File for the result as JSON."""


@dataclass(frozen=True)
class MillisecondStage:
    """Builds a stage that takes 1 ms of CPU time per image."""

    def build(self) -> Stage:
        """Return the stage; there is nothing to load."""
        return _spend_a_millisecond_per_image


def _spend_a_millisecond_per_image(table: pa.Table) -> pa.Table:
    rows = []
    for row in table.select(FETCHED.names).to_pylist():
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        blank = dict.fromkeys(CAPTIONS.names)
        rows.append(blank | {"id": row["id"], "uri": row["uri"], "status": OK, "model": "1 ms"})
    return pa.Table.from_pylist(rows, schema=CAPTIONS)


Arrivals = list[tuple[float, int]]
"""Seconds since the start and number of images, for each chunk; the last item is the end, with 0 images."""


def run_on_ray(job: CaptionDatasetConfig, factory: StageFactory, folder: Path) -> Arrivals:
    """Run the whole job on Ray Data."""
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


def run_plain_loop(job: CaptionDatasetConfig, factory: StageFactory) -> Arrivals:
    """Run the stages in one process per worker, with the chunks divided among them."""
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
    """Return the images/s without the first and the last tenth of the images."""
    total = sum(count for _, count in arrivals)
    seen, steady = 0, []
    for moment, count in arrivals:
        seen += count
        if 0.1 * total <= seen <= 0.9 * total:
            steady.append((moment, count))
    return sum(count for _, count in steady[1:]) / (steady[-1][0] - steady[0][0])


def fixed_cost(arrivals: Arrivals) -> float:
    """Return the seconds beyond all images at the steady rate: start-up, first and last images, end."""
    return arrivals[-1][0] - sum(count for _, count in arrivals) / steady_rate(arrivals)


def main() -> int:
    """Run both sides alternately and print their figures."""
    config = parse(Config, description=__doc__)
    images, repeats = (2000 if config.stage == "models" else 5000, 3) if config.full else (500, 1)
    folder = Path(config.folder).absolute()
    scenes = folder / f"scenes-{images}"
    if not scenes.exists():
        options = ["--out", str(scenes), "--split", "test", "--count", str(images)]
        subprocess.run([sys.executable, "jobs/make_scenes.py", *options], check=True)
    job = caption_config(f"--input.uri={scenes / 'images'}", f"--output.uri={folder / 'run'}")
    factory: StageFactory = caption_factory(job) if config.stage == "models" else MillisecondStage()
    sides: dict[str, Callable[[], Arrivals]] = {
        "plain": lambda: run_plain_loop(job, factory),
        "ray": lambda: run_on_ray(job, factory, folder / "run"),
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
    print_result(result, config.out)
    return 0


if __name__ == "__main__":
    run(main)
