"""The job on a server that fails in every way: out of budget, killed, and finished by the same command."""

import json
import sys

import pytest

from glied.bulk.run.committed_rows import read_rows
from tests.bulk.run.test_faulty_endpoint import COUNT, SECRET, check_secrets
from tests.captioner.engines.chat_server import serve
from tests.captioner.engines.faults import check_rows, numbered_images, server_with_every_fault
from tests.jobs.test_caption_dataset import kill_after_commits


@pytest.mark.timeout(500)
def test_the_same_command_goes_on_after_a_small_budget_and_a_kill(run_job, environment, tmp_path):
    photos, out = numbered_images(tmp_path / "in", COUNT), tmp_path / "out"
    server, faults = server_with_every_fault()
    with serve(server):
        options = ["--config=configs/caption/endpoint.yaml", f"--input.uri={photos}", f"--output.uri={out}"]
        options += [f"--captioner.url={server.url}", "--captioner.model=tiny", "--output.unit_size=50"]
        options += ["--captioner.requests.timeout_s=3", "--captioner.requests.backoff_s=0.01"]
        options += ["--captioner.cost.prompt_price=1000", "--captioner.cost.completion_price=0"]

        stopped = run_job("caption_dataset", *options, "--captioner.cost.budget=20", OPENAI_API_KEY=SECRET)
        assert stopped.returncode == 1, stopped.stderr
        assert "are spent; the same command with a larger" in stopped.stdout, stopped.stderr
        spent = json.loads((out / "summary.json").read_text())["usage"]["cost"]
        assert 20 <= spent < 100
        done = len(list(out.glob("commits/*.json")))
        assert 0 < done < COUNT // 50

        command = [sys.executable, "jobs/caption_dataset.py", *options, "--captioner.cost.budget=1000"]
        kill_after_commits(command, environment | {"OPENAI_API_KEY": SECRET}, out, done + 2)
        again = run_job("caption_dataset", *command[2:], OPENAI_API_KEY=SECRET)
    assert again.returncode == 0, again.stderr
    check_rows(list(read_rows(str(out))), COUNT)
    usage = json.loads((out / "summary.json").read_text())["usage"]
    assert COUNT * 100 <= usage["prompt_tokens"] <= faults.prompt_tokens()
    assert COUNT <= usage["requests"] <= faults.behaviors.total()
    log = stopped.stdout + stopped.stderr + again.stdout + again.stderr
    check_secrets(out, log + out.with_suffix(".log").read_text())
