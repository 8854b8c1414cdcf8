"""Verification of committed units: opens every commit record and every file of rows."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glied import storage
from glied.bulk.parallel import in_order
from glied.bulk.plan.manifest import Manifest, Unit
from glied.bulk.plan.sources.unique_ids import Unique
from glied.bulk.run.ledger import Commit
from glied.run_folder import CommittedUnit

IN_FLIGHT = 64
"""Units that are read at once."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with a committed unit.

    Attributes:
        unit: its number.
        text: what is wrong.
        mendable: whether redoing the unit fixes it.
    """

    unit: int
    text: str
    mendable: bool = True

    def __str__(self) -> str:
        """For people."""
        return f"unit {self.unit}: {self.text}"


def verify(plan: Manifest, units: Iterable[CommittedUnit]) -> Iterator[Problem]:
    """Problems of committed units (files, digests, counts, ids), and duplicate ids of the plan."""
    done = {unit.unit: unit for unit in units}
    for number in done:
        if number >= plan.units:
            text = f"committed, but the manifest has {plan.units} units"
            yield Problem(number, text, mendable=False)
    check = _Check(plan, done)
    seen = Unique()
    for unit, texts in in_order(check, plan.read_units(range(plan.units)), IN_FLIGHT):
        yield from (Problem(unit.index, text) for text in texts)
        new = seen.add(unit.ids)
        if not new.all():
            first = unit.ids[int(new.argmin())]
            text = f"{(~new).sum()} ids of the manifest are duplicates, first {first!r}; plan the run anew"
            yield Problem(unit.index, text, mendable=False)


class _Check:
    """Compares a unit's commit record, rows and manifest."""

    def __init__(self, plan: Manifest, done: dict[int, CommittedUnit]) -> None:
        self.plan = plan
        self.done = done

    def __call__(self, unit: Unit) -> tuple[Unit, list[str]]:
        """The unit and, if it is committed, its problems, a line each."""
        files = self.done.get(unit.index)
        return unit, [] if files is None else list(self._problems(unit, files))

    def _problems(self, unit: Unit, files: CommittedUnit) -> Iterator[str]:
        try:
            commit = Commit.from_json(storage.read_bytes(files.record))
        except (FileNotFoundError, ValueError) as error:
            yield f"{files.record} is no commit record: {' '.join(str(error).split())}"
            return
        if commit.plan != self.plan.plan:
            yield f"committed for plan {commit.plan}, the manifest is plan {self.plan.plan}"
        try:
            data = storage.read_bytes(files.output)
        except FileNotFoundError:
            yield f"committed, but {files.output} is missing"
            return
        if hashlib.sha256(data).hexdigest() != commit.sha256:
            yield f"{files.output} has another digest than its commit record"
        try:
            # Without Arrow's threads: `in_order` has enough of its own.
            ids = pq.ParquetFile(pa.BufferReader(data)).read(["id"], use_threads=False)["id"].to_pylist()
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            yield f"{files.output} cannot be read as Parquet: {' '.join(str(error).split())}"
            return
        if len(ids) != commit.rows:
            yield f"{files.output} has {len(ids)} rows, its commit record says {commit.rows}"
        if ids != unit.ids:
            yield f"{files.output}: {_difference(ids, unit.ids)}"


def _difference(found: list[Any], planned: list[str]) -> str:
    lacking, foreign = set(planned) - set(found), set(found) - set(planned)
    if not lacking and not foreign:
        return "the ids are those of the manifest, but doubled or in another order"
    return f"{len(lacking)} ids of the manifest are missing, {len(foreign)} are not in it"
