"""Train the region detector of the demo world (boxes, classes, attributes) on rendered scenes.

.venv/bin/python jobs/train_regions.py --config configs/regions/demo.yaml

The same command resumes; the best detector of the run is <trainer.output>/best.
"""

import json
from dataclasses import dataclass

from glied.config import parse
from glied.training.config import TrainerConfig
from glied.training.ray_trainer import train
from glied.training.tasks.regions import RegionsData, RegionsTask
from glied.vision.extractors.small_detector import DetectorConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, on what, and how."""

    data: RegionsData
    """Scenes to learn from."""
    model: DetectorConfig
    """Architecture."""
    trainer: TrainerConfig
    """Optimization, workers and output."""


def build_task(config: Config) -> RegionsTask:
    """What the config trains."""
    return RegionsTask(data_config=config.data, model=config.model)


def main() -> int:
    """Parse, train, report."""
    config = parse(Config, description=__doc__)
    print(json.dumps(train(build_task(config), config.trainer)))
    return 0
