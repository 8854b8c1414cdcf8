"""Measure the time and memory of planning a million images, and of the status of a run with 10,000 units.

python benchmarks/planning.py --out planning.json

Each of the three parts runs in its own process: a CSV of a million URIs; an S3 listing with 1,000 keys per
page, simulated in the client, so that the network is not included; and `jobs/status.py` on a run with 10,000
units.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.measurement import json_from_subprocess, peak_memory_mb, print_result
from glied import s3
from glied.bulk.config import InputConfig
from glied.bulk.plan import manifest
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.bulk.run.ledger import Counts, Ledger
from glied.config import parse, run

UNIT_SIZE = 256
UNITS = 10_000


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    images: int = 1_000_000
    """Number of images to plan."""
    part: Literal["all", "table", "listing", "status"] = "all"
    """Used by the script itself: measure one part in this process."""
    out: str | None = None
    """File for the result as JSON."""


class PagedClient:
    """An S3 client that lists `images` keys; it makes each page on request and keeps none."""

    def __init__(self, images: int) -> None:
        """Set the number of keys."""
        self.images = images

    def list_objects_v2(self, ContinuationToken: str = "0", **_: str) -> dict[str, Any]:  # S3's name
        """Return a page of 1,000 keys."""
        first = int(ContinuationToken)
        last = min(first + 1000, self.images)
        items = [{"Key": f"photos/{i // 1000:06d}/{i:09d}.jpg", "Size": 100_000} for i in range(first, last)]
        return {"Contents": items, "IsTruncated": last < self.images, "NextContinuationToken": str(last)}


def plan(config: InputConfig, folder: Path) -> int:
    """Plan a run and return its number of images."""
    source = open_source(config, str(folder))
    batches = inputs(source, config)
    plan = manifest.create(str(folder), batches, UNIT_SIZE, columns=source.columns, skipped=source.skipped)
    return plan.images


def measure(part: str, images: int, folder: Path) -> dict[str, float]:
    """Measure one part: its seconds, and the peak memory of this process."""
    if part == "table":
        lines = (f"https://host/{i:09d}.jpg,a text about it,{i}\n" for i in range(images))
        with (folder / "table.csv").open("w") as file:
            file.write("uri,alt,number\n")
            file.writelines(lines)
        config = InputConfig(uri=str(folder / "table.csv"), form="table")
    elif part == "listing":
        client = PagedClient(images)
        s3._access = lambda: s3.Access(client, None, None, None)
        config = InputConfig(uri="s3://bucket/photos")
    else:
        return measure_status(folder)
    start = time.perf_counter()
    planned = plan(config, folder / "run")
    seconds = time.perf_counter() - start
    assert planned == images, planned
    return {"seconds": round(seconds, 1), "peak_mb": peak_memory_mb()}


def measure_status(folder: Path) -> dict[str, float]:
    """Measure `jobs/status.py` as a process, on a run whose outputs are empty."""
    table = manifest.planned(
        id=[f"{i}.jpg" for i in range(UNITS * 10)], uri=[f"/in/{i}.jpg" for i in range(UNITS * 10)]
    )
    plan = manifest.create(str(folder), [table], 10)
    ledger = Ledger(str(folder), plan.plan, "captions", "r")
    for unit in range(UNITS):
        ledger.put_output(unit, 0, b"rows")
        ledger.commit(unit, 0, b"rows", Counts({"ok": 9, "failed": 1}, {"lost": 1}, {"decode": 0.1}))
    (folder / "run.json").write_text(json.dumps({"run": "r", "results": "captions", "fingerprint": {}}))
    start = time.perf_counter()
    subprocess.run([sys.executable, "jobs/status.py", str(folder)], check=True)
    return {"seconds": round(time.perf_counter() - start, 1), "units": UNITS}


def main() -> int:
    """Measure each part in its own process."""
    config = parse(Config, description=__doc__)
    if config.part != "all":
        folder = Path(tempfile.mkdtemp(prefix="glied-planning-"))
        try:
            print(json.dumps(measure(config.part, config.images, folder)))
        finally:
            shutil.rmtree(folder)
        return 0
    result: dict[str, Any] = {"images": config.images}
    for part in ("table", "listing", "status"):
        result[part] = json_from_subprocess(__file__, "--part", part, "--images", str(config.images))
    print_result(result, config.out)
    return 0


if __name__ == "__main__":
    run(main)
