"""Background uploads during training: one at a time, with retries."""

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
    """Lets the training start an upload when the previous one has ended."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s`: longest wait for an upload."""
        self._timeout_s = timeout_s
        self._idle = threading.Event()
        self._idle.set()

    def begin(self) -> None:
        """Waits for the previous upload and marks a new one as running; raises as `settle`."""
        self.settle()
        self._idle.clear()

    def settle(self) -> None:
        """Waits until no upload is running.

        Raises:
            JobError: that took too long.
        """
        if not self._idle.wait(self._timeout_s):
            raise JobError(
                f"a checkpoint's upload has not ended in {self._timeout_s:g} s: is the storage up?"
            )

    def carry_out(self, name: str, put: Callable[[], T]) -> T:
        """Runs the upload in the calling thread; failures are logged and retried, the last one is raised."""

        def log_failure(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            logger.warning(
                "%s could not be uploaded (%s), attempt %d of %d",
                name, " ".join(str(error).split()) or type(error).__name__, state.attempt_number, ATTEMPTS,
            )  # fmt: skip

        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
            after=log_failure,
            reraise=True,
        )
        try:
            return attempts(put)
        finally:
            self._idle.set()
