"""Failures of a run: its processes die, two drivers share it, storage fails, the disk is full."""

import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import chaos
from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_job
from glied.bulk.chunks import run_here
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run, status
from glied.config import parse
from glied.errors import StorageError
from tests import fault_proxy
from tests.bulk.models import BAD, model_options
from tests.jobs.conftest import ROOT

CONFIG = "--config=configs/caption/demo.yaml"


@pytest.mark.timeout(500)
def test_killed_jobs_workers_and_raylets_lose_nothing(tmp_path):
    config = chaos.Config(folder=str(tmp_path), unit_size=16, pause_s=0.5)
    report = chaos.Chaos(config, ["worker", "raylet", "job"], 320).execute()
    assert report.victims == {"worker": 1, "raylet": 1, "job": 1}
    assert (report.rows, report.lost, report.doubled) == (report.images, 0, 0) == (320, 0, 0)
    assert (report.units, report.attempts) == (20, 3)
    lines = (tmp_path / "job.log").read_text().splitlines()
    of_worker = r"\(raylet\) (Task MapWorker.*will be retried|A worker died or was killed while executing).*"
    left = [line for line in lines if not re.fullmatch(rf"{of_worker}|.* INFO resuming: .*|", line)]
    # Ray's C++ code may log a line before the raylet's death is noticed.
    (line,) = [line for line in left if "task_manager.cc" not in line]
    assert line.startswith("error: Ray's raylet or GCS on this machine died")


def attempts(out: Path) -> set[str]:
    """Return the ids of the attempts that have committed units."""
    return {json.loads(path.read_text())["attempt"] for path in out.glob("commits/*.json")}


def wait_for(condition: Callable[[], bool], job: subprocess.Popen) -> None:
    """Wait until a condition holds; the job must not end before that."""
    while not condition():
        assert job.poll() is None, f"the job ended with {job.returncode} before that"
        time.sleep(0.01)


@pytest.mark.timeout(300)
def test_two_drivers_share_a_run(environment, models, photos, tmp_path):
    out = tmp_path / "out"
    options = [CONFIG, f"--input.uri={photos}", f"--output.uri={out}", *model_options(models)]
    options += ["--output.unit_size=2", "--resources.chunk.images=1"]
    command = [sys.executable, "jobs/caption_dataset.py", *options]
    with (tmp_path / "log").open("w") as log:
        start = partial(subprocess.Popen, command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        first = start()
        wait_for(lambda: len(attempts(out)) == 1, first)
        first.send_signal(
            signal.SIGSTOP
        )  # otherwise a fast machine finishes the run before the second driver starts
        second = start()
        wait_for(lambda: len(attempts(out)) == 2, second)
        first.send_signal(signal.SIGCONT)
        codes = [job.wait(timeout=200) for job in (first, second)]
    assert codes == [0, 0], (tmp_path / "log").read_text()
    ids = [one for path in out.glob("captions/*.parquet") for one in pq.read_table(path)["id"].to_pylist()]
    assert len(ids) == len(set(ids)) == 60
    assert len(attempts(out)) == 2, "both have been at work"
    assert list(status.verify(status.open_run(str(out)))) == []


ENDS = {
    signal.SIGTERM: (143, "terminated by a signal"),
    signal.SIGINT: (1, "interrupted"),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.name)
def test_a_terminated_job_reports_it_in_one_line(environment, models, photos, tmp_path, end):
    out = tmp_path / "out"
    options = [CONFIG, f"--input.uri={photos}", f"--output.uri={out}", *model_options(models)]
    options += ["--output.unit_size=1", "--resources.chunk.images=1"]
    command = [sys.executable, "jobs/caption_dataset.py", *options]
    code, words = ENDS[end]
    with (tmp_path / "log").open("w") as log:
        # Tests in the background of a shell ignore SIGINT, and the job would inherit that.
        ignoring = signal.signal(signal.SIGINT, signal.default_int_handler)
        job = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        signal.signal(signal.SIGINT, ignoring)
        try:
            wait_for(lambda: len(list(out.glob("commits/*"))) > 0, job)
            before = (tmp_path / "log").read_text()
            job.send_signal(end)
            assert job.wait(timeout=120) == code
        finally:
            chaos._kill_session(job.pid)
    after = (tmp_path / "log").read_text().removeprefix(before)
    lines = [line for line in after.splitlines() if line.strip()]
    assert len(lines) == 1, after
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert list(status.verify(status.open_run(str(out)))) == []


@pytest.mark.timeout(400)
def test_occasional_storage_failures_do_not_change_the_rows(run_job, s3, models, photos):
    filesystem, variables = s3
    filesystem.put(str(photos), "photos/faulty", recursive=True)
    with fault_proxy.start(variables["AWS_ENDPOINT_URL"], share=0.1, seed=1) as proxy:
        options = [CONFIG, "--input.uri=s3://photos/faulty", "--output.uri=s3://captions/faulty"]
        options += [*model_options(models), "--output.unit_size=8"]
        done = run_job("caption_dataset", *options, **(variables | {"AWS_ENDPOINT_URL": proxy.endpoint}))
        counts = proxy.counts()
    assert done.returncode == 0, done.stderr
    assert sum(counts[fault] for fault in fault_proxy.FAULTS) > 5
    rows = []
    for path in filesystem.glob("captions/faulty/captions/*.parquet"):
        rows += pq.read_table(path, filesystem=filesystem).to_pylist()
    assert len(rows) == len({row["id"] for row in rows}) == 60
    assert {row["id"]: row["error_kind"] for row in rows if row["status"] != "ok"} == BAD


@contextmanager
def largest_file(size: int):
    """Limit the size of files, so that writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_stops_the_run_and_loses_nothing(models, photos, tmp_path):
    options = [CONFIG, f"--input.uri={photos}", f"--output.uri={tmp_path}", *model_options(models)]
    config = parse(CaptionDatasetConfig, [*options, "--output.unit_size=20"])
    stage = caption_factory(config).build()
    stage.read.read.decoder.decode([b"", b""])  # its processes use memory files, which the limit would refuse
    job, stream = caption_job(config), run_here(Fetch(), stage)
    with largest_file(9_000), pytest.raises(StorageError, match="cannot write"):
        bulk_run.execute(job, stream)
    assert list(tmp_path.glob("manifest/*.json")), "the plan is there, the first unit did not fit"
    assert not list(tmp_path.glob("captions/*"))
    summary = bulk_run.execute(job, stream)
    assert summary.statuses == {"ok": 58, "rejected": 2}
    assert sorted(path.name for path in Path(tmp_path).iterdir() if path.name.startswith(".")) == []
