"""Checks losses and gradients for NaN and infinity without making a GPU wait for each step.

The verdict on a step is computed where the step is, and takes its gradient out of the update there. The
training process reads the verdicts every few steps, and before anything is logged, validated or saved.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from glied.errors import JobError, UsageError
from glied.training.task import Row

READ_EVERY = 4
"""On a GPU, steps between two readings of the verdicts."""
NAMED = 20
"""Most rows that a message names; it always gives their number."""
_NAMES = ("id", "image", "uri")
"""Columns that may name a row; the first one present does."""

Scalars = Mapping[str, float | Tensor]


class NotFiniteError(JobError):
    """A loss, a gradient or a weight is not finite; a retry would give the same."""


@dataclass(frozen=True)
class Names:
    """Names of the rows of a step: of all, and of those whose own values are not finite."""

    rows: list[str]
    faulty: list[str] = field(default_factory=list)


@dataclass
class Step:
    """One step of this worker, until it is read whether it was finite.

    Attributes:
        number: steps that were done before it.
        names: of its rows.
        scalars: of each micro-batch to be logged, with its weight.
        loss_finite: whether the losses of this worker are finite, 0-d bool; None before the first.
        finite: whether all losses and the gradient are, 0-d bool, the same on all workers.
        norm: of the gradient, 0-d.
    """

    number: int
    names: Names
    scalars: list[tuple[Scalars, float | Tensor]] = field(default_factory=list)
    loss_finite: Tensor | None = None
    finite: Tensor = field(default_factory=lambda: torch.tensor(True))
    norm: Tensor = field(default_factory=lambda: torch.tensor(0.0))

    def add(self, loss: Tensor, scalars: Scalars, weight: float | Tensor) -> None:
        """Adds a micro-batch."""
        self.scalars.append(({"loss": loss.detach(), **scalars}, weight))
        finite = loss.detach().isfinite()
        self.loss_finite = finite if self.loss_finite is None else self.loss_finite & finite


class Buffers:
    """Copies of a model's buffers before a step, whose forward pass changes some (batch norm's means)."""

    def __init__(self, model: nn.Module) -> None:
        """Copies them."""
        self._now = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self._before = [buffer.clone() for buffer in self._now]

    def restore_where(self, condition: Tensor) -> None:
        """Puts the copies back where the 0-d `condition` is true."""
        for now, before in zip(self._now, self._before, strict=True):
            torch.where(condition, before, now, out=now)


def drop_gradients_where(model: nn.Module, condition: Tensor) -> None:
    """Makes all gradients zero where the 0-d `condition` is true."""
    if condition.device.type == "cpu" and not condition:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.masked_fill_(condition, 0.0)


def check_weights(model: nn.Module, what: str) -> None:
    """Refuses a model with weights or buffers that are not finite.

    Raises:
        NotFiniteError: it has some.
    """
    state = [value for value in model.state_dict().values() if torch.is_floating_point(value)]
    if state and not torch.stack([value.isfinite().all() for value in state]).all():
        raise NotFiniteError(f"{what} has weights that are not finite")


def _name(row: Row) -> str:
    return str(next((row[key] for key in _NAMES if key in row), "a row without a name"))


def name_rows(rows: Sequence[Row], batches: Sequence[Any], collate: Callable[[list[Row]], Any]) -> Names:
    """Names the rows of a step, and those of them whose values are not finite.

    Args:
        rows: of one worker.
        batches: which were made of them.
        collate: makes a batch of a row, to find out which one it is.
    """
    faulty: list[str] = []
    if not all(map(_is_finite, batches)):
        faulty = [_name(row) for row in rows if not _is_finite(_alone(row, collate))]
    return Names([_name(row) for row in rows], faulty)


def _alone(row: Row, collate: Callable[[list[Row]], Any]) -> Any:
    try:
        return collate([row])
    except UsageError:  # nothing of this row is in the batch, for instance an image without regions
        return None


def describe(step: Step, world: int) -> str:
    """Describes what is not finite in a step, and its rows. All workers call this and get the same text.

    Rows whose own values are not finite are named, if there are any, else those of the workers whose loss is
    not finite, else all.
    """
    losses = [float(scalars["loss"]) for scalars, _ in step.scalars]
    reports = [(step.names, bool(step.loss_finite), losses)]
    if world > 1:
        gathered: list[Any] = [None] * world
        torch.distributed.all_gather_object(gathered, reports[0])
        reports = gathered
    every = [loss for _, _, found in reports for loss in found]
    loss = next((one for one in every if not math.isfinite(one)), every[0])
    what = f"the loss is {loss:g} and the gradient's norm {float(step.norm):g} at step {step.number + 1}"
    faulty = [name for names, _, _ in reports for name in names.faulty]
    if faulty:
        return f"{what}; these rows have values that are not finite: {_some(faulty)}"
    rows = [names.rows for names, finite, _ in reports if not finite] or [
        names.rows for names, _, _ in reports
    ]
    return f"{what}; its rows: {_some([name for names in rows for name in names])}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _is_finite(batch: Any) -> bool:
    return all(bool(one.isfinite().all()) for one in _tensors(batch) if torch.is_floating_point(one))


def _tensors(batch: Any) -> Iterator[Tensor]:
    """All tensors of nested containers."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from _tensors(value)
    elif dataclasses.is_dataclass(batch):
        for one in dataclasses.fields(batch):
            yield from _tensors(getattr(batch, one.name))
