"""Trains in this process, without Ray: what `ray_trainer.train` does with one worker on the CPU."""

import contextlib
from dataclasses import dataclass
from typing import Any

from glied import storage
from glied.training import data_order, output_folder
from glied.training.config import TrainerConfig
from glied.training.loop import CHECKPOINTS, Loop
from glied.training.plan import Plan
from glied.training.task import Task


@dataclass(frozen=True)
class FileCheckpoints:
    """Keeps one state in a file, which the next one replaces."""

    uri: str

    def restore(self) -> bytes | None:
        """As `Checkpoints` says."""
        try:
            return storage.read_bytes(self.uri)
        except FileNotFoundError:
            return None

    def save(self, step: int, state: bytes | None) -> None:
        """Writes before it returns."""
        assert state is not None, "there is one worker"
        storage.write_bytes(self.uri, state)

    def settle(self) -> None:
        """Does nothing: `save` has written already."""


def train_here(task: Task, config: TrainerConfig) -> dict[str, Any]:
    """Trains as `ray_trainer.train`, with the same losses; neither resumes a run of the other."""
    plan = Plan.of(task, config)
    done = output_folder.claim(plan)
    if done is None:
        kept = FileCheckpoints(storage.join(config.output, CHECKPOINTS, "here.pt"))
        with contextlib.closing(Loop(plan, data_order.read, kept)) as loop:
            loop.run()
    return output_folder.result(config) if done is None else done
