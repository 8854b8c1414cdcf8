"""The last feature map of a CLIP, cell by cell: what the captioner of arXiv 2205.13115 reads.

Its own input is RN50's map before the attention pooling at 448 pixels, 14 x 14 x 2048; of a ViT it takes the
patch tokens after the last block, before the final normalization.

Shapes: ``B`` images, ``S`` side of the square that an image becomes, ``n`` cells on it, ``F`` feature size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from glied.clip.preprocessing import Pixels
from glied.clip.scorer import ClipScorer
from glied.errors import UsageError
from glied.regions import Regions
from glied.vision.extractors.clip_images import image_fingerprint
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.half_precision import Cast
from glied.vision.images import MAX_SIDE

_RESNET_STRIDE = 32


class ClipGrid:
    """One region per cell of the feature map, row by row; the whole image is squashed into a square."""

    def __init__(self, scorer: ClipScorer, config: RegionsConfig) -> None:
        """Take over `scorer`, on the device that it was loaded to.

        Raises:
            UsageError: the image encoder has no grid of its own, or the side is no multiple of its cells.
        """
        self.fingerprint: Mapping[str, Any] = image_fingerprint(scorer)  # of the weights as they came
        visual = scorer.model.visual
        side = config.short_side or scorer.resolution
        self.cells = side // _stride(visual, side)
        self.feature_size = _width(visual)
        if isinstance(visual, VisionTransformer):
            _interpolate_positions(visual, self.cells)
        preprocess = {**self.fingerprint["preprocess"], "size": side, "resize_mode": "squash"}
        self.fingerprint = {
            **self.fingerprint,
            "kind": "clip_grid",
            "preprocess": preprocess,
            "dtype": config.dtype,
        }
        self.pixels = Pixels(preprocess)
        self.batch_size = scorer.batch_size
        self.device = scorer.device
        self.resolution = (side, MAX_SIDE)  # the short side is stretched to it
        self.trunk = Cast(_Trunk(visual), getattr(torch, config.dtype), compiled=config.compile)

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Regions]:
        """Upright RGB images [H, W, 3] -> their n x n regions, in the same order."""
        found: list[Regions] = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            resized = torch.from_numpy(np.stack([self.pixels.resize(image) for image in batch]))
            maps = self.trunk(self.pixels.normalize(resized.to(self.device)))  # [B, F, n, n]
            features = maps.flatten(2).transpose(1, 2).cpu().numpy()
            found += [self._regions(image, own) for image, own in zip(batch, features, strict=True)]
        return found

    def _regions(self, image: NDArray[np.uint8], features: NDArray[np.float32]) -> Regions:
        height, width = image.shape[:2]
        count = self.cells * self.cells
        return Regions(
            boxes=grid_boxes(self.cells, width, height),
            features=np.ascontiguousarray(features),
            scores=np.ones(count, np.float32),
            labels=["cell"] * count,
            attributes=[[] for _ in range(count)],
            width=width,
            height=height,
        )


def grid_boxes(cells: int, width: int, height: int) -> NDArray[np.float32]:
    """Boxes [cells * cells, 4] that divide an image evenly, row by row."""
    rows, columns = np.divmod(np.arange(cells * cells), cells)
    corners = np.stack([columns, rows, columns + 1, rows + 1], axis=1).astype(np.float32)
    return corners * np.array([width, height, width, height], np.float32) / np.float32(cells)


class _Trunk(nn.Module):
    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, F, n, n]"""
        found = self.visual.forward_intermediates(images, indices=1, intermediates_only=True)
        return found["image_intermediates"][0]


def _stride(visual: nn.Module, side: int) -> int:
    """Pixels that a cell is wide."""
    if isinstance(visual, ModifiedResNet):
        stride = _RESNET_STRIDE
    elif isinstance(visual, VisionTransformer):
        stride = visual.patch_size[0]
    else:
        raise UsageError(
            f"regions: kind clip_grid takes CLIP's ResNets and ViTs, not {type(visual).__name__}"
        )
    if side % stride:
        raise UsageError(f"regions.short_side {side}: must be a multiple of {stride}, the side of a cell")
    return int(stride)


def _width(visual: Any) -> int:
    if isinstance(visual, ModifiedResNet):
        return int(visual.attnpool.positional_embedding.shape[1])
    return int(visual.positional_embedding.shape[1])


def _interpolate_positions(visual: Any, cells: int) -> None:
    """Stretch learned positions [1 + n n, F] to `cells` on each side, bicubic, as open_clip loads weights."""
    token, grid = visual.positional_embedding.data.split((1, visual.positional_embedding.shape[0] - 1))
    side = round(len(grid) ** 0.5)
    if side == cells:
        return
    square = grid.view(1, side, side, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, (cells, cells), mode="bicubic", antialias=True, align_corners=False)
    grid = square.flatten(2)[0].t()
    visual.positional_embedding = nn.Parameter(torch.cat([token, grid]), requires_grad=False)
