"""Reading ranges of rows from Parquet files by URI; light to import, because data tasks of the cluster do."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet

from glied import storage
from glied.errors import UsageError


class Piece(NamedTuple):
    """Rows `first` to `last` (exclusive) of one file."""

    uri: str
    first: int
    last: int


def open_file(uri: str, *, footer: pa.parquet.FileMetaData | None = None) -> pa.parquet.ParquetFile:
    """Opens a file, whose `footer` need not be read again; raises `UsageError` when it is no Parquet file."""
    try:
        return pa.parquet.ParquetFile(storage.open_input(uri), metadata=footer)
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{uri} is not a readable Parquet file: {error}") from error


def count_rows(uri: str) -> int:
    """Returns the number of rows from the file's footer; raises as `open_file`."""
    with open_file(uri) as file:
        return int(file.metadata.num_rows)


def split(piece: Piece, rows: int) -> list[Piece]:
    """Cuts a piece into pieces of at most `rows` rows."""
    starts = range(piece.first, piece.last, rows)
    return [Piece(piece.uri, start, min(start + rows, piece.last)) for start in starts]


class RowReader:
    """Reads pieces one after the other and keeps the row group in which the last one ended."""

    def __init__(self) -> None:
        """Nothing is kept yet; such a reader is small enough to be sent to another process."""
        self._kept: tuple[str, int, pa.Table] | None = None

    def read(self, piece: Piece) -> pa.Table:
        """Returns the rows of a piece; reads the row groups that hold them and no others."""
        with open_file(piece.uri) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = list(accumulate(sizes))
            groups = range(bisect_right(ends, piece.first), bisect_left(ends, piece.last) + 1)
            rows = pa.concat_tables([self._group(file, piece.uri, group) for group in groups])
        skipped = ends[groups[0] - 1] if groups[0] else 0
        return rows.slice(piece.first - skipped, piece.last - piece.first)

    def forget(self) -> None:
        """Lets go of the rows it keeps."""
        self._kept = None

    def _group(self, file: pa.parquet.ParquetFile, uri: str, group: int) -> pa.Table:
        if self._kept is None or self._kept[:2] != (uri, group):
            self.forget()
            self._kept = uri, group, file.read_row_group(group)
        return self._kept[2]


def read(piece: Piece) -> pa.Table:
    """Returns the rows of a piece, as `RowReader` does."""
    return RowReader().read(piece)


def read_numbered(pieces: Sequence[Piece], batch: Mapping[str, Any]) -> pa.Table:
    """Returns the rows of the pieces whose numbers are in column "id": a function for `map_batches`."""
    return pa.concat_tables([read(pieces[int(number)]) for number in batch["id"]])
