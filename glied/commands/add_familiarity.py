"""Let a captioner say how familiar images are: jobs/train_captioner.py does it by itself, older ones lack it.

    .venv/bin/python jobs/add_familiarity.py --captioner runs/glied/best \\
        --train runs/features/train --validation runs/features/val

Reads the feature stores of the captioner's training and validation images, at most 6,000 and 5,000 images of
them, and writes familiarity.safetensors into the captioner's folder. Its weights, digest and captions stay as
they are; runs begun before can be resumed.
"""

import json
from dataclasses import dataclass

from glied.captioner.captioner import Captioner
from glied.captioner.familiarity import FILE, UNFAMILIAR
from glied.config import parse
from glied.data import features
from glied.data.extractor_fingerprint import check_trained_on
from glied.errors import UsageError
from glied.training.tasks.familiarity import familiarity_of


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which captioner, and what it was trained on."""

    captioner: str
    """Checkpoint (folder or URI) of the captioner."""
    train: str
    """Feature store (folder or URI) of its training images."""
    validation: str
    """Feature store of its validation images, 100 at least; images that it was not trained on."""
    replace: bool = False
    """Compute it anew where the captioner has it already."""


def add(config: Config) -> dict[str, object]:
    """Write the file; what was computed, for people.

    Raises:
        UsageError: the captioner has it already, or was trained on other regions than the stores hold.
    """
    captioner = Captioner.load(config.captioner)
    if captioner.familiarity is not None and not config.replace:
        raise UsageError(f"{config.captioner} has {FILE} already: --replace true computes it anew")
    for uri in (config.train, config.validation):
        trained_on = f"captioner: {config.captioner}"
        check_trained_on(trained_on, captioner.extractor, features.fingerprint(uri), uri)
        if (size := features.feature_size(uri)) != captioner.model.feature_size:
            raise UsageError(
                f"{uri} has {size} values a region, {config.captioner} reads {captioner.model.feature_size}"
            )
    features.check_same_extractor([config.train, config.validation])
    found = familiarity_of(config.train, config.validation)
    if found is None:
        raise UsageError(f"{config.train} or {config.validation} has no image with regions")
    found.save(config.captioner)
    return {
        "captioner": config.captioner,
        "validation_images": len(found.distances),
        "unfamiliar_below": UNFAMILIAR,
        "digest": found.digest,
    }


def main() -> int:
    """Parse, compute, write, report."""
    config = parse(Config, description=__doc__)
    print(json.dumps(add(config)))
    return 0
