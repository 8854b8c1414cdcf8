"""A stream on a cluster whose object store and disk are full; a program with its own Ray settings."""

import os
import sys
from pathlib import Path

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback only; read at the import

import numpy as np
import ray

from glied.bulk.config import RecoveryConfig, ResourcesConfig
from glied.bulk.items import ActorPoolSpec, Chunk
from glied.bulk.plan.manifest import planned
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.ray.stream import RayStream
from glied.errors import JobError
from tests.bulk.deadly import Deadly

STORE_BYTES = 80 << 20
FULL_DISK = {"automatic_object_spilling_enabled": False, "local_fs_capacity_threshold": 0.01}
"""Setting that makes Ray treat the disk as full."""


def main(folder: Path) -> None:
    """Fill the store, send 5 chunks of 8 MB through a stream, and print the result."""
    names = [str(folder / f"{number}.jpg") for number in range(8)]
    for name in names:
        Path(name).write_bytes(bytes(1 << 20))
    ray.init(
        address="local",
        num_cpus=3,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        _system_config=FULL_DISK,
    )
    held = []
    try:
        while True:
            held.append(ray.put(np.zeros(1 << 20, np.uint8)))
    except ray.exceptions.OutOfDiskError:
        print(f"{len(held)} MB are full")
    pool = ActorPoolSpec(factory=Deadly("", ""), workers=1, cpus=1.0, gpus=0.0, threads=1)
    stream = RayStream(Fetch(), [pool], ResourcesConfig(recovery=RecoveryConfig(restarts=0, stall_s=200)))
    table = planned(id=names, uri=names, size=[1 << 20] * 8)
    try:
        print(len(list(stream([Chunk(unit, 0, table) for unit in range(5)]))), "chunks")
    except JobError as error:
        print(f"error: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
