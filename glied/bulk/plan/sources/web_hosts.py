"""Reading from web hosts that are not ours: asking again, waiting as told, remembering which are dead.

A host that fails costs its rows and never the run. Its failures have kinds of their own (`is_host_failure`),
and the rows are `failed`: `output.mode retry_failed` asks again. A process remembers which hosts could not be
reached, so that a dead host with a thousand images costs a few time-outs and not a thousand.
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
"""The name is unknown, or nobody takes the connection."""
TIMEOUT = "timeout"
"""No connection, no answer or no end of it in time."""
TLS_FAILED = "tls_failed"
"""The certificate is not valid, or there is no common protocol."""
CONNECTION_LOST = "connection_lost"
"""The connection ended before the answer did: a reset, an empty answer, a body that is cut short."""
BAD_ANSWER = "bad_answer"
"""What came is no HTTP, or not compressed as it says."""
HTTP = "http_"
"""Followed by a status that another time may be different: 408, 425, 429 and those from 500 on."""
_KINDS = frozenset({UNREACHABLE, TIMEOUT, TLS_FAILED, CONNECTION_LOST, BAD_ANSWER})
BUSY = frozenset({"http_429", "http_503"})
"""A host that asks to be left alone for a while."""

UNREACHED = 3
"""A host that could not be reached so often, one time after the other, is given up for `GIVEN_UP_S`."""
UNANSWERED = 6
"""Likewise where it was reached, but said nothing, or only that it is busy."""
GIVEN_UP_S = 60.0
HOSTS = 10_000
"""Hosts that a process remembers."""
SPACING_S = 0.05
"""Time between two requests to a host that was busy, doubled each time that it still is."""
SLOWEST_S = 2.0
"""Longest such time."""


def is_host_failure(kind: str) -> bool:
    """Whether a kind of error is the failure of a web host, and neither ours nor the image's fault."""
    return kind in _KINDS or kind.startswith(HTTP)


class HostError(Exception):
    """A web host failed; another time it may not.

    Attributes:
        kind: for the row, as `is_host_failure` knows it.
        reached: whether the host took the connection.
        host: name and port of the host that failed; after a redirect it is another one than the URL's.
        reached: whether the host took the connection.
        retry_after_s: how long the host asks to be left alone, 0 if it does not say.
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
    """A host is not asked for the time being; kind and message are those of its last failure."""


@dataclass
class _Host:
    """What is remembered of a host; times are monotonic."""

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
        """Nothing yet."""
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    def check(self, host: str) -> None:
        """Raise GivenUp where a host is not to be asked."""
        with self._lock:
            known = self._hosts.get(host)
            if known and known.failure and time.monotonic() < known.given_up_until:
                last = known.failure
                raise GivenUp(last.kind, f"{last.message} (several times; not asked again)", host=host)

    def wait_s(self, host: str, longest_s: float) -> float:
        """Seconds until the host may be asked next, at most `longest_s`; that moment is taken."""
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
            began: when the request did; of several at once only one counts.
            longest_s: for at most so long the host is left alone if it asks for that.
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
    """That of a run in this process, however often its reader is sent here."""
    return Memory()


class Reader(Protocol):
    """Asks a web host once; `WebReader`."""

    def read(self, url: str, max_bytes: int | None = None) -> bytes:
        """The body behind a URL; raises ImageError, or HostError where it may succeed later."""
        ...


@dataclass(frozen=True, kw_only=True)
class PatientReader:
    """Reads from web hosts, several times if need be; safe to share between threads and to pickle.

    Attributes:
        reader: asks once.
        attempts: how often an image is asked for; after a time-out once more at most.
        pause_s: seconds before the second attempt, doubled for each further one.
        retry_after_s: longest pause that a host may ask for (Retry-After).
        run: readers of one run share in a process what they know of the hosts.
    """

    reader: Reader
    attempts: int = 3
    pause_s: float = 0.5
    retry_after_s: float = 30.0
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    def read(self, url: str, *, max_bytes: int, slot: AbstractContextManager[object]) -> bytes:
        """The body behind a URL; `slot` is held while a host is asked, and not while it is waited for.

        Raises:
            ImageError: another attempt is pointless.
            HostError: the host failed each time, or is given up for the time being.
        """
        host = _host(url)
        memory = self.memory
        attempt = 0
        while True:
            attempt += 1
            # A host may be busy and ask for the longest pause: its turn comes somewhat later.
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
        """What this process knows of the hosts of the run."""
        return _memory(self.run)

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


def _host(url: str) -> str:
    """Name and port of a URL's host; the URL itself if it is no valid one."""
    try:
        return urllib.parse.urlsplit(url).netloc.lower()
    except ValueError:
        return url
