import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment of the jobs' processes."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def run_job(environment) -> Callable[..., subprocess.CompletedProcess]:
    """Run a job as a process, like a user."""

    def run(name: str, *options: str, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *options]
        return subprocess.run(
            command, cwd=folder, env=environment | variables, capture_output=True, text=True, timeout=300
        )

    return run
