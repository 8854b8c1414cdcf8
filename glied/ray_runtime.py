"""Joins the Ray cluster that a job was submitted to, or starts one on this machine."""

import logging
import os
import sys
from pathlib import Path

from glied.ray_output import quiet_start

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 512 << 20
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
                    num_cpus=cpus or max(os.cpu_count() or 1, workers + 2),
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


def _prepare_local_environment() -> None:
    """Sets what the processes of a local cluster inherit from this one."""
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # binds to 127.0.0.1 only
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # silences a deprecation notice per worker
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root not in paths:  # workers find the package also where it is not installed
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, paths)])
