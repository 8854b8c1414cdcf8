"""Which units of a run are done: outputs, commit records, and the journal of the attempts.

    <run>/<results>/unit-000012.g0.parquet   a unit's rows; final when its commit record exists
    <run>/commits/unit-000012.g0.json        the commit record; written last, put-if-absent
    <run>/attempts/<attempt>-0000.json       what an attempt was about to commit, with its counts

The order is output, journal, commit record. A run that is started again lists `commits/` once; the totals of
finished units come from the few journal files, so no finished unit's record or output is opened again.
"""

import hashlib
import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

from glied import storage
from glied.errors import JobError

_UNIT_FILE = re.compile(r"unit-(\d{6,})\.g0\.(?:parquet|json)")
SEGMENT_UNITS = 512
"""Units per journal file: it is rewritten before each commit, so it must stay small."""


def unit_name(unit: int) -> str:
    """Name of a unit's files without extension; the generation is 0 until failed rows are retried."""
    return f"unit-{unit:06d}.g0"


@dataclass
class Counts:
    """What became of images; adds up over units.

    Attributes:
        rows: images by status.
        errors: images that are not ok, by kind of error.
        seconds: time spent in each stage, summed over workers.
    """

    rows: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, other: "Counts") -> None:
        """Add another's numbers to these."""
        for name in ("rows", "errors", "seconds"):
            mine = getattr(self, name)
            for key, value in getattr(other, name).items():
                mine[key] = round(mine.get(key, 0) + value, 3)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"rows": self.rows, "errors": self.errors, "seconds": self.seconds}


class Ledger:
    """Reads and writes the state of one run; the driver is its only user."""

    def __init__(self, run_uri: str, plan: str, results: str) -> None:
        """`results` is the folder of the outputs, "captions" or "features"."""
        self.run_uri = run_uri
        self.plan = plan
        self.results = results
        self.attempt = uuid.uuid4().hex[:12]
        self._segment = 0
        self._journal: dict[int, Counts] = {}

    def output_uri(self, unit: int) -> str:
        """Where a unit's rows are."""
        return storage.join(self.run_uri, self.results, unit_name(unit) + ".parquet")

    def committed(self) -> set[int]:
        """Units with a commit record: one listing, nothing opened."""
        return _units_in(storage.join(self.run_uri, "commits"))

    def outputs(self) -> set[int]:
        """Units whose output is there, committed or not: one listing."""
        return _units_in(storage.join(self.run_uri, self.results))

    def put_output(self, unit: int, data: bytes) -> bool:
        """Write a unit's rows unless something else stands there; True if `data` is what stands there."""
        return storage.put_if_absent(self.output_uri(unit), data)

    def commit(self, unit: int, data: bytes, counts: Counts, *, adopted: bool = False) -> bool:
        """Write the commit record of a unit whose output holds `data`.

        Returns:
            False if another attempt committed the unit first.
        """
        self._write_journal(unit, counts)
        record = {
            "unit": unit,
            "generation": 0,
            "plan": self.plan,
            "attempt": self.attempt,
            "adopted": adopted,
            "output": f"{self.results}/{unit_name(unit)}.parquet",
            "rows": sum(counts.rows.values()),
            "statuses": counts.rows,
            "errors": counts.errors,
            "sha256": hashlib.sha256(data).hexdigest(),
            "seconds": counts.seconds,
        }
        uri = storage.join(self.run_uri, "commits", unit_name(unit) + ".json")
        return storage.put_if_absent(uri, json.dumps(record, indent=1).encode())

    def totals(self, committed: set[int]) -> Counts:
        """Counts over committed units, from the journals of all attempts."""
        by_unit: dict[int, Counts] = {}
        for file in storage.list_files(storage.join(self.run_uri, "attempts"), recursive=False):
            for unit, counts in _read_journal(file.uri).items():
                by_unit.setdefault(unit, counts)
        missing = committed - by_unit.keys()
        if missing:
            raise JobError(f"{self.run_uri}/attempts lacks the journal of {len(missing)} committed units")
        total = Counts()
        for unit in sorted(committed):
            total.add(by_unit[unit])
        return total

    def _write_journal(self, unit: int, counts: Counts) -> None:
        if len(self._journal) >= SEGMENT_UNITS:
            self._segment, self._journal = self._segment + 1, {}
        self._journal[unit] = counts
        content = {str(key): value.to_dict() for key, value in self._journal.items()}
        uri = storage.join(self.run_uri, "attempts", f"{self.attempt}-{self._segment:04d}.json")
        storage.write_bytes(uri, json.dumps(content).encode())


def clear(run_uri: str, results: str) -> None:
    """Delete a run's files, and only those, the commit records first: a cut-off clearing only loses work."""
    for folder in ("commits", results, "attempts", "manifest"):
        for file in list(storage.list_files(storage.join(run_uri, folder))):
            storage.delete(file.uri)
    for name in ("summary.json", "run.json"):
        storage.delete(storage.join(run_uri, name))


def _units_in(folder: str) -> set[int]:
    names = (file.name for file in storage.list_files(folder, recursive=False))
    return {int(match[1]) for match in map(_UNIT_FILE.fullmatch, names) if match}


def _read_journal(uri: str) -> dict[int, Counts]:
    if not uri.endswith(".json"):
        return {}  # a temporary file of a write that was cut off
    try:
        content = json.loads(storage.read_bytes(uri))
        return {int(unit): Counts(**counts) for unit, counts in content.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError) as error:
        raise JobError(f"{uri} is not a journal of this program: {error}") from error
