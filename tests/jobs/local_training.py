"""Run training jobs from their configs without Ray and checkpoints."""

import pickle
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from glied.config import parse
from glied.training import batching, steps
from glied.training.tasks.attributes import AttributesTask, TrainAttributesConfig
from glied.training.tasks.captioner import CaptionerTask, TrainCaptionerConfig
from glied.training.tasks.clip import TrainClipConfig
from glied.training.tasks.coca import clip_task
from glied.training.tasks.grammar import FinetuneGrammarConfig, GrammarTask
from glied.training.tasks.regions import RegionsTask, TrainRegionsConfig
from glied.training.tasks.scst import ScstTask, TrainScstConfig
from tests.jobs.conftest import ROOT

TASKS: dict[str, tuple[Any, Any]] = {
    "attributes": (TrainAttributesConfig, AttributesTask),
    "captioner": (TrainCaptionerConfig, CaptionerTask),
    "clip": (TrainClipConfig, clip_task),
    "grammar": (FinetuneGrammarConfig, GrammarTask),
    "regions": (TrainRegionsConfig, RegionsTask),
    "scst": (TrainScstConfig, ScstTask),
}
"""Configs and tasks by the folders of configs/."""


def load_task(name: str, *options: str) -> Any:
    """The task of a file below configs/, with options of the command line."""
    config_class, task_class = TASKS[name.partition("/")[0]]
    return task_class(config=parse(config_class, [f"--config={ROOT / 'configs' / name}", *options]))


def train_here(config_name: str, *options: str) -> dict[str, float]:
    """An epoch, a validation, whose metrics are returned, and the export."""
    task = pickle.loads(pickle.dumps(load_task(config_name, *options)))  # as workers get it
    trainer = task.config.trainer
    model, generator = task.build(), torch.Generator()
    optimizer = steps.build_optimizer(
        model,
        name=trainer.optimizer.name,
        learning_rate=trainer.optimizer.learning_rate,
        weight_decay=trainer.optimizer.weight_decay,
    )
    for batch in batching.batched(read_rows(task.data("train")), trainer.batch_size, drop_last=True):
        loss, _ = task.loss(model.train(), task.collate(batch, training=True, generator=generator))
        steps.optimizer_step(
            loss,
            model,
            optimizer,
            learning_rate=trainer.optimizer.learning_rate,
            clip_norm=trainer.optimizer.clip_norm,
        )
    with torch.no_grad():
        batch = task.collate(read_rows(task.data("validation")), training=False, generator=generator)
        metrics = task.validate(model.eval(), [batch])
    task.export(model, f"{trainer.output}/best")
    return metrics


def read_rows(data: pa.Table | list[str]) -> list[dict[str, Any]]:
    tables = [data] if isinstance(data, pa.Table) else map(pq.read_table, data)
    return [row for table in tables for row in table.to_pylist()]
