"""Concurrent calls whose answers come in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

IN_FLIGHT = 16


class InOrder(Protocol):
    """Calls a function with items in parallel, as `in_order` does."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in the order of the items."""
        ...


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], in_flight: int = IN_FLIGHT
) -> Iterator[Result]:
    """Results in the order of the items, `in_flight` calls at once; items are consumed as needed."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(in_flight) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= in_flight:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def call(function: Callable[[Item], Result], item: Item) -> Result:
    """Call a function; Ray tasks run this, since a worker imports the module of its task."""
    return function(item)
