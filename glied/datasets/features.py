"""The feature store: regions of images in Parquet, extracted once and streamed by every training that needs
them.

One row per image. Features are stored as float16, which halves the volume and costs less than the noise of a
detector; everything else is exact. The extractor's fingerprint stands in the schema metadata of each file, so
that features of two extractors are never mixed unnoticed.

Columns (`R` regions of `F` feature values): id string, width and height int32, count int32 (R), boxes
list<float> `[R * 4]` xyxy pixels, features binary (little-endian float16 `[R, F]`), scores list<float> `[R]`,
labels list<string> `[R]`, attributes list<list<string>> `[R]`.
"""

import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from glied import storage
from glied.datasets import parquet
from glied.errors import UsageError

if TYPE_CHECKING:
    from glied.vision.regions import Regions

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
]
SCHEMA = pa.schema(_COLUMNS)
_FINGERPRINT = b"glied.extractor"
_ROW_GROUP = 64  # rows that random access reads to get one
STORED = "<f2"
"""Type of a stored feature value, in numpy's notation."""


def write(
    regions: "Sequence[Regions]", ids: Sequence[str], *, fingerprint: Mapping[str, Any], dtype: str = STORED
) -> pa.Table:
    """Returns a table of the feature store with the regions of each image id.

    Args:
        regions: one per image.
        ids: unique names of the images, in the same order.
        fingerprint: of the extractor (`RegionExtractor.fingerprint`), JSON values.
        dtype: of the feature values; files hold float16.
    """
    rows = [_row(image, image_id, dtype) for image, image_id in zip(regions, ids, strict=True)]
    metadata = {_FINGERPRINT: json.dumps(dict(fingerprint), sort_keys=True).encode()}
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))


def _row(regions: "Regions", image_id: str, dtype: str) -> dict[str, Any]:
    largest = float(np.finfo(dtype).max)
    features = np.clip(regions.features, -largest, largest).astype(dtype)
    return {
        "id": image_id,
        "width": regions.width,
        "height": regions.height,
        "count": len(regions.scores),
        "boxes": np.asarray(regions.boxes, np.float32).ravel(),
        "features": features.tobytes(),
        "scores": np.asarray(regions.scores, np.float32),
        "labels": regions.labels,
        "attributes": regions.attributes,
    }


def read(row: Mapping[str, Any], *, dtype: str = STORED) -> "Regions":
    """Returns the regions of one row, given as plain Python values; the arrays are writable copies."""
    from glied.vision.regions import Regions  # needs torch; tasks that only fetch images do without it

    count = row["count"]
    return Regions(
        boxes=np.asarray(row["boxes"], np.float32).reshape(count, 4),
        features=np.frombuffer(row["features"], dtype).astype(np.float32).reshape(count, -1),
        scores=np.asarray(row["scores"], np.float32),
        labels=list(row["labels"]),
        attributes=[list(words) for words in row["attributes"]],
        width=row["width"],
        height=row["height"],
    )


def parquet_bytes(table: pa.Table) -> bytes:
    """Returns the table as a Parquet file whose row groups are small enough for random access."""
    sink = io.BytesIO()
    pa.parquet.write_table(table, sink, row_group_size=_ROW_GROUP, compression="zstd", compression_level=1)
    return sink.getvalue()


def image_name(image_id: str) -> str:
    """The file name of an image in its id, which is the path below the input of the extraction."""
    return image_id.rsplit("/", 1)[-1]


def image_names(uri: str) -> list[str]:
    """The file names of all images with regions in the store at `uri`; raises as `paths`."""
    names = []
    for path in paths(uri):
        with parquet.open_file(path) as file:
            rows = file.read(columns=["id", "count"]).to_pylist()
        names += [image_name(row["id"]) for row in rows if row["count"] is not None]
    return names


def paths(uri: str) -> list[str]:
    """Returns the URIs of the Parquet files of the store at `uri`, sorted.

    `uri` is the run folder of jobs/extract_regions.py, a folder of Parquet files, or one file.

    Raises:
        UsageError: there is none, one is no part of a feature store, or extractors are mixed.
    """
    return _files(uri)[0]


def fingerprint(uri: str) -> dict[str, Any]:
    """Returns the fingerprint of the extractor whose features the store at `uri` holds; raises as `paths`."""
    return _files(uri)[1]


def _files(uri: str) -> tuple[list[str], dict[str, Any]]:
    if uri.endswith(".parquet"):
        files = [uri]
    else:
        listed = [file for file in storage.list_files(uri) if file.name.endswith(".parquet")]
        # The run folder of jobs/extract_regions.py holds the store in features/, beside its manifest.
        inside = [file for file in listed if file.name.startswith("features/")]
        files = sorted(file.uri for file in inside or listed)
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
    if not set(SCHEMA.names) <= set(schema.names) or _FINGERPRINT not in (schema.metadata or {}):
        raise UsageError(f"{uri} is not part of a feature store (columns {', '.join(schema.names)})")
    return schema.metadata[_FINGERPRINT]


class FeatureStore:
    """Random access by image id; keeps the row groups it used last in memory."""

    def __init__(self, uri: str, *, cached_groups: int = 8) -> None:
        """Opens the store at `uri` and reads its ids.

        Raises:
            UsageError: as `paths`, or an id stands twice.
        """
        self.uri = uri
        self.files, self.fingerprint = _files(uri)
        self._places: dict[str, tuple[int, int, int]] = {}
        for file in range(len(self.files)):
            self._index(file)
        self._group = lru_cache(cached_groups)(self._read_group)

    def _index(self, file: int) -> None:
        with parquet.open_file(self.files[file]) as opened:
            for group in range(opened.num_row_groups):
                ids = opened.read_row_group(group, columns=["id"]).column("id").to_pylist()
                for row, image_id in enumerate(map(str, ids)):
                    if image_id in self._places:
                        raise UsageError(f"{self.uri} holds {image_id} twice")
                    self._places[image_id] = (file, group, row)

    def _read_group(self, file: int, group: int) -> pa.Table:
        with parquet.open_file(self.files[file]) as opened:
            return opened.read_row_group(group)

    @property
    def ids(self) -> list[str]:
        """All image ids, in the order of the files."""
        return list(self._places)

    def __len__(self) -> int:
        """Images in the store."""
        return len(self._places)

    def __contains__(self, image_id: object) -> bool:
        """Whether the store has this image."""
        return image_id in self._places

    def __getitem__(self, image_id: str) -> "Regions":
        """The regions of one image; raises KeyError if the store lacks it."""
        file, group, row = self._places[image_id]
        return read(self._group(file, group).slice(row, 1).to_pylist()[0])
