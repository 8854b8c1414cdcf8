"""Image bytes to upright RGB pixels; whatever is wrong with an image becomes one `ImageError`."""

import io
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.IcoImagePlugin import IcoFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from glied.errors import ImageError

MAX_PIXELS = 100_000_000
MAX_SIDE = 65_535
"""The longest side that a JPEG header can state."""
LARGE = 4_000_000
"""Images of more pixels may be shrunk while they are decoded."""

# EPS and WMF are left out because reading them runs other programs, TGA because it has no signature.
_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "MPO",
    "BMP",
    "DIB",
    "TIFF",
    "JPEG2000",
    "AVIF",
    "PPM",
    "ICO",
    "PCX",
)
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
# What Pillow's decoders raise on broken data: struct.error and SyntaxError among the more usual ones,
# RuntimeError from AVIF's.
_FAILURES = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    EOFError,
    ArithmeticError,
    TypeError,
    RuntimeError,
    struct.error,
)


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: [h, w, 3] uint8, upright RGB, contiguous and writable.
        width: of the upright image; w, unless it was shrunk.
        height: of the upright image; h, unless it was shrunk.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE) -> NDArray[np.uint8]:
    """The pixels [H, W, 3] of `read` at full size."""
    return read(data, max_pixels=max_pixels, max_side=max_side).pixels


def read(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
    resolution: tuple[int, int] | None = None,
) -> Picture:
    """Decode an encoded image into upright RGB.

    EXIF orientation is applied, alpha is put on white, 16 bits are scaled to 8, CMYK, gray and palettes are
    converted; of an animation the first frame counts.

    Args:
        resolution: the short and the long side that the pixels are resized to fit into later. Images of more
            than `LARGE` pixels are shrunk to 1/2, 1/4 or 1/8, but to no less: JPEGs while they are decoded,
            which takes a fraction of time and memory, others by averaging blocks.

    Raises:
        ImageError: kind "empty", "not_an_image", "too_large" (told by the header, before decoding),
            "truncated", "corrupt" or "unsupported" (a color space that has no conversion).
    """
    if not data:
        raise ImageError("empty", "the file has no bytes")
    if data.startswith(b"\0\0\1\0"):
        _check_icon(data, max_pixels=max_pixels, max_side=max_side)
    image = _open(data)
    _check_size(image.size, max_pixels=max_pixels, max_side=max_side)
    if isinstance(image, TiffImageFile):
        _check_size(_tile_size(image), max_pixels=max_pixels, max_side=max_side)
    width, height = image.size
    factor = _factor(image.size, resolution)
    if factor > 1 and isinstance(image, JpegImageFile):
        image.draft(None, (width // factor, height // factor))
    try:
        image.load()
    except _FAILURES as error:
        raise _broken(data, error) from error
    try:
        upright, turned = _upright(image)
        rgb = _to_rgb(upright)
        if factor > 1 and image.size == (width, height):
            rgb = rgb.reduce(factor)
        pixels = np.array(rgb)
    except _FAILURES as error:
        raise ImageError("unsupported", f"no way from mode {image.mode} to RGB: {error}") from error
    return Picture(pixels, height, width) if turned else Picture(pixels, width, height)


def _factor(size: tuple[int, int], resolution: tuple[int, int] | None) -> int:
    """1, 2, 4 or 8: what an image may be divided by."""
    if resolution is None or size[0] * size[1] <= LARGE:
        return 1
    spare = max(min(size) / resolution[0], max(size) / resolution[1])
    return max(factor for factor in (1, 2, 4, 8) if factor <= max(spare, 1))


def _open(data: bytes, formats: tuple[str, ...] = _FORMATS) -> Image.Image:
    """Read the header only."""
    Image.init()
    known = [name for name in formats if name in Image.OPEN]
    try:
        return Image.open(io.BytesIO(data), formats=known)
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        if data.startswith(_SIGNATURES) or _is_webp(data):
            raise _broken(data, error) from error
        raise ImageError("not_an_image", f"the content is {_describe(data)}") from error
    except _FAILURES as error:
        raise _broken(data, error) from error


def _describe(data: bytes) -> str:
    start = data[:64].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "HTML or XML"
    return f"no known image format (it starts with {data[:12]!r})"


def _check_size(size: tuple[int, int], *, max_pixels: int, max_side: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError("corrupt", f"the header says {width} x {height} pixels")
    if width * height > max_pixels or max(size) > max_side:
        allowed = f"{max_pixels:,} pixels and {max_side:,} a side are allowed"
        raise ImageError("too_large", f"{width} x {height} pixels; {allowed}")


def _check_icon(data: bytes, *, max_pixels: int, max_side: int) -> None:
    """Check the picture in an ICO: Pillow decodes it on opening, and the directory may state another size."""
    try:
        offset = IcoFile(io.BytesIO(data)).entry[0].offset
    except _FAILURES:  # opening says what is wrong
        return
    _check_size(_open(data[offset:], ("PNG", "DIB")).size, max_pixels=max_pixels, max_side=max_side)


def _tile_size(image: TiffImageFile) -> tuple[int, int]:
    """Of a TIFF's tiles, 1 x 1 without any: one is decoded whole, however little of it the image shows."""
    width, height = image.tag_v2.get(TILEWIDTH, 1), image.tag_v2.get(TILELENGTH, 1)
    if not isinstance(width, int) or not isinstance(height, int):
        raise ImageError("corrupt", f"the header says {width!r} x {height!r} pixels a tile")
    return width, height


def _broken(data: bytes, error: Exception) -> ImageError:
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # its message is an address in memory, new in each run
        message = "the header cannot be read"
    lower = message.lower()
    cut = "truncat" in lower or "unexpected end" in lower or _riff_is_short(data)
    return ImageError("truncated" if cut else "corrupt", message)


def _is_webp(data: bytes) -> bool:
    return data.startswith(b"RIFF") and b"WEBP".startswith(data[8:12])  # possibly cut


def _riff_is_short(data: bytes) -> bool:
    """Whether a WebP holds fewer bytes than its header says: its decoder does not tell why it fails."""
    return _is_webp(data) and int.from_bytes(data[4:8], "little") + 8 > len(data)


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The upright image, and whether its sides are exchanged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation == 1:
            return image, False  # exif_transpose would copy it
        return ImageOps.exif_transpose(image), orientation in _SIDEWAYS
    except _FAILURES:  # broken EXIF says nothing about the pixels
        return image, False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colors = image.convert("RGBA")
        white = Image.new("RGBA", colors.size, "white")
        return Image.alpha_composite(white, colors).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_eight_bits(values: NDArray) -> NDArray[np.uint8]:
    """Gray values of 16 bits, of 32 bits that hold 16, or of floats in 0..1 or 0..255, as 8 bits.

    Pillow's own conversion clips at 255, which turns nearly every 16-bit image white.
    """
    scaled: NDArray = np.nan_to_num(values.astype(np.float32))
    if values.dtype.kind == "f":
        scaled = scaled * 255 if scaled.max() <= 1 else scaled
    elif values.dtype.itemsize == 2 or scaled.max() > 255:
        scaled = scaled / 257
    return scaled.round().clip(0, 255).astype(np.uint8)
