"""GPU decoding; the same call of torchvision's decoder on the CPU replaces nvJPEG."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from glied.bulk.stages.factories import ExtractFactory
from glied.bulk.stages.model_loading import extract_stage
from glied.errors import ImageError, UsageError
from glied.vision.decoder_pool import DecoderPool
from glied.vision.extractors.config import ComputeConfig, RegionsConfig
from glied.vision.gpu_decoder import GpuDecoder, is_plain_jpeg
from glied.vision.images import Picture, decode
from tests.vision.test_odd_images import many_scans


def smooth(mode: str = "RGB", width: int = 48, height: int = 32) -> Image.Image:
    ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 2) % 256
    channels = [np.roll(ramp, 7 * index, axis=1) for index in range(3)]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, form: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(smooth(), exif=exif)


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (encoded(smooth()), True),
        (encoded(smooth(), progressive=True), True),
        (encoded(smooth("L")), True),
        (with_orientation(1), True),
        (with_orientation(6), False),
        (encoded(smooth("CMYK")), False),
        (encoded(smooth(), "PNG"), False),
        (encoded(smooth(width=2500, height=2000)), False),
        (encoded(smooth())[:20], False),
        (encoded(smooth())[:-2], False),
        (encoded(smooth())[:-100], False),
        (many_scans(encoded(smooth(), progressive=True), 100), False),
        (b"\xff\xd8\xff\xe1\x00\x0cExif\0\0bad!" + encoded(smooth())[2:], False),
        (b"", False),
        (b"\xff\xd8\xff", False),
    ],
    ids=[
        "plain",
        "progressive",
        "gray",
        "upright",
        "turned",
        "cmyk",
        "png",
        "large",
        "cut",
        "without its end",
        "cut in its pixels",
        "many scans",
        "exif",
        "0",
        "3",
    ],
)
def test_the_gpu_gets_plain_jpegs_only(data, plain):
    assert is_plain_jpeg(data) == plain


@pytest.fixture(scope="module")
def pool():
    with DecoderPool(1) as pool:
        yield pool


def test_a_batch_decoded_by_both_is_in_order(pool):
    batch = [
        encoded(smooth()),
        encoded(smooth(), "PNG"),
        b"<html>",
        encoded(smooth("L")),
        with_orientation(6),
    ]
    found = GpuDecoder(pool, "cpu").decode(batch)
    sizes = [(one.width, one.height) for one in found if isinstance(one, Picture)]
    assert sizes == [(48, 32), (48, 32), (48, 32), (32, 48)]
    assert isinstance(found[2], ImageError)
    for place in (0, 1, 3, 4):
        assert isinstance(found[place], Picture)
        difference = np.abs(found[place].pixels.astype(int) - decode(batch[place]).astype(int))
        assert difference.mean() < 2
        assert found[place].pixels.flags.writeable


def test_images_that_the_gpu_cannot_decode_go_to_the_processes(pool):
    whole = encoded(smooth())
    broken = whole[:200] + whole[whole.index(b"\xff\xda") :]  # without its tables
    assert is_plain_jpeg(broken)
    found = GpuDecoder(pool, "cpu").decode([broken, whole])
    expected = pool.decode([broken, whole])
    assert type(found[0]) is type(expected[0])
    assert isinstance(found[1], Picture)
    np.testing.assert_array_equal(found[1].pixels, decode(whole))
    assert GpuDecoder(pool, "cpu").decode([]) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu(pool):
    batch = [encoded(smooth()), encoded(smooth("L")), encoded(smooth(), progressive=True)]
    for one, data in zip(GpuDecoder(pool, "cuda").decode(batch), batch, strict=True):
        assert isinstance(one, Picture)
        assert np.abs(one.pixels.astype(int) - decode(data).astype(int)).mean() < 3


def test_a_gpu_decoder_needs_the_models_on_a_gpu():
    config = RegionsConfig(model="fasterrcnn_mobilenet_v3_large_320_fpn", compute=ComputeConfig(jpeg="gpu"))
    with pytest.raises(UsageError, match=r"regions\.compute\.jpeg gpu needs a GPU"):
        extract_stage(ExtractFactory(config, batch_size=2, decoders=1))
