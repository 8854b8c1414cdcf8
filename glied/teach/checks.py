"""What is looked at before the first step, because a mistake found hours later costs these hours."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from glied import checkpoint_files, storage
from glied.bulk.captioning import CaptionDatasetConfig
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory
from glied.clip.config import ClipConfig
from glied.config import build, check_keys
from glied.data.extractor_fingerprint import check_trained_on
from glied.errors import UsageError
from glied.teach.job_runner import TRAININGS
from glied.teach.nested import located, with_located_checkpoints
from glied.teach.step_records import Step
from glied.teach.teaching import Teaching

SETTINGS = "teach.json"
"""File of the whole config in the output."""
_FILES = ("run.json", "caption.yaml", "evaluation.json", "report.html")
"""Files of other jobs, and those that a teaching writes at its end."""
_JOBS: dict[str, type] = {
    "features": ExtractRegionsConfig,
    "test": CaptionDatasetConfig,
    **{name: TRAININGS[name][0] for name in ("attributes", "captioner", "reward")},
}
"""Config classes of the jobs that `run.overrides` names."""


def check_output(uri: str, steps: Iterable[Step]) -> None:
    """Refuse a folder with files of something else where the steps would write, and might delete, their own.

    Raises:
        UsageError: naming the first such file.
    """
    if storage.exists(storage.join(uri, SETTINGS)):
        return
    there = [name for name in _FILES if storage.exists(storage.join(uri, name))]
    for folder in itertools.chain.from_iterable(step.folders for step in steps):
        files = storage.list_files(storage.join(uri, folder))
        there += [f"{folder}/{file.name}" for file in itertools.islice(files, 1)]
    if there:
        raise UsageError(
            f"output.uri {uri} holds files that no teaching wrote, such as {there[0]}: choose an empty or a "
            "new folder"
        )


@dataclass(frozen=True)
class Checks:
    """Of a config, without its images."""

    teaching: Teaching

    def run(self) -> None:
        """Look at everything that is named in the config.

        Raises:
            UsageError: a key of a job is unknown, a model is missing, or captioner and regions do not fit.
        """
        config = self.teaching.config
        for job, config_class in _JOBS.items():
            overrides = self.teaching.overridden(job, config_class, {})
            check_keys(config_class, overrides, f"run.overrides.{job}")
        if config.teacher is not None:
            from glied.teach.teacher_steps import TeacherSteps

            TeacherSteps(self.teaching).check()
        clips = {"judge": config.judge, "reward.clip": config.reward.clip}
        clips |= {"filter.clip": config.filter.clip if config.filter else None}
        for name, clip in clips.items():
            _check_clip(name, clip)
        self._check_regions()

    def _check_regions(self) -> None:
        """Look for the extractor's weights, and whether a captioner to go on from was trained on them."""
        teaching = self.teaching
        settings = teaching.overridden("features", ExtractRegionsConfig, {"regions": teaching.regions})
        values = with_located_checkpoints(settings)
        places: dict[str, Any] = {"input": {"uri": "."}, "output": {"uri": teaching.output}}
        extractor = extract_factory(build(ExtractRegionsConfig, {**values, **places})).inspect()
        start = teaching.config.start
        if start is None:
            return
        checkpoint_files.read(located(start.attributes))
        captioner, _ = checkpoint_files.read(located(start.captioner))
        check_trained_on(
            f"start.captioner {start.captioner}", captioner.extractor, extractor.fingerprint, "this config"
        )


def _check_clip(name: str, clip: ClipConfig | None) -> None:
    """Look for a CLIP's checkpoint; weights by name are found when it is loaded."""
    if clip is None or not clip.checkpoint:
        return
    try:
        checkpoint_files.read(located(clip.checkpoint))
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
