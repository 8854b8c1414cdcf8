"""A cache of arrays that take long to compute, in memory-mapped files."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray


def cached_array(
    folder: str,
    name: str,
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    fill: Callable[[NDArray], None],
) -> NDArray:
    """Return the cached array `name`, read-only and memory-mapped; `fill` computes it if it is missing.

    Several processes may compute it at the same time: the file appears only when it is complete.

    Args:
        folder: local folder; each machine has its own.
        name: identifies the content, so different content needs a different name.
        shape: shape of the array.
        dtype: type of the array.
        fill: fills an empty array in place.
    """
    path = Path(folder) / f"{name}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=name, suffix=".part")
        os.close(handle)
        try:
            array = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
            fill(array)
            array.flush()
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    cached = np.load(path, mmap_mode="r", allow_pickle=False)
    assert cached.shape == shape, (path, cached.shape, shape)
    return cached
