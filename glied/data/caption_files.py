"""Readers of caption files: COCO's JSON, JSON lists, JSON lines, and tables.

This module parses files into plain values; `glied.data.coco` interprets them.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from glied import storage
from glied.data import json_values
from glied.data.delimiters import find_delimiter
from glied.errors import UsageError

FORMS = (
    "COCO's JSON, a JSON list or JSON lines (.jsonl) of objects with image and caption, or a table (.csv, "
    ".tsv) with the columns image and caption"
)
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
IMAGE_KEYS = ("file_name", "filename", "image", "image_id", "id", "uri")
"""Keys or columns that name an image, in order of precedence."""
CAPTION_KEYS = ("caption", "captions", "text", "references")
_NEEDED = (
    "every entry needs image_id (or file_name, filename, image, id, uri) and caption (or captions, text, "
    "references)"
)
_LARGEST_FIELD = 1 << 24
_DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
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
    """One entry of a caption list or table.

    Attributes:
        image: name of the image, or its id as text.
        captions: one or several captions; None for null.
        where: file and line or entry number, for messages.
    """

    image: str
    captions: list[str | None]
    where: str


def read(uri: str) -> dict[str, Any] | list[Entry]:
    """Read a caption file: the JSON object of a COCO file, or the entries of any other file.

    Raises:
        UsageError: there is no such file, it has no entries, or its format is not supported.
    """
    return parse(read_text(uri), uri)


def parse(text: str, uri: str) -> dict[str, Any] | list[Entry]:
    """Parse the text of a caption file, as `read` does."""
    if not text.strip():
        raise UsageError(f"{uri} is empty; it can be {FORMS}")
    content = _parsed(text, uri)
    if not content:
        what = "an empty list" if text.lstrip().startswith("[") else "a header without rows below it"
        raise UsageError(f"{uri} has no captions: it is {what}")
    return content


def _parsed(text: str, uri: str) -> dict[str, Any] | list[Entry]:
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return list(_json_lines(text, uri))
    if suffix in (".csv", ".tsv"):
        return list(_table(text, uri, "\t" if suffix == ".tsv" else ","))
    if suffix == ".json" or text.lstrip()[:1] in ("{", "["):
        return _json(text, uri)
    return list(_table(text, uri, "\t" if "\t" in text.partition("\n")[0] else ","))


def read_text(uri: str) -> str:
    """Read a file as text; raises as `decoded`, and `UsageError` if there is no such file."""
    try:
        return decoded(storage.read_bytes(uri), uri)
    except FileNotFoundError as error:
        raise UsageError(f"no caption file at {uri}: it can be {FORMS}") from error


def decoded(data: bytes, uri: str) -> str:
    """Decode a file as UTF-8, or in the encoding of its byte order mark.

    Raises:
        UsageError: the bytes are not text in that encoding.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x} at {error.start}"
        raise UsageError(f"{uri} is not UTF-8 ({byte}): save it as UTF-8; it can be {FORMS}") from error


def load_json(text: str, where: str) -> Any:
    """Parse a JSON value.

    Raises:
        UsageError: the text is not JSON.
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
        raise UsageError(f"{uri} does not contain captions: it can be {FORMS}")
    if "images" in value or "annotations" in value:
        return value
    return [_entry(value, uri)]


def _looks_like_lines(text: str) -> bool:
    """Whether a file named .json contains one entry per line."""
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
    value: Any = next((item[key] for key in CAPTION_KEYS if key in keys), 0)
    captions: list[Any] = value if isinstance(value, list) else [value]
    if (
        isinstance(name, bool)
        or not isinstance(name, str | int)
        or name == ""
        or not all(caption is None or isinstance(caption, str) for caption in captions)
    ):
        raise UsageError(f"{where}: {_NEEDED}, got {short(item)}")
    return Entry(escaped(str(name)), [one and without_surrogates(one) for one in captions], where)


def _table(text: str, uri: str, usual: str) -> Iterator[Entry]:
    """The rows of a table; its header shows its delimiter."""
    limit = csv.field_size_limit(_LARGEST_FIELD)
    last = 0  # last line of the previous record
    try:
        delimiter = find_delimiter(usual, partial(_has_columns, text))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = next(filter(None, reader), [])
        image, caption = (_column(header, keys) for keys in (IMAGE_KEYS, CAPTION_KEYS))
        if image is None or caption is None:
            columns = short(", ".join(column.strip().lower() for column in header))
            raise UsageError(f"{uri}: {_NEEDED}, the columns are {columns}. It can be {FORMS}")
        last = reader.line_num
        for values in reader:
            where, last = f"{uri}, line {last + 1}", reader.line_num
            if not values:
                continue
            if len(values) != len(header):
                raise UsageError(
                    f"{where}: {len(values)} fields instead of {len(header)}; fields that contain a "
                    f"{_DELIMITER_NAMES[delimiter]} need quotes"
                )
            if not values[image].strip():
                raise UsageError(f"{where}: the image name is empty")
            yield Entry(values[image].strip(), [values[caption]], where)
    except csv.Error as error:
        raise UsageError(f"{uri}, line {last + 1}: {error}; is a closing quote missing?") from error
    finally:
        csv.field_size_limit(limit)


def _has_columns(text: str, delimiter: str) -> bool:
    """Whether the first line, split at this delimiter, names images and captions."""
    line = next(filter(str.strip, io.StringIO(text, newline="")), "")
    header = next(csv.reader([line], delimiter=delimiter), [])
    return None not in (_column(header, IMAGE_KEYS), _column(header, CAPTION_KEYS))


def _column(header: Sequence[str], keys: Sequence[str]) -> int | None:
    """The column with the first of these names, in any case, that the header has."""
    columns = [column.strip().lower() for column in header]
    return next((columns.index(key) for key in keys if key in columns), None)


def escaped(name: str) -> str:
    r"""Escape lone surrogates in a name, e.g. as "\ud83d"; Parquet strings cannot contain them."""
    return name.encode("utf-8", "backslashreplace").decode()


def without_surrogates(caption: str) -> str:
    """Remove lone surrogates, which are halves of characters, from a caption."""
    return _SURROGATES.sub(" ", caption)


def short(value: Any) -> str:
    """Format a value for a message, truncated to 80 characters."""
    text = escaped(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."
