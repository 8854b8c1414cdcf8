"""How a region extractor is chosen; light, since a job's driver need not import torch."""

from dataclasses import dataclass
from typing import Literal

from glied.errors import UsageError
from glied.rewards.config import ClipConfig


@dataclass(frozen=True, kw_only=True)
class RegionsConfig:
    """Which extractor finds the regions, and how many it keeps."""

    kind: Literal["torchvision", "clip", "precomputed"] = "torchvision"
    """Family of extractors: torchvision's detectors; clip, whose only region is the whole image and whose
    feature is the image's CLIP vector, for rewards; precomputed, whose regions stand in the feature store
    that is the input (input.form features)."""
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
        if self.kind == "precomputed":
            if self.checkpoint or self.model or self.clip is not None:
                raise UsageError("regions: kind precomputed takes no checkpoint, model or clip")
            return
        if (self.kind == "clip") != (self.clip is not None):
            raise UsageError("regions: kind clip and the setting clip belong together")
        if self.clip is not None and (self.checkpoint or self.model):
            raise UsageError("regions: kind clip takes no checkpoint or model of its own, only those in clip")
        if self.clip is None and bool(self.checkpoint) == bool(self.model):
            raise UsageError("regions: give either checkpoint (a folder) or model (a torchvision name)")
        if self.weights and not self.model:
            raise UsageError(f"weights {self.weights!r} belong to a torchvision model: name it in model")
