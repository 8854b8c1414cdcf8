"""Chunks: the pieces of units that travel between tasks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from glied.bulk import tables
from glied.bulk.manifest import Entry, Unit
from glied.bulk.stages import Stage

SCHEMA = tables.schema(id=pa.string(), uri=pa.string(), size=pa.int64())


@dataclass(frozen=True)
class Chunk:
    """Piece `k` of the `n` pieces of a unit; `table` has the columns of `SCHEMA`."""

    unit: int
    k: int
    n: int
    table: pa.Table


@dataclass(frozen=True)
class Result:
    """A described chunk."""

    unit: int
    k: int
    table: pa.Table


class StageFactory(Protocol):
    """Builds a stage where it runs; small and picklable, unlike the stage."""

    def build(self) -> Stage:
        """Load the models."""
        ...


Stream = Callable[[Sequence[Chunk]], Iterator[Result]]
"""Runs chunks and yields results in any order; lost chunks are missing."""


def split(unit: Unit, *, images: int, size: int) -> list[Chunk]:
    """Cut a unit into chunks of at most `images` images and `size` encoded bytes, at least one image each."""
    pieces: list[list[Entry]] = [[]]
    total = 0
    for entry in unit.entries:
        if pieces[-1] and (len(pieces[-1]) >= images or total + entry.size > size):
            pieces.append([])
            total = 0
        pieces[-1].append(entry)
        total += entry.size
    return [Chunk(unit.index, k, len(pieces), _table(piece)) for k, piece in enumerate(pieces)]


def run_here(fetch: Stage, stage: Stage) -> Stream:
    """A stream in this process: what the bulk job does, without a cluster."""

    def stream(chunks: Sequence[Chunk]) -> Iterator[Result]:
        for chunk in chunks:
            yield Result(chunk.unit, chunk.k, stage(fetch(chunk.table)))

    return stream


def _table(entries: list[Entry]) -> pa.Table:
    columns = {name: [getattr(entry, name) for entry in entries] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)
