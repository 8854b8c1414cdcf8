"""Collates a worker's batches in background threads, ahead of the training step."""

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from glied.training import batching, finite_check, steps
from glied.training.data_order import Rows, Stream
from glied.training.plan import Plan
from glied.training.task import Row


@dataclass(frozen=True)
class BatchLoader:
    """The batches of one worker.

    Attributes:
        plan: of the run.
        stream: reads Parquet files.
        rank: of this worker.
        world: number of workers.
        device: to which validation batches are moved.
    """

    plan: Plan
    stream: Stream
    rank: int
    world: int
    device: torch.device

    @cached_property
    def _rows(self) -> Rows:
        return Rows(self.plan, self.stream, self.rank, self.world)

    def training(self, start: int, stop: int) -> Generator[tuple[finite_check.Names, list[Any]], None, None]:
        """Yields row names and micro-batches, on the CPU, of steps `start` to `stop` (exclusive)."""
        threads = self.plan.config.resources.loader_threads
        batches = batching.ordered_map(self._collate, self._rows.training(start, stop), threads=threads)
        return batching.prefetched(batches, depth=2 * threads)

    def _collate(self, item: tuple[int, list[Row]]) -> tuple[finite_check.Names, list[Any]]:
        step, rows = item
        config = self.plan.config
        # The micro-batches share one generator: together they draw what the whole batch would have drawn.
        generator = steps.generator(config.seed, "collate", step, self.rank)
        size = len(rows) // config.optimizer.accumulate

        def make(part: list[Row]) -> Any:
            return self.plan.task.collate(part, training=True, generator=generator)

        batches = [make(part) for part in batching.batched(rows, size, drop_last=False)]
        return finite_check.name_rows(rows, batches, make), batches

    def validation(self) -> Generator[Any, None, None]:
        """Yields the batches of a validation on the device."""

        def collate(batch: list[Row]) -> Any:
            return self.plan.task.collate(batch, training=False, generator=steps.generator("validation"))

        threads = self.plan.config.resources.loader_threads
        batches: Iterator[Any] = batching.ordered_map(collate, self._rows.validating(), threads=threads)
        with contextlib.closing(batching.prefetched(batches, depth=2 * threads)) as ready:
            for batch in ready:
                yield steps.move(batch, self.device)
