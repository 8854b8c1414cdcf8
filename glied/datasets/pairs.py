"""Images with texts that fit them, from a COCO captions file or JSON lines: what CLIP learns from."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from glied import storage
from glied.datasets.cached import Light
from glied.datasets.coco import load_captions
from glied.errors import UsageError


@dataclass(frozen=True)
class Pair:
    """An image and what may be said of it.

    Attributes:
        image: URI.
        texts: each fits the image; the first is the one that validation uses.
        clauses: parts of the first text of which any selection fits the image, too; may be empty.
    """

    image: str
    texts: list[str]
    clauses: list[str]


@dataclass(frozen=True, kw_only=True)
class PairsConfig(Light):
    """Where pairs are."""

    pairs: str
    """Captions file in the COCO form (.json), or .jsonl with image, text (one or a list) and maybe clauses,
    parts of the text of which any selection is true, as in descriptions.jsonl of jobs/make_scenes.py."""
    images: str | None = None
    """Folder (path or URI) below which the images are named; by default the folder of a .jsonl file, and the
    folder images beside a .json file."""

    @cached_property
    def all(self) -> list[Pair]:
        """The pairs in the order of the file.

        Raises:
            UsageError: the file is missing or not of its form; the line is named.
        """
        found = list(_json_lines(self)) if self.pairs.endswith(".jsonl") else _coco(self)
        if not found:
            raise UsageError(f"{self.pairs} has no pairs")
        return found

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file and of where its images are."""
        return hashlib.sha256(f"{_folder(self)}\n".encode() + _read(self.pairs)).hexdigest()


def _folder(config: PairsConfig) -> str:
    beside = config.pairs.rpartition("/")[0] or "."
    default = beside if config.pairs.endswith(".jsonl") else storage.join(beside, "images")
    return config.images or default


def _read(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise UsageError(f"no pairs at {uri}: a COCO captions file or JSON lines are expected") from error


def _coco(config: PairsConfig) -> list[Pair]:
    folder = _folder(config)
    return [
        Pair(storage.join(folder, name), texts, []) for name, texts in load_captions(config.pairs).items()
    ]


def _json_lines(config: PairsConfig) -> Iterator[Pair]:
    folder = _folder(config)
    for number, line in enumerate(_read(config.pairs).decode().split("\n"), 1):
        if line.strip():
            yield _pair(line, folder, f"{config.pairs}, line {number}")


def _pair(line: str, folder: str, where: str) -> Pair:
    try:
        item: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}") from error
    if not isinstance(item, dict) or not isinstance(item.get("image"), str):
        raise UsageError(f'{where}: expected an object with "image", its name below {folder}')
    text = item.get("text")
    texts, clauses = [text] if isinstance(text, str) else text, item.get("clauses", [])
    if not _texts(texts) or not texts:
        raise UsageError(f'{where}: expected "text", a text or a list of them, got {str(text)[:60]!r}')
    if not _texts(clauses):
        raise UsageError(f'{where}: "clauses" must be a list of texts, got {str(clauses)[:60]!r}')
    return Pair(storage.join(folder, item["image"]), texts, clauses)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)
