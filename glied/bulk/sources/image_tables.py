"""Parquet files that hold encoded images, plain or as Hugging Face writes them."""

from collections.abc import Iterator
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq

from glied import storage
from glied.bulk.config import InputConfig
from glied.bulk.manifest import PLANNED, planned
from glied.bulk.parallel import InOrder, in_order
from glied.bulk.sources.listing import (
    Files,
    open_parquet,
    parquet_schema,
    passing_schema,
    with_break,
)
from glied.errors import UsageError


class ImageTableSource:
    """The rows of Parquet files that hold encoded images; file and row number, or a column, are the id."""

    def __init__(self, files: Files, index: InOrder = in_order) -> None:
        """Shards are read by means of `index`."""
        self.files = files
        self.index = index
        self.skipped = files.skipped
        self.columns = pa.schema([])

    def __iter__(self) -> Iterator[pa.Table]:
        shards = self.files.shards(".parquet")
        first = next(shards)
        self.columns = self._passing(first)
        yield from self.index(self._read, chain([first], shards))

    def _check(self, schema: pa.Schema, uri: str) -> None:
        config = self.files.config
        _check_image_column(schema, config, uri)
        columns = passing_schema(schema, {config.image_column, config.id_column})
        if not columns.equals(self.columns):
            raise UsageError(
                f"{uri}: its columns or their types are not those of the first file: "
                f"{_names(columns)} and not {_names(self.columns)}"
            )

    def _passing(self, shard: storage.FileInfo) -> pa.Schema:
        config = self.files.config
        schema = parquet_schema(shard.uri)
        _check_image_column(schema, config, shard.uri)
        return passing_schema(schema, {config.image_column, config.id_column})

    def _read(self, shard: storage.FileInfo) -> pa.Table:
        config = self.files.config
        try:
            with open_parquet(shard.uri) as file:
                self._check(file.schema_arrow, shard.uri)
                rows = file.metadata.num_rows
                sizes = _row_sizes(file.metadata)
                ids = _row_ids(file, config.id_column, shard)
        except pa.ArrowInvalid as error:
            return with_break(PLANNED.empty_table(), shard, f"no readable Parquet file: {error}")
        return planned(
            id=ids,
            uri=[f"{shard.uri}#{row}" for row in range(rows)],
            file=[shard.uri] * rows,
            offset=list(range(rows)),
            size=sizes,
        )


def _names(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"


def _check_image_column(schema: pa.Schema, config: InputConfig, uri: str) -> None:
    name = config.image_column
    kind = schema.field(name).type if name in schema.names else None
    if kind is not None and pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else None
    if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UsageError(
            f"{uri}: input.image_column {name!r} holds no images (binary, or a struct with a binary field "
            f"bytes); the columns are {', '.join(schema.names)}"
        )
    if config.id_column is not None and config.id_column not in schema.names:
        raise UsageError(
            f"{uri}: no input.id_column {config.id_column!r}; the columns are {', '.join(schema.names)}"
        )


def _row_sizes(metadata: pq.FileMetaData) -> list[int]:
    """About how many bytes each row has: its share of its row group."""
    sizes: list[int] = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        sizes += [group.total_byte_size // max(group.num_rows, 1)] * group.num_rows
    return sizes


def _row_ids(file: pq.ParquetFile, column: str | None, shard: storage.FileInfo) -> list[str]:
    if column is None:
        return [f"{shard.name}#{row}" for row in range(file.metadata.num_rows)]
    return [str(value) for value in file.read(columns=[column])[column].to_pylist()]
