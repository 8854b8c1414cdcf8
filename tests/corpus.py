"""A corpus of image files: odd but good ones, broken ones, bombs, and files that are not images."""

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageCms, features

SIZE = WIDTH, HEIGHT = 48, 32
CORNERS = {"red": (220, 30, 30), "green": (40, 200, 60), "blue": (30, 40, 190), "white": (255, 255, 255)}
"""Colors of the image's quarters in reading order, which every good file has in color or gray."""

ORIENTATION = 0x0112
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How to store an upright image for each EXIF orientation."""


@dataclass(frozen=True)
class Expectation:
    """The expected result of decoding a file.

    Attributes:
        status: "ok", "rejected", or "any" if both are acceptable.
        kind: kind of the `ImageError` if rejected; None for any.
        size: width and height of the upright image if ok.
    """

    status: Literal["ok", "rejected", "any"]
    kind: str | None = None
    size: tuple[int, int] | None = None


Files = dict[str, tuple[bytes, Expectation]]
ANY = Expectation("any")


def write_corpus(folder: Path) -> dict[str, Expectation]:
    """Write every file into `folder`, with the same bytes each time.

    Files whose names start with "bomb" must be refused by their headers.

    Returns:
        The expected result of each file by its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups: tuple[Callable[[], Files], ...] = (
        _orientations,
        _jpegs,
        _pngs,
        _animations,
        _tiffs,
        _other_formats,
        _metadata,
        _names,
        _no_images,
        _truncated,
        _broken_pngs,
        _broken_others,
        _bombs,
    )
    files: Files = {}
    for group in groups:
        made = group()
        assert not files.keys() & made.keys()
        files |= made
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    return {name: expectation for name, (_, expectation) in files.items()}


def picture(mode: str = "RGB") -> Image.Image:
    """Make an image of four colored quarters with a little noise, in a mode of Pillow."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.int16)
    for index, color in enumerate(CORNERS.values()):
        top, left = index // 2 * HEIGHT // 2, index % 2 * WIDTH // 2
        pixels[top : top + HEIGHT // 2, left : left + WIDTH // 2] = color
    pixels += np.random.default_rng(0).integers(-8, 9, pixels.shape, dtype=np.int16)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if mode.endswith("A"):  # the white quarter is transparent black here
        image.paste((0, 0, 0), (WIDTH // 2, HEIGHT // 2, WIDTH, HEIGHT))
        image.putalpha(Image.new("L", SIZE, 255))
        image.paste((0, 0, 0, 0), (WIDTH // 2, HEIGHT // 2, WIDTH, HEIGHT))
    return image if image.mode == mode else image.convert(mode, dither=Image.Dither.NONE)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _ok(data: bytes, size: tuple[int, int] = SIZE) -> tuple[bytes, Expectation]:
    return data, Expectation("ok", size=size)


def _bad(kind: str | None, data: bytes) -> tuple[bytes, Expectation]:
    return data, Expectation("rejected", kind=kind)


# Good but odd


def _orientations() -> Files:
    files = {}
    for orientation in range(1, 9):
        files[f"orientation-{orientation}.jpg"] = _ok(_turned("JPEG", orientation))
    for kind, extension in (("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
        files[f"orientation-6.{extension}"] = _ok(_turned(kind, 6))
    files["orientation-0.jpg"] = _ok(encode(picture(), "JPEG", exif=_exif(0)))
    files["orientation-99.jpg"] = _ok(encode(picture(), "JPEG", exif=_exif(99)))
    text = b"Exif\0\0II*\0" + struct.pack("<IHHHI4sI", 8, 1, ORIENTATION, 2, 4, b"top\0", 0)
    files["orientation-text.jpg"] = _ok(encode(picture(), "JPEG", exif=text))
    return files


def _turned(kind: str, orientation: int) -> bytes:
    transpose = TRANSPOSES.get(orientation)
    stored = picture() if transpose is None else picture().transpose(transpose)
    return encode(stored, kind, exif=_exif(orientation))


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def _jpegs() -> Files:
    frames = {"save_all": True, "append_images": [picture().rotate(180)]}
    plain = encode(picture(), "JPEG")
    return {
        "progressive.jpg": _ok(encode(picture(), "JPEG", progressive=True)),
        "gray.jpg": _ok(encode(picture("L"), "JPEG")),
        "subsampled.jpg": _ok(encode(picture(), "JPEG", subsampling="4:1:1", quality=40)),
        "restarts.jpg": _ok(encode(picture(), "JPEG", restart_marker_blocks=1)),
        "rgb-components.jpg": _ok(encode(picture(), "JPEG", keep_rgb=True)),
        "cmyk-adobe-inverted.jpg": _ok(encode(picture("CMYK"), "JPEG", quality=95)),
        "cmyk-without-adobe.jpg": _ok(_without_segment(encode(picture("CMYK"), "JPEG"), 0xEE)),
        "ycck.jpg": _ok(_ycck()),
        "two-pictures.mpo.jpg": _ok(encode(picture(), "MPO", **frames)),
        "garbage-after-end.jpg": _ok(plain + bytes(range(256)) * 20),
        "two-in-one.jpg": _ok(plain + encode(Image.new("RGB", (9, 9)), "JPEG")),
        "without-jfif.jpg": _ok(_without_segment(plain, 0xE0)),
        "fill-bytes.jpg": _ok(plain[:2] + b"\xff" * 9 + plain[2:]),
    }


def _ycck() -> bytes:
    """Return a JPEG in Adobe's YCCK, which Pillow cannot write: luma and chroma saved as C, M and Y."""
    black = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)  # no ink, because Adobe stores it inverted
    # R = 255 - C, and C is inverted once more, so the negative colors are stored.
    negative = 255 - np.asarray(picture()).astype(np.int16)
    luma_chroma = np.asarray(Image.fromarray(negative.astype(np.uint8)).convert("YCbCr"))
    stored = np.concatenate([luma_chroma, black], axis=2)
    data = encode(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=95)
    adobe = data.index(b"Adobe")
    return data[: adobe + 11] + b"\2" + data[adobe + 12 :]


def _without_segment(data: bytes, marker: int) -> bytes:
    """Remove the first segment of a kind from a JPEG."""
    start = data.index(bytes([0xFF, marker]))
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    return data[:start] + data[start + 2 + length :]


def _pngs() -> Files:
    gray = np.asarray(picture("L")).astype(np.uint16) * 257
    rgb = np.asarray(picture()).astype(">u2") * 257
    rgba = np.concatenate([rgb, np.full((HEIGHT, WIDTH, 1), 65535, ">u2")], axis=2)
    palette = picture("RGBA").quantize(16)
    return {
        "gray-16-bit.png": _ok(encode(Image.fromarray(gray), "PNG")),
        "rgb-16-bit.png": _ok(_png(WIDTH, HEIGHT, rgb, depth=16)),
        "rgba-16-bit.png": _ok(_png(WIDTH, HEIGHT, rgba, depth=16, color=6)),
        "interlaced.png": _ok(_interlaced()),
        "one-bit.png": _ok(encode(picture("1"), "PNG")),
        "palette.png": _ok(encode(picture("P"), "PNG")),
        "palette-2-bit.png": _ok(encode(picture().quantize(4), "PNG", bits=2)),
        "palette-transparent.png": _ok(encode(palette, "PNG")),
        "gray-transparent.png": _ok(encode(picture("L"), "PNG", transparency=255)),
        "rgb-transparent.png": _ok(encode(picture(), "PNG", transparency=(255, 255, 255))),
        "gray-alpha.png": _ok(encode(picture("LA"), "PNG")),
        "rgba.png": _ok(encode(picture("RGBA"), "PNG")),
        "one-pixel.png": _ok(encode(Image.new("RGB", (1, 1), "red"), "PNG"), (1, 1)),
        "one-pixel.jpg": _ok(encode(Image.new("L", (1, 1)), "JPEG"), (1, 1)),
        "one-pixel.gif": _ok(encode(Image.new("P", (1, 1)), "GIF"), (1, 1)),
        "tall.png": _ok(encode(Image.new("RGB", (1, 4000), "green"), "PNG"), (1, 4000)),
        "wide.jpg": _ok(encode(Image.new("RGB", (4000, 1), "green"), "JPEG"), (4000, 1)),
        "garbage-after-end.png": _ok(encode(picture(), "PNG") + b"\0garbage" * 50),
        "unknown-chunk.png": _ok(_png_with(_chunk(b"prVt", bytes(100)))),
    }


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(
    width: int,
    height: int,
    rows: np.ndarray | None = None,
    *,
    depth: int = 8,
    color: int = 2,
    interlaced: bool = False,
    pixels: bytes | None = None,
) -> bytes:
    """Write a PNG; without rows and pixels it has a few zeros as pixels, independent of its size."""
    if rows is not None:
        pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    data = zlib.compress(bytes(100) if pixels is None else pixels)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _png_with(chunks: bytes, *, at: bytes = b"IDAT") -> bytes:
    """Return a good PNG with chunks inserted before its first one of a kind."""
    data = encode(picture(), "PNG")
    place = data.index(at) - 4
    return data[:place] + chunks + data[place:]


def _interlaced() -> bytes:
    pixels = np.asarray(picture())
    steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = [pixels[top::down, left::right] for top, left, down, right in steps]
    rows = b"".join(b"\0" + row.tobytes() for one in passes for row in one)
    return _png(WIDTH, HEIGHT, pixels=rows, interlaced=True)


def _animations() -> Files:
    frames: dict = {"save_all": True, "append_images": [picture().rotate(180), picture("L").convert("RGB")]}
    small = Image.new("RGB", (10, 8), "red")
    return {
        "animated.gif": _ok(encode(picture(), "GIF", duration=40, loop=0, **frames)),
        "animated.webp": _ok(encode(picture(), "WEBP", duration=40, **frames)),
        "animated.png": _ok(encode(picture(), "PNG", duration=40, **frames)),
        "animated-cover.png": _ok(encode(picture(), "PNG", default_image=True, **frames)),
        "interlaced.gif": _ok(encode(picture(), "GIF", interlace=1)),
        "transparent.gif": _ok(encode(picture("RGBA"), "GIF")),
        "long.gif": _ok(
            encode(picture(), "GIF", save_all=True, append_images=[_noise(i) for i in range(40)])
        ),
        "frame-beyond-screen.gif": _ok(_patched(encode(small, "GIF"), 6, struct.pack("<HH", 3, 2)), (10, 8)),
    }


def _noise(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    width, height = size
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _patched(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def _tiffs() -> Files:
    gray = np.asarray(picture("L"))
    sixteen = Image.fromarray(gray.astype(np.uint16) * 257)
    pages: dict = {"save_all": True, "append_images": [_noise(1), picture("L")]}
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(picture(), to_lab)
    assert lab is not None
    lab.info.clear()  # its profile contains the time of creation
    return {
        "pages.tif": _ok(encode(picture(), "TIFF", **pages)),
        "pages-deflate.tif": _ok(encode(picture(), "TIFF", compression="tiff_adobe_deflate", **pages)),
        "lzw.tif": _ok(encode(picture(), "TIFF", compression="tiff_lzw")),
        "deflate.tif": _ok(encode(picture(), "TIFF", compression="tiff_adobe_deflate")),
        "packbits.tif": _ok(encode(picture(), "TIFF", compression="packbits")),
        "jpeg.tif": _ok(encode(picture(), "TIFF", compression="jpeg")),
        "fax.tif": _ok(encode(picture("1"), "TIFF", compression="group4")),
        "cmyk.tif": _ok(encode(picture("CMYK"), "TIFF")),
        "palette.tif": _ok(encode(picture("P"), "TIFF")),
        "rgba.tif": _ok(encode(picture("RGBA"), "TIFF")),
        "tile.tif": _ok(_tiff(_tiff_tags() | {322: WIDTH, 323: HEIGHT, 325: WIDTH * HEIGHT}, pixels_tag=324)),
        "16-bit.tif": _ok(encode(sixteen, "TIFF")),
        "16-bit-lzw.tif": _ok(encode(sixteen, "TIFF", compression="tiff_lzw")),
        "32-bit.tif": _bad("unsupported", encode(Image.fromarray(gray.astype(np.int32) * 257), "TIFF")),
        "float.tif": _bad("unsupported", encode(Image.fromarray(gray.astype(np.float32) / 255), "TIFF")),
        "float-255.tif": _bad("unsupported", encode(Image.fromarray(gray.astype(np.float32)), "TIFF")),
        "big.tif": _ok(encode(picture(), "TIFF", big_tiff=True)),
        "big-endian.tif": _ok(_tiff(_tiff_tags(), order=">")),
        "lab.tif": _ok(encode(lab, "TIFF")),
    }


def _tiff_tags(size: tuple[int, int] = SIZE) -> dict[int, int]:
    """Return the tags of an uncompressed 8-bit gray image."""
    width, height = size
    bits, compression, black_is_zero, rows, count = 258, 259, 262, 278, 279
    return {
        256: width,
        257: height,
        bits: 8,
        compression: 1,
        black_is_zero: 1,
        rows: height,
        count: width * height,
    }


def _tiff(
    tags: dict[int, int], *, pixels_tag: int = 273, order: Literal["<", ">"] = "<", next_offset: int = 0
) -> bytes:
    """Write a TIFF with one strip or tile; every tag is one 32-bit number."""
    offset = 8 + 2 + 12 * len(tags | {pixels_tag: 0}) + 4
    entries = sorted(({pixels_tag: offset} | tags).items())
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    body = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in entries)
    return head + body + struct.pack(order + "I", next_offset) + picture("L").tobytes()


def _other_formats() -> Files:
    gray = np.asarray(picture("L"))
    files = {
        "rgb.bmp": _ok(encode(picture(), "BMP")),
        "32-bit.bmp": _ok(encode(picture().convert("RGBA"), "BMP")),
        "palette.bmp": _ok(encode(picture("P"), "BMP")),
        "one-bit.bmp": _ok(encode(picture("1"), "BMP")),
        "top-down.bmp": _ok(_top_down()),
        "square.ico": _ok(encode(_noise(2, (64, 64)), "ICO", sizes=[(16, 16), (64, 64)]), (64, 64)),
        "bitmap.ico": _ok(
            encode(_noise(3, (32, 32)), "ICO", bitmap_format="bmp", sizes=[(32, 32)]), (32, 32)
        ),
        "rgb.ppm": _ok(encode(picture(), "PPM")),
        "gray.pgm": _ok(encode(picture("L"), "PPM")),
        "16-bit.pgm": _ok(b"P5 %d %d 65535\n" % SIZE + (gray.astype(">u2") * 257).tobytes()),
        "plain.ppm": _ok(_plain_ppm()),
        "one-bit.pbm": _ok(encode(picture("1"), "PPM")),
        "rgb.jp2": _ok(encode(picture(), "JPEG2000")),
        "codestream.jp2": _ok(encode(picture(), "JPEG2000", no_jp2=True)),
        "gray-16-bit.jp2": _ok(encode(Image.fromarray(gray.astype(np.uint16) * 257), "JPEG2000")),
        "rgba.jp2": _ok(encode(picture("RGBA"), "JPEG2000")),
        "lossless.webp": _ok(encode(picture(), "WEBP", lossless=True)),
        "rgba.webp": _ok(encode(picture("RGBA"), "WEBP", lossless=True)),
        "pc-paintbrush.bmp": _ok(encode(picture(), "PCX")),
    }
    if features.check("avif"):
        files["rgb.avif"] = _ok(encode(picture(), "AVIF", speed=10, max_threads=1))
        files["rgba.avif"] = _ok(encode(picture("RGBA"), "AVIF", speed=10, max_threads=1))
    return files


def _top_down() -> bytes:
    """Return a BMP with a negative height."""
    data = encode(picture().transpose(Image.Transpose.FLIP_TOP_BOTTOM), "BMP")
    return _patched(data, 22, struct.pack("<i", -HEIGHT))


def _plain_ppm() -> bytes:
    values = " ".join(map(str, np.asarray(picture()).ravel()))
    return f"P3\n# by hand\n{WIDTH} {HEIGHT}\n255\n{values}\n".encode()


def _metadata() -> Files:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = _patched(profile, 24, bytes(12))  # the time of creation
    garbage = b"no profile at all " * 20
    text = _chunk(b"tEXt", b"Comment\0" + b"\xff\xfe not Latin " * 100)
    return {
        "exif-broken.jpg": _ok(encode(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")),
        "exif-cut.jpg": _ok(encode(picture(), "JPEG", exif=_exif(6).tobytes()[:-6])),
        "exif-empty.jpg": _ok(encode(picture(), "JPEG", exif=b"Exif\0\0")),
        "exif-loop.jpg": _ok(encode(picture(), "JPEG", exif=b"Exif\0\0" + _looping_exif())),
        "exif-thumbnail.jpg": _ok(encode(picture(), "JPEG", exif=b"Exif\0\0" + _thumbnail_exif())),
        "exif-broken.png": _ok(_png_with(_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff garbage"))),
        "exif-at-the-end.png": _ok(_png_with(_chunk(b"eXIf", _exif(1).tobytes()), at=b"IEND")),
        "exif-broken.webp": _ok(encode(picture(), "WEBP", exif=b"Exif\0\0garbage")),
        "icc.jpg": _ok(encode(picture(), "JPEG", icc_profile=profile)),
        "icc-broken.jpg": _ok(encode(picture(), "JPEG", icc_profile=garbage)),
        "icc-broken.png": _ok(encode(picture(), "PNG", icc_profile=garbage)),
        "icc-not-deflated.png": _ok(_png_with(_chunk(b"iCCP", b"name\0\0" + garbage))),
        "icc-broken.webp": _ok(encode(picture(), "WEBP", icc_profile=garbage)),
        "icc-broken.tif": _ok(encode(picture(), "TIFF", icc_profile=garbage)),
        "comment-large.jpg": _ok(encode(picture(), "JPEG", comment=b"\xff\0" * 30_000)),
        "comment-odd.png": _ok(_png_with(text)),
        "xmp-broken.jpg": _ok(encode(picture(), "JPEG", xmp=b"<x:xmpmeta><not closed")),
    }


def _looping_exif() -> bytes:
    """Return EXIF whose EXIF and thumbnail directories point back to the first directory."""
    entries = struct.pack("<HHII", ORIENTATION, 3, 1, 1) + struct.pack("<HHII", 0x8769, 4, 1, 8)
    return b"II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 8)


def _thumbnail_exif() -> bytes:
    """Return EXIF with a thumbnail of 60 kB that is larger than the image and upside down."""
    thumbnail = encode(_noise(4, (160, 120)), "JPEG", quality=98)
    thumbnail += bytes(60_000 - len(thumbnail))
    first = struct.pack("<HHHIII", 1, ORIENTATION, 3, 1, 1, 26)
    entries = struct.pack("<HHII", ORIENTATION, 3, 1, 3)
    entries += struct.pack("<HHII", 0x0201, 4, 1, 68) + struct.pack("<HHII", 0x0202, 4, 1, len(thumbnail))
    return b"II*\0" + struct.pack("<I", 8) + first + struct.pack("<H", 3) + entries + bytes(4) + thumbnail


def _names() -> Files:
    names = [
        " leading space.jpg",
        "   three leading spaces.jpg",
        "two  spaces and one before the dot .jpg",
        "tab\there.jpg",
        "snow ☃ e\u0301 é 図 صورة.jpg",  # both forms of the same letter
        "emoji 👩\u200d👩\u200d👧 🎉.jpg",
        "hash # 1.jpg",
        "100%.jpg",
        "escaped %20%2F.jpg",
        "really?.jpg",
        "a+b.jpg",
        "query?versionId=1&x=a+b#part.jpg",
        "bracket [1] {2} (3).jpg",
        "star *.jpg",
        "quote ' and \" and ` and $HOME.jpg",
        "back\\slash.jpg",
        "semi;colon, comma & ampersand = <tag>.jpg",
        "colon: s3:.jpg",
        "-dash.jpg",
        "~tilde.jpg",
        "UPPER.JPG",
        "many.dots.in.a.name..jpg",
        "long " + "name " * 49 + ".jpg",
    ]
    files = {name: _ok(encode(picture(), "JPEG", quality=60 + index)) for index, name in enumerate(names)}
    files["png-in-disguise.jpg"] = _ok(encode(picture(), "PNG"))
    files["jpeg-in-disguise.png"] = _ok(encode(picture(), "JPEG"))
    files["webp-in-disguise.jpeg"] = _ok(encode(picture(), "WEBP"))
    files["gif-in-disguise.tif"] = _ok(encode(picture(), "GIF"))
    files["bmp-in-disguise.jpg"] = _ok(encode(picture(), "BMP"))
    return files


# Files that are not images


def _no_images() -> Files:
    jpeg = encode(picture(), "JPEG")
    error = b"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>AccessDenied</Code></Error>"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    contents = {
        "one-byte.jpg": b"\xff",
        "zeros.jpg": bytes(5000),
        "random.jpg": np.random.default_rng(5).bytes(5000),
        "text.jpg": b"The quick brown fox jumps over the lazy dog.\n" * 20,
        "text-utf-16.jpg": "The quick brown fox".encode("utf-16"),
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "page-after-spaces.jpg": b"\xef\xbb\xbf\n\n   <HTML><body>Sign in</body></HTML>",
        "drawing.png": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "storage-error.jpg": error,
        "answer.jpg": json.dumps({"error": {"code": 403, "message": "rate limit"}}).encode(),
        "lfs-pointer.jpg": pointer,
        "base64.jpg": b"data:image/jpeg;base64,/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJ",
        "document.jpg": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n",
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "zipped.jpg": gzip.compress(jpeg, mtime=0),
        "archive.jpg": b"PK\3\4" + bytes(26) + b"photo.jpg",
        "video.gif": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41\0\0\0\x08free\0\0\0\0mdat" + bytes(200),
        "sound.webp": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0" + bytes(100),
        "line-break-before.jpg": b"\r\n" + jpeg,
        "font.png": b"\0\1\0\0\0\x0c\0\x80\0\3\0\x40OS/2" + bytes(100),
    }
    files = {name: _bad("not_an_image", data) for name, data in contents.items()}
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    photoshop = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(100)
    return files | {
        "empty.jpg": _bad("empty", b""),
        "photo.heic": _bad(None, heic),  # corrupt with pillow-heif, otherwise unsupported
        "photoshop.jpg": _bad("unsupported", photoshop),
    }


# Broken images


def _truncated() -> Files:
    """Return files truncated within the header, within the pixels, and by their last bytes."""
    noise = _noise(6, (64, 48))
    progressive = encode(noise, "JPEG", progressive=True)
    others = _other_formats()
    files: Files = {}
    for kind, extension in (
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("GIF", "gif"),
        ("WEBP", "webp"),
        ("TIFF", "tif"),
        ("BMP", "bmp"),
    ):
        data = encode(noise, kind)
        files[f"cut-to-signature.{extension}"] = _bad(None, data[:8])
        files[f"cut-to-3-percent.{extension}"] = _bad(None, data[: len(data) * 3 // 100])
        for share in (20, 50, 90):
            files[f"cut-to-{share}-percent.{extension}"] = _bad("truncated", data[: len(data) * share // 100])
        files[f"cut-last-byte.{extension}"] = data[:-1], ANY
    lzw = encode(noise, "TIFF", compression="tiff_lzw")
    files["cut-progressive.jpg"] = _bad("truncated", progressive[: len(progressive) // 2])
    files["cut-lzw.tif"] = _bad("corrupt", lzw[: len(lzw) // 2])  # its directory is at the end
    for name in ("rgb.jp2", "square.ico", "rgb.ppm", "pc-paintbrush.bmp", "rgb.avif"):
        if name in others:
            data = others[name][0]
            files[f"cut-{name}"] = _bad(None, data[: len(data) // 2])
    return files


def _broken_pngs() -> Files:
    good = encode(picture(), "PNG")
    pixels = good.index(b"IDAT") + 4
    header_crc = good.index(b"IHDR") + 17
    end = good.index(b"IEND") - 4
    return {
        "header-crc.png": _bad("corrupt", _patched(good, header_crc, bytes(4))),
        "pixels-crc.png": _ok(_patched(good, end - 4, bytes(4))),
        "pixels-flipped.png": (_flipped(good, pixels + 50), ANY),
        "pixels-missing.png": _bad("truncated", _png(WIDTH, HEIGHT)),
        "zero-width.png": _bad("corrupt", _png(0, HEIGHT)),
        "zero-height.png": _bad("corrupt", _png(WIDTH, 0)),
        "zero-both.png": _bad("corrupt", _png(0, 0)),
        "depth-of-3-bits.png": _bad("corrupt", _png(WIDTH, HEIGHT, depth=3)),
        "color-type-9.png": _bad("corrupt", _png(WIDTH, HEIGHT, color=9)),
        "palette-missing.png": (_png(WIDTH, HEIGHT, np.asarray(picture("L")), color=3), ANY),
        "pixels-not-deflated.png": _bad("corrupt", good[:pixels] + b"garbage " * 9 + good[end:]),
        "chunk-length-lies.png": (_patched(good, pixels - 8, b"\x7f\xff\xff\xff"), ANY),
        "line-breaks-converted.png": _bad("corrupt", good.replace(b"\r\n", b"\n")),
    }


def _flipped(data: bytes, place: int, count: int = 1) -> bytes:
    return _patched(data, place, bytes(byte ^ 0xFF for byte in data[place : place + count]))


def _broken_others() -> Files:
    others = _other_formats()
    jpeg = encode(_noise(7, (64, 48)), "JPEG")
    gif = encode(picture(), "GIF")
    webp = encode(picture(), "WEBP")
    tiff = _tiff_tags()
    random = np.random.default_rng(8).bytes(600)
    files = {
        "middle-flipped.jpg": (_flipped(jpeg, len(jpeg) // 2, 40), ANY),
        "middle-zeros.jpg": (_patched(jpeg, len(jpeg) // 2, bytes(200)), ANY),
        "tables-missing.jpg": _bad("corrupt", _without_segment(_without_segment(jpeg, 0xDB), 0xDB)),
        "pixels-missing.jpg": _bad("corrupt", jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9"),
        "zero-height.jpg": _bad("corrupt", _resized_jpeg(WIDTH, 0)),
        "pixels-missing.gif": _bad("corrupt", gif[:13] + gif[-1:]),
        "pixels-flipped.gif": (_flipped(gif, len(gif) // 2, 20), ANY),
        "riff-size-large.webp": _ok(_patched(webp, 4, struct.pack("<I", 1 << 20))),  # its image is complete
        "riff-size-small.webp": _bad("corrupt", _patched(webp, 4, struct.pack("<I", 40))),
        "riff-size-zero.webp": _bad("corrupt", _patched(webp, 4, bytes(4))),
        "loop-of-pages.tif": _ok(_tiff(tiff, next_offset=8)),
        "loop-of-directories.tif": _ok(_tiff(tiff | {330: 8, 0x8769: 8})),
        "strip-beyond-end.tif": _bad("truncated", _tiff(tiff | {273: 1 << 20})),
        "width-missing.tif": _bad("corrupt", _tiff({tag: tiff[tag] for tag in tiff if tag != 256})),
        "directory-beyond-end.tif": _bad("corrupt", b"II*\0" + struct.pack("<I", 1 << 20) + bytes(50)),
        "directory-missing.tif": _bad("corrupt", b"II*\0" + bytes(4) + bytes(50)),
        "compression-unknown.tif": _bad("unsupported", _tiff(tiff | {259: 54321})),
        "zero-width.tif": _bad("corrupt", _tiff(tiff | {256: 0})),
        "nonsense.ico": _bad(None, b"\0\0\1\0\2\0" + random),
        "no-pictures.ico": _bad(None, b"\0\0\1\0\0\0" + bytes(40)),
        "nonsense.bmp": _bad(None, b"BM" + random),
        "zero-width.bmp": _bad(None, _patched(encode(picture(), "BMP"), 18, bytes(4))),
        "nonsense.ppm": _bad(None, b"P6 a b 255\n" + random),
        "nonsense.jp2": _bad(None, encode(picture(), "JPEG2000")[:60] + random),
    }
    if "rgb.avif" in others:
        avif = others["rgb.avif"][0]
        files["pixels-flipped.avif"] = _bad("corrupt", _flipped(avif, avif.index(b"mdat") + 12, 40))
        files["item-missing.avif"] = _bad("corrupt", avif.replace(b"av01", b"av0?"))
    for signature, extension in (
        (b"\xff\xd8\xff\xe0", "jpg"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"GIF89a", "gif"),
    ):
        files[f"random-after-signature.{extension}"] = (signature + random, ANY)
    return files


def _resized_jpeg(width: int, height: int) -> bytes:
    """Return a JPEG whose header has a different size than its pixels."""
    data = encode(picture(), "JPEG")
    return _patched(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width))


# Bombs


def _bombs() -> Files:
    full = _png(11_000, 11_000, depth=1, color=0, pixels=bytes((11_000 // 8 + 1) * 11_000))
    refused = {
        "bomb-30000.png": _png(30_000, 30_000),
        "bomb-50000.png": _png(50_000, 50_000),
        "bomb-full.png": full,
        "bomb-one-bit.png": _png(60_000, 60_000, depth=1, color=0),
        "bomb-strip.png": _png(2_000_000_000, 1),
        "bomb.gif": _patched(encode(picture(), "GIF"), 6, b"\xff\xff\xff\xff"),
        "bomb-frame.gif": _large_frame(),
        "bomb.tif": _tiff(_tiff_tags() | {256: 1 << 20, 257: 1 << 20}),
        "bomb-tile.tif": _tiled(30_000, 30_000),
        "bomb.jpg": _resized_jpeg(65_500, 65_500),
        "bomb.bmp": _patched(encode(picture(), "BMP"), 18, struct.pack("<ii", 100_000, 100_000)),
        "bomb-top-down.bmp": _patched(encode(picture(), "BMP"), 18, struct.pack("<ii", 100_000, -(2**31))),
        "bomb.webp": _large_canvas(16_384, 16_384),
        "bomb-11000.webp": _large_canvas(11_000, 11_000),
        "bomb.ppm": b"P6 50000 50000 255\n" + bytes(100),
        "bomb.ico": _icon(_png(30_000, 30_000)),
        "bomb-full.ico": _icon(full),
        "bomb-bitmap.ico": _icon(_bitmap(11_000, 22_000)),
        "bomb.jp2": _resized_jp2(60_000, 60_000),
        "bomb-codestream.jp2": _resized_jp2(60_000, 60_000, box=False),
        "bomb-scans.jpg": _many_scans(2_000, (10_000, 10_000)),
        "bomb-layers.jp2": _many_layers(),
    }
    files = {name: _bad("too_large", data) for name, data in refused.items()}
    text = zlib.compress(bytes(100_000_000), 9)
    for name, chunk in (
        ("ztxt", _chunk(b"zTXt", b"Comment\0\0" + text)),
        ("itxt", _chunk(b"iTXt", b"Comment\0\1\0\0\0" + text)),
        ("iccp", _chunk(b"iCCP", b"name\0\0" + text)),
    ):
        files[f"inflated-{name}.png"] = _ok(_png_with(chunk))
    files["inflated-texts.png"] = _ok(_png_with(_many_texts()))
    return files


def _many_scans(count: int, size: tuple[int, int]) -> bytes:
    """Return a progressive JPEG that repeats its first scan `count` times, with a few bits each time."""
    data = encode(picture(), "JPEG", progressive=True)
    frame, scan = data.index(b"\xff\xc2"), data.index(b"\xff\xda")
    (length,) = struct.unpack_from(">H", data, scan + 2)
    data = _patched(data, frame + 5, struct.pack(">HH", *size[::-1]))
    return data[:scan] + (data[scan : scan + 2 + length] + bytes(20)) * count + data[scan:]


def _many_layers() -> bytes:
    """Return a JPEG 2000 file of 15,625 tiles that claims 65,535 quality layers."""
    data = encode(Image.new("L", (1000, 1000)), "JPEG2000", no_jp2=True, tile_size=(8, 8))
    return _patched(data, data.index(b"\xff\x52") + 6, b"\xff\xff")


def _many_texts() -> bytes:
    """Return PNG chunks with two hundred texts, none of which is large."""
    text = zlib.compress(bytes(1_000_000), 9)
    return b"".join(_chunk(b"zTXt", b"Comment %d\0\0" % index + text) for index in range(200))


def _tiled(width: int, height: int) -> bytes:
    """Return a TIFF of one compressed tile that is larger than the image."""
    return _tiff(_tiff_tags() | {259: 5, 322: width, 323: height, 325: 1000}, pixels_tag=324)


def _large_frame() -> bytes:
    """Return a GIF with a small screen and a large frame."""
    data = encode(picture(), "GIF")
    return _patched(data, data.index(struct.pack("<BHHHH", ord(","), 0, 0, *SIZE)) + 5, b"\xff\xff\xff\xff")


def _large_canvas(width: int, height: int) -> bytes:
    """Return an animated WebP with a small frame on a large canvas."""
    data = encode(picture(), "WEBP", save_all=True, append_images=[_noise(9)])
    return _patched(data, data.index(b"VP8X") + 12, _uint24(width - 1) + _uint24(height - 1))


def _bitmap(width: int, height: int) -> bytes:
    """Return the header of a 24-bit DIB."""
    return struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(100)


def _uint24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _icon(content: bytes) -> bytes:
    """Return an ICO of one image that its directory lists as 16 x 16 pixels."""
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(content), 22) + content


def _resized_jp2(width: int, height: int, *, box: bool = True) -> bytes:
    """Return a JPEG 2000 with a wrong size in its box or only in its codestream."""
    data = encode(picture(), "JPEG2000")
    if box:
        return _patched(data, data.index(b"ihdr") + 4, struct.pack(">II", height, width))
    place = data.index(b"\xff\x4f\xff\x51") + 8
    return _patched(data, place, struct.pack(">II", width, height))
