"""The rows that one worker trains on and validates with, in an order that the run's seed and position fix."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa

from glied.data import parquet
from glied.training import batching, steps
from glied.training.config import TrainerConfig
from glied.training.task import Row

Stream: TypeAlias = Callable[[Iterable[parquet.Piece]], Iterator[Row]]
"""Yields the rows of pieces of Parquet files, in order."""
PIECE_ROWS = 256
"""Rows that are read at a time: about 20 MB of region features."""


@dataclass(frozen=True)
class Source:
    """Rows of one split: a table, or Parquet files.

    Attributes:
        counts: rows of each file, or those of the table.
        table: the table, if it is one.
        files: URIs of the files, if it is not.
    """

    counts: tuple[int, ...]
    table: pa.Table | None = None
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: pa.Table | list[str]) -> "Source":
        """What `Task.data` returned."""
        if isinstance(data, pa.Table):
            return cls((data.num_rows,), data.combine_chunks())
        return cls(tuple(parquet.count_rows(uri) for uri in data), files=tuple(data))

    @property
    def rows(self) -> int:
        """Their number."""
        return sum(self.counts)

    @property
    def pieces(self) -> Iterator[parquet.Piece]:
        """The files as a whole, in their order."""
        return (parquet.Piece(uri, 0, count) for uri, count in zip(self.files, self.counts, strict=True))


@dataclass(frozen=True)
class Rows:
    """One worker's share of the rows of a run.

    Every worker takes the same number of steps an epoch (rows // batch_size), so none waits for another.
    """

    config: TrainerConfig
    train: Source
    validation: Source
    stream: Stream
    rank: int
    world: int

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return self.train.rows // self.config.batch_size

    def training(self, start: int, stop: int) -> Iterator[tuple[int, list[Row]]]:
        """Steps `start` to `stop` (exclusive), each with its rows of this worker."""
        step = start
        first, end = start // self.epoch_steps, -(-stop // self.epoch_steps)
        stream = self._files(first, end) if self.train.table is None else None
        while step < stop:
            epoch, skip = divmod(step, self.epoch_steps)
            batches = self._streamed(stream, epoch, skip) if stream else self._taken(epoch, skip)
            for rows in batches:
                yield step, rows
                step += 1
                if step >= stop:
                    return
            assert step == (epoch + 1) * self.epoch_steps, "an epoch has fewer batches than agreed"

    def validating(self) -> Iterator[list[Row]]:
        """The batches of a validation, the last of which may be smaller."""
        table = self.validation.table
        rows = iter(table.to_pylist()) if table is not None else self.stream(self.validation.pieces)
        size = self.config.batch_size // (self.world * self.config.accumulate)
        return batching.batched(rows, max(1, size), drop_last=False)

    def _taken(self, epoch: int, skip: int) -> Iterator[list[Row]]:
        """The batches of an epoch from number `skip` on, out of a table."""
        config, table = self.config, self.train.table
        assert table is not None
        for indices in batching.table_indices(
            table.num_rows, seed=config.seed, epoch=epoch, rank=self.rank, world=self.world,
            batch_size=config.batch_size, skip_batches=skip,
        ):  # fmt: skip
            yield table.take(pa.array(indices)).to_pylist()

    def _files(self, first_epoch: int, end_epoch: int) -> Iterator[Row]:
        """The rows of all epochs, in the order of `batching.file_ranges`."""
        pieces = (
            parquet.Piece(self.train.files[file], first, last)
            for epoch in range(first_epoch, end_epoch)
            for file, first, last in batching.file_ranges(
                self.train.counts, seed=self.config.seed, epoch=epoch, rank=self.rank, world=self.world
            )
        )
        return self.stream(pieces)

    def _streamed(self, stream: Iterator[Row], epoch: int, skip: int) -> Iterator[list[Row]]:
        """Like `_taken`, out of the epoch's rows of `stream`, which are shuffled in a buffer."""
        config = self.config
        rows = batching.shuffled(
            itertools.islice(stream, self.train.rows // self.world),
            buffer_size=config.shuffle_buffer,
            seed=steps.fold_seed(config.seed, "buffer", epoch, self.rank),
        )
        batches = batching.batched(rows, config.batch_size // self.world, drop_last=True)
        for index, batch in enumerate(batches):
            if skip <= index < self.epoch_steps:
                yield batch


def read(pieces: Iterable[parquet.Piece]) -> Iterator[Row]:
    """The plain `Stream`: in this thread, a few rows at a time."""
    for piece in pieces:
        for part in parquet.split(piece, PIECE_ROWS):
            yield from parquet.read(part).to_pylist()
