"""Form csv: rows as comma-separated text, UTF-8, with a header."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.csv

from glied.bulk import arrow_tables
from glied.bulk.exports.json_rows import plain, to_json

_AS_THEY_ARE = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
)


def encode_csv(table: pa.Table) -> bytes:
    """Rows as CSV: lists and structs as JSON, other values that CSV lacks as in `json_rows`; null is empty.

    An empty text is quoted, which distinguishes it from null.
    """
    columns = [_column(table.select([name])) for name in table.column_names]
    sink = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(columns, names=table.column_names), sink)
    return sink.getvalue()


def _column(table: pa.Table) -> pa.ChunkedArray:
    """The only column of a table, of a type that CSV has."""
    column = table.column(0)
    if any(fits(column.type) for fits in _AS_THEY_ARE):
        return column
    values = [_text(value) for row in arrow_tables.to_rows(table) for value in row.values()]
    return pa.chunked_array([pa.array(values, pa.string())])


def _text(value: Any) -> str | None:
    simple = plain(value)
    return simple if simple is None or isinstance(simple, str) else to_json(value)
