"""Train the attribute predictor (noisy-OR over regions) on stored region features and reference captions.

.venv/bin/python jobs/train_attributes.py --config configs/attributes/demo.yaml

Needs the feature stores of jobs/extract_regions.py. The same command resumes; the best predictor of the run
is <trainer.output>/best.
"""

import json

from glied.config import parse
from glied.training.ray_trainer import train
from glied.training.tasks.attributes import AttributesTask, TrainAttributesConfig


def main() -> int:
    """Parse, train, report."""
    config = parse(TrainAttributesConfig, description=__doc__)
    print(json.dumps(train(AttributesTask(config), config.trainer)))
    return 0
