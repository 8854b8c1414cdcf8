import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs

from tests.bulk.models import save_images, save_models
from tests.jobs import s3_server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """Checkpoints of tiny random models."""
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """60 images, good and bad, and a sidecar."""
    return save_images(tmp_path_factory.mktemp("photos") / "in", 60)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Of the jobs' processes."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def run_job(environment) -> Callable[..., subprocess.CompletedProcess]:
    """Run a job as a user does."""

    def run(name: str, *options: str, **variables: str) -> subprocess.CompletedProcess:
        command = [sys.executable, f"jobs/{name}.py", *options]
        return subprocess.run(
            command, cwd=ROOT, env=environment | variables, capture_output=True, text=True, timeout=600
        )

    return run


@pytest.fixture(scope="session")
def s3() -> Iterator[tuple[s3fs.S3FileSystem, dict[str, str]]]:
    """An S3 server with the buckets photos and captions: a client, and what leads a job there."""
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
