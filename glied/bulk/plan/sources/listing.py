"""Listing the files under the input's URI, and the shards among them."""

from collections.abc import Iterator
from pathlib import PurePosixPath

import pyarrow as pa

from glied import storage
from glied.bulk.config import InputConfig
from glied.bulk.plan.manifest import planned
from glied.errors import StorageError, UsageError

_HIDDEN = "(hidden)"
BROKEN_SHARD = "broken_shard"
"""Kind of error of the row that represents the unreadable part of a shard."""
_ARROW = ".arrow"
_ARROW_CURE = (
    "; files of Hugging Face's save_to_disk become Parquet by "
    "datasets.load_from_disk(FOLDER).to_parquet(FILE)"
)


class BrokenShard(Exception):
    """A file of the input, or the rest of it, cannot be read because of its content."""


class Files:
    """The files under the input's URI, or the one that it names.

    Attributes:
        skipped: files that are not inputs, by extension; hidden ones together.
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
        """Those of the given extensions, in any case, but no hidden ones; or the one file that the input is.

        Raises:
            UsageError: there is none.
        """
        if storage.exists(self.uri):
            if extension_of(self.uri) == _ARROW:
                raise UsageError(f"input.uri {self.config.uri}: Arrow files are not read{_ARROW_CURE}")
            yield storage.FileInfo(self.uri, self.uri.rsplit("/", 1)[-1], 0)
            return
        found = False
        for file in self.listed():
            if is_hidden(file.name):
                self._count(_HIDDEN)
            elif file.name.lower().endswith(extensions):
                found = True
                yield file
            else:
                self.skip(file.name)
        if not found:
            there = ", ".join(f"{count} {extension}" for extension, count in sorted(self.skipped.items()))
            raise UsageError(
                f"input.uri {self.config.uri}: no {' or '.join(extensions)} file there"
                + (f"; other files: {there}" if there else "")
                + (_ARROW_CURE if _ARROW in self.skipped else "")
            )

    def skip(self, name: str) -> None:
        """Count a file that is not an input."""
        self._count(extension_of(name))

    def _count(self, kind: str) -> None:
        self.skipped[kind] = self.skipped.get(kind, 0) + 1


def extension_of(name: str) -> str:
    """A file's extension as the count of skipped files names it."""
    return PurePosixPath(name).suffix.lower() or "(none)"


def is_hidden(name: str) -> bool:
    """Whether a shard is what Spark and Hadoop leave out: a part of its path begins with "." or "_".

    Such are `_temporary/`, `_SUCCESS` and `.part-0.parquet.crc`; a folder `_day=1` is a partition and is not.
    """
    parts = name.split("/")
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts)


def with_break(table: pa.Table, shard: storage.FileInfo, fault: str | None) -> pa.Table:
    """The table, with one more input for the unreadable rest of a shard if it has a fault."""
    if fault is None:
        return table
    row = planned(
        id=[f"{shard.name}#break"], uri=[shard.uri], fault_kind=[BROKEN_SHARD], fault=[fault], size=[0]
    )
    return pa.concat_tables([table, row])


def delivers(uri: str) -> bool:
    """Whether the storage delivers a file's first byte, so that a failure to read it lies in its content."""
    try:
        return bool(storage.read_range(uri, 0, 1))
    except (OSError, StorageError):
        return False
