"""The interface of region extractors, and the factory that builds them from a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glied.errors import UsageError
from glied.regions import Regions
from glied.vision.extractors.config import RegionsConfig
from glied.vision.fast_imports import import_timm, import_torchvision


class RegionExtractor(Protocol):
    """Extracts the regions of images; the result for an image does not depend on the other images."""

    @property
    def feature_size(self) -> int:
        """F, the feature size."""
        ...

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Everything that determines the result (weights, thresholds, dtype), as JSON values."""
        ...

    @property
    def resolution(self) -> tuple[int, int]:
        """The short and long side that images are resized to fit into."""
        ...

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Regions]:
        """Extract the regions of upright RGB images [H, W, 3], in the same order."""
        ...


def load_extractor(config: RegionsConfig) -> RegionExtractor:
    """Build the extractor that `config` describes.

    Raises:
        UsageError: the model, weights or checkpoint do not exist.
    """
    if config.kind == "precomputed":
        raise UsageError("regions.kind precomputed reads a feature store; it cannot extract from images")
    if config.clip is not None:
        from glied.clip.scorer import load_clip  # open_clip is slow to import
        from glied.vision.extractors.clip_grid import ClipGrid
        from glied.vision.extractors.clip_images import ClipImages

        scorer = load_clip(replace(config.clip, device=config.device))
        return ClipGrid(scorer, config) if config.kind == "clip_grid" else ClipImages(scorer)
    import_torchvision()
    if config.kind == "timm":
        if not config.compute.compile:
            import_timm()
        from glied.vision.extractors.timm_cells import load_timm

        return load_timm(config)
    if config.kind == "detectron2":
        from glied.vision.extractors.detectron_regions import load_detectron

        return load_detectron(config)
    from glied.vision.extractors.torchvision_regions import load_torchvision

    return load_torchvision(config)
