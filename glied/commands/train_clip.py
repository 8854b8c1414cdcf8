"""Train a small CLIP on images with texts, from scratch or from a backbone, or finetune one of open_clip.

.venv/bin/python jobs/train_clip.py --config configs/clip/demo.yaml
.venv/bin/python jobs/train_clip.py --config configs/clip/photographs.yaml
.venv/bin/python jobs/train_clip.py --config configs/clip/coco.yaml --model.start.weights ViT-B-32.safetensors

An architecture with a multimodal_cfg is a CoCa: it learns to write captions, too, and captioner.kind coca of
jobs/caption_dataset.py takes it.

Pairs are a COCO captions file or JSON lines of image and text. The same command resumes; the model with the
best text-to-image R@1 on validation is <trainer.output>/best, which `clip.checkpoint` of other jobs takes.
"""

import json

from glied.config import parse
from glied.training.ray_trainer import train
from glied.training.tasks.clip import TrainClipConfig
from glied.training.tasks.coca import clip_task


def main() -> int:
    """Parse, train, report."""
    config = parse(TrainClipConfig, description=__doc__)
    print(json.dumps(train(clip_task(config), config.trainer)))
    return 0
