"""The region types that extractors return and that the attribute predictor and the captioner read.

`Regions` holds the regions of one image; a `RegionExtractor` (glied.vision.extractors) creates it, or
`glied.data.features.read` loads it. `RegionBatch` holds the padded regions of several images.

Shapes: ``B`` images, ``R`` regions, ``F`` region feature size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Regions:
    """The regions of one image, best first; there is at least one.

    Attributes:
        boxes: [R, 4] float32, xyxy in pixels of the upright image.
        features: [R, F] float32.
        scores: [R] float32; 0 for a whole-image region that replaces missing detections.
        labels: class name of each region.
        attributes: attribute words of each region, e.g. ["brown", "spotted"]; may be empty.
        width: width of the upright image in pixels.
        height: height of the upright image in pixels.
        pooled: [P] float32, mean over the image of the first level of a timm backbone; None for other
            extractors.
        image_vector: [E] float32, the unit vector of a CLIP for the image; None unless captions are scored.
    """

    boxes: NDArray[np.float32]
    features: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: list[str]
    attributes: list[list[str]]
    width: int
    height: int
    pooled: NDArray[np.float32] | None = None
    image_vector: NDArray[np.float32] | None = None

    def scaled(self, width: int, height: int) -> Regions:
        """Return the regions with boxes scaled to another size of the image."""
        if (width, height) == (self.width, self.height):
            return self
        x, y = width / self.width, height / self.height
        boxes = self.boxes * np.array([x, y, x, y], np.float32)
        return replace(self, boxes=boxes, width=width, height=height)

    def __post_init__(self) -> None:
        """Check that all columns have the same length."""
        columns = (self.boxes, self.features, self.scores, self.labels, self.attributes)
        lengths = [len(column) for column in columns]
        assert min(lengths) == max(lengths) > 0, lengths


@dataclass(frozen=True)
class RegionBatch:
    """Regions of several images, padded to the largest number of regions among them.

    Attributes:
        features: [B, R, F] float32, zero where padded.
        boxes: [B, R, 4] float32 xyxy pixels, zero where padded.
        mask: [B, R] bool, True for real regions, False for padding.
        sizes: [B, 2] float32, width and height of the images.
    """

    features: Tensor
    boxes: Tensor
    mask: Tensor
    sizes: Tensor

    @classmethod
    def collate(cls, images: Sequence[Regions], *, length: int | None = None) -> RegionBatch:
        """Pad or truncate each image to `length` regions, by default to the largest number that one has."""
        length = length or max(len(image.scores) for image in images)
        batch, size = len(images), images[0].features.shape[1]
        features, boxes = torch.zeros(batch, length, size), torch.zeros(batch, length, 4)
        mask = torch.zeros(batch, length, dtype=torch.bool)
        for row, image in enumerate(images):
            count = min(len(image.scores), length)
            features[row, :count] = torch.from_numpy(image.features[:count])
            boxes[row, :count] = torch.from_numpy(image.boxes[:count])
            mask[row, :count] = True
        sizes = torch.tensor([[image.width, image.height] for image in images], dtype=torch.float32)
        return cls(features, boxes, mask, sizes)

    def to(self, device: torch.device | str) -> RegionBatch:
        """Move the batch to another device."""
        return RegionBatch(*(t.to(device) for t in (self.features, self.boxes, self.mask, self.sizes)))
