"""Decoding of image bytes to upright RGB pixels; every fault of an image becomes an `ImageError`.

`Picture` is the data type of this layer; `DecoderPool` and `GpuDecoder` return it as well.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.IcoImagePlugin import IcoFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from glied.errors import ImageError
from glied.vision.image_formats import jpeg, jpeg2000, png, signatures, tiff, webp

MAX_PIXELS = 100_000_000
MAX_SIDE = 65_535
"""The longest side that a JPEG header can state."""
LARGE = 4_000_000
"""Images of more pixels may be shrunk while they are decoded."""
MOST_PASSES = 20
"""Limit on the decoding work, in passes over an image of `max_pixels`; 1 to 12 passes are common."""

# EPS and WMF are excluded because reading them runs other programs, TGA because it has no signature.
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
    "HEIF",
)
_TEXT_PASSES = 200
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
# The exceptions that Pillow's decoders raise on broken data.
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
        width: width of the upright image; differs from w if the image was shrunk.
        height: height of the upright image; differs from h if the image was shrunk.
        missing_rows: rows at the end of the stored image that a truncated file has no data for; they are
            gray.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    missing_rows: int = 0


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE) -> NDArray[np.uint8]:
    """Decode an image at full size, as `read` does; return its pixels [H, W, 3]."""
    return read(data, max_pixels=max_pixels, max_side=max_side).pixels


def read(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
    resolution: tuple[int, int] | None = None,
    missing_rows: float = 0.0,
) -> Picture:
    """Decode an encoded image to upright RGB.

    Applies the EXIF orientation, blends alpha with white, scales 16 bits to 8, converts CMYK, gray and
    palettes, and reads the first frame of animations. Damaged or large metadata is ignored.

    Args:
        data: the encoded image.
        max_pixels: largest number of pixels.
        max_side: longest side in pixels.
        resolution: short and long side that the caller will resize the pixels to fit into. Images of more
            than `LARGE` pixels are shrunk to 1/2, 1/4 or 1/8, but not below this: JPEGs during decoding,
            which takes a fraction of the time and memory, others by averaging blocks.
        missing_rows: largest share of its rows that a JPEG may lack at its end; 0 rejects all truncated
            files.

    Raises:
        ImageError: kind "empty", "not_an_image", "too_large" (detected in the header, before decoding),
            "truncated", "corrupt" or "unsupported" (a format, or a variant of one, that cannot be decoded).
    """
    if not data:
        raise ImageError("empty", "the file has no bytes")
    limits = _Limits(max_pixels, max_side, resolution)
    if data.startswith(b"\0\0\1\0"):
        data = _icon_picture(data, limits)
    try:
        return _read(data, limits)
    except ImageError as error:
        if error.kind not in ("corrupt", "truncated"):
            raise
        fault = error
    for simpler in _without_metadata(data):
        try:
            return _read(simpler, limits)
        except ImageError as error:
            if error.kind not in ("corrupt", "truncated"):
                raise
            fault = error
    if missing_rows > 0 and fault.kind == "truncated" and jpeg.is_jpeg(data):
        return _read_cut_jpeg(data, limits, missing_rows, fault)
    raise fault


@dataclass(frozen=True)
class _Limits:
    """Limits on the images that are decoded, and the target resolution; see `read`."""

    max_pixels: int
    max_side: int
    resolution: tuple[int, int] | None

    def check_size(self, size: tuple[int, int]) -> None:
        """Reject images that are empty or too large."""
        width, height = size
        if width < 1 or height < 1:
            raise ImageError("corrupt", f"the header says {width} x {height} pixels")
        if width * height > self.max_pixels or max(size) > self.max_side:
            allowed = f"{self.max_pixels:,} pixels and {self.max_side:,} a side are allowed"
            raise ImageError("too_large", f"{width} x {height} pixels; {allowed}")

    def check_work(self, passes: int, pixels: int, what: str) -> None:
        """Reject files that take too much decoding work."""
        if passes * pixels > MOST_PASSES * self.max_pixels:
            allowed = f"{MOST_PASSES * self.max_pixels:,} in all are allowed"
            raise ImageError("too_large", f"{passes:,} {what} of {pixels:,} pixels; {allowed}")


def _read(data: bytes, limits: _Limits) -> Picture:
    """Decode an image in a single attempt, unlike `read`."""
    image = _open(data)
    _check(image, data, limits)
    width, height = image.size
    factor = _factor(image.size, limits.resolution)
    if factor > 1 and isinstance(image, JpegImageFile):
        image.draft(None, (width // factor, height // factor))
    try:
        image.load()
    except _FAILURES as error:
        raise _broken(data, error) from error
    try:
        upright, turned = _upright(image)
        rgb = _to_rgb(upright, image, data)
        if factor > 1 and image.size == (width, height):
            rgb = rgb.reduce(factor)
        pixels = np.array(rgb)
    except _FAILURES as error:
        raise ImageError("unsupported", f"cannot convert mode {image.mode} to RGB: {error}") from error
    return Picture(pixels, height, width) if turned else Picture(pixels, width, height)


def _check(image: Image.Image, data: bytes, limits: _Limits) -> None:
    """Reject, before decoding, images that take too much work or would be decoded to wrong pixels."""
    limits.check_size(image.size)
    if isinstance(image, JpegImageFile):
        limits.check_work(jpeg.scans(data), image.width * image.height, "scans")
    elif isinstance(image, TiffImageFile):
        _check_tiff(image, data, limits)
    elif isinstance(image, Jpeg2KImageFile) and (header := jpeg2000.header(data)) is not None:
        if (kind := jpeg2000.not_decodable(header)) is not None:
            raise ImageError("unsupported", kind)
        if header.packets > jpeg2000.MOST_PACKETS:
            allowed = f"{jpeg2000.MOST_PACKETS:,} are allowed"
            raise ImageError("too_large", f"{header.packets:,} packets in each resolution; {allowed}")
    elif isinstance(image, PpmImageFile) and data[1:2] in b"123":  # decoded in Python, number by number
        limits.check_work(_TEXT_PASSES, image.width * image.height, "passes, for numbers as text,")
    if image.mode == "F":
        raise ImageError("unsupported", f"{image.format} of float samples")


def _check_tiff(image: TiffImageFile, data: bytes, limits: _Limits) -> None:
    """Check the decoding work: tiles are decoded as a whole, and each may be a JPEG of many scans."""
    if (kind := tiff.decoded_wrong(image)) is not None:
        raise ImageError("unsupported", kind)
    count, size = tiff.tiles(image)
    limits.check_size(size)
    limits.check_work(count, size[0] * size[1], "tiles")
    if tiff.is_jpeg(image):
        limits.check_work(data.count(jpeg.SCAN_MARKER), tiff.largest_piece(image), "scans")


def _without_metadata(data: bytes) -> Iterator[bytes]:
    """Yield the image with less metadata: first with the orientation only, then without any."""
    known = ((png.is_png, png.without_metadata), (jpeg.is_jpeg, jpeg.without_metadata))
    for is_it, without_metadata in (*known, (webp.is_webp, webp.without_metadata)):
        if is_it(data):
            less, least = without_metadata(data, exif=True), without_metadata(data, exif=False)
            yield from (one for one in (less, least) if one != data)


def _read_cut_jpeg(data: bytes, limits: _Limits, most_missing: float, error: ImageError) -> Picture:
    """Decode a truncated JPEG that lacks at most `most_missing` of its rows; otherwise raise its `error`."""
    whole = jpeg.completed(jpeg.without_metadata(data, exif=True))

    def decoded(candidate: bytes) -> NDArray[np.uint8]:
        plain = jpeg.without_metadata(candidate, exif=False)  # without rotation, rows are those of the file
        return _read(plain, limits).pixels

    missing = jpeg.missing_share(data, decoded)
    if missing > most_missing:
        if missing < 1:
            raise ImageError(error.kind, f"{error.message}; {missing:.1%} of its rows are missing") from error
        raise error
    picture = _read(whole, limits)
    header = jpeg.frame(data)
    assert header is not None, "it was decoded"
    return replace(picture, missing_rows=round(missing * header.height))


def _factor(size: tuple[int, int], resolution: tuple[int, int] | None) -> int:
    """Return the factor, 1, 2, 4 or 8, by which an image may be shrunk."""
    if resolution is None or size[0] * size[1] <= LARGE:
        return 1
    spare = max(min(size) / resolution[0], max(size) / resolution[1])
    return max(factor for factor in (1, 2, 4, 8) if factor <= max(spare, 1))


def _open(data: bytes, names: tuple[str, ...] = _FORMATS) -> Image.Image:
    """Open an image, reading only its header."""
    Image.init()
    if signatures.is_heif(data):
        signatures.heif_is_read()
    known = [name for name in names if name in Image.OPEN]
    try:
        return Image.open(io.BytesIO(data), formats=known)
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        if (name := signatures.unsupported(data) or tiff.not_decodable(data)) is not None:
            raise ImageError("unsupported", name) from error
        if data.startswith(_SIGNATURES) or _is_webp(data) or signatures.is_heif(data):
            raise _broken(data, error) from error
        raise ImageError("not_an_image", f"the content is {_describe(data)}") from error
    except _FAILURES as error:
        raise _broken(data, error) from error


def _describe(data: bytes) -> str:
    start = data[:64].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return "HTML or XML"
    return f"not a known image format (it starts with {data[:12]!r})"


def _icon_picture(data: bytes, limits: _Limits) -> bytes:
    """Return the part of an ICO to decode: the PNG inside, or the whole file if its picture is not a PNG.

    The size check uses the size of the picture, because Pillow decodes it on opening and the directory may
    state another one.
    """
    try:
        offset = IcoFile(io.BytesIO(data)).entry[0].offset
    except _FAILURES:  # opening the image reports the fault
        return data
    picture = data[offset:]
    if png.is_png(picture):
        return picture
    limits.check_size(_open(picture, ("DIB",)).size)
    return data


def _broken(data: bytes, error: Exception) -> ImageError:
    if (kind := signatures.kind_not_decodable(data)) is not None:
        return ImageError("unsupported", kind)
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # its message contains a memory address
        message = "the header cannot be read"
    lower = message.lower()
    cut = "truncat" in lower or "unexpected end" in lower or _riff_is_short(data)
    return ImageError("truncated" if cut else "corrupt", message)


def _is_webp(data: bytes) -> bool:
    return data.startswith(b"RIFF") and b"WEBP".startswith(data[8:12])  # possibly truncated


def _riff_is_short(data: bytes) -> bool:
    """Whether a WebP has fewer bytes than its header says; its decoder does not report why it fails."""
    return _is_webp(data) and int.from_bytes(data[4:8], "little") + 8 > len(data)


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """Apply the EXIF orientation; return the upright image, and whether width and height were swapped."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation == 1:
            return image, False  # exif_transpose would make a copy
        return ImageOps.exif_transpose(image), orientation in _SIDEWAYS
    except _FAILURES:  # broken EXIF does not affect the pixels
        return image, False


def _to_rgb(image: Image.Image, source: Image.Image, data: bytes) -> Image.Image:
    """Convert the upright image to RGB on white.

    Args:
        image: the upright image.
        source: the image as it was opened, with the attributes of its file.
        data: the encoded image.
    """
    if isinstance(source, PngImageFile) and "transparency" in image.info and not png.has_transparency(data):
        del image.info["transparency"]
    transparent = _transparent_color(image, source, data)
    if image.mode.startswith("I"):
        return _sixteen_bits_to_rgb(image, source, transparent)
    if transparent is not None:
        image.info["transparency"] = transparent
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colors = image.convert("RGBA")
        white = Image.new("RGBA", colors.size, "white")
        return Image.alpha_composite(white, colors).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _transparent_color(image: Image.Image, source: Image.Image, data: bytes) -> Any:
    """Return a PNG's transparent color in Pillow's sample values, if they differ from the stored ones.

    Raises:
        ImageError: "unsupported": Pillow keeps only the high byte of 16-bit colors, so they cannot be
            compared.
    """
    color = image.info.get("transparency")
    if color is None or not isinstance(source, PngImageFile) or (header := png.header(data)) is None:
        return None
    bits, kind = header
    if kind == png.GRAY and bits in (2, 4):
        return (color & (2**bits - 1)) * (255 // (2**bits - 1))
    if kind == png.GRAY and bits == 16:
        return color
    if kind == png.RGB and bits == 16:
        high = [value >> 8 for value in color]
        if (np.asarray(image) == high).all(axis=-1).any():
            raise ImageError("unsupported", "16-bit RGB PNG with a transparent color")
        return tuple(high)
    return None


def _sixteen_bits_to_rgb(image: Image.Image, source: Image.Image, transparent: int | None) -> Image.Image:
    """Convert 16-bit gray; Pillow's own conversion clips at 255, which turns most such images white."""
    values = np.asarray(image).astype(np.float32)
    most = tiff.largest_sample(source) if isinstance(source, TiffImageFile) else 65535
    if isinstance(source, TiffImageFile) and tiff.inverted(source):
        values = most - values
    gray = (values * (255 / most)).round().clip(0, 255).astype(np.uint8)
    if transparent is not None:
        gray[values == transparent] = 255
    return Image.fromarray(gray).convert("RGB")
