"""Cells of a timm backbone's last map as regions, with random weights: what `captions` and `regions` time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glied.vision.regions import Regions


class TimmCells:
    """The cells of a backbone's last feature map and, first, the whole image; images become squares."""

    def __init__(self, name: str, side: int, *, device: torch.device, dtype: torch.dtype) -> None:
        """A backbone of timm that gives feature maps; `side` in pixels."""
        torch.manual_seed(0)
        self.side, self.device, self.dtype = side, device, dtype
        network: Any = timm.create_model(name, pretrained=False, features_only=True, out_indices=(-1,))
        self.backbone = network.eval().to(device, dtype, memory_format=torch.channels_last)
        self.feature_size = int(network.feature_info.channels()[-1])
        self.resolution = (side, side)
        self.fingerprint: Mapping[str, Any] = {"model": name, "side": side, "weights": "random"}

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Regions]:
        """Upright RGB images [H, W, 3] -> their regions."""
        pixels = torch.stack([self.resize(image) for image in images])
        cells = self.backbone(pixels.to(self.dtype, memory_format=torch.channels_last))[0].float()
        rows, columns = cells.shape[-2:]
        values = cells.flatten(2).transpose(1, 2)  # [B, R, F]
        found = torch.cat((values.mean(dim=1, keepdim=True), values), dim=1).cpu().numpy()
        return [self._regions(one, image, rows, columns) for one, image in zip(found, images, strict=True)]

    def resize(self, image: NDArray[np.uint8]) -> Tensor:
        """[H, W, 3] uint8 -> [3, side, side] on the device."""
        pixels = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None].float()
        square = F.interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True)
        return ((square - 127) / 128)[0]

    def _regions(
        self, values: NDArray[np.float32], image: NDArray[np.uint8], rows: int, columns: int
    ) -> Regions:
        height, width = image.shape[:2]
        y, x = np.mgrid[0:rows, 0:columns].reshape(2, -1)
        grid = np.stack((x / columns, y / rows, (x + 1) / columns, (y + 1) / rows), axis=1)
        whole = np.array([[0, 0, 1, 1]])
        scale = np.array([width, height, width, height])
        count = len(values)
        return Regions(
            boxes=(np.concatenate((whole, grid)) * scale).astype(np.float32),
            features=values,
            scores=np.ones(count, np.float32),
            labels=["cell"] * count,
            attributes=[[] for _ in range(count)],
            width=width,
            height=height,
        )
