"""Which units of a run are done: outputs, commit records, and the journal of the attempts.

    <run>/<results>/unit-000012-<plan>.g0.parquet   a unit's rows; final when its commit record exists
    <run>/commits/unit-000012-<plan>.g0.json        the commit record; written last, put-if-absent
    <run>/attempts/<plan>-<attempt>-0000.json       what an attempt was about to commit, with its counts

The order is output, journal, commit record. A run that is started again lists `commits/` once; the totals of
finished units come from the few journal files, so no finished unit's record or output is opened again.

`g1` and so on are the generations in which failed rows were done again; the highest committed one counts.
`<plan>` are the first digits of the plan's id: a driver of a run that was overwritten in the meantime leaves
files of another name, which nobody reads.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from glied import storage
from glied.errors import JobError

PLAN_DIGITS = 8
SEGMENT_UNITS = 512
"""Units per journal file: it is rewritten before each commit, so it must stay small."""
REQUESTS = 64
"""Requests in flight where many small files are read."""


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


@dataclass(frozen=True)
class Commit:
    """What a journal says of a unit's generation: its counts, and when it was committed (UTC, ISO 8601)."""

    unit: int
    generation: int
    counts: Counts
    committed_at: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        counts = {"rows": self.counts.rows, "errors": self.counts.errors, "seconds": self.counts.seconds}
        place = {"unit": self.unit, "generation": self.generation, "committed_at": self.committed_at}
        return place | counts

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Commit":
        """From JSON."""
        counts = Counts(data["rows"], data["errors"], data["seconds"])
        return cls(data["unit"], data["generation"], counts, data["committed_at"])


class Ledger:
    """Reads and writes the state of one run; the driver is its only writer."""

    def __init__(self, run_uri: str, plan: str, results: str) -> None:
        """`results` is the folder of the outputs, "captions" or "features"."""
        self.run_uri = run_uri
        self.plan = plan
        self.results = results
        self.attempt = uuid.uuid4().hex[:12]
        self._file = re.compile(rf"unit-(\d{{6,}})-{plan[:PLAN_DIGITS]}\.g(\d+)\.(?:parquet|json)")
        self._segment = 0
        self._journal: list[Commit] = []

    def name(self, unit: int, generation: int) -> str:
        """Name of a unit's files without extension."""
        return f"unit-{unit:06d}-{self.plan[:PLAN_DIGITS]}.g{generation}"

    def output_uri(self, unit: int, generation: int) -> str:
        """Where a unit's rows are."""
        return storage.join(self.run_uri, self.results, self.name(unit, generation) + ".parquet")

    def record_uri(self, unit: int, generation: int) -> str:
        """Where a unit's commit record is."""
        return storage.join(self.run_uri, "commits", self.name(unit, generation) + ".json")

    def committed(self) -> dict[int, int]:
        """Units with a commit record and their highest generation: one listing, nothing opened."""
        return _highest(self._list("commits"))

    def superseded(self) -> list[tuple[int, int]]:
        """(unit, generation) of outputs and records below the highest committed generation."""
        highest = self.committed()
        files = {*self._list("commits"), *self._list(self.results)}
        return sorted((unit, number) for unit, number in files if number < highest.get(unit, 0))

    def outputs(self) -> dict[int, int]:
        """Units whose output is there, committed or not, and its highest generation: one listing."""
        return _highest(self._list(self.results))

    def _list(self, folder: str) -> Iterable[tuple[int, int]]:
        files = storage.list_files(storage.join(self.run_uri, folder), recursive=False)
        matches = (self._file.fullmatch(file.name) for file in files)
        return [(int(match[1]), int(match[2])) for match in matches if match]

    def put_output(self, unit: int, generation: int, data: bytes) -> bool:
        """Write a unit's rows unless something else stands there; True if `data` is what stands there."""
        return storage.put_if_absent(self.output_uri(unit, generation), data)

    def commit(
        self, unit: int, generation: int, data: bytes, counts: Counts, *, adopted: bool = False
    ) -> bool:
        """Write the commit record of a unit whose output holds `data`.

        Returns:
            False if another attempt committed the unit first.
        """
        commit = Commit(
            unit, generation, counts, datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        )
        self._write_journal(commit)
        record = commit.to_dict() | {
            "plan": self.plan,
            "attempt": self.attempt,
            "adopted": adopted,
            "output": f"{self.results}/{self.name(unit, generation)}.parquet",
            "rows": sum(counts.rows.values()),
            "statuses": counts.rows,
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        return storage.put_if_absent(self.record_uri(unit, generation), json.dumps(record, indent=1).encode())

    def delete(self, unit: int, generation: int) -> None:
        """Remove a superseded generation, its record first: a record always has its output."""
        storage.delete(self.record_uri(unit, generation))
        storage.delete(self.output_uri(unit, generation))

    def commits(self, committed: Mapping[int, int]) -> list[Commit]:
        """What the journals of all attempts say of the committed units, in the order of the units.

        Raises:
            JobError: a committed unit is in no journal.
        """
        folder = storage.join(self.run_uri, "attempts")
        files = [file.uri for file in storage.list_files(folder, recursive=False)]
        mine = [uri for uri in files if uri.rsplit("/", 1)[-1].startswith(self.plan[:PLAN_DIGITS] + "-")]
        found: dict[int, Commit] = {}
        with ThreadPoolExecutor(REQUESTS) as pool:
            for commits in pool.map(_read_journal, mine):
                for commit in commits:
                    if committed.get(commit.unit) == commit.generation:
                        found.setdefault(commit.unit, commit)
        missing = len(committed) - len(found)
        if missing:
            raise JobError(f"{folder} lacks the journal of {missing} committed units")
        return [found[unit] for unit in sorted(found)]

    def totals(self, committed: Mapping[int, int]) -> Counts:
        """Counts over committed units; raises as `commits`."""
        total = Counts()
        for commit in self.commits(committed):
            total.add(commit.counts)
        return total

    def _write_journal(self, commit: Commit) -> None:
        if len(self._journal) >= SEGMENT_UNITS:
            self._segment, self._journal = self._segment + 1, []
        self._journal.append(commit)
        content = [one.to_dict() for one in self._journal]
        name = f"{self.plan[:PLAN_DIGITS]}-{self.attempt}-{self._segment:04d}.json"
        storage.write_bytes(storage.join(self.run_uri, "attempts", name), json.dumps(content).encode())


def clear(run_uri: str, results: str) -> None:
    """Delete a run's files, and only those, the commit records first: a cut-off clearing only loses work."""
    for folder in ("commits", results, "attempts", "manifest"):
        for file in list(storage.list_files(storage.join(run_uri, folder))):
            storage.delete(file.uri)
    for name in ("summary.json", "run.json"):
        storage.delete(storage.join(run_uri, name))


def _highest(files: Iterable[tuple[int, int]]) -> dict[int, int]:
    highest: dict[int, int] = {}
    for unit, generation in files:
        highest[unit] = max(generation, highest.get(unit, 0))
    return highest


def _read_journal(uri: str) -> list[Commit]:
    if not uri.endswith(".json"):
        return []  # a temporary file of a write that was cut off
    try:
        return [Commit.from_dict(one) for one in json.loads(storage.read_bytes(uri))]
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise JobError(f"{uri} is not a journal of this program: {error}") from error
