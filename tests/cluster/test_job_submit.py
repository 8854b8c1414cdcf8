"""`ray job submit` as a user does it: a head and workers as processes, a token, inputs and outputs in S3."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from cluster.local import LOOPBACK, Config, LocalCluster, Node
from tests.bulk.models import BAD, model_options

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")
CONFIG = "--config=configs/caption/demo.yaml"
WAIT_S = 400
"""Longest time for a job, on a machine that does much else."""
SOON = {"RAY_health_check_period_ms": "1000"}
"""A head sees within seconds that a node is gone."""


@pytest.fixture(scope="module")
def cluster(s3) -> Iterator[LocalCluster]:
    """Two workers, of which one is enough for a job."""
    _, variables = s3
    with LocalCluster(Config(workers=2, cpus=3), os.environ | variables | SOON) as running:
        yield running


@pytest.fixture(scope="module")
def options(s3, models, photos) -> list[str]:
    """What both runs have in common; images and models are in S3."""
    filesystem, _ = s3
    filesystem.put(str(photos), "photos/submitted", recursive=True)
    filesystem.put(str(models), "photos/models", recursive=True)
    remote = [option.replace(str(models), "s3://photos/models") for option in model_options(models)]
    small = ["--output.unit_size=2", "--resources.chunk_images=1", "--resources.batch_size=1"]
    return [CONFIG, "--input.uri=s3://photos/submitted", *remote, *small, "--resources.workers=2"]


def submit(cluster: LocalCluster, log: Path, *options: str, **variables: str) -> subprocess.Popen:
    job = ["--", "python", "jobs/caption_dataset.py", *options]
    command = [str(RAY), "job", "submit", "--address", cluster.address, "--working-dir", ".", *job]
    with log.open("w") as out:
        return subprocess.Popen(
            command, cwd=ROOT, env=cluster.environment | variables, stdout=out, stderr=out
        )


def read_rows(filesystem, run: str) -> list[dict]:
    paths = filesystem.glob(f"{run}/captions/*.parquet")
    return [row for path in paths for row in pq.read_table(path, filesystem=filesystem).to_pylist()]


def works(node: Node) -> bool:
    """Whether a worker of the node is in the middle of a chunk."""
    for process in node.processes():
        with suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if title.startswith("ray::MapWorker") and "submit" in title:
                return True
    return False


def first(nodes: list[Node], condition: Callable[[Node], bool], job: subprocess.Popen, log: Path) -> Node:
    """The first node for which it holds; the job must run until then."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for node in nodes:
            if condition(node):
                return node
        assert job.poll() is None, log.read_text()[-3000:]
        time.sleep(0.01)
    raise TimeoutError(log.read_text()[-3000:])


@pytest.mark.timeout(900)
def test_a_submitted_job_captions_from_s3_to_s3(cluster, s3, options, tmp_path):
    filesystem, _ = s3
    log = tmp_path / "log"
    job = submit(cluster, log, *options, "--output.uri=s3://captions/submitted")
    assert job.wait(timeout=WAIT_S) == 0, log.read_text()[-3000:]
    assert "60 of 60 images done (58 ok, 2 rejected)" in log.read_text(), "the log streams"
    rows = read_rows(filesystem, "captions/submitted")
    assert len(rows) == len({row["id"] for row in rows}) == 60
    assert {row["id"]: row["error_kind"] for row in rows if row["status"] != "ok"} == BAD

    traveled = cluster.folder.glob("head/session_latest/runtime_resources/working_dir_files/**/*")
    sizes = {path.name: path.stat().st_size for path in traveled if path.is_file()}
    assert {"caption_dataset.py", "demo.yaml"} <= sizes.keys()
    assert sum(sizes.values()) < 20e6
    assert "test_job_submit.py" not in sizes


def test_it_listens_on_the_loopback_interface_only(cluster):
    sockets = [one for process in cluster.processes() for one in process.net_connections("inet")]
    addresses = [one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN]
    assert len(addresses) > 10
    assert {address.removeprefix("::ffff:") for address in addresses} == {LOOPBACK}


@pytest.mark.timeout(900)
def test_mistakes_come_back(cluster, tmp_path):
    log = tmp_path / "log"
    assert submit(cluster, log, CONFIG, "--captions.beam=3").wait(timeout=WAIT_S) == 1
    assert "error: " in log.read_text()
    assert "captions.beam" in log.read_text()
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    assert submit(cluster, log, CONFIG, RAY_AUTH_TOKEN_PATH=str(wrong)).wait(timeout=WAIT_S) == 1
    assert "Invalid authentication token" in log.read_text()


@pytest.mark.timeout(900)
def test_a_node_lost_at_work_costs_no_row(cluster, s3, options, tmp_path):
    filesystem, _ = s3
    log = tmp_path / "log"
    job = submit(cluster, log, *options, "--output.uri=s3://captions/node lost")
    victim = first(cluster.workers, works, job, log)
    lost = victim.processes()
    victim.kill()
    assert not any(process.is_running() for process in lost)
    assert len(filesystem.glob("captions/node lost/commits/*.json")) < 30, "it was killed before the end"
    assert job.wait(timeout=WAIT_S) == 0, log.read_text()[-3000:]
    rows = read_rows(filesystem, "captions/node lost")
    assert len(rows) == len({row["id"] for row in rows}) == 60
    undisturbed = {row["id"]: row["captions"] for row in read_rows(filesystem, "captions/submitted")}
    assert {row["id"]: row["captions"] for row in rows} == undisturbed


def test_ends_its_own_processes_only(cluster, s3):
    own = cluster.processes()
    cluster.close()
    assert len(own) > 10
    assert not any(process.is_running() for process in own)
    assert not cluster.folder.exists()
    filesystem, _ = s3
    assert filesystem.ls("captions"), "the S3 server is another's"
