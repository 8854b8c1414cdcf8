"""Configs of trainers and tasks, by the last part of their keys."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from glied.config import build, with_new_keys
from glied.training.config import TrainerConfig

Task = TypeVar("Task", bound=Any)


def trainer(output: Path | str = "unused", **values: Any) -> TrainerConfig:
    """A trainer's config: `clip_norm` is `optimizer.clip_norm`, and so on."""
    return build(TrainerConfig, with_new_keys(TrainerConfig, {"output": str(output), **values}, warn=False))


def changed(config: TrainerConfig, **values: Any) -> TrainerConfig:
    """The config with other values, named as for `trainer`."""
    new = with_new_keys(TrainerConfig, values, warn=False)
    parts = {
        key: dataclasses.replace(getattr(config, key), **value) if isinstance(value, dict) else value
        for key, value in new.items()
    }
    return dataclasses.replace(config, **parts)


def with_config(task: Task, **values: Any) -> Task:
    """The task with other values in its config."""
    return dataclasses.replace(task, config=dataclasses.replace(task.config, **values))
