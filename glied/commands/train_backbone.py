"""Finetune a timm backbone on captioned photographs: its cells learn to predict the words of the captions.

.venv/bin/python jobs/train_backbone.py --config configs/backbone/photographs.yaml

It needs weights converted by jobs/convert_weights.py. The same command resumes. The best backbone of the run
is <trainer.output>/best (regions.checkpoint with regions.kind timm), its attribute predictor
<trainer.output>/best/attributes.
"""

import json

from glied.config import parse
from glied.training.ray_trainer import train
from glied.training.tasks.backbone import BackboneTask, TrainBackboneConfig


def main() -> int:
    """Parse, train, report."""
    config = parse(TrainBackboneConfig, description=__doc__)
    print(json.dumps(train(BackboneTask(config), config.trainer)))
    return 0
