"""Tables of benchmark results, read from the JSON files that benchmarks write."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glied import storage
from glied.errors import UsageError

Cell = str | float | int | bool | None
Row = dict[str, Cell]
"""Values by column."""

FORM = '{"title": ..., "note": ..., "rows": [{"column": value, ...}, ...]}'


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        title: title of the table.
        note: machine and conditions of the measurement; may be empty.
        rows: values by column; the first column names the row.
    """

    title: str
    note: str
    rows: list[Row]

    @property
    def columns(self) -> list[str]:
        """Names of the columns that have a value, in order of appearance."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in names if any(row.get(name) is not None for row in self.rows)]

    @property
    def labels(self) -> list[str]:
        """Names of the rows."""
        return [str(row.get(self.columns[0], "")) for row in self.rows]

    def numeric(self) -> dict[str, list[float | None]]:
        """Return the numeric columns; missing values are None."""
        columns = {name: [row.get(name) for row in self.rows] for name in self.columns[1:]}
        return {
            name: [None if value is None else float(value) for value in values]
            for name, values in columns.items()
            if all(value is None or _is_number(value) for value in values) and any(map(_is_number, values))
        }


def read_table(uri: str) -> Table:
    """Read the table in a JSON file with "title", "note" (optional) and "rows".

    Raises:
        UsageError: there is no such file, or it does not contain a table.
    """
    try:
        content = json.loads(storage.read_bytes(uri))
    except FileNotFoundError:
        raise UsageError(f"{uri}: no such file") from None
    except ValueError as error:
        raise UsageError(f"{uri} is not JSON: {error}") from None
    try:
        table = _table(content)
    except (KeyError, TypeError, AttributeError):
        raise UsageError(f"{uri} does not contain a table: its form is {FORM}") from None
    if not table.rows or not table.columns:
        raise UsageError(f"{uri}: its table has no rows")
    return table


def _table(content: Mapping[str, Any]) -> Table:
    rows: list[Row] = [{str(name): _cell(value) for name, value in row.items()} for row in content["rows"]]
    return Table(str(content["title"]), str(content.get("note", "")), rows)


def _cell(value: Any) -> Cell:
    return value if value is None or isinstance(value, str | float | int | bool) else json.dumps(value)


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)
