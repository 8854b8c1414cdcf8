"""Structure of TIFF files: which of them Pillow decodes correctly, and the decoding work."""

import io
from collections.abc import Mapping
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from glied.errors import ImageError

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ROWS_PER_STRIP = 256, 257, 258, 259, 262, 278
_PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _FORMAT = 284, 322, 323, 324, 339
_SUBFILE_TYPE, _SUB_DIRECTORIES = 254, 330
_SEPARATE = 2
_WHITE_IS_ZERO = 0
_JPEG = (6, 7)
_SAMPLE_FORMATS = {2: "signed", 3: "float", 4: "untyped", 5: "complex integer", 6: "complex float"}
_PHOTOMETRICS = {
    0: "gray (white is zero)",
    1: "gray",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "Lab",
    9: "Lab",
    10: "Lab",
    32803: "raw sensor data",
    32844: "LogL",
    32845: "LogLuv",
    34892: "raw sensor data",
}


def decoded_wrong(image: TiffImageFile) -> str | None:
    """Describe a TIFF that Pillow opens but decodes to wrong pixels; None for other TIFFs."""
    tags = image.tag_v2
    if any(number & 1 for number in _numbers(tags, _SUBFILE_TYPE)) and _SUB_DIRECTORIES in tags:
        return "TIFF: its first picture is a thumbnail, as in raw photographs (DNG, NEF, ARW)"
    bits = max(_numbers(tags, _BITS), default=1)
    in_planes = tags.get(_PLANAR, 1) == _SEPARATE and tags.get(_COMPRESSION, 1) == 1
    # Signed, float and 32-bit samples have no standard values of black and white.
    odd = any(number != 1 for number in _numbers(tags, _FORMAT)) or bits > 16 or (bits > 8 and in_planes)
    return f"TIFF: {_describe(tags)}" if odd else None


def not_decodable(data: bytes) -> str | None:
    """Describe a TIFF with a complete header that Pillow does not open; None for other data."""
    if not data.startswith(SIGNATURES):
        return None
    try:
        is_big = data[2:4] in (b"+\0", b"\0+")
        tags = ImageFileDirectory_v2(data[: 16 if is_big else 8])
        stream = io.BytesIO(data)
        stream.seek(tags.next)
        tags.load(stream)
        sizes = [tags.get(tag) for tag in (_WIDTH, _HEIGHT)]
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            return None
        return f"TIFF: {_describe(tags)}"
    except Exception:  # broken directories raise many types
        return None


def inverted(image: TiffImageFile) -> bool:
    """Whether samples have 16 bits and 0 is white, which Pillow does not convert."""
    return image.mode.startswith("I;16") and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def largest_sample(image: TiffImageFile) -> int:
    """Return the largest sample value, which is white, or black in inverted images."""
    return int(2 ** max(_numbers(image.tag_v2, _BITS), default=8) - 1)


def tiles(image: TiffImageFile) -> tuple[int, tuple[int, int]]:
    """Return the number of tiles and their size; 1 x 1 without tiles.

    Raises:
        ImageError: "corrupt".
    """
    tags = image.tag_v2
    width, height = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_HEIGHT, 1)
    if not isinstance(width, int) or not isinstance(height, int):
        raise ImageError("corrupt", f"the header says {width!r} x {height!r} pixels a tile")
    return len(_numbers(tags, _TILE_OFFSETS)), (width, height)


def largest_piece(image: TiffImageFile) -> int:
    """Return the number of pixels of the largest tile or strip."""
    count, (width, height) = tiles(image)
    if count:
        return width * height
    rows = min([*_numbers(image.tag_v2, _ROWS_PER_STRIP), image.height])
    return image.width * rows


def is_jpeg(image: TiffImageFile) -> bool:
    """Whether strips or tiles are JPEG-compressed."""
    return image.tag_v2.get(_COMPRESSION, 1) in _JPEG


def _numbers(tags: Mapping[int, Any], tag: int) -> list[int]:
    value = tags.get(tag, ())
    return [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, int)]


def _describe(tags: Mapping[int, Any]) -> str:
    bits, formats = _numbers(tags, _BITS), _numbers(tags, _FORMAT)
    kinds = " ".join(sorted({_SAMPLE_FORMATS[one] for one in formats if one in _SAMPLE_FORMATS}))
    depth = "-".join(map(str, sorted(set(bits)))) or "1"
    photometric = tags.get(_PHOTOMETRIC)
    color = _PHOTOMETRICS.get(photometric, f"photometric {photometric}")  # type: ignore[arg-type]
    planar = ", in planes" if tags.get(_PLANAR) == _SEPARATE else ""
    compression = tags.get(_COMPRESSION, 1)
    packed = f", compression {compression}" if compression != 1 else ""
    return f"{' '.join(part for part in (f'{depth}-bit', kinds, 'samples,') if part)} {color}{planar}{packed}"
