"""Train a captioner (Base, GLIED or an ablation) with cross-entropy on stored region features.

.venv/bin/python jobs/train_captioner.py --config configs/captioner/glied_demo.yaml
.venv/bin/python jobs/train_captioner.py --config configs/captioner/base_demo.yaml

Needs the feature stores of jobs/extract_regions.py and the predictor of jobs/train_attributes.py. The
same command resumes; the best model of the run is <trainer.output>/best.
"""

import json
from dataclasses import dataclass, field

from glied.captioner.config import DecodingConfig
from glied.captioner.model import CaptionerConfig
from glied.config import parse
from glied.data import features
from glied.data.captioned_regions import CaptionedRegions
from glied.errors import UsageError
from glied.training.config import TrainerConfig
from glied.training.ray_trainer import train
from glied.training.tasks.captioner import CaptionerTask, WordsConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, on what, and how."""

    train: CaptionedRegions
    """Training images."""
    validation: CaptionedRegions
    """Images whose CIDEr selects the best checkpoint."""
    words: WordsConfig
    """Vocabulary and attributes."""
    model: CaptionerConfig
    """Architecture."""
    trainer: TrainerConfig
    """Optimization, workers and output."""
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(beam_size=1))
    """How validation captions are searched."""
    label_smoothing: float = 0.1
    """Share of the target's probability that is spread over all words."""
    scheduled_sampling: float = 0.0
    """Share of words that the captioner reads from itself; rises evenly from 0 to this over the training."""

    region_dropout: float = 0.0
    """Share of an image's regions that a training step does not see, against learning by heart."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        for name in ("label_smoothing", "scheduled_sampling", "region_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name}: {getattr(self, name)} is not in [0, 1)")


def build_task(config: Config) -> CaptionerTask:
    """What the config trains.

    Raises:
        UsageError: training and validation images come from different extractors.
    """
    features.check_same_extractor([config.train.features, config.validation.features])
    return CaptionerTask(
        train=config.train,
        validation=config.validation,
        words=config.words,
        model=config.model,
        label_smoothing=config.label_smoothing,
        scheduled_sampling=config.scheduled_sampling,
        region_dropout=config.region_dropout,
        decoding=config.decoding,
    )


def main() -> int:
    """Parse, train, report."""
    config = parse(Config, description=__doc__)
    print(json.dumps(train(build_task(config), config.trainer)))
    return 0
