"""The structure of JPEG files: what decides their pixels, how much work they are, what cut ones show."""

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
"""What the marker that starts a frame says of its coding."""
DECODABLE = ("baseline", "extended", "progressive", "arithmetic", "arithmetic progressive")

_ALONE = (0x01, *range(0xD0, 0xDA))  # markers without a length: TEM, restarts, start and end of the image
# In entropy-coded data 0xFF is followed by 0 or by the number of a restart; anything else is a marker.
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
_COEFFICIENTS = 64
_FILLER = b"\x55" * 4096


@dataclass(frozen=True)
class Segment:
    """A marker with its content, which lies at start:end without marker and length."""

    marker: int
    start: int
    end: int


def is_jpeg(data: bytes) -> bool:
    """Whether it starts as a JPEG does."""
    return data.startswith(START + b"\xff")


def segments(data: bytes) -> Iterator[Segment]:
    """All segments that are whole, those between and after the scans included, up to the image's end."""
    place = len(START)
    while (found := _MARKER.search(data, place)) is not None:
        marker, place = found[1][0], found.end()
        if marker == END[1]:
            return
        if marker in _ALONE:
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
    """What the header of a JPEG says of its pixels."""

    coding: str
    bits: int
    height: int
    width: int
    components: int


def frame(data: bytes) -> Frame | None:
    """The first frame's header; None where there is none before the first scan."""
    for one in segments(data):
        if one.marker in FRAMES and one.end - one.start >= 6:
            return Frame(FRAMES[one.marker], *struct.unpack_from(">BHHB", data, one.start))
        if one.marker == SCAN:
            break
    return None


def not_decodable(data: bytes) -> str | None:
    """Name of the kind of JPEG, if it is one that the decoder does not know."""
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
    """How often decoding goes over the image. Each scan of a progressive JPEG takes a few bytes at least."""
    if data.count(SCAN_MARKER) < 2:  # the same two bytes may stand in metadata
        return 1
    return sum(one.marker == SCAN for one in segments(data))


def without_metadata(data: bytes, *, exif: bool) -> bytes:
    """The image without comments and application segments, save those that its pixels depend on.

    Args:
        exif: keep the first EXIF, which holds the orientation.
    """
    parts, place = [], 0
    for one in segments(data):
        if one.marker == SCAN:
            break
        if one.marker == COMMENT or APP0 <= one.marker <= 0xEF:
            parts.append(data[place : data.rindex(b"\xff", 0, one.start - 2)])
            if _decides_pixels(data[one.start : one.end], one.marker, exif=exif):
                parts.append(b"\xff" + bytes([one.marker]) + data[one.start - 2 : one.end])
                exif = exif and one.marker != APP1
            place = one.end
    return b"".join([*parts, data[place:]])


def _decides_pixels(content: bytes, marker: int, *, exif: bool) -> bool:
    """JFIF and Adobe's segment say how colors are coded; shorter ones are not theirs, as libjpeg sees it."""
    if marker == APP0:
        return content.startswith(JFIF) and len(content) >= 14
    if marker == APP1:
        return exif and content.startswith(EXIF)
    return marker == APP14 and content.startswith(ADOBE) and len(content) >= 12


def completed(data: bytes) -> bytes:
    """A JPEG that was cut off within a scan, with an end, so that it decodes; what is missing is gray."""
    return data.rstrip(b"\xff") + END


def missing_share(data: bytes, decode: Callable[[bytes], NDArray[np.uint8]]) -> float:
    """Share of the rows that a JPEG which was cut off has no data for; 1.0 where it has too little to show.

    Rows count as present with all their coefficients, be they of reduced precision, as in a progressive JPEG
    that lacks a part of its last refinements.

    Args:
        data: the file, which lacks its end.
        decode: from a whole JPEG to pixels [h, w, ...].
    """
    earlier, last = _coverage(data)
    if not last:
        return 1.0
    if earlier >= last:
        return 0.0
    if not _complete(data, earlier | last):
        return 1.0
    if _complete(data, earlier):  # the last scan only refines
        return 0.0
    # Bytes after the cut can change only the rows that the file has no data for.
    plain, filled = decode(completed(data)), decode(data.rstrip(b"\xff") + _FILLER + END)
    changed = (plain != filled).reshape(len(plain), -1).any(axis=1)
    return float(len(plain) - changed.argmax()) / len(plain) if changed.any() else 0.0


_Coefficients = set[tuple[int, int]]


def _coverage(data: bytes) -> tuple[_Coefficients, _Coefficients]:
    """(component, coefficient) pairs that all scans but the last one begin with, and those of the last."""
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
