"""What takes long to make: arrays that are kept in files, and objects that leave theirs behind."""

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Light:
    """Base of dataclasses that travel with their fields only: cached properties are made anew there."""

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(cast(Any, self))}


def cached_array(
    folder: str,
    name: str,
    *,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    fill: Callable[[NDArray], None],
) -> NDArray:
    """The array of this name, read-only and mapped; made by `fill` where there is none.

    Processes that make it at once do not disturb each other: the file appears when it is complete.

    Args:
        folder: local; each machine has its own.
        name: says what is in it, so that other content has another name.
        shape: of the array.
        dtype: of the array.
        fill: writes all of an array that is empty.
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
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    assert found.shape == shape, (path, found.shape, shape)
    return found
