"""Images of pairs as the CLIP being trained reads them: resized pixels, or features of a frozen backbone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glied import storage
from glied.clip.preprocessing import Pixels
from glied.data.array_cache import cached_array
from glied.data.pairs import PairsConfig
from glied.errors import ImageError, UsageError
from glied.training.tasks.clip_model import ClipForm, ClipModelConfig, build_model
from glied.vision.extractors.half_precision import Cast
from glied.vision.images import decode

_THREADS = 4
_CHUNK = 32


@dataclass(frozen=True)
class ClipImages:
    """Reads the images of pairs for a model, through a cache where there is one."""

    model: ClipModelConfig
    form: ClipForm
    cache: str | None

    @cached_property
    def pixels(self) -> Pixels:
        """The preprocessing."""
        return Pixels(self.form.preprocess)

    def prepare(self, pairs: PairsConfig, *, mirrored: bool) -> None:
        """Fills the cache; only a frozen backbone needs mirrored copies."""
        if self.model.frozen:
            for flip in (False, True) if mirrored else (False,):
                self._features(pairs, flip)
        elif self.cache:
            self.resized(pairs)

    def read(self, pairs: PairsConfig, numbers: Sequence[int], mirrored: Sequence[bool]) -> Tensor:
        """The images of these numbers: [B, height, width, 3] uint8, of a frozen backbone [B, F] float32.

        Args:
            pairs: whose images they are.
            numbers: which of them.
            mirrored: for each, whether it is mirrored.
        """
        if self.model.frozen:
            found = [self._features(pairs, flip)[n] for n, flip in zip(numbers, mirrored, strict=True)]
            return torch.from_numpy(np.stack(found)).float()
        if self.cache:
            images = np.array(self.resized(pairs)[numbers])
        else:
            images = np.stack([self._read(pairs, number) for number in numbers])
        images[mirrored] = images[mirrored, :, ::-1]
        return torch.from_numpy(images)

    def normalized(self, images: Tensor) -> Tensor:
        """The output of `read` as the model in training takes it."""
        return self.pixels.normalize(images) if images.dtype == torch.uint8 else images

    def resized(self, pairs: PairsConfig) -> NDArray[np.uint8]:
        """All images as the model's preprocessing resizes them, [N, height, width, 3]."""
        count = len(pairs.all)

        def fill(array: NDArray) -> None:
            for start in range(0, count, _CHUNK):
                array[start : start + _CHUNK] = self._chunk(pairs, start)

        name = cache_name("pixels", pairs.digest, self.form.preprocess)
        return self._cached(name, (count, *self.pixels.size, 3), np.uint8, fill)

    def _features(self, pairs: PairsConfig, mirrored: bool) -> NDArray[np.float16]:
        """Features of the frozen backbone for all images, before the projection, [N, F]."""
        vision = self.form.model_config["vision_cfg"]
        made_by = [self.form.digest, vision["timm_pool"], self.model.dtype, mirrored]
        name = cache_name("features", pairs.digest, self.form.preprocess, made_by)
        shape = (len(pairs.all), *self._feature_shape)
        return self._cached(name, shape, np.float16, lambda array: self._fill(array, pairs, mirrored))

    def _cached(self, name: str, shape: tuple[int, ...], dtype: Any, fill: Callable[[NDArray], None]) -> Any:
        assert self.cache is not None
        return cached_array(self.cache, name, shape=shape, dtype=dtype, fill=fill)

    @cached_property
    def _device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _trunk(self) -> Cast:
        trunk = build_model(self.model, self.form).clip.visual.trunk.eval()
        return Cast(trunk.to(self._device), getattr(torch, self.model.dtype))

    @cached_property
    def _feature_shape(self) -> tuple[int, ...]:
        height, width = self.pixels.size
        with torch.inference_mode():
            return tuple(self._trunk(torch.zeros(1, 3, height, width, device=self._device)).shape[1:])

    @torch.inference_mode()
    def _fill(self, array: NDArray, pairs: PairsConfig, mirrored: bool) -> None:
        for start in range(0, len(array), _CHUNK):
            images = self._chunk(pairs, start)
            flipped = np.ascontiguousarray(images[:, :, ::-1]) if mirrored else images
            pixels = self.pixels.normalize(torch.from_numpy(flipped).to(self._device))
            array[start : start + _CHUNK] = self._trunk(pixels).cpu().numpy()

    def _chunk(self, pairs: PairsConfig, start: int) -> NDArray[np.uint8]:
        numbers = range(start, min(start + _CHUNK, len(pairs.all)))
        with ThreadPoolExecutor(_THREADS) as pool:
            return np.stack(list(pool.map(lambda number: self._read(pairs, number), numbers)))

    def _read(self, pairs: PairsConfig, number: int) -> NDArray[np.uint8]:
        return self.pixels.resize(read_image(pairs.all[number].image))


def read_image(uri: str) -> NDArray[np.uint8]:
    """An image of the pairs, upright RGB [H, W, 3].

    Raises:
        UsageError: it is missing or broken.
    """
    try:
        return decode(storage.read_bytes(uri))
    except (FileNotFoundError, ImageError) as error:
        raise UsageError(
            f"{uri} of the pairs cannot be read ({error}): repair it or remove it there"
        ) from error


def cache_name(kind: str, *parts: Any) -> str:
    """A file name that depends on all of `parts`."""
    content = json.dumps(parts, sort_keys=True, default=str).encode()
    return f"{kind}-{hashlib.sha256(content).hexdigest()[:24]}"
