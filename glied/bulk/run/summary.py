"""The summary at the end of a run, for programs (summary.json) and for people."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from glied.bulk.config import describe_skipped
from glied.bulk.row_schemas import FAILED, OK
from glied.bulk.run.totals import Totals, counted, usage_line
from glied.terminal_text import printable


@dataclass(frozen=True)
class Example:
    """An image and its caption."""

    id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Summary(Totals):
    """Totals of a run at the end of a job, and what this job did.

    Attributes:
        units_done_earlier: of units_done, those that earlier attempts committed.
        units_mended: done again because their committed rows were missing or damaged.
        skipped_files: files under the prefix whose extension is not an image's.
        skipped_kinds: these by extension.
        images_this_time: images that this attempt described.
        images_per_s: of this attempt, from the moment when work on its first result began.
        startup_seconds: until then, while Ray and the workers start and the models are loaded.
        seconds: of this attempt, from start to end.
        ended_at: UTC, ISO 8601.
        error_budget: share of failed images that is allowed.
        problems: why the run was stopped, and one line per unit that was not committed, with the reason.
        examples: a few captions of this attempt.
    """

    units_done_earlier: int
    units_mended: int
    skipped_files: int
    skipped_kinds: dict[str, int]
    images_this_time: int
    images_per_s: float
    startup_seconds: float
    seconds: float
    ended_at: str
    error_budget: float
    problems: list[str]
    examples: list[Example]

    @property
    def failed_hosts(self) -> int:
        """Images that web hosts failed to deliver."""
        return sum(self.host_errors.values())

    @property
    def failed(self) -> int:
        """Images that failed otherwise, which count for the error budget."""
        return self.statuses.get(FAILED, 0) - self.failed_hosts

    @property
    def is_over_budget(self) -> bool:
        """Whether more images failed than the error budget allows."""
        return self.failed > self.error_budget * self.images

    @property
    def slowest_stage(self) -> str | None:
        """Name of the stage that took most of the workers' time."""
        return max(self.stage_seconds, key=self.stage_seconds.__getitem__, default=None)

    @property
    def delivers_nothing(self) -> bool:
        """Whether there are rows, and none of them is ok."""
        return any(self.statuses.values()) and not self.statuses.get(OK)

    def to_json(self) -> bytes:
        """As summary.json."""
        content = asdict(self) | {"failed_hosts": self.failed_hosts, "slowest_stage": self.slowest_stage}
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()

    def lines(self) -> list[str]:
        """For a person."""
        done = sum(self.statuses.values())
        lines = [
            *(f"  {example.id}: {example.text}" for example in self.examples),
            f"{done} of {self.images} images done ({counted(self.statuses) or 'none'})",
            *self.error_lines(),
            *self._left_out(),
            *self._speed(),
            *self._unit_lines(),
            f"rows: {self.run}/{self.results}   totals: {self.run}/summary.json",
        ]
        return [printable(line) for line in lines]

    def _left_out(self) -> Iterator[str]:
        if self.failed_hosts:
            yield (
                f"{self.failed_hosts} images failed at web hosts, outside the error budget; "
                "--output.mode retry_failed asks again"
            )
        if self.failed:
            excess = "more than" if self.is_over_budget else "within"
            yield (
                f"{self.failed} images failed, {excess} error_budget {self.error_budget:g}; "
                "--output.mode retry_failed tries them again"
            )
        if self.skipped_files:
            kinds = describe_skipped(self.skipped_kinds)
            yield f"{self.skipped_files} files left out{kinds and ': ' + kinds}"

    def _speed(self) -> Iterator[str]:
        yield (
            f"{self.images_this_time} images this time, {self.images_per_s:.1f} images/s "
            f"after {self.startup_seconds:.0f} s of start-up, {self.seconds:.0f} s in all"
        )
        if self.stage_seconds:
            ranked = sorted(self.stage_seconds.items(), key=lambda pair: -pair[1])
            parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in ranked)
            yield f"seconds of all workers: {parts}"
        if self.usage:
            yield f"used: {usage_line(self.usage)}"

    def _unit_lines(self) -> Iterator[str]:
        yield from (problem for problem in self.problems if not problem.startswith("unit "))
        if self.units_missing:
            yield f"{self.units_missing} of {self.units} units are missing; the same command resumes"
        if self.units_mended:
            yield f"{self.units_mended} units were done again: their rows were missing or damaged"
        if self.delivers_nothing:
            yield "error: nothing was delivered: none of the rows is ok; see the kinds of errors above"
