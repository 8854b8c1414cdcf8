"""Reading the committed units of a run for an export."""

import pyarrow as pa
import pyarrow.parquet as pq

from glied import storage
from glied.bulk import row_schemas
from glied.bulk.exports.row_filter import RowFilter
from glied.errors import JobError
from glied.run_folder import CommittedUnit

CAPTION_COLUMNS = ["id", "caption", "status"]


def read_output(unit: CommittedUnit) -> bytes:
    """The bytes of a unit's output; raises `JobError` if it is missing or truncated."""
    damage = unit.damage
    if damage is None:
        try:
            return storage.read_bytes(unit.output)
        except FileNotFoundError:
            damage = f"{unit.output} is missing"
    raise JobError(f"unit {unit.unit} is committed, but {damage}; the command that made the run repeats it")


def read_schema(unit: CommittedUnit) -> pa.Schema:
    """The columns of `read_table`; raises as that."""
    return read_table(unit).schema.remove_metadata()


def read_table(
    unit: CommittedUnit, columns: list[str] | None = None, where: RowFilter | None = None
) -> pa.Table:
    """A unit's rows, with the columns that older versions did not write; raises as `read_output`.

    Args:
        unit: committed.
        columns: to read, in this order; all by default.
        where: which rows to keep; all by default.
    """
    if where is not None:
        wanted = None if columns is None else list(dict.fromkeys([*columns, *where.columns]))
        table = where.selected(read_table(unit, wanted))
        return table.select(columns) if columns else table
    data = read_output(unit)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        present = columns and [name for name in columns if name in file.schema_arrow.names]
        table = row_schemas.with_later_columns(file.read(present))
        return table.select(columns) if columns else table
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise JobError(
            f"{unit.output} cannot be read as Parquet: {reason}; --output.mode repair repairs the run"
        ) from error


def captionless(table: pa.Table) -> int:
    """How many rows have no caption; 0 for rows whose status was left out."""
    if "status" not in table.column_names:
        return 0
    return sum(status != row_schemas.OK for status in table["status"].to_pylist())
