"""Measure the bytes, requests and driver time per image and per unit of a bulk run, for docs/scaling.md.

python benchmarks/footprint.py --out footprint.json

The rows are those of the shipped weights for rendered scenes. The driver's time is measured on a run of many
such rows without any stage, in units of `unit_size`, on this machine's disk. Object storage adds its latency
for each of the counted requests.
"""

import os
import random
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.bulk_jobs import caption_config, job_without_models
from benchmarks.measurement import machine, print_result
from glied import storage
from glied.bulk import chunks
from glied.bulk.arrow_tables import to_ipc
from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_job
from glied.bulk.chunks import run_here
from glied.bulk.items import Chunk, DescribedChunk, Stream
from glied.bulk.plan import manifest
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.row_schemas import encode
from glied.bulk.run.bulk_run import execute
from glied.config import parse, run
from glied.demo_world.dataset import write_split
from glied.run_folder import CommittedUnit, output_name, record_name

KEY = "s3://photographs/2026/{:03d}/{}.jpg"
"""Keys as long as those of object storage; random names compress worst."""
REQUESTS = ("put_if_absent", "write_bytes", "read_bytes", "list_files", "exists", "delete")
"""Functions of storage whose calls are counted."""
SMALL_UNIT = 64


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much to measure."""

    scenes: int = 48
    """Number of scenes to caption."""
    images: int = 20_000
    """Number of rows of each driver run; ten times as many images are planned."""
    unit_size: int = 1024
    """Images per unit of the first driver run; the second has 64."""
    out: str | None = None
    """File for the result as JSON."""


def caption_scenes(folder: Path, count: int) -> pa.Table:
    """Caption scenes with the shipped weights and return the written rows."""
    write_split(folder / "scenes", "test", count, 0, os.cpu_count() or 1)
    images = folder / "scenes" / "images"
    config = caption_config(f"--input.uri={images}", f"--output.uri={folder / 'captions'}")
    execute(caption_job(config), run_here(Fetch(), caption_factory(config).build()))
    files = sorted((folder / "captions" / "captions").glob("*.parquet"))
    return pa.concat_tables(pq.read_table(file) for file in files)


def planned(images: int) -> pa.Table:
    """Return a plan of images with keys as long as those of object storage."""
    generator = random.Random(0)
    keys = [KEY.format(number // 1000 % 1000, generator.randbytes(8).hex()) for number in range(images)]
    names = [key.removeprefix("s3://photographs/") for key in keys]
    return manifest.planned(id=names, uri=keys, size=[180_000] * images)


def measure_plan(folder: Path, images: int, config: CaptionDatasetConfig) -> dict[str, float]:
    """Measure the bytes per image in the manifest, and in the driver while its chunk waits."""
    table = planned(images)
    plan = manifest.create(str(folder), [table], 1024)
    stored = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
    assert plan.images == images
    resources = config.resources
    pieces = chunks.split(0, 0, table, images=resources.chunk.images, size=resources.chunk.bytes)
    waiting = sum(len(to_ipc(piece.table)) for piece in pieces)
    return {
        "manifest_bytes_per_image": round(stored / images, 1),
        "planned_bytes_per_image": round((waiting + table.nbytes) / images),
        "images_per_chunk": round(images / len(pieces), 1),
    }


def measure_driver(folder: Path, rows: pa.Table, images: int, unit_size: int) -> dict[str, Any]:
    """Run a job without a stage; return the driver's CPU seconds, its requests and the size of its files."""
    table = folder / "images.csv"
    table.parent.mkdir(parents=True)
    names = [KEY.format(0, number) for number in range(images)]
    table.write_text("\n".join(["uri", *names]) + "\n")
    config = caption_config(
        *("--input.form=table", f"--input.uri={table}"),
        *(f"--output.uri={folder / 'run'}", f"--output.unit_size={unit_size}"),
    )
    with count_requests() as requests:
        start = time.process_time()
        execute(job_without_models(config), constant_stream(rows))
        seconds = time.process_time() - start
    units = -(-images // unit_size)
    sizes = [file.stat().st_size for file in folder.glob("run/commits/*.json")]
    return {
        "seconds": seconds,
        "units": units,
        "requests": dict(requests),
        "record_bytes": sum(sizes) / len(sizes),
    }


def constant_stream(rows: pa.Table) -> Stream:
    """Return a stream whose results repeat the given rows under the ids and URIs of the chunks."""

    def stream(chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
        for chunk in chunks:
            table = rows.take([number % rows.num_rows for number in range(chunk.table.num_rows)])
            for name in ("id", "uri"):
                table = table.set_column(table.schema.get_field_index(name), name, chunk.table[name])
            yield DescribedChunk(chunk.unit, chunk.start, table)

    return stream


def row_bytes(rows: pa.Table) -> float:
    """Return the bytes that a row adds to a file, without the file's fixed part."""
    half = rows.num_rows // 2
    return (len(encode(rows)) - len(encode(rows.slice(0, half)))) / (rows.num_rows - half)


@contextmanager
def count_requests() -> Iterator[Counter[str]]:
    """Count the calls of the storage functions by name."""
    requests: Counter[str] = Counter()
    functions = {name: getattr(storage, name) for name in REQUESTS}

    def counting(name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            requests[name] += 1
            return functions[name](*arguments, **options)

        return call

    try:
        for name in REQUESTS:
            setattr(storage, name, counting(name))
        yield requests
    finally:
        for name, function in functions.items():
            setattr(storage, name, function)


def summed_bytes() -> float:
    """Return the memory of a finished unit in the driver when it computes the summary."""
    tracemalloc.start()
    folder, plan = "s3://photographs-captions/2026-11", "0123456789ab"
    units = []
    for unit in range(5_000):
        output = f"{folder}/captions/{output_name(unit, 0, plan)}"
        record = f"{folder}/commits/{record_name(unit, 0, plan, 600_000)}"
        units.append(CommittedUnit(unit, 0, output, record, 600_000, 600_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / len(units)


def measure(config: Config, folder: Path) -> dict[str, Any]:
    """Measure all figures."""
    defaults = caption_config("--input.uri=in", "--output.uri=out")
    rows = caption_scenes(folder / "rows", config.scenes)
    large = measure_driver(folder / "large", rows, config.images, config.unit_size)
    small = measure_driver(folder / "small", rows, config.images, SMALL_UNIT)
    per_unit = (small["seconds"] - large["seconds"]) / (small["units"] - large["units"])
    per_image = (large["seconds"] - per_unit * large["units"]) / config.images
    more = {name: small["requests"][name] - large["requests"].get(name, 0) for name in small["requests"]}
    extra = small["units"] - large["units"]
    return {
        **measure_plan(folder / "plan", 10 * config.images, defaults),
        "row_bytes_per_image": round(row_bytes(rows)),
        "record_bytes_per_unit": round(large["record_bytes"]),
        "summed_bytes_per_unit": round(summed_bytes()),
        "puts_per_unit": round((more["put_if_absent"] + more["write_bytes"]) / extra, 2),
        "driver_ms_per_image": round(1000 * per_image, 4),
        "driver_ms_per_unit": round(1000 * per_unit, 3),
        "machine": machine(),
    }


def main() -> int:
    """Measure and print the figures."""
    config = parse(Config, description=__doc__)
    with tempfile.TemporaryDirectory(prefix="glied-footprint-") as folder:
        figures = measure(config, Path(folder))
    print_result(figures, config.out, indent=None)
    return 0


if __name__ == "__main__":
    run(main)
