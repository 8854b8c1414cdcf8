"""Something that is done again and again beside the main work."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(action: Callable[[], object], *, every_s: float) -> Iterator[None]:
    """Call `action` in a thread of its own every so many seconds until the block ends.

    An error of it is left to the next call: what it writes is of use only while the work goes on.
    """
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(every_s):
            try:
                action()
            except Exception:  # a thread's traceback would only confuse
                continue

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
