"""Work in a process of its own, for libraries that would stay in this one for good."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from glied.errors import JobError

T = TypeVar("T")


def in_child(function: Callable[[], T]) -> T:
    """What a function returns, or raises, when a new process calls it; all of it must be picklable.

    torch takes 450 MB of the process that imports it, and the driver of a run needs it only to look at the
    models once.

    Raises:
        JobError: the process died.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function).result()
        except BrokenProcessPool as error:
            raise JobError("the process that looks at the models died, maybe for lack of memory") from error
