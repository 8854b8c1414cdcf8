"""Building blocks of the training loop: seeds, optimizer, learning rate, one step, the state to resume from.

All randomness is derived from (seed, step, rank) instead of being carried from step to step. So a resumed run
draws the same numbers as an uninterrupted one, and no generator state needs saving.
"""

import dataclasses
import hashlib
import io
import math
import random
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from glied.errors import UsageError
from glied.training.plan import Progress

Schedule: TypeAlias = Literal["cosine", "constant", "noam"]
OptimizerName: TypeAlias = Literal["adamw", "sgd"]


def fold_seed(*values: int | str) -> int:
    """Returns a 63-bit seed that depends on every value and their order."""
    digest = hashlib.blake2b("/".join(map(str, values)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_everything(*values: int | str) -> None:
    """Seeds Python, numpy and torch (all devices) from `fold_seed(*values)`."""
    seed = fold_seed(*values)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator(*values: int | str) -> torch.Generator:
    """Returns a CPU generator seeded from `fold_seed(*values)`."""
    return torch.Generator().manual_seed(fold_seed(*values))


def learning_rate_factor(
    step: int, *, schedule: Schedule, warmup_steps: int, total_steps: int, final_factor: float = 0.0
) -> float:
    """Returns what the base learning rate is multiplied by at `step` (counted from 0); 1 where warm-up ends.

    The warm-up is linear. "cosine" then falls to `final_factor` at `total_steps`, "noam" with the inverse
    square root of the step (Vaswani et al. 2017, equation 3, scaled to peak at 1), "constant" stays.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    if schedule == "noam":
        return math.sqrt(max(warmup_steps, 1) / (step + 1))
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_factor + (1.0 - final_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def build_optimizer(
    model: nn.Module, *, name: OptimizerName, learning_rate: float, weight_decay: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """Returns an optimizer over what requires a gradient; biases and norms (vectors) are not decayed."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum)
    return torch.optim.AdamW(groups, lr=learning_rate)


def optimizer_step(
    loss: Tensor,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    learning_rate: float,
    clip_norm: float,
) -> None:
    """Backpropagates the loss of a whole batch and updates the model."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    update(model, optimizer, learning_rate=learning_rate, clip_norm=clip_norm)


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, learning_rate: float, clip_norm: float
) -> None:
    """Clips the norm of the gradients to `clip_norm` (0 = never) and updates the model."""
    clip_gradients(model, clip_norm)
    apply_gradients(optimizer, learning_rate)


def clip_gradients(model: nn.Module, clip_norm: float, divisor: Tensor | None = None) -> Tensor:
    """Divides gradients by `divisor`, clips their norm to `clip_norm` (0 = never); the norm from before."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if divisor is not None:
        for gradient in gradients:
            gradient.div_(divisor)
    if clip_norm > 0:
        return nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    return nn.utils.get_total_norm(gradients)


def apply_gradients(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Updates the model."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()


def autocast(device: torch.device, *, bf16: bool) -> torch.autocast:
    """Returns the context for a forward pass: bfloat16 where it is safe if `bf16`, else plain float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def move(batch: Any, device: torch.device) -> Any:
    """Returns a batch on `device`: nested tensors, lists, dicts, dataclasses, objects with `.to(device)`."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(move(value, device) for value in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = {f.name: move(getattr(batch, f.name), device) for f in dataclasses.fields(batch) if f.init}
        return dataclasses.replace(batch, **fields)
    return batch


class Averages:
    """Weighted means of logged scalars; one that some steps lack is averaged over the steps that have it."""

    def __init__(self) -> None:
        """Starts empty."""
        self._sums: dict[str, float | Tensor] = {}
        self._weights: dict[str, float | Tensor] = {}

    def add(self, scalars: Mapping[str, float | Tensor], weight: float | Tensor = 1.0) -> None:
        """Adds the scalars of one batch; detached 0-d tensors stay on their device until `take`."""
        for name, value in scalars.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + value * weight
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def weight(self, name: str) -> float:
        """The total weight of a scalar."""
        return float(self._weights.get(name, 0.0))

    def take(self) -> dict[str, float]:
        """Returns the means in the order of first use, without those of weight 0, and starts again."""
        weights = {name: float(weight) for name, weight in self._weights.items()}
        means = {name: float(total) / weights[name] for name, total in self._sums.items() if weights[name]}
        self._sums, self._weights = {}, {}
        return means


def merge_means(parts: Iterable[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    """Returns the mean over workers of each scalar, over those that have it.

    Args:
        parts: each worker's means, and their weight.
    """
    merged = Averages()
    for means, weight in parts:
        merged.add(means, weight)
    return merged.take()


def weight_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """Returns an exponential moving average of the model's weights, to be updated after each step; None for
    decay 0. It starts with the weights after the first step."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None


_STATE_VERSION = 1
_RENAMED_PROGRESS = {"stale": "validations_without_improvement"}
"""Fields of `Progress` as version 0.1 stored them."""


def pack_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    average: AveragedModel | None = None,
) -> bytes:
    """Returns a checkpoint: tensors and plain containers only, so that it loads with `weights_only=True`."""
    state = {
        "version": _STATE_VERSION,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average and average.state_dict(),
        "progress": dataclasses.asdict(progress),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpack_state(
    data: bytes, model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel | None = None
) -> Progress:
    """Loads a checkpoint of `pack_state` into what it was made from and returns where the run stood.

    Raises:
        UsageError: the checkpoint was written by another version or belongs to another model.
    """
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if state.get("version") != _STATE_VERSION:
        raise UsageError(
            f"checkpoint version {state.get('version')} is not {_STATE_VERSION}: start a new output"
        )
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the checkpoint does not fit this model: {error}") from error
    stored = {_RENAMED_PROGRESS.get(name, name): value for name, value in state["progress"].items()}
    progress = Progress(**stored)
    if progress.best is not None and not math.isfinite(progress.best):
        progress.best = None  # earlier versions took NaN for the best value
    return progress
