"""The import rule: only some modules import Ray, and the package never imports its jobs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WITH_RAY = {
    "glied.bulk.ray.actors",
    "glied.bulk.ray.metrics",
    "glied.bulk.ray.shortage",
    "glied.bulk.ray.stream",
    "glied.training.ray_trainer",
}
TRAINING = (
    "train_regions",
    "train_attributes",
    "train_backbone",
    "train_captioner",
    "train_scst",
    "train_clip",
)
WITH_RAY |= {f"glied.commands.{name}" for name in (*TRAINING, "finetune_grammar")}


def modules() -> list[str]:
    files = (ROOT / "glied").rglob("*.py")
    names = (
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files
    )
    return sorted(set(names) - WITH_RAY)


def imported_by(names: list[str], then: str = "") -> set[str]:
    """Return the imported top-level modules of a new process after it imports `names` and runs `then`."""
    code = (
        "import sys, importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names) + then
    )
    code += "\nprint('\\n'.join(sorted({name.split('.')[0] for name in sys.modules})))"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(output.stdout.split())


def test_only_the_stream_and_the_ray_trainer_import_ray() -> None:
    names = modules()
    assert len(names) > 30
    assert "ray" not in imported_by(names)


@pytest.mark.parametrize("name", sorted(WITH_RAY))
def test_the_exceptions_really_use_ray(name: str) -> None:
    """Or import a module that does, at the top of the module."""
    tree = ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text())
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert any(one.split(".")[0] == "ray" or one in WITH_RAY for one in names)


def test_package_never_imports_jobs() -> None:
    sources = {file: file.read_text() for file in (ROOT / "glied").rglob("*.py")}
    offenders = [file for file, text in sources.items() if "from jobs" in text or "import jobs" in text]
    assert offenders == []


def test_drivers_fetch_tasks_and_storage_tools_start_without_torch() -> None:
    """Importing torch takes seconds and 450 MB."""
    light = ["captioning", "extraction", "run.bulk_run", "ray.stream", "plan.sources.fetch", "run.status"]
    code = """
from glied.bulk.captioning import CaptionDatasetConfig
from glied.config import parse
parse(CaptionDatasetConfig, ["--config=configs/caption/demo.yaml"])  # evaluates annotations
"""
    names = [f"glied.bulk.{name}" for name in [*light, "exports.export"]]
    names.append("glied.reports.training_report")
    assert "torch" not in imported_by(names, code)
