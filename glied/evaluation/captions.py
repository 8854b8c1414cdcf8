"""Captions from the files people have them in, and the references that go with them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from glied import storage
from glied.bulk.results import read_rows
from glied.datasets.coco import load_images
from glied.errors import UsageError


def read_captions(uri: str) -> dict[str, str]:
    """Caption by image, from a run folder, COCO results JSON or JSONL.

    Images are named by file name (the last part of a run's ids) or by COCO image id, as text. Those without a
    caption (rejected or failed) get an empty one, so that a run cannot gain by leaving out what is hard.

    Raises:
        UsageError: the file is of no such form, or names an image twice.
    """
    if uri.endswith((".json", ".jsonl")):
        pairs = [_pair(item, uri) for item in _items(uri)]
    else:
        pairs = [(row["id"], row["caption"] or "") for row in read_rows(uri)]
    captions = {base_name(name): caption for name, caption in pairs}
    if len(captions) < len(pairs):
        raise UsageError(f"{uri}: {len(pairs) - len(captions)} images are named twice")
    return captions


def read_references(uri: str, names: Sequence[str]) -> dict[str, list[str]]:
    """References of the named images (file names or COCO ids as text), from a COCO captions file.

    Raises:
        UsageError: the file is missing or of another form, or does not know one of the images.
    """
    images = load_images(uri)
    known = {str(image.id): image.captions for image in images}
    known |= {image.file_name: image.captions for image in images}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"{uri} has no references for {len(unknown)} captioned images: {', '.join(unknown[:5])}"
        )
    return {name: known[name] for name in names}


def base_name(image_id: str) -> str:
    """The file name in a run's id, which is the path below the run's input."""
    return image_id.rsplit("/", 1)[-1]


def _items(uri: str) -> Sequence[Any]:
    try:
        text = storage.read_bytes(uri).decode()
        return (
            [json.loads(line) for line in text.splitlines()] if uri.endswith(".jsonl") else json.loads(text)
        )
    except FileNotFoundError as error:
        raise UsageError(f"--captions {uri}: no such file") from error
    except ValueError as error:
        raise UsageError(f"--captions {uri}: not valid JSON: {error}") from error


def _pair(item: Any, uri: str) -> tuple[str, str]:
    name = item.get("image_id", item.get("id")) if isinstance(item, Mapping) else None
    if name is None or not isinstance(item.get("caption"), str):
        raise UsageError(f"{uri}: every entry needs image_id (or id) and caption, got {str(item)[:80]}")
    return str(name), item["caption"]
