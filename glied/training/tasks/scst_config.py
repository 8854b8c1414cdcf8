"""Settings of training a captioner with a reward."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from glied.captioner.config import DecodingConfig
from glied.config_checks import check_least, check_shares
from glied.data.captioned_regions import RewardedRegions
from glied.errors import UsageError
from glied.rewards.config import RewardConfig
from glied.training.config import TrainerConfig

Baseline = Literal["greedy", "leave_one_out", "normalized"]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """What is sampled for an image, and the baseline of its rewards."""

    samples: int = 5
    """S, captions drawn for an image."""
    max_length: int = 20
    """Most words of a caption; longer ones are truncated."""
    baseline: Baseline = "greedy"
    """What rewards are compared with: the image's greedy caption, or the mean of its other samples.
    normalized: each part of the reward with the mean of the image's samples, in standard deviations; the
    weighted sum is then divided by its standard deviation over the batch (GDPO)."""
    dropout: bool = False
    """Score the samples with the captioner's dropout, against learning few training images by heart. The
    distribution is then a little different from the one that was drawn from."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        check_least(self, 1, "samples", "max_length", key="sampling")
        if self.baseline != "greedy" and self.samples < 2:
            raise UsageError(
                f"sampling.samples: {self.baseline} needs at least 2, it compares each with the others"
            )

    @property
    def drawing(self) -> DecodingConfig:
        """How samples are drawn."""
        return DecodingConfig(method="sample", n_best=self.samples, max_length=self.max_length, min_length=0)

    @property
    def greedy(self) -> DecodingConfig:
        """How the greedy caption is found."""
        return DecodingConfig(beam_size=1, max_length=self.max_length, min_length=0)


@dataclass(frozen=True, kw_only=True)
class RewardLossConfig:
    """What the rewards of an image's samples do to their probabilities."""

    name: Literal["scst", "dico"] = "scst"
    """scst: each sample becomes more or less probable by its advantage. dico: the best sample of an image
    gains on the others, against a frozen copy of the captioner to start from (DiCO, arXiv 2408.14547)."""
    beta: float = 0.2
    """dico: how strongly the frozen copy holds the captioner; 0.2 as published."""
    temperature: float = 0.3
    """dico: how far below the best, in units of the advantage, a sample must be to count e times as much as
    one that is as good."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        for name in ("beta", "temperature"):
            if getattr(self, name) <= 0:
                raise UsageError(f"loss.{name}: {getattr(self, name):g} is not above 0")


@dataclass(frozen=True, kw_only=True)
class TrainScstConfig:
    """Which captioner is trained with a reward, on which images, and how."""

    start: str
    """Checkpoint (folder or URI) of the captioner to start from."""
    attributes: str
    """Checkpoint (folder or URI) of the attribute predictor that it was trained with."""
    train: RewardedRegions
    """Training images."""
    validation: RewardedRegions
    """Images whose reward selects the best checkpoint."""
    reward: RewardConfig
    """What captions are rewarded for."""
    trainer: TrainerConfig
    """Optimization, workers and output."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """What is sampled, and the baseline."""
    loss: RewardLossConfig = field(default_factory=RewardLossConfig)
    """How rewards become a loss."""
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(beam_size=1))
    """How validation captions are searched."""
    region_dropout: float = 0.0
    """Share of an image's regions that a training step does not see, against learning by heart."""

    def __post_init__(self) -> None:
        """Refuse values without meaning, and conflicts."""
        check_shares(self, "region_dropout")
        if self.loss.name == "dico" and self.sampling.samples < 2:
            raise UsageError(
                "sampling.samples: loss.name dico needs at least 2, it compares the best with others"
            )
        accumulate = self.trainer.optimizer.accumulate
        if self.sampling.baseline == "normalized" and accumulate > 1:
            raise UsageError(
                f"trainer.optimizer.accumulate: {accumulate}, but sampling.baseline normalized divides by "
                "the standard deviation over a whole batch: leave it at 1, use more workers or a smaller "
                "batch_size"
            )
