"""Images that look the same: a perceptual hash of each, and which of them to leave out."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def perceptual_hash(pixels: NDArray[np.uint8]) -> int:
    """64 bits of an RGB image [H, W, 3]: whether each of 8 x 8 places is brighter than its right neighbor.

    This is dHash (Krawetz 2013): resizing, compression and brightness change few bits.
    """
    small = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    gray = np.asarray(small, dtype=np.int16)
    bits = (gray[:, 1:] > gray[:, :-1]).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def distinct(hashes: Iterable[int], most_bits: int) -> list[bool]:
    """Which images to keep, in order: those that differ from all kept before in more than `most_bits`."""
    values = np.array([*hashes], dtype=np.uint64)
    kept = np.zeros(len(values), dtype=np.uint64)
    count, found = 0, []
    for value in values:
        new = not (np.bitwise_count(kept[:count] ^ value) <= most_bits).any()
        if new:
            kept[count] = value
            count += 1
        found.append(bool(new))
    return found
