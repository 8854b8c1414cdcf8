"""Concurrent calls whose answers come in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

IN_FLIGHT = 16


class InOrder(Protocol):
    """Calls a function with items, several at a time, as `in_order` does."""

    def __call__(self, function: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
        """Answers in the order of the items."""
        ...


def in_order(
    function: Callable[[Item], Answer], items: Iterable[Item], in_flight: int = IN_FLIGHT
) -> Iterator[Answer]:
    """Answers in the order of the items, `in_flight` calls at once; items are taken as they are needed."""
    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(in_flight) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= in_flight:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def call(function: Callable[[Item], Answer], item: Item) -> Answer:
    """The function of a Ray task; defined here because a worker imports the module of its task."""
    return function(item)
