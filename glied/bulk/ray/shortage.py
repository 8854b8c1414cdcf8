"""A node without room for what travels: noticed in the log of Ray Data."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from glied.errors import JobError


class Shortage(logging.Handler):
    """Notes that a node had no room for what travels: the images of the lost chunks are not to blame.

    Ray Data (2.60) passes over the errors of single tasks and tells its log of them, nobody else.
    """

    def __init__(self) -> None:
        """None yet."""
        super().__init__(logging.ERROR)
        self.reason: str | None = None

    @classmethod
    @contextmanager
    def watched(cls) -> Iterator["Shortage"]:
        """Listen to the log of Ray Data."""
        shortage, logger = cls(), logging.getLogger("ray.data")
        logger.addHandler(shortage)
        try:
            yield shortage
        finally:
            logger.removeHandler(shortage)

    def emit(self, record: logging.LogRecord) -> None:
        """Look at the error that a record is about."""
        self.note(record.exc_info[1] if record.exc_info else None)

    def note(self, error: BaseException | None) -> None:
        """Remember the error if it, or what caused it, is such a shortage."""
        while error is not None:
            if isinstance(error, (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError)):
                self.reason = str(error).splitlines()[0]
            error = getattr(error, "cause", None) or error.__cause__

    def check(self) -> None:
        """Raise what was noted.

        Raises:
            JobError: there was a shortage.
        """
        if self.reason is not None:
            raise JobError(
                f"the object store of a node is full ({self.reason}): free its disk, where Ray keeps what "
                "memory does not hold, or give it a larger /dev/shm; the same command goes on"
            )
