"""The progress of a run, and whether its files are intact; read from its folder only.

Two listings, of commit records and rows, show what is done; the totals are read from the records. No file of
rows is opened, except by `verify`.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

from glied import run_folder, storage
from glied.bulk.plan import manifest
from glied.bulk.plan.manifest import Manifest
from glied.bulk.run import verification
from glied.bulk.run.ledger import Commit, Counts, read_commits, sum_counts
from glied.bulk.run.totals import Totals, counted, of_rows
from glied.errors import UsageError
from glied.run_folder import CommittedUnit

WINDOW = timedelta(minutes=5)
"""The speed is measured over this time before the last commit."""
PAUSE_S = 60.0
"""A longer gap between commits counts as a pause if it is also ten times the mean of the others."""
QUIET_S = 30.0
QUIET_GAPS = 3.0
"""A run counts as running until this many seconds, and this many times the longest gap between its last
commits, have passed since the last one."""


@dataclass(frozen=True)
class Run:
    """A run folder; `results` is the folder of its outputs, `plan` is None while the inputs are listed."""

    uri: str
    results: str
    plan: Manifest | None


@dataclass(frozen=True, kw_only=True)
class Status(Totals):
    """Progress of a run; while the inputs are listed, all numbers are 0.

    Attributes:
        planned: False while the inputs are listed.
        images_done, images_missing: in committed units, and the rest.
        units_damaged: of the missing ones, those whose rows were committed but are gone or truncated.
        units_retried: done units of which failed images were tried again.
        images_per_s: over the last `window_s` seconds before the last commit; None with fewer than two
            commits.
        window_s: see images_per_s.
        running: whether a job seems to be running: the last commit is recent, and no job has ended since.
        seconds_left: for what is missing, at that speed; None where nothing seems to be running.
        last_commit: UTC, ISO 8601.
    """

    planned: bool = True
    images_done: int = 0
    images_missing: int = 0
    units_damaged: int = 0
    units_retried: int = 0
    images_per_s: float | None = None
    window_s: float = 0.0
    running: bool = False
    seconds_left: float | None = None
    last_commit: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every image of the plan has its row."""
        return self.planned and not self.units_missing

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def lines(self, now: datetime) -> list[str]:
        """For a person."""
        if not self.planned:
            return [f"{self.run}: the inputs are being listed, nothing is captioned yet"]
        lines = [
            f"{self.images_done} of {self.images} images done ({counted(self.statuses) or 'none'}), "
            f"{self.units_done} of {self.units} units"
        ]
        if self.units_missing:
            lines.append(f"missing: {self.images_missing} images in {self.units_missing} units")
        if self.units_damaged:
            lines.append(
                f"damaged: the rows of {self.units_damaged} committed units are missing or truncated; the "
                "command that made the run does them again"
            )
        if self.units_retried:
            lines.append(f"done again: {self.units_retried} units")
        lines += self.error_lines()
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
        if self.images_per_s is not None:
            line = f"{self.images_per_s:.1f} images/s over {duration(self.window_s)} before the {line}"
        if self.seconds_left is not None:
            line += f"; {duration(self.seconds_left)} left at that speed"
        elif self.units_missing and not self.running:
            line += "; nothing seems to be running, the same command resumes"
        return line


def open_run(uri: str) -> Run:
    """The run that a folder holds.

    Raises:
        UsageError: it holds none, or run.json or the manifest is damaged.
    """
    if storage.is_local(uri) and not storage.local_path(uri).is_dir():
        raise UsageError(f"{uri}: no such folder")
    record = run_folder.read_record(uri)
    if record is None:
        raise UsageError(f"{uri} holds no run: it has no run.json")
    plan = manifest.load(uri, record["run"])
    if plan is None:
        run_folder.check_not_lost(uri, record["run"])
    return Run(uri.rstrip("/"), record["results"], plan)


def committed_units(run: Run) -> dict[int, CommittedUnit]:
    """The committed units in order, whole or damaged: two listings, nothing opened."""
    assert run.plan is not None
    units = run_folder.list_files(run.uri, run.results, run.plan.plan).units()
    return {unit.unit: unit for unit in units}


def status(run: Run, now: datetime | None = None) -> Status:
    """The progress of a run at a time, by default now.

    Raises:
        JobError: a commit record is damaged.
    """
    plan = run.plan
    if plan is None:
        return Status(run=run.uri, results=run.results, planned=False, **of_rows(Counts()))
    units = [unit for unit in committed_units(run).values() if unit.unit < plan.units]
    done = [unit for unit in units if unit.damage is None]
    commits = list(read_commits(done))
    images_done = sum(plan.rows_of(unit.unit) for unit in done)
    rate, window = _pace(commits)
    missing = plan.images - images_done
    last = max((commit.committed_at for commit in commits), default=None)
    running = bool(last and missing) and _is_running(run, commits, now or datetime.now(timezone.utc))
    return Status(
        run=run.uri,
        results=run.results,
        images=plan.images,
        units=plan.units,
        images_done=images_done,
        units_done=len(done),
        images_missing=missing,
        units_missing=plan.units - len(done),
        units_damaged=len(units) - len(done),
        units_retried=sum(unit.generation > 0 for unit in done),
        **of_rows(sum_counts(commits)),
        images_per_s=None if rate is None else round(rate, 2),
        window_s=round(window, 1),
        running=running,
        seconds_left=round(missing / rate, 1) if rate and running else None,
        last_commit=last.isoformat() if last else None,
    )


def _is_running(run: Run, commits: list[Commit], now: datetime) -> bool:
    times = sorted(commit.committed_at for commit in commits)
    recent = [time for time in times if time >= times[-1] - WINDOW]
    longest = max(((later - earlier).total_seconds() for earlier, later in pairwise(recent)), default=0.0)
    if (now - times[-1]).total_seconds() > max(QUIET_S, QUIET_GAPS * longest):
        return False
    ended = _ended_at(run)
    return ended is None or ended < times[-1]


def _ended_at(run: Run) -> datetime | None:
    """When the last job that ran to its end wrote summary.json; None if there is no such time."""
    try:
        summary = json.loads(storage.read_bytes(storage.join(run.uri, "summary.json")))
        ended = datetime.fromisoformat(summary["ended_at"])
        return ended if ended.tzinfo else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def verify(run: Run) -> Iterator[str]:
    """Problems of the committed units, a line each: files, digests, counts, ids."""
    if run.plan is not None:
        yield from map(str, verification.verify(run.plan, committed_units(run).values()))


def _pace(commits: list[Commit]) -> tuple[float | None, float]:
    """Images/s over the last minutes of work, and the length of that time in seconds.

    The images of the first commit in it do not count: they were described before it.
    """
    timed = sorted(((commit.committed_at, commit) for commit in commits), key=lambda pair: pair[0])
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
    """The index of the first commit after the longest gap, if that gap is a pause; else 0."""
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    longest = max(gaps)
    others = sum(gaps) - longest
    if len(gaps) < 2 or longest <= PAUSE_S or longest * (len(gaps) - 1) <= 10 * others:
        return 0
    return gaps.index(longest) + 1


def duration(seconds: float) -> str:
    """A duration in text, in at most two units."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
