"""How images of different shapes share a batch without touching each other's features.

A detector pads its images to one size, and features near the padding feel it. So each image's padded size,
its canvas, follows from that image alone, and a batch holds images of equal canvases only.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor

LARGEST_BATCH = 16
_THINNEST = 32


def canvas(height: int, width: int, *, divisor: int, step: int) -> tuple[int, int]:
    """Height and width that a resized image is padded to.

    The short side, which is the same for most photographs, grows to a multiple of `divisor` only; the long
    side to a multiple of `step`, too, if that is larger. So photographs fall into few canvases by their
    aspect, and padding costs half a step.
    """
    step = -(-max(step, divisor) // divisor) * divisor
    steps = (divisor, step) if width >= height else (step, divisor)
    return -(-height // steps[0]) * steps[0], -(-width // steps[1]) * steps[1]


def same_canvas(images: Sequence[Tensor], *, divisor: int, step: int) -> Iterator[list[int]]:
    """Indices of resized images [3, h, w] of one canvas, at most `LARGEST_BATCH` at a time."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        groups[canvas(image.shape[1], image.shape[2], divisor=divisor, step=step)].append(index)
    for group in groups.values():
        for start in range(0, len(group), LARGEST_BATCH):
            yield group[start : start + LARGEST_BATCH]


def padded(images: Sequence[Tensor], *, divisor: int, step: int) -> Tensor:
    """Images [3, h, w] of one canvas -> [B, 3, H, W], zeros at the right and the bottom."""
    height, width = canvas(images[0].shape[1], images[0].shape[2], divisor=divisor, step=step)
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return batch


def widened(pixels: Tensor) -> Tensor:
    """[3, H, W] stretched where it is thinner than 1:32, which could shrink to nothing; boxes scale back."""
    height, width = pixels.shape[1:]
    least = -(-max(height, width) // _THINNEST)
    if min(height, width) >= least:
        return pixels
    return F.interpolate(pixels[None], (max(height, least), max(width, least)))[0]
