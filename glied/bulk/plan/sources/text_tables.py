"""Rows of CSV and JSON files. A malformed row has a fault, and reading continues at the next line."""

import codecs
import csv
import gzip
import io
import itertools
import json
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from glied import storage
from glied.bulk.plan.sources.input_columns import distinct, escaped, number_id
from glied.bulk.plan.sources.listing import BrokenShard
from glied.data import json_values
from glied.data.delimiters import find_delimiter
from glied.errors import StorageError, UsageError

_CSV, _JSON = (".csv", ".tsv"), (".jsonl", ".ndjson")
FOLDER_ENDINGS = tuple(ending + packed for ending in (*_CSV, *_JSON) for packed in ("", ".gz"))
ENDINGS = (*FOLDER_ENDINGS, ".json", ".json.gz")
"""A .json file must be named explicitly: in a folder it is usually metadata."""
RECORD_CHARACTERS = 1 << 24
"""A quote that is still open after this much text counts as not closed."""
_LIMIT = threading.Lock()
_READ_AHEAD = 1 << 20
_GZIP = b"\x1f\x8b"


class TextRow(NamedTuple):
    """A row: its values as text, by column, and what is wrong with it, if anything.

    Text that is not valid UTF-8 holds lone surrogates, as Python's "surrogateescape" puts them.
    """

    values: dict[str, str | None]
    fault: str | None = None


class TextTable:
    """A CSV or JSON file, plain or gzipped; the header of a CSV file shows its delimiter.

    Attributes:
        columns: names of the columns; empty where the file has no rows, or none that can be read.
    """

    def __init__(self, uri: str, name: str, wanted: str, id_column: str | None = None) -> None:
        """Finds the columns; `name` has the ending, and `wanted` is a column whose values are text.

        `id_column` is one whose values are text or numbers.

        Raises:
            BrokenShard: it is damaged before its first row.
            UsageError: there is no such file, or its header cannot be read.
            StorageError: it cannot be read.
        """
        self.uri = uri
        self.wanted = wanted
        self.id_column = id_column
        self._packed = name.lower().endswith(".gz")
        ending = name.lower().removesuffix(".gz")
        self._delimiter: str | None = None
        if ending.endswith(_CSV):
            self._delimiter = self._find_delimiter("\t" if ending.endswith(".tsv") else ",")
        else:
            self._as_array = self._is_array()
        self.columns = self._keys() if self._delimiter is None else self._header()

    def rows(self) -> Iterator[TextRow]:
        """The rows in order, without blank lines.

        Raises:
            BrokenShard: it is damaged from here on.
            StorageError: it cannot be read.
        """
        with self._lines() as lines:
            if self._delimiter is not None:
                return (yield from _csv_rows(lines, self._delimiter, self.columns))
            if self._as_array:
                return (yield from self._array_rows(lines))
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield self._json_row(line, number)

    def _find_delimiter(self, usual: str) -> str:
        """The usual delimiter, unless only another one gives the header the wanted column."""
        with self._lines() as lines:
            first = next((line for line in lines if line.strip()), "")

        def fits(delimiter: str) -> bool:
            return any(self.wanted in _stripped(one.values) for one in _records([first], delimiter))

        return find_delimiter(usual, fits)

    def _header(self) -> list[str]:
        with self._lines() as lines:
            header = next(_records(lines, self._delimiter or ","), None)
        if header is None:
            return []
        if header.fault is not None:
            raise UsageError(f"{self.uri}: the header cannot be read: {header.fault}")
        names = _stripped(header.values)
        if names.count(self.wanted) > 1:
            raise UsageError(f"{self.uri}: {names.count(self.wanted)} columns are called {self.wanted}")
        return distinct([escaped(name) for name in names])

    def _is_array(self) -> bool:
        """Whether the file is one JSON array; a line that is an array among others is a malformed row."""
        with self._lines() as lines:
            filled = (line for line in lines if line.strip())
            first, second = next(filled, ""), next(filled, None)
        return first.lstrip().startswith("[") and (second is None or _parsed(first)[1] is not None)

    def _keys(self) -> list[str]:
        names: dict[str, None] = {}
        with suppress(BrokenShard):  # raised again when the rows are read
            for row in self.rows():
                names |= dict.fromkeys(row.values)
        return list(names)

    def _array_rows(self, lines: Iterable[str]) -> Iterator[TextRow]:
        value, fault = _parsed("".join(lines))
        if fault is not None:
            raise BrokenShard(f"not a JSON array: {fault}")
        for number, row in enumerate(value, 1):
            yield self._object_row(row, f"entry {number}")

    def _json_row(self, line: str, number: int) -> TextRow:
        value, fault = _parsed(line)
        place = f"line {number}"
        return self._object_row(value, place) if fault is None else TextRow({}, f"{place}: not JSON: {fault}")

    def _object_row(self, value: Any, place: str) -> TextRow:
        if not isinstance(value, dict):
            return TextRow({}, f"{place}: not a JSON object")
        fault = None
        uri = value.get(self.wanted)
        if not isinstance(uri, str | None) or isinstance(uri, json_values.Digits):
            value, fault = value | {self.wanted: None}, f"{place}: column {self.wanted} is not text"
        key = value.get(self.id_column) if self.id_column is not None else None
        if isinstance(key, list | dict):
            value, fault = value | {self.id_column: None}, f"{place}: column {self.id_column} is not an id"
        elif isinstance(key, float):
            value = value | {self.id_column: number_id(key)}
        return TextRow({escaped(name): _text(one) for name, one in value.items()}, fault)

    @contextmanager
    def _lines(self) -> Iterator[Iterator[str]]:
        """The lines of the file, in the encoding that a byte order mark names, else UTF-8."""
        try:
            with storage.open_input(self.uri) as file:
                raw: Any = io.BufferedReader(file, _READ_AHEAD)  # type: ignore[type-var]  # is raw IO
                if self._packed or raw.peek(2).startswith(_GZIP):
                    raw = io.BufferedReader(gzip.GzipFile(fileobj=raw))
                start = raw.peek(3)
                wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                encoding, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
                yield io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="")
        except FileNotFoundError as error:
            raise UsageError(f"{self.uri}: no such file") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise BrokenShard(f"damaged gzip: {error}") from error
        except OSError as error:
            raise StorageError(f"cannot read {self.uri}: {error}") from error


class _Record(NamedTuple):
    """Fields of a CSV file that begin at line `line`, or what is wrong there."""

    line: int
    values: list[str]
    fault: str | None = None


def _csv_rows(lines: Iterable[str], delimiter: str, columns: list[str]) -> Iterator[TextRow]:
    for record in itertools.islice(_records(lines, delimiter), 1, None):
        if record.fault is not None:
            yield TextRow({}, record.fault)
        elif len(record.values) != len(columns):
            found = f"line {record.line} has {len(record.values)} fields"
            yield TextRow({}, f"{found}, the header has {len(columns)}")
        else:
            yield TextRow(dict(zip(columns, record.values, strict=True)))


def _records(lines: Iterable[str], delimiter: str) -> Iterator[_Record]:
    """Records of a CSV file.

    Python's reader takes everything after a quote, up to the next one or to the end of the file, for one
    field. So a record that spans lines must be well-formed; else its first line is malformed, and reading
    continues at the next line.
    """
    source = _Lines(lines)
    for line in source:
        if not line.strip(" \r\n"):
            continue
        number = source.number
        if '"' not in line:
            yield _Record(number, line.rstrip("\r\n").split(delimiter))
            continue
        values = _well_formed(source, line, delimiter)
        yield _single(line, number, delimiter) if values is None else _Record(number, values)


def _well_formed(source: "_Lines", line: str, delimiter: str) -> list[str] | None:
    """The fields of a record from this line on; None, without taking further lines, if it is malformed."""
    # Spark and MySQL write a quote within quotes as \" and not as "".
    for escape in (None, "\\") if '\\"' in line else (None,):
        taken = [line]
        try:
            with _long_fields():
                lines = source.record(taken)
                return next(csv.reader(lines, delimiter=delimiter, strict=True, escapechar=escape))
        except csv.Error:
            source.push_back(taken[1:])
    return None


def _single(line: str, number: int, delimiter: str) -> _Record:
    """A malformed line, which is readable if its quotes come in pairs, as in `a.png,"5" screen`."""
    reader = csv.reader([line, ""], delimiter=delimiter)
    try:
        with _long_fields():
            values = next(reader)
    except csv.Error as error:
        return _Record(number, [], f"line {number}: {error}")
    if line.count('"') % 2 or reader.line_num > 1:
        return _Record(number, [], f"line {number}: a quote opens that is not closed")
    return _Record(number, values)


@contextmanager
def _long_fields() -> Iterator[None]:
    """Raise the reader's limit of 128 KiB a field for a while; it holds for the whole process."""
    with _LIMIT:
        usual = csv.field_size_limit(RECORD_CHARACTERS)
        try:
            yield
        finally:
            csv.field_size_limit(usual)


class _Lines:
    """Numbered lines that can be pushed back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = iter(lines)
        self.waiting: deque[str] = deque()
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.waiting.popleft() if self.waiting else next(self.lines)
        self.number += 1
        return line

    def push_back(self, lines: list[str]) -> None:
        self.waiting.extendleft(reversed(lines))
        self.number -= len(lines)

    def record(self, taken: list[str]) -> Iterator[str]:
        """The lines taken, and further ones, which are added to them; at most `RECORD_CHARACTERS`."""
        yield from tuple(taken)
        size = 0
        for line in self:
            taken.append(line)
            size += len(line)
            if size > RECORD_CHARACTERS:
                raise csv.Error("a record is too long")
            yield line


def _stripped(names: list[str]) -> list[str]:
    return [name.strip() for name in names]


def _parsed(text: str) -> tuple[Any, str | None]:
    """A JSON value, or why the text is not one."""
    try:
        return json_values.loads(text), None
    except json.JSONDecodeError as error:
        return None, f"{error.msg} at character {error.pos + 1}"
    except RecursionError:
        return None, "values are nested too deeply"


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value and str(value)
    return json.dumps(value, ensure_ascii=False)
