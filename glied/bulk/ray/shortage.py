"""Full object stores, detected in the log of Ray Data."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from glied.errors import JobError


class Shortage(logging.Handler):
    """Detects that the object store of a node was full, so that the lost images are not blamed.

    Ray Data (2.60) skips the errors of single tasks and reports them only in its log.
    """

    def __init__(self) -> None:
        """Start without a shortage."""
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
        """Check the exception of a log record."""
        self.note(record.exc_info[1] if record.exc_info else None)

    def note(self, error: BaseException | None) -> None:
        """Remember the error if it, or what caused it, is such a shortage."""
        while error is not None:
            if isinstance(error, (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError)):
                self.reason = str(error).splitlines()[0]
            error = getattr(error, "cause", None) or error.__cause__

    def check(self) -> None:
        """Raise if there was a shortage.

        Raises:
            JobError: there was a shortage.
        """
        if self.reason is not None:
            raise JobError(
                f"the object store of a node is full ({self.reason}): free its disk, where Ray keeps what "
                "memory does not hold, or give it a larger /dev/shm; the same command goes on"
            )
