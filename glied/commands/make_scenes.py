"""Render scenes of the demo world.

.venv/bin/python jobs/make_scenes.py --out data/scenes/train --split train --count 8000
.venv/bin/python jobs/make_scenes.py --out data/scenes/test --split test --count 500
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glied.config import parse
from glied.demo_world.dataset import write_split
from glied.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Config:
    """The scenes to render, and the output folder."""

    out: str
    """Output folder for images/, captions.json, annotations.jsonl, descriptions.jsonl, hard_negatives.jsonl,
    finecapeval.csv and classes.json."""
    split: Literal["train", "val", "test"]
    """Split to render; splits never share a scene."""
    count: int = 500
    """Number of scenes; the first scenes do not depend on it."""
    seed: int = 0
    """Seed of the scenes."""
    workers: int = 0
    """Rendering processes; 0 uses one per processor. The files do not depend on it."""

    def __post_init__(self) -> None:
        """Reject invalid counts."""
        if self.count < 1:
            raise UsageError(f"--count {self.count}: must be at least 1")
        if self.workers < 0:
            raise UsageError(f"--workers {self.workers}: must be 0 (one per processor) or more")


def main() -> int:
    """Render one split."""
    config = parse(Config, description=__doc__)
    workers = config.workers or len(os.sched_getaffinity(0))
    write_split(Path(config.out), config.split, config.count, config.seed, min(workers, config.count))
    print(f"{config.count} scenes of split {config.split} in {config.out}")
    return 0
