"""Captions from the files people have them in, and the references that go with them."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glied import storage
from glied.bulk.results import read_rows
from glied.datasets.coco import load_images
from glied.errors import UsageError

NAMED = 5
"""So many ids stand in a message; their number always does."""


def read_captions(uri: str) -> dict[str, str]:
    """Caption by image, from a run folder, COCO results JSON or JSONL.

    Images are named by file name (the last part of a run's ids) or by COCO image id, as text. Those without a
    caption (rejected or failed, null in JSONL) get an empty one, so that a run cannot gain by leaving out
    what is hard.

    Raises:
        UsageError: the file is of no such form, or names an image twice.
    """
    if uri.endswith((".json", ".jsonl")):
        pairs = [_pair(item, uri) for item in _items(uri)]
    else:
        pairs = [(row["id"], row["caption"] or "") for row in read_rows(uri)]
    counts = Counter(base_name(name) for name, _ in pairs)
    twice = [name for name, _ in pairs if counts[base_name(name)] > 1]
    if twice:
        raise UsageError(
            f"{uri}: {sum(n > 1 for n in counts.values())} images are named twice: {some(twice)}"
        )
    return {base_name(name): caption for name, caption in pairs}


def match_captions(
    captions: Mapping[str, str],
    aliases: Mapping[str, Iterable[str]],
    *,
    uri: str,
    source: str,
    partial: bool = False,
) -> dict[str, str]:
    """The caption of every image of a set, in the order of the set.

    Args:
        captions: caption by any name of its image.
        aliases: by image, the names it goes by.
        uri: where the captions are from, for messages.
        source: where the set is from, for messages.
        partial: leave out images without a caption instead of refusing.

    Raises:
        UsageError: an image has no caption, or two under different names, or a captioned image is unknown.
    """
    names = _by_alias(aliases)
    unknown = [name for name in captions if name not in names]
    if unknown:
        raise UsageError(f"{uri}: {source} does not know {len(unknown)} captioned images: {some(unknown)}")
    counts = Counter(names[name] for name in captions)
    twice = [name for name in captions if counts[names[name]] > 1]
    if twice:
        raise UsageError(
            f"{uri}: {sum(n > 1 for n in counts.values())} images are named twice: {some(twice)}"
        )
    missing = [name for name in aliases if name not in counts]
    if missing and (not partial or not counts):
        raise UsageError(
            f"{uri}: {len(missing)} of the {len(aliases)} images of {source} have no caption: {some(missing)}"
            + (". --partial true scores the others" if counts else "")
        )
    found = {names[name]: caption for name, caption in captions.items()}
    return {name: found[name] for name in aliases if name in found}


def coco_aliases(uri: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The images of a COCO captions file by file name: their references, and the names they go by.

    Raises:
        UsageError: as `load_images`.
    """
    images = load_images(uri)
    references = {image.file_name: image.captions for image in images}
    return references, {i.file_name: [i.file_name, base_name(i.file_name), str(i.id)] for i in images}


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
        raise UsageError(f"{uri} has no references for {len(unknown)} captioned images: {some(unknown)}")
    return {name: known[name] for name in names}


def base_name(image_id: str) -> str:
    """The file name in a run's id, which is the path below the run's input."""
    return image_id.rsplit("/", 1)[-1]


def some(names: Sequence[str]) -> str:
    """The first few names of a list that may be long."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _by_alias(aliases: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Image by each of its names; its own is always its own, what two images share otherwise is nobody's."""
    names: dict[str, str | None] = {}
    for image, others in aliases.items():
        for other in set(others):
            names[other] = image if other not in names else None
    return {other: image for other, image in names.items() if image} | {image: image for image in aliases}


def _items(uri: str) -> Sequence[Any]:
    try:
        text = storage.read_bytes(uri).decode()
        if uri.endswith(".jsonl"):
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        items = json.loads(text)
    except FileNotFoundError as error:
        raise UsageError(f"--captions {uri}: no such file") from error
    except ValueError as error:
        raise UsageError(f"--captions {uri}: not valid JSON: {error}") from error
    if not isinstance(items, list):
        raise UsageError(f"{uri}: not COCO results: a list of image_id and caption is expected")
    return items


def _pair(item: Any, uri: str) -> tuple[str, str]:
    name = item.get("image_id", item.get("id")) if isinstance(item, Mapping) else None
    # JSONL of a run has null where an image has no caption; an entry without the key is a mistake.
    caption = item.get("caption", 0) if isinstance(item, Mapping) else 0
    if isinstance(name, bool) or not isinstance(name, str | int) or not isinstance(caption, str | None):
        raise UsageError(f"{uri}: every entry needs image_id (or id) and caption, got {str(item)[:80]}")
    return str(name), caption or ""
