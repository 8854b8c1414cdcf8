"""Small handmade caption runs, written through the real manifest and ledger."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from glied import run_folder
from glied.bulk import row_schemas
from glied.bulk.plan import manifest
from glied.bulk.plan.manifest import Manifest
from glied.bulk.run.ledger import Counts, Ledger

RUN = "0123456789ab"


@contextmanager
def changed_record(folder: Path) -> Iterator[dict[str, Any]]:
    """Change the run.json of a run and write it without a checksum, as older versions did."""
    record = json.loads((folder / "run.json").read_text())
    record.pop(run_folder.CHECKSUM, None)
    yield record
    (folder / "run.json").write_text(json.dumps(record))


def plan_run(folder: Path, ids: Sequence[str], unit_size: int, *, results: str = "captions") -> Manifest:
    """Make a run folder with a manifest and no finished unit."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"run": RUN, "results": results, "fingerprint": {}, "input": {}, "config": {}}
    (folder / "run.json").write_text(json.dumps(record))
    planned = manifest.planned(id=list(ids), uri=[f"/in/{image_id}" for image_id in ids])
    return manifest.create(str(folder), [planned], unit_size, run=RUN)


def row(image_id: str, status: str = "ok", **values: Any) -> dict[str, Any]:
    """Return a row of a caption run whose caption contains the id."""
    ok = {"caption": f"a picture of {image_id}"} if status == "ok" else {"error_kind": "empty", "error": "no"}
    known = {"id": image_id, "uri": f"/in/{image_id}", "status": status, "model": "m"}
    return row_schemas.empty_row(row_schemas.CAPTIONS, **known, **ok) | values


def table(rows: Sequence[dict[str, Any]], **extra: pa.Array) -> pa.Table:
    """Return rows with additional columns of the input."""
    made = pa.Table.from_pylist(list(rows), schema=row_schemas.CAPTIONS)
    for name, values in extra.items():
        made = made.append_column(name, values)
    return made


def commit(folder: Path, plan: Manifest, unit: int, rows: pa.Table, generation: int = 0) -> None:
    """Write and commit a unit like the driver."""
    book = Ledger(str(folder), plan.plan, "captions", RUN)
    data = row_schemas.encode(rows)
    statuses = Counter(rows["status"].to_pylist())
    errors = Counter(kind for kind in rows["error_kind"].to_pylist() if kind)
    assert book.put_output(unit, generation, data)
    assert book.commit(unit, generation, data, Counts(dict(statuses), dict(errors), {"decode": 0.5}))


def make_run(
    folder: Path, rows: Sequence[dict[str, Any]], unit_size: int, *, units: int | None = None
) -> Manifest:
    """Make a run of these rows with its first `units` units finished, by default all."""
    plan = plan_run(folder, [one["id"] for one in rows], unit_size)
    for unit in range(plan.units if units is None else units):
        commit(folder, plan, unit, table(rows[unit * unit_size : (unit + 1) * unit_size]))
    return plan


def output(folder: Path, plan: Manifest, unit: int, generation: int = 0) -> Path:
    """Return the path of a unit's Parquet file."""
    return Path(Ledger(str(folder), plan.plan, "captions", RUN).output_uri(unit, generation))


def record(folder: Path, unit: int, generation: int = 0) -> Path:
    """Return the path of a unit's commit record."""
    (found,) = folder.glob(f"commits/unit-{unit:06d}-*.g{generation}.json")
    return found


def light_job(script: str, *options: str) -> subprocess.CompletedProcess:
    """Run a job of jobs/ as a process without Ray and torch, which are slow to import."""
    root = Path(__file__).resolve().parents[2]
    command = "import runpy, sys; sys.modules |= {'ray': None, 'torch': None}; "
    command += f"runpy.run_path('jobs/{script}.py', run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", command, *options],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
