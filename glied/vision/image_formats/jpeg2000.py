"""Header of JPEG 2000 codestreams: which of them Pillow decodes correctly, and the decoding work."""

import struct
from dataclasses import dataclass

_START = b"\xff\x4f\xff\x51"  # start of the codestream, followed by the segment of sizes
_CODING = 0x52
_TILE = 0x90
MOST_PACKETS = 5_000_000
"""Limit on tiles x layers x components; even an empty packet takes a fraction of a microsecond."""


@dataclass(frozen=True)
class Header:
    """The main header.

    Attributes:
        tiles: number of tiles.
        bits: bits per sample of each component.
        signed: whether a component has signed samples.
        layers: number of quality layers.
    """

    tiles: int
    bits: tuple[int, ...]
    signed: bool
    layers: int

    @property
    def packets(self) -> int:
        """Number of packets that a decoder processes per resolution."""
        return self.tiles * self.layers * len(self.bits)


def header(data: bytes) -> Header | None:
    """Parse the main header; None if it cannot be read."""
    start = data.find(_START)
    try:
        place = start + 4
        length, _, *sizes, components = struct.unpack_from(">HH8IH", data, place)
        width, height, _, _, tile_width, tile_height, tile_x, tile_y = sizes
        depths = data[place + 38 : place + 38 + 3 * components : 3]
        tiles = -(-(width - tile_x) // tile_width) * -(-(height - tile_y) // tile_height)
        bits = tuple((one & 0x7F) + 1 for one in depths)
        signed = any(one & 0x80 for one in depths)
        return Header(tiles, bits, signed, _layers(data, place + length))
    except (struct.error, IndexError, ZeroDivisionError):
        return None


def _layers(data: bytes, place: int) -> int:
    """Return the number of layers from the coding style segment of the main header."""
    while data[place] == 0xFF and data[place + 1] != _TILE:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _CODING:
            return int.from_bytes(data[place + 6 : place + 8], "big")
        place += 2 + max(length, 2)
    return 1


def not_decodable(found: Header) -> str | None:
    """Describe the variant if Pillow decodes it to wrong pixels.

    Above 8 bits it decodes only gray correctly.
    """
    wide = set(found.bits) == {8} or (len(found.bits) == 1 and found.bits[0] > 8)
    if wide and not found.signed:
        return None
    depth = " and ".join(map(str, sorted(set(found.bits))))
    return f"JPEG 2000 of {len(found.bits)} components of {depth} bits{', signed' if found.signed else ''}"
