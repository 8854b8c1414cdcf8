"""Add familiarity to a captioner of an earlier version; jobs/train_captioner.py adds it by itself.

    .venv/bin/python jobs/add_familiarity.py --captioner runs/glied/best \\
        --train runs/features/train --validation runs/features/val

It reads the feature stores of the captioner's training and validation images, at most 6,000 and 5,000 images,
and writes familiarity.safetensors to the captioner's folder. Weights, digest and captions stay the same, and
earlier runs can be resumed.
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
    """The captioner, and the images it was trained on."""

    captioner: str
    """Checkpoint (folder or URI) of the captioner."""
    train: str
    """Feature store (folder or URI) of its training images."""
    validation: str
    """Feature store of at least 100 validation images, on which it was not trained."""
    replace: bool = False
    """Replace the familiarity of a captioner that has one."""


def add(config: Config) -> dict[str, object]:
    """Writes the file; returns a summary.

    Raises:
        UsageError: the captioner has it already, or was trained on other regions than the stores hold.
    """
    captioner = Captioner.load(config.captioner)
    if captioner.familiarity is not None and not config.replace:
        raise UsageError(f"{config.captioner} has {FILE} already: --replace true replaces it")
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
