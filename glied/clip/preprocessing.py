"""CLIP's image preprocessing in two steps: resized bytes, which can be cached, and normalized floats."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from glied.errors import UsageError

_THINNEST = 32
_PREPROCESSING = {field.name for field in dataclasses.fields(PreprocessCfg)}
_RESIZE_MODES = ("shortest", "longest", "squash")


class Pixels:
    """open_clip's evaluation transform split into two steps; together they give the same values."""

    def __init__(self, preprocess: Mapping[str, Any]) -> None:
        """`preprocess` is open_clip's `PreprocessCfg` as a mapping, including its size."""
        config = PreprocessCfg(**preprocess)
        *self._resize, _, _ = image_transform_v2(config, is_train=False).transforms  # to tensor, normalize
        self._crops = config.resize_mode != "squash"
        size = config.size
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        self._mean = torch.tensor(config.mean)[:, None, None]
        self._std = torch.tensor(config.std)[:, None, None]

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an upright RGB image [H, W, 3] to the input size of the model, [height, width, 3]."""
        assert image.dtype == np.uint8, image.dtype
        assert image.shape[2:] == (3,), image.shape
        picture = Image.fromarray(_thick(image) if self._crops else image)
        for step in self._resize:
            picture = step(picture)
        return np.asarray(picture)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize resized images [B, height, width, 3] uint8 -> [B, 3, height, width] float32."""
        floats = pixels.permute(0, 3, 1, 2).float() / 255
        return ((floats - self._mean.to(pixels.device)) / self._std.to(pixels.device)).contiguous()


def _thick(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crop an extremely thin image to its center; resizing its short side would otherwise take gigabytes."""
    longest = _THINNEST * min(image.shape[:2])
    top, left = (max(0, (side - longest) // 2) for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + longest, left : left + longest])


def preprocessing_of(published: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing in open_clip's entry of published weights, for `preprocessing`."""
    return {key: published[key] for key in _PREPROCESSING if key in published}


def preprocessing(given: Mapping[str, Any], size: int | tuple[int, int]) -> dict[str, Any]:
    """Return open_clip's default preprocessing for an image size, updated with `given`.

    Raises:
        UsageError: `given` has unknown keys or an unknown resize mode.
    """
    unknown = given.keys() - _PREPROCESSING
    if unknown:
        raise UsageError(f"preprocess has {sorted(unknown)}; its keys are {sorted(_PREPROCESSING)}")
    whole = dataclasses.asdict(PreprocessCfg()) | {"size": size} | dict(given)
    if whole["resize_mode"] not in _RESIZE_MODES:
        raise UsageError(f"resize_mode {whole['resize_mode']!r}: must be one of {', '.join(_RESIZE_MODES)}")
    return whole
