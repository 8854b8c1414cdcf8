"""What runs on the cluster: the fetching task and the actors that hold the models."""

import faulthandler
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa
import ray

from glied.bulk.arrow_tables import from_ipc, seconds_of, to_ipc, with_seconds
from glied.bulk.items import DescribedChunk, FetchStage, Stage, StageFactory
from glied.bulk.ray.memory import release, use_malloc
from glied.errors import UsageError

MISTAKE = 3
"""Column of what travels: why a worker cannot describe anything; empty where it can."""
STDERR = 2
"""File descriptor; Ray keeps what a worker writes to it."""


class Actors:
    """The actors of a stream, so that none of them outlives it.

    Ray Data (2.60) releases its actors at the end of a stream, but Ray keeps those alive that may have to
    recompute a lost result; after the loss of a node they would hold the GPUs that the next round needs.
    """

    def __init__(self) -> None:
        """Start without actors."""
        self.names: list[str] = []

    def arguments(self, **others: object) -> dict[str, object]:
        """Remote arguments of the next actor: a name to find it by, and `others`."""
        self.names.append(f"glied-{uuid.uuid4().hex}")
        return {"name": self.names[-1], **others}

    def kill(self) -> None:
        """Kill the actors that are still alive."""
        for name in self.names if ray.is_initialized() else ():
            with suppress(ValueError, ray.exceptions.RayError):  # the actor or the cluster is gone
                ray.kill(ray.get_actor(name))


class FetchChunks:
    """The fetching task: each chunk becomes one row, or several if its files are larger than listed."""

    def __init__(self, fetch: FetchStage, size: int) -> None:
        self.fetch = fetch
        self.size = size
        self.__name__ = "fetch"  # Ray Data names the operator after it

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Fetch the chunks of a row; a row for each."""
        use_malloc(keep_large=False)
        row = batch.to_pylist()[0]
        units, starts = row["units"], row["starts"]
        tables = [from_ipc(table) for table in row["tables"]]
        clock = time.perf_counter()
        try:
            for number, piece in self._pieces(tables):
                seconds = {"fetch": time.perf_counter() - clock}
                yield _packed(units[number], starts[number], with_seconds(piece, seconds))
                starts[number] += piece.num_rows
                clock = time.perf_counter()
        finally:
            self.fetch.clear_cache()

    def _pieces(self, tables: list[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
        if any(table["size"].null_count for table in tables):
            return self.fetch.pieces(tables, self.size)
        return enumerate(map(self.fetch, tables))


class DescribeChunk:
    """The actor that holds the models; it kills itself when it spends too long on a chunk.

    A mistake that only a worker can find (a missing package, no GPU) goes to the driver in place of results:
    if it were raised here, Ray would print all its traces and start further workers.
    """

    def __init__(self, factory: StageFactory, threads: int, longest_s: float) -> None:
        use_malloc(keep_large=True)
        self.longest_s = longest_s
        self.stage: Stage | None = None
        try:
            self.stage = factory.build()
        except UsageError as error:
            self.mistake = str(error)
        if "torch" in sys.modules:  # some stages do not need it
            import torch

            torch.set_num_threads(threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Describe the chunk of a row; a mistake takes its place."""
        if self.stage is None:
            return batch.set_column(MISTAKE, "mistake", pa.array([self.mistake]))
        if batch["mistake"][0].as_py():  # of another pool
            return batch
        fetched = unpacked(batch)
        with _deadline(self.longest_s):
            described = self.stage(fetched.table)
        described = with_seconds(described, seconds_of(fetched.table))
        result = _packed(fetched.unit, fetched.start, described)
        size = fetched.table.nbytes
        del batch, fetched, described  # its ids are still in the memory of what was fetched
        release(size)
        return result


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Kill this process if the block takes longer, with the stacks of its threads in its log.

    A hang in native code may hold the interpreter's lock; this watchdog does not need it.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def unpacked(batch: pa.Table) -> DescribedChunk:
    """The chunk of a row; its table is a copy, so that it holds nothing in the object store.

    Raises:
        UsageError: a worker found a mistake in the config.
    """
    row = batch.to_pylist()[0]
    if row["mistake"]:
        raise UsageError(row["mistake"])
    return DescribedChunk(row["unit"], row["start"], from_ipc(row["table"]))


def _packed(unit: int, start: int, table: pa.Table) -> pa.Table:
    """What travels: a block of one row that holds the table as one value."""
    value = pa.array([to_ipc(table)], pa.large_binary())
    return pa.table({"unit": [unit], "start": [start], "table": value, "mistake": [""]})
