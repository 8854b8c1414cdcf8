"""Returns memory of a stream's processes to the system."""

import ctypes
from contextlib import suppress
from functools import cache

import pyarrow as pa

LARGE_CHUNK = 4 << 20
"""Bytes of a chunk after which a process returns its memory, which costs a small one too much."""
M_MMAP_THRESHOLD = -3
"""Its number in malloc.h."""


@cache
def use_malloc(*, keep_large: bool) -> None:
    """Have Arrow allocate with malloc in this process; its own allocator keeps the memory of large chunks.

    Without `keep_large` blocks above 1 MB go back to the system as soon as they are freed. Models would pay
    too much for fresh pages, so their processes keep them, and return what is left after a large chunk.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    if not keep_large:
        with suppress(OSError, AttributeError):  # glibc only
            ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 1 << 20)


def release(size: int) -> None:
    """Return the memory of a large chunk to the system."""
    if size >= LARGE_CHUNK:
        with suppress(OSError, AttributeError):  # glibc only
            ctypes.CDLL("libc.so.6").malloc_trim(0)
