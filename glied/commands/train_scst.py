"""Train a captioner further with a reward: self-critical sequence training on stored region features.

    .venv/bin/python jobs/prepare_cider.py --captions data/scenes/train/captions.json \\
        --captioner runs/glied/best --out runs/cider
    .venv/bin/python jobs/train_scst.py --config configs/scst/cider_demo.yaml

Needs a captioner of jobs/train_captioner.py, its feature stores and attribute predictor; for rewards with
CIDEr the table of jobs/prepare_cider.py; for those with CLIP-S the images' CLIP vectors
(configs/extract/clip_demo.yaml). Everything is checked before the first step. The same command resumes; the
best model of the run is <trainer.output>/best.
"""

import json

from glied.config import parse
from glied.training.ray_trainer import train
from glied.training.tasks.scst import ScstTask, TrainScstConfig


def main() -> int:
    """Parse, check, train, report."""
    config = parse(TrainScstConfig, description=__doc__)
    task = ScstTask.of(config)
    task.check()
    print(json.dumps(train(task, config.trainer)))
    return 0
