"""The files of a run folder: their names, and which of them are committed.

    <run>/run.json                                    the run's id, config and fingerprint
    <run>/manifest/manifest.json                      the plan of the run: every input once
    <run>/captions/unit-000012-<plan>.g0.parquet      a unit's rows; in features/ for a feature store
    <run>/commits/unit-000012-<plan>-<size>.g0.json   its commit record; `size` is that of the rows in bytes

Readers of a run or a feature store get its files from `committed`, never from a listing of the folder: a
folder also has files that were never committed, that a later generation replaces, or that an overwritten run
left. Because the records' names contain the sizes, two listings show which rows are missing or truncated.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from glied import storage
from glied.errors import StorageError, UsageError

PLAN_DIGITS = 8
"""Digits of the plan's id in the names of its files."""
RESULTS = ("captions", "features")
"""Folders of rows; a run has one of them."""
CHECKSUM = "checksum"
"""Key of run.json and manifest.json: SHA-256 of all the others."""
_OUTPUT = re.compile(r"unit-(\d{6,})-([0-9a-f]{8})\.g(\d+)\.parquet")
_RECORD = re.compile(r"unit-(\d{6,})-([0-9a-f]{8})(?:-(\d+))?\.g(\d+)\.json")

Key = tuple[int, int]
"""Unit and generation."""


@dataclass(frozen=True)
class Record:
    """A commit record as a listing shows it; `size` is that of its output, None in runs of older versions."""

    uri: str
    size: int | None


@dataclass(frozen=True)
class CommittedUnit:
    """A unit's highest committed generation and where its two files are.

    Attributes:
        unit, generation: which they are.
        output: its rows.
        record: its commit record.
        size: bytes of the rows that were committed; None in runs of older versions.
        found: bytes of the rows that exist; None if they are missing.
    """

    unit: int
    generation: int
    output: str
    record: str
    size: int | None
    found: int | None

    @property
    def damage(self) -> str | None:
        """The damage of the rows as far as a listing shows it, or None."""
        if self.found is None:
            return f"{self.output} is missing"
        if self.found != self.size and (self.size is not None or not self.found):
            return f"{self.output} has {self.found} bytes, not {self.size or 'those that were committed'}"
        return None


@dataclass(frozen=True)
class Committed:
    """The committed rows of a run.

    Attributes:
        run: the run folder.
        results: the folder in it that holds the rows.
        planned: number of units in the plan; None while the inputs are listed.
        units: committed ones, in order.
    """

    run: str
    results: str
    planned: int | None
    units: list[CommittedUnit]

    @property
    def complete(self) -> bool:
        """Whether every unit of the plan is committed."""
        return len(self.units) == self.planned

    def check(self) -> None:
        """Refuse rows that are missing or truncated.

        Raises:
            UsageError: naming the first of them, and how to repeat them.
        """
        damages = [unit.damage for unit in self.units if unit.damage]
        if damages:
            raise UsageError(
                f"{self.run}: {len(damages)} committed units are damaged, first {damages[0]}; the command "
                "that made the run repeats them"
            )


def read_record(run_uri: str) -> dict[str, Any] | None:
    """The content of run.json; None if it does not exist.

    Raises:
        UsageError: it is damaged, or not that of a bulk run of this program.
    """
    uri = storage.join(run_uri, "run.json")
    record = _read_json(uri)
    if record is not None and not _is_run(record):
        raise UsageError(f"{uri} is not of a bulk run of this program")
    return record


def _is_run(record: Any) -> bool:
    """Whether the content of a run.json is that of a bulk run; trainings have a run.json of their own."""
    if not isinstance(record, dict) or record.get("results") not in RESULTS:
        return False
    return isinstance(record.get("run"), str) and isinstance(record.get("fingerprint"), dict)


def read_manifest(run_uri: str, run: str | None) -> dict[str, Any] | None:
    """The verified content of the manifest of run `run`; None if it does not exist.

    A job that is still planning while another one overwrites its run may leave its manifest in
    manifest.json; then the manifest of the run is in `manifest_name(run)`.

    Raises:
        UsageError: it is damaged.
    """
    for name in ("manifest.json", manifest_name(run)) if run else ("manifest.json",):
        uri = storage.join(run_uri, "manifest", name)
        content = _read_json(uri)
        if content is None:
            continue
        if not isinstance(content, dict):
            raise UsageError(f"{uri} is damaged: it is not a manifest of this program")
        if content.pop("run", None) in (None, run) or run is None:  # older versions do not name the run
            return content
    return None


def check_not_lost(run_uri: str, run: str) -> None:
    """Refuse a run without a manifest that has commit records: its manifest was deleted.

    Records of a run that this one has overwritten do not count; a job of it may still write some.

    Raises:
        UsageError: it has some.
    """
    files = storage.list_files(storage.join(run_uri, "commits"), recursive=False)
    records = [file.uri for file in files if _RECORD.fullmatch(file.name)]
    if any(_is_of(uri, run) for uri in records) and read_manifest(run_uri, run) is None:
        # Read again: a job may have finished its plan and a first unit since the caller looked.
        raise UsageError(
            f"{run_uri}/manifest/manifest.json is missing, but {len(records)} units are committed: put it "
            "back, or start again with --output.mode overwrite"
        )


def _is_of(record: str, run: str) -> bool:
    """Whether a commit record belongs to a run, or to an unknown one."""
    try:
        content = json.loads(storage.read_bytes(record))
        return content.get("run") in (None, run)
    except FileNotFoundError:
        return False
    except (ValueError, AttributeError):
        return True


def manifest_name(run: str | None) -> str:
    """Name of the manifest of a run if manifest.json is that of another run."""
    return f"manifest-{run}.json"


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def output_name(unit: int, generation: int, plan: str) -> str:
    """Name of a unit's rows."""
    return f"unit-{unit:06d}-{plan[:PLAN_DIGITS]}.g{generation}.parquet"


def record_name(unit: int, generation: int, plan: str, size: int) -> str:
    """Name of the commit record of rows of `size` bytes."""
    return f"unit-{unit:06d}-{plan[:PLAN_DIGITS]}-{size}.g{generation}.json"


@dataclass(frozen=True)
class Listing:
    """The files of a plan as one listing of each folder shows them; nothing is opened.

    Attributes:
        records: commit records.
        outputs: files of rows, committed or not.
        others: URIs of the files of other plans, which a run left that was overwritten.
    """

    run: str
    results: str
    plan: str
    records: dict[Key, Record]
    outputs: dict[Key, storage.FileInfo]
    others: list[str]

    @property
    def generations(self) -> dict[int, int]:
        """The highest generation of each unit that has a commit record."""
        return _highest(self.records)

    @property
    def written(self) -> dict[int, int]:
        """The highest generation of each unit that has rows, committed or not."""
        return _highest(self.outputs)

    def units(self) -> list[CommittedUnit]:
        """The committed units in order, at their highest generation."""
        units = []
        for unit, generation in sorted(self.generations.items()):
            record, output = self.records[unit, generation], self.outputs.get((unit, generation))
            uri = storage.join(self.run, self.results, output_name(unit, generation, self.plan))
            found = None if output is None else output.size
            units.append(CommittedUnit(unit, generation, uri, record.uri, record.size, found))
        return units


def list_files(run_uri: str, results: str, plan: str) -> Listing:
    """List a run's files of one plan."""
    found = Listing(run_uri, results, plan, {}, {}, [])
    # The records first: rows are written before their record, so that none is taken to be missing.
    for file in storage.list_files(storage.join(run_uri, "commits"), recursive=False):
        if match := _RECORD.fullmatch(file.name):
            if match[2] == plan[:PLAN_DIGITS]:
                size = None if match[3] is None else int(match[3])
                found.records[int(match[1]), int(match[4])] = Record(file.uri, size)
            else:
                found.others.append(file.uri)
    for file in storage.list_files(storage.join(run_uri, results), recursive=False):
        if match := _OUTPUT.fullmatch(file.name):
            if match[2] == plan[:PLAN_DIGITS]:
                found.outputs[int(match[1]), int(match[3])] = file
            else:
                found.others.append(file.uri)
    return found


def _highest(keys: Iterable[Key]) -> dict[int, int]:
    found: dict[int, int] = {}
    for unit, generation in keys:
        found[unit] = max(generation, found.get(unit, 0))
    return found


def committed(run_uri: str) -> Committed | None:
    """The committed rows of the run in a folder; None if the folder holds no run.

    `run_uri` may also be the folder of the rows inside the run folder, such as features/.

    Raises:
        UsageError: run.json or the manifest is damaged, or the manifest is there without run.json.
        StorageError: storage failed.
    """
    root = _root(run_uri)
    if root is None:
        return None
    run, record = root
    results = record["results"]
    manifest = read_manifest(run, record["run"])
    if manifest is None:
        check_not_lost(run, record["run"])
        return Committed(run, results, None, [])
    try:
        plan, planned = str(manifest["plan"]), int(manifest["units"])
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{run}/manifest/manifest.json is not a manifest of this program") from error
    units = [unit for unit in list_files(run, results, plan).units() if unit.unit < planned]
    return Committed(run, results, planned, units)


def _root(uri: str) -> tuple[str, dict[str, Any]] | None:
    """The run folder that `uri` is, or whose rows it holds, and its run.json."""
    folder = storage.absolute(uri)
    parent, _, name = folder.rpartition("/")
    runs = [folder] if parent.endswith(("/", ":")) or not parent else [folder, parent]  # a bucket has none
    for run in runs:
        try:
            record = _read_json(storage.join(run, "run.json"))
            if _is_run(record) and (run == folder or record["results"] == name):
                return run, record
            unknown = not _is_run(record) and (run == folder or name in RESULTS)
            if unknown and storage.exists(storage.join(run, "manifest", "manifest.json")):
                raise UsageError(f"{run} holds a run whose run.json is missing or damaged")
        except StorageError:
            if run == folder:  # its parent need not be readable
                raise
    return None


def with_checksum(content: dict[str, Any]) -> bytes:
    """A control file that shows when it was damaged."""
    content = json.loads(json.dumps(content))  # as it is read
    return json.dumps(content | {CHECKSUM: digest(content)}, indent=1).encode()


def _read_json(uri: str) -> Any:
    """The content of a control file without its checksum; None if it does not exist.

    Raises:
        UsageError: it is damaged. Files of older versions have no checksum.
    """
    try:
        content = json.loads(storage.read_bytes(uri))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{uri} is damaged: {' '.join(str(error).split())}") from error
    if isinstance(content, dict) and content.pop(CHECKSUM, None) not in (None, digest(content)):
        raise UsageError(f"{uri} is damaged: its checksum is wrong")
    return content
