"""The feature store: regions of images in Parquet files, extracted once and streamed by training jobs.

There is one row per image. Features are stored as float16, which halves the size with an error below the
noise of a detector, or as float32 if they must be exact; all other columns are exact. The schema metadata of
each file holds the extractor's fingerprint, so that features of different extractors cannot be mixed
unnoticed.

Columns (`R` regions of `F` feature values): id string, width and height int32, count int32 (R; null for
images without regions), boxes list<float> `[R * 4]` xyxy pixels, features binary (little-endian `[R, F]`),
scores list<float> `[R]`, labels list<string> `[R]`, attributes list<list<string>> `[R]`, feature_type string
("<f2" or "<f4"; files without the column hold float16).

An image takes `R * (F * 2 + 20)` bytes plus its labels before compression: 148 kB for 36 regions of 2048
values, 18 GB for COCO's 123,287 images. `stored_size` returns the size of a store.
"""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
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
"""Version of the columns; part of the fingerprint of runs that write a store."""
_TYPE = "feature_type"
VALUES = ["count", "features", _TYPE]
"""The columns that `values` reads; old files lack the last."""
_REQUIRED = frozenset(SCHEMA.names) - {_TYPE}
_FINGERPRINT = b"glied.extractor"
_GROUP_BYTES = 2 << 20  # of a row group, the unit that random access reads
_GROUP_ROWS = 256
STORED = "<f2"
"""Default type of stored feature values, in numpy's notation."""
EXACT = "<f4"
"""Type of feature values that are stored without loss."""


class Described(Protocol):
    """The attributes that a row of the store is written from, such as those of `Regions`."""

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
        """One label per region."""
        ...

    @property
    def attributes(self) -> list[list[str]]:
        """Attribute words of each region."""
        ...

    @property
    def width(self) -> int:
        """Width of the image in pixels."""
        ...

    @property
    def height(self) -> int:
        """Height of the image in pixels."""
        ...


def write(
    regions: "Sequence[Described]",
    ids: Sequence[str],
    *,
    fingerprint: Mapping[str, Any],
    dtype: str = STORED,
) -> pa.Table:
    """Build a table of the feature store with the regions of each image.

    Args:
        regions: the regions of each image.
        ids: unique names of the images, in the same order.
        fingerprint: fingerprint of the extractor (`RegionExtractor.fingerprint`), JSON values.
        dtype: type of the feature values, `STORED` or `EXACT`.
    """
    rows = [{"id": one, **row(image, dtype)} for image, one in zip(regions, ids, strict=True)]
    metadata = {_FINGERPRINT: json.dumps(dict(fingerprint), sort_keys=True).encode()}
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))


def row(regions: "Described", dtype: str = STORED) -> dict[str, Any]:
    """Return an image's columns except its id; clips values to the range of `dtype`."""
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
    """Return the features of one row, [R, F], as a writable copy."""
    stored = np.frombuffer(row["features"], row.get(_TYPE) or STORED)
    return stored.astype(np.float32).reshape(row["count"], -1)


def read(row: Mapping[str, Any]) -> "Regions":
    """Build the regions of one row of plain Python values; the arrays are writable copies."""
    from glied.regions import Regions  # needs torch, which tasks that only fetch images do not import

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
    """Write the table as a Parquet file whose row groups are small enough for random access."""
    sink = io.BytesIO()
    rows = max(1, min(_GROUP_ROWS, table.num_rows * _GROUP_BYTES // max(table.nbytes, 1)))
    pa.parquet.write_table(table, sink, row_group_size=rows, compression="zstd", compression_level=1)
    return sink.getvalue()


def image_ids(uri: str) -> list[str]:
    """Return the ids of all images with regions in the store at `uri`; raises as `paths`."""
    ids = []
    for path in paths(uri):
        with parquet.open_file(path) as file:
            rows = file.read(columns=["id", "count"]).to_pylist()
        ids += [row["id"] for row in rows if row["count"] is not None]
    return ids


def paths(uri: str) -> list[str]:
    """Return the URIs of the Parquet files of the store at `uri`, sorted.

    `uri` is a run folder of jobs/extract_regions.py or its folder features/, of which only committed files
    count; or another folder of Parquet files; or one file.

    Raises:
        UsageError: there are no files, one is not part of a feature store, extractors are mixed, or the run
            is damaged.
    """
    return _files(uri)[0]


def fingerprint(uri: str) -> dict[str, Any]:
    """Return the fingerprint of the extractor that made the store at `uri`; raises as `paths`."""
    return _files(uri)[1]


def feature_size(uri: str) -> int:
    """Return F, the feature size of the store at `uri`.

    Raises:
        UsageError: as `paths`, or no image has regions.
    """
    for path in paths(uri):
        with parquet.open_file(path) as file:
            for batch in file.iter_batches(batch_size=1, columns=VALUES):
                row = batch.to_pylist()[0]
                if row["count"]:
                    return int(values(row).shape[1])
    raise UsageError(f"{uri}: no image has regions; extract it again")


def check_same_extractor(uris: Sequence[str]) -> None:
    """Reject stores of different extractors that are to be used together; raises as `paths`."""
    first, *others = [(uri, fingerprint(uri)) for uri in dict.fromkeys(uris)]
    for uri, other in others:
        if other != first[1]:
            raise UsageError(
                f"{uri} and {first[0]} were extracted differently: {differences(first[1], other)}"
            )


@dataclass(frozen=True)
class StoredSize:
    """The size of a store.

    Attributes:
        images: number of rows, including images without regions.
        bytes: size of its compressed files.
    """

    images: int
    bytes: int

    def __str__(self) -> str:
        """Format the size for people."""
        each = self.bytes / max(self.images, 1)
        return f"{self.images:,} images, {self.bytes / 1e9:.2f} GB, {each / 1e3:.1f} kB per image"


def stored_size(uri: str, images: int) -> StoredSize:
    """Return the size of the store at `uri` with `images` rows, without opening its files."""
    return StoredSize(images, sum(file.size for file in _listed(uri)))


def _listed(uri: str) -> list[storage.FileInfo]:
    """List the Parquet files of a store by name: the committed files of a run, or all files of a folder.

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
        raise UsageError(f"{uri} holds {run.results}, not a feature store: run jobs/extract_regions.py first")
    run.check()
    if not run.units:
        raise UsageError(f"{uri} holds no feature store yet: nothing is committed")
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
        fingerprints = list(pool.map(_file_fingerprint, files))
    for file, one in zip(files, fingerprints, strict=True):
        if one != fingerprints[0]:
            raise UsageError(f"{file} and {files[0]} were extracted differently: extract {uri} again")
    return files, json.loads(fingerprints[0])


def _file_fingerprint(uri: str) -> bytes:
    with parquet.open_file(uri) as file:
        schema = file.schema_arrow
    if not set(schema.names) >= _REQUIRED or _FINGERPRINT not in (schema.metadata or {}):
        raise UsageError(f"{uri} is not part of a feature store (columns {', '.join(schema.names)})")
    return schema.metadata[_FINGERPRINT]
