"""Train a small CLIP on images with texts, from nothing or from a backbone, or finetune one of open_clip.

.venv/bin/python jobs/train_clip.py --config configs/clip/demo.yaml
.venv/bin/python jobs/train_clip.py --config configs/clip/photographs.yaml
.venv/bin/python jobs/train_clip.py --config configs/clip/coco.yaml --model.start.weights ViT-B-32.safetensors

Pairs are a COCO captions file or JSON lines of image and text. The same command resumes; the model with the
best text-to-image R@1 on validation is <trainer.output>/best, which `clip.checkpoint` of other jobs takes.
"""

import json
from dataclasses import dataclass, field

from glied import storage
from glied.config import parse
from glied.data.pairs import PairsConfig
from glied.errors import UsageError
from glied.training.config import TrainerConfig
from glied.training.ray_trainer import train
from glied.training.tasks.clip import ClipTask
from glied.training.tasks.clip_model import ClipModelConfig
from glied.training.tasks.clip_texts import TextsConfig
from glied.training.tasks.contrastive import refuse_micro_batches


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, on what, and how."""

    train: PairsConfig
    """Pairs to learn from."""
    validation: PairsConfig
    """Pairs among which retrieval is measured; they are the pool."""
    model: ClipModelConfig
    """A new architecture, or a model to be finetuned."""
    trainer: TrainerConfig
    """Optimization, workers and output."""
    texts: TextsConfig = field(default_factory=TextsConfig)
    """Which text of a pair is learned in a step."""
    prompt_share: float = 0.5
    """Share of the training texts behind the prompt "A photo depicts"; scores are with it."""
    cache: str | None = None
    """Local folder for the images, decoded and resized once, or for what a frozen backbone makes of them;
    without it they are decoded in every epoch."""
    mirror: bool = False
    """Mirror half of the training images, for captions that seldom say which side something is on."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        refuse_micro_batches(self.trainer)
        if not 0 <= self.prompt_share <= 1:
            raise UsageError(f"prompt_share: {self.prompt_share} is not in [0, 1]")
        if self.cache and not storage.is_local(self.cache):
            raise UsageError(f"cache: {self.cache} is not local: it is mapped into memory")


def build_task(config: Config) -> ClipTask:
    """What the config trains."""
    return ClipTask(
        train=config.train,
        validation=config.validation,
        model=config.model,
        texts=config.texts,
        prompt_share=config.prompt_share,
        cache=config.cache,
        mirror=config.mirror,
    )


def main() -> int:
    """Parse, train, report."""
    config = parse(Config, description=__doc__)
    print(json.dumps(train(build_task(config), config.trainer)))
    return 0
