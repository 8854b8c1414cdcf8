"""The measured region extractors, with random weights."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal
from unittest import mock

import torch

from benchmarks.gpu_stages.setting import Setting
from benchmarks.regions import EXTRACTORS, load
from glied.vision.extractors import image_padding, timm_cells
from glied.vision.extractors.config import ComputeConfig, RegionsConfig
from glied.vision.extractors.region_extractor import RegionExtractor, load_extractor

DETECTOR, LITE, RESNET = "detector", "tf_efficientnet_lite2", "resnet50"


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A region extractor with its resolution and data type.

    Attributes:
        model: `DETECTOR` for torchvision's Faster R-CNN R50-FPN v2, or a timm backbone.
        side: side of the square (cells) or short side (detector) in pixels; 0 for the default 800.
        dtype: data type of the network.
        canvas_step: `regions.detector.canvas_step` of the detector.
        together: maximum number of images in one pass of the network; 0 for the extractor's default.
    """

    model: str
    side: int
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    canvas_step: int = 0
    together: int = 0

    def load(self, setting: Setting) -> RegionExtractor:
        """Build the extractor on the device of a setting; small in a dry run."""
        torch.manual_seed(0)
        side = setting.pick(96, self.side)
        compute = ComputeConfig(dtype=self.dtype)
        if self.model != DETECTOR:
            return load_extractor(
                RegionsConfig(
                    kind="timm", model=self.model, short_side=side, device=setting.device, compute=compute
                )
            )
        named = replace(EXTRACTORS["resnet50_fpn_v2"], device=setting.device, compute=compute)
        detector = replace(named.detector, long_side=side * 5 // 3, canvas_step=self.canvas_step)
        sized = replace(named, short_side=side, detector=detector)
        return load(sized, full=not setting.dry)

    @contextmanager
    def grouped(self) -> Iterator[None]:
        """Let up to `together` images pass the network at once within the block."""
        with ExitStack() as patches:
            for module in (image_padding, timm_cells) if self.together else ():
                patches.enter_context(mock.patch.object(module, "LARGEST_BATCH", self.together))
            yield
