"""Structure of PNG files: chunks that affect the pixels."""

import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE = 0, 2, 3
"""Color types that can have a transparent color."""
_TRANSPARENCY_BYTES = {GRAY: 2, RGB: 6}


@dataclass(frozen=True)
class Chunk:
    """A chunk, data[start:end], including length and checksum."""

    name: bytes
    start: int
    end: int

    @property
    def ancillary(self) -> bool:
        """Whether the image can be decoded without this chunk."""
        return bool(self.name[0] & 0x20)


def is_png(data: bytes) -> bool:
    """Whether the data starts like a PNG."""
    return data.startswith(SIGNATURE)


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks up to the end of the image; the last one may be truncated."""
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        yield Chunk(name, place, end)
        if name == b"IEND" or not name.isalpha():
            return
        place = end


def header(data: bytes) -> tuple[int, int] | None:
    """Return bits per sample and color type, or None if the header is missing."""
    return (data[24], data[25]) if len(data) > 25 and data[12:16] == b"IHDR" else None


def not_decodable(data: bytes) -> str | None:
    """Return the name of the PNG variant if the decoder does not support it, else None."""
    return "Apple's CgBI PNG" if is_png(data) and data[12:16] == b"CgBI" else None


def has_transparency(data: bytes) -> bool:
    """Whether there is a valid tRNS chunk before the pixels."""
    before = itertools.takewhile(lambda one: one.name != b"IDAT", chunks(data))
    return any(one.name == b"tRNS" and _is_sound(data, one) for one in before)


def without_metadata(data: bytes, *, exif: bool) -> bytes:
    """Remove ancillary chunks, except a valid tRNS and, with `exif`, a valid eXIf."""
    kept = (b"tRNS", b"eXIf") if exif else (b"tRNS",)
    parts, pixels = [SIGNATURE], False
    for one in chunks(data):
        whole = one.end <= len(data)
        pixels |= one.name == b"IDAT"
        # Keep a truncated chunk before the pixels, so that the decoder reports it.
        needed = not one.ancillary or not (whole or pixels)
        if needed or (whole and one.name in kept and _is_sound(data, one)):
            parts.append(data[one.start : one.end])
    return b"".join(parts)


def _is_sound(data: bytes, one: Chunk) -> bool:
    named = data[one.start + 4 : one.end - 4]
    if zlib.crc32(named) != int.from_bytes(data[one.end - 4 : one.end], "big"):
        return False
    if one.name != b"tRNS":
        return True
    color = (header(data) or (0, PALETTE))[1]
    return len(named) - 4 >= _TRANSPARENCY_BYTES.get(color, 0)
