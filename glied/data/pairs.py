"""Image-text pairs for training CLIP, from a captions file or JSON lines."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from glied import storage
from glied.data import caption_files
from glied.data.coco import load_captions
from glied.data.pickling import FieldsOnlyPickle
from glied.errors import UsageError

IMAGE_KEYS = ("image", "file_name")
"""Keys of JSON lines that name the image, in order of precedence."""
_TEXT_KEYS = ("text", "captions", "caption")


@dataclass(frozen=True)
class Pair:
    """An image and the texts that describe it.

    Attributes:
        image: URI.
        texts: each describes the image; validation uses the first.
        clauses: parts of the first text; any selection of them describes the image, too. May be empty.
    """

    image: str
    texts: list[str]
    clauses: list[str]


@dataclass(frozen=True, kw_only=True)
class PairsConfig(FieldsOnlyPickle):
    """Location of image-text pairs."""

    pairs: str
    """Captions file (COCO's .json, or a .csv or .tsv table), or .jsonl with image, text (one or a list) and
    optionally clauses, parts of the text of which any selection is true, as in descriptions.jsonl of
    jobs/make_scenes.py."""
    images: str | None = None
    """Folder (path or URI) of the images; by default the folder of a .jsonl file, or the folder images beside
    any other file."""

    @cached_property
    def all(self) -> list[Pair]:
        """The pairs in the order of the file.

        Raises:
            UsageError: the file is missing or malformed; the message names the line.
        """
        pairs = list(_json_lines(self)) if _is_lines(self.pairs) else _captions(self)
        if not pairs:
            raise UsageError(f"{self.pairs} has no pairs")
        return pairs

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file and of the location of its images."""
        return hashlib.sha256(f"{_folder(self)}\n".encode() + _read(self.pairs)).hexdigest()

    def uri_of(self, name: str) -> str:
        """The URI of the image that the file names so."""
        return storage.join(_folder(self), caption_files.escaped(name))


def _folder(config: PairsConfig) -> str:
    beside = config.pairs.rpartition("/")[0] or "."
    default = beside if _is_lines(config.pairs) else storage.join(beside, "images")
    return config.images or default


def _read(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise UsageError(f"no pairs at {uri}: a COCO captions file or JSON lines are expected") from error


def _is_lines(uri: str) -> bool:
    return uri.lower().endswith((".jsonl", ".ndjson"))


def _captions(config: PairsConfig) -> list[Pair]:
    folder = _folder(config)
    return [
        Pair(storage.join(folder, name), texts, []) for name, texts in load_captions(config.pairs).items()
    ]


def _json_lines(config: PairsConfig) -> Iterator[Pair]:
    folder = _folder(config)
    for number, line in enumerate(caption_files.decoded(_read(config.pairs), config.pairs).split("\n"), 1):
        if line.strip():
            yield _pair(line, folder, f"{config.pairs}, line {number}")


def _pair(line: str, folder: str, where: str) -> Pair:
    item: Any = caption_files.load_json(line, where)
    name = next((item[key] for key in IMAGE_KEYS if key in item), None) if isinstance(item, dict) else None
    if not isinstance(name, str) or not name:
        raise UsageError(f'{where}: expected an object with "image", its name below {folder}')
    text = next((item[key] for key in _TEXT_KEYS if key in item), None)
    texts, clauses = [text] if isinstance(text, str) else text, item.get("clauses", [])
    if not _texts(texts) or not texts:
        raise UsageError(f'{where}: expected "text", a text or a list of them, got {str(text)[:60]!r}')
    if not _texts(clauses):
        raise UsageError(f'{where}: "clauses" must be a list of texts, got {str(clauses)[:60]!r}')
    clean = caption_files.without_surrogates
    return Pair(
        storage.join(folder, caption_files.escaped(name)), [*map(clean, texts)], [*map(clean, clauses)]
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)
