"""One command at a time works on an output folder: a file there names it and is renewed while it lives."""

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from glied import storage
from glied.errors import JobError
from glied.teach.repeating import repeated

log = logging.getLogger(__name__)

RENEWED_S = 15.0
"""Seconds between two renewals."""
_PATIENCE = 3.0
"""Renewals that a command on another machine may miss before it counts as dead."""


@dataclass(frozen=True)
class _Holder:
    """The command that works on a folder.

    Attributes:
        token: names it.
        host, pid: where it runs.
        renewals: how often it has written this; no clocks of different machines are compared.
    """

    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    renewals: int = 0

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @property
    def is_dead(self) -> bool:
        """Whether it ran on this machine and does so no more; False where it cannot be known."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return self.pid == os.getpid()  # of an earlier process: this one has another token


@contextmanager
def held(output: str, *, renewed_s: float = RENEWED_S) -> Iterator[None]:
    """Work on `output` alone, also against commands on other machines.

    A command that was killed leaves its file: on the same machine it does not count, on another one it counts
    until it has not been renewed for 45 s.

    Raises:
        JobError: another command works there.
    """
    uri, own = storage.join(output, "steps", "running.json"), _Holder()
    if not storage.put_if_absent(uri, own.to_bytes()):
        _take_over(uri, own, renewed_s)
    count = 0

    def renew() -> None:
        nonlocal count
        count += 1
        storage.write_bytes(uri, _Holder(own.token, own.host, own.pid, count).to_bytes())

    try:
        with repeated(renew, every_s=renewed_s):
            yield
    finally:
        storage.delete(uri)


def _take_over(uri: str, own: _Holder, renewed_s: float) -> None:
    other = _read(uri)
    if other is not None and not other.is_dead:
        _refuse_living(uri, other, renewed_s)
    storage.write_bytes(uri, own.to_bytes())
    time.sleep(min(1.0, renewed_s))  # of two that take over at once, the last writer holds it
    now = _read(uri)
    if now is None or now.token != own.token:
        raise JobError(f"{uri}: another command has just begun to work there")


def _refuse_living(uri: str, other: _Holder, renewed_s: float) -> None:
    """Wait for a renewal of a command whose process cannot be looked at."""
    working = (
        f"{uri}: another command works on this output, process {other.pid} on {other.host}. Wait for it or "
        "end it: the same command then goes on"
    )
    if other.host == socket.gethostname():
        raise JobError(working)
    wait_s = _PATIENCE * renewed_s
    log.info("%s has worked here: waiting %.0f s to see whether it still does", other.host, wait_s)
    time.sleep(wait_s)
    now = _read(uri)
    if now is not None and now != other:
        raise JobError(working)


def _read(uri: str) -> _Holder | None:
    """Who holds it; None for a file that has gone or that nothing can be read from."""
    try:
        return _Holder(**json.loads(storage.read_bytes(uri)))
    except (FileNotFoundError, ValueError, TypeError):
        return None
