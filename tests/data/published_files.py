"""Small files of region features in the published formats."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Image:
    """An image's regions before they are written."""

    id: str
    boxes: NDArray[np.float32]
    features: NDArray[np.float32]
    width: int
    height: int


def images(count: int, *, first: int = 391895, feature_size: int = 16, regions: int = 0) -> list[Image]:
    """Make `count` images with 1 to 5 regions, or with exactly `regions`."""
    return [_image(number, feature_size, regions or 1 + number % 5) for number in range(first, first + count)]


def _image(number: int, feature_size: int, regions: int) -> Image:
    random = np.random.default_rng(number)
    width, height = int(random.integers(200, 640)), int(random.integers(200, 480))
    corners = random.uniform(0, 1, (regions, 2, 2)) * (width, height)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    features = np.maximum(random.normal(size=(regions, feature_size)), 0).astype(np.float32)
    return Image(str(number), boxes, features, width, height)


def tsv_bytes(every: Sequence[Image]) -> bytes:
    """Return a TSV written with csv.DictWriter, as bottom-up attention's own script does."""
    lines = [
        b"\t".join(
            [
                *(str(one).encode() for one in (image.id, image.width, image.height, len(image.boxes))),
                base64.b64encode(image.boxes.tobytes()),
                base64.b64encode(image.features.tobytes()),
            ]
        )
        for image in every
    ]
    return b"".join(line + b"\r\n" for line in lines)


def npz_bytes(
    image: Image, features: str, boxes: str | None, *, size: bool = False, transposed: bool = False
) -> bytes:
    """Return a compressed .npz with the given member names."""
    members = {features: image.features.T if transposed else image.features}
    if boxes:
        members[boxes] = image.boxes
    if size:
        members |= {"image_w": np.array(image.width), "image_h": np.array(image.height)}
    data = io.BytesIO()
    np.savez_compressed(data, **members)
    return data.getvalue()
