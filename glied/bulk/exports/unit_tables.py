"""A run's committed units read for an export, and its files written."""

import pyarrow as pa
import pyarrow.parquet as pq

from glied import storage
from glied.bulk import row_schemas
from glied.errors import JobError, StorageError
from glied.run_folder import CommittedUnit

CAPTION_COLUMNS = ["id", "caption", "status"]


def read_output(unit: CommittedUnit) -> bytes:
    """The bytes of a unit's output; raises `JobError` where it is missing or truncated."""
    damage = unit.damage
    if damage is None:
        try:
            return storage.read_bytes(unit.output)
        except FileNotFoundError:
            damage = f"{unit.output} is missing"
    raise JobError(
        f"unit {unit.unit} is committed, but {damage}; the command that made the run does it again"
    )


def read_table(unit: CommittedUnit, columns: list[str] | None = None) -> pa.Table:
    """A unit's rows with all columns of today; raises as `read_output`, and where they are no Parquet."""
    data = read_output(unit)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        present = columns and [name for name in columns if name in file.schema_arrow.names]
        table = row_schemas.with_later_columns(file.read(present))
        return table.select(columns) if columns else table
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise JobError(
            f"{unit.output} cannot be read as Parquet: {reason}; --output.mode repair mends the run"
        ) from error


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
