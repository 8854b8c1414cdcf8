"""Outputs of units that another attempt wrote: read, and checked before they are adopted."""

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from glied import storage
from glied.bulk import row_schemas
from glied.bulk.plan.manifest import Unit
from glied.bulk.run.ledger import Counts, Ledger
from glied.bulk.run.unit_work import check_ids, count_rows
from glied.errors import JobError


@dataclass(frozen=True)
class ExistingOutputs:
    """The outputs in the folder of a run.

    Attributes:
        ledger: of the run.
        schema: columns of its rows.
    """

    ledger: Ledger
    schema: pa.Schema

    def read(self, unit: Unit, generation: int) -> bytes:
        """The file of a unit; raises JobError if it was removed meanwhile."""
        uri = self.ledger.output_uri(unit.index, generation)
        try:
            return storage.read_bytes(uri)
        except FileNotFoundError as error:
            raise JobError(f"{uri} was removed meanwhile; the same command goes on") from error

    def counts(self, unit: Unit, generation: int, data: bytes) -> Counts:
        """Counts of a file, once its ids and columns are those of the unit; raises as `rows`."""
        return count_rows(self.rows(unit, generation, data), Counter())

    def rows(self, unit: Unit, generation: int, data: bytes) -> pa.Table:
        """The rows of a file.

        Raises:
            JobError: it is no Parquet file of this run, or has other ids or columns.
        """
        uri = self.ledger.output_uri(unit.index, generation)
        try:
            table = row_schemas.decode(data)
            same = table.schema.equals(row_schemas.as_written(self.schema, table))
            check_ids(unit, table)
            count_rows(table, Counter())  # reads what must be text
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise JobError(
                f"{uri} is in the way and is no Parquet file of this run: {reason}; delete it and run again"
            ) from error
        if not same:
            raise JobError(f"{uri} is in the way and has other columns; delete it and run again")
        return table
