"""Structure of WebP files: chunks that affect the pixels."""

import struct
from collections.abc import Iterator

_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_EXTENDED, _EXIF = b"VP8X", b"EXIF"
_ALPHA, _ANIMATION, _HAS_EXIF = 0x10, 0x02, 0x08


def is_webp(data: bytes) -> bool:
    """Whether the data starts like a WebP."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def without_metadata(data: bytes, *, exif: bool) -> bytes:
    """Remove metadata, except EXIF with `exif`; returns `data` unchanged if its pixels are truncated."""
    end = int.from_bytes(data[4:8], "little") + 8
    parts = []
    for name, content in _chunks(data[:end]):
        if name in _PIXELS or (exif and name == _EXIF):
            parts.append(_chunk(name, content))
        elif name == _EXTENDED and content:
            flags = content[0] & (_ALPHA | _ANIMATION | (_HAS_EXIF if exif else 0))
            parts.append(_chunk(name, bytes([flags]) + content[1:]))
    body = b"WEBP" + b"".join(parts)
    has_pixels = any(part.startswith((b"VP8 ", b"VP8L", b"ANMF")) for part in parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body if has_pixels else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of the complete chunks."""
    place = 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        if place + 8 + size > len(data):
            return
        yield name, data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
