"""Simple scenes of colored rectangles in the folder layout of jobs/make_scenes.py."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from glied.vision.extractors.small_detector import DetectorConfig, SmallBackboneConfig

COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
TINY = DetectorConfig(
    short_side=64,
    long_side=96,
    backbone=SmallBackboneConfig(
        widths=(16, 16, 16, 16, 16), blocks=(1, 1, 1, 1), fpn_channels=16, bf16=False
    ),
    anchor_sizes=((16, 24), (32, 48), (64, 80)),
    representation_size=24,
    class_embedding=4,
    proposals=30,
    sampled_proposals=32,
    detections=10,
)


def write_scenes(folder: Path, count: int, *, width: int = 96, height: int = 64) -> None:
    """Write images with a tall and a wide colored rectangle on gray; the last one is empty."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(count):
        pixels = np.full((height, width, 3), 128, np.uint8)
        objects = []
        for name, (w, h), left in (("tower", (16, 36), 4), ("car", (40, 20), width // 2 - 4)):
            if number == count - 1:
                break
            color = list(COLORS)[random.integers(3)]
            x, y = left + int(random.integers(0, 8)), int(random.integers(0, height - h))
            pixels[y : y + h, x : x + w] = COLORS[color]
            objects.append(
                {"class": name, "box": [x, y, x + w, y + h], "attributes": [color], "stuff": False}
            )
        name = f"train-{number:06d}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        lines.append(
            json.dumps(
                {"id": number, "file_name": name, "width": width, "height": height, "objects": objects}
            )
        )
    (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n")
    classes = {
        "classes": ["tower", "car"],
        "stuff": ["sky"],
        "attributes": {"color": list(COLORS), "size": ["big"]},
    }
    (folder / "classes.json").write_text(json.dumps(classes))
