"""Reading ranges of rows from Parquet files by URI; light to import, because data tasks of the cluster do."""

from collections.abc import Mapping, Sequence
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
    filesystem, path = storage.arrow_filesystem(uri)
    try:
        return pa.parquet.ParquetFile(path, metadata=footer, filesystem=filesystem)
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


def read(piece: Piece) -> pa.Table:
    """Returns the rows of a piece; reads the row groups that hold them and no others."""
    with open_file(piece.uri) as file:
        groups, position, skipped = [], 0, 0
        for group in range(file.metadata.num_row_groups):
            end = position + file.metadata.row_group(group).num_rows
            if end <= piece.first:
                skipped = end
            elif position < piece.last:
                groups.append(group)
            position = end
        return file.read_row_groups(groups).slice(piece.first - skipped, piece.last - piece.first)


def read_numbered(pieces: Sequence[Piece], batch: Mapping[str, Any]) -> pa.Table:
    """Returns the rows of the pieces whose numbers are in column "id": a function for `map_batches`."""
    return pa.concat_tables([read(pieces[int(number)]) for number in batch["id"]])
