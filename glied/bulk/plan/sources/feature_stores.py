"""A feature store as the input of a run: images whose regions were extracted before."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pyarrow as pa

from glied.bulk import arrow_tables, row_schemas
from glied.bulk.plan.manifest import planned
from glied.bulk.row_schemas import OK, REJECTED
from glied.data import features, parquet

NO_REGIONS = "no_regions"
"""Kind of error of an image without regions in the store."""


class StoreSource:
    """The images of a feature store in the order of its files; implements `Source`."""

    def __init__(self, uri: str) -> None:
        """`uri` is that of a store, as `features.paths` takes it."""
        self.uri = uri
        self.columns = pa.schema([])
        self.skipped: dict[str, int] = {}

    def __iter__(self) -> Iterator[pa.Table]:
        for path in features.paths(self.uri):
            with parquet.open_file(path) as file:
                if not file.metadata.num_rows:
                    continue
                there = [name for name in ("id", "uri", "count") if name in file.schema_arrow.names]
                rows = file.read(columns=there).to_pylist()
                metadata = file.metadata
                total = sum(metadata.row_group(g).total_byte_size for g in range(metadata.num_row_groups))
            yield _planned(path, rows, total // len(rows))


def _planned(path: str, rows: list[dict[str, Any]], size: int) -> pa.Table:
    missing = [None if row["count"] is not None else NO_REGIONS for row in rows]
    return planned(
        id=[row["id"] for row in rows],
        uri=[row.get("uri") or row["id"] for row in rows],
        file=[path] * len(rows),
        offset=list(range(len(rows))),
        size=[size] * len(rows),
        fault_kind=missing,
        fault=[kind and "the feature store has no regions of this image" for kind in missing],
    )


@dataclass(frozen=True)
class ReadStore:
    """Reads the regions of planned images; a `FetchStage` that takes the place of a detector too.

    Attributes:
        rows: reads the files, and caches a row group for the next chunk.
    """

    rows: parquet.RowReader = field(default_factory=parquet.RowReader)

    def tasks_per_worker(self, tables: Iterable[pa.Table]) -> int:
        """Few, because a row group is cached."""
        return 4

    def pieces(self, tables: Sequence[pa.Table], size: int) -> Iterator[tuple[int, pa.Table]]:
        """A piece per table."""
        yield from enumerate(map(self, tables))

    def clear_cache(self) -> None:
        """Free the cached row group."""
        self.rows.clear()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows of the manifest to `row_schemas.FEATURES`; one row out per row in, in order."""
        start = time.perf_counter()
        rows: list[dict[str, Any]] = []
        for path, group in groupby(table.to_pylist(), key=lambda row: row["file"]):
            rows += self._read(path, list(group))
        result = pa.Table.from_pylist(rows, schema=row_schemas.FEATURES)
        return arrow_tables.with_seconds(result, {"fetch": time.perf_counter() - start})

    def _read(self, path: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        first, last = rows[0]["offset"], rows[-1]["offset"] + 1
        found = self.rows.read(parquet.Piece(path, first, last)).to_pylist()
        read = []
        for row in rows:
            base = {"id": row["id"], "uri": row["uri"], "model": ""}
            if row["fault"] is None:
                stored = found[row["offset"] - first]
                base |= {name: stored.get(name) for name in features.SCHEMA.names[1:]} | {"status": OK}
            else:
                base |= {"status": REJECTED, "error_kind": row["fault_kind"], "error": row["fault"]}
            read.append(row_schemas.empty_row(row_schemas.FEATURES, **base))
        return read
