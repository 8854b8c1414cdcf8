"""CLIP embeddings of whole images as single regions, so that a feature store can hold image vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glied.checkpoint import weights_digest
from glied.clip.scorer import ClipScorer
from glied.regions import Regions
from glied.vision.images import MAX_SIDE


class ClipImages:
    """Returns one region per image: the whole image with its CLIP unit vector as the feature."""

    def __init__(self, scorer: ClipScorer) -> None:
        """Take ownership of `scorer`, on the device it was loaded to."""
        self.scorer = scorer
        self.feature_size = scorer.size
        self.resolution = (scorer.resolution, MAX_SIDE)  # the short side is cropped or squashed to it
        self.fingerprint: Mapping[str, Any] = image_fingerprint(scorer)

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Regions]:
        """Extract one region for each upright RGB image [H, W, 3], in the same order."""
        vectors = self.scorer.encode_images(images).cpu().numpy()
        return [_whole(image, vector) for image, vector in zip(images, vectors, strict=True)]


def image_fingerprint(scorer: ClipScorer) -> dict[str, Any]:
    """Return what determines image vectors; finetuning only the text encoder does not change it."""
    fingerprint = scorer.fingerprint
    vision = {"vision_cfg": fingerprint["model_config"]["vision_cfg"], "size": scorer.size}
    return vision | {
        "kind": "clip",
        "preprocess": fingerprint["preprocess"],
        "weights": weights_digest(scorer.model.visual, shapes=True),
    }


def _whole(image: NDArray[np.uint8], vector: NDArray[np.float32]) -> Regions:
    height, width = image.shape[:2]
    return Regions(
        boxes=np.array([[0, 0, width, height]], np.float32),
        features=vector[None],
        scores=np.ones(1, np.float32),
        labels=["image"],
        attributes=[[]],
        width=width,
        height=height,
    )
