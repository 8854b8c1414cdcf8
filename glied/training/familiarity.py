"""What a captioner needs to say how familiar an image is, from its training and validation images."""

import logging
import time

from glied.captioner.familiarity import LEAST_VALIDATION, UNFAMILIAR, Familiarity
from glied.datasets.pooled import sample_pooled

log = logging.getLogger(__name__)

TRAINING_IMAGES = 6_000
VALIDATION_IMAGES = 5_000
"""Most images that are read of each store: more of them cost time and move no familiarity by much."""


def familiarity_of(train_uri: str, validation_uri: str) -> Familiarity | None:
    """Computed from samples of two feature stores; None where one has no image with regions.

    Raises:
        UsageError: as `features.paths`.
    """
    start = time.perf_counter()
    training = sample_pooled(train_uri, TRAINING_IMAGES)
    validation = sample_pooled(validation_uri, VALIDATION_IMAGES)
    if not training or not validation:
        log.warning(
            "%s has no image with regions: the captioner cannot say how familiar images are",
            validation_uri if training else train_uri,
        )
        return None
    if len(validation) < LEAST_VALIDATION:
        log.warning(
            "%s has %d images: familiarity is a rank among them, so at least %g, and no image is reported as "
            "unfamiliar (below %g); %d images are needed for that",
            validation_uri, len(validation), 1 / (len(validation) + 1), UNFAMILIAR, LEAST_VALIDATION,
        )  # fmt: skip
    found = Familiarity.fit(training, validation)
    log.info(
        "familiarity: %d training and %d validation images, %.1f s",
        len(training), len(validation), time.perf_counter() - start,
    )  # fmt: skip
    return found
