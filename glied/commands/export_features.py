"""Write a feature store in the published TSV form of bottom-up attention, for other programs.

    .venv/bin/python jobs/export_features.py --store runs/coco/features/test --out test.tsv
    .venv/bin/python jobs/export_features.py --store runs/coco/features/test --out test.tsv \\
        --captions data/coco/test/captions.json

Features are written as float32; those of a store of float32 keep every bit. Images without regions are left
out. Scores, labels and attributes have no place in this form.
"""

from dataclasses import dataclass

from glied.config import parse
from glied.data.tsv_export import export_tsv


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to write, and where to."""

    store: str
    """Feature store (folder or URI)."""
    out: str
    """The TSV, a local path; it appears when it is complete."""
    captions: str = ""
    """Captions file in the COCO form: images are named by its ids. Empty names them as the store does."""


def main() -> int:
    """Export and report."""
    config = parse(Config, description=__doc__)
    count = export_tsv(config.store, config.out, captions=config.captions)
    print(f"{config.out}: {count} images")
    return 0
