"""Train a captioner (GLIED, Base, an ablation or a baseline) with cross-entropy on stored region features.

.venv/bin/python jobs/train_captioner.py --config configs/captioner/glied_demo.yaml
.venv/bin/python jobs/train_captioner.py --config configs/captioner/base_demo.yaml

Needs the feature stores of jobs/extract_regions.py and the predictor of jobs/train_attributes.py. The
same command resumes; the best model of the run is <trainer.output>/best.
"""

import json

from glied.config import parse
from glied.training.ray_trainer import train
from glied.training.tasks.captioner import CaptionerTask, TrainCaptionerConfig


def main() -> int:
    """Parse, train, report."""
    config = parse(TrainCaptionerConfig, description=__doc__)
    print(json.dumps(train(CaptionerTask(config), config.trainer)))
    return 0
