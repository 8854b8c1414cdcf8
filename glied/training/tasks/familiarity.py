"""Computes a captioner's `Familiarity` from its training and validation images."""

import logging
import time
from collections.abc import Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from glied.captioner.familiarity import LEAST_VALIDATION, UNFAMILIAR, Familiarity
from glied.data.region_sample import sample_regions

log = logging.getLogger(__name__)

TRAINING_IMAGES = 6_000
VALIDATION_IMAGES = 5_000
"""Most images that are read of each store; more of them take time and hardly change the result."""


def familiarity_of(train_uri: str, validation_uri: str) -> Familiarity | None:
    """Computed from samples of two feature stores; None where one has no image with regions.

    Raises:
        UsageError: as `features.paths`.
    """
    start = time.perf_counter()
    training = _some(train_uri, TRAINING_IMAGES)
    validation = _some(validation_uri, VALIDATION_IMAGES)
    if training is None or validation is None:
        return None
    found = Familiarity.fit(training, validation)
    if (count := len(found.distances)) < LEAST_VALIDATION:
        log.warning(
            "%s has %d images: familiarity is a rank among them, so at least %g, and no image is reported as "
            "unfamiliar (below %g); %d images are needed for that",
            validation_uri, count, 1 / (count + 1), UNFAMILIAR, LEAST_VALIDATION,
        )  # fmt: skip
    log.info("familiarity: %d validation images, %.1f s", count, time.perf_counter() - start)
    return found


def _some(uri: str, most: int) -> Iterator[NDArray[np.float32]] | None:
    """A sample of the store, None where no image has regions."""
    images = sample_regions(uri, most)
    if (first := next(images, None)) is None:
        log.warning("%s has no image with regions: the captioner cannot say how familiar images are", uri)
        return None
    return chain([first], images)
