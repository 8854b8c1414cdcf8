"""Run training jobs from their configs without Ray and checkpoints."""

import pickle
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from glied.config import parse
from glied.training import batching, steps
from tests.jobs.conftest import ROOT


def load_config(job: ModuleType, name: str) -> Any:
    return parse(job.Config, [f"--config={ROOT / 'configs' / name}"])


def train_here(job: ModuleType, config_name: str) -> dict[str, float]:
    """Train for an epoch, validate, export, and return the validation's metrics."""
    config = load_config(job, config_name)
    task, trainer = (
        pickle.loads(pickle.dumps(job.build_task(config))),
        config.trainer,
    )  # as it arrives at workers
    model, generator = task.build(), torch.Generator()
    optimizer = steps.build_optimizer(
        model, name=trainer.optimizer, learning_rate=trainer.learning_rate, weight_decay=trainer.weight_decay
    )
    for batch in batching.batched(read_rows(task.data("train")), trainer.batch_size, drop_last=True):
        loss, _ = task.loss(model.train(), task.collate(batch, training=True, generator=generator))
        steps.optimizer_step(
            loss, model, optimizer, learning_rate=trainer.learning_rate, clip_norm=trainer.clip_norm
        )
    with torch.no_grad():
        batch = task.collate(read_rows(task.data("validation")), training=False, generator=generator)
        metrics = task.validate(model.eval(), [batch])
    task.export(model, f"{trainer.output}/best")
    return metrics


def read_rows(data: pa.Table | list[str]) -> list[dict[str, Any]]:
    tables = [data] if isinstance(data, pa.Table) else map(pq.read_table, data)
    return [row for table in tables for row in table.to_pylist()]
