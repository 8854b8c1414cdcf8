"""What has been done: a record of each step, written last, and what a changed setting invalidates.

<output>/steps/<step>.json   settings, digest, whether it is complete, facts, seconds

A step's digest is that of its settings and of the digests of the steps that it reads from. A step whose
record has this digest is not done again. A record is written when a step begins, too, so that settings cannot
change in the middle of a step.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from glied import storage
from glied.config_keys import flat
from glied.errors import UsageError
from glied.teach.repeating import repeated

log = logging.getLogger(__name__)

_WRITTEN_S = 15.0
"""Seconds after which the time that a step has taken is written down."""
_START = "start"
"""Record of the time before the first step."""
_SHOWN = 120
"""Most characters of a value in a message."""
Facts = Mapping[str, Any]
Done = Mapping[str, Facts]
"""The facts of the steps that are done, by their names."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A piece of work with a folder of its own.

    Attributes:
        name: of the step.
        needs: the steps whose results it reads.
        settings: what decides its result, as JSON values; from the facts of earlier steps.
        run: does the work and returns what later steps and the report must know.
        folders: what it writes below the output, deleted when it is to be done anew.
        check: raises where the result cannot be used; runs each time, also where the step was done before.
    """

    name: str
    needs: tuple[str, ...]
    settings: Callable[[Done], Facts]
    run: Callable[[Done], Facts]
    folders: tuple[str, ...] = ()
    check: Callable[[Done], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """The record of a step; seconds are those of all attempts, to some seconds where one was killed."""

    digest: str
    settings: dict[str, Any]
    complete: bool
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class StepRecords:
    """The records below an output folder."""

    def __init__(self, output: str) -> None:
        """`output` is a path or URI."""
        self.output = output

    def _uri(self, name: str) -> str:
        return storage.join(self.output, "steps", f"{name}.json")

    def read(self, name: str) -> Record | None:
        """The record of a step; None where it never began.

        Raises:
            UsageError: the record is damaged.
        """
        uri = self._uri(name)
        try:
            return Record(**json.loads(storage.read_bytes(uri)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UsageError(f"{uri} is damaged: delete it, and the step {name} is done again") from error

    def write(self, name: str, record: Record) -> None:
        """Replace the record of a step."""
        storage.write_bytes(self._uri(name), json.dumps(asdict(record), indent=1).encode() + b"\n")

    def start(self, seconds: float) -> float:
        """Add what an attempt took until its first step; the seconds of all attempts."""
        before = self.read(_START)
        total = seconds + _spent(before)
        self.write(_START, Record(digest="", settings={}, complete=True, seconds=total))
        return total

    def discard(self, step: Step) -> None:
        """Delete what a step has written, its record last."""
        for folder in step.folders:
            for file in [*storage.list_files(storage.join(self.output, folder))]:
                storage.delete(file.uri)
        storage.delete(self._uri(step.name))


def run_steps(steps: Sequence[Step], records: StepRecords, *, redo: bool) -> dict[str, Record]:
    """Do what is missing, in order; the records by the names of the steps.

    Raises:
        UsageError: settings of a step that was begun have changed, and `redo` is not set; what has changed
            and the steps that have to be done again are named.
    """
    done: dict[str, Record] = {}
    for number, step in enumerate(steps, 1):
        facts = {name: record.facts for name, record in done.items()}
        settings = json.loads(json.dumps(step.settings(facts)))
        digest = _digest(settings, [done[name].digest for name in step.needs])
        record = records.read(step.name)
        if record is not None and record.digest != digest:
            _invalidate(steps[number - 1 :], record, settings, records, redo=redo)
            record = None
        where = f"step {number} of {len(steps)}, {step.name}"
        if record is not None and record.complete:
            log.info("%s: done before", where)
        else:
            log.info("%s", where)
            began = Record(digest=digest, settings=settings, complete=False, seconds=_spent(record))
            try:
                record = _do(step, facts, began, records)
            except UsageError:
                if record is None:  # a mistake that was found now must not bind the corrected command
                    records.discard(step)
                raise
            log.info("%s: done in %.0f s", where, record.seconds)
        done[step.name] = record
        if step.check is not None:
            step.check(facts | {step.name: record.facts})
    return done


def _spent(record: Record | None) -> float:
    return record.seconds if record is not None else 0.0


def _do(step: Step, facts: Done, began: Record, records: StepRecords) -> Record:
    """Do a step; its record has the time so far, in case it is killed."""
    started = time.perf_counter()

    def so_far() -> Record:
        return replace(began, seconds=began.seconds + time.perf_counter() - started)

    records.write(step.name, began)
    try:
        with repeated(lambda: records.write(step.name, so_far()), every_s=_WRITTEN_S):
            found = dict(step.run(facts))
    except Exception:
        records.write(step.name, so_far())
        raise
    record = replace(so_far(), complete=True, facts=found)
    records.write(step.name, record)
    return record


def _digest(settings: Mapping[str, Any], needed: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([settings, needed], sort_keys=True).encode()).hexdigest()


def _invalidate(
    steps: Sequence[Step], record: Record, settings: Facts, records: StepRecords, *, redo: bool
) -> None:
    """Discard the first of the steps and those of the others that depend on it and were begun."""
    affected = [step for step in _dependent(steps) if records.read(step.name) is not None]
    names = ", ".join(step.name for step in affected)
    if not redo:
        raise UsageError(
            f"output.uri {records.output}: settings of step {steps[0].name} have changed "
            f"({_changes(record.settings, settings)}); to be done again: {names}. --run.redo true deletes "
            "and does them again; or choose another output.uri"
        )
    log.info("done again, since %s: %s", _changes(record.settings, settings), names)
    for step in reversed(affected):
        records.discard(step)


def _dependent(steps: Sequence[Step]) -> list[Step]:
    """The first step and those that depend on it, directly or not."""
    found, names = [], {steps[0].name}
    for step in steps:
        if step.name in names or names & set(step.needs):
            found.append(step)
            names.add(step.name)
    return found


def _changes(old: Facts, new: Facts) -> str:
    before, after = flat(old), flat(new)
    keys = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    changes = [f"{key} was {_short(before.get(key))}, is {_short(after.get(key))}" for key in keys[:5]]
    return "; ".join(changes) or "an earlier step was done again"


def _short(value: Any) -> str:
    """A value in a message; of a digest its beginning says enough."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
