"""Two commands on one output: processes of this machine, and of machines that cannot be looked at."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glied.errors import JobError
from glied.teach import output_lock
from glied.teach.output_lock import held

HOLD = """
import sys, time
from glied.teach.output_lock import held
with held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def running(tmp_path: Path) -> Path:
    return tmp_path / "steps" / "running.json"


def test_second_command_stops_and_a_killed_one_does_not_count(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(JobError, match=f"another command works on this output, process {other.pid} on "):
            held(str(tmp_path)).__enter__()
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    with held(str(tmp_path), renewed_s=0.05):
        content = json.loads(running(tmp_path).read_text())
        assert content["pid"] == os.getpid()
        time.sleep(0.5)
        assert json.loads(running(tmp_path).read_text())["renewals"] > content["renewals"]
    assert not running(tmp_path).exists()


def elsewhere(tmp_path: Path, renewals: int = 0) -> None:
    running(tmp_path).parent.mkdir(exist_ok=True)
    content = {"token": "other", "host": "elsewhere", "pid": 1, "renewals": renewals}
    running(tmp_path).write_text(json.dumps(content))


def test_command_of_another_machine_counts_while_it_renews(tmp_path: Path, monkeypatch) -> None:
    elsewhere(tmp_path)
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        elsewhere(tmp_path, renewals=1)

    monkeypatch.setattr(output_lock.time, "sleep", sleep)
    with pytest.raises(JobError, match="process 1 on elsewhere"):
        held(str(tmp_path)).__enter__()
    assert waited == [45.0]
    assert json.loads(running(tmp_path).read_text())["host"] == "elsewhere"


def test_dead_command_of_another_machine_is_replaced(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    with held(str(tmp_path), renewed_s=0.01):
        assert json.loads(running(tmp_path).read_text())["host"] != "elsewhere"


def test_damaged_file_does_not_stop_a_command(tmp_path: Path) -> None:
    running(tmp_path).parent.mkdir()
    running(tmp_path).write_text("{")
    with held(str(tmp_path), renewed_s=0.01):
        assert json.loads(running(tmp_path).read_text())["pid"] == os.getpid()
