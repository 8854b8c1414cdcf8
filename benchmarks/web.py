"""Caption a table of web links, many of them dead, with the real job.

python benchmarks/web.py --out web.json
python benchmarks/web.py --full --out web.json

The 1,000 links point to hosts on this machine (`web_hosts`). 40 % of them are dead in ten different ways, and
a third of the live hosts answer their first request with 429. The script checks the exit code, the rows and
the error kinds, then runs the same command again, which must not send any request. `--full` also captions the
live links alone, for comparison, and runs `output.mode retry_failed`.

The exit code is 1 if a row is missing or has the wrong error kind, or if a finished run sends requests.
"""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks import web_hosts
from benchmarks.measurement import print_result
from benchmarks.web_hosts import Hosts
from glied.bulk.run import committed_rows
from glied.config import parse, run
from glied.demo_world.dataset import write_split

SCENES = 40


@dataclass(frozen=True, kw_only=True)
class Config:
    """Size and mixture of the table."""

    full: bool = False
    """Also caption the live links alone, and retry the failed rows."""
    links: int = 1000
    """Number of links in the table."""
    dead: float = 0.4
    """Proportion of dead links."""
    folder: str = "runs/web"
    """Folder of the images and runs; runs in it are deleted first."""
    out: str | None = None
    """File for the result as JSON."""


def pictures(folder: Path) -> list[bytes]:
    """Return rendered scenes as encoded images."""
    if not (folder / "scenes").exists():
        write_split(folder / "scenes", "test", SCENES, 0, 1)
    return [path.read_bytes() for path in sorted((folder / "scenes" / "images").iterdir())]


def caption(folder: Path, name: str, links: list[str], *options: str) -> tuple[int, dict[str, Any]]:
    """Caption the links; return the job's exit code and summary."""
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
    """Run the job, then the runs after it, and return their figures."""
    expected = hosts.urls(config.links, dead=config.dead)
    links = list(expected)
    code, summary = caption(folder, "run", links)
    kinds = {row["uri"]: row["error_kind"] for row in committed_rows.read_rows(str(folder / "run"))}
    requests = hosts.requests()
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
        "requests": sum(requests.values()),
        "resume_exit_code": again,
        "requests_of_resume": sum((hosts.requests() - requests).values()),
    }
    if config.full:
        live = [link for link, kind in expected.items() if kind is None]
        _, summary = caption(folder, "live", live)
        result["live_alone_links_per_s"] = summary["images_per_s"]
        requests = hosts.requests()
        retried, _ = caption(folder, "run", links, "--output.mode=retry_failed")
        ways = Counter(path.split("/")[1] for path in (hosts.requests() - requests).elements())
        result |= {"retry_exit_code": retried, "requests_of_retry": dict(sorted(ways.items()))}
    return result


def main() -> int:
    """Run the jobs, check the results and print the figures."""
    config = parse(Config, description=__doc__)
    folder = Path(config.folder).absolute()
    for name in ("run", "live"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / f"{name}.log").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with web_hosts.start(pictures(folder)) as hosts:
        result = measure(config, folder, hosts)
    print_result(result, config.out)
    wrong = result["wrong_kinds"] or result["exit_code"] or result["requests_of_resume"]
    return 1 if wrong or result["rows"] != config.links else 0


if __name__ == "__main__":
    run(main)
