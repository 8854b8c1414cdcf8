"""The rows that one worker trains on and validates with, in an order fixed by the run's seed and position."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa

from glied.data import parquet
from glied.training import batching, steps
from glied.training.plan import Plan
from glied.training.task import Row

Stream: TypeAlias = Callable[[Iterable[parquet.Piece]], Iterator[Row]]
"""Yields the rows of pieces of Parquet files, in order."""
PIECE_ROWS = 256
"""Rows that are read at a time: about 20 MB of region features."""


@dataclass(frozen=True)
class Rows:
    """One worker's part of the rows of a run.

    Every worker takes the same number of steps per epoch (rows // batch_size), so none waits for another.
    """

    plan: Plan
    stream: Stream
    rank: int
    world: int

    def training(self, start: int, stop: int) -> Iterator[tuple[int, list[Row]]]:
        """Steps `start` to `stop` (exclusive), each with its rows of this worker."""
        step = start
        first, end = start // self.plan.epoch_steps, -(-stop // self.plan.epoch_steps)
        stream = self._files(first, end) if self.plan.train.table is None else None
        while step < stop:
            epoch, skip = divmod(step, self.plan.epoch_steps)
            batches = self._from_stream(stream, epoch, skip) if stream else self._from_table(epoch, skip)
            for rows in batches:
                yield step, rows
                step += 1
                if step >= stop:
                    return
            assert step == (epoch + 1) * self.plan.epoch_steps, "an epoch has fewer batches than planned"

    def validating(self) -> Iterator[list[Row]]:
        """The batches of a validation, the last of which may be smaller."""
        table = self.plan.validation.table
        rows = iter(table.to_pylist()) if table is not None else self.stream(self.plan.validation.pieces)
        size = self.plan.config.batch_size // (self.world * self.plan.config.optimizer.accumulate)
        return batching.batched(rows, max(1, size), drop_last=False)

    def _from_table(self, epoch: int, skip: int) -> Iterator[list[Row]]:
        """The batches of an epoch from number `skip` on, out of a table."""
        config, table = self.plan.config, self.plan.train.table
        assert table is not None
        for indices in batching.table_indices(
            table.num_rows, seed=config.seed, epoch=epoch, rank=self.rank, world=self.world,
            batch_size=config.batch_size, skip_batches=skip,
        ):  # fmt: skip
            yield table.take(pa.array(indices)).to_pylist()

    def _files(self, first_epoch: int, end_epoch: int) -> Iterator[Row]:
        """The rows of all epochs, in the order of `batching.file_ranges`."""
        pieces = (
            parquet.Piece(self.plan.train.files[file], first, last)
            for epoch in range(first_epoch, end_epoch)
            for file, first, last in batching.file_ranges(
                self.plan.train.counts,
                seed=self.plan.config.seed,
                epoch=epoch,
                rank=self.rank,
                world=self.world,
            )
        )
        return self.stream(pieces)

    def _from_stream(self, stream: Iterator[Row], epoch: int, skip: int) -> Iterator[list[Row]]:
        """Like `_from_table`, out of the epoch's rows of `stream`, which are shuffled in a buffer."""
        config = self.plan.config
        rows = batching.shuffled(
            itertools.islice(stream, self.plan.train.rows // self.world),
            buffer_size=config.resources.shuffle_buffer,
            seed=steps.fold_seed(config.seed, "buffer", epoch, self.rank),
        )
        batches = batching.batched(rows, config.batch_size // self.world, drop_last=True)
        for index, batch in enumerate(batches):
            if skip <= index < self.plan.epoch_steps:
                yield batch


def read(pieces: Iterable[parquet.Piece]) -> Iterator[Row]:
    """The plain `Stream`: in this thread, a few rows at a time."""
    for piece in pieces:
        for part in parquet.split(piece, PIECE_ROWS):
            yield from parquet.read(part).to_pylist()
