"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator

import pytest

# Before torch or Ray are imported: tests share a small machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray cluster for the whole session, with room for two training workers and data tasks."""
    import ray

    from glied import ray_runtime

    ray_runtime.start(cpus=6, gpus=0, object_store_bytes=512 << 20)
    yield
    ray.shutdown()
