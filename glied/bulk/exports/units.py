"""A run's committed units read for an export, and its files written."""

import pyarrow as pa
import pyarrow.parquet as pq

from glied import storage
from glied.bulk.status import CommittedUnit
from glied.errors import JobError, StorageError

CAPTION_COLUMNS = ["id", "caption", "status"]


def read_output(unit: CommittedUnit) -> bytes:
    """The bytes of a unit's output; raises `JobError` where it is missing."""
    try:
        return storage.read_bytes(unit.output)
    except FileNotFoundError as error:
        raise JobError(
            f"unit {unit.unit} is committed, but {unit.output} is missing; jobs/status.py --verify tells more"
        ) from error


def read_table(unit: CommittedUnit, columns: list[str] | None = None) -> pa.Table:
    """A unit's rows; raises as `read_output`, and where they are no Parquet."""
    try:
        table = pq.read_table(pa.BufferReader(read_output(unit)), columns=columns)
    except pa.ArrowException as error:
        raise JobError(f"{unit.output} cannot be read as Parquet: {error}") from error
    return table.select(columns) if columns else table


def write(uri: str, data: bytes) -> None:
    """Write a file; raises `StorageError` also where a folder stands."""
    try:
        storage.write_bytes(uri, data)
    except OSError as error:  # a folder stands there
        raise StorageError(f"cannot write {uri}: {error}") from error


def put(uri: str, data: bytes) -> bool:
    """Create a file as `storage.put_if_absent` does; raises as `write`."""
    try:
        return storage.put_if_absent(uri, data)
    except OSError as error:
        raise StorageError(f"cannot write {uri}: {error}") from error
