"""Export of a feature store to the published TSV format, image by image."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from glied.data import coco, features, parquet, published_features
from glied.data.image_names import ImageNames
from glied.errors import StorageError, UsageError

_ROWS = 64


def export_tsv(store: str, out: str, *, captions: str = "") -> int:
    """Export the images of a store that have regions; the file appears only when it is complete.

    Args:
        store: URI of the store.
        out: local path.
        captions: URI of a captions file whose ids replace those of the store; empty keeps the store's ids.

    Returns:
        The number of exported images.

    Raises:
        UsageError: there is no store, or the captions file lacks one of its images.
        StorageError: the file cannot be written.
    """
    images = coco.load_images(captions) if captions else []
    known, names = (
        {one.file_name: str(one.id) for one in images},
        ImageNames((i.file_name for i in images), captions),
    )
    owners: dict[str, str] = {}
    temporary, count = Path(f"{out}.part"), 0
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for row in stored_rows(store):
                name = names.find(row["id"]) if captions else row["id"]
                if name is None:
                    raise UsageError(f"{captions} does not have {row['id']} of {store}")
                if owners.setdefault(name, row["id"]) != row["id"]:
                    raise UsageError(
                        f"{owners[name]} and {row['id']} of {store} both match {name} of {captions}"
                    )
                image_id = known.get(name, name)
                boxes = np.array(row["boxes"], np.float32).reshape(-1, 4)
                found = published_features.Published(boxes, features.values(row), row["width"], row["height"])
                file.write(published_features.format_tsv(image_id, found))
                count += 1
        os.replace(temporary, out)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error}") from error
    return count


def stored_rows(store: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a store that have regions, in the order of its files, a few in memory at a time."""
    for path in features.paths(store):
        with parquet.open_file(path) as file:
            there = [name for name in features.SCHEMA.names if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=_ROWS, columns=there):
                yield from (row for row in batch.to_pylist() if row["count"] is not None)
