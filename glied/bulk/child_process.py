"""Calls in a subprocess, for libraries that would stay in memory or that may crash the process."""

import multiprocessing
import pickle
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar, cast

from glied.errors import JobError

T = TypeVar("T")


def in_child(function: Callable[[], T], *, purpose: str, longest_s: float | None = None) -> T:
    """Call a function in a new process and return or raise what it does; everything must be picklable.

    Args:
        function: what to call.
        purpose: what the process does, for the error message.
        longest_s: seconds that it may take; None for no limit.

    Raises:
        JobError: the process died, or took too long.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(function, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(longest_s):
            raise JobError(f"the process that {purpose} took longer than {longest_s:.0f} s")
        value, error = pickle.loads(receiver.recv_bytes())
    except EOFError as ended:
        raise JobError(f"the process that {purpose} died, maybe for lack of memory") from ended
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    return cast(T, value)


def _call(function: Callable[[], object], sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the parent ends it
    try:
        outcome: tuple[object, Exception | None] = function(), None
    except Exception as error:
        outcome = None, error
    sender.send_bytes(pickle.dumps(outcome))
