"""Finetune a timm backbone on photographs with captions: its cells learn to show the captions' words.

.venv/bin/python jobs/train_backbone.py --config configs/backbone/photographs.yaml

Needs weights that jobs/convert_weights.py converted. The same command resumes. The best backbone of the run
is <trainer.output>/best (regions.checkpoint with regions.kind timm), its attribute predictor
<trainer.output>/best/attributes.
"""

import json
from dataclasses import dataclass, field

from glied.config import parse
from glied.data.pairs import PairsConfig
from glied.errors import UsageError
from glied.training.config import TrainerConfig
from glied.training.ray_trainer import train
from glied.training.tasks.backbone import BackboneConfig, BackboneTask
from glied.vision.crops import CropConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, on what, and how."""

    train: PairsConfig
    """Images to learn from; their captions give the words."""
    validation: PairsConfig
    """Images whose mean average precision selects the best checkpoint."""
    model: BackboneConfig
    """The backbone."""
    trainer: TrainerConfig
    """Optimization, workers and output."""
    crop: CropConfig = field(default_factory=CropConfig)
    """How training images are varied."""
    words: int = 1000
    """Words to predict: the commonest of the training captions."""
    minimum_positives: int = 20
    """Words of fewer validation images do not count in the mean average precision."""
    decoder_threads: int = 1
    """Threads that decode the images of a batch."""

    def __post_init__(self) -> None:
        """Refuse counts without meaning."""
        for name in ("words", "minimum_positives", "decoder_threads"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: {getattr(self, name)} is not a positive number")


def build_task(config: Config) -> BackboneTask:
    """What the config trains."""
    return BackboneTask(
        train=config.train,
        validation=config.validation,
        model=config.model,
        crop=config.crop,
        words=config.words,
        minimum_positives=config.minimum_positives,
        decoder_threads=config.decoder_threads,
    )


def main() -> int:
    """Parse, train, report."""
    config = parse(Config, description=__doc__)
    print(json.dumps(train(build_task(config), config.trainer)))
    return 0
