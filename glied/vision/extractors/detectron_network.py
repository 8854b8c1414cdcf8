"""The networks of detectron2 in steps: resizing, feature maps, proposals, features and classes of boxes.

Shapes: ``B`` images, ``P`` proposals per image, ``C`` classes without the background, ``F`` feature size
(2048 for res5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from glied.vision.extractors import bottom_up
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.half_precision import Cast
from glied.vision.extractors.image_padding import widened


@dataclass(frozen=True)
class Resized:
    """A resized and normalized image.

    Attributes:
        pixels: [3, h, w] float32, normalized.
        scale: resize factor of both sides.
        stretch: horizontal and vertical pixels of the resized image per pixel of the original image.
    """

    pixels: Tensor
    scale: float
    stretch: tuple[float, float]


class Network:
    """The parts of a Faster R-CNN of detectron2, with detectron2's own operators."""

    pixels = False
    """Whether box sizes count pixels, as Caffe's do."""

    def __init__(self, detector: Any, settings: Any, config: RegionsConfig) -> None:
        """Take ownership of a GeneralizedRCNN built from `settings`, and cast it as `config` says."""
        self.divisor = max(int(detector.backbone.size_divisibility), 1)
        self.detector = detector.eval().to(torch.device(config.device))
        self.settings = settings
        self.sides = (
            config.short_side or int(settings.INPUT.MIN_SIZE_TEST),
            config.detector.long_side or int(settings.INPUT.MAX_SIZE_TEST),
        )
        self._cast(getattr(torch, config.compute.dtype), compiled=config.compute.compile)

    def _cast(self, dtype: torch.dtype, *, compiled: bool) -> None:
        """Cast the networks; boxes, anchors and class scores stay in float32."""
        detector, heads = self.detector, self.detector.roi_heads
        if isinstance(getattr(heads, "res5", None), nn.Module):
            heads.res5 = Cast(heads.res5, dtype, compiled=compiled)
        else:
            heads.box_head = Cast(heads.box_head, dtype, compiled=compiled)
        detector.proposal_generator.rpn_head = Cast(detector.proposal_generator.rpn_head, dtype)
        detector.backbone = Cast(detector.backbone, dtype, compiled=compiled)

    def resize(self, image: NDArray[np.uint8]) -> Resized:
        """Resize and normalize an upright RGB image [H, W, 3], in the color order of the network."""
        detector, (height, width) = self.detector, image.shape[:2]
        wide = widened(torch.from_numpy(image).permute(2, 0, 1).float())
        (h, w), scale = self._size(wide.shape[1], wide.shape[2])
        resized = self._scaled(wide, h, w).to(detector.device)
        if self.settings.INPUT.FORMAT == "BGR":
            resized = resized.flip(0)
        pixels = (resized - detector.pixel_mean) / detector.pixel_std
        return Resized(pixels, scale, self._stretch(wide, (height, width), (h, w), scale))

    def _size(self, height: int, width: int) -> tuple[tuple[int, int], float]:
        short, long = self.sides
        scale = min(short / min(height, width), long / max(height, width))
        return (int(height * scale + 0.5), int(width * scale + 0.5)), scale

    def _scaled(self, image: Tensor, height: int, width: int) -> Tensor:
        """Resize [3, H, W] -> [3, height, width] with Pillow, as detectron2's own predictor does."""
        picture = Image.fromarray(image.permute(1, 2, 0).round().byte().numpy())
        resized = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
        return torch.from_numpy(resized).permute(2, 0, 1).float()

    def _stretch(
        self, wide: Tensor, size: tuple[int, int], resized: tuple[int, int], scale: float
    ) -> tuple[float, float]:
        return resized[1] / size[1], resized[0] / size[0]

    def maps(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps, by name, of normalized images of one canvas [B, 3, h, w]."""
        return self.detector.backbone(batch)

    def propose(self, maps: dict[str, Tensor], images: Sequence[Resized]) -> list[Tensor]:
        """Return the proposals of each image in resized pixels, [P, 4] each."""
        from detectron2.structures import ImageList

        sizes = [(image.pixels.shape[1], image.pixels.shape[2]) for image in images]
        # Only the sizes in the list are used.
        found, _ = self.detector.proposal_generator(ImageList(images[0].pixels, sizes), maps, None)
        return [one.proposal_boxes.tensor for one in found]

    def embed(self, maps: dict[str, Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Compute features [P, F] of the boxes of each image, one image at a time to bound the memory."""
        from detectron2.structures import Boxes

        heads, features = self.detector.roi_heads, []
        for place, own in enumerate(boxes):
            inputs = [maps[name][place : place + 1] for name in heads.in_features]
            if hasattr(heads, "res5"):
                found = heads.res5(heads.pooler(inputs, [Boxes(own)])).mean(dim=(2, 3))
            else:
                found = heads.box_head(heads.box_pooler(inputs, [Boxes(own)]))
            features.append(found)
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Classify features [P, F] -> logits [P, C + 1], the background last."""
        return self.detector.roi_heads.box_predictor.cls_score(features)


class CaffeNetwork(Network):
    """The network of bottom-up attention, with Caffe's operators.

    It differs in max pooling that starts at the first pixel, proposals that count pixels, RoIPool, and a
    dilated res5 that keeps its 14 x 14 positions.
    """

    pixels = True

    def __init__(self, detector: Any, settings: Any, config: RegionsConfig, anchors: Tensor) -> None:
        """`anchors` [A, 4] are those of the first position, in the order of the RPN's outputs."""
        for block in detector.roi_heads.res5:
            block.conv2.dilation = block.conv2.padding = (2, 2)
        first = detector.roi_heads.res5[0]
        first.conv1.stride = first.shortcut.stride = (1, 1)
        detector.backbone.stem = CaffeStem(detector.backbone.stem.conv1)
        super().__init__(detector, settings, config)
        self.anchors = anchors.to(torch.device(config.device))
        self.proposals = int(settings.MODEL.RPN.POST_NMS_TOPK_TEST)

    def _size(self, height: int, width: int) -> tuple[tuple[int, int], float]:
        short, long = self.sides
        scale = short / min(height, width)
        if round(scale * max(height, width)) > long:
            scale = long / max(height, width)
        return (round(height * scale), round(width * scale)), scale

    def _scaled(self, image: Tensor, height: int, width: int) -> Tensor:
        """Resize [3, H, W] -> [3, height, width] as OpenCV does, bilinear without antialiasing."""
        whole = image[None].to(self.detector.device)
        return F.interpolate(whole, (height, width), mode="bilinear", align_corners=False)[0]

    def _stretch(
        self, wide: Tensor, size: tuple[int, int], resized: tuple[int, int], scale: float
    ) -> tuple[float, float]:
        return scale * wide.shape[2] / size[1], scale * wide.shape[1] / size[0]

    def propose(self, maps: dict[str, Tensor], images: Sequence[Resized]) -> list[Tensor]:
        """Return the proposals of each image in resized pixels, [P, 4] each."""
        (objectness,), (deltas,) = self.detector.proposal_generator.rpn_head([maps["res4"]])
        return [
            bottom_up.propose(
                found,
                moved,
                self.anchors,
                size=(image.pixels.shape[1], image.pixels.shape[2]),
                scale=image.scale,
                most=self.proposals,
            )
            for image, found, moved in zip(images, objectness, deltas, strict=True)
        ]


class CaffeStem(nn.Module):
    """A stem whose max pooling has no padding at the left and top, and rounds up."""

    stride = 4

    def __init__(self, conv1: nn.Module) -> None:
        """`conv1` is the first convolution, including its normalization."""
        super().__init__()
        self.conv1 = conv1

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stem, [B, 3, h, w] -> [B, 64, h / 4, w / 4]."""
        return F.max_pool2d(F.relu(self.conv1(x)), 3, stride=2, ceil_mode=True)
