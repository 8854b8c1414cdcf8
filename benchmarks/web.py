"""A table of web links of which many are dead, captioned by the real job.

python benchmarks/web.py --out web.json
python benchmarks/web.py --full --out web.json

1,000 links on hosts of this machine (`web_hosts`): 40 % dead in ten ways, and a third of the living hosts
answer 429 once. Checked are exit code, rows and kinds of error; then the same command again, which must ask
no host. `--full` also captions the living links alone, for comparison, and runs `output.mode retry_failed`.

Exit code 1 when a row is missing or has another kind than it must have, or a finished run asks a host again.
"""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# `python benchmarks/web.py` puts this folder on the path, not the repository.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import web_hosts
from benchmarks.web_hosts import Hosts
from glied.bulk.run import committed_rows
from glied.config import parse, run
from glied.demo_world.dataset import write_split

SCENES = 40


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many links."""

    full: bool = False
    """Also the living links alone, and a retry of the failed ones."""
    links: int = 1000
    """Links in the table."""
    dead: float = 0.4
    """Share of them that are dead."""
    folder: str = "runs/web"
    """Where pictures and runs are; runs in it are deleted first."""
    out: str | None = None
    """Where to write the result as JSON."""


def pictures(folder: Path) -> list[bytes]:
    """Encoded scenes."""
    if not (folder / "scenes").exists():
        write_split(folder / "scenes", "test", SCENES, 0, 1)
    return [path.read_bytes() for path in sorted((folder / "scenes" / "images").iterdir())]


def caption(folder: Path, name: str, links: list[str], *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and summary of the job over the links."""
    table = folder / f"{name}.csv"
    table.write_text("\n".join(["uri", *links]) + "\n")
    where = [f"--input.uri={table}", f"--output.uri={folder / name}", "--input.form=table"]
    command = [sys.executable, "jobs/caption_dataset.py", "--config=configs/caption/demo.yaml", *where]
    with (folder / f"{name}.log").open("a") as log:
        job = subprocess.run(
            [*command, "--input.allow_private=true", *options], stdout=log, stderr=subprocess.STDOUT
        )
    return job.returncode, json.loads((folder / name / "summary.json").read_text())


def measure(config: Config, folder: Path, hosts: Hosts) -> dict[str, Any]:
    """Figures of the run and of those after it."""
    expected = hosts.urls(config.links, dead=config.dead)
    links = list(expected)
    code, summary = caption(folder, "run", links)
    kinds = {row["uri"]: row["error_kind"] for row in committed_rows.read_rows(str(folder / "run"))}
    asked = hosts.asked()
    again, _ = caption(folder, "run", links)
    result = {
        "links": len(links),
        "exit_code": code,
        "rows": len(kinds),
        "wrong_kinds": sum(kinds.get(link, "missing") != kind for link, kind in expected.items()),
        "errors": summary["errors"],
        "seconds": summary["seconds"],
        "startup_seconds": summary["startup_seconds"],
        "links_per_s": summary["images_per_s"],
        "requests": sum(asked.values()),
        "resume_exit_code": again,
        "requests_of_resume": sum((hosts.asked() - asked).values()),
    }
    if config.full:
        living = [link for link, kind in expected.items() if kind is None]
        _, alone = caption(folder, "living", living)
        result["living_alone_links_per_s"] = alone["images_per_s"]
        asked = hosts.asked()
        retried, _ = caption(folder, "run", links, "--output.mode=retry_failed")
        ways = Counter(path.split("/")[1] for path in (hosts.asked() - asked).elements())
        result |= {"retry_exit_code": retried, "requests_of_retry": dict(sorted(ways.items()))}
    return result


def main() -> int:
    """Run, check and write the figures."""
    config = parse(Config, description=__doc__)
    folder = Path(config.folder).absolute()
    for name in ("run", "living"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / f"{name}.log").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with web_hosts.start(pictures(folder)) as hosts:
        result = measure(config, folder, hosts)
    if config.out:
        Path(config.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    wrong = result["wrong_kinds"] or result["exit_code"] or result["requests_of_resume"]
    return 1 if wrong or result["rows"] != config.links else 0


if __name__ == "__main__":
    run(main)
