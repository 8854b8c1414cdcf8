"""How far a run has come, and whether what it holds is whole; read from its folder alone.

Totals come from one listing of `commits/` and the few journals; no record and no output is opened. `verify`
opens all of them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glied import storage
from glied.bulk import manifest
from glied.bulk.ledger import Commit, Counts, Ledger
from glied.bulk.manifest import Manifest, Unit
from glied.bulk.parallel import in_order
from glied.errors import UsageError

IN_FLIGHT = 64
"""Files read at once."""
WINDOW = timedelta(minutes=5)
"""The speed is that of the last so many minutes before the last commit."""
PAUSE_S = 60.0
"""A longer gap between commits, if it is also ten times the mean of the others, is a pause and no work."""


@dataclass(frozen=True)
class Run:
    """A run folder; `results` is the folder of its outputs, `plan` is None while the inputs are listed."""

    uri: str
    results: str
    plan: Manifest | None


@dataclass(frozen=True)
class CommittedUnit:
    """A unit's highest committed generation and where its two files are."""

    unit: int
    generation: int
    output: str
    record: str


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a run has come.

    Attributes:
        run: the run folder.
        results: the folder in it that holds the rows.
        planned: False while the inputs are listed; all numbers are 0 then.
        images, units: planned.
        images_done, units_done: committed.
        images_missing, units_missing: the rest.
        units_retried: done units of which failed images were tried again.
        statuses, errors: committed images by status, and those not ok by kind of error.
        stage_seconds: seconds in each stage over all attempts, summed over workers.
        images_per_s: over the last `window_s` seconds before the last commit; None where one commit, or
            none, tells nothing.
        window_s: see images_per_s.
        seconds_left: for what is missing, at that speed.
        last_commit: UTC, ISO 8601.
    """

    run: str
    results: str
    planned: bool = True
    images: int = 0
    units: int = 0
    images_done: int = 0
    units_done: int = 0
    images_missing: int = 0
    units_missing: int = 0
    units_retried: int = 0
    statuses: dict[str, int]
    errors: dict[str, int]
    stage_seconds: dict[str, float]
    images_per_s: float | None = None
    window_s: float = 0.0
    seconds_left: float | None = None
    last_commit: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def lines(self, now: datetime) -> list[str]:
        """For a person."""
        if not self.planned:
            return [f"{self.run}: the inputs are being listed, nothing is captioned yet"]
        lines = [
            f"{self.images_done} of {self.images} images done ({_counted(self.statuses) or 'none'}), "
            f"{self.units_done} of {self.units} units"
        ]
        if self.units_missing:
            lines.append(f"missing: {self.images_missing} images in {self.units_missing} units")
        if self.units_retried:
            lines.append(f"tried again: {self.units_retried} units with failed images")
        if self.errors:
            lines.append("errors: " + _counted(self.errors))
        if self.last_commit:
            lines.append(self._pace(now))
        if self.stage_seconds:
            seconds = (f"{stage} {value:.1f}" for stage, value in self.stage_seconds.items())
            lines.append("seconds by stage, summed over workers: " + ", ".join(seconds))
        return lines

    def _pace(self, now: datetime) -> str:
        assert self.last_commit
        ago = (now - datetime.fromisoformat(self.last_commit)).total_seconds()
        line = f"last commit {self.last_commit}, {duration(max(0.0, ago))} ago"
        if self.images_per_s is None:
            return line
        line = f"{self.images_per_s:.1f} images/s over {duration(self.window_s)} before the {line}"
        return (
            line if self.seconds_left is None else f"{line}; {duration(self.seconds_left)} left at that speed"
        )


def open_run(uri: str) -> Run:
    """The run that a folder holds.

    Raises:
        UsageError: it holds none.
    """
    if storage.is_local(uri) and not storage.local_path(uri).is_dir():
        raise UsageError(f"{uri}: no such folder")
    try:
        record = json.loads(storage.read_bytes(storage.join(uri, "run.json")))
        results = str(record["results"])
    except FileNotFoundError as error:
        raise UsageError(f"{uri} holds no run: it has no run.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{uri}/run.json is not of this program: {error}") from error
    return Run(uri.rstrip("/"), results, manifest.load(uri))


def committed_units(run: Run) -> dict[int, CommittedUnit]:
    """The committed units in order: one listing, nothing opened."""
    assert run.plan is not None
    book = Ledger(run.uri, run.plan.plan, run.results)
    return {
        unit: CommittedUnit(unit, number, book.output_uri(unit, number), book.record_uri(unit, number))
        for unit, number in sorted(book.committed().items())
    }


def status(run: Run) -> Status:
    """How far the run has come; only the names in `commits/` and the journals are read.

    Raises:
        JobError: the journals are damaged, or lack a committed unit.
    """
    plan = run.plan
    if plan is None:
        return Status(
            run=run.uri, results=run.results, planned=False, statuses={}, errors={}, stage_seconds={}
        )
    done = {unit: found for unit, found in committed_units(run).items() if unit < plan.units}
    book = Ledger(run.uri, plan.plan, run.results)
    commits = book.commits({unit: found.generation for unit, found in done.items()})
    totals = Counts()
    for commit in commits:
        totals.add(commit.counts)
    images_done = sum(plan.rows_of(unit) for unit in done)
    missing = plan.images - images_done
    rate, window = _pace(commits)
    last = max((_time(commit) for commit in commits), default=None)
    return Status(
        run=run.uri,
        results=run.results,
        images=plan.images,
        units=plan.units,
        images_done=images_done,
        units_done=len(done),
        images_missing=missing,
        units_missing=plan.units - len(done),
        units_retried=sum(found.generation > 0 for found in done.values()),
        statuses=totals.rows,
        errors=totals.errors,
        stage_seconds={stage: round(value, 2) for stage, value in totals.seconds.items()},
        images_per_s=None if rate is None else round(rate, 2),
        window_s=round(window, 1),
        seconds_left=round(missing / rate, 1) if rate and missing else None,
        last_commit=last.isoformat() if last else None,
    )


def verify(run: Run) -> Iterator[str]:
    """What is wrong with the committed units, a line each: files, digests, counts, ids."""
    if run.plan is None:
        return
    done = committed_units(run)
    for unit in done:
        if unit >= run.plan.units:
            yield f"unit {unit}: committed, but the manifest has {run.plan.units} units"
    check = _Check(run.plan, storage.read_bytes, done)
    for problems in in_order(check, run.plan.read_units(done.keys()), IN_FLIGHT):
        yield from problems


class _Check:
    """Compares a unit's record, output and part of the manifest."""

    def __init__(self, plan: Manifest, read: Callable[[str], bytes], done: dict[int, CommittedUnit]) -> None:
        self.plan = plan
        self.read = read
        self.done = done

    def __call__(self, unit: Unit) -> list[str]:
        """What is wrong, a line each."""
        files = self.done[unit.index]
        return [f"unit {unit.index}: {problem}" for problem in self._problems(unit, files)]

    def _problems(self, unit: Unit, files: CommittedUnit) -> Iterator[str]:
        try:
            record = json.loads(self.read(files.record))
            plan, rows, digest = record["plan"], record["rows"], record["sha256"]
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            yield f"{files.record} is no commit record: {' '.join(str(error).split())}"
            return
        if plan != self.plan.plan:
            yield f"committed for plan {plan}, the manifest is plan {self.plan.plan}"
        try:
            data = self.read(files.output)
        except FileNotFoundError:
            yield f"committed, but {files.output} is missing"
            return
        if hashlib.sha256(data).hexdigest() != digest:
            yield f"{files.output} has another digest than its commit record"
        try:
            ids = pq.read_table(pa.BufferReader(data), columns=["id"])["id"].to_pylist()
        except (pa.ArrowException, OSError, KeyError) as error:
            yield f"{files.output} cannot be read as Parquet: {' '.join(str(error).split())}"
            return
        if len(ids) != rows:
            yield f"{files.output} has {len(ids)} rows, its commit record says {rows}"
        if ids != unit.ids:
            yield f"{files.output}: {_difference(ids, unit.ids)}"


def _difference(found: list[Any], planned: list[str]) -> str:
    lacking, foreign = set(planned) - set(found), set(found) - set(planned)
    if not lacking and not foreign:
        return "the ids are those of the manifest, but doubled or in another order"
    return f"{len(lacking)} ids of the manifest are missing, {len(foreign)} are not in it"


def _pace(commits: list[Commit]) -> tuple[float | None, float]:
    """Images/s over the last minutes of work, and the seconds that this speaks of.

    The images of the commit from which the time is counted do not count: they were done before.
    """
    timed = sorted(((_time(commit), commit) for commit in commits), key=lambda pair: pair[0])
    if len(timed) < 2:
        return None, 0.0
    end = timed[-1][0]
    first = max((place for place, (at, _) in enumerate(timed) if at <= end - WINDOW), default=0)
    timed = timed[first:]
    timed = timed[_after_pause([at for at, _ in timed]) :]
    start = timed[0][0]
    seconds = (end - start).total_seconds()
    images = sum(sum(commit.counts.rows.values()) for at, commit in timed if at > start)
    return (images / seconds if seconds else None), seconds


def _after_pause(times: list[datetime]) -> int:
    """The place of the first commit after the longest gap, if that gap is a pause; else 0."""
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    longest = max(gaps)
    others = sum(gaps) - longest
    if len(gaps) < 2 or longest <= PAUSE_S or longest * (len(gaps) - 1) <= 10 * others:
        return 0
    return gaps.index(longest) + 1


def _time(commit: Commit) -> datetime:
    return datetime.fromisoformat(commit.committed_at)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def duration(seconds: float) -> str:
    """Seconds for a person, in at most two units."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
