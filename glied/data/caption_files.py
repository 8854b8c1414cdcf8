"""The forms in which people have captions: COCO's JSON, lists, JSON lines, tables.

This module reads files into plain values; `glied.data.coco` says what they mean.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from glied import storage
from glied.data import json_values
from glied.errors import UsageError

FORMS = (
    "COCO's JSON, a JSON list or JSON lines (.jsonl) of objects with image and caption, or a table (.csv, "
    ".tsv) with the columns image and caption"
)
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
IMAGE_KEYS = ("file_name", "filename", "image", "image_id", "id", "uri")
"""Keys or columns that name an image; the first that is there counts."""
CAPTION_KEYS = ("caption", "captions", "text", "references")
_NEEDED = (
    "every entry needs image_id (or file_name, filename, image, id, uri) and caption (or captions, text, "
    "references)"
)
_LARGEST_FIELD = 1 << 24
_SURROGATES = re.compile("[\ud800-\udfff]+")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Entry:
    """An image and what a list or table says of it.

    Attributes:
        image: its name, or its id as text.
        captions: one or several; what is no caption is None.
        where: the file and the line or number, for messages.
    """

    image: str
    captions: list[str | None]
    where: str


def read(uri: str) -> dict[str, Any] | list[Entry]:
    """The object of a file in COCO's form, or the entries of any other.

    Raises:
        UsageError: there is no such file, or it has none of these forms.
    """
    return parse(read_text(uri), uri)


def parse(text: str, uri: str) -> dict[str, Any] | list[Entry]:
    """As `read`, of a file's text."""
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return list(_json_lines(text, uri))
    if suffix in (".csv", ".tsv"):
        return list(_table(text, uri, "\t" if suffix == ".tsv" else ","))
    if suffix == ".json" or text.lstrip()[:1] in ("{", "["):
        return _json(text, uri)
    return list(_table(text, uri, "\t" if "\t" in text.partition("\n")[0] else ","))


def read_text(uri: str) -> str:
    """The text of a file; raises as `decoded`, and where there is no such file."""
    try:
        return decoded(storage.read_bytes(uri), uri)
    except FileNotFoundError as error:
        raise UsageError(f"no caption file at {uri}: it can be {FORMS}") from error


def decoded(data: bytes, uri: str) -> str:
    """The text of a file, in UTF-8 or in what its byte order mark says.

    Raises:
        UsageError: it is no text.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x} at {error.start}"
        raise UsageError(f"{uri} is not UTF-8 ({byte}): save it as UTF-8; it can be {FORMS}") from error


def load_json(text: str, where: str) -> Any:
    """A JSON value.

    Raises:
        UsageError: it is none.
    """
    try:
        return json_values.loads(text)
    except RecursionError as error:
        raise UsageError(f"{where}: nested too deeply") from error
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}") from error


def _json(text: str, uri: str) -> dict[str, Any] | list[Entry]:
    try:
        value = load_json(text, uri)
    except UsageError:
        if not _looks_like_lines(text):
            raise
        return list(_json_lines(text, uri))
    if isinstance(value, list):
        return [_entry(item, f"{uri}, entry {number}") for number, item in enumerate(value, 1)]
    if not isinstance(value, dict):
        raise UsageError(f"{uri} holds no captions: it can be {FORMS}")
    if "images" in value or "annotations" in value:
        return value
    return [_entry(value, uri)]


def _looks_like_lines(text: str) -> bool:
    """Whether a file named .json has an entry a line."""
    try:
        first = json_values.loads(text.lstrip().partition("\n")[0])
        return isinstance(first, dict) and not {"images", "annotations"} & first.keys()
    except (ValueError, RecursionError):
        return False


def _json_lines(text: str, uri: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{uri}, line {number}"
            yield _entry(load_json(line, where), where)


def _entry(item: Any, where: str) -> Entry:
    keys = item if isinstance(item, Mapping) else {}
    name = next((item[key] for key in IMAGE_KEYS if key in keys), None)
    found: Any = next((item[key] for key in CAPTION_KEYS if key in keys), 0)
    captions: list[Any] = found if isinstance(found, list) else [found]
    if (
        isinstance(name, bool)
        or not isinstance(name, str | int)
        or name == ""
        or not all(caption is None or isinstance(caption, str) for caption in captions)
    ):
        raise UsageError(f"{where}: {_NEEDED}, got {short(item)}")
    return Entry(escaped(str(name)), [one and without_surrogates(one) for one in captions], where)


def _table(text: str, uri: str, delimiter: str) -> Iterator[Entry]:
    limit = csv.field_size_limit(_LARGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    last = 0  # line of the record before
    try:
        header = [column.strip().lower() for column in next(reader, [])]
        image = next((header.index(key) for key in IMAGE_KEYS if key in header), None)
        caption = next((header.index(key) for key in CAPTION_KEYS if key in header), None)
        if image is None or caption is None:
            raise UsageError(
                f"{uri}: {_NEEDED}, the columns are {short(', '.join(header))}. It can be {FORMS}"
            )
        last = reader.line_num
        for values in reader:
            where, last = f"{uri}, line {last + 1}", reader.line_num
            if not values:
                continue
            if len(values) != len(header):
                raise UsageError(
                    f"{where}: {len(values)} fields instead of {len(header)}; fields with a "
                    f"{'tab' if delimiter == chr(9) else 'comma'} in them need quotes"
                )
            if not values[image].strip():
                raise UsageError(f"{where}: names no image")
            yield Entry(values[image].strip(), [values[caption]], where)
    except csv.Error as error:
        raise UsageError(f"{uri}, line {last + 1}: {error}; is a quote open?") from error
    finally:
        csv.field_size_limit(limit)


def escaped(name: str) -> str:
    r"""A name in which lone surrogates, which no Parquet string can hold, are spelled out, as "\ud83d"."""
    return name.encode("utf-8", "backslashreplace").decode()


def without_surrogates(caption: str) -> str:
    """A caption without lone surrogates, which are halves of characters."""
    return _SURROGATES.sub(" ", caption)


def short(value: Any) -> str:
    """A value in a message."""
    text = escaped(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."
