"""Structure of JPEG files: segments that affect pixels, decoding work, and the content of truncated files."""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

START, END = b"\xff\xd8", b"\xff\xd9"
APP0, APP1, APP14, COMMENT, SCAN = 0xE0, 0xE1, 0xEE, 0xFE, 0xDA
EXIF, ADOBE, JFIF = b"Exif\0\0", b"Adobe", b"JFIF\0"
SCAN_MARKER = bytes([0xFF, SCAN])
FRAMES = {
    0xC0: "baseline",
    0xC1: "extended",
    0xC2: "progressive",
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical lossless",
    0xC9: "arithmetic",
    0xCA: "arithmetic progressive",
    0xCB: "arithmetic lossless",
    0xCD: "hierarchical arithmetic",
    0xCE: "hierarchical arithmetic",
    0xCF: "hierarchical arithmetic lossless",
    0xF7: "JPEG-LS",
}
"""Coding of a frame by its start marker."""
DECODABLE = ("baseline", "extended", "progressive", "arithmetic", "arithmetic progressive")

_STANDALONE = (0x01, *range(0xD0, 0xDA))  # markers without a length: TEM, RST0 to RST7, SOI, EOI
# In entropy-coded data, 0xFF is followed by 0 or by a restart number; anything else is a marker.
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
_COEFFICIENTS = 64
_FILLER = b"\x55" * 4096


@dataclass(frozen=True)
class Segment:
    """A marker and its content, data[start:end], which excludes marker and length."""

    marker: int
    start: int
    end: int


def is_jpeg(data: bytes) -> bool:
    """Whether the data starts like a JPEG."""
    return data.startswith(START + b"\xff")


def segments(data: bytes) -> Iterator[Segment]:
    """Yield all complete segments up to the end of the image, including those between scans."""
    place = len(START)
    while (found := _MARKER.search(data, place)) is not None:
        marker, place = found[1][0], found.end()
        if marker == END[1]:
            return
        if marker in _STANDALONE:
            continue
        if place + 2 > len(data):
            return
        (length,) = struct.unpack_from(">H", data, place)
        end = place + max(length, 2)
        if end > len(data):
            return
        yield Segment(marker, place + 2, end)
        place = end


@dataclass(frozen=True)
class Frame:
    """The frame header of a JPEG."""

    coding: str
    bits: int
    height: int
    width: int
    components: int


def frame(data: bytes) -> Frame | None:
    """Return the first frame header before the first scan, or None."""
    for one in segments(data):
        if one.marker in FRAMES and one.end - one.start >= 6:
            return Frame(FRAMES[one.marker], *struct.unpack_from(">BHHB", data, one.start))
        if one.marker == SCAN:
            break
    return None


def not_decodable(data: bytes) -> str | None:
    """Return the name of the JPEG variant if the decoder does not support it, else None."""
    if not is_jpeg(data) or (header := frame(data)) is None:
        return None
    if header.coding == "JPEG-LS":
        return "JPEG-LS"
    if header.coding not in DECODABLE:
        return f"{header.coding} JPEG"
    if header.bits != 8:
        return f"{header.bits}-bit JPEG"
    if header.components not in (1, 3, 4):
        return f"JPEG of {header.components} components"
    return None


def scans(data: bytes) -> int:
    """Count the scans, each of which is a decoding pass.

    A scan of a progressive JPEG can take a few bytes.
    """
    if data.count(SCAN_MARKER) < 2:  # an upper bound: metadata can contain the same bytes
        return 1
    return sum(one.marker == SCAN for one in segments(data))


def without_metadata(data: bytes, *, exif: bool) -> bytes:
    """Remove comments and application segments that do not affect the pixels.

    Args:
        data: the JPEG.
        exif: keep the first EXIF segment, which has the orientation.
    """
    parts, place = [], 0
    for one in segments(data):
        if one.marker == SCAN:
            break
        if one.marker == COMMENT or APP0 <= one.marker <= 0xEF:
            parts.append(data[place : data.rindex(b"\xff", 0, one.start - 2)])
            if _affects_pixels(data[one.start : one.end], one.marker, exif=exif):
                parts.append(b"\xff" + bytes([one.marker]) + data[one.start - 2 : one.end])
                exif = exif and one.marker != APP1
            place = one.end
    return b"".join([*parts, data[place:]])


def _affects_pixels(content: bytes, marker: int, *, exif: bool) -> bool:
    """Whether a segment affects the pixels; JFIF and Adobe segments define the color coding."""
    if marker == APP0:
        return content.startswith(JFIF) and len(content) >= 14
    if marker == APP1:
        return exif and content.startswith(EXIF)
    return marker == APP14 and content.startswith(ADOBE) and len(content) >= 12


def completed(data: bytes) -> bytes:
    """Append an end marker to a truncated JPEG, so that it decodes, with missing parts in gray."""
    return data.rstrip(b"\xff") + END


def missing_share(data: bytes, decode: Callable[[bytes], NDArray[np.uint8]]) -> float:
    """Return the share of rows that a truncated JPEG has no data for; 1.0 if it has too little data to show.

    Rows count as present if all their coefficients are, possibly with reduced precision, as in a progressive
    JPEG that lacks part of its last refinement scans.

    Args:
        data: the file, which lacks its end.
        decode: decodes a complete JPEG to pixels [h, w, ...].
    """
    earlier, last = _coverage(data)
    if not last:
        return 1.0
    if earlier >= last:
        return 0.0
    if not _complete(data, earlier | last):
        return 1.0
    if _complete(data, earlier):  # the last scan is only a refinement
        return 0.0
    # Appended bytes can only change rows that the file has no data for.
    plain, filled = decode(completed(data)), decode(data.rstrip(b"\xff") + _FILLER + END)
    changed = (plain != filled).reshape(len(plain), -1).any(axis=1)
    return float(len(plain) - changed.argmax()) / len(plain) if changed.any() else 0.0


_Coefficients = set[tuple[int, int]]


def _coverage(data: bytes) -> tuple[_Coefficients, _Coefficients]:
    """Return the (component, coefficient) pairs of all scans but the last one, and those of the last one."""
    header = frame(data)
    earlier: _Coefficients = set()
    last: _Coefficients = set()
    for one in segments(data):
        if one.marker != SCAN or header is None:
            continue
        earlier |= last
        last = _scan_coefficients(data[one.start : one.end], progressive="progressive" in header.coding)
    return earlier, last


def _scan_coefficients(content: bytes, *, progressive: bool) -> _Coefficients:
    count = content[0] if content else 0
    if len(content) < 1 + 2 * count + 3:
        return set()
    components = content[1 : 1 + 2 * count : 2]
    first, final = (content[1 + 2 * count], content[2 + 2 * count]) if progressive else (0, 63)
    return {(component, place) for component in components for place in range(first, final + 1)}


def _complete(data: bytes, covered: _Coefficients) -> bool:
    header = frame(data)
    return header is not None and len(covered) >= header.components * _COEFFICIENTS
