"""Joins the Ray cluster that a job was submitted to, or starts one on this machine."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glied.cluster_runtime.ray_output import Batch, quiet_start, shown
from glied.config import ending

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 512 << 20
_died = threading.Event()
"""Set once the node has died, which cannot be seen any more when Ray has been shut down."""
START_ATTEMPTS = 3
"""Ray gives a node 30 seconds, which a busy machine may need more than once."""


def start(
    *,
    workers: int = 1,
    cpus: int | None = None,
    gpus: int | None = None,
    object_store_bytes: int = OBJECT_STORE_BYTES,
) -> None:
    """Connects this process to Ray; does nothing when it is connected already.

    With `RAY_ADDRESS` set (as `ray job submit` does) it joins that cluster. Otherwise it starts a local one
    on the loopback interface with `cpus` logical CPUs, by default the cores of this machine and at least
    `workers` + 2, so that data tasks find a free CPU while `workers` long-lived actors hold one each. `gpus`
    is detected by default.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = not os.environ.get("RAY_ADDRESS")
    if local:
        _prepare_local_environment()  # Ray reads some of it when it is imported
    import ray

    if ray.is_initialized():
        return
    _died.clear()
    with _own_sigterm():
        _connect(local, cpus or max(os.cpu_count() or 1, workers + 2), gpus, object_store_bytes)
    _print_nothing_of_the_dead()


def _connect(local: bool, cpus: int, gpus: int | None, object_store_bytes: int) -> None:
    import ray

    if not local:
        with quiet_start():
            ray.init(logging_level=logging.WARNING)
        return
    # Ray read the environment when it was imported, maybe before us: processes must agree on the loopback
    # address.
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            with quiet_start():
                ray.init(
                    address="local",  # never a cluster that somebody else left running on this machine
                    num_cpus=cpus,
                    num_gpus=gpus,
                    object_store_memory=object_store_bytes,
                    include_dashboard=False,
                    logging_level=logging.WARNING,
                )
            return
        except Exception as error:  # Ray raises bare exceptions here
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS:
                raise
            log.warning("Ray did not start within its 30 seconds, attempt %d of %d", attempt, START_ATTEMPTS)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, if it has one: Ray's prints a stack of C++ and aborts."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _print_nothing_of_the_dead() -> None:
    """Have Ray not print what a dying node or an ended job leaves: its raylet's log, stacks of workers.

    The job says in one line what ended it. Ray (2.60) has no switch for it.
    """
    import ray

    print_lines = ray._private.worker.print_worker_logs

    def print_living(batch: Batch, *arguments: Any) -> None:
        lines = shown(batch)  # errors that Ray publishes come here without having been filtered
        if lines and not ending.is_set() and not node_is_dead():
            print_lines({**batch, "lines": lines}, *arguments)

    ray._private.worker.print_worker_logs = print_living


def node_is_dead() -> bool:
    """Whether the raylet or the GCS of the local cluster that this process has started has died.

    Ray (2.60) has no public call for it. It notices itself, after many errors, and then ends this process.
    """
    import ray

    node = ray._private.worker._global_node
    dead = [] if node is None else [kind for kind, _ in node.dead_processes()]
    if not {"raylet", "gcs_server"}.isdisjoint(dead):
        _died.set()
    return _died.is_set()


def _prepare_local_environment() -> None:
    """Sets what the processes of a local cluster inherit from this one."""
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # binds to 127.0.0.1 only
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # silences a deprecation notice per worker
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    root = str(Path(__file__).resolve().parents[2])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root not in paths:  # workers find the package also where it is not installed
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, paths)])
