"""Regions from the cells of a CLIP's last feature map, the input of the captioner of arXiv 2205.13115.

That captioner reads RN50's map before the attention pooling at 448 pixels, 14 x 14 x 2048. For ViTs, the
cells are the patch tokens after the last block, before the final normalization.

Shapes: ``B`` images, ``S`` side of the square input, ``n`` cells per side, ``F`` feature size.
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
    """Returns one region per cell of the feature map, row by row; images are squashed to a square."""

    def __init__(self, scorer: ClipScorer, config: RegionsConfig) -> None:
        """Take ownership of `scorer`, on the device it was loaded to.

        Raises:
            UsageError: the image encoder has no feature grid, or the side is not a multiple of its stride.
        """
        self.fingerprint: Mapping[str, Any] = image_fingerprint(scorer)  # before the weights are cast
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
            "dtype": config.compute.dtype,
        }
        self.pixels = Pixels(preprocess)
        self.batch_size = scorer.batch_size
        self.device = scorer.device
        self.resolution = (side, MAX_SIDE)  # the short side is resized to it
        self.trunk = Cast(
            _Trunk(visual), getattr(torch, config.compute.dtype), compiled=config.compute.compile
        )

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Regions]:
        """Extract the n x n regions of upright RGB images [H, W, 3], in the same order."""
        regions: list[Regions] = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            resized = torch.from_numpy(np.stack([self.pixels.resize(image) for image in batch]))
            maps = self.trunk(self.pixels.normalize(resized.to(self.device)))  # [B, F, n, n]
            features = maps.flatten(2).transpose(1, 2).cpu().numpy()
            regions += [self._regions(image, own) for image, own in zip(batch, features, strict=True)]
        return regions

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
    """Return boxes [cells * cells, 4] that divide an image evenly, row by row."""
    rows, columns = np.divmod(np.arange(cells * cells), cells)
    corners = np.stack([columns, rows, columns + 1, rows + 1], axis=1).astype(np.float32)
    return corners * np.array([width, height, width, height], np.float32) / np.float32(cells)


class _Trunk(nn.Module):
    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        """Return the last feature map, [B, 3, S, S] -> [B, F, n, n]."""
        outputs = self.visual.forward_intermediates(images, indices=1, intermediates_only=True)
        return outputs["image_intermediates"][0]


def _stride(visual: nn.Module, side: int) -> int:
    """Return the side of a cell in pixels."""
    if isinstance(visual, ModifiedResNet):
        stride = _RESNET_STRIDE
    elif isinstance(visual, VisionTransformer):
        stride = visual.patch_size[0]
    else:
        raise UsageError(
            f"regions: kind clip_grid supports CLIP's ResNets and ViTs, not {type(visual).__name__}"
        )
    if side % stride:
        raise UsageError(f"regions.short_side {side}: must be a multiple of {stride}, the side of a cell")
    return int(stride)


def _width(visual: Any) -> int:
    if isinstance(visual, ModifiedResNet):
        return int(visual.attnpool.positional_embedding.shape[1])
    return int(visual.positional_embedding.shape[1])


def _interpolate_positions(visual: Any, cells: int) -> None:
    """Interpolate learned positions [1 + n n, F] to `cells` per side, bicubic, as open_clip does."""
    token, grid = visual.positional_embedding.data.split((1, visual.positional_embedding.shape[0] - 1))
    side = round(len(grid) ** 0.5)
    if side == cells:
        return
    square = grid.view(1, side, side, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, (cells, cells), mode="bicubic", antialias=True, align_corners=False)
    grid = square.flatten(2)[0].t()
    visual.positional_embedding = nn.Parameter(torch.cat([token, grid]), requires_grad=False)
