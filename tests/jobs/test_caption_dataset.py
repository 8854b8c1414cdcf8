"""The bulk job as a real process with Ray, killed and restarted, with folders and an S3 server."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from glied.commands import caption_image
from glied.errors import UsageError
from tests.bulk.models import BAD, model_options
from tests.jobs.conftest import ROOT

CONFIG = "--config=configs/caption/demo.yaml"


def read_rows(folder: Path) -> list[dict]:
    tables = [pq.read_table(path) for path in sorted(folder.glob("captions/*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def kill_after_commits(command: list[str], environment: dict[str, str], out: Path, count: int) -> None:
    """Start the job and kill its process group, including Ray, when it has committed `count` units."""
    log = out.with_suffix(".log")
    with log.open("wb") as file:
        job = subprocess.Popen(
            command, cwd=ROOT, env=environment, start_new_session=True, stdout=file, stderr=file
        )
    deadline = time.monotonic() + 200
    try:
        while len(list(out.glob("commits/*.json"))) < count:
            assert job.poll() is None, f"the job ended before it could be killed: {log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.005)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


@pytest.mark.timeout(300)
def test_a_killed_job_resumes(run_job, environment, models, photos, tmp_path):
    out = tmp_path / "out"
    options = [CONFIG, f"--input.uri={photos}", f"--output.uri={out}", *model_options(models)]
    options += ["--output.unit_size=1", "--resources.chunk.images=1", "--resources.worker.batch_size=1"]
    command = [sys.executable, "jobs/caption_dataset.py", *options]
    kill_after_commits(command, environment, out, 3)
    finished = {path: path.stat().st_mtime_ns for path in out.glob("commits/*.json")}
    assert 3 <= len(finished) < 60, "the job must be killed half way"
    finished |= {
        path: path.stat().st_mtime_ns
        for record in finished
        for path in [out / json.loads(record.read_text())["output"]]
    }

    again = run_job("caption_dataset", *options)

    assert again.returncode == 0, again.stderr
    assert "60 of 60 images done (58 ok, 2 rejected)" in again.stdout
    ids = [row["id"] for row in read_rows(out)]
    assert sorted(ids) == sorted(set(ids))
    assert len(ids) == 60
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    summary = json.loads((out / "summary.json").read_text())
    assert summary["statuses"] == {"ok": 58, "rejected": 2}
    assert summary["images_this_time"] + summary["units_done_earlier"] <= 60

    rows = {row["id"]: row for row in read_rows(out)}
    names = ["turned.jpg", "cmyk.jpg", "sub1/image 001.jpg"]
    image = run_job("caption_image", *(str(photos / name) for name in names), CONFIG, *model_options(models))
    assert image.returncode == 0, image.stderr
    assert image.stdout.splitlines() == [f"{photos / name}: {rows[name]['caption']}" for name in names]


@pytest.mark.timeout(300)
def test_s3_in_and_out(run_job, s3, models, photos):
    filesystem, variables = s3
    filesystem.put(str(photos), "photos/some where", recursive=True)
    places = ["--input.uri=s3://photos/some where", "--output.uri=s3://captions/run one"]
    options = [CONFIG, *places, *model_options(models), "--output.unit_size=16", "--resources.pools=split"]
    done = run_job("caption_dataset", *options, **variables)
    assert done.returncode == 0, done.stderr
    rows = []
    for path in filesystem.glob("captions/run one/captions/*.parquet"):
        rows += pq.read_table(path, filesystem=filesystem).to_pylist()
    assert len(rows) == len({row["id"] for row in rows}) == 60
    assert {row["id"]: row["error_kind"] for row in rows if row["status"] != "ok"} == BAD
    assert rows[0]["uri"].startswith("s3://photos/some where/")
    assert len(filesystem.glob("captions/run one/commits/*.json")) == 4

    again = run_job("caption_dataset", *options, **variables)
    assert again.returncode == 0, again.stderr
    assert "0 images this time" in again.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input.uri=nowhere"], "input.uri nowhere: no such folder"),
        (["--input.uri=.", "--captions.beam=3"], "captions.beam"),
        (["--output.uri=pyproject.toml/out", "--input.uri=."], "output.uri pyproject.toml/out"),
    ],
)
@pytest.mark.timeout(120)
def test_mistakes_are_one_line_and_exit_2(run_job, models, options, message):
    done = run_job("caption_dataset", CONFIG, *model_options(models), "--input.extensions=[md]", *options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


@pytest.mark.timeout(120)
def test_caption_image_reports_errors(run_job, models, photos):
    bad = run_job("caption_image", str(photos / "text.jpg"), CONFIG, *model_options(models))
    assert bad.returncode == 1
    assert "rejected, not_an_image" in bad.stderr
    missing = run_job("caption_image", "nowhere.jpg")
    assert (missing.returncode, missing.stderr) == (2, "error: nowhere.jpg: no such file\n")
    with pytest.raises(UsageError, match=f"{photos} is a folder: name its files"):
        caption_image.check([str(photos)])
