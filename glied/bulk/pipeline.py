"""The stream of a run on Ray Data: chunks in, described chunks out. Nothing else in the package uses Ray.

One row of the dataset is one chunk of 16-64 images, with its table as one Arrow IPC value: Ray Data splits
and merges blocks of rows, never a row. The stages ask for different resources, so that they are not fused
and fetching runs ahead of the models. Restarts and retries are finite; a chunk that is lost nevertheless is
missing from the stream, and the caller sends it again.
"""

import ctypes
import faulthandler
import logging
import math
import os
import queue
import sys
import threading
import time
import uuid
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from itertools import chain, groupby, islice
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.util.metrics
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.util.annotations import RayDeprecationWarning

from glied import placement, ray_runtime
from glied.bulk import parallel
from glied.bulk.chunks import Chunk, FetchStage, Pool, Result, StageFactory, StreamBroken
from glied.bulk.config import ResourcesConfig
from glied.bulk.tables import from_ipc, seconds_of, to_ipc, with_seconds
from glied.errors import JobError, UsageError

log = logging.getLogger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")
Answer = TypeVar("Answer")

SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
"""Bounds of the histogram's buckets."""
LARGE_CHUNK = 4 << 20
"""Bytes of a chunk after which a process returns its memory, which costs a small one too much."""
M_MMAP_THRESHOLD = -3
"""Its number in malloc.h."""
STDERR = 2
"""Its number; Ray keeps what a worker writes there."""
STORE_CHUNKS = 8
"""So many chunks must fit into a node's object store: some fetched, some waiting, some at a worker."""
CHECK_S = 0.5
"""While nothing comes, so often a stream looks whether Ray still runs."""
FEW_SHARDS = 16
"""Fewer are read by the driver."""
TASKS_AHEAD = 64
"""Tasks that read shards, at once or waiting for a place."""
MOST_GATHERED = 16
"""Full chunks, or as many images in smaller ones, that a fetching task has at most."""
MAX_BLOCKS = 2_000
"""Blocks that the chunks of a round are dealt to."""


class RayStream:
    """Runs chunks through fetching tasks and a pool of model actors; results arrive in any order."""

    def __init__(self, fetch: FetchStage, pools: Sequence[Pool], resources: ResourcesConfig) -> None:
        """Chunks go through the pools in turn; each actor builds its stage with its pool's factory."""
        self.fetch = fetch
        self.pools = pools
        self.resources = resources
        self.metrics = Metrics()

    def __call__(self, chunks: Sequence[Chunk], *, alone: bool = False) -> Iterator[Result]:
        """Described chunks as they are done; what was lost is missing.

        A chunk whose worker dies is tried again, but not if `alone`: then it is the one that killed it.

        Raises:
            UsageError: the chunks are too large for the object store of a node.
            JobError: Ray does not start, the cluster has no room, or an object store is full.
            StreamBroken: the workers died more often than they may, or the cluster went away.
        """
        _start(self.pools, self.resources)
        _configure(self.resources.chunk_bytes)
        _check_stores(self.resources.chunk_bytes)
        workers = _place(self.pools, self.resources)
        with Shortage.watched() as shortage:
            try:
                yield from self._results(chunks, workers, alone=alone)
            except StreamBroken as error:
                shortage.note(error.__cause__)
                shortage.check()
                raise
            shortage.check()

    def _results(self, chunks: Sequence[Chunk], workers: Sequence[int], *, alone: bool) -> Iterator[Result]:
        actors = Actors()
        dataset: Dataset | None = None
        try:
            dataset = self._dataset(chunks, workers, actors, alone=alone)
            batches = dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=4)
            for batch in watched(batches, self.resources.stall_s, _check_node):
                row = batch.to_pylist()[0]
                table = from_ipc(row["table"])
                self.metrics.count(table)
                yield Result(row["unit"], row["start"], table)
        except ray.exceptions.RayError as error:
            raise StreamBroken(_first_line(error)) from error
        finally:
            _end(dataset)
            if not ray_runtime.node_is_dead():  # else they have died with it
                actors.kill()

    def in_order(self, function: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
        """Answers in the order of the items, by tasks all over the cluster where the items are many.

        Raises:
            JobError: Ray does not start, the cluster has no CPU, or a task is lost more often than it may.
        """
        items = iter(items)
        first = list(islice(items, FEW_SHARDS))
        if len(first) < FEW_SHARDS:
            yield from parallel.in_order(function, first)
            return
        _start(self.pools, self.resources)
        placement.wait_for([placement.share(cpus=1)], wait_s=self.resources.wait_s, key="resources.wait_s")
        call = ray.remote(num_cpus=1, max_retries=self.resources.restarts)(parallel.call)
        shared = ray.put(function)
        waiting: deque[ray.ObjectRef] = deque()
        for item in chain(first, items):
            waiting.append(call.remote(shared, item))
            if len(waiting) >= TASKS_AHEAD:
                yield _answer(waiting.popleft())
        while waiting:
            yield _answer(waiting.popleft())

    def _dataset(
        self, chunks: Sequence[Chunk], workers: Sequence[int], actors: "Actors", *, alone: bool
    ) -> Dataset:
        """The plan of the stream; `workers` of each pool start at once, the others where nodes join."""
        with warnings.catch_warnings():
            # Retries have no other place until 2.64; those of the constraints are tested.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            return self._planned(chunks, workers, actors, alone=alone)

    def _planned(
        self, chunks: Sequence[Chunk], workers: Sequence[int], actors: "Actors", *, alone: bool
    ) -> Dataset:
        resources = self.resources
        retries = 0 if alone else resources.restarts
        # A row group of a Parquet file is read for many chunks, and slow hosts are waited for together; yet
        # the first chunks should not wait for that: what a task has fetched travels together.
        wanted = 0 if alone else self.fetch.tasks_per_worker(chunk.table for chunk in chunks)
        tasks = wanted * resources.workers
        images = sum(chunk.table.num_rows for chunk in chunks) // tasks if tasks else 1
        together = min(MOST_GATHERED * resources.chunk_images, images)
        rows = [
            {
                "units": [chunk.unit for chunk in some],
                "starts": [chunk.start for chunk in some],
                "tables": [to_ipc(chunk.table) for chunk in some],
            }
            for some in _of_one_file(chunks, together)
        ]
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS))
        dataset = dataset.map_batches(
            _FetchChunks(self.fetch, resources.chunk_bytes),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=resources.fetch_cpus,
            ray_remote_args_fn=partial(dict, max_retries=resources.restarts),
        )
        for pool, count in zip(self.pools, workers, strict=True):
            dataset = dataset.map_batches(
                _DescribeChunk,
                fn_constructor_args=(pool.factory, pool.threads, resources.chunk_s),
                batch_size=1,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    min_size=count,
                    max_size=count if alone else pool.workers,
                    max_tasks_in_flight_per_actor=1 if alone else None,
                ),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus or None,
                memory=pool.memory or None,
                accelerator_type=pool.accelerator,
                # As many restarts as the chunks may need: a worker that is given up leaves a smaller pool.
                ray_remote_args_fn=partial(
                    actors.arguments, max_restarts=(retries + 1) * len(chunks), max_task_retries=retries
                ),
            )
        return dataset


class Actors:
    """The actors of a stream, so that none of them outlives it.

    Ray Data (2.60) lets go of its actors at the end of a stream, but Ray keeps those alive that may have to
    make a lost result again; after the loss of a node they would hold the GPUs that the next round needs.
    """

    def __init__(self) -> None:
        """None yet."""
        self.names: list[str] = []

    def arguments(self, **others: object) -> dict[str, object]:
        """Those of the next actor: a name to find it by, and `others`."""
        self.names.append(f"glied-{uuid.uuid4().hex}")
        return {"name": self.names[-1], **others}

    def kill(self) -> None:
        """End those that still live."""
        for name in self.names if ray.is_initialized() else ():
            with suppress(ValueError, ray.exceptions.RayError):  # it is gone, or the cluster is
                ray.kill(ray.get_actor(name))


class Shortage(logging.Handler):
    """Notes that a node had no room for what travels: the images of the lost chunks are not to blame.

    Ray Data (2.60) passes over the errors of single tasks and tells its log of them, nobody else.
    """

    def __init__(self) -> None:
        """None yet."""
        super().__init__(logging.ERROR)
        self.reason: str | None = None

    @classmethod
    @contextmanager
    def watched(cls) -> Iterator["Shortage"]:
        """Listen to the log of Ray Data."""
        shortage, logger = cls(), logging.getLogger("ray.data")
        logger.addHandler(shortage)
        try:
            yield shortage
        finally:
            logger.removeHandler(shortage)

    def emit(self, record: logging.LogRecord) -> None:
        """Look at the error that a record is about."""
        self.note(record.exc_info[1] if record.exc_info else None)

    def note(self, error: BaseException | None) -> None:
        """Remember the error if it, or what caused it, is such a shortage."""
        while error is not None:
            if isinstance(error, (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError)):
                self.reason = str(error).splitlines()[0]
            error = getattr(error, "cause", None) or error.__cause__

    def check(self) -> None:
        """Raise what was noted.

        Raises:
            JobError: there was a shortage.
        """
        if self.reason is not None:
            raise JobError(
                f"the object store of a node is full ({self.reason}): free its disk, where Ray keeps what "
                "memory does not hold, or give it a larger /dev/shm; the same command goes on"
            )


def _of_one_file(chunks: Iterable[Chunk], images: int) -> Iterator[list[Chunk]]:
    """Neighbors that have about so many images together, in one file or in files of their own."""
    for _, same in groupby(chunks, key=lambda chunk: chunk.table["file"][0].as_py()):
        some: list[Chunk] = []
        for chunk in same:
            some.append(chunk)
            if sum(one.table.num_rows for one in some) >= images:
                yield some
                some = []
        if some:
            yield some


def _answer(task: ray.ObjectRef) -> Any:
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None  # as if the function had been called here
    except ray.exceptions.RayError as error:
        raise JobError(f"a task that reads the input was lost: {_first_line(error)}") from error


def _end(dataset: Dataset | None) -> None:
    """Stop what a stream that broke off has left running: its workers would stand in the next round's way.

    Ray Data (2.60) has no public call for it, and ends an execution by itself only once it is exhausted.
    """
    executor = getattr(dataset, "_current_executor", None)
    if executor is not None:
        executor.shutdown(force=True)


def _check_node() -> None:
    """Stop at once where Ray's own processes have died: every call of it would fail, in many words.

    Raises:
        JobError: they have.
    """
    if ray_runtime.node_is_dead():
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        raise JobError(
            "Ray's raylet or GCS on this machine died, maybe for lack of memory; the same command goes on"
        )


def watched(batches: Iterable[T], stall_s: float, check: Callable[[], None] = lambda: None) -> Iterator[T]:
    """The same, unless nothing comes for `stall_s`: a worker hangs, and the next round tries without it.

    `check` is called every `CHECK_S` while nothing comes.

    Raises:
        StreamBroken: nothing came.
    """
    arrived: queue.Queue[T | BaseException | None] = queue.Queue(1)
    stopped = threading.Event()

    def put(item: T | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                arrived.put(item, timeout=0.5)
                return

    def draw() -> None:
        try:
            for batch in batches:
                put(batch)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    threading.Thread(target=draw, name="stream", daemon=True).start()
    try:
        deadline = time.monotonic() + stall_s
        while True:
            try:
                item = arrived.get(timeout=min(CHECK_S, max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                check()
                if time.monotonic() < deadline:
                    continue
                raise
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
            deadline = time.monotonic() + stall_s
    except queue.Empty:
        raise StreamBroken(f"no chunk was done for {stall_s:.0f} s (resources.stall_s)") from None
    finally:
        stopped.set()


class Metrics:
    """What Ray exports to Prometheus: images by status, and the seconds of a chunk in each stage."""

    def __init__(self) -> None:
        """Register them once Ray runs."""
        self.images: ray.util.metrics.Counter | None = None
        self.seconds: ray.util.metrics.Histogram | None = None

    def count(self, table: pa.Table) -> None:
        """Count a described chunk."""
        if self.images is None or self.seconds is None:
            self.images = ray.util.metrics.Counter("glied_images", "Images described.", ("status",))
            self.seconds = ray.util.metrics.Histogram(
                "glied_chunk_seconds", "Seconds of a chunk in a stage.", SECONDS, ("stage",)
            )
        for status, count in Counter(table["status"].to_pylist()).items():
            self.images.inc(count, {"status": str(status)})
        for stage, seconds in seconds_of(table).items():
            self.seconds.observe(seconds, {"stage": stage})


class _FetchChunks:
    """The fetching task: each chunk as one row, or as several where its files are larger than was known."""

    def __init__(self, fetch: FetchStage, size: int) -> None:
        self.fetch = fetch
        self.size = size
        self.__name__ = "fetch"  # Ray Data names the operator after it

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        _use_malloc(keep_large=False)
        row = batch.to_pylist()[0]
        units, starts = row["units"], row["starts"]
        tables = [from_ipc(table) for table in row["tables"]]
        clock = time.perf_counter()
        try:
            for number, piece in self._pieces(tables):
                seconds = {"fetch": time.perf_counter() - clock}
                yield _row(units[number], starts[number], with_seconds(piece, seconds))
                starts[number] += piece.num_rows
                clock = time.perf_counter()
        finally:
            self.fetch.forget()

    def _pieces(self, tables: list[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
        if any(table["size"].null_count for table in tables):
            return self.fetch.pieces(tables, self.size)
        return enumerate(map(self.fetch, tables))


class _DescribeChunk:
    """The actor that holds the models; it ends itself when it spends too long on a chunk."""

    def __init__(self, factory: StageFactory, threads: int, longest_s: float) -> None:
        _use_malloc(keep_large=True)
        self.longest_s = longest_s
        self.stage = factory.build()
        if "torch" in sys.modules:  # a stage may do without
            import torch

            torch.set_num_threads(threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        row = batch.to_pylist()[0]
        table = from_ipc(row["table"])
        with _deadline(self.longest_s):
            described = self.stage(table)
        result = _row(row["unit"], row["start"], with_seconds(described, seconds_of(table)))
        size = table.nbytes
        del batch, row, table
        _release(size)
        return result


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer, with the stacks of its threads in its log.

    A hang in native code may hold the interpreter's lock; this watchdog does not need it.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@cache
def _use_malloc(*, keep_large: bool) -> None:
    """Have Arrow allocate with malloc in this process, since its own allocator keeps what large chunks took.

    Without `keep_large` blocks above 1 MB go back to the system as soon as they are freed. Models would pay
    too much for fresh pages, so their processes keep them, and return what is left after a large chunk.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    if not keep_large:
        with suppress(OSError, AttributeError):  # glibc only
            ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 1 << 20)


def _release(size: int) -> None:
    """Give memory that a large chunk took back to the system."""
    if size >= LARGE_CHUNK:
        with suppress(OSError, AttributeError):  # glibc only
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _row(unit: int, start: int, table: pa.Table) -> pa.Table:
    """What travels: a block of one row that holds the table as one value."""
    value = pa.array([to_ipc(table)], pa.large_binary())
    return pa.table({"unit": [unit], "start": [start], "table": value})


def _start(pools: Sequence[Pool], resources: ResourcesConfig) -> None:
    # A small machine gets logical CPUs for all workers and two fetching tasks, each of which takes memory.
    cpus = math.ceil(sum(pool.workers * pool.cpus for pool in pools) + 2 * resources.fetch_cpus)
    store = max(ray_runtime.OBJECT_STORE_BYTES, STORE_CHUNKS * resources.chunk_bytes)
    try:
        ray_runtime.start(cpus=max(os.cpu_count() or 1, cpus), object_store_bytes=store)
    except Exception as error:  # Ray raises bare exceptions here
        raise JobError(f"Ray does not start: {_first_line(error)}; the same command tries again") from error


def _configure(chunk_bytes: int) -> None:
    context = DataContext.get_current()
    context.target_max_block_size = chunk_bytes  # else what a task fetches is gathered up to 128 MB
    context.enable_progress_bars = False  # the run has its own
    context.max_errored_blocks = -1  # the chunks of a failed block come again in the next round
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


def _check_stores(chunk_bytes: int) -> None:
    """Refuse chunks of which a node holds but a few in memory: all the others would go by its disk."""
    smallest = min(
        (node.get("object_store_memory", 0) for node in placement.nodes() if node.get("CPU")), default=0
    )
    if 0 < smallest < STORE_CHUNKS * chunk_bytes:
        raise UsageError(
            f"resources.chunk_bytes: {chunk_bytes} is more than 1/{STORE_CHUNKS} of a node's object store, "
            f"which has {smallest:.0f} bytes; lower it, or start nodes with a larger --object-store-memory"
        )


def _place(pools: Sequence[Pool], resources: ResourcesConfig) -> list[int]:
    """Wait until a worker of each pool and a task that fetches fit; how many workers of each pool do.

    Those that do not fit yet start when nodes join. Where an autoscaler may bring these nodes, they are asked
    for from the start: a worker that waits is what an autoscaler grows for.
    """
    fetching = placement.share(cpus=resources.fetch_cpus)
    shares = [*(pool.share for pool in pools), fetching]
    placement.wait_for(shares, wait_s=resources.wait_s, key="resources.wait_s")
    wanted = [(pool.share, pool.workers) for pool in pools]
    outlooks = (placement.nodes(), placement.possible_nodes())
    fits = [placement.fitting(wanted, fetching, nodes) for nodes in outlooks]
    counts = [max(1, *counted) for counted in zip(*fits, strict=True)]
    if sum(counts) < sum(pool.workers for pool in pools):
        log.info(
            "%s of %s workers have room beside the tasks that fetch; the others start when nodes join",
            "+".join(map(str, counts)), "+".join(str(pool.workers) for pool in pools),
        )  # fmt: skip
    return counts


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
