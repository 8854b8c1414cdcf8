"""One command at a time works on an output folder: a file there names it and is renewed while it lives."""

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from glied import storage
from glied.errors import JobError
from glied.teach.repeating import repeated

log = logging.getLogger(__name__)

RENEWED_S = 15.0
"""Seconds between two renewals."""
_PATIENCE = 3.0
"""Renewals that a command that cannot be looked at may miss before it counts as dead."""


@dataclass(frozen=True)
class _Holder:
    """The command that works on a folder.

    Attributes:
        token: names it.
        host, pid: where it runs.
        renewals: how often it has written this; no clocks of different machines are compared.
        processes: names the processes among which `pid` is one: boot and PID namespace; "" if not known.
        started: when its process started, in ticks since the boot; "" if not known.
    """

    token: str
    host: str
    pid: int
    renewals: int = 0
    processes: str = ""
    started: str = ""

    @classmethod
    def here(cls) -> "_Holder":
        """This process."""
        pid = os.getpid()
        return cls(
            uuid.uuid4().hex, socket.gethostname(), pid, processes=_processes(), started=_started(pid) or ""
        )

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @property
    def is_dead(self) -> bool | None:
        """Whether it ran among the processes here and does so no more; None where it cannot be known."""
        if (self.host, self.processes) != (socket.gethostname(), _processes()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        if self.pid == os.getpid():  # of an earlier process: this one has another token
            return True
        return _started(self.pid) != self.started if self.started else None


def _processes() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process started; None for one that has ended or where it cannot be known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]  # fields 3 and 22 of proc_pid_stat(5)


@contextmanager
def held(output: str, *, renewed_s: float = RENEWED_S) -> Iterator[None]:
    """Work on `output` alone, also against commands on other machines.

    A command that was killed leaves its file: among the same processes it does not count, elsewhere it counts
    until it has not been renewed for 45 s. A command that was suspended for so long and finds that another
    has begun ends.

    Raises:
        JobError: another command works there.
    """
    lock = _Lock(storage.join(output, "steps", "running.json"), _Holder.here())
    if not storage.put_if_absent(lock.uri, lock.own.to_bytes()):
        _take_over(lock.uri, lock.own, renewed_s)
    try:
        with repeated(lock.renew, every_s=renewed_s):
            yield
        lock.check()
    except KeyboardInterrupt:
        lock.check()
        raise
    finally:
        lock.release()


class _Lock:
    """The file of the command that runs in this thread."""

    def __init__(self, uri: str, own: _Holder) -> None:
        self.uri, self.own = uri, own
        self._lost_to: _Holder | None = None
        self._worker = threading.current_thread()

    def _other(self) -> _Holder | None:
        now = _read(self.uri)
        return now if now is not None and now.token != self.own.token else None

    def renew(self) -> None:
        """Write the file again; end the command, once, where it is another's."""
        if self._lost_to is not None:
            return
        self._lost_to = self._other()
        if self._lost_to is not None:
            _interrupt(self._worker)
            return
        self.own = replace(self.own, renewals=self.own.renewals + 1)
        storage.write_bytes(self.uri, self.own.to_bytes())

    def check(self) -> None:
        """Raise JobError where another command has taken over."""
        if self._lost_to is not None:
            raise JobError(
                f"{self.uri}: another command has taken over this output, process {self._lost_to.pid} on "
                f"{self._lost_to.host}, while this one was suspended or could not write there"
            )

    def release(self) -> None:
        """Delete the file where it is this command's."""
        if self._lost_to is None and self._other() is None:
            storage.delete(self.uri)


def _interrupt(worker: threading.Thread) -> None:
    """Raise KeyboardInterrupt in the main thread, where it is the worker, by a signal that is not ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if worker is threading.main_thread() and callable(signal.getsignal(number)):
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            return


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
    """Raise JobError for a command that lives; wait for a renewal of one that cannot be looked at."""
    working = (
        f"{uri}: another command works on this output, process {other.pid} on {other.host}. Wait for it or "
        "end it: the same command then goes on"
    )
    if other.is_dead is False:
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
