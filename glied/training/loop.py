"""The training loop of one worker: steps, logs, validations, checkpoints; plain torch, without Ray.

The run's position follows from the number of steps done and the run's seed: the order of the rows, the
generator of each collated batch and the dropout of each step are functions of (seed, step, rank). That is
what makes a resumed run equal to an uninterrupted one.

The gradient of a step is the mean over everything its batch counts (`task.WEIGHT`), however many workers and
micro-batches the batch is divided into.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from glied import storage
from glied.training import finite_check, history, steps
from glied.training.batch_loader import BatchLoader
from glied.training.data_order import Stream
from glied.training.history import RESULT, Sample
from glied.training.onednn import onednn_products
from glied.training.plan import Checkpoints, Plan, Progress
from glied.training.run_log import RunLog, interval_line
from glied.training.step_meter import Meter
from glied.training.task import WEIGHT, CaptioningTask, ConstrainedTask, ScheduledTask

CHECKPOINTS = "checkpoints"
BEST = "best"
LAST = "last"
_LOGGED_SAMPLES = 3  # captions of a validation that the log shows

logger = logging.getLogger(__name__)


class Loop:
    """One training process: model, optimizer, data, and (rank 0) the run's records."""

    def __init__(
        self,
        plan: Plan,
        stream: Stream,
        checkpoints: Checkpoints,
        *,
        rank: int = 0,
        world: int = 1,
        device: torch.device | None = None,
    ) -> None:
        """Builds the model and restores the newest checkpoint.

        Args:
            plan: of the run, the same on all workers.
            stream: reads Parquet files.
            checkpoints: where to resume from.
            rank: of this worker.
            world: number of workers; above 1, torch's default process group joins them.
            device: default the CPU.
        """
        self.plan, self.config, self.task = plan, plan.config, plan.task
        self.rank, self.world, self.device = rank, world, device or torch.device("cpu")
        self._batches = BatchLoader(plan, stream, rank, world, self.device)
        self._checkpoints = checkpoints
        steps.seed_everything(self.config.seed, "build")
        self.model = self.task.build().to(self.device)
        self.optimizer = steps.build_optimizer(
            self.model,
            name=self.config.optimizer.name,
            learning_rate=self.config.optimizer.learning_rate,
            weight_decay=self.config.optimizer.weight_decay,
        )
        self.average = steps.weight_average(self.model, self.config.optimizer.ema_decay)
        self.progress = self._restored()
        self._unread: list[finite_check.Step] = []
        self.log = RunLog(self.config.output, self.progress.step) if rank == 0 else None
        self.parallel: nn.Module = self.model
        if world > 1:
            self.parallel = DistributedDataParallel(
                self.model,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                find_unused_parameters=self.config.resources.find_unused_parameters,
            )

    def _restored(self) -> Progress:
        """Where the run stands, with the model as it was there."""
        state = self._checkpoints.restore()
        if not state:
            return Progress()
        progress = steps.unpack_state(state, self.model, self.optimizer, self.average)
        finite_check.check_weights(
            self.model, f"the newest checkpoint of {self.config.output}, by an earlier version,"
        )
        return progress

    def close(self) -> None:
        """Closes the log."""
        if self.log is not None:
            self.log.close()

    def run(self) -> None:
        """Trains to the end of the run, or until it pauses.

        Raises:
            NotFiniteError: more steps than `skip_steps` had a loss or a gradient that is not finite; raised
                on all workers. Checkpoints are from before those steps.
        """
        total, started = self.plan.total_steps, self.progress.step
        if self.rank == 0:
            logger.info(
                "%s: %d rows, %d steps an epoch, %d in all, %d parameters, %d workers on %s%s",
                self.task.name, self.plan.train.rows, self.plan.epoch_steps, total,
                sum(p.numel() for p in self.model.parameters()), self.world, self.device.type,
                f", resumed at step {started}" if started else "",
            )  # fmt: skip
        stop = min(total, self.config.recovery.pause_after_steps or total)
        self._meter = Meter(started)
        with (
            onednn_products(self.device),
            contextlib.closing(
                self._batches.training(started, started if self._stopped else stop)
            ) as batches,
        ):
            for names, batch in batches:
                self._meter.loaded()
                self._step(names, batch)
                self._after_step()
                if self._stopped:
                    break
        self._checkpoints.settle()
        if self.rank == 0 and (self.progress.step >= total or self._stopped):
            self._finish()

    @property
    def _stopped(self) -> bool:
        """Whether validations have gone without improvement for too long."""
        patience = self.config.monitoring.patience
        return patience is not None and self.progress.validations_without_improvement >= patience

    @property
    def _exported(self) -> nn.Module:
        """What is validated and exported: the model, or the average of its weights."""
        return self.model if self.average is None else self.average.module

    # ---- a step

    def _step(self, names: finite_check.Names, batches: list[Any]) -> None:
        """Takes one step with the micro-batches of this worker."""
        number = self.progress.step
        steps.seed_everything(self.config.seed, "step", number, self.rank)
        self.parallel.train()  # whatever mode validation or an export left it in
        self.optimizer.zero_grad(set_to_none=True)
        step, buffers = finite_check.Step(number, names), finite_check.Buffers(self.model)
        self._compute_gradients(batches, step)
        finite_check.drop_gradients_where(self.parallel, ~step.finite)
        buffers.restore_where(~step.finite)
        rate = self._learning_rate(number)
        steps.apply_gradients(self.optimizer, rate)
        if isinstance(self.task, ConstrainedTask):
            self.task.constrain(self.model)
        if self.average is not None:
            self.average.update_parameters(self.model)
        self._unread.append(step)
        self._meter.stepped(rate)
        self.progress.step += 1

    def _compute_gradients(self, batches: list[Any], step: finite_check.Step) -> None:
        """Fills in the clipped gradient of the whole batch, its norm, and whether all of it is finite."""
        weight: float | Tensor = 0.0
        for index, batch in enumerate(batches, 1):
            with self._gradient_sync(index == len(batches)):
                weight = weight + self._backward(steps.move(batch, self.device), step)
        divisor, losses_finite = self._all_reduce_sum(weight, step)
        step.norm = steps.clip_gradients(self.parallel, self.config.optimizer.clip_norm, divisor)
        step.finite = losses_finite & step.norm.isfinite()

    def _learning_rate(self, step: int) -> float:
        schedule = self.config.schedule
        return self.config.optimizer.learning_rate * steps.learning_rate_factor(
            step,
            schedule=schedule.name,
            warmup_steps=schedule.warmup_steps,
            total_steps=self.plan.total_steps,
            final_factor=schedule.final_factor,
        )

    @property
    def _whole(self) -> bool:
        """Whether a step's batch comes in one piece, whose weight cancels."""
        return self.world == 1 and self.config.optimizer.accumulate == 1

    def _backward(self, batch: Any, step: finite_check.Step) -> float | Tensor:
        """Adds the gradients of a micro-batch times its weight, which is returned."""
        with steps.autocast(self.device, bf16=self.config.optimizer.precision == "bf16"):
            loss, scalars = self._loss(batch)
        weight = scalars.get(WEIGHT, 1.0)
        (loss if self._whole else loss * weight).backward()
        logged = {name: value for name, value in scalars.items() if name not in ("loss", WEIGHT)}
        step.add(loss, logged, weight)
        return weight

    def _loss(self, batch: Any) -> tuple[Tensor, dict[str, float | Tensor]]:
        if isinstance(self.task, ScheduledTask):
            return self.task.loss_at(self.parallel, batch, self.progress.step / self.plan.total_steps)
        return self.task.loss(self.parallel, batch)

    def _gradient_sync(self, last: bool) -> contextlib.AbstractContextManager:
        """Workers exchange their gradients with the last micro-batch only."""
        if isinstance(self.parallel, DistributedDataParallel) and not last:
            return self.parallel.no_sync()
        return contextlib.nullcontext()

    def _all_reduce_sum(
        self, weight: float | Tensor, step: finite_check.Step
    ) -> tuple[Tensor | None, Tensor]:
        """Sums the weight over all workers.

        Returns:
            What the workers' gradients must be divided by, and whether all their losses are finite.
        """
        assert step.loss_finite is not None
        if self._whole:
            return None, step.loss_finite
        total = torch.as_tensor(weight, dtype=torch.float32, device=self.device)
        if self.world == 1:
            return total, step.loss_finite
        sums = torch.stack([total, (~step.loss_finite).to(total)])
        torch.distributed.all_reduce(sums)
        return sums[0] / self.world, sums[1] == 0

    # ---- after a step

    def _after_step(self) -> None:
        """Logs, validates and checkpoints where they are due; every rank takes the same decisions."""
        step, due = self.progress.step, self.plan.due(self.progress.step)
        reads = step % finite_check.READ_EVERY == 0 or self.device.type == "cpu"
        if reads or due.logs or due.validates or due.saves:
            self._read_verdicts()
        if due.logs:
            self._log_interval()
        if due.validates:
            self._validate()
        if due.saves or self._stopped:
            self._checkpoint()

    def _read_verdicts(self) -> None:
        """Reads whether the last steps were finite, which waits for the device."""
        unread, self._unread = self._unread, []
        verdicts = torch.stack([step.finite for step in unread]).tolist()
        for step, finite in zip(unread, verdicts, strict=True):
            if finite:
                for scalars, weight in step.scalars:
                    self._meter.add(scalars, weight)
            else:
                self._skip(step)

    def _skip(self, step: finite_check.Step) -> None:
        """Counts a step that is not finite; every rank calls this.

        Raises:
            NotFiniteError: no more may be skipped.
        """
        self.progress.skipped += 1
        what = finite_check.describe(step, self.world)
        if self.progress.skipped > self.config.recovery.skip_steps:
            self._checkpoints.settle()
            raise finite_check.NotFiniteError(
                f"{what}. No checkpoint holds that step. Repair these rows, or lower the learning rate in "
                "another trainer.output; the same command with --trainer.recovery.skip_steps "
                f"{self.progress.skipped} continues without that step"
            )
        if self.rank == 0:
            allowed = self.config.recovery.skip_steps
            logger.warning("%s: skipped (%d of %d)", what, self.progress.skipped, allowed)

    def _log_interval(self) -> None:
        scalars, weight = self._meter.take(self.progress.step, self.config.batch_size)
        if self.world > 1:
            gathered: list[Any] = [None] * self.world
            torch.distributed.all_gather_object(gathered, (scalars, weight))
            scalars = steps.merge_means(gathered)
        if self.log is not None and "loss" in scalars:  # else all steps of the interval were skipped
            epoch = self.progress.step / self.plan.epoch_steps
            eta = self._meter.step_s * (self.plan.total_steps - self.progress.step)
            self.log.write("train", self.progress.step, {"epoch": round(epoch, 4), **scalars})
            logger.info(interval_line(self.progress.step, self.plan.total_steps, epoch, scalars, eta))

    def _validate(self) -> None:
        """Validates on rank 0 while the others wait; exports the model when it is the best so far."""
        if self.log is not None:
            begun = time.monotonic()
            model = self._exported.eval()
            with torch.no_grad(), contextlib.closing(self._batches.validation()) as batches:
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
        self._broadcast_progress()

    def _validated(self, model: nn.Module, batches: Iterable[Any]) -> tuple[dict[str, float], list[Sample]]:
        """Metrics, and captions where the task has some."""
        if isinstance(self.task, CaptioningTask):
            return self.task.validate_and_show(model, batches)
        return self.task.validate(model, batches), []

    def _keep_best(self, metrics: dict[str, float]) -> None:
        name, value = next(iter(metrics.items()))
        value = float(value)
        if not math.isfinite(value):
            logger.warning("%s of this validation is %s: the model is not exported", name, value)
        elif self.progress.best is None or value > self.progress.best:
            self.progress.best, self.progress.best_step = value, self.progress.step
            self.progress.validations_without_improvement = 0
            self.task.export(self._exported, storage.join(self.config.output, BEST))
            return
        self.progress.validations_without_improvement += 1
        if self._stopped:
            count = self.progress.validations_without_improvement
            logger.info("no improvement in %d validations: the training stops early", count)

    def _broadcast_progress(self) -> None:
        """Makes all workers wait for rank 0 and take over its progress, which says whether to stop."""
        if self.world > 1:
            progress = [self.progress]
            torch.distributed.broadcast_object_list(progress, src=0)
            self.progress = progress[0]
        self._meter.restart()

    def _checkpoint(self) -> None:
        """Saves where the run stands.

        Raises:
            NotFiniteError: on all ranks, whose weights are the same.
        """
        for model in (self.model, self.average):
            if model is not None:
                finite_check.check_weights(model, f"the model at step {self.progress.step}")
        state = None
        if self.log is not None:
            self.log.sync()
            state = steps.pack_state(self.model, self.optimizer, self.progress, self.average)
        self._checkpoints.save(self.progress.step, state)
        self._meter.restart()

    def _finish(self) -> None:
        """Exports the last model and writes result.json, which marks the run as complete."""
        assert self.log is not None
        output, progress = self.config.output, self.progress
        self.task.export(self._exported, storage.join(output, LAST))
        if progress.best is None:
            self.task.export(self._exported, storage.join(output, BEST))
        self.log.close()
        note = history.progress_note(self.task.name, history.read_lines(output))
        if note:
            logger.warning("%s", note)
        result = {
            "complete": True,
            "steps": progress.step,
            "epochs": progress.step / self.plan.epoch_steps,
            "stopped_early": progress.step < self.plan.total_steps,
            "skipped_steps": progress.skipped,
            "best": progress.best,
            "best_step": progress.best_step if progress.best is not None else progress.step,
            "last": self.log.latest("train"),
            "validation": self.log.latest("validation"),
            "notes": [note] if note else [],
        }
        storage.write_bytes(storage.join(output, RESULT), json.dumps(result, indent=1).encode() + b"\n")
        best = "" if progress.best is None else f", best {progress.best:.4f} at step {progress.best_step}"
        logger.info("complete: %d steps%s, models in %s", progress.step, best, output)
