"""Count the document frequencies of the training references for CIDEr rewards; once, in seconds.

    .venv/bin/python jobs/prepare_cider.py --captions data/scenes/train/captions.json \\
        --captioner runs/glied/best --out runs/cider

The table is valid for these captions and the captioner's vocabulary; jobs/train_scst.py refuses any other.
"""

from dataclasses import dataclass

from glied.captioner.captioner import Captioner
from glied.config import parse
from glied.data import coco
from glied.text.references import save_frequencies


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to count, and with which vocabulary."""

    captions: str
    """captions.json of the training images."""
    captioner: str
    """Checkpoint (folder or URI) of the captioner that training with a reward starts from."""
    out: str
    """Folder (path or URI) of the table: reward.frequencies of jobs/train_scst.py."""


def main() -> int:
    """Count, write, report."""
    config = parse(Config, description=__doc__)
    vocabulary = Captioner.load(config.captioner).vocabulary
    table = save_frequencies(config.out, coco.load_captions(config.captions), vocabulary)
    print(f"{config.out}: {len(table)} n-grams of {table.documents} images")
    return 0
