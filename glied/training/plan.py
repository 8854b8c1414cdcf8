"""The nouns of a training run: its rows, its plan, where it stands, and where its state is kept.

What is trained is a `glied.training.task.Task`; what a validation shows is `glied.training.history.Sample`.
Each task defines its own batch beside itself (`glied.training.tasks`), with the shapes of its tensors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from glied.data import parquet
from glied.errors import UsageError
from glied.training.config import TrainerConfig
from glied.training.task import Task


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
        """The source for what `Task.data` returned."""
        if isinstance(data, pa.Table):
            return cls((data.num_rows,), data.combine_chunks())
        return cls(tuple(parquet.count_rows(uri) for uri in data), files=tuple(data))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.counts)

    @property
    def pieces(self) -> Iterator[parquet.Piece]:
        """The files, each as one piece, in order."""
        return (parquet.Piece(uri, 0, count) for uri, count in zip(self.files, self.counts, strict=True))


@dataclass(frozen=True)
class Due:
    """What a run does after a step."""

    logs: bool
    validates: bool
    saves: bool


@dataclass(frozen=True)
class Plan:
    """What is trained, how, and on which rows; the same on all workers."""

    task: Task
    config: TrainerConfig
    train: Source
    validation: Source

    @classmethod
    def of(cls, task: Task, config: TrainerConfig) -> "Plan":
        """Reads the task's data.

        Raises:
            UsageError: the data is missing or unfit, or less than a batch.
        """
        train, validation = (Source.of(task.data(split)) for split in ("train", "validation"))
        if train.rows < config.batch_size:
            raise UsageError(
                f"trainer.batch_size {config.batch_size} is more than the {train.rows} training rows"
            )
        return cls(task, config, train, validation)

    @property
    def epoch_steps(self) -> int:
        """Steps per epoch; an incomplete last batch is dropped."""
        return self.train.rows // self.config.batch_size

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        steps = self.epoch_steps * self.config.epochs
        return min(steps, self.config.max_steps or steps)

    def due(self, step: int) -> Due:
        """What is due when `step` steps are done; the same on all workers."""
        monitoring, recovery = self.config.monitoring, self.config.recovery
        ends = step in (self.total_steps, recovery.pause_after_steps)
        epoch, steps_into_epoch = divmod(step, self.epoch_steps)
        validates = step == self.total_steps
        validates |= steps_into_epoch == 0 and epoch % monitoring.validate_every_epochs == 0
        if monitoring.validate_every_steps:
            validates |= step % monitoring.validate_every_steps == 0
        return Due(
            logs=ends or step % monitoring.log_every_steps == 0,
            validates=validates and self.validation.rows > 0,
            saves=ends or steps_into_epoch == 0 or step % recovery.checkpoint_every_steps == 0,
        )


@dataclass(kw_only=True)
class Progress:
    """Where a run stands; its position in the data (epoch, rows) follows from `step`."""

    step: int = 0
    """Optimizer steps done."""
    best: float | None = None
    """Best value so far of the metric that selects the checkpoint."""
    best_step: int = 0
    """Step at which `best` was measured."""
    validations_without_improvement: int = 0
    """Validations since `best` was measured."""
    skipped: int = 0
    """Steps without an update, because their loss or gradient was not finite."""


class Checkpoints(Protocol):
    """Where the states of a run are kept."""

    def restore(self) -> bytes | None:
        """Returns the newest complete state; None for a new run."""
        ...

    def save(self, step: int, state: bytes | None) -> None:
        """Saves a state, possibly in the background; every worker calls this, rank 0 with the state."""
        ...

    def settle(self) -> None:
        """Waits until everything passed to `save` is stored."""
        ...
