"""The inputs of a run: files under a prefix, tars, Parquet with images, tables of URIs, a feature store, or
published features.

A source yields the inputs as tables of `manifest.PLANNED`, in bounded memory and without opening images. Tars
and Parquet files are shards that are indexed in parallel. A broken shard yields its readable inputs, and one
input with a fault.
"""

import logging
from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from glied import storage
from glied.bulk import arrow_tables
from glied.bulk.config import InputConfig, PublishedConfig, describe_skipped
from glied.bulk.parallel import InOrder, in_order
from glied.bulk.plan.manifest import planned
from glied.bulk.plan.sources.feature_stores import StoreSource
from glied.bulk.plan.sources.image_tables import ImageTableSource
from glied.bulk.plan.sources.listing import Files
from glied.bulk.plan.sources.published_features import PublishedSource
from glied.bulk.plan.sources.tars import TarSource
from glied.bulk.plan.sources.unique_ids import Unique
from glied.bulk.plan.sources.uri_tables import UriTableSource
from glied.errors import GliedError, JobError, UsageError

log = logging.getLogger(__name__)

_BATCH_ROWS = 65_536


class Source(Protocol):
    """Inputs of one form.

    Attributes:
        columns: of the input, which pass through to the output; complete once the iteration has begun.
        skipped: files that are not inputs, by extension; complete once the iteration has ended.
    """

    columns: pa.Schema
    skipped: dict[str, int]

    def __iter__(self) -> Iterator[pa.Table]:
        """Tables of one schema, `PLANNED` and what fetching needs besides.

        Raises:
            UsageError: the input is missing or not of this form.
            StorageError: it cannot be listed or read.
        """
        ...


def open_source(config: InputConfig | PublishedConfig, exclude: str, index: InOrder = in_order) -> Source:
    """The source of a config; `exclude` is the run folder, which may be under the prefix.

    Shards are read by calls of `index`.

    Raises:
        UsageError: a local input is missing or not of its form.
    """
    uri = storage.absolute(config.uri)
    _check_local(config, uri)
    if isinstance(config, PublishedConfig):
        return PublishedSource(config, uri)
    if config.form == "features":
        return StoreSource(uri)
    files = Files(config, uri, _name_below(uri, exclude))
    if config.form == "files":
        return FileSource(files)
    if config.form == "webdataset":
        return TarSource(files, index)
    if config.form == "parquet":
        return ImageTableSource(files, index)
    return UriTableSource(files)


def inputs(source: Source, config: InputConfig | PublishedConfig) -> Iterator[pa.Table]:
    """The inputs of a source, each id once, at most `limit` of them.

    Raises:
        UsageError: an id is a duplicate and `duplicates` is error.
    """
    left = config.limit
    unique = Unique()
    for table in _planned(source, config.uri):
        if isinstance(config, InputConfig):
            table = _distinct(table, unique, config)
        if left is not None:
            table = table.slice(0, left)
            left -= table.num_rows
        if table.num_rows:
            yield table
        if left == 0:
            return


def no_images(uri: str, source: Source) -> UsageError:
    """The error for an input without images, with the other files that are there."""
    skipped = sum(source.skipped.values())
    kinds = describe_skipped(source.skipped)
    others = (
        f"; {skipped} files have other extensions than input.extensions lists: {kinds}" if skipped else ""
    )
    return UsageError(f"input.uri {uri}: no images there{others}")


def _planned(source: Source, uri: str) -> Iterator[pa.Table]:
    """The tables of a source.

    Raises:
        JobError: reading an input raised an unexpected exception.
    """
    try:
        yield from source
    except GliedError:
        raise
    except Exception as error:
        log.debug("planning failed", exc_info=True)
        reason = " ".join(str(error).split())
        raise JobError(f"input.uri {uri}: it cannot be planned, {type(error).__name__}: {reason}") from error


def _distinct(table: pa.Table, unique: Unique, config: InputConfig) -> pa.Table:
    ids = arrow_tables.texts(table, "id")
    new = unique.add(ids)
    if new.all():
        return table
    if config.duplicates == "error":
        first = ids[int(new.argmin())]
        tabular = config.form not in ("files", "webdataset")
        other = "name the rows by another input.id_column, or " if tabular else ""
        raise UsageError(
            f"input.uri {config.uri}: duplicate id {first!r}; {other}keep the first of them with "
            "--input.duplicates keep_first"
        )
    return table.filter(pa.array(new))


def _name_below(uri: str, folder: str) -> str | None:
    """The prefix of the names of a run folder's files in a listing of `uri`; None if it is elsewhere.

    Raises:
        UsageError: it is the folder of the inputs itself.
    """
    path = storage.path_below(folder, uri)
    if path == "":
        raise UsageError(
            f"output.uri {folder} is the folder of the inputs: choose another, such as {folder}/run"
        )
    return None if path is None else f"{path}/"


def _check_local(config: InputConfig | PublishedConfig, uri: str) -> None:
    if not storage.is_local(uri):
        return
    path = storage.local_path(uri)
    if not path.exists():
        raise UsageError(f"input.uri {config.uri}: no such {'folder' if config.form == 'files' else 'file'}")
    if config.form == "files" and not path.is_dir():
        raise UsageError(
            f"input.uri {config.uri}: not a folder; for one image use jobs/caption_image.py, for a tar or a "
            "table name its --input.form: webdataset, parquet or table"
        )


class FileSource:
    """An image per file; its name below the prefix is its id."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.columns = pa.schema([])
        self.skipped = files.skipped

    def __iter__(self) -> Iterator[pa.Table]:
        batch: list[storage.FileInfo] = []
        for file in self.files.listed():
            if not self.files.config.takes(file.name):
                self.files.skip(file.name)
                continue
            batch.append(file)
            if len(batch) == _BATCH_ROWS:
                yield _file_table(batch)
                batch = []
        if batch:
            yield _file_table(batch)


def _file_table(batch: list[storage.FileInfo]) -> pa.Table:
    return planned(
        id=[file.name for file in batch], uri=[file.uri for file in batch], size=[file.size for file in batch]
    )
