"""A toy task with dropout and augmentation, so that an incorrect resume changes the losses."""

import json
import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from glied import storage
from glied.training.history import Sample


@dataclass
class ToyTask:
    """A task that learns a linear function of 4 numbers."""

    rows: int = 96
    files: tuple[str, ...] = ()
    """Parquet files to train from instead of a table."""
    crash_file: str = ""
    """The first worker to take a step while this file exists deletes it and kills itself."""
    width: int = 8
    flat: bool = False
    """Whether validations never improve."""
    name: str = "toy"

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, self.width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(self.width, 1))

    def data(self, split: str) -> pa.Table | list[str]:
        if split == "train" and self.files:
            return list(self.files)
        return table(self.rows if split == "train" else 10)

    def collate(self, rows: Sequence[dict], *, training: bool, generator: torch.Generator) -> dict[str, Any]:
        inputs = torch.tensor([row["x"] for row in rows])
        if training:
            inputs = inputs + 0.01 * torch.randn(inputs.shape, generator=generator)
        return {"x": inputs, "y": torch.tensor([[row["y"]] for row in rows]), "ids": [r["id"] for r in rows]}

    def loss(self, model: nn.Module, batch: dict) -> tuple[Tensor, dict[str, float | Tensor]]:
        if self.crash_file and 40 in batch["ids"] and os.path.exists(self.crash_file):
            Path(self.crash_file).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        loss = nn.functional.mse_loss(model(batch["x"]), batch["y"])
        return loss, {"ids": float(sum(batch["ids"]))}

    def validate_and_show(
        self, model: nn.Module, batches: Iterable[dict]
    ) -> tuple[dict[str, float], list[Sample]]:
        metrics = self.validate(model, batches)
        return metrics, [Sample(f"fit {metrics['fit']}", "fit 0")]

    def validate(self, model: nn.Module, batches: Iterable[dict]) -> dict[str, float]:
        assert not model.training
        if self.flat:
            return {"fit": 0.5}
        errors = [nn.functional.mse_loss(model(b["x"]), b["y"], reduction="sum") for b in batches]
        return {"fit": -float(sum(errors)) / 10}

    def export(self, model: nn.Module, folder_uri: str) -> None:
        model.eval()  # as real exports do; it must not affect training
        state = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
        storage.write_bytes(storage.join(folder_uri, "model.json"), json.dumps(state).encode())


def table(count: int, start: int = 0) -> pa.Table:
    """Return rows `start` to `start + count` of the toy data."""
    x = np.random.default_rng(1).normal(size=(1000, 4)).astype(np.float32)[start : start + count]
    y = x @ np.array([1.0, -2.0, 0.5, 3.0], np.float32)
    return pa.table({"id": range(start, start + count), "x": x.tolist(), "y": y.tolist()})
