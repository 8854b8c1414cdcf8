"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch or Ray are imported: tests share a small machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray cluster for the whole session, with room for two training workers and data tasks."""
    import ray

    from glied.cluster_runtime import ray_start

    ray_start.start(cpus=6, gpus=0, object_store_bytes=512 << 20)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """Checkpoints of tiny random models."""
    from tests.bulk.models import save_models  # after the environment is set

    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """60 images, good and bad, and a sidecar."""
    from tests.bulk.models import save_images

    return save_images(tmp_path_factory.mktemp("photos") / "in", 60)


@pytest.fixture(scope="session")
def s3() -> Iterator[tuple[Any, dict[str, str]]]:
    """An S3 server with the buckets photos and captions: a client, and what leads a job there."""
    import s3fs

    from tests import s3_server

    server, endpoint = s3_server.start()
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        filesystem = s3fs.S3FileSystem(
            key="test",
            secret="test",
            endpoint_url=endpoint,
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        for bucket in ("photos", "captions"):
            filesystem.mkdir(bucket)
        yield filesystem, variables
    finally:
        server.kill()
        server.wait()
