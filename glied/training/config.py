"""How a task is trained; plain Python."""

import dataclasses
from typing import Literal

from glied.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How a task is trained."""

    output: str
    """Folder of the run: a local path or a storage URI such as s3://bucket/runs/regions."""
    epochs: int = 10
    """Passes over the training rows."""
    max_steps: int | None = None
    """Ends the training after this many steps, if that is earlier; the schedule is laid out for it."""
    batch_size: int = 64
    """Rows per step over all workers together; a multiple of workers x accumulate."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum 0.9."""
    schedule: Literal["cosine", "constant", "noam"] = "cosine"
    """After the warm-up: cosine to final_factor, constant, or the inverse square root of the step."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    final_factor: float = 0.0
    """Where the cosine schedule ends, as a share of learning_rate."""
    weight_decay: float = 0.0
    """Decoupled for AdamW; matrices only."""
    clip_norm: float = 1.0
    """Largest L2 norm of the gradient; 0 never clips."""
    ema_decay: float = 0.0
    """Validates and exports an exponential moving average of the weights with this decay; 0 for none."""
    seed: int = 0
    """Seed of the initialization, the order of the rows, augmentation and dropout."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the forward pass under autocast."""
    shuffle_buffer: int = 1024
    """Rows in a worker's shuffle buffer for Parquet data; tables are shuffled as a whole."""
    accumulate: int = 1
    """Micro-batches into which a worker cuts its share of a step's batch, where that is more than its memory
    holds; the gradient is that of the whole batch."""
    workers: int = 1
    """Training processes, one GPU each where device is cuda."""
    min_workers: int | None = None
    """Elastic: trains with as few workers as this where the cluster has no room for more, and with up to
    `workers` once it has; null waits until there is room for all."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes GPUs where the cluster has one for each worker, or for each of min_workers."""
    threads_per_worker: int = 1
    """torch's CPU threads in each worker."""
    cpus_per_worker: int = 1
    """Logical CPUs that each worker reserves in the cluster."""
    loader_threads: int = 1
    """Threads per worker that collate batches ahead of the training step."""
    validate_every_epochs: int = 1
    """Epochs between validations; the last epoch is always validated."""
    validate_every_steps: int | None = None
    """Also validates after every so many steps, for long epochs."""
    patience: int | None = None
    """Ends the training after so many validations in a row without a better first metric; null never does."""
    checkpoint_every_steps: int = 500
    """Steps between checkpoints, besides the one at the end of each epoch."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    log_every_steps: int = 20
    """Steps between log lines."""
    skip_steps: int = 0
    """Steps with a loss or a gradient that is not finite (NaN) that the run leaves out, logging their rows,
    before it stops."""
    max_failures: int = 2
    """Worker failures after which the run stops instead of going on from its newest checkpoint."""
    resume: bool = True
    """Goes on with the run found in output; false refuses an output that holds a run."""
    pause_after_steps: int | None = None
    """Pauses once the run has done this many steps; the same command without it goes on."""
    find_unused_parameters: bool = False
    """For models of which a step may leave parameters unused (data-parallel only; a little slower)."""
    accelerator: str | None = None
    """Type of GPU that each worker needs, as Ray names it ("L4", "A10G", "H100"); null for any."""
    wait_s: float | None = None
    """Longest wait until there is room for the workers (for min_workers of them). null waits 10 minutes for
    an autoscaler or for what other jobs hold, and 20 seconds where no such node can come."""
    timeout_s: int = 7200
    """Longest time one worker waits for the others, for instance while rank 0 validates."""

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("max_steps", "validate_every_steps", "pause_after_steps", "patience", "min_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1 or null, not {value}")
        for name in (
            "warmup_steps",
            "weight_decay",
            "clip_norm",
            "final_factor",
            "max_failures",
            "skip_steps",
        ):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"ema_decay must be in [0, 1), not {self.ema_decay}")
        if not self.learning_rate > 0:
            raise UsageError(f"learning_rate must be positive, not {self.learning_rate}")
        if (self.wait_s or 0) < 0:
            raise UsageError(f"wait_s must not be negative, not {self.wait_s}")
        if self.accelerator and self.device == "cpu":
            raise UsageError(f"accelerator {self.accelerator} is a GPU, and device is cpu")
        if self.fewest_workers > self.workers:
            raise UsageError(f"min_workers {self.min_workers} is more than workers ({self.workers})")
        for count in range(self.fewest_workers, self.workers + 1):
            if self.batch_size % (count * self.accumulate):
                raise UsageError(
                    f"batch_size {self.batch_size} must be a multiple of workers x accumulate "
                    f"({count} x {self.accumulate}), for every number of workers that there may be"
                )

    @property
    def fewest_workers(self) -> int:
        """Without which training waits."""
        return self.min_workers or self.workers


_COUNTS = (
    *("epochs", "batch_size", "shuffle_buffer", "workers", "threads_per_worker", "cpus_per_worker"),
    *("accumulate", "loader_threads", "validate_every_epochs", "checkpoint_every_steps", "keep_checkpoints"),
    *("log_every_steps", "timeout_s"),
)

FREE_KEYS = (
    *("output", "resume", "pause_after_steps", "workers", "min_workers", "device", "threads_per_worker"),
    *("cpus_per_worker", "accumulate", "loader_threads", "checkpoint_every_steps", "keep_checkpoints"),
    *("log_every_steps", "skip_steps", "max_failures", "timeout_s", "find_unused_parameters"),
    *("accelerator", "wait_s"),
)
"""What may differ when a run is resumed: it changes where and how fast, not what is learned."""
