"""From rows to batches: order, shuffle buffer, batching, background collation. Plain Python, no Ray.

Every function is deterministic given its seed, and every stream can be entered at any batch, so that a
resumed run sees the batches an uninterrupted one would have seen.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from glied.training.steps import fold_seed

T = TypeVar("T")
S = TypeVar("S")


def permutation(count: int, *seed: int | str) -> np.ndarray:
    """Returns a permutation of `range(count)` as int64 `[count]`, the same for the same seed values."""
    return np.random.default_rng(fold_seed(*seed)).permutation(count)


def table_indices(
    count: int, *, seed: int, epoch: int, rank: int, world: int, batch_size: int, skip_batches: int = 0
) -> Iterator[np.ndarray]:
    """Yields the row numbers of one worker's batches `[batch_size // world]` for one epoch over a table.

    All workers divide the same permutation, so their batches of one step together are the batch one worker
    alone would take. Incomplete last batches are dropped: each worker gets exactly `count // batch_size`
    batches.
    """
    order = permutation(count, seed, "epoch", epoch)
    share = batch_size // world
    for step in range(skip_batches, count // batch_size):
        start = step * batch_size + rank * share
        yield order[start : start + share]


def file_ranges(
    counts: Sequence[int], *, seed: int | None, epoch: int, rank: int, world: int
) -> list[tuple[int, int, int]]:
    """Splits files among workers by rows; returns (file, first row, last row exclusive) for one of them.

    `counts` are the rows of each file. The files are shuffled by (seed, epoch), or kept in order where `seed`
    is None, and their rows, laid end to end, are divided into `world` ranges of equal length; a remainder is
    dropped.
    """
    files = range(len(counts)) if seed is None else permutation(len(counts), seed, "files", epoch).tolist()
    share = sum(counts) // world
    start, stop = rank * share, (rank + 1) * share
    ranges, position = [], 0
    for file in files:
        first, last = max(start - position, 0), min(stop - position, counts[file])
        if first < last:
            ranges.append((file, first, last))
        position += counts[file]
    return ranges


def shuffled(rows: Iterable[T], *, buffer_size: int, seed: int) -> Iterator[T]:
    """Yields all rows in random order, drawn from a buffer of `buffer_size` rows; the seed fixes the order.

    Ray Data's own `local_shuffle_buffer_size` can deadlock data-parallel workers (ray#66085).
    """
    random = np.random.default_rng(seed)
    buffer: list[T] = []
    for row in rows:
        if len(buffer) < buffer_size:
            buffer.append(row)
            continue
        index = int(random.integers(buffer_size))
        yield buffer[index]
        buffer[index] = row
    for index in random.permutation(len(buffer)):
        yield buffer[index]


def batched(rows: Iterable[T], size: int, *, drop_last: bool) -> Iterator[list[T]]:
    """Yields lists of `size` rows; the last may be shorter unless `drop_last`."""
    batch: list[T] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch and not drop_last:
        yield batch


def ordered_map(function: Callable[[T], S], items: Iterable[T], *, threads: int) -> Iterator[S]:
    """Yields `function(item)` in order, computed by `threads` threads, at most 2 items each ahead."""
    if threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="collate") as pool:
        pending: deque[Future[S]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class _End:
    """Marks the end of a prefetched stream; carries the exception that ended it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetched(items: Iterable[T], *, depth: int) -> Generator[T, None, None]:
    """Yields the items while one background thread stays up to `depth` items ahead.

    An exception of the stream is raised here, where its item would have come. Closing the generator stops the
    thread.
    """
    ready: queue.Queue[T | _End] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: T | _End) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def fill() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_End())
        except BaseException as error:
            put(_End(error))

    thread = threading.Thread(target=fill, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stopped.set()
        thread.join(timeout=10)
