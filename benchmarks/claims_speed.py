"""Images/s of the variants of benchmarks/claims.py that were trained with cross-entropy."""

import json
import time
from typing import TYPE_CHECKING

from benchmarks.captioners import BEAMS, fastest, prepare, test_images
from benchmarks.claims_figures import MAX_LENGTH
from benchmarks.claims_runs import SHORT_IMAGES, job
from benchmarks.measurement import torch_machine
from glied import storage
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.data.captioned_regions import CaptionedRegions
from glied.training import history
from glied.training.tasks.captioner import CaptionerTask

if TYPE_CHECKING:
    from benchmarks.claims_config import Config

FILE = "speed.json"
"""File of the result, beside those of the runs."""


def measure(config: "Config") -> None:
    """Measure all trained variants alternately, from stored regions and attributes, and write the result.

    The weights are those of the first seed; the speed of a variant depends on its captions' lengths only.
    """
    test = CaptionedRegions(features=config.features, captions=storage.join(config.scenes, "captions.json"))
    decoding, images, calls = DecodingConfig(beam_size=BEAMS, max_length=MAX_LENGTH), None, {}
    for variant, known in config.spec.variants.items():
        folder = config.folder / f"{variant}-{(config.seeds or (0,))[0]}"
        if known.reward or not (folder / history.RESULT).exists():
            continue
        captioner = Captioner.load(str(folder / "best"), decoding)
        if images is None:
            predictor = CaptionerTask(job(config, variant, 0)).predictor
            limit = SHORT_IMAGES if config.short else None
            images = test_images(test, predictor, captioner.attribute_count, limit)
        calls[variant] = prepare(captioner, images)
    result = {
        "images/s": fastest(calls, len(images or ())),
        "beams": BEAMS,
        "threads": config.threads,
        "machine": torch_machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    path = config.result_folder / FILE
    storage.write_bytes(str(path), json.dumps(result, indent=1).encode() + b"\n")
