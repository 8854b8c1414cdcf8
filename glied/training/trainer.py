"""Trains a `Task` with Ray Train: data-parallel workers, streamed rows, checkpoints, resume.

The run's position follows from the number of steps done and the run's seed: the order of the rows, the
generator of each collated batch and the dropout of each step are functions of (seed, step, rank). That is
what makes a resumed run equal to an uninterrupted one. Every rank takes the same number of steps an epoch
(rows // batch_size, agreed before the first one), so no rank waits for another on uneven data.

Output folder (local or any storage URI):

    run.json         the resolved config; a run is not resumed with another one
    checkpoints/     Ray Train's folder: the newest `keep_checkpoints` states
    metrics.jsonl    one object per log interval and per validation, and its sample captions
    tensorboard/     the same
    best/, last/     exported models (`Task.export`), best by the first validation metric
    result.json      final metrics; written last, marks the run as complete
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import ray
import ray.data
import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from glied import placement, ray_runtime, storage
from glied.datasets import parquet
from glied.errors import GliedError, JobError, UsageError
from glied.training import loading, steps
from glied.training.history import RESULT, RUN, Sample, flat
from glied.training.runlog import RunLog, interval_line
from glied.training.task import CaptioningTask, Row, ScheduledTask, Task

CHECKPOINTS = "checkpoints"
BEST = "best"
LAST = "last"
_STATE = "state.pt"
_PIECE_ROWS = 256  # rows that one data task reads: about 20 MB of region features
_LOGGED_SAMPLES = 3  # captions of a validation that the log shows
_DATASET_PIECES = 2048  # data tasks after which the stream starts a new dataset

logger = logging.getLogger(__name__)


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
    """Rows per step over all workers together; a multiple of workers."""
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
    workers: int = 1
    """Training processes, one GPU each where device is cuda; all of them must have room at once."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes GPUs where the cluster has one per worker."""
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
    """Longest wait until there is room for all workers. null waits 10 minutes for an autoscaler or for what
    other jobs hold, and 20 seconds where no such node can come."""
    timeout_s: int = 7200
    """Longest time one worker waits for the others, for instance while rank 0 validates."""

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("max_steps", "validate_every_steps", "pause_after_steps", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1 or null, not {value}")
        for name in ("warmup_steps", "weight_decay", "clip_norm", "final_factor", "max_failures"):
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
        if self.batch_size % self.workers:
            raise UsageError(f"batch_size {self.batch_size} must be a multiple of workers ({self.workers})")


_COUNTS = (
    *("epochs", "batch_size", "shuffle_buffer", "workers", "threads_per_worker", "cpus_per_worker"),
    *("loader_threads", "validate_every_epochs", "checkpoint_every_steps", "keep_checkpoints"),
    *("log_every_steps", "timeout_s"),
)

# What may differ when a run is resumed: it changes where and how fast, not what is learned.
_FREE_KEYS = (
    *("output", "resume", "pause_after_steps", "workers", "device", "threads_per_worker", "cpus_per_worker"),
    *("loader_threads", "checkpoint_every_steps", "keep_checkpoints", "log_every_steps", "max_failures"),
    *("timeout_s", "find_unused_parameters", "accelerator", "wait_s"),
)


@dataclasses.dataclass(frozen=True)
class _Source:
    """Rows of one split, as every worker reads them: a table in the object store or Parquet files."""

    table: Any = None
    """Reference to a `pa.Table`, or None."""
    files: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    """Rows of each file, or the rows of the table."""

    @property
    def rows(self) -> int:
        return sum(self.counts)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a worker needs to know."""

    task: Task
    config: TrainerConfig
    train: _Source
    validation: _Source
    use_gpu: bool
    directory: str
    """Where the driver was started: relative paths of the config hold from there."""

    @property
    def epoch_steps(self) -> int:
        return self.train.rows // self.config.batch_size

    @property
    def total_steps(self) -> int:
        steps_ = self.epoch_steps * self.config.epochs
        return min(steps_, self.config.max_steps or steps_)


# ---- driver


def train(task: Task, config: TrainerConfig) -> dict[str, Any]:
    """Trains `task` to the end, from where an earlier attempt stopped; returns the content of result.json.

    A run paused by `pause_after_steps` returns {"complete": False}.

    Raises:
        UsageError: unfit data or config, or `output` holds a run with another config (which keys is named).
        JobError: the cluster has no room for the workers, or training failed; what was checkpointed stays,
            and the same command goes on from there.
    """
    tables = {"train": task.data("train"), "validation": task.data("validation")}
    counts = {split: _row_counts(data) for split, data in tables.items()}
    _check_rows(config, sum(counts["train"]))
    identity = _identity(task, config, {split: sum(values) for split, values in counts.items()})
    done = _claim_output(config, identity)
    if done is not None:
        logger.info("%s: the run is complete (%d steps), nothing to do", config.output, done["steps"])
        return done
    ray_runtime.start(workers=config.workers * config.cpus_per_worker)
    use_gpu = _use_gpu(config)
    _wait_for_workers(config, use_gpu)
    plan = _Plan(
        task=task,
        config=config,
        train=_source(tables["train"], counts["train"]),
        validation=_source(tables["validation"], counts["validation"]),
        use_gpu=use_gpu,
        directory=os.getcwd(),
    )
    _fit(plan)
    result = _read_json(storage.join(config.output, RESULT))
    return result or {"complete": False}


def _row_counts(data: pa.Table | list[str]) -> tuple[int, ...]:
    if isinstance(data, pa.Table):
        return (data.num_rows,)
    return tuple(parquet.count_rows(uri) for uri in data)


def _check_rows(config: TrainerConfig, rows: int) -> None:
    if rows < config.batch_size:
        raise UsageError(f"batch_size {config.batch_size} is more than the {rows} training rows")


def _identity(task: Task, config: TrainerConfig, rows: dict[str, int]) -> dict[str, Any]:
    """The resolved config as JSON values: what run.json holds."""
    fields: dict[str, Any] = dataclasses.asdict(task) if dataclasses.is_dataclass(task) else {}
    text = json.dumps(
        {"kind": task.name, "rows": rows, "task": fields, "trainer": dataclasses.asdict(config)}, default=str
    )
    return json.loads(text)


def _claim_output(config: TrainerConfig, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Writes run.json or compares with the one that is there; returns the result of a complete run."""
    uri = storage.join(config.output, RUN)
    if storage.put_if_absent(uri, json.dumps(identity, indent=1).encode() + b"\n") and config.resume:
        return _read_json(storage.join(config.output, RESULT))
    found = _read_json(uri)
    if found is None:
        raise UsageError(f"{uri} cannot be read: remove it or choose another output")
    differences = _differences(found, identity)
    if differences:
        raise UsageError(
            f"{config.output} holds another run: {'; '.join(differences)}. Choose another output"
        )
    if not config.resume:
        raise UsageError(f"{config.output} holds a run and resume is false: choose another output")
    return _read_json(storage.join(config.output, RESULT))


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names what differs between two identities, as `key: old -> new`."""
    old, new = flat(found), flat(wanted)
    free = {f"trainer.{key}" for key in _FREE_KEYS}
    keys = [key for key in dict.fromkeys([*old, *new]) if key not in free and old.get(key) != new.get(key)]
    return [f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in keys]


def _read_json(uri: str) -> dict[str, Any] | None:
    try:
        return json.loads(storage.read_bytes(uri))
    except (FileNotFoundError, ValueError):
        return None


def _source(data: pa.Table | list[str], counts: tuple[int, ...]) -> _Source:
    if isinstance(data, pa.Table):
        return _Source(table=ray.put(data.combine_chunks()), counts=counts)
    return _Source(files=tuple(data), counts=counts)


def _use_gpu(config: TrainerConfig) -> bool:
    """Whether to train on GPUs; those of device cuda may still have to be started by an autoscaler."""
    if config.device != "auto" or config.accelerator:
        return config.device != "cpu"
    return ray.cluster_resources().get("GPU", 0) >= config.workers


def _wait_for_workers(config: TrainerConfig, use_gpu: bool) -> None:
    """Wait for room for all workers and for a task that reads beside them; Ray Train would do so silently."""
    worker = placement.share(cpus=config.cpus_per_worker, gpus=float(use_gpu), accelerator=config.accelerator)
    shares = [worker] * config.workers + [placement.share(cpus=1)]
    placement.wait_for(shares, wait_s=config.wait_s, key="trainer.wait_s")


def _fit(plan: _Plan) -> None:
    config = plan.config
    filesystem, path = storage.arrow_filesystem(config.output)
    resources: dict[str, float] = {"CPU": config.cpus_per_worker}
    if plan.use_gpu:
        resources["GPU"] = 1
    trainer = ray.train.torch.TorchTrainer(
        _worker_loop,
        train_loop_config={"plan": plan},
        torch_config=ray.train.torch.TorchConfig(timeout_s=config.timeout_s),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=plan.use_gpu,
            resources_per_worker=resources,
            accelerator_type=config.accelerator,
        ),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.keep_checkpoints),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )
    # Worker processes import torch, which takes minutes on a machine that is busy: Ray's minute is too short.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        raise _worker_error(error) from error
    except ray.train.TrainingFailedError as error:
        raise JobError(f"training failed: {error}") from error


def _worker_error(error: Any) -> GliedError:
    """The failure of a worker in one line; the traceback goes to the log."""
    logger.error("%s", error)
    # Ray wraps what the worker raised; the wrapper's text is the traceback.
    failures = {rank: getattr(e, "_base_exc", e) for rank, e in error.worker_failures.items()}
    for failure in failures.values():
        if isinstance(failure, GliedError):
            return failure
    rank, failure = next(iter(failures.items()), (0, error))
    reason = " ".join(str(failure).split()) or type(failure).__name__
    return JobError(
        f"training failed in worker {rank} ({reason}); the same command goes on from the last checkpoint"
    )


# ---- worker


def _worker_loop(loop_config: dict[str, Any]) -> None:
    """Runs in each training process."""
    plan: _Plan = loop_config["plan"]
    if os.path.isdir(plan.directory):  # Ray Train moves its workers to a directory of its own
        os.chdir(plan.directory)
    _quiet_worker()
    torch.set_num_threads(plan.config.threads_per_worker)
    with contextlib.closing(_Worker(plan)) as worker:
        worker.run()


def _quiet_worker() -> None:
    ours = logging.getLogger("glied")  # not the root logger: Ray's own lines would come twice
    if not ours.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    for name in ("ray.data", "ray.train"):  # else a line per dataset and per report
        logging.getLogger(name).setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True  # the order of the rows is part of the run's seed


class _Worker:
    """One training process: model, optimizer, data, and (rank 0) the run's records."""

    def __init__(self, plan: _Plan) -> None:
        context = ray.train.get_context()
        self.plan, self.config, self.task = plan, plan.config, plan.task
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device() if plan.use_gpu else torch.device("cpu")
        steps.seed_everything(self.config.seed, "build")
        self.model = self.task.build().to(self.device)
        self.optimizer = steps.build_optimizer(
            self.model,
            name=self.config.optimizer,
            learning_rate=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
        )
        self.average = steps.weight_average(self.model, self.config.ema_decay)
        self.progress = self._restore()
        self.log = RunLog(self.config.output, self.progress.step) if self.rank == 0 else None
        self.parallel: nn.Module = self.model
        if self.world > 1:
            self.parallel = DistributedDataParallel(
                self.model,
                device_ids=[self.device] if plan.use_gpu else None,
                find_unused_parameters=self.config.find_unused_parameters,
            )

    def close(self) -> None:
        if self.log is not None:
            self.log.close()

    def run(self) -> None:
        """Trains to the end of the run, or to where it is to pause."""
        total, started = self.plan.total_steps, self.progress.step
        if self.rank == 0:
            logger.info(
                "%s: %d rows, %d steps an epoch, %d in all, %d parameters, %d workers on %s%s",
                self.task.name, self.plan.train.rows, self.plan.epoch_steps, total,
                sum(p.numel() for p in self.model.parameters()), self.world, self.device.type,
                f", resumed at step {started}" if started else "",
            )  # fmt: skip
        stop = min(total, self.config.pause_after_steps or total)
        self._meter = _Meter(started)
        with contextlib.closing(self._train_batches(started, started if self._stopped else stop)) as batches:
            for batch in batches:
                self._meter.loaded()
                self._step(batch)
                self._after_step()
                if self._stopped:
                    break
        if self.rank == 0 and (self.progress.step >= total or self._stopped):
            self._finish()

    @property
    def _stopped(self) -> bool:
        """Whether validation has been without progress for too long."""
        return self.config.patience is not None and self.progress.stale >= self.config.patience

    @property
    def _exported(self) -> nn.Module:
        """What is validated and exported: the model, or the average of its weights."""
        return self.model if self.average is None else self.average.module

    def _step(self, batch: Any) -> None:
        config, step = self.config, self.progress.step
        steps.seed_everything(config.seed, "step", step, self.rank)
        batch = steps.move(batch, self.device)
        self.parallel.train()  # whatever validation or an export left it in
        with steps.autocast(self.device, bf16=config.precision == "bf16"):
            loss, scalars = self._loss(batch)
        rate = config.learning_rate * steps.learning_rate_factor(
            step,
            schedule=config.schedule,
            warmup_steps=config.warmup_steps,
            total_steps=self.plan.total_steps,
            final_factor=config.final_factor,
        )
        steps.optimizer_step(
            loss, self.parallel, self.optimizer, learning_rate=rate, clip_norm=config.clip_norm
        )
        if self.average is not None:
            self.average.update_parameters(self.model)
        self._meter.add({"loss": loss.detach(), **{k: v for k, v in scalars.items() if k != "loss"}}, rate)
        self.progress.step += 1

    def _loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, float | torch.Tensor]]:
        if isinstance(self.task, ScheduledTask):
            return self.task.loss_at(self.parallel, batch, self.progress.step / self.plan.total_steps)
        return self.task.loss(self.parallel, batch)

    def _after_step(self) -> None:
        """Logs, validates and checkpoints where they are due; every rank takes the same decisions."""
        config, step = self.config, self.progress.step
        last = step == self.plan.total_steps
        pausing = step == config.pause_after_steps
        epoch_end = step % self.plan.epoch_steps == 0
        if step % config.log_every_steps == 0 or last or pausing:
            self._log_interval()
        validated = last or (epoch_end and step // self.plan.epoch_steps % config.validate_every_epochs == 0)
        validated |= bool(config.validate_every_steps) and step % (config.validate_every_steps or 1) == 0
        if validated and self.plan.validation.rows:
            self._validate()
        last |= self._stopped
        if epoch_end or last or pausing or step % config.checkpoint_every_steps == 0:
            self._checkpoint()

    def _log_interval(self) -> None:
        scalars = self._meter.take(self.progress.step, self.config.batch_size)
        if self.world > 1:
            gathered: list[Any] = [None] * self.world
            torch.distributed.all_gather_object(gathered, scalars)
            scalars = steps.merge_means(gathered)
        if not math.isfinite(scalars["loss"]):
            raise JobError(
                f"the loss is {scalars['loss']} at step {self.progress.step}: lower the learning rate"
            )
        if self.log is not None:
            epoch = self.progress.step / self.plan.epoch_steps
            eta = self._meter.step_s * (self.plan.total_steps - self.progress.step)
            self.log.write("train", self.progress.step, {"epoch": round(epoch, 4), **scalars})
            logger.info(interval_line(self.progress.step, self.plan.total_steps, epoch, scalars, eta))

    def _validate(self) -> None:
        """Validates on rank 0 while the others wait; exports the model when it is the best so far."""
        if self.log is not None:
            begun = time.monotonic()
            model = self._exported.eval()
            with torch.no_grad(), contextlib.closing(self._validation_batches()) as batches:
                metrics, samples = self._validated(model, batches)
            self.log.write("validation", self.progress.step, metrics)
            if samples:
                self.log.write_samples(self.progress.step, samples)
            for sample in samples[:_LOGGED_SAMPLES]:
                logger.info("caption: %s | reference: %s", sample.caption, sample.reference)
            text = " ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            logger.info(
                "validation at step %d: %s (%.0f s)", self.progress.step, text, time.monotonic() - begun
            )
            self._keep_best(metrics)
        self._agree()

    def _validated(self, model: nn.Module, batches: Iterable[Any]) -> tuple[dict[str, float], list[Sample]]:
        """Metrics, and captions where the task has some."""
        if isinstance(self.task, CaptioningTask):
            return self.task.validate_and_show(model, batches)
        return self.task.validate(model, batches), []

    def _keep_best(self, metrics: dict[str, float]) -> None:
        value = float(next(iter(metrics.values())))
        if self.progress.best is None or value > self.progress.best:
            self.progress.best, self.progress.best_step = value, self.progress.step
            self.progress.stale = 0
            self.task.export(self._exported, storage.join(self.config.output, BEST))
            return
        self.progress.stale += 1
        if self._stopped:
            logger.info("no better validation in %d: the training ends here", self.progress.stale)

    def _agree(self) -> None:
        """All workers wait for rank 0 and learn whether to go on."""
        if self.world > 1:
            told = [self.progress]
            torch.distributed.broadcast_object_list(told, src=0)
            self.progress = told[0]
        self._meter.restart()

    # ---- data

    def _train_batches(self, start: int, stop: int) -> Generator[Any, None, None]:
        """Yields the collated batches of steps `start` to `stop`, prepared in the background."""

        def collate(item: tuple[int, list[Row]]) -> Any:
            step, rows = item
            generator = steps.generator(self.config.seed, "collate", step, self.rank)
            return self.task.collate(rows, training=True, generator=generator)

        threads = self.config.loader_threads
        batches = loading.ordered_map(collate, self._train_rows(start, stop), threads=threads)
        return loading.prefetched(batches, depth=2 * threads)

    def _train_rows(self, start: int, stop: int) -> Iterator[tuple[int, list[Row]]]:
        step = start
        first, end = start // self.plan.epoch_steps, -(-stop // self.plan.epoch_steps)
        stream = self._stream(first, end) if self.plan.train.table is None else None
        while step < stop:
            epoch, skip = divmod(step, self.plan.epoch_steps)
            batches = self._streamed_rows(stream, epoch, skip) if stream else self._table_rows(epoch, skip)
            for rows in batches:
                yield step, rows
                step += 1
                if step >= stop:
                    return
            assert step == (epoch + 1) * self.plan.epoch_steps, "an epoch has fewer batches than agreed"

    def _table_rows(self, epoch: int, skip: int) -> Iterator[list[Row]]:
        """Yields the rows of this worker's batches from batch `skip` of an epoch on."""
        config, table = self.config, ray.get(self.plan.train.table)
        for indices in loading.table_indices(
            table.num_rows, seed=config.seed, epoch=epoch, rank=self.rank, world=self.world,
            batch_size=config.batch_size, skip_batches=skip,
        ):  # fmt: skip
            yield table.take(pa.array(indices)).to_pylist()

    def _stream(self, first_epoch: int, end_epoch: int) -> Iterator[Row]:
        """Yields this worker's rows of all epochs, in the order of `loading.file_ranges`."""
        source = self.plan.train
        pieces = (
            parquet.Piece(source.files[file], first, last)
            for epoch in range(first_epoch, end_epoch)
            for file, first, last in loading.file_ranges(
                source.counts, seed=self.config.seed, epoch=epoch, rank=self.rank, world=self.world
            )
        )
        return _parquet_stream(pieces)

    def _streamed_rows(self, stream: Iterator[Row], epoch: int, skip: int) -> Iterator[list[Row]]:
        """Like `_table_rows`; takes the epoch's rows from `stream` and shuffles them in a buffer."""
        config = self.config
        rows = loading.shuffled(
            itertools.islice(stream, self.plan.train.rows // self.world),
            buffer_size=config.shuffle_buffer,
            seed=steps.fold_seed(config.seed, "buffer", epoch, self.rank),
        )
        batches = loading.batched(rows, config.batch_size // self.world, drop_last=True)
        for index, batch in enumerate(batches):
            if skip <= index < self.plan.epoch_steps:
                yield batch

    def _validation_batches(self) -> Generator[Any, None, None]:
        source = self.plan.validation
        if source.table is not None:
            rows: Iterator[Row] = iter(ray.get(source.table).to_pylist())
        else:
            files = zip(source.files, source.counts, strict=True)
            rows = _parquet_stream(parquet.Piece(uri, 0, count) for uri, count in files)

        def collate(batch: list[Row]) -> Any:
            return self.task.collate(batch, training=False, generator=steps.generator("validation"))

        size = max(1, self.config.batch_size // self.world)
        threads = self.config.loader_threads
        batches = loading.ordered_map(collate, loading.batched(rows, size, drop_last=False), threads=threads)
        with contextlib.closing(loading.prefetched(batches, depth=2 * threads)) as ready:
            for batch in ready:
                yield steps.move(batch, self.device)

    # ---- state

    def _restore(self) -> steps.Progress:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return steps.Progress()
        with checkpoint.as_directory() as folder:
            data = (Path(folder) / _STATE).read_bytes()
            return steps.unpack_state(data, self.model, self.optimizer, self.average)

    def _checkpoint(self) -> None:
        """Hands the state to Ray Train; all ranks report, rank 0 with the files."""
        step = self.progress.step
        if self.log is None:
            ray.train.report({"step": step}, checkpoint=None)
        else:
            self.log.sync()
            with tempfile.TemporaryDirectory() as folder:
                state = steps.pack_state(self.model, self.optimizer, self.progress, self.average)
                (Path(folder) / _STATE).write_bytes(state)
                ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))
        self._meter.restart()

    def _finish(self) -> None:
        """Exports the last model and writes result.json, which marks the run as complete."""
        assert self.log is not None
        output, progress = self.config.output, self.progress
        self.task.export(self._exported, storage.join(output, LAST))
        if progress.best is None:
            self.task.export(self._exported, storage.join(output, BEST))
        self.log.close()
        result = {
            "complete": True,
            "steps": progress.step,
            "epochs": progress.step / self.plan.epoch_steps,
            "stopped_early": progress.step < self.plan.total_steps,
            "best": progress.best,
            "best_step": progress.best_step if progress.best is not None else progress.step,
            "last": self.log.latest("train"),
            "validation": self.log.latest("validation"),
        }
        storage.write_bytes(storage.join(output, RESULT), json.dumps(result, indent=1).encode() + b"\n")
        logger.info("complete: %s", json.dumps(result))


def _parquet_stream(pieces: Iterable[parquet.Piece]) -> Iterator[Row]:
    """Yields the rows of the pieces in order, read ahead by Ray Data tasks.

    Ray Data cannot order a dataset anew as a function of the epoch, and starting a dataset per epoch stalls
    for seconds. So one dataset covers many epochs, each with its own order.
    """
    small = itertools.chain.from_iterable(parquet.split(piece, _PIECE_ROWS) for piece in pieces)
    while numbered := list(itertools.islice(small, _DATASET_PIECES)):
        numbers = ray.data.range(len(numbered), override_num_blocks=len(numbered))
        tables = numbers.map_batches(functools.partial(parquet.read_numbered, numbered), batch_size=1)
        for table in tables.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
            yield from table.to_pylist()


class _Meter:
    """Means of scalars and speed between two log lines, without validation and checkpoints."""

    def __init__(self, step: int) -> None:
        self.step_s = 0.0
        self._averages, self._rate = steps.Averages(), 0.0
        self._from_step, self._busy_s, self._waiting_s = step, 0.0, 0.0
        self._mark = time.monotonic()

    def loaded(self) -> None:
        """Marks that the batch is here: the time since the last step was spent waiting for data."""
        now = time.monotonic()
        self._waiting_s += now - self._mark
        self._busy_s += now - self._mark
        self._mark = now

    def add(self, scalars: dict[str, Any], learning_rate: float) -> None:
        self._averages.add(scalars)
        self._rate = learning_rate
        now = time.monotonic()
        self._busy_s += now - self._mark
        self._mark = now

    def restart(self) -> None:
        """Forgets the time since the last step."""
        self._mark = time.monotonic()

    def take(self, step: int, batch_size: int) -> dict[str, float]:
        count = max(1, step - self._from_step)
        self.step_s = self._busy_s / count
        scalars = {
            **self._averages.take(),
            "learning_rate": self._rate,
            "images_per_s": batch_size / max(self.step_s, 1e-9),
            "data_share": self._waiting_s / max(self._busy_s, 1e-9),
        }
        self._from_step, self._busy_s, self._waiting_s = step, 0.0, 0.0
        return scalars
