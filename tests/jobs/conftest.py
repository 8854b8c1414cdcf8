import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs

from tests.jobs import s3_server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Of the jobs' processes."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def run_job(environment) -> Callable[..., subprocess.CompletedProcess]:
    """Run a job as a user does."""

    def run(name: str, *options: str, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *options]
        return subprocess.run(
            command, cwd=folder, env=environment | variables, capture_output=True, text=True, timeout=300
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
