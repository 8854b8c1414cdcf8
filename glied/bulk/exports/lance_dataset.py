"""Form lance: all rows as one Lance dataset, written in one transaction; needs the extra `lance`."""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from glied import storage
from glied.bulk.exports.config import ExportConfig, ExportReport
from glied.bulk.exports.unit_tables import captionless, read_table
from glied.bulk.parallel import in_order
from glied.bulk.plan.manifest import Manifest
from glied.bulk.row_schemas import CAPTIONS
from glied.bulk.run.verification import IN_FLIGHT
from glied.errors import GliedError, StorageError, UsageError
from glied.run_folder import CommittedUnit

IDENTITY = b"glied.export"
"""Key of the schema's metadata that says which rows of which run a dataset has."""


def export_lance(config: ExportConfig, plan: Manifest, units: dict[int, CommittedUnit]) -> ExportReport:
    """Write a version of the dataset, unless its newest one has these rows already.

    Raises:
        UsageError: the package is missing, or `out` holds something else.
        StorageError: storage failed; nothing is visible of what was written.
    """
    lance = _library()
    identity = _identity(config, plan, units)
    found = _found(lance, config)
    if found == identity:
        return ExportReport(config, plan.units, earlier=len(units))
    if found is not None and found.get("rows") != identity["rows"] and config.existing != "overwrite":
        raise UsageError(
            f"out {config.out} holds another dataset: choose another out, or --existing overwrite to add a "
            "version with this run's rows"
        )
    rows = _Rows(config, units)
    schema = rows.schema.with_metadata({IDENTITY: json.dumps(identity).encode()})
    reader = pa.RecordBatchReader.from_batches(schema, rows)
    try:
        lance.write_dataset(
            reader, _place(config.out), mode="overwrite" if found is not None else "create", **_options()
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise rows.error or _refused(config, error) from error
    return ExportReport(
        config, plan.units, units=len(units), written=rows.written, captionless=rows.captionless
    )


class _Rows:
    """The batches of all units, read a few units at a time; counts them.

    Attributes:
        schema: of the rows.
        written, captionless: rows so far, and those of them without a caption.
        error: what ended the reading; Lance reports it as an error of its own.
    """

    def __init__(self, config: ExportConfig, units: dict[int, CommittedUnit]) -> None:
        self._columns, self._where, self._units = config.columns, config.row_filter, list(units.values())
        self.schema = read_table(self._units[0], self._columns).schema if units else CAPTIONS
        self.written = self.captionless = 0
        self.error: GliedError | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            for table in in_order(self._read, self._units, IN_FLIGHT):
                self.written += table.num_rows
                self.captionless += captionless(table)
                yield from table.to_batches()
        except GliedError as error:
            self.error = error
            raise

    def _read(self, unit: CommittedUnit) -> pa.Table:
        return read_table(unit, self._columns, self._where)


def _identity(
    config: ExportConfig, plan: Manifest, units: dict[int, CommittedUnit]
) -> dict[str, str | list[str]]:
    """Names the run, the columns and the condition (`rows`), and the generations of its units (`units`)."""
    generations = json.dumps(sorted((unit.unit, unit.generation) for unit in units.values()))
    return {
        "rows": [plan.plan, *(config.columns or ()), *([f"where {config.where}"] if config.where else [])],
        "units": hashlib.sha256(generations.encode()).hexdigest(),
    }


def _found(lance: Any, config: ExportConfig) -> dict[str, Any] | None:
    """The identity of the dataset at `out`, empty for one that was not exported; None if nothing is there."""
    try:
        if next(iter(storage.list_files(config.out)), None) is None:
            return None
        metadata = lance.dataset(_place(config.out), **_options()).schema.metadata
    except ValueError as error:
        raise UsageError(f"out {config.out} holds files that are no Lance dataset: choose another") from error
    return dict(json.loads((metadata or {}).get(IDENTITY, "{}")))


def _library() -> Any:
    try:
        import lance
    except ImportError as error:
        raise UsageError('form lance needs the package pylance: pip install -e ".[lance]"') from error
    return lance


def _place(uri: str) -> str:
    return str(storage.local_path(uri)) if storage.is_local(uri) else uri


def _options() -> dict[str, Any]:
    """Lance reads the `AWS_*` variables itself, but refuses endpoints without TLS unless told to."""
    http = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return {"storage_options": {"allow_http": "true"}} if http else {}


def _refused(config: ExportConfig, error: Exception) -> GliedError:
    text = " ".join(str(error).split())[:300]
    if isinstance(error, ValueError):
        return UsageError(f"out {config.out}: Lance refuses these rows: {text}")
    return StorageError(f"out {config.out}: Lance cannot write: {text}")
