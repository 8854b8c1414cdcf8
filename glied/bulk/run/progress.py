"""Progress of a run: a bar in a terminal, else a log line per interval."""

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger(__name__)

LOG_SECONDS = 10.0


class Progress:
    """Counts images; use it as a context manager."""

    def __init__(self, total: int, done: int) -> None:
        """`done` images of `total` were finished by earlier attempts."""
        self.total = total
        self.done = self.start = done
        self.started = self.logged = 0.0
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, unit="image", smoothing=0.1) if terminal else None

    def __enter__(self) -> "Progress":
        """Log how much earlier attempts have done."""
        if self.done and self.done < self.total:
            log.info("resuming: %d of %d images are done", self.done, self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def extend(self, images: int) -> None:
        """Add images that are retried to the total."""
        self.total += images
        if self.bar is not None:
            self.bar.total = self.total
            self.bar.refresh()

    def update(self, images: int) -> None:
        """Count images; shows them in the bar, or logs them when it is time."""
        self.done += images
        if self.bar is not None:
            self.bar.update(images)
            return
        now = time.monotonic()
        if not self.started:  # the rate excludes the start of the workers
            self.started, self.start, self.logged = now, self.done, now
        if now - self.logged >= LOG_SECONDS:
            self.logged = now
            rate = (self.done - self.start) / (now - self.started)
            left = (self.total - self.done) / rate
            log.info("%d of %d images, %.1f images/s, %.0f s left", self.done, self.total, rate, left)
