"""Measure how a bulk run scales with the number of nodes, and check that the loss of a node loses no rows.

python benchmarks/scaling.py --out scaling.json
python benchmarks/scaling.py --full true --out scaling.json

Raylets on this machine simulate nodes with one GPU each, and a head with CPUs only. The whole job runs
(manifest, fetching, commits) except for the models, which are replaced by a stage that waits. Nodes join
during the run, and the rate is measured as soon as all nodes are working. The rate of a worker is measured
between its first and last chunk within the window; the cluster's rate is their sum. --full uses longer
windows and then starts another run, removes a node in the middle of it and counts the rows.
"""

import itertools
import os
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.bulk_jobs import caption_config, job_without_models
from benchmarks.measurement import machine, print_result
from glied.bulk.captioning import fetch_stage
from glied.bulk.items import Chunk, DescribedChunk, Stage, Stream
from glied.bulk.job_parts import actor_pool
from glied.bulk.row_schemas import CAPTIONS, OK
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
"""More chunks than the windows need; the run is abandoned when the rates are measured."""
CHUNKS_PER_NODE = 20
"""Chunks per node of the run that loses a node."""
NODE = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": 100 << 20}
HEAD = {"num_cpus": 2, "num_gpus": 0, "object_store_memory": 100 << 20, "include_dashboard": False}
START_ATTEMPTS = 4
SETTLE_S = 400.0
"""Maximum time until all nodes are working, on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Numbers of nodes, and how long to measure."""

    full: bool = False
    """Use windows of 30 seconds, and lose a node."""
    nodes: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Sizes of the cluster, one after another; speedups are relative to the first."""
    wait_s: float = 1.0
    """Seconds that the stage waits for each chunk of 8 images."""
    window_s: float = 6.0
    """Length of the window in which a rate is measured, in seconds."""
    lose: bool = False
    """Also run a whole job that loses a node in the middle."""
    folder: str = "runs/scaling"
    """Folder of the input and the runs; runs in it are deleted first."""
    out: str | None = None
    """File for the result as JSON."""

    def __post_init__(self) -> None:
        """Check that the cluster grows, and that a node remains after the loss of one."""
        if sorted(set(self.nodes)) != self.nodes or self.nodes[0] < 1:
            raise UsageError(f"nodes: {self.nodes} must be increasing and at least 1")
        if (self.lose or self.full) and self.nodes[-1] < 2:
            raise UsageError("lose needs at least two nodes")


@dataclass(frozen=True)
class WaitingStage:
    """Builds a stage that waits, and writes its node's id into the rows."""

    seconds: float

    def build(self) -> Stage:
        """Return the stage; there is nothing to load."""
        import ray

        node = ray.get_runtime_context().get_node_id()

        def wait(table: pa.Table) -> pa.Table:
            time.sleep(self.seconds * table.num_rows / CHUNK_IMAGES)
            blank = dict.fromkeys(CAPTIONS.names) | {"status": OK, "model": node}
            rows = [blank | row for row in table.select(["id", "uri"]).to_pylist()]
            return pa.Table.from_pylist(rows, schema=CAPTIONS)

        return wait


class RatesMeasured(Exception):
    """Ends the run when all rates are measured."""


class GrowingCluster:
    """A cluster that nodes join while a stream runs, and its measured rates."""

    def __init__(self, config: Config, cluster: "Cluster") -> None:
        """Wrap a Ray cluster that consists of a head."""
        self.config = config
        self.cluster = cluster
        self.nodes: list[Any] = []
        self.ids: set[str] = set()
        self.window_s = 30.0 if config.full else config.window_s
        self.rates: dict[int, float] = {}
        self.joined_s: dict[int, float] = {}

    def grow(self, size: int) -> None:
        """Add nodes until there are `size`."""
        while len(self.nodes) < size:
            self.nodes.append(start_with_retries(lambda: self.cluster.add_node(**NODE)))
            self.ids.add(self.nodes[-1].node_id)

    def measured(self, stream: Stream) -> Stream:
        """Wrap a stream: grow the cluster and measure its rates, then raise `RatesMeasured`."""

        def measuring(chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
            with closing(stream(chunks, isolated=isolated)) as results:  # type: ignore[type-var]  # generators
                for size in self.config.nodes:
                    self.grow(size)
                    yield from self._measure(size, results)
            raise RatesMeasured

        return measuring

    def _measure(self, size: int, results: Iterator[DescribedChunk]) -> Iterator[DescribedChunk]:
        """Yield results until the end of the window, which begins when every node has delivered one."""
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
                raise JobError(f"only {len(arrivals)} of {size} nodes are working after {SETTLE_S:.0f} s")
        raise JobError(f"no images are left with {size} nodes, {len(arrivals)} of them working")

    def losing(self, stream: Stream, after: int) -> Stream:
        """Wrap a stream: remove a node when `after` chunks are done."""
        done = itertools.count(1)

        def losing(chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
            for result in stream(chunks, isolated=isolated):
                yield result
                if next(done) == after:
                    self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)
                    print(f"removed a node after {after} chunks", flush=True)

        return losing


def start_with_retries(start: Callable[[], T]) -> T:
    """Call `start`, and again if it fails: Ray's limit of 30 s for a node is short on a busy machine."""
    for _ in range(START_ATTEMPTS - 1):
        with suppress(Exception):  # Ray raises plain exceptions here
            return start()
    return start()


def _rate(times: list[float], start: float) -> float:
    """Return the events/s between the first and the last event after `start`."""
    within = [moment for moment in times if moment >= start]
    if len(within) < 2:
        raise JobError("a node delivered fewer than two chunks within the window: choose a longer window_s")
    return (len(within) - 1) / (within[-1] - within[0])


def write_input(folder: Path, chunks: int) -> Path:
    """Write a table of images for `chunks` chunks; all its rows name the same file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image.jpg").write_bytes(bytes(2000))
    rows = [f"{number:06d},{folder / 'image.jpg'}" for number in range(chunks * CHUNK_IMAGES)]
    table = folder / f"images-{chunks}.csv"
    table.write_text("\n".join(["id,uri", *rows]) + "\n")
    return table


def caption(config: Config, name: str, chunks: int, wrap: Callable[[Stream], Stream]) -> Summary:
    """Run the whole job over `chunks` chunks, with its stream wrapped by `wrap`."""
    from glied.bulk.ray.stream import RayStream

    folder = Path(config.folder).absolute()
    shutil.rmtree(folder / name, ignore_errors=True)
    job = caption_config(
        *("--input.form=table", "--input.id_column=id"),
        *(f"--input.uri={write_input(folder, chunks)}", f"--output.uri={folder / name}"),
        *(f"--resources.worker.count={config.nodes[-1]}", "--resources.worker.gpus=1"),
        *(f"--resources.chunk.images={CHUNK_IMAGES}", f"--output.unit_size={4 * CHUNK_IMAGES}"),
    )
    pool = actor_pool(WaitingStage(config.wait_s), job.resources.worker, threads=1)
    stream = RayStream(fetch_stage(job.input, job.resources), [pool], job.resources)
    return execute(job_without_models(job), wrap(stream))


def count(folder: Path, images: int, nodes: set[str]) -> dict[str, Any]:
    """Count the rows of a run, in total and by node.

    Raises:
        JobError: a row is missing, duplicate or damaged, or comes from a node without a GPU.
    """
    rows = pa.concat_tables(pq.read_table(path) for path in committed_rows.files(str(folder)))
    ids = rows["id"].to_pylist()
    problems = list(status.verify(status.open_run(str(folder))))
    if problems or len(ids) != images or len(set(ids)) != images:
        raise JobError(f"{len(ids)} rows with {len(set(ids))} ids for {images} images; {problems[:3]}")
    by_node = Counter(rows["model"].to_pylist())
    if not set(by_node) <= nodes:
        raise JobError(f"rows from nodes without a GPU: {set(by_node) - nodes}")
    return {"images": images, "rows": len(ids), "by_node": sorted(by_node.values(), reverse=True)}


def lose_a_node(config: Config, cluster: GrowingCluster) -> dict[str, Any]:
    """Run a whole job that loses a node, and count its rows."""
    chunks = CHUNKS_PER_NODE * config.nodes[-1]
    start = time.perf_counter()
    summary = caption(config, "lost", chunks, lambda stream: cluster.losing(stream, chunks // 3))
    if summary.statuses != {OK: chunks * CHUNK_IMAGES}:
        raise JobError(f"the run that lost a node: {summary.statuses}, {summary.problems}")
    rows = count(Path(config.folder).absolute() / "lost", chunks * CHUNK_IMAGES, cluster.ids)
    return rows | {"seconds": round(time.perf_counter() - start, 1)}


def measure(config: Config) -> dict[str, Any]:
    """Start a cluster, and measure its rates and the loss of a node."""
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # loopback only
    import ray
    from ray.cluster_utils import Cluster

    head = start_with_retries(lambda: Cluster(initialize_head=True, connect=True, head_node_args=HEAD))
    cluster = GrowingCluster(config, head)
    try:
        cluster.grow(config.nodes[0])
        with suppress(RatesMeasured):
            caption(config, "growing", CHUNKS, cluster.measured)
        lost = lose_a_node(config, cluster) if config.lose or config.full else None
    finally:
        ray.shutdown()
        head.shutdown()
    first = cluster.rates[config.nodes[0]]
    return {
        "machine": machine(),
        "chunk_s": config.wait_s,
        "window_s": cluster.window_s,
        "images_per_s": {str(size): round(rate, 3) for size, rate in cluster.rates.items()},
        **{f"speedup_{size}": round(cluster.rates[size] / first, 3) for size in config.nodes[1:]},
        "joined_s": {str(size): seconds for size, seconds in cluster.joined_s.items()},
        "lost_node": lost,
    }


def main() -> int:
    """Measure and print the figures."""
    config = parse(Config, description=__doc__)
    print_result(measure(config), config.out, indent=None)
    return 0


if __name__ == "__main__":
    run(main)
