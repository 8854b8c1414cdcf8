"""Tables that name images by URI: Parquet, CSV, JSON lines."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from glied import storage
from glied.bulk.config import InputConfig
from glied.bulk.manifest import INPUT, planned
from glied.bulk.sources.listing import Files, open_parquet, parquet_schema, passed_name, passing_schema
from glied.errors import StorageError, UsageError

BAD_ROW = "bad_row"
"""Kind of error of a row that names no image."""
_BATCH_ROWS = 65_536


class UriTableSource:
    """The URIs in Parquet, CSV or JSON lines; the URI, or a column, is the id."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.skipped = files.skipped
        self.columns = pa.schema([])

    def __iter__(self) -> Iterator[pa.Table]:
        config = self.files.config
        shards = list(self.files.shards(".parquet", ".csv", ".jsonl", ".ndjson"))
        schemas = [_table_schema(shard.uri) for shard in shards]
        used = {config.uri_column, config.id_column}
        for shard, schema in zip(shards, schemas, strict=True):
            _check_table_columns(schema, config, shard.uri)
        try:
            merged = pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UsageError(f"input.uri {config.uri}: its tables do not fit together: {error}") from error
        self.columns = passing_schema(merged, used)
        passing = pa.schema([field for field in merged if field.name not in used])
        for shard in shards:
            for table in _read_table(shard.uri, passing.names, config):
                yield self._planned(shard, table, passing)

    def _planned(self, shard: storage.FileInfo, table: pa.Table, passing: pa.Schema) -> pa.Table:
        config = self.files.config
        folder = shard.uri.rsplit("/", 1)[0]
        texts = [None if uri is None else str(uri).strip() for uri in table[config.uri_column].to_pylist()]
        faults = table[_FAULT].to_pylist()
        numbers = table[_NUMBER].to_pylist()
        places = [f"{shard.uri}#{number}" for number in numbers]
        uris = [_resolve(text, folder) if text else place for text, place in zip(texts, places, strict=True)]
        names = table[config.id_column].to_pylist() if config.id_column else texts
        ids = [
            str(name) if name else f"{shard.name}#{number}"
            for name, number in zip(names, numbers, strict=True)
        ]
        problems = [
            fault or (None if text else f"column {config.uri_column} is empty")
            for fault, text in zip(faults, texts, strict=True)
        ]
        result = planned(
            id=ids,
            uri=uris,
            fault_kind=[BAD_ROW if problem else None for problem in problems],
            fault=problems,
        )
        for field in passing:
            column = table[field.name].cast(field.type)
            result = result.append_column(INPUT + passed_name(field.name), column)
        return result


_FAULT, _NUMBER = "\0fault", "\0number"
"""Columns that reading a table adds: what is wrong with a row, and its number in the file."""


def _resolve(uri: str, folder: str) -> str:
    """A relative path is meant from the table's folder."""
    if "://" in uri or uri.startswith("/"):
        return uri
    return storage.join(folder, uri)


def _check_table_columns(schema: pa.Schema, config: InputConfig, uri: str) -> None:
    for key, name in (("uri_column", config.uri_column), ("id_column", config.id_column)):
        if name is not None and name not in schema.names:
            raise UsageError(f"{uri}: no input.{key} {name!r}; the columns are {', '.join(schema.names)}")


def _table_schema(uri: str) -> pa.Schema:
    """The columns of a table: Parquet's own types; text for CSV; text, or JSON as text, for JSON lines."""
    if uri.endswith(".parquet"):
        return parquet_schema(uri)
    with _open_text(uri) as file:
        if uri.endswith(".csv"):
            return pa.schema([(name, pa.string()) for name in next(csv.reader(file), [])])
        names: dict[str, None] = {}
        for line in file:
            row, _ = _parse_json(line)
            names |= dict.fromkeys(row)
    return pa.schema([(name, pa.string()) for name in names])


def _read_table(uri: str, passing: list[str], config: InputConfig) -> Iterator[pa.Table]:
    """Batches with the URI, the id, the passing columns (null where the file lacks one), fault and number."""
    wanted = list(dict.fromkeys([config.uri_column, *filter(None, [config.id_column]), *passing]))
    if uri.endswith(".parquet"):
        yield from _read_parquet_table(uri, wanted)
        return
    with _open_text(uri) as file:
        rows = _csv_rows(file) if uri.endswith(".csv") else map(_parse_json, file)
        batch: list[tuple[dict[str, Any], str | None]] = []
        first = 0
        for row in rows:
            batch.append(row)
            if len(batch) == _BATCH_ROWS:
                yield _text_table(batch, wanted, first)
                first, batch = first + len(batch), []
        if batch:
            yield _text_table(batch, wanted, first)


def _read_parquet_table(uri: str, wanted: list[str]) -> Iterator[pa.Table]:
    first = 0
    with open_parquet(uri) as file:
        there = [name for name in wanted if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=there):
            table = pa.Table.from_batches([batch])
            for name in wanted:
                if name not in there:
                    table = table.append_column(name, pa.nulls(table.num_rows))
            yield _with_numbers(table, [None] * table.num_rows, first)
            first += table.num_rows


def _text_table(batch: list[tuple[dict[str, Any], str | None]], wanted: list[str], first: int) -> pa.Table:
    columns = {name: pa.array([row.get(name) for row, _ in batch], pa.string()) for name in wanted}
    return _with_numbers(pa.table(columns), [fault for _, fault in batch], first)


def _with_numbers(table: pa.Table, faults: list[str | None], first: int) -> pa.Table:
    numbers = pa.array(range(first, first + table.num_rows), pa.int64())
    return table.append_column(_FAULT, pa.array(faults, pa.string())).append_column(_NUMBER, numbers)


def _csv_rows(file: io.TextIOBase) -> Iterator[tuple[dict[str, Any], str | None]]:
    reader = csv.reader(file)
    header = next(reader, [])
    for values in reader:
        if not values:
            continue
        fault = None
        if len(values) != len(header):
            fault = f"line {reader.line_num} has {len(values)} fields, the header has {len(header)}"
        yield dict(zip(header, values, strict=False)), fault


def _parse_json(line: str) -> tuple[dict[str, Any], str | None]:
    """The values of a line as text, and what is wrong with it."""
    try:
        row = json.loads(line)
    except ValueError as error:
        return {}, f"no JSON: {error}"
    if not isinstance(row, dict):
        return {}, "no JSON object"
    return {name: _text(value) for name, value in row.items()}, None


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _open_text(uri: str) -> io.TextIOWrapper:
    try:
        raw = storage.open_input(uri)
    except FileNotFoundError as error:
        raise UsageError(f"{uri}: no such file") from error
    except OSError as error:
        raise StorageError(f"cannot read {uri}: {error}") from error
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")  # type: ignore[arg-type]  # the stubs
