"""Published region features as the inputs of a run: listing them, and reading those of an image.

Planning reads a TSV once, the index of an HDF5 file, or the listing of a folder; never the values.
"""

import functools
import io
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from glied import storage
from glied.bulk import arrow_tables, row_schemas
from glied.bulk.config import PublishedConfig
from glied.bulk.plan.manifest import PLANNED, planned
from glied.bulk.plan.sources.fetch import STORAGE, Fetch
from glied.bulk.plan.sources.retries import Unreadable
from glied.bulk.row_schemas import FAILED, OK, REJECTED
from glied.data import coco, features, published_features
from glied.errors import ImageError, StorageError, UsageError

log = logging.getLogger(__name__)

Row = dict[str, Any]

_EXTENSIONS = {"tsv": r"\.tsv(\.\d+)?$", "npz": r"\.np[yz]$", "hdf5": r"\.(hdf5|h5)$"}
_BLOCK = 4 << 20
_BATCH_ROWS = 4096
_EXTRA = [("boxes", pa.string()), ("width", pa.int32()), ("height", pa.int32())]
"""Columns that reading an image needs in addition to `PLANNED`: a file with its boxes, and its size if
known."""


class Wanted:
    """Which images are taken, and their names in the store: by a captions file, if one is given."""

    def __init__(self, captions: str) -> None:
        """Without `captions`, a URI, every image is taken under the id it has.

        Raises:
            UsageError: as `coco.load_images`.
        """
        self._known: dict[str, Row] | None = None
        if captions:
            known = coco.by_alias(coco.load_images(captions))
            self._known = {alias: _named(image) for alias, image in known.items()}

    def __call__(self, image_id: str) -> Row | None:
        """Name, width and height of an image, None if it is not taken."""
        if self._known is None:
            return {"id": image_id, "width": None, "height": None}
        return self._known.get(image_id)


def _named(image: coco.CaptionedImage) -> Row:
    """The part of an image's entry that the plan needs, without its captions, to save memory."""
    return {"id": image.file_name, "width": image.width, "height": image.height}


class PublishedSource:
    """The images of published features, each once; implements `Source`."""

    def __init__(self, config: PublishedConfig, uri: str) -> None:
        """`uri` is that of the config, absolute."""
        self.config = config
        self.uri = uri
        self.columns = pa.schema([])
        self.skipped: dict[str, int] = {}
        self._left: dict[str, int] = {}

    def __iter__(self) -> Iterator[pa.Table]:
        wanted, names, broken = Wanted(self.config.captions), set[str](), dict[str, Row]()
        batch: list[Row] = []
        for image_id, row in self._found():
            taken = wanted(image_id)
            if taken is None:
                self._leave("not in captions")
                continue
            row |= taken
            if row.get("fault") is not None:
                broken.setdefault(row["id"], row)
            elif row["id"] in names:
                self._leave("duplicates")
            else:
                names.add(row["id"])
                batch.append(row)
            if len(batch) == _BATCH_ROWS:
                yield _table(batch)
                batch = []
        faulty = [row for name, row in broken.items() if name not in names]
        self._leave("damaged duplicates", len(broken) - len(faulty))
        log.info("%s: %s", self.uri, self._summary(len(names)))
        if batch or faulty:
            yield _table(batch + faulty)

    def _leave(self, why: str, count: int = 1) -> None:
        self._left[why] = self._left.get(why, 0) + count

    def _summary(self, taken: int) -> str:
        others = [f"{count} {why}" for why, count in self._left.items() if count]
        return ", ".join([f"{taken} images", *others])

    def _found(self) -> Iterator[tuple[str, Row]]:
        reader = {"tsv": _tsv_rows, "npz": self._npz_rows, "hdf5": _hdf5_rows}[self.config.form]
        for file in self._files():
            yield from reader(file.uri)

    def _files(self) -> list[storage.FileInfo]:
        if storage.exists(self.uri):
            return [storage.FileInfo(self.uri, self.uri.rsplit("/", 1)[-1], 0)]
        pattern = re.compile(_EXTENSIONS[self.config.form])
        found = [file for file in storage.list_files(self.uri) if pattern.search(file.name)]
        if not found:
            raise UsageError(f"input.uri {self.config.uri}: no file of form {self.config.form} there")
        return found

    def _npz_rows(self, uri: str) -> Iterator[tuple[str, Row]]:
        stem = PurePosixPath(uri).stem
        yield stem, {"uri": uri, "boxes": self._boxes.get(stem)}

    @functools.cached_property
    def _boxes(self) -> dict[str, str]:
        """Files of boxes by stem."""
        if not self.config.boxes:
            return {}
        return {PurePosixPath(file.name).stem: file.uri for file in storage.list_files(self.config.boxes)}


def _tsv_rows(uri: str) -> Iterator[tuple[str, Row]]:
    expected = 0
    for offset, line in _lines(uri):
        image_id = line.partition(b"\t")[0].decode(errors="replace").strip()
        if not image_id:
            continue
        row: Row = {"uri": f"{uri}#{image_id}", "file": uri, "offset": offset, "size": len(line)}
        size = published_features.tsv_feature_size(line)
        expected = expected or size
        if not size or size != expected:
            row |= {"fault_kind": "corrupt", "fault": "the line is truncated, or not of this form"}
        yield image_id, row


def _lines(uri: str) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each line, in bounded memory: a line of 100 regions has a megabyte."""
    try:
        with storage.open_input(uri) as stream:
            offset, rest = 0, b""
            while block := stream.read(_BLOCK):
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    yield offset, line
                    offset += len(line) + 1
            if rest:
                yield offset, rest
    except OSError as error:
        raise StorageError(f"cannot read {uri}: {error}") from error


def _hdf5_rows(uri: str) -> Iterator[tuple[str, Row]]:
    with open_hdf5(uri) as file:
        for image_id, number, size in file.ids():
            yield image_id, {"uri": f"{uri}#{image_id}", "file": uri, "offset": number, "size": size}


def open_hdf5(uri: str) -> published_features.Hdf5:
    """Open a file in any storage; raises as `published_features.Hdf5`."""
    if storage.is_local(uri):
        return published_features.Hdf5(str(storage.local_path(uri)), uri)
    return published_features.Hdf5(io.BufferedReader(storage.RangeReader(uri), _BLOCK), uri)


def _table(rows: list[Row]) -> pa.Table:
    table = planned(**{name: [row.get(name) for row in rows] for name in PLANNED.names})
    for name, kind in _EXTRA:
        table = table.append_column(name, pa.array([row.get(name) for row in rows], kind))
    return table


@dataclass(frozen=True)
class ReadPublished:
    """Turns planned images into rows of the feature store; a `Stage`.

    Attributes:
        form: of the input.
        dtype: of the stored features, `features.STORED` or `features.EXACT`.
        model: names the extractor, for the column of that name.
        fetch: how files are read.
    """

    form: str
    dtype: str
    model: str
    fetch: Fetch = field(default_factory=Fetch)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows of the manifest to `row_schemas.FEATURES`; one row out per row in, in order."""
        start = time.perf_counter()
        rows: list[Row] = []
        for uri, group in groupby(table.to_pylist(), key=lambda row: row["file"]):
            some = list(group)
            rows += self._hdf5(uri, some) if self.form == "hdf5" else map(self._read_one, some)
        result = pa.Table.from_pylist(rows, schema=row_schemas.FEATURES)
        return arrow_tables.with_seconds(result, {"read": time.perf_counter() - start})

    def _read_one(self, row: Row) -> Row:
        return self._outcome(row, functools.partial(self._read, row))

    def _read(self, row: Row) -> published_features.Published:
        if self.form == "tsv":
            stop = row["offset"] + row["size"]
            line = self._delivered(storage.read_range, row["file"], row["offset"], stop)
            return published_features.parse_tsv(line)[1]
        boxes = None if row["boxes"] is None else self._delivered(storage.read_bytes, row["boxes"])
        return published_features.parse_npz(self._delivered(storage.read_bytes, row["uri"]), boxes)

    def _delivered(self, read: Callable[..., bytes], *place: Any) -> bytes:
        return self.fetch.retried(functools.partial(read, *place))

    def _hdf5(self, uri: str, rows: Iterable[Row]) -> list[Row]:
        with open_hdf5(uri) as file:
            return [
                self._outcome(row, functools.partial(file.read, row["uri"][len(uri) + 1 :], row["offset"]))
                for row in rows
            ]

    def _outcome(self, row: Row, read: Callable[[], published_features.Published]) -> Row:
        base = {"id": row["id"], "uri": row["uri"], "status": OK, "model": self.model}
        if row["fault"] is not None:
            return _without(base, REJECTED, row["fault_kind"], row["fault"])
        try:
            found = read().sized(row["width"], row["height"])
        except ImageError as error:
            return _without(base, REJECTED, error.kind, error.message)
        except (FileNotFoundError, Unreadable) as error:
            return _without(base, FAILED, STORAGE, str(error))
        return row_schemas.empty_row(row_schemas.FEATURES, **(base | features.row(found, self.dtype)))


def _without(base: Row, status: str, kind: str, error: str) -> Row:
    return row_schemas.empty_row(
        row_schemas.FEATURES, **(base | {"status": status, "error_kind": kind, "error": error})
    )
