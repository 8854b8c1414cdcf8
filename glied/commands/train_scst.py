"""Go on training a captioner with a reward: self-critical sequence training on stored region features.

    .venv/bin/python jobs/prepare_cider.py --captions data/scenes/train/captions.json \\
        --captioner runs/glied/best --out runs/cider
    .venv/bin/python jobs/train_scst.py --config configs/scst/cider_demo.yaml

Needs a captioner of jobs/train_captioner.py, its feature stores and attribute predictor; for rewards with
CIDEr the table of jobs/prepare_cider.py; for those with CLIP-S the images' CLIP vectors
(configs/extract/clip_demo.yaml). All of it is checked before the first step. The same command resumes; the
best model of the run is <trainer.output>/best.
"""

import json
from dataclasses import dataclass, field

from glied import checkpoint
from glied.captioner.config import DecodingConfig
from glied.config import parse
from glied.data.captioned_regions import RewardedRegions
from glied.errors import UsageError
from glied.rewards.config import RewardConfig
from glied.training.config import TrainerConfig
from glied.training.ray_trainer import train
from glied.training.tasks.scst import SamplingConfig, ScstTask


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, with which reward, and how."""

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
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(beam_size=1))
    """How validation captions are searched."""
    region_dropout: float = 0.0
    """Share of an image's regions that a training step does not see, against learning by heart."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        if not 0 <= self.region_dropout < 1:
            raise UsageError(f"region_dropout: {self.region_dropout} is not in [0, 1)")


def build_task(config: Config) -> ScstTask:
    """What the config trains."""
    return ScstTask(
        start=config.start,
        start_digest=checkpoint.load(config.start).digest,
        attributes=config.attributes,
        train=config.train,
        validation=config.validation,
        reward=config.reward,
        sampling=config.sampling,
        decoding=config.decoding,
        region_dropout=config.region_dropout,
    )


def main() -> int:
    """Parse, check, train, report."""
    config = parse(Config, description=__doc__)
    task = build_task(config)
    task.check()
    print(json.dumps(train(task, config.trainer)))
    return 0
