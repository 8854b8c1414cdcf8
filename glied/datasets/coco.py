"""Caption files in the COCO form: images [{id, file_name, ...}] and annotations [{image_id, caption}].

Also Karpathy's split of COCO, Flickr8k and Flickr30k (2015, arXiv 1412.2306; dataset_*.json), whose images
carry their captions and the name of their split, and splits of one's own.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from glied import storage
from glied.errors import UsageError

SPLITS = ("train", "val", "test")
PUBLISHED_COUNT = 5
"""Words that occur more often than this, in all splits together, are the published vocabulary."""


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


def write_captions(images: Iterable[CaptionedImage]) -> bytes:
    """A caption file as `load_images` reads it."""
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
    """What a dataset_*.json holds.

    Attributes:
        images: of each split, with their captions as they were written.
        published_words: words by the file's own tokens that occur more than `PUBLISHED_COUNT` times in all
            splits together, and one for the others: 9,487 for COCO.
        left_out: captions without a word, and images without a caption.
    """

    images: dict[str, list[CaptionedImage]]
    published_words: int
    left_out: int


def read_karpathy(content: Any, name: str, *, restval: bool = True) -> KarpathySplit:
    """Karpathy's split; `restval`, the part of COCO's validation images beside val and test, joins train.

    Raises:
        UsageError: `content`, of the file `name`, is not of this form.
    """
    images: dict[str, list[CaptionedImage]] = {split: [] for split in SPLITS}
    words: Counter[str] = Counter()
    left_out = 0
    try:
        for entry in content["images"]:
            split = "train" if entry["split"] == "restval" and restval else entry["split"]
            if split not in images:
                continue
            texts = [" ".join(str(one["raw"]).split()) for one in entry["sentences"]]
            kept = [text for text in texts if text]
            left_out += len(texts) - len(kept) + (not kept)
            words.update(word for one in entry["sentences"] for word in one["tokens"])
            number = int(entry["cocoid"] if "cocoid" in entry else entry["imgid"])
            if kept:
                images[split].append(CaptionedImage(number, _plain(str(entry["filename"]), name), kept))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{name} is no split of Karpathy's: {type(error).__name__} {error}") from error
    published = sum(count > PUBLISHED_COUNT for count in words.values())
    return KarpathySplit(images, published + (published < len(words)), left_out)


def _plain(name: str, where: str) -> str:
    """A file name, which must not lead anywhere else."""
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise UsageError(f"{where}: {name!r} is no plain file name")
    return name


def with_sizes(
    images: Iterable[CaptionedImage], entries: Iterable[Mapping[str, Any]]
) -> list[CaptionedImage]:
    """The images with their sizes from entries of COCO annotation files, by file name."""
    sizes = {one.get("file_name"): (one.get("width"), one.get("height")) for one in entries}
    found = [(image, sizes.get(image.file_name, (None, None))) for image in images]
    return [replace(image, width=width, height=height) for image, (width, height) in found]


def split_images(
    images: Sequence[CaptionedImage],
    *,
    val: int,
    test: int,
    seed: int,
    named: Mapping[str, Collection[str]],
) -> dict[str, list[CaptionedImage]]:
    """A split of one's own: named images, or numbers of them that are drawn.

    Images are drawn by the SHA-256 of "<seed> <file name>": those with the smallest are test, the next val.
    So the draw depends on no order and no machine, and images that are added later move few others.

    Args:
        images: all of them.
        val: how many are drawn, unless it is in `named`.
        test: likewise.
        seed: another one draws others.
        named: names (file name, stem or id) of the images of val, of test or of both; the rest is train.

    Raises:
        UsageError: a name is unknown, or in two splits, or nothing is left for training.
    """
    found = {
        image.file_name: split for split, names in named.items() for image in _named(images, names, split)
    }
    if len(found) < sum(len(set(names)) for names in named.values()):
        raise UsageError("an image is named in two splits, or twice by different names")
    free = sorted(
        (image for image in images if image.file_name not in found), key=lambda one: _draw(one, seed)
    )
    for split, count in (("test", test), ("val", val)):
        if split not in named:
            found |= {image.file_name: split for image in free[:count]}
            free = free[count:]
    if not free:
        raise UsageError(f"{len(images)} images leave none for training beside val and test")
    return {split: [one for one in images if found.get(one.file_name, "train") == split] for split in SPLITS}


def _named(images: Sequence[CaptionedImage], names: Collection[str], split: str) -> list[CaptionedImage]:
    known = by_alias(images)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"split {split} names {len(unknown)} images without captions, first {unknown[0]}")
    return [known[name] for name in names]


def _draw(image: CaptionedImage, seed: int) -> str:
    return hashlib.sha256(f"{seed} {image.file_name}".encode()).hexdigest()


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
