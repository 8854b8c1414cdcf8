"""How large the cluster is that a job runs on."""

import os
from dataclasses import dataclass

from glied.cluster_runtime import ray_start


@dataclass(frozen=True)
class ClusterSize:
    """Logical CPUs and GPUs of all nodes together."""

    cpus: int
    gpus: int


def cluster_size() -> ClusterSize:
    """The size of the cluster that `RAY_ADDRESS` names, or of one that is started on this machine."""
    ray_start.start()
    import ray

    found = ray.cluster_resources()
    cpus = max(1, int(found.get("CPU", 1)))
    if not os.environ.get("RAY_ADDRESS"):
        cpus = min(cpus, len(os.sched_getaffinity(0)))  # Ray was given more, so that data tasks find one free
    return ClusterSize(cpus, int(found.get("GPU", 0)))
