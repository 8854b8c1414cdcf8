"""How a task is trained: the settings that all training jobs share, under the key `trainer`."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from glied.config_checks import check_least, check_shares
from glied.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How a step updates the weights."""

    name: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum 0.9."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled for AdamW; applied to matrices only."""
    clip_norm: float = 1.0
    """Largest L2 norm of the gradient; 0 turns clipping off."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is validated and exported;
    0 for none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the forward pass under autocast."""
    accumulate: int = 1
    """Micro-batches into which a worker divides its part of a step's batch when the whole part does not fit
    into memory; the gradient is that of the whole batch."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_least(self, 1, "accumulate", key="trainer.optimizer")
        check_least(self, 0, "weight_decay", "clip_norm", key="trainer.optimizer")
        check_shares(self, "ema_decay", key="trainer.optimizer")
        if not self.learning_rate > 0:
            raise UsageError(f"trainer.optimizer.learning_rate: {self.learning_rate} is not positive")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes over the run."""

    name: Literal["cosine", "constant", "noam"] = "cosine"
    """After the warm-up: cosine to final_factor, constant, or the inverse square root of the step."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    final_factor: float = 0.0
    """Where the cosine schedule ends, as a share of the peak learning rate."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_least(self, 0, "warmup_steps", "final_factor", key="trainer.schedule")


@dataclass(frozen=True, kw_only=True)
class TrainerResourcesConfig:
    """What the training processes need, and how long they wait for it."""

    min_workers: int | None = None
    """Elastic training: the run starts with as few workers as this and grows to `trainer.workers` when the
    cluster has room; null waits until there is room for all."""
    cpus_per_worker: int = 1
    """Logical CPUs that each worker reserves in the cluster."""
    threads_per_worker: int = 1
    """torch's CPU threads in each worker."""
    loader_threads: int = 1
    """Threads per worker that collate batches ahead of the training step."""
    shuffle_buffer: int = 1024
    """Rows in a worker's shuffle buffer for Parquet data; tables are shuffled as a whole."""
    accelerator: str | None = None
    """Type of GPU that each worker needs, as Ray names it ("L4", "A10G", "H100"); null for any."""
    wait_s: float | None = None
    """Longest wait, in seconds, until there is room for the workers (or for min_workers). null waits 10
    minutes for an autoscaler or for what other jobs hold, and 20 seconds where no such node can come."""
    timeout_s: int = 7200
    """Longest time, in seconds, that one worker waits for the others, for instance while rank 0 validates."""
    find_unused_parameters: bool = False
    """For models whose steps may leave parameters unused (data-parallel only; a little slower)."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        counts = ("min_workers", "cpus_per_worker", "threads_per_worker", "loader_threads")
        check_least(self, 1, *counts, "shuffle_buffer", "timeout_s", key="trainer.resources")
        check_least(self, 0, "wait_s", key="trainer.resources")


@dataclass(frozen=True, kw_only=True)
class MonitoringConfig:
    """When a run logs and validates, and when it stops early."""

    log_every_steps: int = 20
    """Steps between log lines."""
    validate_every_epochs: int = 1
    """Epochs between validations; the last epoch is always validated."""
    validate_every_steps: int | None = None
    """Also validate after every so many steps, for long epochs."""
    patience: int | None = None
    """End the training after this many validations in a row without a better first metric; null: never."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        names = (one.name for one in dataclasses.fields(self))
        check_least(self, 1, *names, key="trainer.monitoring")


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """What a run saves, and what it does about failures."""

    checkpoint_every_steps: int = 500
    """Steps between checkpoints, besides the one at the end of each epoch."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept."""
    resume: bool = True
    """Continue the run found in the output folder; false refuses an output folder that holds a run."""
    pause_after_steps: int | None = None
    """Pause the run after this many steps; the same command without it continues."""
    max_failures: int = 2
    """Worker failures after which the run stops instead of restarting from its newest checkpoint."""
    skip_steps: int = 0
    """How many steps whose loss or gradient is not finite (NaN) the run skips, logging their rows, before it
    stops."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        counts = ("checkpoint_every_steps", "keep_checkpoints", "pause_after_steps")
        check_least(self, 1, *counts, key="trainer.recovery")
        check_least(self, 0, "max_failures", "skip_steps", key="trainer.recovery")


_GROUPS: dict[str, tuple[str, ...]] = {
    "optimizer": ("learning_rate", "weight_decay", "clip_norm", "ema_decay", "precision", "accumulate"),
    "schedule": ("warmup_steps", "final_factor"),
    "resources": (
        *("min_workers", "cpus_per_worker", "threads_per_worker", "loader_threads", "shuffle_buffer"),
        *("accelerator", "wait_s", "timeout_s", "find_unused_parameters"),
    ),
    "monitoring": ("log_every_steps", "validate_every_epochs", "validate_every_steps", "patience"),
    "recovery": (
        *("checkpoint_every_steps", "keep_checkpoints", "resume", "pause_after_steps", "max_failures"),
        "skip_steps",
    ),
}
"""Keys that version 0.1 had directly below `trainer`, by the group that holds them now."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How a task is trained, where, and for how long."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        **{name: f"{group}.{name}" for group, names in _GROUPS.items() for name in names},
        "optimizer": "optimizer.name",
        "schedule": "schedule.name",
    }

    output: str
    """Folder of the run: a local path or a storage URI such as s3://bucket/runs/regions."""
    epochs: int = 10
    """Passes over the training rows."""
    max_steps: int | None = None
    """End the training after this many steps, if that is earlier; the schedule is laid out for it."""
    batch_size: int = 64
    """Rows per step over all workers together; a multiple of workers x optimizer.accumulate."""
    seed: int = 0
    """Seed of the initialization, the order of the rows, augmentation and dropout."""
    workers: int = 1
    """Training processes, one GPU each where device is cuda."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto uses GPUs where the cluster has one for each worker, or for each of resources.min_workers."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How a step updates the weights."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """How the learning rate changes over the run."""
    resources: TrainerResourcesConfig = field(default_factory=TrainerResourcesConfig)
    """What the training processes need."""
    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)
    """When the run logs and validates, and when it stops early."""
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    """Checkpoints, resuming and failures."""

    def __post_init__(self) -> None:
        """Refuse values out of range and conflicts between the groups."""
        check_least(self, 1, "epochs", "max_steps", "batch_size", "workers", key="trainer")
        accelerator = self.resources.accelerator
        if accelerator and self.device == "cpu":
            raise UsageError(
                f"trainer.resources.accelerator: {accelerator} is a GPU, and trainer.device is cpu"
            )
        if self.fewest_workers > self.workers:
            raise UsageError(
                f"trainer.resources.min_workers: {self.fewest_workers} is more than trainer.workers "
                f"({self.workers})"
            )
        self._check_batch_size()

    def _check_batch_size(self) -> None:
        for count in range(self.fewest_workers, self.workers + 1):
            if self.batch_size % (count * self.optimizer.accumulate):
                raise UsageError(
                    f"trainer.batch_size {self.batch_size} must be a multiple of workers x accumulate "
                    f"({count} x {self.optimizer.accumulate}), for every number of workers that there may be"
                )

    @property
    def fewest_workers(self) -> int:
        """The number of workers without which training does not start."""
        return self.resources.min_workers or self.workers


FREE_KEYS = frozenset(
    {"output", "workers", "device", "optimizer.accumulate", "monitoring.log_every_steps"}
    | {f"recovery.{name}" for name in _GROUPS["recovery"]}
    | {f"resources.{name}" for name in _GROUPS["resources"] if name != "shuffle_buffer"}
)
"""Dotted keys that may differ when a run is resumed: they change where and how fast, not what is learned."""
