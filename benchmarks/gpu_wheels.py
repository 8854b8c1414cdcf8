"""Download the wheels that benchmarks/gpu.py needs on a GPU machine without a network, and check them.

python benchmarks/gpu_wheels.py --out .wheels

The GPU machine has Python 3.12, torch 2.11 and the packages of benchmarks/gpu_machine.txt; `WHEELS` are the
other packages, in the versions of constraints.txt. The script checks the total size of the wheels and this
repository's files, which are copied together. It also imports benchmarks/gpu.py and its stages in a process
that hides all other packages, to check that no package is missing. On the GPU machine, run:

    python3 -m pip install --no-index --no-deps --no-compile --target .site .wheels/*.whl
    PYTHONPATH=$PWD/.site python3 benchmarks/gpu.py

The last line is one JSON object. The exit code is 1 if a package is missing or the size exceeds the limit.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.measurement import ROOT
from glied.config import parse, run
from glied.errors import JobError

MACHINE = ROOT / "benchmarks" / "gpu_machine.txt"
WHEELS = (
    "docstring_parser",
    "ftfy",
    "importlib_resources",
    "jsonargparse",
    "open_clip_torch",
    "typeshed_client",
    "wcwidth",
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
HIDING = """
import importlib, importlib.metadata, sys

def plain(name):
    return name.lower().replace("_", "-").replace(".", "-")

allowed = set(map(plain, {allowed!r}))
hidden = {{
    module
    for module, owners in importlib.metadata.packages_distributions().items()
    if not allowed & set(map(plain, owners))
}}

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name in hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Hiding, sys.meta_path)
for name in {modules!r}:
    importlib.import_module(name)
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Folder and maximum size of the wheels."""

    out: str = ".wheels"
    """Folder of the wheels; other wheels in it are deleted."""
    limit_mb: int = 64
    """Maximum size of this repository's files and the wheels together, in MiB."""
    download: bool = True
    """Download the wheels; otherwise only check those in the folder."""


def main() -> int:
    """Download and check the wheels."""
    config = parse(Config, description=__doc__)
    folder = Path(config.out)
    wanted = pinned((ROOT / "constraints.txt").read_text(), WHEELS)
    if config.download:
        download(wanted, folder)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != len(wanted):
        raise JobError(f"{folder} has {len(wheels)} wheels, not the {len(wanted)} of {', '.join(wanted)}")
    wheel_bytes = sum(wheel.stat().st_size for wheel in wheels)
    total = wheel_bytes + tree_bytes()
    missing = import_error([*listed(MACHINE.read_text()), "glied", *WHEELS])
    result: dict[str, Any] = {
        "wheels": [wheel.name for wheel in wheels],
        "wheels_mb": round(wheel_bytes / 2**20, 2),
        "total_mb": round(total / 2**20, 2),
        "limit_mb": config.limit_mb,
        "missing": missing,
    }
    print(json.dumps(result))
    return int(bool(missing) or total > config.limit_mb * 2**20)


def pinned(constraints: str, names: Sequence[str]) -> list[str]:
    """Return `names` as name==version; raises `JobError` if a name has no version."""
    versions = dict(line.split("==") for line in constraints.splitlines() if "==" in line)
    lacking = [name for name in names if name not in versions]
    if lacking:
        raise JobError(f"constraints.txt has no version of {', '.join(lacking)}")
    return [f"{name}=={versions[name]}" for name in names]


def listed(text: str) -> list[str]:
    """Return the lines of a list of names, without comments."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def download(wanted: Sequence[str], folder: Path) -> None:
    """Download wheels for Python 3.12 on Linux; raises `JobError` if one is not available."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    options = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--implementation=cp", "--quiet"]
    options += [f"--platform={platform}" for platform in PLATFORMS]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise JobError(f"pip cannot download the wheels: {done.stderr.strip()[-500:]}")


def tree_bytes() -> int:
    """Return the size in bytes of this repository's files that git tracks or does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    paths = (ROOT / name for name in names.split("\0") if name)
    return sum(path.stat().st_size for path in paths if path.is_file())


def import_error(allowed: Sequence[str]) -> str:
    """Import benchmarks/gpu.py and its stages with only the `allowed` packages; return the error, or ""."""
    stages = sorted((ROOT / "benchmarks" / "gpu_stages").glob("*.py"))
    modules = ["benchmarks.gpu", *(f"benchmarks.gpu_stages.{path.stem}" for path in stages)]
    code = HIDING.format(allowed=list(allowed), modules=modules)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


if __name__ == "__main__":
    run(main)
