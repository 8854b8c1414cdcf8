"""Regions of an image: what a detector hands to attributes and captioner, and how an extractor is chosen.

Shapes: ``B`` images, ``R`` regions, ``F`` region feature size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glied.errors import UsageError
from glied.rewards.config import ClipConfig


@dataclass(frozen=True)
class Regions:
    """The regions of one image, best first; there is at least one.

    Attributes:
        boxes: [R, 4] float32, xyxy in pixels of the upright image.
        features: [R, F] float32.
        scores: [R] float32, 0 for the whole image where nothing was found.
        labels: class name of each region.
        attributes: attribute words of each region, e.g. ["brown", "spotted"]; may be empty.
        width: of the upright image.
        height: of the upright image.
    """

    boxes: NDArray[np.float32]
    features: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: list[str]
    attributes: list[list[str]]
    width: int
    height: int

    def __post_init__(self) -> None:
        """Columns are of one length."""
        columns = (self.boxes, self.features, self.scores, self.labels, self.attributes)
        lengths = [len(column) for column in columns]
        assert min(lengths) == max(lengths) > 0, lengths


@dataclass(frozen=True)
class RegionBatch:
    """Regions of several images, padded to the most regions among them.

    Attributes:
        features: [B, R, F] float32, zero where padded.
        boxes: [B, R, 4] float32 xyxy pixels, zero where padded.
        mask: [B, R] bool, True where a region is real.
        sizes: [B, 2] float32, width and height of the images.
    """

    features: Tensor
    boxes: Tensor
    mask: Tensor
    sizes: Tensor

    @classmethod
    def collate(cls, images: Sequence[Regions], *, length: int | None = None) -> RegionBatch:
        """Pad to `length` regions, or to the most that an image has; regions beyond it are cut."""
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
        """The same batch on another device."""
        return RegionBatch(*(t.to(device) for t in (self.features, self.boxes, self.mask, self.sizes)))


class RegionExtractor(Protocol):
    """Images to regions; the result for an image does not depend on the others in the call."""

    @property
    def feature_size(self) -> int:
        """F."""
        ...

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """All that decides the result (weights, thresholds, dtype) as JSON values, never batch size."""
        ...

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Regions]:
        """Upright RGB images [H, W, 3] -> their regions, in the same order."""
        ...


@dataclass(frozen=True, kw_only=True)
class RegionsConfig:
    """Which extractor finds the regions, and how many it keeps."""

    kind: Literal["torchvision", "clip"] = "torchvision"
    """Family of extractors: torchvision's detectors; clip, whose only region is the whole image and whose
    feature is the image's CLIP vector, for rewards."""
    checkpoint: str = ""
    """Folder (path or URI) of a detector trained by jobs/train_regions.py; excludes `model`."""
    model: str = ""
    """Name of one of torchvision's Faster R-CNN or Mask R-CNN builders, e.g. fasterrcnn_resnet50_fpn_v2."""
    weights: str = ""
    """Weights for `model`: their name, e.g. COCO_V1, or a local .pth file; empty leaves them random."""
    min_regions: int = 4
    """Kept per image even where they score below `threshold`, as far as the detector finds that many."""
    max_regions: int = 36
    """Most regions per image; equal to min_regions, every image that has them gets this fixed number."""
    threshold: float = 0.2
    """Regions that score lower are dropped while more than min_regions remain."""
    overlap: float = 0.6
    """Of two regions with a higher IoU the lower-scored one is a duplicate, whatever their classes."""
    clip: ClipConfig | None = None
    """The CLIP of kind clip, which has no use for the other settings but `device`."""
    device: str = "cpu"
    """Torch device, e.g. cpu or cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the detector; features are float32 all the same."""

    def __post_init__(self) -> None:
        """Refuse ranges and choices that make no sense."""
        if not 1 <= self.min_regions <= self.max_regions:
            given = f"min_regions {self.min_regions} and max_regions {self.max_regions}"
            raise UsageError(f"{given}: 1 <= min_regions <= max_regions is needed")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold}: must be in 0..1")
        if not 0 < self.overlap <= 1:
            raise UsageError(f"overlap {self.overlap}: must be in 0..1 and not 0")
        if (self.kind == "clip") != (self.clip is not None):
            raise UsageError("regions: kind clip and the setting clip belong together")
        if self.clip is not None and (self.checkpoint or self.model):
            raise UsageError("regions: kind clip takes no checkpoint or model of its own, only those in clip")
        if self.clip is None and bool(self.checkpoint) == bool(self.model):
            raise UsageError("regions: give either checkpoint (a folder) or model (a torchvision name)")
        if self.weights and not self.model:
            raise UsageError(f"weights {self.weights!r} belong to a torchvision model: name it in model")


def load_extractor(config: RegionsConfig) -> RegionExtractor:
    """Build the extractor that `config` names.

    Raises:
        UsageError: no such model, weights or checkpoint.
    """
    if config.clip is not None:
        from glied.rewards.clip import load_clip  # open_clip is slow to import, too
        from glied.vision.clip_images import ClipImages

        return ClipImages(load_clip(dataclasses.replace(config.clip, device=config.device)))
    from glied.vision.torchvision_regions import load_torchvision  # torchvision is slow to import

    return load_torchvision(config)
