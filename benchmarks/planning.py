"""Time and memory of planning a million images, and of asking how far a run of 10,000 units is.

python benchmarks/planning.py --out planning.json

Three parts, each in a process of its own: a CSV of a million URIs; a listing of S3, a thousand keys a page,
faked at the client (what the network would take is not in it); `jobs/status.py` on a run of 10,000 units.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
    """Entries to plan."""
    part: Literal["all", "table", "listing", "status"] = "all"
    """Used by the script itself: one part, in this process."""
    out: str | None = None
    """Where to write the result as JSON."""


class PagedClient:
    """Answers list_objects_v2 as S3 does; `images` keys in order."""

    def __init__(self, images: int) -> None:
        """Nothing is held: a page is made when it is asked for."""
        self.images = images

    def list_objects_v2(self, ContinuationToken: str = "0", **_: str) -> dict[str, Any]:  # S3's name
        """A page of a thousand keys."""
        first = int(ContinuationToken)
        last = min(first + 1000, self.images)
        items = [{"Key": f"photos/{i // 1000:06d}/{i:09d}.jpg", "Size": 100_000} for i in range(first, last)]
        return {"Contents": items, "IsTruncated": last < self.images, "NextContinuationToken": str(last)}


def plan(config: InputConfig, folder: Path) -> int:
    """Plan a run; its units."""
    source = open_source(config, str(folder))
    batches = inputs(source, config)
    made = manifest.create(str(folder), batches, UNIT_SIZE, columns=source.columns, skipped=source.skipped)
    return made.images


def measure(part: str, images: int, folder: Path) -> dict[str, float]:
    """Seconds and the peak of this process's memory."""
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
    return {"seconds": round(seconds, 1), "peak_mb": peak_mb()}


def measure_status(folder: Path) -> dict[str, float]:
    """`jobs/status.py` as a process, on a run of empty outputs."""
    table = manifest.planned(
        id=[f"{i}.jpg" for i in range(UNITS * 10)], uri=[f"/in/{i}.jpg" for i in range(UNITS * 10)]
    )
    made = manifest.create(str(folder), [table], 10)
    ledger = Ledger(str(folder), made.plan, "captions", "r")
    for unit in range(UNITS):
        ledger.put_output(unit, 0, b"rows")
        ledger.commit(unit, 0, b"rows", Counts({"ok": 9, "failed": 1}, {"lost": 1}, {"decode": 0.1}))
    (folder / "run.json").write_text(json.dumps({"run": "r", "results": "captions", "fingerprint": {}}))
    start = time.perf_counter()
    subprocess.run([sys.executable, "jobs/status.py", str(folder)], check=True)
    return {"seconds": round(time.perf_counter() - start, 1), "units": UNITS}


def peak_mb() -> float:
    """Peak resident memory of this process."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> int:
    """Measure each part in a process of its own."""
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
        command = [sys.executable, __file__, "--part", part, "--images", str(config.images)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result[part] = json.loads(done.stdout.splitlines()[-1])
    if config.out:
        Path(config.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    run(main)
