"""Small files in the format of COCO and Karpathy's splits."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PLACES = ("beach", "street", "field", "kitchen")
KINDS = ("dog", "cat", "man", "woman", "horse")
COUNTS = {"train": 8, "restval": 4, "val": 3, "test": 3}


def entry(number: int, split: str) -> dict[str, Any]:
    """Return an image of dataset_coco.json."""
    folder = "train2014" if split == "train" else "val2014"
    kind, place = KINDS[number % 5], PLACES[number % 4]
    raws = [f"A {kind} on a {place}.", f"The {kind} is at the {place}!\n", f"a {kind}, {place}"]
    sentences = [
        {"raw": raw, "tokens": raw.lower().replace(",", "").strip(" .!\n").split(), "sentid": 10 * number + i}
        for i, raw in enumerate(raws)
    ]
    name = f"COCO_{folder}_{number:012d}.jpg"
    return {"filepath": folder, "filename": name, "cocoid": number, "split": split, "sentences": sentences}


def karpathy() -> dict[str, Any]:
    """Return a dataset_coco.json with 18 images."""
    splits = [split for split, count in COUNTS.items() for _ in range(count)]
    return {"dataset": "coco", "images": [entry(100 + i, split) for i, split in enumerate(splits)]}


def jpeg(number: int) -> bytes:
    """Return a small photograph that differs for each number."""
    pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).resize((64, 48)).save(data, "JPEG")
    return data.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    """Write a zip with these members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def publish(folder: Path) -> None:
    """Write caption_datasets.zip, annotations_trainval2014.zip, train2014.zip and val2014.zip."""
    folder.mkdir()
    content = karpathy()
    others = {"dataset_flickr8k.json": b"{}", "../dataset_flickr30k.json": b"{}"}
    write_zip(folder / "caption_datasets.zip", {"dataset_coco.json": json.dumps(content).encode(), **others})
    for name in ("train2014", "val2014"):
        images = [one for one in content["images"] if one["filepath"] == name]
        members = {f"{name}/{one['filename']}": jpeg(one["cocoid"]) for one in images}
        write_zip(folder / f"{name}.zip", members | {f"{name}/": b"", "../../evil.jpg": b"evil"})
    sizes = [{"file_name": one["filename"], "width": 64, "height": 48} for one in content["images"]]
    annotations = {"annotations/captions_train2014.json": json.dumps({"images": sizes}).encode()}
    write_zip(folder / "annotations_trainval2014.zip", annotations)
