"""The driver of a run: sends what is missing, gathers, verifies, writes and commits unit by unit.

It is the only committer and does not depend on Ray: it gets a stream that runs chunks. Chunks that are lost
are sent again in the next round, image by image; images that are lost in every round become failed rows.
"""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from datetime import datetime, timezone

import pyarrow as pa
import pyarrow.compute as pc

from glied.bulk import chunks
from glied.bulk.arrow_tables import seconds_of, usage_of
from glied.bulk.items import Chunk, DescribedChunk, Job, Stream, StreamBroken
from glied.bulk.plan.manifest import INPUT, Manifest, Unit
from glied.bulk.plan.sources.fetch import STORAGE
from glied.bulk.row_schemas import FAILED, OK
from glied.bulk.run import verification
from glied.bulk.run.existing_outputs import ExistingOutputs
from glied.bulk.run.failures import ServerWatch, failures
from glied.bulk.run.ledger import Commit, Counts, Ledger, read_commits, sum_counts
from glied.bulk.run.lost_rows import lost_rows
from glied.bulk.run.progress import Progress
from glied.bulk.run.summary import Example, Summary
from glied.bulk.run.totals import of_rows
from glied.bulk.run.unit_work import UnitWork, check_ids, count_rows
from glied.errors import JobError
from glied.redaction import shown
from glied.run_folder import CommittedUnit, Listing

log = logging.getLogger(__name__)

CHUNKS_PER_WORKER = 8
"""A run is cut into at least this many chunks per worker, as long as it has enough images."""
IN_FLIGHT_UNITS = 2_000
IN_FLIGHT_IMAGES = 1 << 20
"""Most units, and images, whose chunks are planned at a time: a bound on the driver's memory."""
EXAMPLES = 10
"""Most captions that the summary shows."""
CONFIRM_S = 10.0
"""Seconds between two checks that the folder still holds this run."""


class Driver:
    """Describes and commits the units that a run lacks."""

    def __init__(self, job: Job, plan: Manifest, ledger: Ledger, stream: Stream) -> None:
        """Drive the run of a complete plan and its ledger.

        Attributes:
            earlier: whole units that were committed before.
            generations: the highest generation of each unit that has a commit record, whole or not.
            mended: units to do again because their committed rows are missing or damaged.
            done: generation of the units that this attempt committed; `counts` are theirs.
            whole: all units that are committed at the end.
            broken: units that are not committed because of their storage, and why.
            open: units under way.
            earlier_cost: of the units that were committed before, where the job has a budget.
            stopped: why the run stops before its end; empty otherwise.
        """
        self.job = job
        self.plan = plan
        self.ledger = ledger
        self.stream = stream
        self.schema = pa.schema([*job.schema, *plan.columns]).with_metadata(job.schema.metadata or {})
        self.existing = ExistingOutputs(ledger, self.schema)
        self.earlier: dict[int, CommittedUnit] = {}
        self.generations: dict[int, int] = {}
        self.mended: set[int] = set()
        self.done: dict[int, int] = {}
        self.counts = Counts()
        self.whole: dict[int, CommittedUnit] = {}
        self.confirmed_at = time.monotonic()
        self.broken: dict[int, str] = {}
        self.open: dict[int, UnitWork] = {}
        self.earlier_cost = 0.0
        self.stopped = ""
        self.watch = ServerWatch(job.resources.fetch.broken_units)
        self.images = 0
        self.startup_seconds = 0.0
        self.streaming_seconds = 0.0
        self.examples: list[Example] = []

    def run(self) -> None:
        """Commit the missing units, then retry failed rows of earlier attempts if the mode says so."""
        files = self._read_state()
        mine = [unit for unit in range(self.plan.units) if self.job.takes(unit)]
        self._adopt(files)
        if self.job.budget is not None:
            self.earlier_cost = sum_counts(read_commits(self.earlier.values())).usage.get("cost", 0.0)
            self._check_budget()
        done = [unit for unit in mine if self._is_committed(unit)]
        with Progress(self._count_images(mine), self._count_images(done)) as progress:
            finished = [self.earlier[unit] for unit in mine if unit in self.earlier and unit not in self.done]
            pending = [unit for unit in mine if not self._is_committed(unit)]
            self._run_rounds(map(self._new_work, self.plan.read_units(pending)), progress)
            if self.job.output.mode == "retry_failed":
                failed = [one for one in read_commits(finished) if one.counts.rows.get(FAILED)]
                progress.extend(sum(one.counts.rows[FAILED] for one in failed))
                self._run_rounds(self._retries(failed), progress)
        self.whole = {unit.unit: unit for unit in self.ledger.clean_up() if unit.unit < self.plan.units}

    def _read_state(self) -> Listing:
        """List the run's files and find out which units are committed and whole."""
        files = self.ledger.list_files()
        self.generations = files.generations
        units = [unit for unit in files.units() if unit.unit < self.plan.units]
        self.earlier = {unit.unit: unit for unit in units}
        for unit in units:
            if unit.damage:
                self._mark_damaged(unit.unit, unit.damage)
        if self.job.output.mode == "repair":
            self._verify()
        return files

    def _verify(self) -> None:
        """Mark units whose files are not what was committed."""
        mine = [unit for unit in self.earlier.values() if self.job.takes(unit.unit)]
        for problem in verification.verify(self.plan, mine):
            if not problem.mendable:
                raise JobError(f"output.mode repair cannot mend {problem}")
            self._mark_damaged(problem.unit, problem.text)

    def _mark_damaged(self, unit: int, damage: str) -> None:
        self.earlier.pop(unit, None)
        if self.job.takes(unit) and unit not in self.mended:
            log.warning("unit %d is done again: %s", unit, damage)
            self.mended.add(unit)

    def _is_committed(self, unit: int) -> bool:
        return unit in self.earlier or unit in self.done

    def summarize(self, seconds: float) -> Summary:
        """The summary of the whole run."""
        return Summary(
            run=self.ledger.run_uri,
            results=self.job.results,
            images=self.plan.images,
            units=self.plan.units,
            units_done=len(self.whole),
            units_done_earlier=len(self.earlier),
            units_missing=sum(
                unit not in self.whole for unit in range(self.plan.units) if self.job.takes(unit)
            ),
            units_mended=len(self.mended & self.done.keys()),
            skipped_files=self.plan.skipped,
            skipped_kinds=self.plan.skipped_kinds,
            **of_rows(self._totals()),
            images_this_time=self.images,
            images_per_s=round(self._rate(), 2),
            startup_seconds=round(self.startup_seconds, 2),
            seconds=round(seconds, 2),
            ended_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            error_budget=self.job.error_budget,
            problems=[*filter(None, [self.stopped]), *(self.broken[unit] for unit in sorted(self.broken))],
            examples=self.examples,
        )

    def _totals(self) -> Counts:
        """Counts of all committed units; reads only the records that this attempt did not write."""
        ours = {unit.unit for unit in self.whole.values() if self.done.get(unit.unit) == unit.generation}
        if len(ours) < len(self.done):  # another job has redone some of them
            ours = set()
        others = [unit for unit in self.whole.values() if unit.unit not in ours]
        totals = sum_counts(read_commits(others))
        if ours:
            totals.add(self.counts)
        return totals

    def _rate(self) -> float:
        """Images/s from the moment when work on the first result began."""
        return self.images / (self.streaming_seconds - self.startup_seconds) if self.images else 0.0

    def _count_images(self, units: Collection[int]) -> int:
        return sum(map(self.plan.rows_of, units))

    def _new_work(self, unit: Unit) -> UnitWork:
        generation = self.generations.get(unit.index, -1) + 1
        return UnitWork(unit, generation, None, frozenset(range(unit.table.num_rows)))

    def _adopt(self, files: Listing) -> None:
        """Commit outputs that a killed attempt wrote without their commit record."""
        present = {
            unit: generation
            for unit, generation in files.written.items()
            if generation > self.generations.get(unit, -1) and self.job.takes(unit)
        }
        for unit in self.plan.read_units(present):
            generation = present[unit.index]
            data = self.existing.read(unit, generation)
            try:
                counts = self.existing.counts(unit, generation, data)
            except JobError as error:
                if self.job.output.mode != "repair":
                    raise
                self.generations[unit.index] = generation
                self._mark_damaged(unit.index, str(error))
            else:
                self._commit(unit, generation, data, counts, adopted=True)

    def _retries(self, commits: Iterable[Commit]) -> Iterator[UnitWork]:
        """The next generation of units that earlier attempts finished with failed rows."""
        wanted = {one.unit: one.generation for one in commits}
        for unit in self.plan.read_units(wanted):
            generation = wanted[unit.index]
            data = self.existing.read(unit, generation)
            rows = self.existing.rows(unit, generation, data)
            statuses = rows["status"].to_pylist()
            todo = frozenset(row for row, status in enumerate(statuses) if status == FAILED)
            isolated = any(one.is_suspect for one in failures(rows))
            yield UnitWork(unit, generation + 1, rows, todo, isolated)

    def _run_rounds(self, works: Iterable[UnitWork], progress: Progress) -> None:
        """Describe units in windows, each in a bounded number of rounds."""
        iterator = iter(works)
        units = max(1, min(IN_FLIGHT_UNITS, IN_FLIGHT_IMAGES // self.plan.unit_size))
        while not self.stopped and (window := list(itertools.islice(iterator, units))):
            self.open = {work.unit.index: work for work in window}
            complete = self._run_round(progress, isolated=False)
            for number in range(1, self.job.resources.recovery.rounds):
                if not self.open or self.stopped:
                    break
                log.warning("round %d: %d units are missing", number + 1, len(self.open))
                # Chunks that a complete round lost are suspect; a stream that broke proves nothing.
                complete = self._run_round(progress, isolated=complete)
            if complete and not self.stopped:
                self._give_up()

    def _run_round(self, progress: Progress, *, isolated: bool) -> bool:
        """Send missing images, one by one if `isolated`; returns whether the stream ran to its end."""
        images = 1 if isolated else self._chunk_images()
        todo = [chunk for work in self.open.values() for chunk in self._chunks(work, images)]
        start = time.perf_counter()
        try:
            with closing(self.stream(todo, isolated=isolated)) as results:  # type: ignore[type-var]  # streams are generators
                for result in results:
                    if self._gather(result, time.perf_counter() - start):
                        progress.update(result.table.num_rows)
                    if self.stopped:
                        break
            return True
        except StreamBroken as error:
            log.warning("the stream broke: %s", error)
            return False
        finally:
            self.streaming_seconds += time.perf_counter() - start

    def _chunk_images(self) -> int:
        """Images per chunk: fewer in a short run, so that its workers finish together."""
        resources = self.job.resources
        missing = sum(len(work.missing()) for work in self.open.values())
        return min(resources.chunk.images, -(-missing // (resources.worker.count * CHUNKS_PER_WORKER)))

    def _chunks(self, work: UnitWork, images: int) -> list[Chunk]:
        if work.isolated:
            images = 1
        pieces: list[Chunk] = []
        for first, last in work.missing_ranges():
            table = self._with_input(work.unit.table.slice(first, last - first))
            size = self.job.resources.chunk.bytes
            pieces += chunks.split(work.unit.index, first, table, images=images, size=size)
        return pieces

    def _with_input(self, table: pa.Table) -> pa.Table:
        """The table with all columns that pass through; those that fetching fills are null."""
        for column in self.plan.columns:
            if INPUT + column.name not in table.column_names:
                table = table.append_column(INPUT + column.name, pa.nulls(table.num_rows, column.type))
        return table

    def _gather(self, result: DescribedChunk, elapsed: float) -> bool:
        """Keep a result; False if the same images have arrived already."""
        work = self.open.get(result.unit)
        if work is None or result.start in work.arrived:
            return False
        work.arrived[result.start] = result.table
        if not self.images:
            self.startup_seconds = max(0.0, elapsed - sum(seconds_of(result.table).values()))
        self.images += result.table.num_rows
        if not work.missing():
            self._finish(work)
        return True

    def _give_up(self) -> None:
        """Finish units whose missing images were lost in every round."""
        for work in list(self.open.values()):
            missing = work.missing()
            rows = lost_rows(self.job, work.unit.table.take(missing), self.plan.columns)
            for position, row in enumerate(missing):
                work.arrived[row] = rows.slice(position, 1)
                log.error(
                    "%s was lost in %d rounds",
                    shown(rows["uri"][position].as_py()),
                    self.job.resources.recovery.rounds,
                )
            self._finish(work)

    def _finish(self, work: UnitWork) -> None:
        """Write and commit a unit whose images have all arrived."""
        unit, generation = work.unit, work.generation
        del self.open[unit.index]
        seconds: Counter[str] = Counter()
        usage: Counter[str] = Counter()
        for piece in work.arrived.values():
            seconds.update(seconds_of(piece))
            usage.update(usage_of(piece))
        table = work.rows(self.schema)
        work.arrived.clear()  # free memory: features are large
        work.earlier = None
        check_ids(unit, table)
        counts = count_rows(table, seconds, usage)
        if self._storage_failed(unit, table, counts):
            return
        data = self.job.encode(table)
        self._confirm()
        if not self.ledger.put_output(unit.index, generation, data):
            # Another attempt, or an earlier one, wrote the unit; its captions may differ in the last bit.
            data = self.existing.read(unit, generation)
            counts = self.existing.counts(unit, generation, data)
        self._commit(unit, generation, data, counts)
        self._collect_examples(table)
        self._check_budget()
        self._stop(self.watch(table, work.todo))

    def _check_budget(self) -> None:
        """Stop the run once its committed rows have cost what the budget allows."""
        budget, cost = self.job.budget, self.earlier_cost + self.counts.usage.get("cost", 0.0)
        if budget is not None and cost >= budget:
            self._stop(
                f"budget: {cost:.4f} of captioner.cost.budget {budget:g} are spent; the same command with a "
                "larger budget goes on"
            )

    def _stop(self, reason: str) -> None:
        """Stop the run for the first reason that is not empty."""
        if reason and not self.stopped:
            self.stopped = reason
            log.warning(reason)

    def _commit(
        self, unit: Unit, generation: int, data: bytes, counts: Counts, *, adopted: bool = False
    ) -> None:
        if not self.ledger.commit(unit.index, generation, data, counts, adopted=adopted):
            log.info("unit %d was committed by another attempt", unit.index)
        self.done[unit.index] = generation
        self.counts.add(counts)

    def _confirm(self) -> None:
        """Raise `JobError` if another job has overwritten the run; checks every `CONFIRM_S` seconds."""
        if time.monotonic() - self.confirmed_at > CONFIRM_S:
            self.ledger.confirm()
            self.confirmed_at = time.monotonic()

    def _storage_failed(self, unit: Unit, table: pa.Table, counts: Counts) -> bool:
        count = counts.errors.get(STORAGE, 0)
        if count <= self.job.resources.fetch.storage_budget * table.num_rows:
            return False
        first = next(one for one in failures(table) if one.kind == STORAGE)
        self.broken[unit.index] = (
            f"unit {unit.index} is not committed: storage failed for {count} of {table.num_rows} images, "
            f"first {shown(first.uri)}: {first.error}"
        )
        log.error(self.broken[unit.index])
        if (
            len(self.broken) >= self.job.resources.fetch.broken_units
        ):  # it is down, or the credentials are wrong
            raise JobError(f"storage failed in {len(self.broken)} units; {self.broken[unit.index]}")
        return True

    def _collect_examples(self, table: pa.Table) -> None:
        if self.job.example is None or len(self.examples) >= EXAMPLES:
            return
        ok = table.select(self.job.schema.names).filter(pc.field("status") == OK)
        for row in ok.slice(0, EXAMPLES - len(self.examples)).to_pylist():
            text = self.job.example(row)
            if text is not None:
                self.examples.append(Example(shown(row["id"]), text))
