"""Train the region detector of the demo world (boxes, classes, attributes) on rendered scenes.

.venv/bin/python jobs/train_regions.py --config configs/regions/demo.yaml

The same command resumes; the best detector of the run is <trainer.output>/best.
"""

import json

from glied.config import parse
from glied.training.ray_trainer import train
from glied.training.tasks.regions import RegionsTask, TrainRegionsConfig


def main() -> int:
    """Parse, train, report."""
    config = parse(TrainRegionsConfig, description=__doc__)
    print(json.dumps(train(RegionsTask(config), config.trainer)))
    return 0
