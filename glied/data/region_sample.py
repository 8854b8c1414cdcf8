"""Random samples of region features from a feature store, read without the rest of the store."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glied.data import features, parquet

_READERS = 4


class _Group(NamedTuple):
    """A row group in a file of the store."""

    uri: str
    number: int
    rows: int


def sample_regions(uri: str, most: int, *, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """Yield the region features [R, F] of about `most` images of the store at `uri`, deterministically.

    Whole row groups (2 MB, about 14 images of 36 x 2048 values) are drawn until they hold `most` rows, and a
    few of them are in memory at a time. Images without regions or with non-finite features are skipped.

    Raises:
        UsageError: as `features.paths`.
    """
    groups = [group for path in features.paths(uri) for group in _groups(path)]
    drawn = _draw(groups, most, seed)
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(drawn), _READERS):
            for images in pool.map(_read, drawn[start : start + _READERS]):
                yield from images


def _groups(uri: str) -> list[_Group]:
    with parquet.open_file(uri) as file:
        footer = file.metadata
    return [_Group(uri, number, footer.row_group(number).num_rows) for number in range(footer.num_row_groups)]


def _draw(groups: Sequence[_Group], most: int, seed: int) -> list[_Group]:
    """Draw groups until they hold `most` rows; return them in file order."""
    chosen, rows = [], 0
    for place in np.random.default_rng(seed).permutation(len(groups)).tolist():
        if rows >= most:
            break
        chosen.append(place)
        rows += groups[place].rows
    return [groups[place] for place in sorted(chosen)]


def _read(group: _Group) -> list[NDArray[np.float32]]:
    with parquet.open_file(group.uri) as file:
        columns = [name for name in features.VALUES if name in file.schema_arrow.names]
        rows = file.read_row_group(group.number, columns=columns, use_threads=False).to_pylist()
    images = [features.values(row) for row in rows if row["count"]]
    return [image for image in images if np.isfinite(image).all()]
