"""The stream of a run on Ray Data: chunks in, described chunks out. No other package of `bulk` uses Ray.

One row of the dataset is one chunk of 16-64 images, with its table as one Arrow IPC value: Ray Data splits
and merges blocks of rows, never a row. The stages ask for different resources, so that they are not fused
and fetching runs ahead of the models. Restarts and retries are bounded; a chunk that is
lost all the same is missing from the stream, and the caller sends it again.
"""

import logging
import math
import os
import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, groupby, islice
from typing import Any, TypeVar

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.util.annotations import RayDeprecationWarning

from glied.bulk import parallel
from glied.bulk.arrow_tables import to_ipc
from glied.bulk.config import ResourcesConfig
from glied.bulk.items import ActorPoolSpec, Chunk, DescribedChunk, FetchStage, StreamBroken
from glied.bulk.ray.actors import Actors, DescribeChunk, FetchChunks, unpacked
from glied.bulk.ray.metrics import Metrics
from glied.bulk.ray.shortage import Shortage
from glied.cluster_runtime import placement, ray_start
from glied.errors import JobError, UsageError

log = logging.getLogger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")
Answer = TypeVar("Answer")

STORE_CHUNKS = 8
"""Chunks that must fit into a node's object store: some fetched, some waiting, some at a worker."""
WAIT_KEY = "resources.recovery.wait_s"
CHECK_S = 0.5
"""Seconds between two checks that Ray still runs, while no result arrives."""
FEW_SHARDS = 16
"""The driver reads fewer shards by itself, without tasks."""
TASKS_AHEAD = 64
"""Most tasks that read shards, running or waiting."""
MOST_GATHERED = 16
"""Most full chunks, or as many images in smaller ones, of a fetching task."""
MAX_BLOCKS = 2_000
"""Most blocks that the chunks of a round are distributed over."""


class RayStream:
    """Runs chunks through fetching tasks and a pool of model actors; results arrive in any order."""

    def __init__(self, fetch: FetchStage, pools: Sequence[ActorPoolSpec], resources: ResourcesConfig) -> None:
        """Chunks go through the pools in turn; each actor builds its stage with its pool's factory."""
        self.fetch = fetch
        self.pools = pools
        self.resources = resources
        self.metrics = Metrics()

    def __call__(self, chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
        """Yield described chunks as they are done; lost ones are missing.

        A chunk whose worker dies is tried again, but not if `isolated`: then it is the one that killed it.

        Raises:
            UsageError: the chunks are too large for the object store of a node, or a worker cannot load its
                models for a reason that the user can change.
            JobError: Ray does not start, the cluster has no room, or an object store is full.
            StreamBroken: the workers died more often than they may, or the cluster went away.
        """
        _start(self.pools, self.resources)
        _configure(self.resources.chunk.bytes)
        _check_stores(self.resources.chunk.bytes)
        workers = _place(self.pools, self.resources)
        with Shortage.watched() as shortage:
            try:
                yield from self._results(chunks, workers, isolated=isolated)
            except StreamBroken as error:
                shortage.note(error.__cause__)
                shortage.check()
                raise
            shortage.check()

    def _results(
        self, chunks: Sequence[Chunk], workers: Sequence[int], *, isolated: bool
    ) -> Iterator[DescribedChunk]:
        actors = Actors()
        dataset: Dataset | None = None
        try:
            dataset = self._dataset(chunks, workers, actors, isolated=isolated)
            batches = dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=4)
            for batch in watched(batches, self.resources.recovery.stall_s, _check_node):
                described = unpacked(batch)
                self.metrics.count(described.table)
                yield described
        except ray.exceptions.RayError as error:
            raise StreamBroken(_first_line(error)) from error
        finally:
            _end(dataset)
            if not ray_start.node_is_dead():  # else they have died with it
                actors.kill()

    def in_order(self, function: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
        """Yield answers in the order of the items; many items are distributed over the cluster.

        Raises:
            JobError: Ray does not start, the cluster has no CPU, or a task is lost more often than it may.
        """
        items = iter(items)
        first = list(islice(items, FEW_SHARDS))
        if len(first) < FEW_SHARDS:
            yield from parallel.in_order(function, first)
            return
        _start(self.pools, self.resources)
        recovery = self.resources.recovery
        placement.wait_for([placement.request(cpus=1)], wait_s=recovery.wait_s, key=WAIT_KEY)
        call = ray.remote(num_cpus=1, max_retries=recovery.restarts)(parallel.call)
        shared = ray.put(function)
        waiting: deque[ray.ObjectRef] = deque()
        for item in chain(first, items):
            waiting.append(call.remote(shared, item))
            if len(waiting) >= TASKS_AHEAD:
                yield _answer(waiting.popleft())
        while waiting:
            yield _answer(waiting.popleft())

    def _dataset(
        self, chunks: Sequence[Chunk], workers: Sequence[int], actors: "Actors", *, isolated: bool
    ) -> Dataset:
        """The plan of the stream; `workers` of each pool start at once, the others where nodes join."""
        with warnings.catch_warnings():
            # Retries have no other place until 2.64; those of the constraints are tested.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            return self._planned(chunks, workers, actors, isolated=isolated)

    def _planned(
        self, chunks: Sequence[Chunk], workers: Sequence[int], actors: "Actors", *, isolated: bool
    ) -> Dataset:
        resources = self.resources
        retries = 0 if isolated else resources.recovery.restarts
        # A row group of a Parquet file is read for many chunks, and slow hosts are waited for together; yet
        # the first chunks should not wait for that: what a task has fetched travels together.
        wanted = 0 if isolated else self.fetch.tasks_per_worker(chunk.table for chunk in chunks)
        tasks = wanted * resources.worker.count
        images = sum(chunk.table.num_rows for chunk in chunks) // tasks if tasks else 1
        together = min(MOST_GATHERED * resources.chunk.images, images)
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
            FetchChunks(self.fetch, resources.chunk.bytes),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=resources.fetch.cpus,
            ray_remote_args_fn=partial(dict, max_retries=resources.recovery.restarts),
        )
        for pool, count in zip(self.pools, workers, strict=True):
            dataset = dataset.map_batches(
                DescribeChunk,
                fn_constructor_args=(pool.factory, pool.threads, resources.recovery.chunk_s),
                batch_size=1,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    min_size=count,
                    max_size=count if isolated else pool.workers,
                    max_tasks_in_flight_per_actor=1 if isolated else None,
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


def _of_one_file(chunks: Iterable[Chunk], images: int) -> Iterator[list[Chunk]]:
    """Groups of neighboring chunks with about so many images, in one file or in files of their own."""
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
    """Stop what a broken stream has left running: its workers would block the next round.

    Ray Data (2.60) has no public call for it, and ends an execution by itself only once it is exhausted.
    """
    executor = getattr(dataset, "_current_executor", None)
    if executor is not None:
        executor.shutdown(force=True)


def _check_node() -> None:
    """Stop at once if Ray's own processes have died: every further call would fail with a long message.

    Raises:
        JobError: they have.
    """
    if ray_start.node_is_dead():
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        raise JobError(
            "Ray's raylet or GCS on this machine died, maybe for lack of memory; the same command goes on"
        )


def watched(batches: Iterable[T], stall_s: float, check: Callable[[], None] = lambda: None) -> Iterator[T]:
    """Yield the batches, unless none comes for `stall_s` seconds: then a worker hangs.

    `check` is called every `CHECK_S` seconds while none comes.

    Raises:
        StreamBroken: no batch came.
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
        raise StreamBroken(f"no chunk was done for {stall_s:.0f} s (resources.recovery.stall_s)") from None
    finally:
        stopped.set()


def _start(pools: Sequence[ActorPoolSpec], resources: ResourcesConfig) -> None:
    # A small machine gets logical CPUs for all workers and two fetching tasks, each of which takes memory.
    cpus = math.ceil(sum(pool.workers * pool.cpus for pool in pools) + 2 * resources.fetch.cpus)
    store = max(ray_start.OBJECT_STORE_BYTES, STORE_CHUNKS * resources.chunk.bytes)
    try:
        ray_start.start(cpus=max(os.cpu_count() or 1, cpus), object_store_bytes=store)
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
    """Refuse chunks so large that most of them would be spilled to disk."""
    smallest = min(
        (node.get("object_store_memory", 0) for node in placement.nodes() if node.get("CPU")), default=0
    )
    if 0 < smallest < STORE_CHUNKS * chunk_bytes:
        raise UsageError(
            f"resources.chunk.bytes: {chunk_bytes} is more than 1/{STORE_CHUNKS} of a node's object store, "
            f"which has {smallest:.0f} bytes; lower it, or start nodes with a larger --object-store-memory"
        )


def _place(pools: Sequence[ActorPoolSpec], resources: ResourcesConfig) -> list[int]:
    """Wait for room for a worker of each pool and a fetching task; returns how many workers of each fit.

    The others start when nodes join. If an autoscaler may add these nodes, the workers are requested from the
    start, because waiting workers are what makes an autoscaler add nodes.
    """
    fetching = placement.request(cpus=resources.fetch.cpus)
    requests = [*(pool.request for pool in pools), fetching]
    placement.wait_for(requests, wait_s=resources.recovery.wait_s, key=WAIT_KEY)
    wanted = [(pool.request, pool.workers) for pool in pools]
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
