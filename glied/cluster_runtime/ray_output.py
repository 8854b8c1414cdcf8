"""Which of Ray's output reaches a terminal: what this project's workers say, and what a person can act on.

The rest stays in Ray's log files, in session_latest/logs of its temporary folder (RAY_TMPDIR). Nothing here
changes what Ray does.
"""

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from glied.config import ending

_INTERNAL = re.compile(
    r"TrainController|PlacementGroupCleaner|PreemptionWatcher|\w*StatsActor|\w*Autoscaling\w*|SplitCoordinator"
)
"""Ray's own actors. What is wrong with a job is raised in the driver as well."""
_OURS = "RayTrainWorker"
"""Actors of which the lines are shown as they are, for they are this project's log."""
_NOISE = re.compile(
    r"Progress bars disabled\. To enable"
    r"|Reporting training result \d+"
    r"|has constructor arguments in the object store and max_restarts > 0"
    r"|Token authentication is (?:en|dis)abled"
    r"|Found credentials in"
    r"|^Raylet is terminated\. "  # with the end of its log; a job says itself that the node died, or goes on
)
_LOGGERS = {
    "ray._private.authentication.authentication_token_setup": logging.ERROR,  # that there is a token
    "ray.data._internal.progress": logging.ERROR,  # that there are no progress bars
}
_CORE_LEVEL = "RAY_BACKEND_LOG_LEVEL"
_PRINTER = "ray_print_logs"

Batch = Mapping[str, Any]


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """While Ray starts: no notices, and none of the lines that its core writes to this process's stderr."""
    for name, level in _LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    from ray._private import worker

    connect = worker.connect

    def connect_quietly(*args: Any, **kwargs: Any) -> Any:
        # The core reads its level here, after the processes of a local cluster have read theirs.
        if _CORE_LEVEL in os.environ:
            return connect(*args, **kwargs)
        os.environ[_CORE_LEVEL] = "fatal"
        try:
            with _held_back_stderr():  # of which the core makes a line
                return connect(*args, **kwargs)
        finally:
            del os.environ[_CORE_LEVEL]

    worker.connect = connect_quietly
    try:
        yield
        _filter_workers()
    finally:
        worker.connect = connect


@contextlib.contextmanager
def _held_back_stderr() -> Iterator[None]:
    """What this process writes to stderr, native code included, is shown only where it fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _filter_workers() -> None:
    """Shows of the workers' output what `shown` lets through."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    printer = dict(dispatcher.handlers).get(_PRINTER)
    if printer is None:
        return
    dispatcher.remove_handler(_PRINTER)
    dispatcher.add_handler(_PRINTER, lambda batch: _print(batch, printer))


def _print(batch: Batch, printer: Callable[[Batch], None]) -> None:
    lines = shown(batch)
    if not lines or ending.is_set():
        return
    if _OURS in (batch.get("actor_name") or ""):
        print("\n".join(lines), file=sys.stderr if batch.get("is_err") else sys.stdout, flush=True)
    else:
        printer({**batch, "lines": lines})


def shown(batch: Batch) -> list[str]:
    """The lines of a batch of a worker's output that are for people."""
    if _INTERNAL.fullmatch(batch.get("actor_name") or ""):
        return []
    return [line for line in batch.get("lines", []) if not _NOISE.search(line)]
