"""How a bulk run scales with the nodes of its cluster, and what the loss of a node costs.

python benchmarks/scaling.py --out scaling.json
python benchmarks/scaling.py --full true --out scaling.json

Raylets on this machine stand for nodes with a pretended GPU each, beside a head with CPUs only. The whole job
runs (manifest, fetching, gathering, commits); only the models are replaced, by a stage that waits.
The cluster grows under way: the run goes on while nodes join, and a rate is measured as soon as all of them
are at work. A worker's rate is that of its chunks between the first and the last one within the window; that
of the cluster is their sum. --full has longer windows, then begins another run, loses a node in the middle of
it, and counts the rows.
"""

import itertools
import json
import os
import platform
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from glied.bulk.captioning import CaptionDatasetConfig, fetch_stage
from glied.bulk.items import Chunk, DescribedChunk, Job, Stage, Stream
from glied.bulk.job_parts import actor_pool
from glied.bulk.row_schemas import CAPTIONS, OK, encode
from glied.bulk.run import committed_rows, status
from glied.bulk.run.bulk_run import execute
from glied.bulk.run.summary import Summary
from glied.config import parse, run
from glied.errors import JobError, UsageError

if TYPE_CHECKING:  # Ray reads the environment when it is imported
    from ray.cluster_utils import Cluster

T = TypeVar("T")

CHUNK_IMAGES = 8
CHUNKS = 2_000
"""More than the windows need; the growing run is left when they are over."""
CHUNKS_PER_NODE = 20
"""Of the run that loses a node."""
NODE = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": 100 << 20}
HEAD = {"num_cpus": 2, "num_gpus": 0, "object_store_memory": 100 << 20, "include_dashboard": False}
START_ATTEMPTS = 4
SETTLE_S = 400.0
"""Longest time until all nodes are at work, on a machine that does much else."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many nodes, and for how long."""

    full: bool = False
    """Windows of 30 seconds, and a node is lost."""
    nodes: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Sizes of the cluster, one after another; speedups are relative to the first."""
    wait_s: float = 1.0
    """Seconds that the stage waits on a chunk of 8 images."""
    window_s: float = 6.0
    """Seconds that each rate is measured over."""
    lose: bool = False
    """Also run until the end with a node lost in the middle."""
    folder: str = "runs/scaling"
    """Where input and runs are; runs in it are deleted first."""
    out: str | None = None
    """Where to write the result as JSON."""

    def __post_init__(self) -> None:
        """Refuse clusters that shrink, and losing the only node."""
        if sorted(set(self.nodes)) != self.nodes or self.nodes[0] < 1:
            raise UsageError(f"nodes: {self.nodes} does not grow from 1 or more")
        if (self.lose or self.full) and self.nodes[-1] < 2:
            raise UsageError("lose needs two nodes")


@dataclass(frozen=True)
class Waiting:
    """Builds a stage that waits, and names its node."""

    seconds: float

    def build(self) -> Stage:
        """Nothing to load."""
        import ray

        node = ray.get_runtime_context().get_node_id()

        def wait(table: pa.Table) -> pa.Table:
            time.sleep(self.seconds * table.num_rows / CHUNK_IMAGES)
            blank = dict.fromkeys(CAPTIONS.names) | {"status": OK, "model": node}
            rows = [blank | row for row in table.select(["id", "uri"]).to_pylist()]
            return pa.Table.from_pylist(rows, schema=CAPTIONS)

        return wait


class Enough(Exception):
    """The rates are measured."""


class Growing:
    """A cluster that grows while a stream runs, and the rates at its sizes."""

    def __init__(self, config: Config, cluster: "Cluster") -> None:
        """`cluster` has a head."""
        self.config = config
        self.cluster = cluster
        self.nodes: list[Any] = []
        self.ids: set[str] = set()
        self.window_s = 30.0 if config.full else config.window_s
        self.rates: dict[int, float] = {}
        self.joined_s: dict[int, float] = {}

    def grow(self, size: int) -> None:
        """Add nodes up to this number."""
        while len(self.nodes) < size:
            self.nodes.append(started(lambda: self.cluster.add_node(**NODE)))
            self.ids.add(self.nodes[-1].node_id)

    def measured(self, stream: Stream) -> Stream:
        """The stream, until the rates at all sizes are measured."""

        def measuring(chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
            with closing(stream(chunks, isolated=isolated)) as results:  # type: ignore[type-var]  # streams are generators
                for size in self.config.nodes:
                    self.grow(size)
                    yield from self._measure(size, results)
            raise Enough

        return measuring

    def _measure(self, size: int, results: Iterator[DescribedChunk]) -> Iterator[DescribedChunk]:
        """Results until the window is over, which begins when every node has delivered one."""
        start = time.perf_counter()
        arrivals: dict[str, list[float]] = defaultdict(list)
        window: float | None = None
        for result in results:
            now = time.perf_counter()
            arrivals[result.table["model"][0].as_py()].append(now)
            yield result
            if window is None and len(arrivals) == size:
                window = now
                self.joined_s[size] = round(now - start, 1)
            if window is not None and now > window + self.window_s:
                self.rates[size] = CHUNK_IMAGES * sum(_rate(times, window) for times in arrivals.values())
                print(f"{size} nodes: {self.rates[size]:.2f} images/s", flush=True)
                return
            if window is None and now > start + SETTLE_S:
                raise JobError(f"only {len(arrivals)} of {size} nodes are at work after {SETTLE_S:.0f} s")
        raise JobError(f"the images ran out at {size} nodes, {len(arrivals)} at work")

    def losing(self, stream: Stream, after: int) -> Stream:
        """The stream; a node is lost as soon as `after` chunks are done."""
        done = itertools.count(1)

        def losing(chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
            for result in stream(chunks, isolated=isolated):
                yield result
                if next(done) == after:
                    self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)
                    print(f"a node is lost after {after} chunks", flush=True)

        return losing


def started(start: Callable[[], T]) -> T:
    """What `start` returns; Ray gives a node 30 seconds, which a busy machine may need more than once."""
    for _ in range(START_ATTEMPTS - 1):
        with suppress(Exception):  # Ray raises bare ones here
            return start()
    return start()


def _rate(times: list[float], start: float) -> float:
    """Events/s between the first and the last one after `start`."""
    inside = [moment for moment in times if moment >= start]
    if len(inside) < 2:
        raise JobError("a node did not deliver two chunks within the window: choose a longer window_s")
    return (len(inside) - 1) / (inside[-1] - inside[0])


def write_input(folder: Path, chunks: int) -> Path:
    """A table of so many chunks of images, all of which are one file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image.jpg").write_bytes(bytes(2000))
    rows = [f"{number:06d},{folder / 'image.jpg'}" for number in range(chunks * CHUNK_IMAGES)]
    table = folder / f"images-{chunks}.csv"
    table.write_text("\n".join(["id,uri", *rows]) + "\n")
    return table


def caption(config: Config, name: str, chunks: int, around: Any) -> Summary:
    """The whole job over so many chunks, with `around` put around its stream."""
    from glied.bulk.ray.stream import RayStream

    folder = Path(config.folder).absolute()
    shutil.rmtree(folder / name, ignore_errors=True)
    options = ["--config=configs/caption/demo.yaml", "--input.form=table", "--input.id_column=id"]
    options += [f"--input.uri={write_input(folder, chunks)}", f"--output.uri={folder / name}"]
    options += [f"--resources.worker.count={config.nodes[-1]}", "--resources.worker.gpus=1"]
    options += [f"--resources.chunk.images={CHUNK_IMAGES}", f"--output.unit_size={4 * CHUNK_IMAGES}"]
    parsed = parse(CaptionDatasetConfig, options)
    job = Job(
        results="captions",
        schema=CAPTIONS,
        encode=encode,
        model="waiting",
        config={},
        fingerprint={},
        source=parsed.input,
        output=parsed.output,
        resources=parsed.resources,
        error_budget=0.0,
        example=lambda row: row["caption"],
    )
    pool = actor_pool(Waiting(config.wait_s), parsed.resources.worker, threads=1)
    stream = RayStream(fetch_stage(parsed.input, parsed.resources), [pool], parsed.resources)
    return execute(job, around(stream))


def count(folder: Path, images: int, nodes: set[str]) -> dict[str, Any]:
    """Rows of a run, and how many of them each node made.

    Raises:
        JobError: a row is missing, doubled or damaged, or another node than those with a GPU made it.
    """
    rows = pa.concat_tables(pq.read_table(path) for path in committed_rows.files(str(folder)))
    ids = rows["id"].to_pylist()
    problems = list(status.verify(status.open_run(str(folder))))
    if problems or len(ids) != images or len(set(ids)) != images:
        raise JobError(f"{len(ids)} rows, {len(set(ids))} ids of {images} images; {problems[:3]}")
    by_node = Counter(rows["model"].to_pylist())
    if not set(by_node) <= nodes:
        raise JobError(f"rows of nodes without a GPU: {set(by_node) - nodes}")
    return {"images": images, "rows": len(ids), "by_node": sorted(by_node.values(), reverse=True)}


def lose_a_node(config: Config, growing: Growing) -> dict[str, Any]:
    """A run from start to end in which a node is lost; its rows."""
    chunks = CHUNKS_PER_NODE * config.nodes[-1]
    start = time.perf_counter()
    summary = caption(config, "lost", chunks, lambda stream: growing.losing(stream, chunks // 3))
    if summary.statuses != {OK: chunks * CHUNK_IMAGES}:
        raise JobError(f"with a node lost: {summary.statuses}, {summary.problems}")
    rows = count(Path(config.folder).absolute() / "lost", chunks * CHUNK_IMAGES, growing.ids)
    return rows | {"seconds": round(time.perf_counter() - start, 1)}


def measure(config: Config) -> dict[str, Any]:
    """All of it, on a cluster of its own."""
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # loopback only
    import ray
    from ray.cluster_utils import Cluster

    cluster = started(lambda: Cluster(initialize_head=True, connect=True, head_node_args=HEAD))
    growing = Growing(config, cluster)
    try:
        growing.grow(config.nodes[0])
        with suppress(Enough):
            caption(config, "growing", CHUNKS, growing.measured)
        lost = lose_a_node(config, growing) if config.lose or config.full else None
    finally:
        ray.shutdown()
        cluster.shutdown()
    first = growing.rates[config.nodes[0]]
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "chunk_s": config.wait_s,
        "window_s": growing.window_s,
        "images_per_s": {str(size): round(rate, 3) for size, rate in growing.rates.items()},
        **{f"speedup_{size}": round(growing.rates[size] / first, 3) for size in config.nodes[1:]},
        "joined_s": {str(size): seconds for size, seconds in growing.joined_s.items()},
        "lost_node": lost,
    }


def main() -> int:
    """Measure, print, write."""
    config = parse(Config, description=__doc__)
    text = json.dumps(measure(config))
    print(text)
    if config.out:
        Path(config.out).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    run(main)
