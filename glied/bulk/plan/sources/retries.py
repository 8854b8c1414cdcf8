"""Reading from the run's own storage: a bounded number of attempts, and a bounded time."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

import pyarrow as pa

from glied.errors import ImageError

T = TypeVar("T")


class Unreadable(Exception):
    """The storage did not deliver in the allowed number of attempts."""


def retried(read: Callable[[], T], *, attempts: int, pause_s: float) -> T:
    """The result of `read`, repeated if the storage fails.

    Args:
        read: reads a file.
        attempts: how often it is called at most.
        pause_s: seconds before the second attempt, doubled for each further one.

    Raises:
        FileNotFoundError: there is no such file.
        Unreadable: it failed each time.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return read()
        except (FileNotFoundError, ImageError, pa.ArrowException):
            raise
        except Exception as error:  # the exceptions of storage clients have no common base
            # Waiting for a storage that does not answer takes long: try it less often.
            silent = isinstance(error.__cause__ or error, TimeoutError)
            if attempt >= (min(2, attempts) if silent else attempts):
                message = " ".join(str(error).split()) or type(error).__name__
                raise Unreadable(f"not readable in {attempt} attempts: {message}") from error
        time.sleep(pause_s * 2 ** (attempt - 1))


def within(seconds: float, read: Callable[[], T]) -> T:
    """The result of `read`, which is abandoned if it takes longer.

    Raises:
        Unreadable: it takes longer.
    """
    future: Future[T] = Future()

    def settle() -> None:
        try:
            future.set_result(read())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=settle, name="read", daemon=True).start()
    if not wait([future], timeout=seconds).done:
        raise Unreadable(f"not read within {seconds:g} s")
    return future.result()
