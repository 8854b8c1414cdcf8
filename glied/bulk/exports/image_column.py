"""The images themselves as a column of form parquet, as Hugging Face's `datasets` has them.

The encoded files are read again from where the run read them. `datasets` recognizes the column by the
metadata of the Parquet file, so that `load_dataset(FOLDER)` and `push_to_hub` are all that is left to do.
"""

import dataclasses
import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from glied import run_folder
from glied.bulk import arrow_tables
from glied.bulk.captioning import fetch_stage
from glied.bulk.config import InputConfig, ResourcesConfig
from glied.bulk.plan.manifest import Manifest
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.row_schemas import OK
from glied.config import build
from glied.errors import UsageError
from glied.run_folder import CommittedUnit

NEEDED = ("id", "status")
"""Columns of the rows that say which images to read."""
ROW_GROUP = 100
"""Rows of a row group; a reader has to load all images of one."""
AT_ONCE = 64
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


class ImageColumn:
    """Adds the images of a run to its rows."""

    def __init__(self, name: str, run_uri: str, plan: Manifest) -> None:
        """Find out how the run read its images.

        Raises:
            UsageError: it read none, or the package datasets is missing.
        """
        record = run_folder.read_record(run_uri) or {}
        source = build(InputConfig, record["input"])
        fetch = fetch_stage(source, ResourcesConfig())
        if not isinstance(fetch, Fetch):
            raise UsageError(f"image_column: the run read {source.uri}, which holds regions and no images")
        self.name, self.plan = name, plan
        self._fetch = dataclasses.replace(fetch, uris=None)  # the run has already checked these rows' URIs
        _library()

    def added(self, unit: CommittedUnit, rows: pa.Table) -> tuple[pa.Table, list[str]]:
        """The rows of a unit with their images, and which images cannot be read any more.

        Only rows with status ok have an image.

        Raises:
            UsageError: the column exists, or `datasets` does not know the type of another one.
        """
        if self.name in rows.column_names:
            raise UsageError(f"image_column {self.name}: the rows have that column; choose another name")
        (planned,) = self.plan.read_units([unit.unit])
        wanted = [row["id"] for row in rows.select(NEEDED).to_pylist() if row["status"] == OK]
        found = dict(self._read(planned.table, set(wanted)))
        images = [found.get(name, {}).get("image") for name in arrow_tables.texts(rows, "id")]
        missing = [f"{name!r}: {found[name]['error']}" for name in wanted if found[name]["image"] is None]
        return rows.append_column(self.name, pa.array(images, _IMAGE)), missing

    def described(self, rows: pa.Table) -> pa.Table:
        """The rows with the metadata by which `datasets` recognizes the images."""
        library = _library()
        try:
            features = library.Features.from_arrow_schema(rows.schema)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise UsageError(f"image_column: datasets does not take these rows: {error}") from error
        features[self.name] = library.Image()
        return rows.cast(features.arrow_schema)

    def _read(self, planned: pa.Table, wanted: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Image and error of each wanted row."""
        rows = planned.filter(pa.array([name in wanted for name in arrow_tables.texts(planned, "id")]))
        for start in range(0, rows.num_rows, AT_ONCE):
            for row in self._fetch(rows.slice(start, AT_ONCE)).to_pylist():
                name = posixpath.basename(row["id"])
                image = None if row["data"] is None else {"bytes": row["data"], "path": name}
                yield row["id"], {"image": image, "error": f"{row['kind']}: {row['error']}"}


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError('image_column needs the package datasets: pip install -e ".[datasets]"') from error
    return datasets
