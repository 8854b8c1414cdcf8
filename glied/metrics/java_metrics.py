"""METEOR and SPICE, which are Java programs; each runs in a subprocess, so that Java cannot stop a run."""

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
"""In a locale with decimal commas METEOR fails and SPICE prints commas."""


class MetricUnavailableError(GliedError):
    """A metric is unavailable on this machine; the others can still be computed."""


def java_metric(
    name: str, hypotheses: Mapping[str, list[str]], references: Mapping[str, list[str]], *, timeout_s: float
) -> float:
    """Compute METEOR or SPICE of tokenized captions, from 0 to 1.

    Args:
        name: "METEOR" or "SPICE".
        hypotheses: a list of one caption per image id, tokens joined by spaces.
        references: the references per image id, in the same form.
        timeout_s: seconds after which the process and its children are killed.

    Raises:
        MetricUnavailableError: Java or the metric's models are missing, Java failed, or time ran out.
    """
    if shutil.which("java") is None:
        raise MetricUnavailableError(f"{name} left out: java is not on the PATH")
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
        start_new_session=True,  # its own process group, which includes Java
    )
    try:
        stdout, stderr = process.communicate(request, timeout_s)
        return json.loads(stdout)
    except subprocess.TimeoutExpired as error:
        raise MetricUnavailableError(f"{name} left out: not done after {timeout_s:g} s") from error
    except ValueError as error:
        lines = stderr.strip().splitlines() or ["no message"]
        raise MetricUnavailableError(
            f"{name} left out: its process ended with code {process.returncode}: {lines[-1][:200]}"
        ) from error
    finally:
        with contextlib.suppress(ProcessLookupError):  # normally all processes have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def _environment() -> dict[str, str]:
    """Return this process's environment, plus the locale for Java and the import path of this package."""
    options = " ".join(filter(None, [os.environ.get("JAVA_TOOL_OPTIONS"), LOCALE]))
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"JAVA_TOOL_OPTIONS": options, "PYTHONPATH": path}
