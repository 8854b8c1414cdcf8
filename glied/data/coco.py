"""Reader of caption files in COCO's format and other formats, and their splits.

COCO's format has images [{id, file_name, ...}] and annotations [{image_id, caption}]. This module also reads
Karpathy's splits of COCO, Flickr8k and Flickr30k (2015, arXiv 1412.2306; dataset_*.json), whose images hold
their captions and the name of their split, and splits your own captions.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from glied.data import caption_files
from glied.data.caption_files import Entry, escaped, short, without_surrogates
from glied.data.image_names import ImageNames, parts
from glied.errors import UsageError

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
PUBLISHED_COUNT = 5
"""The published vocabulary has the words that occur more often than this in all splits together."""
EMPTY, UNKNOWN = "empty captions", "captions of images that are not listed"
"""Kinds of entries that are skipped."""


@dataclass(frozen=True)
class CaptionedImage:
    """An image of a caption file with at least one reference caption.

    Attributes:
        id: id in the file, or the name if the file has no ids.
        file_name: name in the file, with folders; lone surrogates are escaped.
        captions: the captions that are not empty.
        width: in pixels, if the file contains it.
        height: in pixels, if the file contains it.
    """

    id: int | str
    file_name: str
    captions: list[str]
    width: int | None = None
    height: int | None = None


def load_captions(uri: str) -> dict[str, list[str]]:
    """Load the references of each image by file name, in the order of the file; raises as `load_images`."""
    return {image.file_name: image.captions for image in load_images(uri)}


def load_images(uri: str) -> list[CaptionedImage]:
    """Load all images with captions from a caption file, in the order of the file.

    COCO's format is read as COCO's own tools do: annotations refer to images by id, and an image that is
    listed twice counts once. Empty captions, images without captions and annotations of unlisted images are
    skipped and counted in a warning. Lists, JSON lines and tables are read as well.

    Raises:
        UsageError: the file is missing or has an unknown format, an id or file name is invalid or used by two
            images, a caption is not text, or no image has a caption.
    """
    content = caption_files.read(uri)
    images, skipped = _of_coco(uri, content) if isinstance(content, dict) else _of_entries(content)
    captioned = [image for image in images if image.captions]
    skipped["images without a caption"] = len(images) - len(captioned)
    if not captioned:
        raise UsageError(f"{uri}: none of its {len(images)} images has a caption{_hint(skipped)}")
    if any(skipped.values()):
        log.warning("%s: skipped %s", uri, _counts(skipped))
    return captioned


def _of_coco(uri: str, content: dict[str, Any]) -> tuple[list[CaptionedImage], dict[str, int]]:
    """Return the images of a file in COCO's format, and the numbers of skipped entries by kind."""
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            raise UsageError(f"{uri} is not a COCO caption file: it has no list {key!r}")
    images: dict[int | str, CaptionedImage] = {}
    owners: dict[str, int | str] = {}
    for entry in content["images"]:
        image = _image(uri, entry)
        known = images.setdefault(image.id, image)
        if known.file_name != image.file_name or owners.setdefault(image.file_name, image.id) != image.id:
            other = known.file_name if known is not image else f"image {owners[image.file_name]}"
            raise UsageError(f"{uri}: image {image.id} ({image.file_name}) is a duplicate of {other}")
    skipped = {EMPTY: 0, UNKNOWN: 0}
    for entry in content["annotations"]:
        number, caption = _identifier(uri, entry, "image_id"), _get(uri, entry, "caption")
        if not isinstance(caption, str):
            what = f"a caption of image {number} is {short(caption)}"
            raise UsageError(f"{uri}: {what}: it must be text, one annotation per caption")
        if number not in images:
            skipped[UNKNOWN] += 1
        elif not caption.strip():
            skipped[EMPTY] += 1
        else:
            images[number].captions.append(without_surrogates(caption))
    return list(images.values()), skipped


def _of_entries(entries: Iterable[Entry]) -> tuple[list[CaptionedImage], dict[str, int]]:
    """Return the images of a list or a table, which may contain an image several times."""
    images: dict[str, CaptionedImage] = {}
    skipped = {EMPTY: 0}
    for entry in entries:
        image = images.setdefault(entry.image, CaptionedImage(entry.image, entry.image, []))
        texts = [text for text in entry.captions if text and text.strip()]
        image.captions.extend(texts)
        skipped[EMPTY] += len(entry.captions) - len(texts)
    return list(images.values()), skipped


def _image(uri: str, entry: Any) -> CaptionedImage:
    """Parse an entry of "images"; the image has no captions yet."""
    number, name = _identifier(uri, entry, "id"), _get(uri, entry, "file_name")
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"{uri}: image {number} has the file_name {short(name)}: it must be text")
    return CaptionedImage(number, escaped(name), [], *(_size(entry.get(key)) for key in ("width", "height")))


def _size(value: Any) -> int | None:
    """Return a width or height, or None if the value is not a number of pixels."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _identifier(uri: str, entry: Any, key: str) -> int | str:
    """Return an image id, an integer or a text."""
    value = _get(uri, entry, key)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise UsageError(f"{uri}: {key} {short(value)} is neither a whole number nor a text")
    return escaped(value) if isinstance(value, str) else value


def _counts(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in skipped.items() if count)


def _hint(skipped: Mapping[str, int]) -> str:
    left_out = {what: count for what, count in skipped.items() if count and "without" not in what}
    text = f" ({_counts(left_out)})" if left_out else ""
    return text + (': ids "1" and 1 are not the same' if left_out.get(UNKNOWN) else "")


def by_alias(images: Iterable[CaptionedImage]) -> dict[str, CaptionedImage]:
    """Index images by their aliases: file name, name without folders, its stem, and id.

    A file name always refers to its own image; any other alias that two images share is dropped.
    """
    every = list(images)
    aliases: dict[str, CaptionedImage | None] = {}
    for image in every:
        for name in {*_short_names(image.file_name), str(image.id)}:
            aliases[name] = None if name in aliases else image
    known = {name: image for name, image in aliases.items() if image is not None}
    return known | {image.file_name: image for image in every}


def _short_names(file_name: str) -> list[str]:
    """Return the name without folders, and the same without its suffix."""
    return [name for last in parts(file_name)[:1] for name in (last, PurePosixPath(last).stem)]


def write_captions(images: Iterable[CaptionedImage]) -> bytes:
    """Write a caption file in COCO's format, which `load_images` reads."""
    every = list(images)
    entries = [
        {"id": one.id, "file_name": one.file_name}
        | ({"width": one.width, "height": one.height} if one.width and one.height else {})
        for one in every
    ]
    texts = [(one.id, text) for one in every for text in one.captions]
    annotations = [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(texts)]
    return json.dumps({"images": entries, "annotations": annotations}).encode()


@dataclass(frozen=True)
class KarpathySplit:
    """The content of a dataset_*.json.

    Attributes:
        images: images of each split, with their raw captions.
        published_words: number of the file's own tokens that occur more than `PUBLISHED_COUNT` times in all
            splits together, plus one for all others; 9,487 for COCO.
        left_out: number of skipped empty captions and images without captions.
    """

    images: dict[str, list[CaptionedImage]]
    published_words: int
    left_out: int


def read_karpathy(content: Any, name: str, *, restval: bool = True) -> KarpathySplit:
    """Parse one of Karpathy's splits; with `restval`, COCO's remaining validation images are added to train.

    Raises:
        UsageError: `content`, from the file `name`, has another format.
    """
    images: dict[str, list[CaptionedImage]] = {split: [] for split in SPLITS}
    words: Counter[str] = Counter()
    left_out = 0
    try:
        for entry in content["images"]:
            split = "train" if entry["split"] == "restval" and restval else entry["split"]
            if split not in images:
                continue
            texts = [" ".join(without_surrogates(str(one["raw"])).split()) for one in entry["sentences"]]
            kept = [text for text in texts if text]
            left_out += len(texts) - len(kept) + (not kept)
            words.update(word for one in entry["sentences"] for word in one["tokens"])
            number = int(entry["cocoid"] if "cocoid" in entry else entry["imgid"])
            if kept:
                images[split].append(CaptionedImage(number, _plain(str(entry["filename"]), name), kept))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{name} is not a Karpathy split: {type(error).__name__} {error}") from error
    published = sum(count > PUBLISHED_COUNT for count in words.values())
    return KarpathySplit(images, published + (published < len(words)), left_out)


def _plain(name: str, where: str) -> str:
    """Check that a name is a plain file name, without folders."""
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise UsageError(f"{where}: {name!r} is not a plain file name")
    return name


def with_sizes(
    images: Iterable[CaptionedImage], entries: Iterable[Mapping[str, Any]]
) -> list[CaptionedImage]:
    """Add the sizes from entries of COCO annotation files to images, matched by file name."""
    sizes = {one.get("file_name"): (one.get("width"), one.get("height")) for one in entries}
    sized = [(image, sizes.get(image.file_name, (None, None))) for image in images]
    return [replace(image, width=width, height=height) for image, (width, height) in sized]


def split_images(
    images: Sequence[CaptionedImage],
    *,
    val: int,
    test: int,
    seed: int,
    named: Mapping[str, Collection[str]],
) -> dict[str, list[CaptionedImage]]:
    """Split images into train, val and test, by lists of names or by drawing.

    Images are ranked by the SHA-256 of "<seed> <file name>": those with the smallest hashes become test, the
    next ones val. The result is therefore independent of the order of the images and of the machine, and
    adding images later moves few others. Folders are ignored, unless images in several folders have the same
    name.

    Args:
        images: all images.
        val: number of images to draw, unless "val" is in `named`.
        test: number of images to draw, unless "test" is in `named`.
        seed: seed of the drawing.
        named: names (file name, stem or id) of the images of val, test or both; all others are train.

    Raises:
        UsageError: a name is unknown or in two splits, or no images are left for training.
    """
    assigned = {
        image.file_name: split for split, names in named.items() for image in _named(images, names, split)
    }
    if len(assigned) < sum(len(set(names)) for names in named.values()):
        options = " and ".join(f"split.{split}_list" for split in named)
        raise UsageError(f"{options}: an image is named in two splits, or twice by different names")
    drawn = _draws(images, seed)
    free = sorted(
        (image for image in images if image.file_name not in assigned), key=lambda one: drawn[one.file_name]
    )
    for split, count in (("test", test), ("val", val)):
        if split not in named:
            assigned |= {image.file_name: split for image in free[:count]}
            free = free[count:]
    if not free:
        numbers = ", ".join(
            f"split.{split} ({count})"
            for split, count in (("val", val), ("test", test))
            if split not in named
        )
        raise UsageError(
            f"val and test take all {len(images)} images and leave none for training"
            + (f": lower {numbers}" if numbers else ": split.val_list and split.test_list name all of them")
        )
    return {
        split: [one for one in images if assigned.get(one.file_name, "train") == split] for split in SPLITS
    }


def _named(images: Sequence[CaptionedImage], names: Collection[str], split: str) -> list[CaptionedImage]:
    known = by_alias(images)
    joined = ImageNames((image.file_name for image in images), "the captions")
    matches = {name: known.get(name) or known.get(joined.find(name) or "") for name in names}
    unknown = [name for name, image in matches.items() if image is None]
    if unknown:
        count = f"{len(unknown)} of its {len(matches)} images"
        raise UsageError(f"split.{split}_list: {count} have no captions, first {unknown[0]}")
    return [image for image in matches.values() if image is not None]


def _draws(images: Sequence[CaptionedImage], seed: int) -> dict[str, str]:
    """Return the hash by which each image is ranked."""
    names = [("".join(parts(image.file_name)[:1]), image.file_name) for image in images]
    counts = Counter(last for last, _ in names)
    return {
        name: hashlib.sha256(f"{seed} {last if counts[last] == 1 else name}".encode()).hexdigest()
        for last, name in names
    }


def _get(uri: str, entry: Any, key: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise UsageError(f"{uri}: an entry has no {key!r}: {short(entry)}")
    return entry[key]
