"""jobs/caption_image.py captions a photograph with the shipped weights within seconds."""

import resource
import subprocess
import sys

import pytest

from tests.jobs.conftest import ROOT

PHOTOGRAPHS = ROOT / "docs" / "images" / "photographs"
SECONDS = 10
"""CPU time including start-up, which does not depend on the load of the machine."""
UNUSED = ("ray", "open_clip", "torch._dynamo")
"""Modules that take seconds to import and that captioning does not need."""

RUN = """
import runpy, sys
try:
    runpy.run_path("jobs/caption_image.py", run_name="__main__")
finally:
    print(*[name for name in {unused} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.timeout(200)
def test_a_photograph_is_captioned_by_default_within_seconds(environment):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    file = str(PHOTOGRAPHS / "two-dogs.jpg")
    command = [sys.executable, "-c", RUN.format(unused=UNUSED), file]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    name, _, caption = done.stdout.rstrip("\n").partition(": ")
    assert name == file
    assert "dog" in caption
    assert 4 <= len(caption.split()) <= 20
    assert done.stderr.strip() == "", "imported without need"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS


def test_odd_names_are_printed_as_one_line(environment, tmp_path):
    photograph, broken = (tmp_path / f"{name}\n\x1b[2J.jpg" for name in ("dogs", "broken"))
    photograph.write_bytes((PHOTOGRAPHS / "two-dogs.jpg").read_bytes())
    broken.write_bytes(b"no image")
    command = [sys.executable, "jobs/caption_image.py", str(photograph), str(broken)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    (caption,) = done.stdout.splitlines()
    assert caption.startswith(rf"{tmp_path}/dogs\n\x1b[2J.jpg: ")
    (reason,) = done.stderr.splitlines()
    assert reason.startswith(rf"{tmp_path}/broken\n\x1b[2J.jpg: rejected, ")
