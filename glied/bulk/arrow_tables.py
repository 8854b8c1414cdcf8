"""Helpers for Arrow tables: schemas, serialization, seconds by stage as metadata."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import pyarrow as pa


def schema(**types: pa.DataType) -> pa.Schema:
    """A schema of nullable columns in the given order."""
    return pa.schema([pa.field(name, kind) for name, kind in types.items()])


def list_of(**types: pa.DataType) -> pa.DataType:
    """The type of a list of structs with the given fields."""
    return pa.list_(pa.struct([pa.field(name, kind) for name, kind in types.items()]))


def texts(table: pa.Table, name: str) -> list[str]:
    """A column of text without nulls as a list."""
    return cast(list[str], table[name].to_pylist())


def to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as Python values; values that Python cannot represent (a date in the year 10,000) as text."""
    try:
        return table.to_pylist()
    except (OverflowError, ValueError):
        columns = [[_python(value) for value in column] for column in table.columns]
        return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _python(value: "pa.Scalar[Any]") -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return pa.array([value]).to_string(indent=0, skip_new_lines=True)[1:-1]


def to_ipc(table: pa.Table) -> bytes:
    """A table in Arrow's IPC stream format."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_ipc(data: bytes) -> pa.Table:
    """The table of `to_ipc`."""
    return pa.ipc.open_stream(data).read_all()


def with_seconds(table: pa.Table, seconds: Mapping[str, float]) -> pa.Table:
    """The table with seconds by stage in its metadata, added to those it has already."""
    return _with_numbers(table, b"seconds", seconds)


def seconds_of(table: pa.Table) -> dict[str, float]:
    """The seconds by stage that a table carries."""
    return _numbers_of(table, b"seconds")


def with_usage(table: pa.Table, usage: Mapping[str, float]) -> pa.Table:
    """The table with what its rows have used (requests, tokens, cost), added to what it has already."""
    return _with_numbers(table, b"usage", usage) if usage else table


def usage_of(table: pa.Table) -> dict[str, float]:
    """What the rows of a table have used."""
    return _numbers_of(table, b"usage")


def _with_numbers(table: pa.Table, key: bytes, numbers: Mapping[str, float]) -> pa.Table:
    known = _numbers_of(table, key)
    merged = known | {name: known.get(name, 0) + value for name, value in numbers.items()}
    return table.replace_schema_metadata(
        dict(table.schema.metadata or {}) | {key: json.dumps(merged).encode()}
    )


def _numbers_of(table: pa.Table, key: bytes) -> dict[str, float]:
    return json.loads((table.schema.metadata or {}).get(key, b"{}"))


def ranges(sizes: Sequence[int], *, most: int, size: int) -> Iterator[tuple[int, int]]:
    """Divides rows of the given sizes into ranges (first, last + 1) of at most `most` rows and `size` in all.

    A larger row is a range of its own.
    """
    first, total = 0, 0
    for row, one in enumerate(sizes):
        if row > first and (row - first >= most or total + one > size):
            yield first, row
            first, total = row, 0
        total += one
    if first < len(sizes):
        yield first, len(sizes)


def merged(parts: list[pa.Table]) -> pa.Table:
    """Concatenated tables of one schema, with the sums of their seconds and their usage."""
    whole = pa.concat_tables(part.replace_schema_metadata(None) for part in parts)
    for part in parts:
        whole = with_usage(with_seconds(whole, seconds_of(part)), usage_of(part))
    return whole


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the columns of a schema, missing ones null; without its metadata."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        for field in schema
    ]
    return pa.table(columns, schema=schema)
