"""`ray job submit` to a local cluster: head and workers as processes, a token, inputs and outputs in S3."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil
import pyarrow.parquet as pq
import pytest

from cluster.local import LOOPBACK, Config, LocalCluster, Node
from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_job
from glied.bulk.chunks import run_here
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run, committed_rows
from glied.config import parse
from tests.bulk.models import BAD, model_options
from tests.training.tasks.rewarded import write_world

Found = TypeVar("Found")
ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")
CONFIG = "--config=configs/caption/demo.yaml"
WAIT_S = 400
"""Maximum time for a job on a busy machine."""
SOON = {"RAY_health_check_period_ms": "200"}
"""After five health checks without an answer, the head treats a node as lost."""


@pytest.fixture(scope="module")
def cluster(s3) -> Iterator[LocalCluster]:
    """A cluster with two workers; one is enough for a job."""
    _, variables = s3
    with LocalCluster(Config(workers=2, cpus=3), os.environ | variables | SOON) as running:
        yield running


def submit(
    cluster: LocalCluster, log: Path, *options: str, job: str = "caption_dataset", **variables: str
) -> subprocess.Popen:
    entrypoint = ["--", "python", f"jobs/{job}.py", *options]
    command = [str(RAY), "job", "submit", "--address", cluster.address, "--working-dir", ".", *entrypoint]
    with log.open("w") as out:
        return subprocess.Popen(
            command, cwd=ROOT, env=cluster.environment | variables, stdout=out, stderr=out
        )


def read_rows(filesystem, run: str) -> list[dict]:
    paths = filesystem.glob(f"{run}/captions/*.parquet")
    return [row for path in paths for row in pq.read_table(path, filesystem=filesystem).to_pylist()]


def captioned_here(out: Path, *options: str) -> list[dict]:
    """Return the rows of a run without Ray in this process."""
    config = parse(CaptionDatasetConfig, options)
    bulk_run.execute(caption_job(config), run_here(Fetch(), caption_factory(config).build()))
    return list(committed_rows.read_rows(str(out)))


def find(processes: list[psutil.Process], *words: str) -> psutil.Process | None:
    """Return a process whose title contains all words."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if all(word in " ".join(process.cmdline()) for word in words):
                return process
    return None


def wait_for(condition: Callable[[], Found | None], job: subprocess.Popen, log: Path) -> Found:
    """Wait until a function returns a value; the job must not end before that."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found = condition()
        if found is not None:
            return found
        assert job.poll() is None, log.read_text()[-3000:]
        time.sleep(0.01)
    raise TimeoutError(log.read_text()[-3000:])


@pytest.mark.timeout(900)
def test_a_submitted_job_captions_from_s3_to_s3_though_a_busy_node_is_lost(
    cluster, s3, models, photos, tmp_path
):
    filesystem, _ = s3
    filesystem.put(str(photos), "photos/submitted", recursive=True)
    filesystem.put(str(models), "photos/models", recursive=True)
    remote = [option.replace(str(models), "s3://photos/models") for option in model_options(models)]
    options = [CONFIG, "--input.uri=s3://photos/submitted", *remote, "--resources.worker.count=2"]
    options += ["--output.unit_size=2", "--resources.chunk.images=1", "--resources.worker.batch_size=1"]
    options += ["--resources.fetch.cpus=0.9"]  # few processes, which take seconds to start
    log = tmp_path / "log"
    job = submit(cluster, log, *options, "--output.uri=s3://captions/submitted")

    def node_at_work() -> Node | None:
        workers = [node for node in cluster.workers if find(node.processes(), "ray::MapWorker", "submit")]
        return workers[0] if workers else None

    victim = wait_for(node_at_work, job, log)
    lost = victim.processes()
    victim.kill()
    assert not any(process.is_running() for process in lost)
    assert len(filesystem.glob("captions/submitted/commits/*.json")) < 30, "the kill was before the end"
    assert job.wait(timeout=WAIT_S) == 0, log.read_text()[-3000:]
    assert "60 of 60 images done (58 ok, 2 rejected)" in log.read_text(), "the log is streamed"
    rows = read_rows(filesystem, "captions/submitted")
    assert len(rows) == len({row["id"] for row in rows}) == 60
    assert {row["id"]: row["error_kind"] for row in rows if row["status"] != "ok"} == BAD
    here = [CONFIG, f"--input.uri={photos}", f"--output.uri={tmp_path / 'here'}", *model_options(models)]
    undisturbed = {row["id"]: row["caption"] for row in captioned_here(tmp_path / "here", *here)}
    assert {row["id"]: row["caption"] for row in rows} == undisturbed

    traveled = cluster.folder.glob("head/session_latest/runtime_resources/working_dir_files/**/*")
    sizes = {path.name: path.stat().st_size for path in traveled if path.is_file()}
    assert {"caption_dataset.py", "demo.yaml"} <= sizes.keys()
    assert sum(sizes.values()) < 20e6
    assert "test_job_submit.py" not in sizes


def test_the_cluster_listens_on_the_loopback_interface_only(cluster):
    sockets = [one for process in cluster.processes() for one in process.net_connections("inet")]
    addresses = [one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN]
    assert len(addresses) > 10
    assert {address.removeprefix("::ffff:") for address in addresses} == {LOOPBACK}


@pytest.mark.timeout(900)
def test_errors_are_reported_to_the_submitter(cluster, tmp_path):
    log = tmp_path / "log"
    assert submit(cluster, log, CONFIG, "--captions.beam=3").wait(timeout=WAIT_S) == 1
    assert "error: " in log.read_text()
    assert "captions.beam" in log.read_text()
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    assert submit(cluster, log, CONFIG, RAY_AUTH_TOKEN_PATH=str(wrong)).wait(timeout=WAIT_S) == 1
    assert "Invalid authentication token" in log.read_text()


@pytest.mark.timeout(900)
def test_training_resumes_after_a_worker_is_killed(cluster, s3, tmp_path):
    filesystem, _ = s3
    write_world(tmp_path)
    filesystem.put(str(tmp_path), "photos/world", recursive=True)
    world = "s3://photos/world"
    options = ["--config=configs/scst/cider_tiny.yaml", "--trainer.output=s3://captions/trained"]
    options += [f"--{split}.features={world}/features" for split in ("train", "validation")]
    options += [f"--{split}.captions={world}/captions.json" for split in ("train", "validation")]
    options += [f"--start={world}/start", f"--attributes={world}/attributes"]
    options += [f"--reward.frequencies={world}/df"]
    options += ["--trainer.workers=2", "--trainer.epochs=6", "--trainer.recovery.checkpoint_every_steps=1"]
    options += ["--trainer.monitoring.validate_every_epochs=6"]
    log = tmp_path / "log"
    job = submit(cluster, log, *options, job="train_scst")

    def worker_after_some_steps() -> psutil.Process | None:
        # One checkpoint is uploaded, one reported, one is waiting: by then Ray Train has the second.
        if "step 6/" not in log.read_text():
            return None
        return find(cluster.processes(), "ray::RayTrainWorker")

    wait_for(worker_after_some_steps, job, log).kill()
    assert not filesystem.exists("captions/trained/result.json"), "the kill was before the end"
    assert job.wait(timeout=WAIT_S) == 0, log.read_text()[-3000:]
    result = json.loads(filesystem.cat("captions/trained/result.json"))
    assert (result["complete"], result["steps"]) == (True, 12)
    assert "resumed at step" in log.read_text(), "training did not restart from the beginning"


def test_only_its_own_processes_are_ended(cluster, s3):
    own = cluster.processes()
    cluster.close()
    assert len(own) > 10
    assert not any(process.is_running() for process in own)
    assert not cluster.folder.exists()
    filesystem, _ = s3
    assert filesystem.ls("captions"), "the S3 server does not belong to the cluster"
