"""Reading from the web hosts that a table names: retries, pauses that hosts request, and dead hosts.

A failing host affects its rows and never the run. Its failures have kinds of their own (`is_host_failure`),
and the rows are `failed`: `output.mode retry_failed` repeats them. A process remembers which hosts could not
be reached, so that a dead host with a thousand images costs a few timeouts and not a thousand.
"""

import functools
import random
import threading
import time
import urllib.parse
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from glied.errors import ImageError

UNREACHABLE = "unreachable"
"""The name is unknown, or the connection is refused."""
TIMEOUT = "timeout"
"""The connection, the answer or its end did not come in time."""
TLS_FAILED = "tls_failed"
"""The certificate is not valid, or TLS failed otherwise."""
CONNECTION_LOST = "connection_lost"
"""The connection ended before the answer did: a reset, an empty answer, a truncated body."""
BAD_ANSWER = "bad_answer"
"""The answer is not HTTP, or not compressed in the way that it says."""
HTTP = "http_"
"""Followed by a status that may change: 408, 425, 429 and those from 500 on."""
_KINDS = frozenset({UNREACHABLE, TIMEOUT, TLS_FAILED, CONNECTION_LOST, BAD_ANSWER})
BUSY = frozenset({"http_429", "http_503"})
"""Kinds by which a host asks for a pause."""

UNREACHED = 3
"""A host that could not be reached this often in a row is not contacted for `GIVEN_UP_S`."""
UNANSWERED = 6
"""The same for a host that was reached, but did not answer, or was busy."""
GIVEN_UP_S = 60.0
HOSTS = 10_000
"""Hosts that a process remembers."""
SPACING_S = 0.05
"""Seconds between two requests to a host that was busy, doubled each time it is busy again."""
SLOWEST_S = 2.0
"""The longest such time."""


def is_host_failure(kind: str) -> bool:
    """Whether a kind of error is the failure of a web host, and not of the run's storage or the image."""
    return kind in _KINDS or kind.startswith(HTTP)


class HostError(Exception):
    """A web host failed; a later attempt may succeed.

    Attributes:
        kind: of the row's error; see `is_host_failure`.
        host: name and port of the host that failed; after a redirect it may not be the one of the URL.
        reached: whether the host accepted the connection.
        retry_after_s: the pause that the host requests, 0 if it does not.
    """

    def __init__(
        self, kind: str, message: str, *, host: str, reached: bool = True, retry_after_s: float = 0.0
    ) -> None:
        """Name the kind of failure and describe it."""
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.host = host
        self.reached = reached
        self.retry_after_s = retry_after_s


class GivenUp(HostError):
    """A host is not contacted for a while; kind and message are those of its last failure."""


@dataclass
class _Host:
    """What is known of a host; times are monotonic."""

    failure: HostError | None = None
    counted_at: float = 0.0
    unreached: int = 0
    unanswered: int = 0
    given_up_until: float = 0.0
    next_at: float = 0.0
    spacing: float = 0.0


class Memory:
    """What a process knows of the hosts that a run names; safe to share between threads."""

    def __init__(self) -> None:
        """Starts empty."""
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    def check(self, host: str) -> None:
        """Raise GivenUp if a host is not to be contacted."""
        with self._lock:
            known = self._hosts.get(host)
            if known and known.failure and time.monotonic() < known.given_up_until:
                last = known.failure
                raise GivenUp(last.kind, f"{last.message} (several times; not contacted again)", host=host)

    def wait_s(self, host: str, longest_s: float) -> float:
        """Reserve the next request to the host; returns the seconds to wait for it, at most `longest_s`."""
        now = time.monotonic()
        with self._lock:
            known = self._hosts.get(host)
            if known is None:
                return 0.0
            start = min(max(now, known.next_at), now + longest_s)
            known.next_at = start + known.spacing
            return start - now

    def succeeded(self, host: str) -> None:
        """Remember that a host has answered."""
        with self._lock:
            if known := self._hosts.get(host):
                known.failure = None
                known.unreached = known.unanswered = 0
                known.spacing = 0.9 * known.spacing if known.spacing > 0.01 else 0.0

    def failed(self, failure: HostError, *, began: float, longest_s: float = 0.0) -> None:
        """Remember how a request failed.

        Args:
            failure: names the host.
            began: when the request began; of simultaneous failures only one counts.
            longest_s: the longest pause that is granted if the host requests one.
        """
        now = time.monotonic()
        with self._lock:
            if failure.host not in self._hosts and len(self._hosts) >= HOSTS:
                self._hosts.clear()
            known = self._hosts.setdefault(failure.host, _Host())
            known.failure = failure
            if began < known.counted_at:
                return
            known.counted_at = now
            busy = failure.kind in BUSY
            known.unreached = 0 if failure.reached else known.unreached + 1
            known.unanswered = known.unanswered + 1 if busy or failure.kind == TIMEOUT else 0
            if busy:
                known.spacing = min(SLOWEST_S, max(SPACING_S, 2 * known.spacing))
                pause = max(known.spacing, min(failure.retry_after_s, longest_s))
                known.next_at = max(known.next_at, now + pause)
            if known.unreached >= UNREACHED or known.unanswered >= UNANSWERED:
                known.given_up_until = now + GIVEN_UP_S


@functools.lru_cache(maxsize=4)
def _memory(run: str) -> Memory:
    """The memory of a run in this process, shared by all copies of its reader."""
    return Memory()


class Reader(Protocol):
    """Makes one request to a web host; see `WebReader`."""

    def read(self, url: str, max_bytes: int | None = None) -> bytes:
        """The body behind a URL; raises ImageError, or HostError if a later attempt may succeed."""
        ...


@dataclass(frozen=True, kw_only=True)
class PatientReader:
    """Reads from web hosts with retries; safe to share between threads and to pickle.

    Attributes:
        reader: makes one request.
        attempts: how often an image is requested at most; after a timeout only once more.
        pause_s: seconds before the second attempt, doubled for each further one.
        retry_after_s: longest pause that a host may request (Retry-After).
        run: id; readers of one run share their memory of hosts in a process.
    """

    reader: Reader
    attempts: int = 3
    pause_s: float = 0.5
    retry_after_s: float = 30.0
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    def read(self, url: str, *, max_bytes: int, slot: AbstractContextManager[object]) -> bytes:
        """The body behind a URL; `slot` is held during requests, but not during pauses.

        Raises:
            ImageError: another attempt is pointless.
            HostError: the host failed each time, or is not contacted for a while.
        """
        host = _host(url)
        memory = self.memory
        attempt = 0
        while True:
            attempt += 1
            # A busy host may request the longest pause, and its requests are spaced in addition.
            self._wait(memory.wait_s(host, self.retry_after_s + SLOWEST_S))
            try:
                with slot:
                    memory.check(host)
                    began = time.monotonic()
                    data = self.reader.read(url, max_bytes)
                memory.succeeded(host)
                return data
            except GivenUp:
                raise
            except HostError as error:
                memory.failed(error, began=began, longest_s=self.retry_after_s)
                if attempt >= (min(2, self.attempts) if error.kind == TIMEOUT else self.attempts):
                    raise
            except ImageError:
                memory.succeeded(host)
                raise
            self._wait(self.pause_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))

    @property
    def memory(self) -> Memory:
        """The memory of the run's hosts in this process."""
        return _memory(self.run)

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


def _host(url: str) -> str:
    """Name and port of a URL's host; the URL itself if it is not valid."""
    try:
        return urllib.parse.urlsplit(url).netloc.lower()
    except ValueError:
        return url
