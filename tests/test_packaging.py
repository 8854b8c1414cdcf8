"""The declared dependencies, and the wheel: its content, and its use outside of the repository."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import packages_distributions
from pathlib import Path

import pyarrow.dataset
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import glied

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PHOTOGRAPHS = ROOT / "docs" / "images" / "photographs"
OWN = {"glied", "jobs", "cluster"}


def normalized(name: str) -> str:
    """Return a distribution's normalized name without version and extras."""
    return re.split(r"[\[<>=~! ;@]", name.strip())[0].lower().replace("_", "-")


def imported(file: Path) -> set[str]:
    """Return the top-level modules that a file imports, also in functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def test_imported_packages_are_declared() -> None:
    """As a dependency or in an extra; dev tools are never imported."""
    files = [file for folder in sorted(OWN) for file in (ROOT / folder).rglob("*.py")]
    names = {name for file in files for name in imported(file)} - set(sys.stdlib_module_names) - OWN
    extras = PROJECT["optional-dependencies"]
    optional = [one for extra in extras.keys() - {"dev"} for one in extras[extra]]
    known = {normalized(one) for one in [*PROJECT["dependencies"], *optional]}
    distributions = packages_distributions()
    missing = [
        name
        for name in sorted(names)
        if not known & {normalized(one) for one in [name, *distributions.get(name, [])]}
    ]
    assert len(names) > 20
    assert missing == []


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["version"] == glied.__version__


@pytest.mark.parametrize(("target", "tools"), [("demo", False), ("check", True), ("test", True)])
def test_only_tests_install_dev_tools(target: str, tools: bool) -> None:
    planned = subprocess.run(
        ["make", "-n", "VENV=a-fresh-one", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "-e .\n" in planned.stdout
    assert ('-e ".[dev]"' in planned.stdout) is tools


# ---- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy because a build leaves files in its folder."""
    folder = tmp_path_factory.mktemp("wheel")
    parts = ["glied", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE"]
    subprocess.run(["cp", "-r", *parts, folder], cwd=ROOT, check=True)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    command = [sys.executable, "-c", build]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory) -> Path:
    """Programs of a new environment with the wheel and the dependencies of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, env=_environment())
    (packages,) = folder.glob("lib/python*/site-packages")
    # Only a path: this environment's .pth files, which lead to the repository, have no effect there.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run(installed: Path, folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment outside of the repository, without a path to it."""
    command = [str(installed / program), *arguments]
    return subprocess.run(
        command, cwd=folder, env=_environment(), capture_output=True, text=True, timeout=580
    )


def _environment() -> dict[str, str]:
    """This process's environment without a path to the repository, which tests with Ray add."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def test_the_wheel_has_weights_and_configs(installed: Path, tmp_path: Path) -> None:
    code = "from glied import shipped; print(shipped.PACKAGE, len(shipped.config_names()))"
    done = run(installed, tmp_path, "python", "-c", code)
    package, configs = done.stdout.split()
    assert Path(package).is_relative_to(installed.parent)
    assert int(configs) == len(list((ROOT / "configs").rglob("*.yaml")))
    for kind in ("*.safetensors", "model.json", "*.html", "*.pyi", "py.typed"):
        here = {file.relative_to(ROOT / "glied") for file in (ROOT / "glied").rglob(kind)}
        assert {file.relative_to(package) for file in Path(package).rglob(kind)} == here, kind


def test_the_installed_command_captions_images_and_names_itself(installed: Path, tmp_path: Path) -> None:
    files = [str(PHOTOGRAPHS / name) for name in ("wren.jpg", "two-dogs.jpg")]
    done = run(installed, tmp_path, "glied", "caption-image", *files)
    assert done.returncode == 0, done.stderr
    wren, dogs = done.stdout.splitlines()
    assert re.fullmatch(rf"{files[0]}: [\w ]*bird[\w ]*", wren)
    assert re.fullmatch(rf"{files[1]}: [\w ]*dog[\w ]*", dogs)
    done = run(installed, tmp_path, "glied", "caption", "--config", "caption/nothing.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config caption/nothing.yaml: no such file")
    assert len(done.stderr.splitlines()) == 1


def test_the_installed_command_captions_a_folder(installed: Path, tmp_path: Path) -> None:
    options = ["--config", "caption/photographs.yaml", "--input.uri", str(PHOTOGRAPHS), "--output.uri", "run"]
    done = run(installed, tmp_path, "glied", "caption", *options, "--resources.worker.count=1")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = (
        pyarrow.dataset.dataset(str(tmp_path / "run" / "captions"), format="parquet").to_table().to_pylist()
    )
    captions = {Path(row["id"]).name: row["caption"] for row in rows}
    assert len(captions) == len(list(PHOTOGRAPHS.glob("*.jpg")))
    assert "bird" in captions["wren.jpg"]


def test_the_script_of_the_readme_runs_where_the_package_is_installed(
    installed: Path, tmp_path: Path
) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(script.splitlines()) <= 10
    (tmp_path / "photos").mkdir()
    for name in ("wren.jpg", "cat.jpg"):
        (tmp_path / "photos" / name).symlink_to(PHOTOGRAPHS / name)
    done = run(installed, tmp_path, "python", "-c", script)
    assert done.returncode == 0, done.stderr[-2000:]
    cat, wren = done.stdout.splitlines()
    assert cat.startswith("photos/cat.jpg: ")
    assert re.fullmatch(r"photos/wren\.jpg: .*bird.*", wren)
