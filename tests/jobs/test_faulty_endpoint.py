"""The job on a server that fails in every way: out of budget, killed, and finished by the same command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glied.bulk.run.committed_rows import read_rows
from tests.bulk.run.test_faulty_endpoint import SECRET, check_secrets
from tests.captioner.engines.chat_server import serve
from tests.captioner.engines.faults import check_rows, numbered_images, server_with_every_fault
from tests.jobs.conftest import ROOT

COUNT = 500


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


def times_of_committed_files(out: Path) -> dict[Path, int]:
    """Return when the records of the committed units and their files with rows were written."""
    records = list(out.glob("commits/*.json"))
    files = [*records, *(out / json.loads(record.read_text())["output"] for record in records)]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.timeout(500)
def test_the_same_command_goes_on_after_a_small_budget_and_a_kill(run_job, environment, tmp_path):
    photos, out = numbered_images(tmp_path / "in", COUNT), tmp_path / "out"
    server, faults = server_with_every_fault()
    with serve(server):
        options = ["--config=configs/caption/endpoint.yaml", f"--input.uri={photos}", f"--output.uri={out}"]
        options += [f"--captioner.url={server.url}", "--captioner.model=tiny", "--output.unit_size=25"]
        options += ["--captioner.requests.timeout_s=1", "--captioner.requests.backoff_s=0.01"]
        options += ["--captioner.cost.prompt_price=1000", "--captioner.cost.completion_price=0"]

        stopped = run_job("caption_dataset", *options, "--captioner.cost.budget=10", OPENAI_API_KEY=SECRET)
        assert stopped.returncode == 1, stopped.stderr
        assert "are spent; the same command with a larger" in stopped.stdout, stopped.stderr
        spent = json.loads((out / "summary.json").read_text())["usage"]["cost"]
        assert 10 <= spent < 50
        finished = times_of_committed_files(out)
        done = len(list(out.glob("commits/*.json")))
        assert 0 < done < COUNT // 25

        command = [sys.executable, "jobs/caption_dataset.py", *options, "--captioner.cost.budget=1000"]
        kill_after_commits(command, environment | {"OPENAI_API_KEY": SECRET}, out, done + 2)
        finished |= times_of_committed_files(out)
        assert done + 2 <= len(finished) // 2 < COUNT // 25, "the job must be killed half way"
        again = run_job("caption_dataset", *command[2:], OPENAI_API_KEY=SECRET)
    assert again.returncode == 0, again.stderr
    assert times_of_committed_files(out).items() >= finished.items(), "what was done is not done again"
    check_rows(list(read_rows(str(out))), COUNT)
    usage = json.loads((out / "summary.json").read_text())["usage"]
    assert COUNT * 100 <= usage["prompt_tokens"] <= faults.prompt_tokens()
    assert COUNT <= usage["requests"] <= faults.behaviors.total()
    log = stopped.stdout + stopped.stderr + again.stdout + again.stderr
    check_secrets(out, log + out.with_suffix(".log").read_text())
