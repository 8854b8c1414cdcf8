"""A bulk run from start to end: claim the run folder, plan, stream what is missing, commit unit by unit.

<output>/run.json          id, resolved config and fingerprint; put-if-absent
<output>/manifest/         every input once (manifest.py)
<output>/captions/         a Parquet file per unit (ledger.py)
<output>/commits/          a commit record per finished unit, written last
<output>/summary.json      totals
"""

import itertools
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa

from glied import run_folder, storage
from glied.bulk import row_schemas
from glied.bulk.config import recorded_input
from glied.bulk.items import Job, Stream
from glied.bulk.parallel import InOrder, in_order
from glied.bulk.plan import manifest
from glied.bulk.plan.manifest import Manifest
from glied.bulk.plan.sources.input_columns import is_text, named, passed_name
from glied.bulk.plan.sources.input_sources import inputs, no_images, open_source
from glied.bulk.run import ledger
from glied.bulk.run.driver import Driver
from glied.bulk.run.ledger import Ledger
from glied.bulk.run.summary import Summary
from glied.errors import StorageError, UsageError


def execute(job: Job, stream: Stream, index: InOrder = in_order) -> Summary:
    """Do what a run still lacks and write its summary; `index` reads the shards of the input.

    Raises:
        UsageError: input, output or fingerprint do not fit; nothing was started.
        StorageError: storage failed; the same call resumes the run.
        JobError: storage keeps failing, or another job has overwritten the run.
    """
    started = time.perf_counter()
    run_uri = storage.absolute(job.output.uri)
    run, plan = _open(job, run_uri, index)
    driver = Driver(job, plan, Ledger(run_uri, plan.plan, job.results, run), stream)
    driver.run()
    summary = driver.summarize(time.perf_counter() - started)
    storage.write_bytes(storage.join(run_uri, "summary.json"), summary.to_json())
    return summary


def _open(job: Job, run_uri: str, index: InOrder) -> tuple[str, Manifest]:
    """Claim the run folder, or join the run in it; returns the id of the run and its manifest."""
    with _usage_errors_named(f"output.uri {job.output.uri}"):
        existing = run_folder.read_record(run_uri)
    overwrite = job.output.mode == "overwrite"
    with _usage_errors_named():
        if existing is None or overwrite:
            _first_input(job)  # before anything is written
        elif job.output.mode == "error":
            raise UsageError(
                f"output.uri {job.output.uri} holds a run, and output.mode is error: resume goes on with it, "
                "overwrite deletes it"
            )
    with _usage_errors_named(f"output.uri {job.output.uri}"):
        probe(job.output.uri)
    with _usage_errors_named():
        if existing is not None and overwrite:
            ledger.clear(run_uri, existing["results"])
        run = _claim(job, run_uri)
        plan = manifest.load(run_uri, run)
        if plan is None:
            run_folder.check_not_lost(run_uri, run)
            plan = _plan(job, run_uri, run, index)
            ledger.confirm(run_uri, run)
        _check_columns(job, plan)
        _check_reads(job, plan.columns)
    return run, plan


def _check_columns(job: Job, plan: Manifest) -> None:
    """Refuse a run of an older version whose input has a column that the rows have themselves since then."""
    for name in plan.columns.names:
        if name in job.schema.names:
            raise UsageError(
                f"output.uri {job.output.uri} holds a run of an older version, whose input has a column "
                f"{name}, as the rows have themselves now. Choose another output.uri"
            )


def _check_reads(job: Job, columns: pa.Schema) -> None:
    """Refuse an input that lacks a column that the config names, or has it with another type.

    Raises:
        UsageError: naming the key of the config.
    """
    for use in job.reads:
        name = passed_name(use.column)
        if name not in columns.names:
            known = f"the columns {named(columns)}" if columns.names else "no columns"
            raise UsageError(
                f"{use.key} names the column {use.column}; input.uri {job.source.uri} has {known}"
            )
        kind = columns.field(name).type
        if use.is_text and not (is_text(kind) or pa.types.is_null(kind)):
            raise UsageError(f"{use.key}: the column {use.column} is {kind}; captions are text")


@contextmanager
def _usage_errors_named(where: str = "") -> Iterator[None]:
    """Turn refusals of the storage into usage errors; its failures may pass, so they stay storage errors."""
    try:
        yield
    except (StorageError, OSError) as error:
        cause = error.__cause__ if isinstance(error, StorageError) else error
        message = f"{where} is not usable: {error}" if where else str(error)
        if isinstance(cause, _CALLERS_FAULT) or _refused(cause):
            raise UsageError(message) from error
        raise StorageError(message) from error


_CALLERS_FAULT = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
"""Names of botocore's exceptions, which is imported only where S3 is."""
_REFUSALS = ("ExpiredToken", "InvalidToken", "InvalidBucketName", "NoSuchBucket", "PermanentRedirect")
"""Codes of S3's answers that come with other status codes than those below."""


def _refused(error: BaseException | None) -> bool:
    """Whether credentials are missing or refused, or the bucket or dataset does not exist."""
    if type(error).__name__ in _NO_CREDENTIALS:
        return True
    answer: Any = getattr(error, "response", None)
    if not isinstance(answer, dict):  # not botocore's
        return getattr(answer, "status_code", None) in (401, 403, 404)
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in (401, 403, 404) or answer.get("Error", {}).get("Code") in _REFUSALS


def _plan(job: Job, run_uri: str, run: str, index: InOrder) -> Manifest:
    source = open_source(job.source, run_uri, index)
    batches = inputs(source, job.source)
    first = next(batches, None)  # reading has begun: the source knows its columns
    if first is None:
        raise no_images(job.source.uri, source)
    every = itertools.chain([first], batches)
    return manifest.create(
        run_uri,
        every,
        job.output.unit_size,
        columns=source.columns,
        skipped=source.skipped,
        run=run,
        confirm=partial(ledger.confirm, run_uri, run),
    )


def _first_input(job: Job) -> None:
    """Refuse an input without images before anything is written or deleted."""
    source = open_source(job.source, job.output.uri)
    if next(inputs(source, job.source), None) is None:
        raise no_images(job.source.uri, source)
    _check_reads(job, source.columns)


def probe(uri: str) -> None:
    """Try what the run relies on: a conditional write, a refused second one, a read and a deletion.

    Raises:
        UsageError: the storage lacks conditional writes.
        StorageError: the storage failed.
    """
    name = storage.join(storage.absolute(uri), f".probe-{uuid.uuid4().hex}")
    created = storage.put_if_absent(name, b"first")
    refused = not storage.put_if_absent(name, b"second")
    intact = storage.read_bytes(name) == b"first"
    storage.delete(name)
    if not (created and refused and intact):
        raise UsageError(
            f"output.uri {uri} is not usable: its storage overwrites where it must refuse (put-if-absent)"
        )


def _claim(job: Job, run_uri: str) -> str:
    """Write run.json, or compare with the existing one; returns the id of the run."""
    uri = storage.join(run_uri, "run.json")
    source = asdict(job.source) | {"uri": storage.absolute(job.source.uri)}
    # Through JSON, so that both sides of the comparison have been through it.
    mine = json.loads(json.dumps({"fingerprint": job.fingerprint, "input": source}))
    run = uuid.uuid4().hex[:12]
    record = {"run": run, "results": job.results} | mine | {"config": job.config}
    if storage.put_if_absent(uri, run_folder.with_checksum(record)):
        return run
    there = run_folder.read_record(run_uri)
    if there is None or not isinstance(there.get("input"), dict):
        raise UsageError(f"{uri} is damaged: it has no input")
    later = {key: value for key, value in mine["fingerprint"].items() if key in row_schemas.LATER}
    theirs = {
        "fingerprint": later | there["fingerprint"],
        "input": recorded_input(there["input"], job.source),
    }
    differences = list(_differences(theirs, mine))
    if differences:
        raise UsageError(
            f"output.uri {job.output.uri} holds a run with a mismatched fingerprint: "
            f"{'; '.join(differences)}. Choose another output.uri, or --output.mode overwrite to delete that "
            "run"
        )
    return str(there["run"])


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
    """0 when every unit is committed, failed rows are within the budget and some row is ok, else 1.

    Rows that failed because of web hosts do not count.
    """
    return 1 if summary.units_missing or summary.is_over_budget or summary.delivers_nothing else 0
