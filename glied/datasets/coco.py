"""Caption files in the COCO form: images [{id, file_name, ...}] and annotations [{image_id, caption}]."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from glied import storage
from glied.errors import UsageError


@dataclass(frozen=True)
class CaptionedImage:
    """An image of a caption file with its references, of which there is at least one."""

    id: int
    file_name: str
    captions: list[str]
    width: int | None = None
    height: int | None = None


def load_captions(uri: str) -> dict[str, list[str]]:
    """Returns the reference captions of each image by file name, in the order of the file; raises as
    `load_images`."""
    return {image.file_name: image.captions for image in load_images(uri)}


def load_images(uri: str) -> list[CaptionedImage]:
    """Returns all images of a caption file with their captions, in the order of the file.

    Raises:
        UsageError: the file is missing or not of this form, an id or file name stands twice, an annotation
        names an unknown image, or an image has no caption.
    """
    content = _read(uri)
    images: dict[int, CaptionedImage] = {}
    names: set[str] = set()
    for entry in content["images"]:
        number, name = _get(uri, entry, "id"), _get(uri, entry, "file_name")
        image = CaptionedImage(number, name, [], entry.get("width"), entry.get("height"))
        if image.id in images or image.file_name in names:
            raise UsageError(f"{uri}: image {image.id} ({image.file_name}) stands twice")
        images[image.id] = image
        names.add(image.file_name)
    for entry in content["annotations"]:
        image_id, caption = _get(uri, entry, "image_id"), _get(uri, entry, "caption")
        if image_id not in images:
            raise UsageError(f"{uri}: an annotation names image {image_id}, which is not among the images")
        if not isinstance(caption, str) or not caption.strip():
            raise UsageError(f"{uri}: image {image_id} has an empty caption")
        images[image_id].captions.append(caption)
    for image in images.values():
        if not image.captions:
            raise UsageError(f"{uri}: image {image.id} ({image.file_name}) has no caption")
    return list(images.values())


def by_alias(images: Iterable[CaptionedImage]) -> dict[str, CaptionedImage]:
    """Images by what they are called elsewhere: file name, its stem, id.

    A file name is always its own image's; a stem or an id that two images share is nobody's.
    """
    every = list(images)
    found: dict[str, CaptionedImage | None] = {}
    for image in every:
        for name in {PurePosixPath(image.file_name).stem, str(image.id)}:
            found[name] = None if name in found else image
    known = {name: image for name, image in found.items() if image is not None}
    return known | {image.file_name: image for image in every}


def _read(uri: str) -> dict[str, list[Any]]:
    try:
        content = json.loads(storage.read_bytes(uri))
    except FileNotFoundError as error:
        raise UsageError(f"no caption file at {uri}") from error
    except ValueError as error:
        raise UsageError(f"{uri} is not JSON: {error}") from error
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UsageError(f"{uri} is not a COCO caption file: it has no list {key!r}")
    return content


def _get(uri: str, entry: Any, key: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise UsageError(f"{uri}: an entry has no {key!r}: {str(entry)[:80]}")
    return entry[key]
