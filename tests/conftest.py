"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch and Ray are imported, because tests run on small machines.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# On a disk over 95 % full, the raylet would write warnings that tests of the terminal do not expect.
os.environ.setdefault("RAY_local_fs_capacity_threshold", "1.0")

ROOT = Path(__file__).resolve().parent.parent
LONGEST = [
    "tests/cluster/test_job_submit.py",
    "tests/jobs/test_teach.py",
    "tests/jobs/test_harm.py",
    "tests/training/test_ray_trainer.py",
    "tests/cluster/test_placement.py",
    "tests/jobs/test_caption_dataset.py",
    "tests/jobs/test_other_captioners.py",
    "tests/jobs/test_faulty_endpoint.py",
    "tests/test_packaging.py",
    "tests/bulk/ray/test_stream.py",
    "tests/bulk/run/test_web_run.py",
    "tests/jobs/test_training.py",
    "tests/jobs/test_terminal.py",
]
"""Files that take half a minute or more, the longest first."""
SLOW_FIXTURES = {"installed", "ray_session", "run_job", "s3"}
"""Fixtures that start Ray, an S3 server or jobs as processes, or that build the wheel."""
SLOW = (
    "tests/benchmarks/",
    "tests/bulk/run/test_folders.py",
    "tests/bulk/run/test_hugging_face_hub.py",
    "tests/bulk/run/test_web_run.py",
    "tests/bulk/stages/test_finishing.py",
    "tests/bulk/test_clip_scores.py",
    "tests/captioner/engines/test_transformers_serve.py",
    "tests/cluster/test_job_submit.py",
    "tests/cluster/test_placement.py",
    "tests/jobs/",
    "tests/metrics/test_java_metrics.py",
    "tests/reports/test_gallery_browser.py",
    "tests/reports/test_training_report_browser.py",
    "tests/test_imports.py",
    "tests/test_layers.py",
    "tests/test_python_api.py",
    "tests/training/tasks/",
    "tests/vision/extractors/test_detectron_weights.py",
    "tests/vision/test_fast_imports.py",
)
"""More such folders and files, and those that `make lint` covers."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make check` leaves out, and put the longest files first.

    pytest-xdist distributes files in order: a long one at the end would leave the other process idle.
    """
    for item in items:
        if _is_slow(item):
            item.add_marker("slow")
    positions = {name: position for position, name in enumerate(LONGEST)}
    items.sort(key=lambda item: positions.get(_name(item), len(LONGEST)))


def _is_slow(item: pytest.Item) -> bool:
    """Return whether a test is slow: its file is listed, or it has its own time limit."""
    fixtures = set(getattr(item, "fixturenames", ()))
    limited = item.get_closest_marker("timeout") is not None
    return limited or bool(SLOW_FIXTURES & fixtures) or _name(item).startswith(SLOW)


def _name(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT).as_posix()


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
    from tests.bulk.models import save_models  # imported after the environment is set

    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """60 images, good and bad, and a sidecar."""
    from tests.bulk.models import save_images

    return save_images(tmp_path_factory.mktemp("photos") / "in", 60)


@pytest.fixture(scope="session")
def s3() -> Iterator[tuple[Any, dict[str, str]]]:
    """An S3 server with the buckets photos and captions: a client, and the environment for jobs."""
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
