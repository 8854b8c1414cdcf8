"""Runs the jobs that the steps are made of, on Ray or in this process."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from glied.bulk.captioning import (
    CaptionConfig,
    caption_factory,
    caption_job,
    caption_pools,
    config_class,
    fetch_stage,
)
from glied.bulk.chunks import run_here
from glied.bulk.config import ResourcesConfig
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job, extract_pools
from glied.bulk.items import ActorPoolSpec, FetchStage, Job
from glied.bulk.run.bulk_run import execute, exit_code
from glied.bulk.run.summary import Summary
from glied.config import build, with_new_keys
from glied.errors import JobError
from glied.teach.nested import merged, with_located_checkpoints
from glied.training.task import Task
from glied.training.tasks.attributes import AttributesTask, TrainAttributesConfig
from glied.training.tasks.captioner import CaptionerTask, TrainCaptionerConfig
from glied.training.tasks.scst import ScstTask, TrainScstConfig
from glied.training.tasks.tuned_captioner import TuneCaptionerConfig, TunedCaptionerTask

log = logging.getLogger(__name__)

_MOST_CPU_WORKERS = 8
"""Actors without a GPU: each holds the models."""


def _rewarded(config: TrainScstConfig) -> ScstTask:
    """The task, after a look at all that it needs."""
    task = ScstTask.of(config)
    task.check()
    return task


TRAININGS: dict[str, tuple[type, Callable[[Any], Task]]] = {
    "attributes": (TrainAttributesConfig, AttributesTask),
    "captioner": (TrainCaptionerConfig, CaptionerTask),
    "tuned": (TuneCaptionerConfig, TunedCaptionerTask.of),
    "reward": (TrainScstConfig, _rewarded),
}
"""The training jobs: the class of the config, and what makes the task of it."""


@dataclass(frozen=True)
class JobRunner:
    """Runs jobs by the values of their configs.

    Attributes:
        local: in this process, on the CPU, without Ray.
        cpus, gpus: of the cluster.
    """

    local: bool
    cpus: int
    gpus: int

    @classmethod
    def of(cls, runtime: str) -> "JobRunner":
        """A runner for `runtime` ray or local; with ray, the cluster is joined or started."""
        if runtime == "local":
            return cls(True, len(os.sched_getaffinity(0)), 0)
        from glied.cluster_runtime.cluster_size import cluster_size

        size = cluster_size()
        return cls(False, size.cpus, size.gpus)

    @property
    def device(self) -> str:
        """Where the models of bulk jobs run."""
        return "cuda" if self.gpus else "cpu"

    def extract(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Extract regions; raises JobError where units are missing or too many images failed."""
        config = build(ExtractRegionsConfig, self._complete(values))
        job = extract_job(config)
        fetch = fetch_stage(config.input, config.resources)
        if self.local:
            return _finished(execute(job, run_here(fetch, extract_factory(config).build())))
        return self._on_ray(job, fetch, extract_pools(config), config.resources)

    def caption(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Caption images by a captioner of any kind; raises as `extract`."""
        config = self._caption_config(values)
        job = caption_job(config)
        fetch = fetch_stage(config.input, config.resources)
        if self.local:
            return _finished(execute(job, run_here(fetch, caption_factory(config).build())))
        return self._on_ray(job, fetch, caption_pools(config), config.resources)

    def check_captioner(self, values: Mapping[str, Any]) -> None:
        """Raise UsageError where captioning would, before an image is read."""
        caption_job(self._caption_config(values))

    def _caption_config(self, values: Mapping[str, Any]) -> CaptionConfig:
        return build(caption_class(values), self._complete(values))

    def train(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Train; the content of result.json."""
        config_class, task_of = TRAININGS[name]
        values = with_located_checkpoints(values)
        values = {**values, "trainer": merged(self._placement(), values["trainer"])}
        config: Any = build(config_class, with_new_keys(config_class, values, warn=False))
        task = task_of(config)
        if self.local:
            from glied.training.local_trainer import train_here

            return train_here(task, config.trainer)
        from glied.training.ray_trainer import train

        return train(task, config.trainer)

    def _complete(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A bulk job's config for this cluster."""
        return {"resources": self.resources(), **with_located_checkpoints(values)}

    def _on_ray(
        self, job: Job, fetch: FetchStage, pools: list[ActorPoolSpec], resources: ResourcesConfig
    ) -> dict[str, Any]:
        from glied.bulk.ray.stream import RayStream  # Ray takes seconds to import

        stream = RayStream(fetch, pools, resources)
        return _finished(execute(job, stream, stream.in_order))

    def resources(self) -> dict[str, Any]:
        """What the bulk jobs use: a GPU for each actor, or a CPU where there is none."""
        if self.gpus:
            cpus = max(1.0, float(self.cpus // self.gpus - 1))
            return {"worker": {"count": self.gpus, "gpus": 1.0, "cpus": cpus, "batch_size": 64}}
        return {"worker": {"count": min(self.cpus, _MOST_CPU_WORKERS)}}

    def _placement(self) -> dict[str, Any]:
        """Where a training runs: on one GPU, or on all cores of a machine."""
        if self.gpus:
            return {"workers": 1, "device": "cuda"}
        return {"workers": 1, "device": "cpu", "resources": {"threads_per_worker": _cores()}}


def caption_class(values: Mapping[str, Any]) -> type:
    """The class of a captioning config, which its `captioner.kind` asks for."""
    captioner = values.get("captioner")
    return config_class(captioner.get("kind") if isinstance(captioner, Mapping) else None)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _finished(summary: Summary) -> dict[str, Any]:
    """What is kept of a bulk run.

    Raises:
        JobError: it is not complete, or too many images failed.
    """
    if exit_code(summary):
        for line in summary.lines():
            log.info("%s", line)
        raise JobError(f"{summary.run}: {'; '.join(summary.lines()[-3:])}; the same command resumes")
    images_per_s = summary.images_this_time / max(summary.seconds - summary.startup_seconds, 1e-9)
    return {
        "run": summary.run,
        "images": summary.images,
        "statuses": summary.statuses,
        "images_per_s": images_per_s if summary.images_this_time else 0.0,
    }
