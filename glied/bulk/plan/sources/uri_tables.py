"""Tables that name images by URI: Parquet, CSV, JSON lines."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import pyarrow as pa

from glied import storage
from glied.bulk.config import InputConfig
from glied.bulk.parallel import in_order
from glied.bulk.plan.manifest import INPUT, PLANNED, planned
from glied.bulk.plan.sources import text_tables
from glied.bulk.plan.sources.image_cells import BAD_ROW
from glied.bulk.plan.sources.input_columns import (
    check_id_column,
    escaped,
    first_line,
    id_values,
    is_text,
    named,
    named_once,
    passed,
    passing,
    text_values,
)
from glied.bulk.plan.sources.listing import BrokenShard, Files, delivers, with_break
from glied.bulk.plan.sources.row_uris import RowUris
from glied.bulk.plan.sources.text_tables import TextRow, TextTable
from glied.data import parquet
from glied.errors import StorageError, UsageError

_BATCH_ROWS = 65_536
_BATCH_CHARACTERS = 1 << 26
_PARQUET = ".parquet"


class Batch(NamedTuple):
    """Rows of a file from number `first` on.

    Attributes:
        table: all columns of the file.
        uris: of the images; bytes that are not UTF-8 as Python's "surrogateescape" decodes them.
        faults: what is wrong with a row, or None.
    """

    table: pa.Table
    uris: list[str | None]
    faults: list[str | None]
    first: int


class Table(Protocol):
    """A file that is a table.

    Attributes:
        uri: where it is.
        schema: its columns; none where no row of it can be read.
    """

    uri: str
    schema: pa.Schema

    def batches(self) -> Iterator[Batch]:
        """Its rows in order.

        Raises:
            BrokenShard: some rows cannot be read; all others were yielded.
            StorageError: it cannot be read.
        """
        ...


class UriTableSource:
    """The URIs in Parquet, CSV or JSON lines; the URI, or a column, is the id."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.rules = RowUris.of(files.uri, files.config.allow or ())
        self.skipped = files.skipped
        self.columns = pa.schema([])

    def __iter__(self) -> Iterator[pa.Table]:
        config = self.files.config
        shards = list(self.files.shards(_PARQUET, *text_tables.FOLDER_ENDINGS))
        tables = list(in_order(self._open, shards))
        schemas = _schemas(tables, config)
        self.columns = passing(schemas, config.uri_column, config.id_column)
        for shard, table in zip(shards, tables, strict=True):
            try:
                if isinstance(table, BrokenShard):
                    raise table
                for batch in table.batches():
                    yield self._planned(shard, batch)
            except BrokenShard as error:
                row = with_break(PLANNED.empty_table(), shard, str(error))
                for field in self.columns:
                    row = row.append_column(INPUT + field.name, pa.nulls(1, field.type))
                yield row

    def _open(self, shard: storage.FileInfo) -> Table | BrokenShard:
        try:
            return open_table(shard.uri, self.files.config.uri_column, self.files.config.id_column)
        except BrokenShard as error:
            return error

    def _planned(self, shard: storage.FileInfo, batch: Batch) -> pa.Table:
        config = self.files.config
        folder = shard.uri.rsplit("/", 1)[0]
        texts = [text and escaped(text.strip()) for text in batch.uris]
        columns, misfits = passed(batch.table, self.columns)
        problems = [
            fault or _problem(raw, config.uri_column) or misfits.get(row)
            for row, (fault, raw) in enumerate(zip(batch.faults, batch.uris, strict=True))
        ]
        names = texts
        if config.id_column is not None:
            names = id_values(batch.table, config.id_column)
        numbers = range(batch.first, batch.first + len(texts))
        places = [
            self.rules.plan(text, folder) if text else (f"{shard.uri}#{number}", None, None)
            for text, number in zip(texts, numbers, strict=True)
        ]
        result = planned(
            id=[name or f"{shard.name}#{number}" for name, number in zip(names, numbers, strict=True)],
            uri=[uri for uri, _, _ in places],
            fault_kind=[BAD_ROW if bad else kind for bad, (_, kind, _) in zip(problems, places, strict=True)],
            fault=[bad or problem for bad, (_, _, problem) in zip(problems, places, strict=True)],
        )
        for name, column in columns:
            result = result.append_column(INPUT + name, column)
        return result


def open_table(uri: str, uri_column: str, id_column: str | None = None) -> Table:
    """The table in a file, by the ending of its name.

    Raises:
        BrokenShard: no row of it can be read.
        UsageError: it is missing, or no table.
        StorageError: it cannot be read.
    """
    name = (urlsplit(uri).path if "://" in uri else uri).lower()
    if name.endswith(_PARQUET):
        return ParquetTable(uri, uri_column)
    if name.endswith(text_tables.ENDINGS):
        return TextFile(uri, name, uri_column, id_column)
    endings = ", ".join([_PARQUET, *text_tables.ENDINGS])
    raise UsageError(f"{uri}: the name of a table must end with {endings}")


class ParquetTable:
    """A Parquet file whose rows name images."""

    def __init__(self, uri: str, uri_column: str) -> None:
        """Reads the footer; raises as `open_table`."""
        self.uri = uri
        self.uri_column = uri_column
        try:
            with parquet.open_file(uri) as file:
                self.schema = named_once(file.schema_arrow, uri, uri_column)
        except parquet.NotParquet as error:
            raise BrokenShard(first_line(error)) from error

    def batches(self) -> Iterator[Batch]:
        """Its rows in order; a damaged row group does not affect the others."""
        with parquet.open_file(self.uri) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            lost, reason = 0, ""
            for group, first in enumerate(itertools.accumulate(sizes[:-1], initial=0) if sizes else ()):
                done = 0
                try:
                    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group]):
                        yield self._batch(batch, first + done)
                        done += batch.num_rows
                except (OSError, pa.ArrowException) as error:
                    if not delivers(self.uri):
                        raise StorageError(f"cannot read {self.uri}: {error}") from error
                    lost, reason = lost + sizes[group] - done, reason or first_line(error)
        if lost:
            raise BrokenShard(f"{lost} of {sum(sizes)} rows are not readable: {reason}")

    def _batch(self, batch: pa.RecordBatch, first: int) -> Batch:
        table = pa.Table.from_batches([batch]).rename_columns(self.schema.names)
        return Batch(table, text_values(table[self.uri_column]), [None] * table.num_rows, first)


class TextFile:
    """A CSV or JSON file whose rows name images."""

    def __init__(self, uri: str, name: str, uri_column: str, id_column: str | None) -> None:
        """Finds the columns; raises as `open_table`."""
        self.uri = uri
        self.uri_column = uri_column
        self.text = TextTable(uri, name, uri_column, id_column)
        self.schema = pa.schema([(name, pa.string()) for name in self.text.columns])

    def batches(self) -> Iterator[Batch]:
        """Its rows in order."""
        rows = self.text.rows()
        first = 0
        while True:
            some, broken = _take(rows)
            if some:
                yield self._batch(some, first)
            if broken is not None:
                raise broken
            if not some:
                return
            first += len(some)

    def _batch(self, rows: list[TextRow], first: int) -> Batch:
        columns = {
            name: pa.chunked_array([[_valid(row.values.get(name)) for row in rows]], pa.string())
            for name in self.schema.names or [self.uri_column]  # a table without columns has no rows
        }
        uris = [row.values.get(self.uri_column) for row in rows]
        return Batch(pa.table(columns), uris, [_valid(row.fault) for row in rows], first)


def _take(rows: Iterator[TextRow]) -> tuple[list[TextRow], BrokenShard | None]:
    """The next rows, and the error if the rest cannot be read."""
    some: list[TextRow] = []
    characters = 0
    try:
        for row in rows:
            some.append(row)
            characters += sum(len(value or "") for value in row.values.values())
            if len(some) == _BATCH_ROWS or characters > _BATCH_CHARACTERS:
                break
    except BrokenShard as error:
        return some, error
    return some, None


def _valid(text: str | None) -> str | None:
    return text and escaped(text)


def _problem(raw: str | None, uri_column: str) -> str | None:
    """Why a row names no image, or None."""
    if raw is None or not raw.strip():
        return f"column {uri_column} is empty"
    return None if raw == escaped(raw) else f"column {uri_column} is not valid UTF-8"


def _schemas(tables: list[Table | BrokenShard], config: InputConfig) -> list[tuple[str, pa.Schema]]:
    """The columns of all tables, with their URIs.

    Raises:
        UsageError: a table lacks a column that the config names, or none can be read.
    """
    readable = [one for one in tables if not isinstance(one, BrokenShard)]
    if not readable:
        raise UsageError(f"input.uri {config.uri}: no table there can be read: {tables[0]}")
    for one in readable:
        _check_columns(one, config)
    if not any(one.schema.names for one in readable):
        for one in readable:
            _refuse_rows(one)
    return [(one.uri, one.schema) for one in readable]


def _refuse_rows(table: Table) -> None:
    """Raise the fault of the first row of a table without columns, if it has a row."""
    try:
        for batch in table.batches():
            raise UsageError(f"{table.uri}: no row of it can be read: {batch.faults[0]}")
    except BrokenShard as error:
        raise UsageError(f"{table.uri}: no row of it can be read: {error}") from error


def _check_columns(table: Table, config: InputConfig) -> None:
    schema = table.schema
    if not schema.names:
        return
    for key, name in (("uri_column", config.uri_column), ("id_column", config.id_column)):
        if name is not None and name not in schema.names:
            raise UsageError(
                f"{table.uri}: no input.{key} {name!r}; the columns are {named(schema)}; "
                "if it is not a table of images, name the others by input.uri or move it elsewhere"
            )
    kind = schema.field(config.uri_column).type
    if not (is_text(kind) or pa.types.is_null(kind)):
        raise UsageError(
            f"{table.uri}: input.uri_column {config.uri_column!r} is {kind} and not text; where the table "
            f"holds the images themselves, use --input.form parquet --input.image_column {config.uri_column}"
        )
    if config.id_column is not None:
        check_id_column(schema, config.id_column, table.uri)
