"""Trains a `Task` with Ray Train: data-parallel workers, streamed rows, checkpoints, resume.

Each worker runs a `loop.Loop`. Output folder (local or any storage URI):

    run.json         the resolved config; a run is not resumed with another one
    checkpoints/     Ray Train's folder: the newest `keep_checkpoints` states
    metrics.jsonl    one object per log interval and per validation, and its sample captions
    tensorboard/     the same
    best/, last/     exported models (`Task.export`), best by the first validation metric
    result.json      final metrics; written last, marks the run as complete
"""

import collections
import contextlib
import dataclasses
import itertools
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch

from glied import storage
from glied.cluster_runtime import placement, ray_start
from glied.data import parquet
from glied.errors import GliedError, JobError
from glied.training import output_folder
from glied.training.config import TrainerConfig
from glied.training.data_order import PIECE_ROWS
from glied.training.finite_check import NotFiniteError
from glied.training.loop import CHECKPOINTS, Loop
from glied.training.plan import Plan, Source
from glied.training.task import Row, Task
from glied.training.upload import Uploads

_STATE = "state.pt"
_READ_AHEAD = 4
"""Pieces that tasks read while the training works on earlier ones."""

logger = logging.getLogger(__name__)

MOST_REASON = 300
"""Most characters of an unexpected failure in its line."""


# ---- driver


def train(task: Task, config: TrainerConfig) -> dict[str, Any]:
    """Trains `task` to the end, from where an earlier attempt stopped; returns the content of result.json.

    A run paused by `pause_after_steps` returns {"complete": False}.

    Raises:
        UsageError: unfit data or config, or `output` holds a run with another config (which keys is named).
        JobError: the cluster has no room for the workers, or training failed; the checkpoints stay, and the
            same command continues from the newest.
    """
    plan = Plan.of(task, config)
    done = output_folder.claim(plan)
    if done is not None:
        return done
    ray_start.start(workers=config.workers * config.resources.cpus_per_worker)
    use_gpu = _use_gpu(config)
    _wait_for_workers(config, use_gpu=use_gpu)
    _fit(plan, use_gpu=use_gpu)
    return output_folder.result(config)


def _use_gpu(config: TrainerConfig) -> bool:
    """Whether to train on GPUs; those of device cuda may still have to be started by an autoscaler."""
    if config.device != "auto" or config.resources.accelerator:
        return config.device != "cpu"
    return ray.cluster_resources().get("GPU", 0) >= config.fewest_workers


def _wait_for_workers(config: TrainerConfig, *, use_gpu: bool) -> None:
    """Wait for room for the workers and for a task that reads beside them; Ray Train would do so silently."""
    worker = placement.request(
        cpus=config.resources.cpus_per_worker, gpus=float(use_gpu), accelerator=config.resources.accelerator
    )
    requests = [worker] * config.fewest_workers + [placement.request(cpus=1)]
    placement.wait_for(requests, wait_s=config.resources.wait_s, key="trainer.resources.wait_s")


def _fit(plan: Plan, *, use_gpu: bool) -> None:
    config = plan.config
    trainer = ray.train.torch.TorchTrainer(
        _worker_loop,
        train_loop_config={"plan": _shipped(plan), "use_gpu": use_gpu, "directory": os.getcwd()},
        torch_config=ray.train.torch.TorchConfig(timeout_s=config.resources.timeout_s),
        scaling_config=_scaling_config(config, use_gpu=use_gpu),
        run_config=_run_config(config),
    )
    # Worker processes import torch, which takes minutes on a machine that is busy: Ray's minute is too short.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    # A report waits until the controller has fetched the one before. It looks every two seconds by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    try:
        failure = trainer.fit().return_value
    except ray.train.WorkerGroupError as error:
        raise _worker_error(error) from error
    except ray.train.TrainingFailedError as error:
        raise _controller_error(error) from error
    if failure is not None:
        raise NotFiniteError(failure)


def _scaling_config(config: TrainerConfig, *, use_gpu: bool) -> ray.train.ScalingConfig:
    resources: dict[str, float] = {"CPU": config.resources.cpus_per_worker}
    if use_gpu:
        resources["GPU"] = 1
    elastic = config.fewest_workers < config.workers
    return ray.train.ScalingConfig(
        num_workers=(config.fewest_workers, config.workers) if elastic else config.workers,
        use_gpu=use_gpu,
        resources_per_worker=resources,
        accelerator_type=config.resources.accelerator,
    )


def _run_config(config: TrainerConfig) -> ray.train.RunConfig:
    filesystem, path = storage.arrow_filesystem(config.output)
    return ray.train.RunConfig(
        name=CHECKPOINTS,
        storage_path=path,
        storage_filesystem=filesystem,
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.recovery.keep_checkpoints),
        failure_config=ray.train.FailureConfig(max_failures=config.recovery.max_failures),
        logging_config=ray.train.LoggingConfig(log_level="WARNING"),
    )


def _controller_error(error: Exception) -> JobError:
    """A failure that is no worker's own in one line; an unexpected one is logged whole."""
    reason = " ".join(str(error).split())
    if "low on memory" in reason:
        reason = "a machine ran out of memory, and Ray killed the workers: run less beside them"
    elif len(reason) > MOST_REASON:
        logger.error("%s", error)
        reason = f"{reason[:MOST_REASON]} ..."
    return JobError(f"training failed: {reason}; the same command continues from the last checkpoint")


def _worker_error(error: Any) -> GliedError:
    """The failure of a worker in one line; an unexpected one is logged with its traceback."""
    # Ray wraps what the worker raised; the wrapper's text is the traceback.
    failures = {rank: getattr(e, "_base_exc", e) for rank, e in error.worker_failures.items()}
    for failure in failures.values():
        if isinstance(failure, GliedError):
            return failure
    logger.error("%s", error)
    rank, failure = next(iter(failures.items()), (0, error))
    reason = " ".join(str(failure).split()) or type(failure).__name__
    return JobError(
        f"training failed in worker {rank} ({reason}); the same command continues from the last checkpoint"
    )


def _shipped(plan: Plan) -> Plan:
    """The plan with its tables in the object store."""
    return _with_tables(plan, ray.put)


def _with_tables(plan: Plan, change: Any) -> Plan:
    def changed(source: Source) -> Source:
        return source if source.table is None else dataclasses.replace(source, table=change(source.table))

    return dataclasses.replace(plan, train=changed(plan.train), validation=changed(plan.validation))


# ---- worker


def _worker_loop(loop_config: dict[str, Any]) -> str | None:
    """Runs in each training process; returns the message of a `NotFiniteError`, which no retry helps."""
    if os.path.isdir(loop_config["directory"]):  # Ray Train moves its workers to a directory of its own
        os.chdir(loop_config["directory"])
    _quiet_worker()
    plan: Plan = _with_tables(loop_config["plan"], ray.get)
    torch.set_num_threads(plan.config.resources.threads_per_worker)
    context = ray.train.get_context()
    try:
        loop = Loop(
            plan,
            _parquet_stream,
            _RayCheckpoints(plan.config.resources.timeout_s),
            rank=context.get_world_rank(),
            world=context.get_world_size(),
            device=ray.train.torch.get_device() if loop_config["use_gpu"] else None,
        )
        with contextlib.closing(loop):
            loop.run()
    except NotFiniteError as error:  # Ray Train would start the workers again
        return str(error)
    return None


def _quiet_worker() -> None:
    ours = logging.getLogger("glied")  # not the root logger: Ray's own lines would come twice
    if not ours.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # else a line per report


def _parquet_stream(pieces: Iterable[parquet.Piece]) -> Iterator[Row]:
    """Yields the rows of the pieces in order, read ahead by tasks on the cluster.

    Not by Ray Data (2.60): its executor kept a whole core busy while nobody took its rows, and the tasks of
    two datasets, training and validation, waited for each other's CPU forever on a machine with two.
    """
    read = ray.remote(parquet.read)
    reading: collections.deque[ray.ObjectRef[pa.Table]] = collections.deque()
    small = itertools.chain.from_iterable(parquet.split(piece, PIECE_ROWS) for piece in pieces)
    for piece in small:
        reading.append(read.remote(piece))
        if len(reading) > _READ_AHEAD:
            yield from ray.get(reading.popleft()).to_pylist()
    while reading:
        yield from ray.get(reading.popleft()).to_pylist()


class _RayCheckpoints:
    """Keeps states in the run's storage; Ray Train registers a state when all of it is uploaded."""

    def __init__(self, timeout_s: float) -> None:
        self._uploads = Uploads(timeout_s)

    def restore(self) -> bytes | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            return (Path(folder) / _STATE).read_bytes()

    def save(self, step: int, state: bytes | None) -> None:
        """Reports, in all ranks at once; rank 0's files are uploaded while the training goes on."""
        background = ray.train.CheckpointUploadMode.ASYNC
        if state is None:
            ray.train.report({"step": step}, checkpoint_upload_mode=background)
            return
        self._uploads.begin()
        folder = tempfile.mkdtemp(prefix="glied-checkpoint-")  # Ray deletes it
        (Path(folder) / _STATE).write_bytes(state)
        kept = ray.train.get_context().get_storage()

        def upload(checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
            return self._uploads.carry_out(
                f"the checkpoint of step {step}", lambda: kept.persist_current_checkpoint(checkpoint, name)
            )

        ray.train.report(
            {"step": step},
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_upload_mode=background,
            checkpoint_upload_fn=upload,
        )

    def settle(self) -> None:
        self._uploads.settle()
