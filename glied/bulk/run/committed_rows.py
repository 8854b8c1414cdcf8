"""Reads the rows of a run's committed units.

A run folder may also hold files that were never committed or are superseded by a later generation; a listing
of captions/*.parquet does not distinguish them.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from glied import run_folder, storage
from glied.bulk import row_schemas
from glied.bulk.parallel import in_order
from glied.errors import JobError, UsageError


def files(run_uri: str, results: str = "captions") -> list[str]:
    """The Parquet files of a finished run, in the order of its manifest.

    Raises:
        UsageError: the folder holds no such run, units are missing (a part of a run must not pass as the
            whole), or rows are missing or truncated.
    """
    run = run_folder.committed(run_uri)
    if storage.is_local(run_uri) and not storage.local_path(run_uri).is_dir():
        raise UsageError(f"{run_uri}: no such folder")
    if run is None or run.results != results:
        found = "it has no manifest" if run is None else f"its rows are {run.results}"
        raise UsageError(f"{run_uri} holds no run whose rows are {results}: {found}")
    if run.planned is None:
        raise UsageError(f"{run_uri}: its inputs are still being listed; finish the run first")
    if not run.complete:
        raise UsageError(f"{run_uri}: {len(run.units)} of {run.planned} units are done; finish the run first")
    run.check()
    return [unit.output for unit in run.units]


def read_rows(run_uri: str) -> Iterator[dict[str, Any]]:
    """The rows of a finished caption run in the order of its manifest, one per input image.

    Raises:
        UsageError: as `files`.
        JobError: a file cannot be read.
    """
    uris = files(run_uri)
    for uri, data in zip(uris, in_order(storage.read_bytes, uris, in_flight=4), strict=True):
        try:
            rows = row_schemas.with_later_columns(row_schemas.decode(data)).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise JobError(
                f"{uri} is damaged: {' '.join(str(error).split())}; --output.mode repair mends the run"
            ) from error
        yield from rows
