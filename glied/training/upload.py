"""Uploads beside the training: one at a time; one that fails is told and tried again."""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

import tenacity

from glied.errors import JobError

ATTEMPTS = 5
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Uploads:
    """Lets the training begin an upload when the last one has ended."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s`: longest wait for an upload."""
        self._timeout_s = timeout_s
        self._idle = threading.Event()
        self._idle.set()

    def begin(self) -> None:
        """Waits for the last upload, and takes its place; raises as `settle`."""
        self.settle()
        self._idle.clear()

    def settle(self) -> None:
        """Waits until nothing is under way.

        Raises:
            JobError: that took too long.
        """
        if not self._idle.wait(self._timeout_s):
            raise JobError(
                f"a checkpoint's upload has not ended in {self._timeout_s:g} s: is the storage up?"
            )

    def carry_out(self, name: str, put: Callable[[], T]) -> T:
        """Does what was begun, in whatever thread; a failure is told and tried again, the last one raised."""

        def tell(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            logger.warning(
                "%s could not be uploaded (%s), attempt %d of %d",
                name, " ".join(str(error).split()) or type(error).__name__, state.attempt_number, ATTEMPTS,
            )  # fmt: skip

        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
            after=tell,
            reraise=True,
        )
        try:
            return attempts(put)
        finally:
            self._idle.set()
