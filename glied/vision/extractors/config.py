"""Settings of the region extractors.

This module does not import torch; the drivers of bulk jobs import it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar, Literal

from glied.clip.config import ClipConfig
from glied.errors import UsageError

Kind = Literal["torchvision", "detectron2", "clip", "clip_grid", "timm", "precomputed"]

Level = int | Literal["final"]

_DECISIVE = ("kind", "model", "detector.min_regions", "max_regions", "threshold", "detector.overlap")
_DECISIVE_WHERE_SET = ("short_side", "detector.long_side", "detector.canvas_step")
"""Newer settings: they are part of fingerprints only if set, so that older fingerprints stay valid."""


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """Settings of the detectors of torchvision and detectron2."""

    min_regions: int = 4
    """Minimum number of regions per image, if the detector finds that many, even with scores below
    `regions.threshold`."""
    overlap: float = 0.6
    """IoU threshold of the non-maximum suppression: across classes for kind torchvision, within each class
    for kind detectron2."""
    long_side: int = 0
    """Limit on the long side of resized images, in pixels; 0 uses the detector's own setting."""
    canvas_step: int = 0
    """Pad the long side to a multiple of this many pixels, so that more images have the same size and share a
    batch; 0 pads only as far as the detector needs."""

    def __post_init__(self) -> None:
        """Reject invalid values."""
        if not 0 < self.overlap <= 1:
            raise UsageError(f"overlap {self.overlap}: must be in 0..1, but not 0")
        for key in ("long_side", "canvas_step"):
            _check_pixels(key, getattr(self, key))


@dataclass(frozen=True, kw_only=True)
class CellsConfig:
    """Settings of the cells of timm backbones."""

    resize: Literal["squash", "fit"] = "squash"
    """squash resizes images to a square of `regions.short_side` pixels; fit keeps their proportions, rounded
    to whole cells, with about as many pixels as the square."""
    levels: tuple[Level, ...] = ("final",)
    """Feature levels whose channels are concatenated. final is the level that the model classifies from;
    numbers are timm's feature levels, 0 the finest, -1 the last. The first level determines the number of
    cells, and the others are averaged to it. Several levels are normalized to the same scale in each cell."""
    cells: int = 0
    """Average the levels to this many cells per side of the square; 0 keeps the cells of the first level."""

    def __post_init__(self) -> None:
        """Reject invalid values."""
        if self.cells < 0 or not self.levels:
            raise UsageError(
                f"cells {self.cells}, levels {list(self.levels)}: cells must be at least 0, levels not empty"
            )


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How extractors compute."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the networks; features are always float32."""
    jpeg: Literal["cpu", "gpu"] = "cpu"
    """Where JPEGs are decoded: cpu, in subprocesses; gpu, on `regions.device` with nvJPEG, in the process of
    the models. Other images are always decoded in subprocesses. The pixels differ slightly."""
    compile: bool = False
    """Compile the backbone with torch.compile. Takes minutes at the start; for long runs on a GPU."""


@dataclass(frozen=True, kw_only=True)
class RegionsConfig:
    """The region extractor and its settings."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        **{key: f"detector.{key}" for key in ("min_regions", "overlap", "long_side", "canvas_step")},
        **{key: f"timm.{key}" for key in ("resize", "levels", "cells")},
        **{key: f"compute.{key}" for key in ("dtype", "jpeg", "compile")},
    }

    kind: Kind = "torchvision"
    """Type of extractor. torchvision: Faster R-CNN detectors of torchvision. detectron2: its detectors, among
    them bottom-up attention. clip: one region, the whole image, with its CLIP vector, for rewards. clip_grid:
    the cells of a CLIP's last feature map. timm: the whole image and the cells of a timm backbone's feature
    maps. precomputed: the regions in the feature store that is the input (input.form features)."""
    checkpoint: str = ""
    """Folder (path or URI) of a detector from jobs/train_regions.py (kind torchvision) or
    jobs/convert_weights.py (kind detectron2), or of a backbone from jobs/convert_weights.py or
    jobs/train_backbone.py (kind timm); excludes `model`."""
    model: str = ""
    """Kind torchvision: name of one of its Faster R-CNN or Mask R-CNN builders, such as
    fasterrcnn_resnet50_fpn_v2. Kind timm: name of a timm model. Kind detectron2: bottom-up-attention or a
    config of its model zoo, with random weights, for trials."""
    weights: str = ""
    """Weights of `model` for kinds torchvision and timm: a name, e.g. COCO_V1 or in1k, or a local .pth or
    .safetensors file; empty for random weights."""
    max_regions: int = 36
    """Maximum number of regions per image; if equal to `detector.min_regions`, the number is fixed."""
    threshold: float = 0.2
    """Regions with lower scores are dropped as long as more than `detector.min_regions` remain."""
    short_side: int = 0
    """Detectors: images are resized so that their short side has this many pixels; 0 uses the detector's own
    setting. Kinds clip_grid and timm: side of the square input."""
    device: str = "cpu"
    """Torch device, e.g. cpu or cuda."""
    detector: DetectionConfig = field(default_factory=DetectionConfig)
    """Settings of kinds torchvision and detectron2."""
    clip: ClipConfig | None = None
    """The CLIP of kinds clip and clip_grid, which ignore the detector settings."""
    timm: CellsConfig = field(default_factory=CellsConfig)
    """Settings of kind timm."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """Precision and speed."""

    def __post_init__(self) -> None:
        """Reject invalid values and combinations."""
        if not 1 <= self.detector.min_regions <= self.max_regions:
            values = f"min_regions {self.detector.min_regions} and max_regions {self.max_regions}"
            raise UsageError(f"{values}: 1 <= min_regions <= max_regions is required")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold}: must be in 0..1")
        _check_pixels("short_side", self.short_side)
        if self.kind != "timm" and self.timm != CellsConfig():
            raise UsageError(f"regions: resize, levels and cells belong to kind timm, not {self.kind}")
        long_side = self.detector.long_side
        if self.short_side and long_side and self.short_side > long_side:
            raise UsageError(f"short_side {self.short_side} is above long_side {long_side}")
        if self.kind == "precomputed":
            if self.checkpoint or self.model or self.clip is not None:
                raise UsageError("regions: kind precomputed takes no checkpoint, model or clip")
            return
        self._check_clip()
        if self.clip is None:
            self._check_detector()

    def _check_clip(self) -> None:
        if (self.kind in ("clip", "clip_grid")) != (self.clip is not None):
            raise UsageError("regions: kinds clip and clip_grid need the setting clip, the others exclude it")
        if self.clip is not None and (self.checkpoint or self.model):
            raise UsageError(f"regions: kind {self.kind} takes no checkpoint or model, only those in clip")

    def _check_detector(self) -> None:
        if bool(self.checkpoint) == bool(self.model):
            raise UsageError("regions: set either checkpoint (a folder) or model (a name)")
        if self.weights and not self.model:
            raise UsageError(f"weights {self.weights!r}: name their model in model")
        if self.weights and self.kind == "detectron2":
            raise UsageError(
                f"weights {self.weights!r}: convert them with jobs/convert_weights.py and name its folder in "
                "checkpoint"
            )

    def decisive(self) -> dict[str, Any]:
        """Return the settings that determine a detector's result, a part of its fingerprint."""
        keys = [*_DECISIVE, *(key for key in _DECISIVE_WHERE_SET if attrgetter(key)(self))]
        values = {key.rpartition(".")[2]: attrgetter(key)(self) for key in keys}
        return values | {"dtype": self.compute.dtype}


def _check_pixels(key: str, value: int) -> None:
    if value < 0:
        raise UsageError(f"{key} {value}: must be a number of pixels, or 0")
