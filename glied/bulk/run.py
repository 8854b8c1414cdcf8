"""A bulk run from start to end: claim the run folder, plan, stream what is missing, commit unit by unit.

<output>/run.json          resolved config and fingerprint; put-if-absent
<output>/manifest/         every input once (manifest.py)
<output>/captions/         a Parquet file per unit (ledger.py)
<output>/commits/          a commit record per finished unit, written last
<output>/attempts/         journals of the attempts, for the totals
<output>/summary.json      totals
"""

import itertools
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from glied import storage
from glied.bulk import ledger, manifest
from glied.bulk.chunks import Stream
from glied.bulk.config import describe_skipped, recorded_input
from glied.bulk.driver import Driver
from glied.bulk.job import Job
from glied.bulk.ledger import Ledger
from glied.bulk.manifest import Manifest
from glied.bulk.parallel import InOrder, in_order
from glied.bulk.sinks import FAILED
from glied.bulk.sources import Source, inputs, open_source
from glied.bulk.sources.listing import absolute
from glied.bulk.summary import Summary
from glied.errors import GliedError, JobError, StorageError, UsageError


def execute(job: Job, stream: Stream, index: InOrder = in_order) -> Summary:
    """Do what is missing of a run and write its summary; shards of the input are read by means of `index`.

    Raises:
        UsageError: input, output or fingerprint do not fit; nothing was started.
        JobError: storage keeps failing, or another job has overwritten the run.
    """
    started = time.perf_counter()
    run_uri = absolute(job.output.uri)
    plan = _open(job, run_uri, index)
    driver = Driver(job, plan, Ledger(run_uri, plan.plan, job.results), stream)
    driver.run()
    _check_current(job, plan, run_uri)
    summary = driver.summarize(time.perf_counter() - started)
    storage.write_bytes(storage.join(run_uri, "summary.json"), summary.to_json())
    return summary


def _check_current(job: Job, plan: Manifest, run_uri: str) -> None:
    """Refuse to sum up a run that another job has overwritten; what this one wrote since is not read."""
    current = manifest.load(run_uri)
    if current is None or current.plan != plan.plan:
        raise JobError(f"output.uri {job.output.uri} was overwritten by another job meanwhile")


def _open(job: Job, run_uri: str, index: InOrder) -> Manifest:
    """Claim the run folder, or join the run that it holds; its manifest."""
    probe(job.output.uri)
    try:
        plan = None
        if job.output.mode == "error" and storage.exists(storage.join(run_uri, "run.json")):
            raise UsageError(
                f"output.uri {job.output.uri} holds a run, and output.mode is error: resume goes on with it, "
                "overwrite deletes it"
            )
        if job.output.mode == "overwrite":
            _first_input(job)
            ledger.clear(run_uri, job.results)
        else:
            plan = manifest.load(run_uri)
        if plan is None:
            _first_input(job)
        _claim(job, run_uri)
        return plan or _plan(job, run_uri, index)
    except StorageError as error:
        raise UsageError(str(error)) from error


def _plan(job: Job, run_uri: str, index: InOrder) -> Manifest:
    source = open_source(job.source, run_uri, index)
    batches = inputs(source, job.source)
    first = next(batches, None)  # reading has begun: the source knows its columns
    if first is None:
        raise _nothing(job, source)
    every = itertools.chain([first], batches)
    return manifest.create(
        run_uri, every, job.output.unit_size, columns=source.columns, skipped=source.skipped
    )


def _first_input(job: Job) -> None:
    """Refuse an input without images before anything is written or deleted."""
    source = open_source(job.source, job.output.uri)
    if next(inputs(source, job.source), None) is None:
        raise _nothing(job, source)


def _nothing(job: Job, source: Source) -> UsageError:
    skipped = sum(source.skipped.values())
    kinds = describe_skipped(source.skipped)
    others = (
        f"; {skipped} files have other extensions than input.extensions lists: {kinds}" if skipped else ""
    )
    return UsageError(f"input.uri {job.source.uri}: no images there{others}")


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
    source = asdict(job.source) | {"uri": absolute(job.source.uri)}
    # Through JSON, so that both sides of the comparison have been through it.
    mine = json.loads(json.dumps({"fingerprint": job.fingerprint, "input": source}))
    record = {"run": uuid.uuid4().hex[:12], "results": job.results} | mine | {"config": job.config}
    if storage.put_if_absent(uri, json.dumps(record, indent=1).encode()):
        return
    try:
        there = json.loads(storage.read_bytes(uri))
        theirs = {"fingerprint": there["fingerprint"], "input": recorded_input(there["input"], job.source)}
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


def exit_code(summary: Summary) -> int:
    """0 when every unit is committed and failed rows are within the budget, else 1."""
    failed = summary.statuses.get(FAILED, 0)
    return 0 if not summary.units_missing and failed <= summary.error_budget * summary.images else 1
