"""The contracts of `[tool.importlinter]` hold, and `make lint` detects violations."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of `make lint` in a folder with the packages and pyproject.toml."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the Python files of the packages that have contracts."""
    folder = tmp_path_factory.mktemp("layers")
    for package in ("glied", "jobs", "benchmarks", "cluster"):
        for file in (ROOT / package).rglob("*.py"):
            target = folder / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_contracts_hold(copied: Path) -> None:
    done = lint_imports(copied)
    assert done.returncode == 0, done.stdout + done.stderr


PLANTED = {
    "glied/text/ngrams.py": ("import glied.captioner.decode", "glied.text.ngrams -> glied.captioner.decode"),
    "glied/regions.py": (
        "def f():\n    from glied.data import image_names",
        "glied.regions -> glied.data.image_names",
    ),
    "glied/captioner/config.py": (
        "from glied.captioner import decode",
        "No cycles are allowed in glied.captioner",
    ),
    "glied/bulk/plan/manifest.py": (
        "from glied.bulk.run import driver",
        "plan.manifest -> glied.bulk.run.driver",
    ),
    "glied/bulk/run/driver.py": ("import ray", "glied.bulk.run.driver -> ray"),
    "glied/data/image_names.py": ("from jobs import status", "glied.data.image_names -> jobs.status"),
    "glied/reports/html_templates.py": (
        "import glied.demo_world.plan",
        "glied.reports.html_templates -> glied.demo_world.plan",
    ),
    "benchmarks/claims_runs.py": ("from benchmarks import claims", "No cycles are allowed in benchmarks"),
}


def test_planted_imports_fail(copied: Path) -> None:
    """Imports of a higher layer (also in functions), cycles, Ray outside of its modules, and jobs."""
    for file, (line, _) in PLANTED.items():
        (copied / file).write_text(f"{(copied / file).read_text()}\n{line}\n")
    done = lint_imports(copied)
    assert done.returncode == 1
    report = " ".join(done.stdout.split())
    assert [found for _, found in PLANTED.values() if found not in report] == []


def test_make_lint_runs_it() -> None:
    assert "$(BIN)/lint-imports" in (ROOT / "Makefile").read_text()
