"""Tiny models with random weights, saved through the real classes, and a folder of images."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from glied.captioner.architectures import build_model
from glied.captioner.captioner import Captioner
from glied.captioner.model import CaptionerConfig
from glied.text.vocabulary import Vocabulary
from glied.vision.attributes import AttributePredictor, save_attributes
from glied.vision.extractors.small_detector import (
    Detector,
    DetectorConfig,
    SmallBackboneConfig,
    save_detector,
)

WORDS = ["a", "dog", "cat", "red", "blue", "ball", "on", "the", "grass", "near", "left", "of", "small", "big"]
FEATURES = 16
BAD = {"text.jpg": "not_an_image", "empty.jpg": "empty"}


def save_models(folder: Path, *, seed: int = 0) -> Path:
    """Save the checkpoints regions/, attributes/ and captioner/ in `folder`."""
    torch.manual_seed(seed)
    config = DetectorConfig(
        short_side=64,
        long_side=96,
        backbone=SmallBackboneConfig(widths=(8, 8, 8, 8, 8), blocks=(1, 1, 1, 1), fpn_channels=8),
        representation_size=FEATURES,
        class_embedding=4,
        proposals=20,
    )
    detector = Detector(config, classes=["dog", "cat", "ball"], attributes={"color": ["red", "blue"]})
    save_detector(detector, str(folder / "regions"))
    save_attributes(AttributePredictor(WORDS[:10], feature_size=FEATURES), str(folder / "attributes"))
    vocabulary = Vocabulary(WORDS)
    model = build_model(
        CaptionerConfig(width=16, heads=2, geometry=True),
        feature_size=FEATURES,
        vocabulary_size=len(vocabulary),
    )
    Captioner(model, vocabulary, attribute_count=4).save(str(folder / "captioner"))
    return folder


def save_images(folder: Path, count: int) -> Path:
    """Write `count` files, four of them odd: a CMYK image, a rotated one, a text and an empty file."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for index in range(count - 4):
        height, width = generator.integers(40, 120, 2)
        pixels = generator.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        path = folder / f"sub{index % 2}" / f"image {index:03d}.{'jpg' if index % 3 else 'PNG'}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((int(width), int(height))).save(path)
    Image.new("CMYK", (60, 40), (10, 200, 30, 0)).save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), (200, 30, 10)).save(folder / "turned.jpg", exif=exif)
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("a sidecar")
    return folder


def model_options(models: Path) -> list[str]:
    """Return command-line options that replace the weights of the demo config."""
    return [
        f"--regions.checkpoint={models / 'regions'}",
        f"--attributes.checkpoint={models / 'attributes'}",
        f"--captioner.checkpoint={models / 'captioner'}",
        "--decoding.max_length=8",
        "--regions.max_regions=6",
        "--resources.worker.count=1",
    ]
