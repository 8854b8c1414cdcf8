"""Images as a CLIP wants them, in two steps: resized bytes, which can be kept, and normalized floats."""

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
    """open_clip's evaluation transform of a preprocessing, cut in two; both give the same numbers."""

    def __init__(self, preprocess: Mapping[str, Any]) -> None:
        """Take open_clip's `PreprocessCfg` as a mapping, with its size."""
        config = PreprocessCfg(**preprocess)
        *self._resize, _, _ = image_transform_v2(config, is_train=False).transforms  # to tensor, normalize
        self._crops = config.resize_mode != "squash"
        size = config.size
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        self._mean = torch.tensor(config.mean)[:, None, None]
        self._std = torch.tensor(config.std)[:, None, None]

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Upright RGB [H, W, 3] -> [height, width, 3] of the model."""
        assert image.dtype == np.uint8, image.dtype
        assert image.shape[2:] == (3,), image.shape
        picture = Image.fromarray(_thick(image) if self._crops else image)
        for step in self._resize:
            picture = step(picture)
        return np.asarray(picture)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Resized images [B, height, width, 3] uint8 -> [B, 3, height, width] float32."""
        floats = pixels.permute(0, 3, 1, 2).float() / 255
        return ((floats - self._mean.to(pixels.device)) / self._std.to(pixels.device)).contiguous()


def _thick(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of an image so thin that to resize its short side would take gigabytes."""
    longest = _THINNEST * min(image.shape[:2])
    top, left = (max(0, (side - longest) // 2) for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + longest, left : left + longest])


def preprocessing_of(published: Mapping[str, Any]) -> dict[str, Any]:
    """The preprocessing in open_clip's entry of published weights, for `preprocessing`."""
    return {key: published[key] for key in _PREPROCESSING if key in published}


def preprocessing(given: Mapping[str, Any], size: int | tuple[int, int]) -> dict[str, Any]:
    """open_clip's usual preprocessing for a model's image size, overlaid by `given`.

    Raises:
        UsageError: `given` has unknown keys, or a mode of resizing that open_clip does not know.
    """
    unknown = given.keys() - _PREPROCESSING
    if unknown:
        raise UsageError(f"preprocess has {sorted(unknown)}; its keys are {sorted(_PREPROCESSING)}")
    whole = dataclasses.asdict(PreprocessCfg()) | {"size": size} | dict(given)
    if whole["resize_mode"] not in _RESIZE_MODES:
        raise UsageError(f"resize_mode {whole['resize_mode']!r}: must be one of {', '.join(_RESIZE_MODES)}")
    return whole
