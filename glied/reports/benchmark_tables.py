"""Tables of benchmark results, read from the JSON files that benchmarks write."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glied import storage
from glied.errors import UsageError
from glied.reports.figures import Panel

Cell = str | float | int | bool | None
Row = dict[str, Cell]
"""Values by column."""

FORMS = (
    'benchmarks/table2.py writes one; the general form is {"title": ..., "note": ..., "rows": [{...}, ...]}'
)
TABLE2_NAMES = {
    "lstm": "LSTM",
    "soft_att": "SoftAtt",
    "up_down": "Up-Down",
    "ct": "CT",
    "base": "Base",
    "glied": "GLIED",
}


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        title: title of the table.
        note: machine and conditions of the measurement; may be empty.
        rows: values by column; the first column names the row.
        panel: the same results over time, if known.
    """

    title: str
    note: str
    rows: list[Row]
    panel: Panel | None = None

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
    """Read the table in a JSON file of benchmarks/table2.py or in the general form.

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
        table = _table2(content) if "models" in content else _general(content)
    except (KeyError, TypeError, AttributeError):
        raise UsageError(f"{uri} does not contain a table: {FORMS}") from None
    if not table.rows or not table.columns:
        raise UsageError(f"{uri}: its table has no rows")
    return table


def _general(content: Mapping[str, Any]) -> Table:
    rows: list[Row] = [{str(name): _cell(value) for name, value in row.items()} for row in content["rows"]]
    return Table(str(content["title"]), str(content.get("note", "")), rows)


def _table2(content: Mapping[str, Any]) -> Table:
    """Build the table of benchmarks/table2.py results; its table2.md has the paper's own figures."""
    speed = content.get("speed", {}).get("demo", {})
    rows: list[Row] = []
    lines = {}
    for name, one in content["models"].items():
        shown = TABLE2_NAMES.get(name, name)
        rows.append(
            {
                "model": shown,
                "parameters, millions": round(one["parameters"] / 1e6, 2),
                "minutes to best": one["minutes_to_best"],
                "images/s": speed.get(name),
                "CIDEr, val": one["val_cider"],
                "CIDEr, test": one["test_cider"],
            }
        )
        lines[shown] = [(point["minutes"], point["cider"]) for point in one["curve"]]
    note = f"{content['machine']}, {content['threads']} thread(s), {content['date']}; minutes are CPU time."
    if content["short"]:
        note = f"The short form, whose figures say nothing about the models. {note}"
    panel = Panel("CIDEr, val", "CPU minutes of training", lines)
    return Table("Six captioners (Table 2) on the demo world", note, rows, panel if lines else None)


def _cell(value: Any) -> Cell:
    return value if value is None or isinstance(value, str | float | int | bool) else json.dumps(value)


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)
