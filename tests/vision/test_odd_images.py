"""Odd and damaged images, written byte by byte: exact pixels or the right error, and always quickly."""

import io
import struct
import sys
import time
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glied.errors import ImageError
from glied.vision.image_formats import signatures
from glied.vision.images import decode, read

HEIGHT, WIDTH = 12, 20
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
ROWS = b"".join(b"\0" + row.tobytes() for row in PIXELS)
SECONDS = 3.0
"""Maximum time for an image that requires too much work."""


def encoded(image: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def refusal(data: bytes, **options) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read(data, **options)
    return caught.value


def chunk(name: bytes, content: bytes = b"", *, crc: int = 0) -> bytes:
    """Return a chunk of a PNG whose checksum is wrong by `crc`."""
    checksum = zlib.crc32(name + content) ^ crc
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(
    samples: NDArray = PIXELS, depth: int = 8, color: int = 2, *, before: bytes = b"", after: bytes = b""
) -> bytes:
    """Return a PNG of samples [h, w, channels], with chunks before and after its pixels."""
    height, width, channels = samples.shape
    flat = samples.reshape(height, width * channels)
    if depth < 8:
        bits = np.unpackbits(flat.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        flat = np.packbits(bits.reshape(height, -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in flat.astype(">u2" if depth == 16 else np.uint8))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND")


MANY = zlib.compress(bytes(3_000_000))
TWO_FRAMES = chunk(b"acTL", struct.pack(">II", 2, 0))
ANCILLARY = {
    "iTXt of 3 MB": chunk(b"iTXt", b"workflow\0\1\0\0\0" + MANY),
    "iTXt that is XMP, 3 MB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MANY),
    "iTXt of plain 3 MB": chunk(b"iTXt", b"prompt\0\0\0\0\0" + b"x" * 3_000_000),
    "iTXt without its fields": chunk(b"iTXt", b"key"),
    "iTXt of a broken stream": chunk(b"iTXt", b"key\0\1\0\0\0" + MANY[:200]),
    "iTXt of an unknown method": chunk(b"iTXt", b"key\0\1\7\0\0" + MANY),
    "zTXt of 3 MB": chunk(b"zTXt", b"key\0\0" + MANY),
    "zTXt of an unknown method": chunk(b"zTXt", b"key\0\7" + MANY),
    "zTXt that is empty": chunk(b"zTXt"),
    "zTXt, many of 1 MB": chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(1_000_000))) * 80,
    "tEXt of 3 MB": chunk(b"tEXt", b"key\0" + b"x" * 3_000_000),
    "tEXt without a key": chunk(b"tEXt", b"\0"),
    "iCCP of 3 MB": chunk(b"iCCP", b"profile\0\0" + MANY),
    "iCCP of an unknown method": chunk(b"iCCP", b"profile\0\7" + MANY),
    "iCCP that is empty": chunk(b"iCCP"),
    "iCCP without an end of its name": chunk(b"iCCP", b"profile"),
    "cHRM cut": chunk(b"cHRM", bytes(7)),
    "gAMA cut": chunk(b"gAMA", b"\0"),
    "pHYs cut": chunk(b"pHYs", b"\0\0\1"),
    "pHYs without a unit": chunk(b"pHYs", bytes(8)),
    "sRGB empty": chunk(b"sRGB"),
    "tRNS cut": chunk(b"tRNS", b"\0"),
    "tRNS empty": chunk(b"tRNS"),
    "eXIf empty": chunk(b"eXIf"),
    "eXIf of nonsense": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "acTL cut": chunk(b"acTL", b"\0"),
    "acTL of no frames": chunk(b"acTL", bytes(8)),
    "fcTL out of order": chunk(b"acTL", struct.pack(">II", 2, 0))
    + chunk(b"fcTL", struct.pack(">I", 9) + bytes(22)),
    "fcTL beyond the image": chunk(b"acTL", struct.pack(">II", 2, 0))
    + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 999, 999, 0, 0, 1, 1, 0, 0)),
    "tIME cut": chunk(b"tIME", b"\0"),
    "unknown": chunk(b"zzZz", bytes(500)),
}
WITH_BAD_CHECKSUMS = {
    f"{name.decode()}, checksum": chunk(name, content, crc=1)
    for name, content in (
        (b"tEXt", b"key\0text"),
        (b"zTXt", b"key\0\0" + zlib.compress(b"text")),
        (b"iTXt", b"key\0\0\0\0\0text"),
        (b"pHYs", bytes(9)),
        (b"gAMA", bytes(4)),
        (b"cHRM", bytes(32)),
        (b"sRGB", b"\0"),
        (b"iCCP", b"p\0\0" + zlib.compress(bytes(100))),
        (b"tIME", bytes(7)),
        (b"bKGD", bytes(6)),
        (b"tRNS", b"".join(struct.pack(">H", value) for value in PIXELS[0, 0])),
        (b"eXIf", b"II*\0\x08\0\0\0\0\0"),
        (b"acTL", struct.pack(">II", 2, 0)),
        (b"zzZz", bytes(10)),
    )
}


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("name", ANCILLARY | WITH_BAD_CHECKSUMS)
def test_a_png_keeps_its_pixels_with_any_ancillary_chunks(name, where):
    odd = (ANCILLARY | WITH_BAD_CHECKSUMS)[name]
    data = png(before=odd) if where == "before" else png(after=odd)
    np.testing.assert_array_equal(decode(data), PIXELS)


def test_a_png_keeps_its_pixels_if_a_text_after_them_is_truncated():
    data = png(after=chunk(b"tEXt", b"key\0" + b"x" * 5000))
    np.testing.assert_array_equal(decode(data[:-3000]), PIXELS)


def test_a_png_keeps_its_orientation_and_its_transparency_beside_a_damaged_chunk():
    exif = Image.Exif()
    exif[0x0112] = 6
    transparent = chunk(b"tRNS", b"".join(struct.pack(">H", value) for value in PIXELS[0, 0]))
    odd = chunk(b"eXIf", exif.tobytes()) + transparent + WITH_BAD_CHECKSUMS["pHYs, checksum"]
    expected = PIXELS.copy()
    expected[(PIXELS[0, 0] == PIXELS).all(axis=2)] = 255
    np.testing.assert_array_equal(decode(png(before=odd)), np.rot90(expected, -1))


def test_damage_to_the_critical_chunks_of_a_png_is_refused():
    good = png()
    assert refusal(good[:30] + b"\1" + good[31:]).kind == "corrupt"
    palette = png(PIXELS[..., :1] % 2, 8, 3, before=chunk(b"PLTE", bytes(6), crc=1))
    assert refusal(palette).kind == "corrupt"


def test_an_icon_of_a_png_with_a_damaged_chunk():
    content = png(before=WITH_BAD_CHECKSUMS["pHYs, checksum"])
    entry = struct.pack("<BBBBHHII", WIDTH, HEIGHT, 0, 0, 1, 32, len(content), 22)
    np.testing.assert_array_equal(decode(b"\0\0\1\0\1\0" + entry + content), PIXELS)


def test_png_in_apples_variant_is_refused_by_name():
    data = png().replace(chunk(b"IDAT", zlib.compress(ROWS)), chunk(b"IDAT", zlib.compress(ROWS)[2:-4]))
    error = refusal(data[:8] + chunk(b"CgBI", bytes(4)) + data[8:])
    assert (error.kind, "CgBI" in error.message) == ("unsupported", True)


# Transparent colors


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_gray_is_white(depth):
    most = 2**depth - 1
    samples = np.random.default_rng(1).integers(0, most + 1, (HEIGHT, WIDTH, 1))
    gray = 3 * most // 5 or 1
    samples[2, 3] = gray
    expected = np.rint(samples * (255 / most))
    expected[samples == gray] = 255
    found = decode(png(samples, depth, 0, before=chunk(b"tRNS", struct.pack(">H", gray))))
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert found[2, 3].tolist() == [255] * 3


def test_a_transparent_color_of_16_bits_is_refused_if_it_occurs():
    samples = PIXELS.astype(np.uint16) * 257
    absent, present = (
        chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)),
        chunk(b"tRNS", samples[0, 0].astype(">u2").tobytes()),
    )
    np.testing.assert_array_equal(decode(png(samples, 16, 2, before=absent)), PIXELS)
    assert refusal(png(samples, 16, 2, before=present)).kind == "unsupported"


# JPEG


def segment(marker: int, content: bytes = b"") -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


JPEG = encoded(Image.fromarray(PIXELS).resize((80, 48)), "JPEG", quality=90)
SEGMENTS = {
    "APP14 of 5 bytes": segment(0xEE, b"Adobe"),
    "APP14 of 6 bytes": segment(0xEE, b"Adobe\0"),
    "APP14 of 11 bytes": segment(0xEE, b"Adobe\0\x64\0\0\0\0"),
    "APP14 of nothing": segment(0xEE),
    "APP14 of another": segment(0xEE, b"Other" * 5),
    "APP14 with length 0": b"\xff\xee\0\0",
    "APP0 of JFIF, cut": segment(0xE0, b"JFIF"),
    "APP0 of JFIF, cut later": segment(0xE0, b"JFIF\0\1"),
    "APP1 of nothing": segment(0xE1),
    "APP1 of EXIF, cut": segment(0xE1, b"Exif\0\0II"),
    "APP1 of EXIF, nonsense": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff nonsense"),
    "APP1 of XMP, cut": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmp"),
    "APP2 of a profile, cut": segment(0xE2, b"ICC_PROFILE\0"),
    "APP2 of a profile, part 9 of 2": segment(0xE2, b"ICC_PROFILE\0\x09\x02profile"),
    "APP2 of several pictures, nonsense": segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
    "APP2 of several pictures, nothing": segment(0xE2, b"MPF\0"),
    "APP13 of Photoshop, cut": segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\x10"),
    "APP13 of Photoshop, short resolution": segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\2\0\0"),
    "COM of nothing": segment(0xFE),
    "COM with length 0": b"\xff\xfe\0\0",
    "COM of zeros": segment(0xFE, bytes(60_000)),
    "APP15 of markers": segment(0xEF, b"\xff\xda\xff\xd9\xff\xc0" * 900),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SEGMENTS)
def test_a_jpeg_keeps_its_pixels_with_any_other_segments(name):
    np.testing.assert_array_equal(decode(JPEG[:2] + SEGMENTS[name] + JPEG[2:]), decode(JPEG))
    after_jfif = 20
    np.testing.assert_array_equal(
        decode(JPEG[:after_jfif] + SEGMENTS[name] + JPEG[after_jfif:]), decode(JPEG)
    )


def test_a_jpeg_keeps_orientation_and_color_coding_beside_a_damaged_segment():
    exif = Image.Exif()
    exif[0x0112] = 6
    for options in ({"exif": exif}, {"keep_rgb": True}, {"exif": exif, "keep_rgb": True}):
        data = encoded(Image.fromarray(PIXELS), "JPEG", **options)
        np.testing.assert_array_equal(
            decode(data[:2] + SEGMENTS["APP14 of 5 bytes"] + data[2:]), decode(data)
        )


def of_kind(marker: int, bits: int = 8) -> bytes:
    frame = JPEG.index(b"\xff\xc0")
    return (
        JPEG[: frame + 1] + bytes([marker]) + JPEG[frame + 2 : frame + 4] + bytes([bits]) + JPEG[frame + 5 :]
    )


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (of_kind(0xC1, 12), "12-bit JPEG"),
        (of_kind(0xC0, 12), "12-bit JPEG"),
        (of_kind(0xC3), "lossless JPEG"),
        (of_kind(0xC3, 16), "lossless JPEG"),
        (of_kind(0xC5), "hierarchical JPEG"),
        (of_kind(0xCB), "arithmetic lossless JPEG"),
        (of_kind(0xF7), "JPEG-LS"),
    ],
)
def test_unsupported_kinds_of_jpeg_are_named(data, name):
    error = refusal(data)
    assert (error.kind, error.message) == ("unsupported", name)


# WebP


def webp_cases() -> dict[str, bytes]:
    """Return the same image with damaged metadata, by kind of damage."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(PIXELS), "WEBP", lossless=True, exif=exif, xmp=b"<x:xmpmeta>" * 9)
    place = data.index(b"EXIF") + 4
    sizes = {"too large": 1 << 30, "too small": 2, "zero": 0}
    cases = {
        f"size of EXIF {name}": data[:place] + struct.pack("<I", size) + data[place + 4 :]
        for name, size in sizes.items()
    }
    cases["cut within XMP"] = data[:-20]
    return cases


@pytest.mark.parametrize("name", webp_cases())
def test_a_webp_keeps_its_pixels_with_any_metadata(name):
    found = decode(webp_cases()[name])
    turned = name == "cut within XMP"  # if EXIF is complete
    np.testing.assert_array_equal(found, np.rot90(PIXELS, -1) if turned else PIXELS)


# TIFF


def tiff(
    samples: NDArray,
    photometric: int,
    *,
    bits: int,
    order: str = "<",
    form: int = 1,
    planes: bool = False,
    zipped: bool = False,
    more: dict[int, list[int]] | None = None,
) -> bytes:
    """Return a TIFF of one strip, or one per plane, with samples [h, w, channels] of any byte width."""
    height, width, channels = samples.shape
    parts = [samples[..., index] for index in range(channels)] if planes else [samples]
    strips = [part.astype(samples.dtype.newbyteorder(order)).tobytes() for part in parts]
    if bits in (1, 2, 4, 12):
        rows = samples.reshape(height, -1)
        fields = (rows[..., None] >> np.arange(bits)[::-1]) & 1
        strips = [np.packbits(fields.reshape(height, -1).astype(np.uint8), axis=1).tobytes()]
    if zipped:
        strips = [zlib.compress(strip) for strip in strips]
    values = {
        256: [width],
        257: [height],
        258: [bits] * channels,
        259: [8 if zipped else 1],
        262: [photometric],
        277: [channels],
        278: [height],
        279: [len(strip) for strip in strips],
        284: [2 if planes else 1],
        339: [form] * channels,
        **(more or {}),
    }
    start = 8 + 2 + 12 * (len(values) + 1) + 4
    places = [start + sum(map(len, strips[:index])) for index in range(len(strips))]
    extra = start + sum(map(len, strips))
    values[273] = places
    entries, tail = b"", b""
    for tag, numbers in sorted(values.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(packed) > 4:
            packed, tail = struct.pack(f"{order}I", extra + len(tail)), tail + packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
    signature = b"II*\0" if order == "<" else b"MM\0*"
    head = signature + struct.pack(f"{order}IH", 8, len(values)) + entries + bytes(4)
    return head + b"".join(strips) + tail


def tiff_cases() -> dict[str, tuple[bytes, NDArray]]:
    """Return files by name, each with its correct pixels."""
    random = np.random.default_rng(2)
    cases = {}
    kinds = [(bits, 1, np.dtype(f"u{max(1, bits // 8)}")) for bits in (1, 2, 4, 8, 16, 32)]
    kinds += [(12, 1, np.dtype("u2"))]
    kinds += [(bits, 2, np.dtype(f"i{bits // 8}")) for bits in (8, 16, 32)]
    kinds += [(bits, 3, np.dtype(f"f{bits // 8}")) for bits in (16, 32, 64)]
    for bits, form, dtype in kinds:
        most = {1: 2**bits - 1, 2: 2 ** (bits - 1) - 1, 3: 1}[form]
        for color, photometric, channels in (("white", 0, 1), ("black", 1, 1), ("rgb", 2, 3), ("cmyk", 5, 4)):
            samples = (
                (random.random((HEIGHT, 24, channels)) * most).round(3 if form == 3 else 0).astype(dtype)
            )
            if channels == 4:
                samples[..., 3] = 0
            right = samples.astype(np.float64) * (255 / most)
            right = 255 - right if color in ("white", "cmyk") else right
            for order in "<>":
                for planes in (False, True) if channels > 1 and bits >= 8 else (False,):
                    for zipped in (False, True):
                        if bits in (1, 2, 4, 12) and channels > 1:
                            continue
                        name = (
                            f"{color} {bits}-bit {'?uif'[form]} {order}{' planes' * planes}{' zip' * zipped}"
                        )
                        data = tiff(
                            samples,
                            photometric,
                            bits=bits,
                            order=order,
                            form=form,
                            planes=planes,
                            zipped=zipped,
                        )
                        cases[name] = data, right[..., :3]
    return cases


TIFFS = tiff_cases()
MUST_BE_READ = (
    "white 16-bit u <",
    "black 16-bit u",
    "rgb 8-bit u",
    "rgb 16-bit u <",
    "black 1-bit",
    "black 8-bit u",
)


@pytest.mark.parametrize("name", TIFFS)
def test_a_tiff_has_the_right_pixels_or_is_refused(name):
    data, right = TIFFS[name]
    try:
        found, refused = decode(data), ""
    except ImageError as error:
        found, refused = right, str(error)
    assert np.abs(found - right).max() <= 1
    assert not refused or refused.startswith("unsupported: TIFF: ")
    assert not refused or "planes" in name or not name.startswith(MUST_BE_READ)
    assert refused or name.split()[2] == "u"


def test_unsupported_tiffs_are_refused_with_the_reason():
    data, _ = TIFFS["rgb 32-bit f <"]
    assert refusal(data).message == "TIFF: 32-bit float samples, RGB"
    data, _ = TIFFS["rgb 16-bit u > planes"]
    assert refusal(data).message == "TIFF: 16-bit samples, RGB, in planes"


def test_a_raw_photograph_is_refused_instead_of_read_as_its_thumbnail():
    samples = PIXELS[..., :1]
    layout = {"bits": 8, "order": "<", "form": 1, "planes": False, "zipped": False}
    thumbnail = {254: [1], 330: [8]}
    error = refusal(tiff(samples, 1, **layout, more=thumbnail))
    assert (error.kind, "DNG" in error.message) == ("unsupported", True)
    for tags in ({254: [1]}, {254: [0], 330: [8]}):  # only a reduced image; an image with smaller ones
        found = decode(tiff(samples, 1, **layout, more=tags))
        np.testing.assert_array_equal(found, np.repeat(samples, 3, axis=2))


# JPEG 2000 and Netpbm


@pytest.mark.parametrize(
    ("mode", "depth", "message"),
    [
        ("RGB", 15, "JPEG 2000 of 3 components of 16 bits"),
        ("RGB", 11, "JPEG 2000 of 3 components of 12 bits"),
        ("L", 3, "JPEG 2000 of 1 components of 4 bits"),
        ("L", 0x80 | 7, "JPEG 2000 of 1 components of 8 bits, signed"),
    ],
)
def test_depths_of_jpeg_2000_that_pillow_decodes_incorrectly_are_refused(mode, depth, message):
    data = bytearray(encoded(Image.fromarray(PIXELS).convert(mode), "JPEG2000", no_jp2=True))
    sizes = data.index(b"\xff\x51") + 40
    for component in range(len(mode)):
        data[sizes + 3 * component] = depth
    error = refusal(bytes(data))
    assert (error.kind, error.message) == ("unsupported", message)


def test_dark_images_of_16_bits_stay_dark():
    samples = np.arange(200, dtype=">u2").reshape(10, 20)
    assert decode(b"P5 20 10 65535\n" + samples.tobytes()).max() == 1
    assert decode(png(samples[..., None], 16, 0)).max() == 1


def test_a_float_image_is_refused():
    data = b"Pf\n4 4\n-1.0\n" + np.zeros(16, "<f4").tobytes()
    assert refusal(data).kind == "unsupported"


# Unsupported formats


def tga(kind: int, bits: int, *, map_bits: int = 0) -> bytes:
    header = struct.pack(
        "<BBBHHBHHHHBB", 0, bool(map_bits), kind, 0, 16 * bool(map_bits), map_bits, 0, 0, 4, 4, bits, 0
    )
    return header + bytes(200)


NAMED = {
    "JPEG XL": b"\xff\x0a" + bytes(40),
    "JPEG XL box": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
    "Photoshop": b"8BPS\0\1" + bytes(40),
    "OpenEXR": b"v/1\x01\2\0\0\0" + bytes(40),
    "DDS": b"DDS \x7c\0\0\0" + bytes(200),
    "JPEG XR": b"II\xbc\x01" + bytes(40),
    "Radiance": b"#?RADIANCE\n" + bytes(40),
    "PFM": b"PF\n4 4\n-1.0\n" + bytes(200),
    "QOI": b"qoif" + bytes(40),
    "GIMP": b"gimp xcf v011" + bytes(40),
    "DjVu": b"AT&TFORM" + bytes(40),
    "FITS": b"SIMPLE  =                    T" + bytes(40),
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(40),
    "TGA": tga(2, 24),
    "TGA gray": tga(11, 8),
    "TGA palette": tga(1, 8, map_bits=24),
    "TGA footer": bytes(300) + b"\0" * 8 + b"TRUEVISION-XFILE.\0",
}


@pytest.mark.parametrize("name", NAMED)
def test_unsupported_formats_are_named(name):
    error = refusal(NAMED[name])
    assert error.kind == "unsupported"
    assert name.split(" box")[0].split()[0] in error.message


@pytest.mark.parametrize(
    "brands", [b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heix", b"mif1\0\0\0\0mif1miaf"]
)
def test_heic_without_its_library_is_named_with_the_extra_to_install(monkeypatch, brands):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    signatures.heif_is_read.cache_clear()
    error = refusal(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(100))
    signatures.heif_is_read.cache_clear()
    assert error.kind == "unsupported"
    assert error.message.startswith("HEI")
    assert ".[heif]" in error.message


@pytest.mark.parametrize("alpha", [False, True])
def test_heic_with_its_library_is_decoded(alpha):
    heif = pytest.importorskip("pillow_heif")
    ramp = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp, 255 - ramp, ramp // 2], axis=2))
    if alpha:
        image.putalpha(Image.new("L", image.size, 0))
    stream = io.BytesIO()
    heif.from_pillow(image).save(stream, quality=95)
    found = decode(stream.getvalue())
    expected = np.full((64, 96, 3), 255) if alpha else np.asarray(image).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 12
    assert refusal(stream.getvalue(), max_pixels=64 * 96 - 1).kind == "too_large"
    assert refusal(stream.getvalue()[:200]).kind in ("corrupt", "truncated")


# Files that require too much work


def timed_refusal(data: bytes) -> ImageError:
    start = time.monotonic()
    error = refusal(data)
    assert time.monotonic() - start < SECONDS
    return error


def many_scans(data: bytes, count: int, size: tuple[int, int] | None = None) -> bytes:
    """Return a JPEG that repeats its first scan `count` times."""
    frame = next(data.index(bytes([0xFF, kind])) for kind in (0xC2, 0xC0) if bytes([0xFF, kind]) in data)
    if size:
        data = data[: frame + 5] + struct.pack(">HH", *size) + data[frame + 9 :]
    scan = data.index(b"\xff\xda")
    (length,) = struct.unpack_from(">H", data, scan + 2)
    return data[:scan] + (data[scan : scan + 2 + length] + bytes(20)) * count + data[scan:]


PROGRESSIVE = encoded(Image.fromarray(PIXELS), "JPEG", progressive=True)


@pytest.mark.parametrize(("count", "side"), [(2000, 10_000), (2000, 4000), (200, 10_000), (30_000, 1000)])
def test_a_jpeg_of_too_many_scans_is_refused_at_once(count, side):
    error = timed_refusal(many_scans(PROGRESSIVE, count, (side, side)))
    assert error.kind == "too_large"
    assert "scans" in error.message


def test_many_scans_of_few_pixels_and_the_usual_scans_of_many_are_decoded():
    assert decode(many_scans(PROGRESSIVE, 200)).shape == PIXELS.shape
    assert decode(encoded(Image.fromarray(PIXELS), "JPEG", progressive=True), max_pixels=HEIGHT * WIDTH).shape
    thumbnail = segment(0xE1, many_scans(PROGRESSIVE, 900)[:60_000])
    limits = {"max_pixels": 80 * 48}
    np.testing.assert_array_equal(decode(JPEG[:2] + thumbnail + JPEG[2:], **limits), decode(JPEG))


def tiled(width: int, height: int, tile: tuple[int, int], count: int, *, compression: int = 8) -> bytes:
    """Return a TIFF whose tiles all have the same few bytes."""
    content = zlib.compress(bytes(1000)) if compression == 8 else many_scans(PROGRESSIVE, 2000, tile[::-1])
    values = {256: [width], 257: [height], 258: [8], 259: [compression], 262: [1], 277: [1], 322: [tile[0]]}
    values |= {323: [tile[1]], 324: [8] * count, 325: [len(content)] * count}
    start = 8 + len(content)
    tail = start + 2 + 12 * len(values) + 4
    entries, extra = b"", b""
    for tag, numbers in sorted(values.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", tail + len(extra)), extra + packed
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + packed
    directory = struct.pack("<H", len(values)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + content + directory + extra


def test_a_tiff_of_tiles_beyond_the_image_is_refused_at_once():
    error = timed_refusal(tiled(65_000, 16, (16, 60_000), 4_063))
    assert (error.kind, "tiles" in error.message) == ("too_large", True)


def test_a_tiff_of_jpegs_of_many_scans_is_refused_at_once():
    error = timed_refusal(tiled(8000, 8000, (8000, 8000), 1, compression=7))
    assert (error.kind, "scans" in error.message) == ("too_large", True)


def test_a_tiff_of_many_jpegs_is_decoded():
    image = photograph(2400, 300)
    data = encoded(image, "TIFF", compression="jpeg", quality=95, strip_size=300 * 3 * 16)
    assert data.count(b"\xff\xda") > 100
    found = decode(data, max_pixels=2400 * 300)
    assert np.abs(found.astype(int) - np.asarray(image)).mean() < 12


def test_a_jpeg_2000_of_too_many_layers_is_refused_at_once():
    data = encoded(Image.new("L", (1000, 1000)), "JPEG2000", no_jp2=True, tile_size=(8, 8))
    place = data.index(b"\xff\x52") + 6
    error = timed_refusal(data[:place] + b"\xff\xff" + data[place + 2 :])
    assert (error.kind, "packets" in error.message) == ("too_large", True)


def test_large_images_with_pixels_as_text_are_refused():
    error = timed_refusal(b"P3 4000 4000 255\n" + b"1 " * 1000)
    assert (error.kind, "text" in error.message) == ("too_large", True)


def test_a_png_that_unpacks_to_more_than_its_pixels_is_decoded_at_once():
    packer = zlib.compressobj()
    stream = (
        packer.compress(ROWS) + b"".join(packer.compress(bytes(1 << 24)) for _ in range(30)) + packer.flush()
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0))
    start = time.monotonic()
    found = decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", stream) + chunk(b"IEND"))
    assert time.monotonic() - start < SECONDS
    np.testing.assert_array_equal(found, PIXELS)


# Truncated JPEGs


def photograph(height: int = 240, width: int = 160) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(3).integers(0, 40, (height, width))
    channels = [y * 200 // height + noise, x * 200 // width + noise, noise * 5]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_a_truncated_jpeg_has_the_pixels_of_its_complete_rows(options, share):
    data = encoded(photograph(), "JPEG", quality=90, **options)
    cut = data[: int(len(data) * share)]
    assert refusal(cut).kind == "truncated"
    picture = read(cut, missing_rows=0.6)
    assert abs(picture.missing_rows / 240 - (1 - share)) < 0.1
    there = 240 - picture.missing_rows - 16  # chroma is smoothed across the border of a block
    np.testing.assert_array_equal(picture.pixels[:there], decode(data)[:there])
    assert (picture.pixels[-1, -1] == 128).all()
    limit = picture.missing_rows / 240
    assert refusal(cut, missing_rows=limit * 0.9).kind == "truncated"
    assert read(cut, missing_rows=limit * 1.1).missing_rows == picture.missing_rows


def test_a_jpeg_that_lacks_only_its_end_marker_has_all_rows():
    data = encoded(photograph(), "JPEG")
    for cut in (data[:-1], data[:-2]):
        picture = read(cut, missing_rows=0.001)
        np.testing.assert_array_equal(picture.pixels, decode(data))
        assert picture.missing_rows == 0


def test_a_truncated_progressive_jpeg_is_accepted_if_only_refinements_are_missing():
    data = encoded(photograph(), "JPEG", progressive=True, quality=90)
    scans = [place for place in range(len(data)) if data.startswith(b"\xff\xda", place)]
    late = read(data[: scans[-1] + 200], missing_rows=0.01)
    assert late.missing_rows == 0
    assert np.abs(late.pixels.astype(int) - decode(data)).mean() < 10
    assert (
        refusal(data[: scans[1] + 20], missing_rows=0.9).kind == "truncated"
    )  # only the 8 x 8 blocks so far


def test_a_truncated_jpeg_that_is_rotated_or_shrunk():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photograph(3200, 1600), "JPEG", exif=exif)
    picture = read(data[: int(len(data) * 0.9)], missing_rows=0.2, resolution=(400, 800))
    assert (picture.width, picture.height) == (3200, 1600)
    assert picture.pixels.shape == (400, 800, 3)
    assert abs(picture.missing_rows - 320) < 100
    assert (picture.pixels[:, :10] == 128).all()  # the stored bottom is the left side


def test_other_truncated_formats_are_refused():
    for form in ("PNG", "GIF", "WEBP"):
        data = encoded(photograph(), form)
        assert refusal(data[: len(data) * 9 // 10], missing_rows=0.5).kind == "truncated"
    assert refusal(JPEG[:300], missing_rows=0.9).kind in ("truncated", "corrupt")
