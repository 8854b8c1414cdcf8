"""A bulk run from start to end: claim the run folder, plan, stream what is missing, commit unit by unit.

    <output>/run.json          resolved config and fingerprint; put-if-absent
    <output>/manifest/         every input once (manifest.py)
    <output>/captions/         a Parquet file per unit (ledger.py)
    <output>/commits/          a commit record per finished unit, written last
    <output>/attempts/         journals of the attempts, for the totals
    <output>/summary.json      totals

The driver is the only committer. It knows nothing of Ray: it is given a stream of chunks.
"""

import itertools
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from glied import storage
from glied.bulk import chunks, ledger, manifest, sinks
from glied.bulk.chunks import Chunk, Result, Stream
from glied.bulk.config import InputConfig, OutputConfig, ResourcesConfig
from glied.bulk.ledger import Counts, Ledger
from glied.bulk.manifest import Manifest, Unit
from glied.bulk.progress import Progress
from glied.bulk.sources import STORAGE, Listing, absolute
from glied.bulk.stages import FAILED, OK
from glied.bulk.summary import Example, Summary
from glied.bulk.tables import seconds_of
from glied.errors import GliedError, JobError, StorageError, UsageError

log = logging.getLogger(__name__)

STORAGE_SHARE = 0.05
"""A unit with a larger share of rows that storage could not deliver is not committed."""
MAX_BROKEN_UNITS = 3
"""After so many of them the job stops: storage is down, or the credentials are wrong."""
IN_FLIGHT_UNITS = 2_000
"""Units whose chunks are planned at a time; bounds the driver's memory."""
EXAMPLES = 10


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run does.

    Attributes:
        results: folder of the outputs, "captions" or "features".
        schema: of the rows, with the metadata of the files.
        encode: a unit's rows as the bytes of its file.
        config: resolved config, for run.json.
        fingerprint: what the rows depend on; another one never joins the run.
        example: the text of a row that the summary may show, or None.
    """

    results: str
    schema: pa.Schema
    encode: Callable[[pa.Table], bytes]
    config: dict[str, Any]
    fingerprint: dict[str, Any]
    source: InputConfig
    output: OutputConfig
    resources: ResourcesConfig
    error_budget: float
    example: Callable[[dict[str, Any]], str | None]


def execute(job: Job, stream: Stream) -> Summary:
    """Do what is missing of a run and write its summary.

    Raises:
        UsageError: input, output or fingerprint do not fit; nothing was started.
        JobError: storage keeps failing.
    """
    started = time.perf_counter()
    run_uri = absolute(job.output.uri)
    plan = _open(job, run_uri)
    driver = _Driver(job, plan, Ledger(run_uri, plan.plan, job.results), stream)
    driver.run()
    summary = driver.summarize(time.perf_counter() - started)
    storage.write_bytes(storage.join(run_uri, "summary.json"), summary.to_json())
    return summary


def _open(job: Job, run_uri: str) -> Manifest:
    """Claim the run folder, or join the run that it holds; its manifest."""
    probe(job.output.uri)
    try:
        if job.output.mode == "overwrite":
            _check_input(job)
            ledger.clear(run_uri, job.results)
        plan = manifest.load(run_uri)
        if plan is None:
            _check_input(job)
        _claim(job, run_uri)
        if plan is not None:
            return plan
        listing = Listing(job.source, run_uri)
        return manifest.create(run_uri, listing, job.output.unit_size, listing.skipped)
    except StorageError as error:
        raise UsageError(str(error)) from error


def _check_input(job: Job) -> None:
    """Refuse an input without images before anything is written or deleted."""
    listing = Listing(job.source, job.output.uri)
    listing.check()
    if next(iter(listing), None) is None:
        skipped = sum(listing.skipped.values())
        others = f"; {skipped} files have other extensions than input.extensions lists" if skipped else ""
        raise UsageError(f"input.uri {job.source.uri}: no images there{others}")


def probe(uri: str) -> None:
    """Try on the output what the run relies on: a put, a second put that is refused, a read, a deletion.

    Raises:
        UsageError: the storage does not do it.
    """
    name = storage.join(absolute(uri), f".probe-{uuid.uuid4().hex}")
    try:
        created = storage.put_if_absent(name, b"first")
        refused = not storage.put_if_absent(name, b"second")
        intact = storage.read_bytes(name) == b"first"
        storage.delete(name)
    except (GliedError, OSError) as error:
        raise UsageError(f"output.uri {uri} is not usable: {error}") from error
    if not (created and refused and intact):
        raise UsageError(
            f"output.uri {uri} is not usable: its storage overwrites where it must refuse (put-if-absent)"
        )


def _claim(job: Job, run_uri: str) -> None:
    """Write run.json, or compare with the one that is there."""
    uri = storage.join(run_uri, "run.json")
    source = {"uri": absolute(job.source.uri), "limit": job.source.limit, "extensions": job.source.extensions}
    # Through JSON, so that both sides of the comparison have been through it.
    mine = json.loads(json.dumps({"fingerprint": job.fingerprint, "input": source}))
    record = {"run": uuid.uuid4().hex[:12], "results": job.results} | mine | {"config": job.config}
    if storage.put_if_absent(uri, json.dumps(record, indent=1).encode()):
        return
    try:
        there = json.loads(storage.read_bytes(uri))
        theirs = {"fingerprint": there["fingerprint"], "input": there["input"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{uri} is not a run of this program: {error}") from error
    differences = list(_differences(theirs, mine))
    if differences:
        raise UsageError(
            f"output.uri {job.output.uri} holds a run with another fingerprint: {'; '.join(differences)}. "
            "Choose another output.uri, or --output.mode overwrite to delete that run"
        )


def _differences(theirs: Any, mine: Any, path: str = "") -> Iterator[str]:
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in sorted(theirs.keys() | mine.keys()):
            yield from _differences(theirs.get(key), mine.get(key), f"{path}.{key}" if path else key)
    elif theirs != mine:
        yield f"{path.removeprefix('fingerprint.')} was {_short(theirs)} and is now {_short(mine)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:24] + "..." + text[-4:]


class _Driver:
    """Gathers the chunks of units, verifies, writes and commits them."""

    def __init__(self, job: Job, plan: Manifest, book: Ledger, stream: Stream) -> None:
        self.job = job
        self.plan = plan
        self.book = book
        self.stream = stream
        self.committed: set[int] = set()
        self.earlier = 0
        self.broken: dict[int, str] = {}
        self.gathered: dict[int, dict[int, Result]] = {}
        self.images = 0
        self.startup_seconds = 0.0
        self.streaming_seconds = 0.0
        self.examples: list[Example] = []

    def run(self) -> None:
        """Commit what is missing, in a bounded number of rounds."""
        self.committed = self.book.committed()
        self.earlier = len(self.committed)
        self._adopt()
        with Progress(self.plan.images, self._committed_images()) as progress:
            for number in range(1, self.job.resources.rounds + 1):
                pending = [unit for unit in self._pending() if unit not in self.broken]
                if not pending:
                    break
                if number > 1:
                    log.warning("round %d: %d units are missing", number, len(pending))
                self._round(pending, progress)

    def summarize(self, seconds: float) -> Summary:
        """Totals over the whole run."""
        totals = self.book.totals(self.committed)
        return Summary(
            run=self.book.run_uri,
            results=self.job.results,
            images=self.plan.images,
            units=self.plan.units,
            units_done=len(self.committed),
            units_done_earlier=self.earlier,
            statuses=totals.rows,
            errors=totals.errors,
            skipped_files=self.plan.skipped,
            stage_seconds={stage: round(value, 2) for stage, value in totals.seconds.items()},
            images_this_time=self.images,
            images_per_s=round(self._rate(), 2),
            startup_seconds=round(self.startup_seconds, 2),
            seconds=round(seconds, 2),
            error_budget=self.job.error_budget,
            problems=[self.broken[unit] for unit in sorted(self.broken)],
            examples=self.examples,
        )

    def _rate(self) -> float:
        """Images/s from the moment when work on the first result began."""
        return self.images / (self.streaming_seconds - self.startup_seconds) if self.images else 0.0

    def _pending(self) -> list[int]:
        return [unit for unit in range(self.plan.units) if unit not in self.committed]

    def _committed_images(self) -> int:
        last = self.plan.images - (self.plan.units - 1) * self.plan.unit_size
        return len(self.committed) * self.plan.unit_size - (
            self.plan.unit_size - last if self.plan.units - 1 in self.committed else 0
        )

    def _adopt(self) -> None:
        """Commit outputs that a killed attempt wrote without their commit record."""
        present = self.book.outputs() - self.committed
        for unit in self.plan.read_units(present):
            data = storage.read_bytes(self.book.output_uri(unit.index))
            self._commit(unit, data, self._verified(unit, data), adopted=True)

    def _round(self, pending: list[int], progress: Progress) -> None:
        units = self.plan.read_units(pending)
        while window := {unit.index: unit for unit in itertools.islice(units, IN_FLIGHT_UNITS)}:
            self._stream_units(window, progress)

    def _stream_units(self, units: dict[int, Unit], progress: Progress) -> None:
        resources = self.job.resources
        todo: list[Chunk] = []
        for unit in units.values():
            pieces = chunks.split(unit, images=resources.chunk_images, size=resources.chunk_bytes)
            arrived = self.gathered.get(unit.index, {})
            todo += [piece for piece in pieces if piece.k not in arrived]
        count = {chunk.unit: chunk.n for chunk in todo}
        start = time.perf_counter()
        with closing(self.stream(todo)) as results:  # type: ignore[type-var]  # streams are generators
            for result in results:
                if self._gather(result, time.perf_counter() - start):
                    progress.update(result.table.num_rows)
                if len(self.gathered.get(result.unit, {})) == count[result.unit]:
                    self._finish(units[result.unit], self.gathered.pop(result.unit))
        self.streaming_seconds += time.perf_counter() - start

    def _gather(self, result: Result, elapsed: float) -> bool:
        """Keep a result; False for a retry whose first answer arrived after all."""
        if result.unit in self.committed or result.unit in self.broken:
            return False
        pieces = self.gathered.setdefault(result.unit, {})
        if result.k in pieces:
            return False
        pieces[result.k] = result
        if not self.images:
            self.startup_seconds = max(0.0, elapsed - sum(seconds_of(result.table).values()))
        self.images += result.table.num_rows
        return True

    def _finish(self, unit: Unit, pieces: dict[int, Result]) -> None:
        """Write and commit a unit whose chunks have all arrived."""
        tables = [pieces[k].table for k in sorted(pieces)]
        seconds: Counter[str] = Counter()
        for piece in tables:
            seconds.update(seconds_of(piece))
        table = pa.concat_tables(piece.replace_schema_metadata(None) for piece in tables)
        _check_ids(unit, table)
        counts = _count(table, dict(seconds))
        if self._storage_failed(unit, table, counts):
            return
        data = self.job.encode(table.replace_schema_metadata(self.job.schema.metadata))
        if not self.book.put_output(unit.index, data):
            # Another attempt, or this one before a kill, wrote the unit; captions may differ in the last bit.
            data = storage.read_bytes(self.book.output_uri(unit.index))
            counts = self._verified(unit, data)
        self._commit(unit, data, counts)
        self._collect_examples(table)

    def _commit(self, unit: Unit, data: bytes, counts: Counts, *, adopted: bool = False) -> None:
        if not self.book.commit(unit.index, data, counts, adopted=adopted):
            log.info("unit %d was committed by another attempt", unit.index)
        self.committed.add(unit.index)

    def _verified(self, unit: Unit, data: bytes) -> Counts:
        """Counts of an output that was found, after a look whether it is the unit's."""
        uri = self.book.output_uri(unit.index)
        try:
            table = sinks.decode(data)
        except pa.ArrowInvalid as error:
            raise JobError(
                f"{uri} is in the way and is no Parquet file: {error}; delete it and run again"
            ) from error
        if not table.schema.equals(self.job.schema):
            raise JobError(f"{uri} is in the way and has other columns; delete it and run again")
        _check_ids(unit, table)
        return _count(table, {})

    def _storage_failed(self, unit: Unit, table: pa.Table, counts: Counts) -> bool:
        failures = counts.errors.get(STORAGE, 0)
        if failures <= STORAGE_SHARE * table.num_rows:
            return False
        first = next(
            row
            for row in table.select(["error_kind", "error", "uri"]).to_pylist()
            if row["error_kind"] == STORAGE
        )
        self.broken[unit.index] = (
            f"unit {unit.index} is not committed: storage failed for {failures} of {table.num_rows} images, "
            f"first {first['uri']}: {first['error']}"
        )
        log.error(self.broken[unit.index])
        if len(self.broken) >= MAX_BROKEN_UNITS:
            raise JobError(f"storage failed in {len(self.broken)} units; {self.broken[unit.index]}")
        return True

    def _collect_examples(self, table: pa.Table) -> None:
        if len(self.examples) >= EXAMPLES:
            return
        for row in table.to_pylist():
            text = self.job.example(row) if row["status"] == OK else None
            if text is not None and len(self.examples) < EXAMPLES:
                self.examples.append(Example(row["id"], text))


def _check_ids(unit: Unit, table: pa.Table) -> None:
    if table["id"].to_pylist() != [entry.id for entry in unit.entries]:
        raise JobError(f"unit {unit.index}: the ids of its rows are not those of the manifest")


def _count(table: pa.Table, seconds: dict[str, float]) -> Counts:
    statuses: Counter[str] = Counter(map(str, table["status"].to_pylist()))
    errors: Counter[str] = Counter(str(kind) for kind in table["error_kind"].to_pylist() if kind is not None)
    return Counts(dict(statuses), dict(errors), {stage: round(value, 3) for stage, value in seconds.items()})


def exit_code(summary: Summary) -> int:
    """0 when every unit is committed and failed rows are within the budget, else 1."""
    failed = summary.statuses.get(FAILED, 0)
    complete = summary.units_done == summary.units
    return 0 if complete and failed <= summary.error_budget * summary.images else 1
