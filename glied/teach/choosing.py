"""Which of a teacher's captions are learned from."""

import math
from collections.abc import Mapping, Sequence

Scored = Mapping[str, Sequence[tuple[str, float]]]
"""The captions of each image with their scores."""


def best(captions: Scored, *, keep: int, drop: float) -> dict[str, list[str]]:
    """The `keep` captions of each image that score highest, the best first.

    The share `drop` of the images whose best captions score lowest is left out: there the teacher was wrong,
    or the image shows nothing. Of equal scores, the earlier caption or image counts as better.
    """
    ranked = {
        image: sorted(found, key=lambda one: -one[1])[:keep] for image, found in captions.items() if found
    }
    order = sorted(ranked, key=lambda image: -ranked[image][0][1])
    kept = set(order[: math.ceil(len(order) * (1 - drop))])
    return {image: [text for text, _ in found] for image, found in ranked.items() if image in kept}
