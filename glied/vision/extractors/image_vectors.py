"""Regions with a CLIP's vector of each image, for scores of the captions.

A CLIP on a backbone that also finds the regions needs no second pass: its image tower would compute what the
extractor has computed already, and only its projection is applied.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from glied.clip.scorer import ClipScorer
from glied.regions import Regions
from glied.vision.extractors.region_extractor import RegionExtractor
from glied.vision.extractors.timm_cells import TimmCells

log = logging.getLogger(__name__)


class WithImageVectors:
    """Regions of an extractor, with the vectors of a CLIP; implements `RegionExtractor`.

    Attributes:
        shared: whether the vectors come from the extractor's own pass.
    """

    def __init__(self, extractor: RegionExtractor, clip: ClipScorer) -> None:
        """Both are on the same device."""
        self.extractor, self.clip = extractor, clip
        self.feature_size = extractor.feature_size
        self.fingerprint: Mapping[str, Any] = extractor.fingerprint
        self.shared = reads_the_same(extractor, clip)
        self.resolution = extractor.resolution
        if not self.shared:
            log.info("the CLIP reads each image itself: its image tower is not the backbone of the regions")
            short, long = extractor.resolution
            self.resolution = max(short, clip.resolution), max(long, clip.resolution)

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Regions]:
        """Extract the regions of upright RGB images [H, W, 3], in the same order."""
        found = self.extractor(images)
        if self.shared and found:
            vectors = self.clip.encode_pooled(torch.stack([torch.as_tensor(one.pooled) for one in found]))
        else:
            vectors = self.clip.encode_images(images)
        pairs = zip(found, vectors.cpu().numpy(), strict=True)
        return [replace(one, image_vector=vector) for one, vector in pairs]


def reads_the_same(extractor: RegionExtractor, clip: ClipScorer) -> bool:
    """Whether `Regions.pooled` of an extractor is what the image tower of a CLIP projects.

    It is where both have the same weights and resize and normalize pixels alike. In half precision the
    extractor's features, and thus CLIP-S, differ by about 1 %.
    """
    tower = getattr(clip.model.visual, "trunk", None)
    if not isinstance(extractor, TimmCells) or tower is None:
        return False
    regions, pixels = extractor.fingerprint, clip.fingerprint["preprocess"]
    return (
        regions["levels"][0] == "final"
        and getattr(getattr(tower, "global_pool", None), "pool_type", "") == "avg"
        and regions["resize"] == pixels["resize_mode"] == "squash"
        and clip.pixels.size == (regions["size"], regions["size"])
        and all(regions[key] == pixels[key] for key in ("mean", "std", "interpolation"))
        and _same_weights(extractor.backbone, tower)
    )


def _same_weights(backbone: nn.Module, tower: nn.Module) -> bool:
    """Whether a tower has the weights of a backbone, in the backbone's precision."""
    ours, theirs = (
        {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
        for module in (backbone, tower)
    )
    return ours.keys() == theirs.keys() and all(
        tensor.shape == theirs[name].shape and torch.equal(tensor, theirs[name].to(tensor.dtype))
        for name, tensor in ours.items()
    )
