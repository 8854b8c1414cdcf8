"""Decoding of good and bad images made with Pillow."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from glied.errors import ImageError
from glied.vision.images import decode, read

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 60, height: int = 40) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG header with a size and without pixels."""
    fields = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    chunk = (13).to_bytes(4, "big") + fields + zlib.crc32(fields).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk + bytes(4) + b"IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels(kind):
    pixels = decode(encode(noise(), kind))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, np.asarray(noise()))


def photograph(width: int, height: int) -> Image.Image:
    """Return a smooth image, which all methods of shrinking change in about the same way."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


LARGE = photograph(2501, 1701)


@pytest.mark.parametrize(
    ("kind", "orientation", "resolution", "factor"),
    [
        ("JPEG", 1, (800, 1333), 2),
        ("JPEG", 3, (300, 500), 4),
        ("JPEG", 6, (300, 5000), 4),
        ("JPEG", 6, (20, 30), 8),
        ("JPEG", 1, (1600, 2400), 1),
        ("PNG", 6, (800, 1333), 2),
        ("PNG", 1, (20, 30), 8),
        ("TIFF", 3, (800, 1333), 2),
        ("WEBP", 6, (300, 500), 4),
    ],
)
def test_large_images_are_not_shrunk_below_the_required_size(kind, orientation, resolution, factor):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(LARGE, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    picture = read(data, resolution=resolution)
    upright = {1: LARGE, 3: LARGE.rotate(180), 6: LARGE.rotate(-90, expand=True)}[orientation]
    assert (picture.width, picture.height) == upright.size
    small = upright.reduce(factor)
    assert picture.pixels.shape == np.asarray(small).shape
    assert np.abs(picture.pixels.astype(int) - np.asarray(small, int)).max() <= 8
    assert picture.pixels.flags.c_contiguous
    assert picture.pixels.flags.writeable


def test_images_of_usual_size_are_never_shrunk():
    picture = read(encode(noise(2000, 2000), "JPEG"), resolution=(10, 10))
    assert picture.pixels.shape == (2000, 2000, 3)


def test_a_truncated_large_jpeg_is_detected_even_if_it_is_shrunk():
    data = encode(LARGE, "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        read(data[: len(data) // 2], resolution=(100, 100))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_give_approximate_pixels(kind):
    pixels = decode(encode(Image.new("RGB", (30, 20), RED), kind))
    assert pixels.shape == (20, 30, 3)
    assert np.abs(pixels.astype(int) - np.array(RED)).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = Image.new("RGB", (40, 20), WHITE)
    upright.paste(RED, (0, 0, 20, 10))
    stored = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(encode(stored, "PNG", exif=exif)), np.asarray(upright))


def test_broken_exif_is_ignored():
    data = encode(noise(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert decode(data).shape == (40, 60, 3)


def test_cmyk():
    cmyk = Image.new("CMYK", (10, 10), (0, 255, 255, 0))
    assert np.abs(decode(encode(cmyk, "JPEG", quality=95))[5, 5].astype(int) - np.array(RED)).max() < 8


def test_alpha_is_put_on_white():
    image = Image.new("RGBA", (2, 1))
    image.putpixel((0, 0), (0, 0, 255, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert decode(encode(image, "PNG")).tolist() == [[list(BLUE), list(WHITE)]]
    half = Image.new("LA", (1, 1), (0, 128))
    assert 126 <= decode(encode(half, "PNG"))[0, 0, 0] <= 128


def test_palette_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    assert decode(encode(image, "PNG")).tolist() == [[list(RED), list(GREEN)]]
    assert decode(encode(image, "PNG", transparency=1)).tolist() == [[list(RED), list(WHITE)]]


def test_sixteen_bits_are_scaled():
    values = np.array([[0, 257 * 10, 257 * 128, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        assert decode(encode(Image.fromarray(values), kind))[0, :, 0].tolist() == [0, 10, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_gray_and_bilevel(mode):
    assert decode(encode(Image.new(mode, (3, 3), 1 if mode == "1" else 255), "PNG")).min() == 255


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, BLUE)]
    pixels = decode(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert pixels.shape == (16, 16, 3)
    assert pixels[8, 8, 0] > 240
    assert pixels[8, 8, 2] < 20


def test_one_pixel_is_an_image():
    assert decode(encode(Image.new("RGB", (1, 1), GREEN), "PNG")).tolist() == [[list(GREEN)]]


def kind_of(data: bytes, **limits) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **limits)
    assert caught.value.message
    return caught.value.kind


def test_empty():
    assert kind_of(b"") == "empty"


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html>404</html>",
        b"<?xml version='1.0'?><svg/>",
        b"just text\n",
        b"\0" * 500,
        b"%!PS-Adobe-3.0",
    ],
    ids=["html", "svg", "text", "zeros", "postscript"],
)
def test_not_an_image(data):
    assert kind_of(data) == "not_an_image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated(kind, share):
    data = encode(noise(), kind)
    assert kind_of(data[: int(len(data) * share)]) == "truncated"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_truncation_anywhere_is_an_image_error(kind):
    data = encode(noise(8, 6), kind)
    whole = decode(data).shape
    refused = 0
    for length in range(1, len(data) - 8, 3):
        try:
            assert decode(data[:length]).shape == whole
        except ImageError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_garbled_bytes_decode_or_are_an_image_error(kind):
    original = encode(noise(20, 15), kind)
    random = np.random.default_rng(1)
    for _ in range(60):
        data = bytearray(original)
        for place in random.integers(0, len(data), 5):
            data[place] = random.integers(0, 256)
        try:
            assert decode(bytes(data), max_pixels=1_000_000).shape[2] == 3
        except ImageError:
            continue


def test_too_large_images_are_recognized_by_the_header():
    assert kind_of(png_header(30_000, 30_000)) == "too_large"
    assert kind_of(png_header(9_000, 12_000)) == "too_large"
    assert kind_of(png_header(100_000, 1)) == "too_large"
    assert kind_of(encode(noise(), "PNG"), max_pixels=60 * 40 - 1) == "too_large"
    assert kind_of(encode(noise(), "PNG"), max_side=59) == "too_large"
    assert decode(encode(noise(), "PNG"), max_pixels=60 * 40, max_side=60).shape == (40, 60, 3)
