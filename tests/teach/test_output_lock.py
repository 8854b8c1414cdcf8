"""Two commands on one output: processes of this machine, and of machines that cannot be looked at."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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


def test_file_of_a_process_whose_number_another_has_now(tmp_path: Path) -> None:
    with held(str(tmp_path)):
        content = json.loads(running(tmp_path).read_text())
    with subprocess.Popen(["sleep", "60"]) as other:
        content |= {"pid": other.pid, "token": "other"}
        running(tmp_path).write_text(json.dumps(content))
        with held(str(tmp_path), renewed_s=0.01):
            assert json.loads(running(tmp_path).read_text())["pid"] == os.getpid()
        other.kill()


def test_same_number_among_other_processes_is_waited_for(tmp_path: Path, monkeypatch) -> None:
    """As in two containers of the same name."""
    with held(str(tmp_path)):
        content = json.loads(running(tmp_path).read_text())
    content |= {"processes": "other", "token": "other"}
    running(tmp_path).write_text(json.dumps(content))
    renewed = json.dumps(content | {"renewals": 1})
    monkeypatch.setattr(output_lock.time, "sleep", lambda seconds: running(tmp_path).write_text(renewed))
    with pytest.raises(JobError, match="another command works on this output"):
        held(str(tmp_path)).__enter__()


def test_ended_process_that_nobody_waited_for_does_not_count(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    with held(str(tmp_path), renewed_s=0.01):
        assert json.loads(running(tmp_path).read_text())["pid"] == os.getpid()
    other.wait()
    other.stdout.close()


def replaced(tmp_path: Path) -> None:
    with held(str(tmp_path), renewed_s=0.05):
        elsewhere(tmp_path)
        time.sleep(60)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts this process, even if it was started in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_command_that_another_has_replaced_ends(tmp_path: Path, interruptible: None) -> None:
    started = time.monotonic()
    with pytest.raises(JobError, match="another command has taken over this output, process 1 on elsewhere"):
        replaced(tmp_path)
    assert time.monotonic() - started < 30
    assert json.loads(running(tmp_path).read_text())["host"] == "elsewhere"


def test_file_of_another_is_not_deleted(tmp_path: Path) -> None:
    with held(str(tmp_path)):
        elsewhere(tmp_path)
    assert json.loads(running(tmp_path).read_text())["host"] == "elsewhere"
