"""A stream on a cluster whose object store and disk are full; a program, since its Ray is set up for that."""

import sys
from pathlib import Path

import numpy as np
import ray

from glied import ray_runtime
from glied.bulk.chunks import Chunk, Pool
from glied.bulk.config import ResourcesConfig
from glied.bulk.manifest import planned
from glied.bulk.pipeline import RayStream
from glied.bulk.sources.fetch import Fetch
from glied.errors import JobError
from tests.bulk.deadly import Deadly

STORE_BYTES = 80 << 20
ENVIRONMENT = {"RAY_automatic_object_spilling_enabled": "0", "RAY_local_fs_capacity_threshold": "0.001"}
"""What makes Ray take the disk for full."""


def main(folder: Path) -> None:
    """Fill the store, then send 8 MB through a stream, and print how that ends."""
    names = [str(folder / f"{number}.jpg") for number in range(8)]
    for name in names:
        Path(name).write_bytes(bytes(1 << 20))
    ray_runtime.start(cpus=3, object_store_bytes=STORE_BYTES)
    held = []
    try:
        while True:
            held.append(ray.put(np.zeros(1 << 20, np.uint8)))
    except ray.exceptions.OutOfDiskError:
        print(f"{len(held)} MB are full")
    pool = Pool(factory=Deadly("", ""), workers=1, cpus=1.0, gpus=0.0, threads=1)
    stream = RayStream(Fetch(), [pool], ResourcesConfig(restarts=0, stall_s=200))
    try:
        print(len(list(stream([Chunk(0, 0, planned(id=names, uri=names, size=[1 << 20] * 8))]))), "chunks")
    except JobError as error:
        print(f"error: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
