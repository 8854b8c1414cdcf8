import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from glied.training import batching


def test_workers_divide_the_batches_of_one_worker() -> None:
    def batches(rank: int, world: int, skip: int = 0) -> list[np.ndarray]:
        settings = {
            "seed": 1,
            "epoch": 2,
            "rank": rank,
            "world": world,
            "batch_size": 4,
            "skip_batches": skip,
        }
        return list(batching.table_indices(11, **settings))

    alone, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    assert len(alone) == len(first) == len(second) == 2
    for one, left, right in zip(alone, first, second, strict=True):
        assert one.tolist() == [*left, *right]
    assert batches(0, 1, skip=1)[0].tolist() == alone[1].tolist()
    assert len({int(i) for batch in alone for i in batch}) == 8


def test_epochs_differ_and_repeat_by_seed() -> None:
    first, again, other = (batching.permutation(50, 0, "epoch", epoch).tolist() for epoch in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("world", [1, 2, 3])
def test_file_ranges_are_equal_and_disjoint(world: int) -> None:
    counts = [5, 0, 1, 9, 4]
    seen = []
    for rank in range(world):
        ranges = batching.file_ranges(counts, seed=3, epoch=1, rank=rank, world=world)
        rows = [(file, row) for file, first, last in ranges for row in range(first, last)]
        assert len(rows) == 19 // world
        seen += rows
    assert len(set(seen)) == len(seen)
    assert batching.file_ranges(counts, seed=None, epoch=0, rank=0, world=1) == [
        (0, 0, 5), (2, 0, 1), (3, 0, 9), (4, 0, 4)
    ]  # fmt: skip


def test_shuffle_buffer_is_deterministic_and_complete() -> None:
    first = list(batching.shuffled(range(100), buffer_size=10, seed=4))
    assert sorted(first) == list(range(100))
    assert first != list(range(100))
    assert first == list(batching.shuffled(range(100), buffer_size=10, seed=4))
    assert first != list(batching.shuffled(range(100), buffer_size=10, seed=5))
    assert sorted(batching.shuffled(range(3), buffer_size=10, seed=0)) == [0, 1, 2]


def test_batches() -> None:
    assert list(batching.batched(range(5), 2, drop_last=False)) == [[0, 1], [2, 3], [4]]
    assert list(batching.batched(range(5), 2, drop_last=True)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("threads", [1, 3])
def test_ordered_map_keeps_the_order(threads: int) -> None:
    def slow(value: int) -> int:
        time.sleep(0.002 * (value % 3))
        return value * value

    assert list(batching.ordered_map(slow, range(20), threads=threads)) == [v * v for v in range(20)]


def test_prefetch_runs_ahead_and_stops_when_closed() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for value in range(1000):
            taken.append(value)
            yield value

    stream = batching.prefetched(source(), depth=3)
    assert next(stream) == 0
    time.sleep(0.1)
    assert 3 <= len(taken) <= 5
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_raises_in_place_of_the_item() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise KeyError("lost")

    stream = batching.prefetched(source(), depth=2)
    assert next(stream) == 1
    with pytest.raises(KeyError, match="lost"):
        next(stream)
