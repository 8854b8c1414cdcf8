"""Finetune a CLIP's text encoder to distinguish grammatical from broken captions, keeping its similarity.

.venv/bin/python jobs/finetune_grammar.py --config configs/grammar/demo.yaml

Needs a CLIP (jobs/train_clip.py, or a published one) and pairs as that job takes them. The same command
resumes; <trainer.output>/best is a CLIP for `clip.checkpoint` with the head in it. The last line is one JSON
object with the accuracy by corruption and by length, retrieval before and after, and `unfit`: the corruptions
recognized at less than 90 %, with which training refuses the head as a reward.
"""

import json
import logging

from glied.clip.grammar_head import unfit
from glied.config import parse
from glied.training.ray_trainer import train
from glied.training.tasks.grammar import FinetuneGrammarConfig, GrammarTask

log = logging.getLogger(__name__)


def main() -> int:
    """Parse, train, report."""
    config = parse(FinetuneGrammarConfig, description=__doc__)
    result = train(GrammarTask(config), config.trainer)
    if result.get("complete"):
        result["unfit"] = unfit(result["validation"])
        if result["unfit"]:
            log.warning("the head is not accurate enough for a reward: %s", ", ".join(result["unfit"]))
    print(json.dumps(result))
    return 0
