"""How a region extractor is chosen; light, since a job's driver need not import torch."""

from dataclasses import dataclass
from typing import Any, Literal

from glied.clip.config import ClipConfig
from glied.errors import UsageError

Kind = Literal["torchvision", "detectron2", "clip", "clip_grid", "timm", "precomputed"]

Level = int | Literal["final"]

_DECISIVE = ("kind", "model", "min_regions", "max_regions", "threshold", "overlap", "dtype")
_DECISIVE_WHERE_SET = ("short_side", "long_side", "canvas_step")
"""Came later: fingerprints from before have none of them, and are still those of their defaults."""


@dataclass(frozen=True, kw_only=True)
class RegionsConfig:
    """Which extractor finds the regions, and how many it keeps."""

    kind: Kind = "torchvision"
    """Family of extractors: torchvision's detectors; detectron2's, among them bottom-up attention; clip,
    whose only region is the whole image and whose feature is the image's CLIP vector, for rewards; clip_grid,
    whose regions are the cells of a CLIP's last feature map; timm, whose regions are the whole image and the
    cells of a timm backbone's feature maps; precomputed, whose regions stand in the feature store that is the
    input (input.form features)."""
    checkpoint: str = ""
    """Folder (path or URI) of a detector that jobs/train_regions.py trained (kind torchvision) or
    jobs/convert_weights.py converted (kind detectron2), or of a backbone that jobs/convert_weights.py
    converted (kind timm); excludes `model`."""
    model: str = ""
    """Kind torchvision: name of one of its Faster R-CNN or Mask R-CNN builders, such as
    fasterrcnn_resnet50_fpn_v2. Kind timm: name of a timm model. Kind detectron2: bottom-up-attention or a
    config of its model zoo, with random weights, for trials."""
    weights: str = ""
    """Weights for `model` of kinds torchvision and timm: their name, e.g. COCO_V1 or in1k, or a local .pth or
    .safetensors file; empty leaves them random."""
    min_regions: int = 4
    """Kept per image even where they score below `threshold`, as far as the detector finds that many."""
    max_regions: int = 36
    """Most regions per image; equal to min_regions, every image that has them gets this fixed number."""
    threshold: float = 0.2
    """Regions that score lower are dropped while more than min_regions remain."""
    overlap: float = 0.6
    """Of two regions with a higher IoU the lower-scored one is a duplicate: kind torchvision whatever their
    classes, kind detectron2 within each class."""
    short_side: int = 0
    """Images are resized so that their short side has this many pixels; 0: as the detector's own config says.
    Kinds clip_grid and timm: the side of the square that images are made."""
    long_side: int = 0
    """... unless their long side then passes this many; 0: as the detector's own config says."""
    canvas_step: int = 0
    """Detectors: images are padded to a multiple of so many pixels on their long side, so that more of them
    have the same size and share a batch; 0: only as far as the detector needs."""
    clip: ClipConfig | None = None
    """The CLIP of the kinds clip and clip_grid, which have no use for the detectors' settings."""
    resize: Literal["squash", "fit"] = "squash"
    """Kind timm: squash makes an image the square of short_side pixels; fit keeps its proportions to a whole
    number of cells, with about as many pixels as the square."""
    levels: tuple[Level, ...] = ("final",)
    """Kind timm: feature levels whose channels a region's feature joins. final is what the model classifies
    by; numbers are timm's feature levels, 0 the finest, -1 the last. The first sets the number of cells, to
    which the others are averaged; of several, each is brought to the same scale in each cell."""
    cells: int = 0
    """Kind timm: averages the levels to this many cells on each side of the square instead; 0: all cells of
    the first level."""
    device: str = "cpu"
    """Torch device, e.g. cpu or cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the networks; features are float32 all the same."""
    jpeg: Literal["cpu", "gpu"] = "cpu"
    """Where JPEGs are decoded: in processes of their own, or on `device` with nvJPEG, in the models' process;
    what is no plain JPEG goes to the processes all the same. The pixels differ by a few levels."""
    compile: bool = False
    """Compile the backbone with torch.compile: minutes at the start, for long runs on a GPU."""

    def __post_init__(self) -> None:
        """Refuse ranges and choices that make no sense."""
        if not 1 <= self.min_regions <= self.max_regions:
            given = f"min_regions {self.min_regions} and max_regions {self.max_regions}"
            raise UsageError(f"{given}: 1 <= min_regions <= max_regions is needed")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold}: must be in 0..1")
        if not 0 < self.overlap <= 1:
            raise UsageError(f"overlap {self.overlap}: must be in 0..1 and not 0")
        for key in _DECISIVE_WHERE_SET:
            if getattr(self, key) < 0:
                raise UsageError(f"{key} {getattr(self, key)}: must be a number of pixels, or 0")
        self._check_timm()
        if self.short_side and self.long_side and self.short_side > self.long_side:
            raise UsageError(f"short_side {self.short_side} is above long_side {self.long_side}")
        if self.kind == "precomputed":
            if self.checkpoint or self.model or self.clip is not None:
                raise UsageError("regions: kind precomputed takes no checkpoint, model or clip")
            return
        self._check_clip()
        if self.clip is None:
            self._check_detector()

    def _check_timm(self) -> None:
        if self.cells < 0 or not self.levels:
            raise UsageError(
                f"cells {self.cells}, levels {list(self.levels)}: at least 0 cells and one level"
            )
        if self.kind != "timm" and (self.resize, self.levels, self.cells) != ("squash", ("final",), 0):
            raise UsageError(f"regions: resize, levels and cells belong to kind timm, not {self.kind}")

    def _check_clip(self) -> None:
        if (self.kind in ("clip", "clip_grid")) != (self.clip is not None):
            raise UsageError("regions: kind clip or clip_grid and the setting clip belong together")
        if self.clip is not None and (self.checkpoint or self.model):
            raise UsageError(
                f"regions: kind {self.kind} takes no checkpoint or model of its own, only those in clip"
            )

    def _check_detector(self) -> None:
        if bool(self.checkpoint) == bool(self.model):
            raise UsageError("regions: give either checkpoint (a folder) or model (a name)")
        if self.weights and not self.model:
            raise UsageError(f"weights {self.weights!r} belong to a model: name it in model")
        if self.weights and self.kind == "detectron2":
            raise UsageError(
                f"weights {self.weights!r}: convert them with jobs/convert_weights.py and name its folder in "
                "checkpoint"
            )

    def decisive(self) -> dict[str, Any]:
        """What decides a detector's result, beside its weights: a part of the fingerprint."""
        keys = [*_DECISIVE, *(key for key in _DECISIVE_WHERE_SET if getattr(self, key))]
        return {key: getattr(self, key) for key in keys}
