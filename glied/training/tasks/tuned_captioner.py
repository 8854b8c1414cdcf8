"""Training task of a captioner that goes on from another one, with cross-entropy on other captions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from glied import checkpoint_files
from glied.captioner.captioner import Captioner
from glied.captioner.extended_vocabulary import extended_model
from glied.captioner.model import CaptioningModel
from glied.data.extractor_fingerprint import check_trained_on
from glied.errors import UsageError
from glied.training.task import Split
from glied.training.tasks.captioner import CaptionerTask, TrainCaptionerConfig


@dataclass(frozen=True, kw_only=True)
class TuneCaptionerConfig(TrainCaptionerConfig):
    """As that of jobs/train_captioner.py, from another captioner's weights."""

    start: str
    """Checkpoint of the captioner to go on from; its words are the first of words.vocabulary."""


@dataclass(frozen=True)
class TunedCaptionerTask(CaptionerTask):
    """As `CaptionerTask`, from the weights of a captioner."""

    config: TuneCaptionerConfig
    start_digest: str = ""
    """Of the checkpoint to go on from: a run is not resumed with other weights."""

    @classmethod
    def of(cls, config: TuneCaptionerConfig) -> TunedCaptionerTask:
        """The task with the digest of its start; raises as `checkpoint_files.inspect`."""
        return cls(config=config, start_digest=checkpoint_files.inspect(config.start).digest)

    @cached_property
    def _started_from(self) -> Captioner:
        captioner = Captioner.load(self.config.start)
        if self.start_digest not in ("", captioner.digest):
            raise UsageError(f"{self.config.start} is not the checkpoint that this run was started with")
        return captioner

    def data(self, split: Split) -> list[str]:
        """As `CaptionerTask.data`.

        Raises:
            UsageError: also where the captioner was trained on other regions.
        """
        if split == "train":
            stored, what = self.config.train, f"start: {self.config.start}"
            check_trained_on(what, self._started_from.extractor, stored.extractor, stored.features)
        return super().data(split)

    def build(self) -> CaptioningModel:
        """The captioner's model, with rows for the words that it does not know."""
        return extended_model(self._started_from, self.vocabulary, self.config.model)
