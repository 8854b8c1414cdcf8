"""Reading of row ranges from Parquet files by URI. Data tasks import this module, so it imports little."""

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet

from glied import storage
from glied.errors import StorageError, UsageError

_MAGIC = b"PAR1"
_TAIL = 1 << 16
"""Bytes to read from the end of a file; most footers are shorter."""


class NotParquet(UsageError):
    """The file is not a Parquet file, or it is damaged."""


class Piece(NamedTuple):
    """The rows `first` to `last` (exclusive) of one file."""

    uri: str
    first: int
    last: int


def open_file(uri: str, *, footer: pa.parquet.FileMetaData | None = None) -> pa.parquet.ParquetFile:
    """Open a file; a known `footer` is not read again.

    Raises:
        NotParquet: it is not a Parquet file.
        UsageError: there is no such file.
        StorageError: it cannot be read.
    """
    try:
        file = storage.open_input(uri)
        return pa.parquet.ParquetFile(file, metadata=footer or _footer(file, uri))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"{uri}: no such file") from error
    except OSError as error:
        raise StorageError(f"cannot read {uri}: {error}") from error


def _footer(file: pa.NativeFile, uri: str) -> pa.parquet.FileMetaData:
    """Read the footer separately, because parse errors can be OSErrors like those of failing storage."""
    size = file.size()
    tail = _last(file, min(size, _TAIL), size)
    if tail[-4:] != _MAGIC:
        reason = "it is encrypted" if tail[-4:] == b"PARE" else "it does not end like one"
        raise NotParquet(f"{uri} is not a readable Parquet file: {reason if size else 'it is empty'}")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size - len(_MAGIC):
        raise NotParquet(f"{uri} is not a readable Parquet file: it is shorter than its footer")
    if length > len(tail):
        tail = _last(file, length, size)
    try:
        footer = pa.parquet.read_metadata(pa.BufferReader(_MAGIC + tail[-length:]))
        footer.schema.to_arrow_schema().names  # noqa: B018  # raises for names that are not text
        return footer
    except (OSError, ValueError, pa.ArrowException) as error:
        raise NotParquet(f"{uri} is not a readable Parquet file: {error}") from error


def _last(file: pa.NativeFile, count: int, size: int) -> bytes:
    data = file.read_at(count, size - count)  # type: ignore[call-arg]  # the stubs omit the offset
    if len(data) != count:
        raise OSError(f"{len(data)} of {count} bytes came")
    return data


def count_rows(uri: str) -> int:
    """Return the number of rows from the file's footer; raises as `open_file`."""
    with open_file(uri) as file:
        return int(file.metadata.num_rows)


def split(piece: Piece, rows: int) -> list[Piece]:
    """Split a piece into pieces of at most `rows` rows."""
    starts = range(piece.first, piece.last, rows)
    return [Piece(piece.uri, start, min(start + rows, piece.last)) for start in starts]


class RowReader:
    """Reads consecutive pieces and caches the row group in which the last one ended."""

    def __init__(self) -> None:
        """Create a reader with an empty cache, which is small enough to be sent to another process."""
        self._kept: tuple[str, int, pa.Table] | None = None

    def read(self, piece: Piece) -> pa.Table:
        """Read the rows of a piece, as far as the file has them; reads only the row groups that hold them."""
        with open_file(piece.uri) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = list(accumulate(sizes))
            last = min(bisect_left(ends, piece.last) + 1, len(ends))
            groups = range(bisect_right(ends, piece.first), last)
            if not groups:
                return file.schema_arrow.empty_table()
            rows = pa.concat_tables([self._group(file, piece.uri, group) for group in groups])
        skipped = ends[groups[0] - 1] if groups[0] else 0
        return rows.slice(piece.first - skipped, piece.last - piece.first)

    def clear(self) -> None:
        """Empty the cache."""
        self._kept = None

    def _group(self, file: pa.parquet.ParquetFile, uri: str, group: int) -> pa.Table:
        if self._kept is None or self._kept[:2] != (uri, group):
            self.clear()
            self._kept = uri, group, file.read_row_group(group)
        return self._kept[2]


def read(piece: Piece) -> pa.Table:
    """Read the rows of a piece."""
    return RowReader().read(piece)
