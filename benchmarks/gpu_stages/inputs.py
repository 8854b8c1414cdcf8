"""Inputs of the stages: scenes at the sizes of photographs, and models of the paper's size."""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from benchmarks.decoding import inputs, paper_vocabulary
from benchmarks.decoding_products import WORDS
from benchmarks.jpegs import COCO_SIZES
from glied.bulk.plan.sources.fetch import FETCHED
from glied.captioner.architectures import PAPER_SIZES, build_model
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.captioner.model import CaptioningModel
from glied.demo_world.world import draw, sample_scene
from glied.regions import RegionBatch
from glied.vision.attributes import AttributePredictor

QUALITY = 90
GRAIN = 8
"""Standard deviation of the noise on scenes, which makes their JPEGs about as large as photographs'."""
ATTRIBUTE_WORDS = 1000
WEIGHTS = Path(__file__).resolve().parents[2] / "glied" / "weights" / "demo"
BACKBONE = WEIGHTS.parent / "photographs" / "backbone"
PHOTO = (640, 480)


@lru_cache(maxsize=4)
def photographs(count: int, *, one_size: bool = False) -> tuple[bytes, ...]:
    """Return JPEGs of test scenes with the sizes of COCO's images, or all of 640 x 480."""
    return tuple(
        photograph(index, PHOTO if one_size else COCO_SIZES[index % len(COCO_SIZES)])
        for index in range(count)
    )


def photograph(index: int, size: tuple[int, int]) -> bytes:
    """Return a JPEG of a test scene at `size` (width, height), with noise."""
    scene = Image.fromarray(draw(sample_scene("test", index))).resize(size, Image.Resampling.BICUBIC)
    grain = np.random.default_rng(index).normal(0, GRAIN, (size[1], size[0], 3)).astype(np.float32)
    pixels = (np.asarray(scene, np.float32) + grain).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def fetched(encoded: Sequence[bytes], count: int) -> pa.Table:
    """Return a chunk of `count` fetched images that repeat `encoded`."""
    rows = [
        {"id": str(index), "uri": str(index), "data": encoded[index % len(encoded)]} for index in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=FETCHED)


def captioner(
    device: torch.device,
    dtype: torch.dtype,
    *,
    feature_size: int,
    decoding: DecodingConfig,
    cuda_graphs: bool = False,
) -> Captioner:
    """Return a paper-size GLIED with random weights, the same ones every time."""
    model = paper_model(device, dtype, feature_size)
    return Captioner(model, paper_vocabulary(), decoding=decoding, cuda_graphs=cuda_graphs)


@lru_cache(maxsize=2)
def paper_model(device: torch.device, dtype: torch.dtype, feature_size: int) -> CaptioningModel:
    """Return a paper-size GLIED with random weights; copy it before training, because it is cached."""
    torch.manual_seed(0)
    model = build_model(PAPER_SIZES["glied"], feature_size=feature_size, vocabulary_size=WORDS + 1)
    return model.to(device, dtype)


def paper_inputs(batch: int, device: torch.device) -> tuple[RegionBatch, Tensor, Tensor]:
    """Return 36 random regions and 49 attributes per image, created on the device."""
    with device:
        return inputs(batch)


def attribute_predictor(device: torch.device, feature_size: int) -> AttributePredictor:
    """Return a predictor of 1,000 words with random weights."""
    torch.manual_seed(0)
    words = [f"word{i}" for i in range(ATTRIBUTE_WORDS)]
    return AttributePredictor(words, feature_size=feature_size).eval().to(device)
