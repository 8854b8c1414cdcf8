"""METEOR and SPICE, which are Java programs: each in a process of its own, so that Java cannot stop a run."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from glied.errors import GliedError

ROOT = Path(__file__).resolve().parents[2]
LOCALE = "-Duser.language=en -Duser.country=US"
"""METEOR fails, and SPICE prints commas, where numbers have decimal commas."""


class MetricUnavailableError(GliedError):
    """This metric cannot be had here; the others can."""


def java_metric(
    name: str, hypotheses: Mapping[str, list[str]], references: Mapping[str, list[str]], *, timeout_s: float
) -> float:
    """METEOR or SPICE of tokenized captions, from 0 to 1.

    Args:
        name: "METEOR" or "SPICE".
        hypotheses: a list of one caption by image id, tokens joined by spaces.
        references: captions by image id, likewise.
        timeout_s: seconds after which the process and all it started are killed.

    Raises:
        MetricUnavailableError: Java or the metric's models are missing, Java failed, or time ran out.
    """
    if shutil.which("java") is None:
        raise MetricUnavailableError(f"{name} left out: no java on the PATH")
    request = {"metric": name, "hypotheses": hypotheses, "references": references}
    answer = _ask(name, json.dumps(request), timeout_s)
    if "error" in answer:
        raise MetricUnavailableError(f"{name} left out: {answer['error']}")
    return float(answer["score"])


def _ask(name: str, request: str, timeout_s: float) -> dict:
    process = subprocess.Popen(
        [sys.executable, "-m", "glied.metrics.java_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        start_new_session=True,  # a process group of its own, Java included
    )
    try:
        stdout, stderr = process.communicate(request, timeout_s)
        return json.loads(stdout)
    except subprocess.TimeoutExpired as error:
        raise MetricUnavailableError(f"{name} left out: not done after {timeout_s:g} s") from error
    except ValueError as error:
        lines = stderr.strip().splitlines() or ["without a word"]
        raise MetricUnavailableError(
            f"{name} left out: its process ended with code {process.returncode}: {lines[-1][:200]}"
        ) from error
    finally:
        with contextlib.suppress(ProcessLookupError):  # the usual case: all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def _environment() -> dict[str, str]:
    """Ours, with the locale for every Java below, and with this package in reach wherever we are."""
    options = " ".join(filter(None, [os.environ.get("JAVA_TOOL_OPTIONS"), LOCALE]))
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"JAVA_TOOL_OPTIONS": options, "PYTHONPATH": path}
