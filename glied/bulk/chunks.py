"""Chunks: the pieces of units that travel between tasks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from glied.bulk.arrow_tables import seconds_of, with_seconds
from glied.cluster_runtime.placement import Share, share

Stage = Callable[[pa.Table], pa.Table]
"""A table of images to a table with as many rows in the same order."""


class FetchStage(Protocol):
    """The stage that reads what is planned. It may keep what it has read for the next chunk."""

    def tasks_per_worker(self, tables: Iterable[pa.Table]) -> int:
        """Among how many tasks a worker these chunks are divided, if they are few; 0 for a task each."""
        ...

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows of the manifest to as many rows in the same order."""
        ...

    def pieces(self, tables: Sequence[pa.Table], size: int) -> Iterator[tuple[int, pa.Table]]:
        """The same for several tables in pieces of about `size` bytes, each after its table's number."""
        ...

    def forget(self) -> None:
        """Let go of what is kept."""
        ...


@dataclass(frozen=True)
class Chunk:
    """Images of a unit from its image number `start` on; `table` are their rows of the manifest."""

    unit: int
    start: int
    table: pa.Table

    @property
    def stop(self) -> int:
        """Number of the first image after them."""
        return self.start + self.table.num_rows


@dataclass(frozen=True)
class Result:
    """A described chunk, one row per image."""

    unit: int
    start: int
    table: pa.Table


class StageFactory(Protocol):
    """Builds a stage where it runs; small and picklable, unlike the stage."""

    def build(self) -> Stage:
        """Load the models."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Workers of one stage.

    Attributes:
        factory: of the stage that each of them builds.
        workers: how many at most; those that the cluster has room for are started at once.
        cpus, gpus, memory, accelerator: that each asks a node for; bytes, and a type of GPU such as "L4".
        threads: of torch in each.
    """

    factory: StageFactory
    workers: int
    cpus: float
    gpus: float
    threads: int
    memory: int = 0
    accelerator: str | None = None

    @property
    def share(self) -> Share:
        """What each of them asks a node for."""
        return share(cpus=self.cpus, gpus=self.gpus, memory=self.memory, accelerator=self.accelerator)


class StreamBroken(Exception):
    """A stream ended before its time; what it did not yield is lost, for no fault of the images."""


class Stream(Protocol):
    """Runs chunks and yields results in any order; lost chunks are missing."""

    def __call__(self, chunks: Sequence[Chunk], *, alone: bool = False) -> Iterator[Result]:
        """With `alone` a worker holds one chunk at a time, so that one that kills it takes no other along.

        Raises:
            StreamBroken: the stream ended before its time.
        """
        ...


def split(unit: int, start: int, table: pa.Table, *, images: int, size: int) -> list[Chunk]:
    """Cut rows of a unit into chunks of at most `images` images and `size` bytes, at least one image each."""
    sizes = [known or 0 for known in table["size"].to_pylist()]
    bounds, total = [0], 0
    for row, one in enumerate(sizes):
        if row > bounds[-1] and (row - bounds[-1] >= images or total + one > size):
            bounds.append(row)
            total = 0
        total += one
    ends = [*bounds[1:], table.num_rows]
    return [
        Chunk(unit, start + first, table.slice(first, last - first))
        for first, last in zip(bounds, ends, strict=True)
    ]


def run_here(fetch: Stage, *stages: Stage) -> Stream:
    """A stream in this process: what the bulk job does, without a cluster."""

    def stream(chunks: Sequence[Chunk], *, alone: bool = False) -> Iterator[Result]:
        for chunk in chunks:
            table = fetch(chunk.table)
            for stage in stages:
                seconds = seconds_of(table)
                table = with_seconds(stage(table), seconds)
            yield Result(chunk.unit, chunk.start, table)

    return stream
