"""Padding of images so that images in a batch do not affect each other's features.

Detectors pad a batch to one size, and padding affects nearby features. Here the padded size of an image, its
canvas, depends on that image alone, and a batch contains only images with equal canvases.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor

LARGEST_BATCH = 16
_THINNEST = 32


def canvas(height: int, width: int, *, divisor: int, step: int) -> tuple[int, int]:
    """Return the height and width that a resized image is padded to.

    The short side, which is the same for most photographs, is padded to a multiple of `divisor`, the long
    side to a multiple of `step` if that is larger. Photographs then share a few canvases according to their
    aspect ratio, and the padding is half a step on average.
    """
    step = -(-max(step, divisor) // divisor) * divisor
    steps = (divisor, step) if width >= height else (step, divisor)
    return -(-height // steps[0]) * steps[0], -(-width // steps[1]) * steps[1]


def same_canvas(images: Sequence[Tensor], *, divisor: int, step: int) -> Iterator[list[int]]:
    """Yield indices of resized images [3, h, w] with equal canvases, at most `LARGEST_BATCH` at a time."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        groups[canvas(image.shape[1], image.shape[2], divisor=divisor, step=step)].append(index)
    for group in groups.values():
        for start in range(0, len(group), LARGEST_BATCH):
            yield group[start : start + LARGEST_BATCH]


def padded(images: Sequence[Tensor], *, divisor: int, step: int) -> Tensor:
    """Pad images [3, h, w] with equal canvases to [B, 3, H, W], with zeros at the right and bottom."""
    height, width = canvas(images[0].shape[1], images[0].shape[2], divisor=divisor, step=step)
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return batch


def widened(pixels: Tensor) -> Tensor:
    """Stretch an image [3, H, W] thinner than 1:32, whose short side could shrink to 0.

    Boxes are scaled back.
    """
    height, width = pixels.shape[1:]
    least = -(-max(height, width) // _THINNEST)
    if min(height, width) >= least:
        return pixels
    return F.interpolate(pixels[None], (max(height, least), max(width, least)))[0]
