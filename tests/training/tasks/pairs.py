"""Pairs of images and texts that a small CLIP learns in seconds: the texts name the colors of the image."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from glied.data.pairs import PairsConfig

COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def write_pairs(folder: Path, count: int = 12) -> PairsConfig:
    """Write `count` images whose left and right half have one of four colors each, which the texts name."""
    names, lines = list(COLORS), []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        left, right = names[number % 4], names[(number // 4 + number) % 4]
        pixels = np.zeros((24, 40, 3), np.uint8)
        pixels[:, :20], pixels[:, 20:] = COLORS[left], COLORS[right]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        clauses = [f"a {left} field on the left", f"with a {right} field on the right"]
        texts = [" ".join(clauses), f"a {left} field and a {right} field"]
        lines.append(json.dumps({"image": f"{number}.png", "text": texts, "clauses": clauses}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return PairsConfig(pairs=str(folder / "pairs.jsonl"))
