"""The feature store: regions of images in Parquet, extracted once and streamed by every training that needs
them.

One row per image. Features are stored as float16, which halves the volume and costs less than the noise of a
detector, or as float32 where they must be exact; everything else is exact. The extractor's fingerprint stands
in the schema metadata of each file, so that features of two extractors are never mixed unnoticed.

Columns (`R` regions of `F` feature values): id string, width and height int32, count int32 (R; null where an
image has no regions), boxes list<float> `[R * 4]` xyxy pixels, features binary (little-endian `[R, F]`),
scores list<float> `[R]`, labels list<string> `[R]`, attributes list<list<string>> `[R]`, feature_type string
("<f2" or "<f4"; a file without the column holds float16).

An image takes `R * (F * 2 + 20)` bytes and its labels before compression: 36 regions of 2048 values 148 kB,
COCO's 123,287 images 18 GB. `stored_size` says what a store takes.
"""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from glied import run_folder, storage
from glied.data import parquet
from glied.data.extractor_fingerprint import differences
from glied.errors import UsageError

if TYPE_CHECKING:
    from glied.regions import Regions

log = logging.getLogger(__name__)

_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("id", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("count", pa.int32()),
    ("boxes", pa.list_(pa.float32())),
    ("features", pa.binary()),
    ("scores", pa.list_(pa.float32())),
    ("labels", pa.list_(pa.string())),
    ("attributes", pa.list_(pa.list_(pa.string()))),
    ("feature_type", pa.string()),
]
SCHEMA = pa.schema(_COLUMNS)
SCHEMA_VERSION = 3
"""Changes with the columns; part of the fingerprint of a run that writes a store."""
_TYPE = "feature_type"
VALUES = ["count", "features", _TYPE]
"""The columns that `values` reads; a file may lack the last."""
_REQUIRED = frozenset(SCHEMA.names) - {_TYPE}
_FINGERPRINT = b"glied.extractor"
_GROUP_BYTES = 2 << 20  # of a row group, which random access reads to get one row
_GROUP_ROWS = 256
STORED = "<f2"
"""Type of a stored feature value unless a writer asks for another, in numpy's notation."""
EXACT = "<f4"
"""Type of feature values that lose nothing."""


class Described(Protocol):
    """What a row of the store is made of: `Regions`, or what has the same attributes."""

    @property
    def boxes(self) -> NDArray[np.float32]:
        """[R, 4]."""
        ...

    @property
    def features(self) -> NDArray[np.float32]:
        """[R, F]."""
        ...

    @property
    def scores(self) -> NDArray[np.float32]:
        """[R]."""
        ...

    @property
    def labels(self) -> list[str]:
        """One per region."""
        ...

    @property
    def attributes(self) -> list[list[str]]:
        """Words per region."""
        ...

    @property
    def width(self) -> int:
        """Of the image."""
        ...

    @property
    def height(self) -> int:
        """Of the image."""
        ...


def write(
    regions: "Sequence[Described]",
    ids: Sequence[str],
    *,
    fingerprint: Mapping[str, Any],
    dtype: str = STORED,
) -> pa.Table:
    """Returns a table of the feature store with the regions of each image id.

    Args:
        regions: one per image.
        ids: unique names of the images, in the same order.
        fingerprint: of the extractor (`RegionExtractor.fingerprint`), JSON values.
        dtype: of the feature values, `STORED` or `EXACT`.
    """
    rows = [{"id": one, **row(image, dtype)} for image, one in zip(regions, ids, strict=True)]
    metadata = {_FINGERPRINT: json.dumps(dict(fingerprint), sort_keys=True).encode()}
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))


def row(regions: "Described", dtype: str = STORED) -> dict[str, Any]:
    """An image's columns but its id; values that `dtype` cannot hold become its largest."""
    largest = float(np.finfo(dtype).max)
    features = np.clip(regions.features, -largest, largest).astype(dtype)
    return {
        "width": regions.width,
        "height": regions.height,
        "count": len(regions.scores),
        "boxes": np.asarray(regions.boxes, np.float32).ravel(),
        "features": features.tobytes(),
        "scores": np.asarray(regions.scores, np.float32),
        "labels": regions.labels,
        "attributes": regions.attributes,
        _TYPE: dtype,
    }


def values(row: Mapping[str, Any]) -> NDArray[np.float32]:
    """The features of one row, [R, F], as a writable copy."""
    found = np.frombuffer(row["features"], row.get(_TYPE) or STORED)
    return found.astype(np.float32).reshape(row["count"], -1)


def read(row: Mapping[str, Any]) -> "Regions":
    """Returns the regions of one row, given as plain Python values; the arrays are writable copies."""
    from glied.regions import Regions  # needs torch; tasks that only fetch images do without it

    count = row["count"]
    return Regions(
        boxes=np.asarray(row["boxes"], np.float32).reshape(count, 4),
        features=values(row),
        scores=np.asarray(row["scores"], np.float32),
        labels=list(row["labels"]),
        attributes=[list(words) for words in row["attributes"]],
        width=row["width"],
        height=row["height"],
    )


def parquet_bytes(table: pa.Table) -> bytes:
    """Returns the table as a Parquet file whose row groups are small enough for random access."""
    sink = io.BytesIO()
    rows = max(1, min(_GROUP_ROWS, table.num_rows * _GROUP_BYTES // max(table.nbytes, 1)))
    pa.parquet.write_table(table, sink, row_group_size=rows, compression="zstd", compression_level=1)
    return sink.getvalue()


def image_ids(uri: str) -> list[str]:
    """The ids of all images with regions in the store at `uri`; raises as `paths`."""
    ids = []
    for path in paths(uri):
        with parquet.open_file(path) as file:
            rows = file.read(columns=["id", "count"]).to_pylist()
        ids += [row["id"] for row in rows if row["count"] is not None]
    return ids


def paths(uri: str) -> list[str]:
    """Returns the URIs of the Parquet files of the store at `uri`, sorted.

    `uri` is the run folder of jobs/extract_regions.py or the folder features/ in it, of which the files are
    taken that are committed; or a folder of Parquet files that is no run, or one file.

    Raises:
        UsageError: there is none, one is no part of a feature store, extractors are mixed, or the run is
            damaged.
    """
    return _files(uri)[0]


def fingerprint(uri: str) -> dict[str, Any]:
    """Returns the fingerprint of the extractor whose features the store at `uri` holds; raises as `paths`."""
    return _files(uri)[1]


def feature_size(uri: str) -> int:
    """F of the store at `uri`.

    Raises:
        UsageError: as `paths`, or no image has regions.
    """
    for path in paths(uri):
        with parquet.open_file(path) as file:
            for batch in file.iter_batches(batch_size=1, columns=VALUES):
                row = batch.to_pylist()[0]
                if row["count"]:
                    return int(values(row).shape[1])
    raise UsageError(f"{uri}: no image has regions; extract it anew")


def check_same_extractor(uris: Sequence[str]) -> None:
    """Refuse stores that are to be used together but come from different extractors; raises as `paths`."""
    first, *others = [(uri, fingerprint(uri)) for uri in dict.fromkeys(uris)]
    for uri, found in others:
        if found != first[1]:
            raise UsageError(
                f"{uri} and {first[0]} were extracted differently: {differences(first[1], found)}"
            )


@dataclass(frozen=True)
class StoredSize:
    """What a store takes.

    Attributes:
        images: rows, also those without regions.
        bytes: of its files, compressed.
    """

    images: int
    bytes: int

    def __str__(self) -> str:
        """For people."""
        each = self.bytes / max(self.images, 1)
        return f"{self.images:,} images, {self.bytes / 1e9:.2f} GB, {each / 1e3:.1f} kB an image"


def stored_size(uri: str, images: int) -> StoredSize:
    """How much the store at `uri` takes, whose `images` are known; of its files none is opened."""
    return StoredSize(images, sum(file.size for file in _listed(uri)))


def _listed(uri: str) -> list[storage.FileInfo]:
    """The Parquet files of a store by name: of a run those that are committed, else all in the folder.

    Raises:
        UsageError: the run is damaged, or has no committed file of a feature store.
    """
    run = run_folder.committed(uri)
    if run is not None:
        return _committed(uri, run)
    listed = [file for file in storage.list_files(uri) if file.name.endswith(".parquet")]
    inside = [file for file in listed if file.name.startswith("features/")]
    return sorted(inside or listed, key=lambda file: file.uri)


def _committed(uri: str, run: run_folder.Committed) -> list[storage.FileInfo]:
    if run.results != "features":
        raise UsageError(f"{uri} holds {run.results}, no feature store: run jobs/extract_regions.py first")
    run.check()
    if not run.units:
        raise UsageError(f"{uri} holds no feature store yet: nothing in it is committed")
    if not run.complete:
        _warn_once(f"{uri}: {len(run.units)} of {run.planned} units are done; only their images are used")
    return [
        storage.FileInfo(unit.output, unit.output.rsplit("/", 1)[-1], unit.found or 0) for unit in run.units
    ]


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


def _files(uri: str) -> tuple[list[str], dict[str, Any]]:
    files = [uri] if uri.endswith(".parquet") else [file.uri for file in _listed(uri)]
    if not files:
        raise UsageError(f"{uri} holds no feature store: run jobs/extract_regions.py first")
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(_file_fingerprint, files))
    for file, fingerprint_ in zip(files, found, strict=True):
        if fingerprint_ != found[0]:
            raise UsageError(f"{file} and {files[0]} were extracted differently: extract {uri} anew")
    return files, json.loads(found[0])


def _file_fingerprint(uri: str) -> bytes:
    with parquet.open_file(uri) as file:
        schema = file.schema_arrow
    if not set(schema.names) >= _REQUIRED or _FINGERPRINT not in (schema.metadata or {}):
        raise UsageError(f"{uri} is not part of a feature store (columns {', '.join(schema.names)})")
    return schema.metadata[_FINGERPRINT]


class FeatureStore:
    """Random access by image id, for readers that want images in an order of their own.

    In memory are the ids (about 150 bytes each), what the files' footers say, and the row groups used last
    (2 MB each): never the features as a whole. Threads may share a store.
    """

    def __init__(self, uri: str, *, cached_groups: int = 8) -> None:
        """Opens the store at `uri` and reads the ids of its images with regions.

        Raises:
            UsageError: as `paths`, or an id stands twice.
        """
        self.uri = uri
        self.files, self.fingerprint = _files(uri)
        self._places: dict[str, tuple[int, int]] = {}
        self._footers: list[pa.parquet.FileMetaData] = []
        for file in range(len(self.files)):
            self._index(file)
        self._group = lru_cache(cached_groups)(self._read_group)

    def _index(self, file: int) -> None:
        with parquet.open_file(self.files[file]) as opened:
            self._footers.append(opened.metadata)
            rows = opened.read(columns=["id", "count"]).to_pylist()
        for number, row in enumerate(rows):
            if row["count"] is None:
                continue
            if row["id"] in self._places:
                raise UsageError(f"{self.uri} holds {row['id']} twice")
            self._places[row["id"]] = file, number

    def _read_group(self, file: int, group: int) -> pa.Table:
        with parquet.open_file(self.files[file], footer=self._footers[file]) as opened:
            return opened.read_row_group(group)

    @property
    def ids(self) -> list[str]:
        """The ids of all images with regions, in the order of the files."""
        return list(self._places)

    def __len__(self) -> int:
        """Images with regions."""
        return len(self._places)

    def __contains__(self, image_id: object) -> bool:
        """Whether the store has regions of this image."""
        return image_id in self._places

    def __getitem__(self, image_id: str) -> "Regions":
        """The regions of one image; raises KeyError if the store has none."""
        file, number = self._places[image_id]
        group = 0
        while number >= (rows := self._footers[file].row_group(group).num_rows):
            group, number = group + 1, number - rows
        return read(self._group(file, group).slice(number, 1).to_pylist()[0])
