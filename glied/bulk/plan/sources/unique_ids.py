"""Finding duplicate ids, with 16 bytes of memory per id."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.void]


class Unique:
    """A growing set of ids: sorted arrays of their 128-bit digests, merged when their sizes are similar.

    A hundred million ids take 1.6 GB; a Python set of them would take over 10 GB.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self._levels: list[NDArray[np.bytes_]] = []

    def add(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Adds ids; [len(ids)] bool, True where an id occurs for the first time."""
        digests = np.array([_digest(one) for one in ids], dtype="S17")
        _, first = np.unique(digests, return_index=True)
        new = np.zeros(len(ids), dtype=bool)
        new[first] = True
        for level in self._levels:
            new &= ~_contains(level, digests)
        self._push(np.sort(digests[new]))
        return new

    def _push(self, digests: NDArray[np.bytes_]) -> None:
        while self._levels and len(self._levels[-1]) <= 2 * len(digests):
            digests = np.sort(np.concatenate([self._levels.pop(), digests]), kind="stable")
        if len(digests):
            self._levels.append(digests)


def _digest(one: str) -> bytes:
    """16 bytes and a terminator, since numpy drops trailing zeros."""
    return hashlib.blake2b(one.encode(errors="surrogateescape"), digest_size=16).digest() + b"."


def _contains(level: NDArray[np.bytes_], digests: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    places = np.searchsorted(level, digests)
    places[places == len(level)] = 0
    return level[places] == digests
