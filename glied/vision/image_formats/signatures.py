"""Detection of image formats by their first bytes, to reject unsupported ones by name."""

import functools
import struct

from PIL import features

from glied.vision.image_formats import jpeg, png

_SIGNATURES = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"8BPS", "Photoshop (PSD)"),
    (b"v/1\x01", "OpenEXR"),
    (b"DDS ", "DirectDraw Surface (DDS)"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"PF\n", "portable float map (PFM)"),
    (b"Pf\n", "portable float map (PFM)"),
    (b"qoif", "QOI"),
    (b"gimp xcf ", "GIMP (XCF)"),
    (b"icns", "Apple icon (ICNS)"),
    (b"BPG\xfb", "BPG"),
    (b"FLIF", "FLIF"),
    (b"AT&TFORM", "DjVu"),
    (b"\x97JB2\r\n\x1a\n", "JBIG2"),
    (b"\x8aMNG\r\n\x1a\n", "MNG"),
    (b"\x8bJNG\r\n\x1a\n", "JNG"),
    (b"\x59\xa6\x6a\x95", "Sun raster"),
    (b"\x01\xda\x00\x01", "SGI"),
    (b"\x01\xda\x01\x01", "SGI"),
    (b"SIMPLE  =", "FITS"),
    (b"\xd7\xcd\xc6\x9a", "Windows metafile (WMF)"),
    (b"FUJIFILMCCD-RAW", "raw photograph (RAF)"),
    (b"IIRO", "raw photograph (ORF)"),
    (b"IIRS", "raw photograph (ORF)"),
    (b"IIU\0", "raw photograph (RW2)"),
    (b"FOVb", "raw photograph (X3F)"),
)
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF = (b"avif", b"avis")
_HEIF = (b"mif1", b"msf1", b"mif2", b"miaf")
_TGA_FOOTER = b"TRUEVISION-XFILE."
_TGA_TYPES = {1: (8, 16), 2: (15, 16, 24, 32), 3: (8, 16)}  # bits of a pixel; 9 to 11 are these compressed


def unsupported(data: bytes) -> str | None:
    """Return the name of the format if it is not supported, with a remedy if there is one; else None."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    kind = _heif_kind(data)
    if kind == "CR3":
        return "raw photograph (CR3)"
    if kind is not None:
        return _without_decoder(kind)
    return kind_not_decodable(data) or ("Truevision (TGA)" if _is_tga(data) else None)


def kind_not_decodable(data: bytes) -> str | None:
    """Return the name of the JPEG or PNG variant if it is not supported, else None."""
    return jpeg.not_decodable(data) or png.not_decodable(data)


def is_heif(data: bytes) -> bool:
    """Whether the data is HEIC, AVIF or another HEIF image."""
    return _heif_kind(data) in ("HEIC", "HEIF", "AVIF")


@functools.cache
def heif_is_read() -> bool:
    """Register HEIF with Pillow; return whether HEIC can be decoded."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def _heif_kind(data: bytes) -> str | None:
    """Return HEIC, AVIF, HEIF (another coding) or CR3, or None for other data, such as videos."""
    if data[4:8] != b"ftyp":
        return None
    length = int.from_bytes(data[:4], "big")
    brands = [data[8:12], *(data[place : place + 4] for place in range(16, min(length, 256, len(data)), 4))]
    for known, kind in ((_AVIF, "AVIF"), (_HEIC, "HEIC"), (_HEIF, "HEIF"), ((b"crx ",), "CR3")):
        if any(brand in known for brand in (brands if kind in ("AVIF", "HEIC") else brands[:1])):
            return kind
    return None


def _without_decoder(kind: str) -> str | None:
    """Return the name of HEIC or AVIF with the remedy if its decoder is missing, else None."""
    if kind == "AVIF":
        return None if features.check("avif") else "AVIF (this Pillow was built without it)"
    return None if heif_is_read() else f'{kind} (pip install -e ".[heif]" adds it)'


def _is_tga(data: bytes) -> bool:
    """Whether header or footer look like TGA, which has no leading signature."""
    if data[-18:-1] == _TGA_FOOTER:
        return True
    if len(data) <= 18:
        return False
    _, has_map, kind, _, map_length, map_bits, _, _, width, height, bits, flags = struct.unpack_from(
        "<BBBHHBHHHHBB", data
    )
    mapped = kind & 7 == 1
    map_is_sound = (
        map_bits in (15, 16, 24, 32) and map_length > 0 if mapped else (map_length, map_bits) == (0, 0)
    )
    return (
        kind in (1, 2, 3, 9, 10, 11)
        and has_map == mapped
        and map_is_sound
        and bits in _TGA_TYPES[kind & 7]
        and width > 0
        and height > 0
        and flags & 0xC0 == 0
    )
