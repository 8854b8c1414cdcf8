"""Chunks: how units are cut into them, and the stream that runs them in this process."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from glied.bulk import arrow_tables
from glied.bulk.items import Chunk, DescribedChunk, Stage, Stream


def split(unit: int, start: int, table: pa.Table, *, images: int, size: int) -> list[Chunk]:
    """Split rows of a unit into chunks of at most `images` images and `size` bytes, at least one image."""
    sizes = [known or 0 for known in table["size"].to_pylist()]
    return [
        Chunk(unit, start + first, table.slice(first, last - first))
        for first, last in arrow_tables.ranges(sizes, most=images, size=size)
    ]


def run_here(fetch: Stage, *stages: Stage) -> Stream:
    """A stream that runs in this process: the bulk job without a cluster."""

    def stream(chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
        for chunk in chunks:
            table = fetch(chunk.table)
            for stage in stages:
                seconds = arrow_tables.seconds_of(table)
                table = arrow_tables.with_seconds(stage(table), seconds)
            yield DescribedChunk(chunk.unit, chunk.start, table)

    return stream
