"""Teach a CLIP's text encoder to tell grammatical captions from broken ones, beside what it knows.

.venv/bin/python jobs/finetune_grammar.py --config configs/grammar/demo.yaml

Needs a CLIP (jobs/train_clip.py, or a published one) and pairs as that job takes them. The same command
resumes; <trainer.output>/best is a CLIP for `clip.checkpoint` with the head in it. The last line is one JSON
object with the accuracy by corruption and by length, retrieval before and after, and `unfit`: the corruptions
told apart at less than 90 %, with which training refuses the head as a reward.
"""

import json
import logging
from dataclasses import dataclass, field

from glied import storage
from glied.clip.config import ClipConfig
from glied.clip.grammar_head import unfit
from glied.config import parse
from glied.data.pairs import PairsConfig
from glied.errors import UsageError
from glied.training.config import TrainerConfig
from glied.training.ray_trainer import train
from glied.training.tasks.clip_texts import TextsConfig
from glied.training.tasks.contrastive import refuse_micro_batches
from glied.training.tasks.grammar import GrammarTask

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, on what, and how."""

    clip: ClipConfig
    """The CLIP to start from; only its text encoder changes."""
    train: PairsConfig
    """Pairs whose texts are correct captions."""
    validation: PairsConfig
    """Pairs on whose texts accuracy and retrieval are measured."""
    trainer: TrainerConfig
    """Optimization, workers and output."""
    texts: TextsConfig = field(default_factory=TextsConfig)
    """Which text of a pair is learned in a step."""
    hidden: int = 256
    """Width of the head's hidden layer."""
    contrastive_weight: float = 1.0
    """Weight of the contrastive loss beside the cross-entropy of the head."""
    words_weight: float = 1.0
    """Weight of the cross-entropy of each word, whether it can stand where it does; it speeds the rest up."""
    cache: str = "runs/cache"
    """Local folder for the vectors of the images, which are computed once."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        refuse_micro_batches(self.trainer)
        if self.hidden < 1:
            raise UsageError(f"hidden: {self.hidden} is not at least 1")
        if self.contrastive_weight < 0:
            raise UsageError(f"contrastive_weight: {self.contrastive_weight} is negative")
        if self.words_weight < 0:
            raise UsageError(f"words_weight: {self.words_weight} is negative")
        if not self.cache or not storage.is_local(self.cache):
            raise UsageError(f"cache: {self.cache!r} is no local folder: it is mapped into memory")


def build_task(config: Config) -> GrammarTask:
    """What the config trains."""
    return GrammarTask(
        clip=config.clip,
        train=config.train,
        validation=config.validation,
        texts=config.texts,
        hidden=config.hidden,
        contrastive_weight=config.contrastive_weight,
        words_weight=config.words_weight,
        cache=config.cache,
    )


def main() -> int:
    """Parse, train, report."""
    config = parse(Config, description=__doc__)
    result = train(build_task(config), config.trainer)
    if result.get("complete"):
        result["unfit"] = unfit(result["validation"])
        if result["unfit"]:
            log.warning("the head is unfit as a reward: it tells apart %s", ", ".join(result["unfit"]))
    print(json.dumps(result))
    return 0
