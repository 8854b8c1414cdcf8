"""Reads a whole feature store."""

import pyarrow.parquet as pq

from glied.data import features
from glied.regions import Regions


class StoredRegions(dict[str, Regions]):
    """The regions of all images that have regions, by id."""

    def __init__(self, uri: str) -> None:
        tables = (pq.read_table(path) for path in features.paths(uri))
        rows = [row for table in tables for row in table.to_pylist() if row["count"] is not None]
        super().__init__((row["id"], features.read(row)) for row in rows)
        assert len(self) == len(rows), "an id occurs twice"
        self.fingerprint = features.fingerprint(uri)
        self.ids = list(self)
