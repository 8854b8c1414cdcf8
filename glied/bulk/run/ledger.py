"""The ledger of a run: rows and commit records of its units, named as in `glied.run_folder`.

The rows are written first, the commit record last, both by a conditional write (put-if-absent). A resumed
run lists both folders once, which shows which units are committed and whether their rows are still complete,
and opens no file. The totals are read from the commit records, many at a time.

`g1` and so on are generations: units that were done again because rows had failed, or because the rows of
the generation before are missing or damaged. The highest committed one counts. A file is never replaced.
"""

import hashlib
import json
import logging
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from glied import run_folder, storage
from glied.bulk.parallel import in_order
from glied.bulk.plan.sources.web_hosts import is_host_failure
from glied.errors import JobError
from glied.run_folder import CommittedUnit, Key, Listing

log = logging.getLogger(__name__)

REQUESTS = 64
"""Concurrent requests when many small files are read or deleted."""
NAMED = 5
"""Most files that a message names; it always says how many there are."""
_UNIT = r"unit-\d{6,}(-[0-9a-f]{8})?"
_OWN_FILES = {
    "commits": rf"{_UNIT}(-\d+)?\.g\d+\.json",
    "captions": rf"{_UNIT}\.g\d+\.parquet",
    "features": rf"{_UNIT}\.g\d+\.parquet",
    "attempts": r"[0-9a-f]{8}-[0-9a-f]{12}-\d{4}\.json",  # journals of older versions
    "manifest": r"manifest(-[0-9a-f]{12})?\.json|[0-9a-f]{12}/part-\d{6}\.parquet",
}
"""Names of a run's files by folder."""


@dataclass
class Counts:
    """What became of images; adds up over units.

    Attributes:
        rows: images by status.
        errors: images that are not ok, by kind of error.
        seconds: time spent in each stage, summed over workers.
        familiarity: images whose familiarity is known ("rated"), and those of them that are unfamiliar
            ("unfamiliar"); empty where none is known.
        usage: requests, tokens and cost of captioners that are billed; empty for others.
        host_errors: those of `errors` that are failures of web hosts, which a table names.
    """

    rows: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    familiarity: dict[str, int] = field(default_factory=dict)
    usage: dict[str, float] = field(default_factory=dict)
    host_errors: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Counts") -> None:
        """Add another's numbers to these."""
        for one in fields(self):
            mine = getattr(self, one.name)
            for key, value in getattr(other, one.name).items():
                mine[key] = round(mine.get(key, 0) + value, 6)


@dataclass(frozen=True)
class Commit:
    """What a commit record says of a unit's generation.

    Attributes:
        unit, generation: which they are.
        counts: of its rows.
        committed_at: when it was committed, in UTC.
        plan: id of the plan that it belongs to.
        run: id of the run; None in records of older versions.
        rows, sha256: number of the rows, and digest of the file that holds them.
    """

    unit: int
    generation: int
    counts: Counts
    committed_at: datetime
    plan: str = ""
    run: str | None = None
    rows: int = 0
    sha256: str = ""

    @classmethod
    def from_json(cls, data: bytes) -> "Commit":
        """From the content of a commit record.

        Raises:
            ValueError: it is not a commit record.
        """
        try:
            record = json.loads(data)
            time = datetime.fromisoformat(record["committed_at"])
            return cls(
                unit=int(record["unit"]),
                generation=int(record["generation"]),
                counts=Counts(
                    {str(status): int(count) for status, count in record["statuses"].items()},
                    {str(kind): int(count) for kind, count in record["errors"].items()},
                    {str(stage): float(seconds) for stage, seconds in record["seconds"].items()},
                    {str(kind): int(count) for kind, count in record.get("familiarity", {}).items()},
                    {str(name): float(value) for name, value in record.get("usage", {}).items()},
                    {str(kind): int(count) for kind, count in _host_errors(record).items()},
                ),
                committed_at=time if time.tzinfo else time.replace(tzinfo=timezone.utc),
                plan=str(record["plan"]),
                run=record.get("run"),
                rows=int(record["rows"]),
                sha256=str(record["sha256"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise ValueError(reason) from error


class Ledger:
    """Reads and writes the state of one run; the driver is its only writer."""

    def __init__(self, run_uri: str, plan: str, results: str, run: str) -> None:
        """`results` is the folder of the outputs, "captions" or "features"; `run` is the id of the run."""
        self.run_uri = run_uri
        self.plan = plan
        self.results = results
        self.run = run
        self.attempt = uuid.uuid4().hex[:12]

    def output_uri(self, unit: int, generation: int) -> str:
        """Where a unit's rows are."""
        name = run_folder.output_name(unit, generation, self.plan)
        return storage.join(self.run_uri, self.results, name)

    def list_files(self) -> Listing:
        """The records and outputs that are there: a listing of each folder."""
        return run_folder.list_files(self.run_uri, self.results, self.plan)

    def confirm(self) -> None:
        """Check that the folder still holds this run; raises as the function `confirm`."""
        confirm(self.run_uri, self.run)

    def put_output(self, unit: int, generation: int, data: bytes) -> bool:
        """Write a unit's rows unless the file exists; True if it now holds `data`."""
        return storage.put_if_absent(self.output_uri(unit, generation), data)

    def commit(
        self, unit: int, generation: int, data: bytes, counts: Counts, *, adopted: bool = False
    ) -> bool:
        """Write the commit record of a unit whose output holds `data`.

        Returns:
            False if another attempt committed the unit first.
        """
        now = datetime.now(timezone.utc)
        record: dict[str, Any] = {
            "unit": unit,
            "generation": generation,
            "committed_at": now.isoformat(timespec="milliseconds"),
            "run": self.run,
            "plan": self.plan,
            "attempt": self.attempt,
            "adopted": adopted,
            "output": f"{self.results}/{run_folder.output_name(unit, generation, self.plan)}",
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "rows": sum(counts.rows.values()),
            "statuses": counts.rows,
            "errors": counts.errors,
            "seconds": counts.seconds,
            "familiarity": counts.familiarity,
            "usage": counts.usage,
            "host_errors": counts.host_errors,
        }
        name = run_folder.record_name(unit, generation, self.plan, len(data))
        uri = storage.join(self.run_uri, "commits", name)
        return storage.put_if_absent(uri, json.dumps(record, indent=1).encode())

    def clean_up(self) -> list[CommittedUnit]:
        """Delete superseded generations, and files of a run that this one has overwritten.

        Returns:
            The committed units whose rows are whole.

        Raises:
            JobError: as `confirm`, and nothing was deleted.
        """
        files = self.list_files()
        self.confirm()  # after the listing, which then holds nothing of a job that overwrites the run later
        units = [unit for unit in files.units() if unit.damage is None]
        whole = {unit.unit: unit.generation for unit in units}
        # A record goes before its rows, so that a record always has its rows.
        for uris in (_superseded(files.records, whole), _superseded(files.outputs, whole), files.others):
            _delete(uris)
        return units


def _host_errors(record: dict[str, Any]) -> dict[str, Any]:
    """Failures of web hosts; records of earlier versions have only the kinds of all errors."""
    older = {kind: count for kind, count in record["errors"].items() if is_host_failure(kind)}
    return record.get("host_errors", older)


def read_commits(units: Iterable[CommittedUnit]) -> Iterator[Commit]:
    """What the commit records of units say, in the same order.

    Raises:
        JobError: a record is damaged.
    """

    def one(unit: CommittedUnit) -> Commit:
        try:
            return Commit.from_json(storage.read_bytes(unit.record))
        except FileNotFoundError as error:
            raise JobError(f"{unit.record} is gone: another job is replacing it; try again") from error
        except ValueError as error:
            raise JobError(
                f"{unit.record} is damaged: {error}; the command that made the run mends it with "
                "--output.mode repair"
            ) from error

    return in_order(one, units, REQUESTS)


def sum_counts(commits: Iterable[Commit]) -> Counts:
    """The sum of their counts."""
    total = Counts()
    for commit in commits:
        total.add(commit.counts)
    return total


def confirm(run_uri: str, run: str) -> None:
    """Check that a folder still holds the run with this id.

    Raises:
        JobError: another job has overwritten it.
    """
    record = run_folder.read_record(run_uri)
    if record is None or record["run"] != run:
        raise JobError(
            f"{run_uri} was overwritten by another job meanwhile; the rows of this one do not count"
        )


def clear(run_uri: str, results: str) -> None:
    """Delete the files of the run in a folder, and only those; other files in its folders are logged.

    The commit records go first and run.json last: an interrupted clearing only loses work, and the next
    one completes it.
    """
    foreign: list[str] = []
    for folder in ("commits", results, "attempts", "manifest"):
        own: list[str] = []
        for file in storage.list_files(storage.join(run_uri, folder)):
            if is_own(folder, file.name):
                own.append(file.uri)
            else:
                foreign.append(f"{folder}/{file.name}")
        _delete(own)
    for name in ("summary.json", "run.json"):
        storage.delete(storage.join(run_uri, name))
    if foreign:
        named = ", ".join(foreign[:NAMED]) + (", ..." if len(foreign) > NAMED else "")
        log.warning("%s: %d files are not of the run and stay: %s", run_uri, len(foreign), named)


def is_own(folder: str, name: str) -> bool:
    """Whether a file belongs to the run, by its name; an interrupted write leaves a dot file."""
    path, _, last = name.rpartition("/")
    partial = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}\.tmp", last)
    if partial:
        name = f"{path}/{partial[1]}".lstrip("/")
    return re.fullmatch(_OWN_FILES[folder], name) is not None


def _superseded(files: dict[Key, Any], whole: dict[int, int]) -> Iterator[str]:
    return (file.uri for (unit, generation), file in files.items() if generation < whole.get(unit, 0))


def _delete(uris: Iterable[str]) -> None:
    for _ in in_order(storage.delete, uris, REQUESTS):
        pass
