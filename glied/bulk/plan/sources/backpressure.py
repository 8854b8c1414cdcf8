"""Limits on how many rows are read at once and how much of what was read waits."""

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass


class Gate:
    """Lets at most `threads` rows be read at once, and none ahead of time while `size` bytes wait.

    Rows are numbered in the order in which the consumer takes them.
    """

    def __init__(self, threads: int, size: int) -> None:
        self._threads = threads
        self._size = size
        self._reading = 0
        self._held = 0
        self._turn = 0
        self._changed = threading.Condition()

    def enter(self, number: int) -> None:
        """Wait until the row may be read."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_open(number))
            self._reading += 1

    def leave(self) -> None:
        """Reading a row has ended."""
        with self._changed:
            self._reading -= 1
            self._changed.notify_all()

    def hold(self, size: int) -> None:
        """So many bytes more wait for the consumer; negative when it takes them."""
        with self._changed:
            self._held += size
            self._changed.notify_all()

    def turn(self, number: int) -> None:
        """The consumer waits for the row with this number, which may always be read."""
        with self._changed:
            self._turn = number
            self._changed.notify_all()

    def _is_open(self, number: int) -> bool:
        return self._reading < self._threads and (self._held < self._size or number <= self._turn)


@dataclass(frozen=True)
class Slot(AbstractContextManager[None]):
    """Held while a row is read; may be taken several times, one after the other."""

    gate: Gate
    number: int

    def __enter__(self) -> None:
        self.gate.enter(self.number)

    def __exit__(self, *_: object) -> None:
        self.gate.leave()
