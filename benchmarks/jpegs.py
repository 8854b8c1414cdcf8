"""Synthetic JPEGs with the sizes of photographs."""

import io

import numpy as np
from PIL import Image

COCO_SIZES = [(640, 480)] * 6 + [(640, 427)] * 4 + [(480, 640)] * 3 + [(640, 425), (427, 640), (500, 375)]
COCO_SIZES += [(640, 360), (612, 612), (375, 500), (640, 428), (640, 512), (333, 500)]
"""Widths and heights, about as frequent as in COCO."""


def synthetic_jpeg(width: int, height: int, generator: np.random.Generator) -> bytes:
    """Encode blurred colors with noise, which compress about as well as a photograph."""
    coarse = generator.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    noise = generator.integers(-12, 13, (height, width, 3))
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    buffer = io.BytesIO()
    Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
