"""What every source needs: the files under the input's URI, names of columns, shards."""

from collections.abc import Iterator
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from glied import storage
from glied.bulk import sinks
from glied.bulk.config import InputConfig
from glied.bulk.manifest import PLANNED, planned
from glied.errors import StorageError, UsageError

BROKEN_SHARD = "broken_shard"
"""Kind of error of the row that stands for what of a shard could not be read."""


def absolute(uri: str) -> str:
    """A local path as an absolute one, so that workers with another working directory find it."""
    if storage.is_local(uri):
        return storage.local_uri(str(storage.local_path(uri).absolute()))
    return uri if uri.endswith("//") else uri.removesuffix("/")  # a key may hold an empty name


def passed_name(name: str) -> str:
    """The output's name for an input column; those that the output has itself get a prefix."""
    return f"input_{name}" if name in _RESERVED else name


_RESERVED = frozenset([*sinks.CAPTIONS.names, *sinks.FEATURES.names, *PLANNED.names, "data", "kind", "unit"])


class Files:
    """The files under the input's URI, or the one that it names.

    Attributes:
        skipped: files that are no inputs, by extension.
    """

    def __init__(self, config: InputConfig, uri: str, exclude: str | None) -> None:
        """Names that begin with `exclude` are left out."""
        self.config = config
        self.uri = uri
        self.exclude = exclude
        self.skipped: dict[str, int] = {}

    def listed(self) -> Iterator[storage.FileInfo]:
        """All of them, in the order of their names."""
        for file in storage.list_files(self.uri, skip=lambda _, kind: self._count(f"({kind})")):
            if self.exclude is None or not file.name.startswith(self.exclude):
                yield file

    def shards(self, *extensions: str) -> Iterator[storage.FileInfo]:
        """Those of the given extensions.

        Raises:
            UsageError: there is none.
        """
        if storage.exists(self.uri):
            yield storage.FileInfo(self.uri, self.uri.rsplit("/", 1)[-1], 0)
            return
        found = False
        for file in self.listed():
            if file.name.lower().endswith(extensions):
                found = True
                yield file
            else:
                self.skip(file.name)
        if not found:
            raise UsageError(f"input.uri {self.config.uri}: no {' or '.join(extensions)} file there")

    def skip(self, name: str) -> None:
        """Count a file that is no input."""
        self._count(extension_of(name))

    def _count(self, kind: str) -> None:
        self.skipped[kind] = self.skipped.get(kind, 0) + 1


def extension_of(name: str) -> str:
    """A file's extension as the count of skipped files names it."""
    return PurePosixPath(name).suffix.lower() or "(none)"


def with_break(table: pa.Table, shard: storage.FileInfo, fault: str | None) -> pa.Table:
    """The table and, where a shard broke off, one input that says so."""
    if fault is None:
        return table
    row = planned(
        id=[f"{shard.name}#break"], uri=[shard.uri], fault_kind=[BROKEN_SHARD], fault=[fault], size=[0]
    )
    return pa.concat_tables([table, row])


def open_parquet(uri: str) -> pq.ParquetFile:
    """An open file.

    Raises:
        UsageError: there is none.
        StorageError: it cannot be read.
        pyarrow.ArrowInvalid: it is no Parquet file.
    """
    try:
        return pq.ParquetFile(storage.open_input(uri))
    except FileNotFoundError as error:
        raise UsageError(f"{uri}: no such file") from error
    except OSError as error:
        raise StorageError(f"cannot read {uri}: {error}") from error


def parquet_schema(uri: str) -> pa.Schema:
    """The columns of a file; raises `UsageError` where it is missing or no Parquet file."""
    try:
        with open_parquet(uri) as file:
            return file.schema_arrow
    except pa.ArrowInvalid as error:
        raise UsageError(f"{uri} is no readable Parquet file: {error}") from error


def passing_schema(schema: pa.Schema, used: set[str | None]) -> pa.Schema:
    """The columns that pass through, all but the used ones, with their names in the output."""
    return pa.schema([(passed_name(field.name), field.type) for field in schema if field.name not in used])
