from pathlib import Path

import numpy as np
import pytest

from glied.data.array_cache import cached_array


def test_computed_once_and_read_only(tmp_path):
    calls = []

    def fill(array: np.ndarray) -> None:
        calls.append(array.shape)
        array[:] = np.arange(6).reshape(3, 2)

    folder = str(tmp_path / "cache")
    for _ in range(2):
        found = cached_array(folder, "numbers", shape=(3, 2), dtype=np.uint8, fill=fill)
        assert found.tolist() == [[0, 1], [2, 3], [4, 5]]
        assert not found.flags.writeable
    assert calls == [(3, 2)]


def test_a_failure_leaves_no_file(tmp_path):
    def fill(array: np.ndarray) -> None:
        array[0] = 1
        raise RuntimeError("broken image")

    with pytest.raises(RuntimeError, match="broken image"):
        cached_array(str(tmp_path), "numbers", shape=(3,), dtype=np.float32, fill=fill)
    assert list(Path(tmp_path).iterdir()) == []
