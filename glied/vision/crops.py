"""Random crops and flips of images for data augmentation."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glied.errors import UsageError
from glied.vision.images import Picture

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """How training images are augmented."""

    smallest: float = 0.65
    """Smallest share of the image area in a crop."""
    stretch: float = 1.2
    """Largest factor by which the aspect ratio of a crop differs from that of its image."""
    flip: bool = True
    """Mirror half of the images; captions rarely mention left and right."""

    def __post_init__(self) -> None:
        """Reject invalid values."""
        if not 0 < self.smallest <= 1 or self.stretch < 1:
            raise UsageError(f"smallest {self.smallest} must be in (0, 1], stretch {self.stretch} at least 1")


@dataclass(frozen=True, kw_only=True)
class CopyConfig(CropConfig):
    """A random crop of each image that depends only on the seed and the image name."""

    seed: int
    """Seed of the crops."""

    def __call__(self, name: str, picture: Picture) -> Picture:
        """Return the crop of the image `name`."""
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        height, width = picture.pixels.shape[:2]
        box, mirrored = draw_crop((width, height), self, random)
        pixels = _cut(picture.pixels, box)
        scale = picture.width / width
        size = (max(1, round(side * scale)) for side in pixels.shape[1::-1])
        return Picture(np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels), *size)


def draw_crop(size: tuple[int, int], config: CropConfig, random: np.random.Generator) -> tuple[Box, bool]:
    """Draw a box (left, top, right, bottom) in an image of `size` (width, height); and whether to flip it."""
    share = random.uniform(config.smallest, 1) ** 0.5
    stretch = config.stretch ** random.uniform(-0.5, 0.5)
    width, height = (
        min(1.0, share * factor) * side for factor, side in zip((stretch, 1 / stretch), size, strict=True)
    )
    left, top = random.uniform(0, size[0] - width), random.uniform(0, size[1] - height)
    return (left, top, left + width, top + height), config.flip and bool(random.random() < 0.5)


def _cut(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Return the pixels [h, w, 3] inside a box, at least one."""
    left, top = int(box[0]), int(box[1])
    return pixels[top : max(top + 1, round(box[3])), left : max(left + 1, round(box[2]))]
