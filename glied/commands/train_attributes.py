"""Train the attribute predictor (noisy-OR over regions) on stored region features and reference captions.

.venv/bin/python jobs/train_attributes.py --config configs/attributes/demo.yaml

Needs the feature stores of jobs/extract_regions.py. The same command resumes; the best predictor of the run
is <trainer.output>/best.
"""

import json
from dataclasses import dataclass

from glied.config import parse
from glied.data import features
from glied.data.captioned_regions import CaptionedRegions
from glied.errors import UsageError
from glied.training.config import TrainerConfig
from glied.training.ray_trainer import train
from glied.training.tasks.attributes import AttributesTask


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, on what, and how."""

    train: CaptionedRegions
    """Images to learn from; their captions give the words."""
    validation: CaptionedRegions
    """Images whose mean average precision selects the best checkpoint."""
    trainer: TrainerConfig
    """Optimization, workers and output."""
    words: int = 1000
    """Attribute words: the commonest of the training captions, or the first of `word_list`."""
    word_list: str = ""
    """attributes.json (path or URI) of jobs/prepare_coco.py; empty counts the training captions' words."""
    minimum_positives: int = 20
    """Words of fewer validation images do not count in the mean average precision."""
    typical_regions: int = 16
    """Regions that an image has, about; before the first step every word then has its frequency."""

    def __post_init__(self) -> None:
        """Refuse counts without meaning."""
        if self.words < 1:
            raise UsageError(f"words: {self.words} is not a positive number")
        if self.minimum_positives < 1:
            raise UsageError(f"minimum_positives: {self.minimum_positives} is not a positive number")
        if self.typical_regions < 1:
            raise UsageError(f"typical_regions: {self.typical_regions} is not a positive number")


def build_task(config: Config) -> AttributesTask:
    """What the config trains.

    Raises:
        UsageError: training and validation images come from different extractors.
    """
    features.check_same_extractor([config.train.features, config.validation.features])
    return AttributesTask(
        train=config.train,
        validation=config.validation,
        words=config.words,
        word_list=config.word_list,
        minimum_positives=config.minimum_positives,
        typical_regions=config.typical_regions,
    )


def main() -> int:
    """Parse, train, report."""
    config = parse(Config, description=__doc__)
    print(json.dumps(train(build_task(config), config.trainer)))
    return 0
