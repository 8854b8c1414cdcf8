"""The training of a small grammar head, for tests."""

from pathlib import Path
from typing import Any

import torch

from glied.clip.config import ClipConfig
from glied.clip.model import build_clip, save_clip
from glied.clip.tokenizer import token_ids
from glied.data.pairs import PairsConfig
from glied.training.tasks.clip_texts import all_texts
from glied.training.tasks.grammar import FinetuneGrammarConfig, GrammarTask
from tests.training.settings import trainer
from tests.training.tasks.pairs import ARCHITECTURE


def grammar_task(folder: Path, pairs: PairsConfig, **settings: Any) -> GrammarTask:
    """Save a random CLIP in `folder`/clip; return the task that trains a head for it on `pairs`."""
    torch.manual_seed(0)
    clip = build_clip(ARCHITECTURE, preprocess={"resize_mode": "squash"})
    used = token_ids(all_texts(pairs.all), ARCHITECTURE)
    save_clip(str(folder / "clip"), clip, ARCHITECTURE, used_tokens=used)
    return GrammarTask(
        config=FinetuneGrammarConfig(
            clip=ClipConfig(checkpoint=str(folder / "clip")),
            train=pairs,
            validation=pairs,
            cache=str(folder / "cache"),
            hidden=32,
            trainer=trainer(),
            **settings,
        )
    )
