"""The protocol between what is trained (a `Task`) and what trains it (`glied.training.ray_trainer`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import pyarrow as pa
import torch
from torch import Tensor, nn

from glied.training.history import Sample

Split: TypeAlias = Literal["train", "validation"]
Row: TypeAlias = dict[str, Any]
"""One row of the training data as plain Python values (numbers, str, bytes, list, dict)."""
WEIGHT = "weight"
"""Name among the scalars of `Task.loss` of how much its batch counts beside those of other workers and other
micro-batches of the step; batches without it count alike."""


@runtime_checkable
class Task(Protocol):
    """What is learned and from which rows; plain Python and torch, picklable, without Ray.

    An instance is created on the driver and sent to every worker: keep it light (configs and URIs), and load
    what is heavy (vocabularies, caption files) on first use. Make it a dataclass: its fields, and those of a
    field `config` but for `config.trainer`, go into `<output>/run.json`, and a run is not resumed with other
    values. `data` is called once, on the driver.
    """

    @property
    def name(self) -> str:
        """Kind of model, e.g. "regions"; a run of one kind is never resumed as another."""
        ...

    def build(self) -> nn.Module:
        """Returns the model on the CPU; torch is seeded, so plain initialization is reproducible."""
        ...

    def data(self, split: Split) -> pa.Table | list[str]:
        """Returns an Arrow table of light rows (a URI and labels, no pixels) or the URIs of Parquet files.

        A table is held in memory and shuffled as a whole. Parquet files are streamed: their order
        is shuffled, and rows within a buffer. Raises `UsageError` when the data is missing or unfit.
        """
        ...

    def collate(self, rows: Sequence[Row], *, training: bool, generator: torch.Generator) -> Any:
        """Turns rows into one batch on the CPU; decodes images and augments here.

        Runs in background threads of the worker. `generator` is seeded by (seed, step, rank): draw all
        randomness from it, never from a global generator, and a resumed run sees the same batches. The batch
        may be a tensor, a list, tuple, dict or dataclass of batches, or anything with `.to(device)`; it is
        moved to the device before `loss` sees it.
        """
        ...

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Returns the scalar to minimize, averaged over the batch, and scalars to log.

        A loss that is averaged over something else than rows gives their number as `WEIGHT`, words for
        instance; it is not logged. A step's gradient is then exactly that of its whole batch.

        `model` is in training mode and may be wrapped for data parallelism: call `model(...)` exactly once,
        never its methods. Logged scalars may be detached 0-d tensors, which spares a GPU synchronization a
        step.
        """
        ...

    def validate(self, model: nn.Module, batches: Iterable[Any]) -> dict[str, float]:
        """Returns metrics over all validation batches; the first one (higher is better) selects the best.

        Runs on rank 0 without gradients, on the unwrapped model in evaluation mode. The last batch may be
        smaller.
        """
        ...

    def export(self, model: nn.Module, folder_uri: str) -> None:
        """Writes the unwrapped model to a folder that the rest of the project loads (`checkpoint.save`)."""
        ...


@runtime_checkable
class ScheduledTask(Task, Protocol):
    """A task whose loss changes in the course of training."""

    def loss_at(self, model: nn.Module, batch: Any, done: float) -> tuple[Tensor, dict[str, float | Tensor]]:
        """As `loss`, which is then not called; `done` is the share of the steps that were taken, 0 to 1."""
        ...


@runtime_checkable
class ConstrainedTask(Task, Protocol):
    """A task with parameters that may only have certain values."""

    def constrain(self, model: nn.Module) -> None:
        """Brings the parameters of the unwrapped model back into their range, after each update."""
        ...


@runtime_checkable
class CaptioningTask(Task, Protocol):
    """A task whose validation has captions to show."""

    def validate_and_show(
        self, model: nn.Module, batches: Iterable[Any]
    ) -> tuple[dict[str, float], list[Sample]]:
        """As `validate`, which is then not called; also a few captions, of the same images each time."""
        ...
