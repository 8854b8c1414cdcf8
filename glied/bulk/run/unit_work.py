"""A unit in progress: the rows that have arrived, and the checks before they are committed."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from glied.bulk.arrow_tables import conform
from glied.bulk.plan.manifest import Unit
from glied.bulk.run.failures import host_errors
from glied.bulk.run.ledger import Counts
from glied.captioner.familiarity import UNFAMILIAR
from glied.errors import JobError


@dataclass
class UnitWork:
    """A generation of a unit in progress.

    Attributes:
        unit: its rows of the manifest.
        generation: number of the generation.
        earlier: rows of the generation before it, if there is one.
        todo: numbers of the images to describe.
        isolated: each of them is a chunk of its own.
        arrived: described rows, by the number of the first image; the driver fills it.
    """

    unit: Unit
    generation: int
    earlier: pa.Table | None
    todo: frozenset[int]
    isolated: bool = False
    arrived: dict[int, pa.Table] = field(default_factory=dict)

    def missing(self) -> list[int]:
        """Numbers of the images that have not arrived."""
        there = {start + row for start, table in self.arrived.items() for row in range(table.num_rows)}
        return sorted(self.todo - there)

    def rows(self, schema: pa.Schema) -> pa.Table:
        """All rows of the unit, in order."""
        tables = [] if self.earlier is None else [self.earlier]
        places = dict(enumerate(range(sum(table.num_rows for table in tables))))
        for start, table in self.arrived.items():
            position = sum(one.num_rows for one in tables)
            places |= {start + row: position + row for row in range(table.num_rows)}
            tables.append(table)
        whole = pa.concat_tables(conform(table, schema) for table in tables)
        return whole.take([places[row] for row in sorted(places)])

    def missing_ranges(self) -> Iterator[tuple[int, int]]:
        """Runs of consecutive missing images as (first, last + 1)."""
        for _, run in itertools.groupby(enumerate(self.missing()), key=lambda pair: pair[1] - pair[0]):
            numbers = [number for _, number in run]
            yield numbers[0], numbers[-1] + 1


def check_ids(unit: Unit, table: pa.Table) -> None:
    """Refuse rows that are not those of the manifest.

    Raises:
        JobError: their ids differ.
    """
    if table["id"].to_pylist() != unit.ids:
        raise JobError(f"unit {unit.index}: the ids of its rows are not those of the manifest")


def count_rows(table: pa.Table, seconds: Counter[str], usage: Mapping[str, float] | None = None) -> Counts:
    """What became of the images of rows; `seconds` were spent on them, by stage, and `usage` was billed."""
    statuses: Counter[str] = Counter(map(str, table["status"].to_pylist()))
    errors: Counter[str] = Counter(str(kind) for kind in table["error_kind"].to_pylist() if kind is not None)
    spent: dict[str, float] = {stage: round(value, 3) for stage, value in seconds.items()}
    billed = {name: round(value, 6) for name, value in (usage or {}).items()}
    return Counts(dict(statuses), dict(errors), spent, _count_familiarity(table), billed, host_errors(table))


def _count_familiarity(table: pa.Table) -> dict[str, int]:
    if "familiarity" not in table.column_names:
        return {}
    known = [value for value in table["familiarity"].to_pylist() if value is not None]
    return {"rated": len(known), "unfamiliar": sum(value < UNFAMILIAR for value in known)} if known else {}
