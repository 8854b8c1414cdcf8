"""Parquet files that hold encoded images, plain or as Hugging Face writes them."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import pyarrow as pa

from glied import storage
from glied.bulk.config import InputConfig
from glied.bulk.parallel import InOrder, in_order
from glied.bulk.plan.manifest import planned
from glied.bulk.plan.sources import image_cells
from glied.bulk.plan.sources.input_columns import (
    check_id_column,
    first_line,
    id_values,
    is_text,
    named,
    named_once,
    passing,
)
from glied.bulk.plan.sources.listing import Files, delivers, with_break
from glied.data import parquet
from glied.errors import ImageError, StorageError, UsageError


class _Shard(NamedTuple):
    """The content of the footer of a file.

    Attributes:
        file: the file.
        schema: its columns, each under a name of its own.
        groups: rows and bytes of its row groups.
        fault: why it cannot be read, or None.
    """

    file: storage.FileInfo
    schema: pa.Schema
    groups: list[tuple[int, int]]
    fault: str | None = None


class ImageTableSource:
    """The rows of Parquet files that hold encoded images; file and row number, or a column, are the id."""

    def __init__(self, files: Files, index: InOrder = in_order) -> None:
        """Shards are read by calls of `index`."""
        self.files = files
        self.index = index
        self.skipped = files.skipped
        self.columns = pa.schema([])

    def __iter__(self) -> Iterator[pa.Table]:
        config = self.files.config
        shards = list(self._footers())
        readable = [shard for shard in shards if shard.fault is None]
        if not readable:
            raise UsageError(f"input.uri {config.uri}: no file there can be read: {shards[0].fault}")
        for shard in readable:
            _check_columns(shard.schema, config, shard.file.uri)
        _check_text(readable[0], config)
        schemas = ((shard.file.uri, shard.schema) for shard in readable)
        self.columns = passing(schemas, config.image_column, config.id_column)
        if config.id_column is None:
            yield from map(_plan_shard, shards)
        else:
            yield from self.index(partial(_plan_named, column=config.id_column), shards)

    def _footers(self) -> Iterator[_Shard]:
        """The footers of all files; with a limit, only of the first files that have that many rows."""
        config = self.files.config
        rows = 0
        for shard in self.index(partial(_read_footer, config=config), self.files.shards(".parquet")):
            yield shard
            rows += sum(count for count, _ in shard.groups)
            if config.limit is not None and rows >= config.limit and config.duplicates == "error":
                return


def _read_footer(file: storage.FileInfo, config: InputConfig) -> _Shard:
    try:
        with parquet.open_file(file.uri) as opened:
            schema = named_once(opened.schema_arrow, file.uri, config.image_column, config.id_column)
            groups = map(opened.metadata.row_group, range(opened.num_row_groups))
            sizes = [(group.num_rows, group.total_byte_size) for group in groups]
    except parquet.NotParquet as error:
        return _Shard(file, pa.schema([]), [], first_line(error))
    return _Shard(file, schema, sizes)


def _check_columns(schema: pa.Schema, config: InputConfig, uri: str) -> None:
    columns = named(schema)
    name = config.image_column
    if name not in schema.names:
        raise UsageError(f"{uri}: no input.image_column {name!r}; the columns are {columns}")
    kind = schema.field(name).type
    if not image_cells.holds_images(kind):
        raise UsageError(
            f"{uri}: input.image_column {name!r} is {kind}, not images; accepted are binary, base64, "
            f"lists of bytes, and structs with bytes or a path; the columns are {columns}"
        )
    if config.id_column is None:
        return
    if config.id_column not in schema.names:
        raise UsageError(f"{uri}: no input.id_column {config.id_column!r}; the columns are {columns}")
    check_id_column(schema, config.id_column, uri)


def _plan_shard(shard: _Shard, ids: list[str | None] | None = None) -> pa.Table:
    """The inputs of a file; those without an id are named by file and row number."""
    count = sum(rows for rows, _ in shard.groups)
    names = ids or [None] * count
    table = planned(
        id=[name or f"{shard.file.name}#{row}" for row, name in enumerate(names)],
        uri=[f"{shard.file.uri}#{row}" for row in range(count)],
        file=[shard.file.uri] * count,
        offset=list(range(count)),
        size=[
            size // max(rows, 1) for rows, size in shard.groups for _ in range(rows)
        ],  # about: a share of its group
    )
    return with_break(table, shard.file, shard.fault)


def _plan_named(shard: _Shard, column: str) -> pa.Table:
    """The inputs of a file, named by a column; where that cannot be read, by file and row number."""
    if shard.fault is not None:
        return _plan_shard(shard)
    ids: list[str | None] = []
    with parquet.open_file(shard.file.uri) as file:
        for group, (rows, _) in enumerate(shard.groups):
            try:
                ids += id_values(file.read_row_group(group, columns=[column]), column)
            except (OSError, pa.ArrowException) as error:
                if not delivers(shard.file.uri):
                    raise StorageError(f"cannot read {shard.file.uri}: {error}") from error
                ids += [None] * rows
    return _plan_shard(shard, ids)


def _check_text(shard: _Shard, config: InputConfig) -> None:
    """Refuse a column of text that is not base64, going by its first value: it may hold paths or links."""
    name = config.image_column
    if not is_text(shard.schema.field(name).type):
        return
    with parquet.open_file(shard.file.uri) as file, suppress(OSError, pa.ArrowException, StopIteration):
        values = (batch.column(0)[0] for batch in file.iter_batches(1, columns=[name]))
        try:
            image_cells.image_in(next(value for value in values if value.is_valid))
        except ImageError as error:
            raise UsageError(
                f"{shard.file.uri}: input.image_column {name!r} is text, and its first value is not an image "
                f"in base64; for paths or links use --input.form table --input.uri_column {name}"
            ) from error
