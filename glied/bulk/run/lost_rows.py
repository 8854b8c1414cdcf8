"""Rows of images whose worker died or hung in every round."""

import logging
from functools import partial

import pyarrow as pa

from glied.bulk.child_process import in_child
from glied.bulk.config import InputConfig
from glied.bulk.items import Job
from glied.bulk.plan.manifest import INPUT
from glied.bulk.plan.sources.fetch import FETCHED, Fetch
from glied.bulk.row_schemas import FAILED
from glied.errors import GliedError

log = logging.getLogger(__name__)

WORKER_LOST = "worker_lost"
"""Kind of error of an image whose worker died or hung in every round; "lost" in runs of version 0.1."""
_READ_S = 120.0
"""Longest time, in seconds, to read the columns of lost rows."""


def lost_rows(job: Job, table: pa.Table, columns: pa.Schema) -> pa.Table:
    """Failed rows for rows of the manifest, with the columns that pass through."""
    count = table.num_rows
    values = {
        "id": table["id"],
        "uri": table["uri"],
        "status": [FAILED] * count,
        "error_kind": [WORKER_LOST] * count,
        "error": ["its worker died or hung each time"] * count,
        "model": [job.model] * count,
    }
    rows = pa.table(values, schema=pa.schema([field for field in job.schema if field.name in values]))
    passing = _passing(job, table, columns)
    for field in columns:
        rows = rows.append_column(field, passing[field.name])
    return rows


def _passing(job: Job, table: pa.Table, columns: pa.Schema) -> pa.Table:
    """The columns that pass through, from the manifest or else from the files of the input."""
    missing = [field for field in columns if INPUT + field.name not in table.column_names]
    for field in missing:
        nulls = pa.nulls(table.num_rows).cast(field.type)
        table = table.append_column(INPUT + field.name, nulls)
    if missing and isinstance(job.source, InputConfig):
        try:
            # In a subprocess, because reading them may be what killed the workers.
            read = partial(_read_passing, job.source, table)
            return in_child(read, purpose="reads the columns of lost rows", longest_s=_READ_S)
        except GliedError as error:
            log.warning("columns of %d lost rows stay empty: %s", table.num_rows, error)
    return table.select([INPUT + name for name in columns.names]).rename_columns(columns.names)


def _read_passing(source: InputConfig, table: pa.Table) -> pa.Table:
    fetch = Fetch(
        form=source.form,
        image_column=source.image_column,
        id_column=source.id_column,
        max_bytes=source.max_bytes,
        attempts=2,
    )
    return fetch(table).drop_columns(FETCHED.names)
