"""The region extractors that are timed, with random weights."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from benchmarks.gpu_stages.cells import TimmCells
from benchmarks.gpu_stages.setting import Setting
from benchmarks.regions import EXTRACTORS, loaded
from glied.vision.regions import RegionExtractor

DETECTOR, LITE, RESNET = "detector", "tf_efficientnet_lite2", "resnet50"


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """Which extractor, how large, how precise.

    Attributes:
        model: `DETECTOR` for Faster R-CNN R50-FPN v2 of torchvision, else a backbone of timm.
        side: of the square (cells), or the short side; 0 for the detector's own 800.
        dtype: of the network.
        canvas_step: of the detector.
    """

    model: str
    side: int
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    canvas_step: int = 0

    def load(self, setting: Setting) -> RegionExtractor:
        """Build it on the device of a setting; small in a dry run."""
        if self.model != DETECTOR:
            side = setting.pick(64, self.side)
            return TimmCells(self.model, side, device=setting.torch_device, dtype=getattr(torch, self.dtype))
        torch.manual_seed(0)
        side = setting.pick(96, self.side)
        named = replace(EXTRACTORS["resnet50_fpn_v2"], device=setting.device, dtype=self.dtype)
        sized = replace(named, short_side=side, long_side=side * 5 // 3, canvas_step=self.canvas_step)
        return loaded(sized, full=not setting.dry)
