import json
import random
from collections import Counter

import pyarrow as pa
import pytest

from glied.bulk.plan import manifest
from glied.bulk.plan.manifest import planned
from glied.errors import GliedError, JobError


def inputs(count: int, *, batch: int = 7) -> list[pa.Table]:
    table = planned(
        id=[f"{i:05d}.jpg" for i in range(count)],
        uri=[f"/in/{i:05d}.jpg" for i in range(count)],
        size=list(range(count)),
    )
    return [table.slice(start, batch) for start in range(0, count, batch)]


def test_units_are_read_back_from_the_parts_that_hold_them(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "PART_ROWS", 20)
    columns = pa.schema([("place", pa.string()), ("taken", pa.timestamp("us", "UTC"))])
    plan = manifest.create(str(tmp_path), inputs(50), 8, columns=columns)
    assert (plan.images, plan.units, [part.rows for part in plan.parts]) == (50, 7, [16, 16, 16, 2])
    assert manifest.load(str(tmp_path)) == plan
    assert [plan.rows_of(unit) for unit in range(7)] == [8] * 6 + [2]
    (tmp_path / "manifest" / plan.plan / "part-000000.parquet").unlink()
    units = list(plan.read_units({2, 6}))
    assert [unit.index for unit in units] == [2, 6]
    whole = pa.concat_tables(inputs(50))
    assert units[0].table.equals(whole.slice(16, 8))
    assert units[1].table.equals(whole.slice(48))
    assert units[1].ids == ["00048.jpg", "00049.jpg"]


def test_the_plan_does_not_depend_on_batches(tmp_path):
    plans = [manifest.create(str(tmp_path / str(batch)), inputs(50, batch=batch), 8) for batch in (1, 8, 50)]
    assert len({plan.digest for plan in plans}) == 1
    tables = [pa.concat_tables(unit.table for unit in plan.read_units(range(7))) for plan in plans]
    assert all(table.equals(tables[0]) for table in tables)


def test_the_first_plan_wins(tmp_path):
    first = manifest.create(str(tmp_path), inputs(5), 2)
    second = manifest.create(str(tmp_path), inputs(9), 2)
    assert second == first
    assert len(list(tmp_path.glob("manifest/*/*.parquet"))) == 1


def test_no_plan(tmp_path):
    assert manifest.load(str(tmp_path)) is None


def test_skipped_files_are_counted(tmp_path):
    skipped: dict[str, int] = {}

    def listing():
        yield from inputs(3)
        skipped[".txt"] = 4

    assert manifest.create(str(tmp_path), listing(), 2, skipped=skipped).skipped == 4


def claim(folder, run: str) -> None:
    content = {"run": run, "results": "captions", "fingerprint": {}}
    (folder / "run.json").write_text(json.dumps(content))


def test_a_manifest_belongs_to_its_run(tmp_path):
    old = manifest.create(str(tmp_path), inputs(5), 2, run="aaaaaaaaaaaa")
    claim(tmp_path, "bbbbbbbbbbbb")
    assert manifest.load(str(tmp_path)) is None
    first = manifest.create(str(tmp_path), inputs(9), 2, run="bbbbbbbbbbbb")
    second = manifest.create(str(tmp_path), inputs(7), 2, run="bbbbbbbbbbbb")
    assert first == second == manifest.load(str(tmp_path))
    assert (first.images, old.images) == (9, 5)
    assert len(list(tmp_path.glob("manifest/*/*.parquet"))) == 2


def test_a_run_that_is_overwritten_during_planning_leaves_no_manifest(tmp_path):
    def confirm():
        raise JobError("was overwritten")

    with pytest.raises(JobError):
        manifest.create(str(tmp_path), inputs(5), 2, run="aaaaaaaaaaaa", confirm=confirm)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_manifest_of_an_older_version_fits_any_run(tmp_path):
    plan = manifest.create(str(tmp_path), inputs(5), 2)
    path = tmp_path / "manifest" / "manifest.json"
    content = json.loads(path.read_text())
    del content["run"], content["checksum"]
    path.write_text(json.dumps(content))
    claim(tmp_path, "bbbbbbbbbbbb")
    assert manifest.load(str(tmp_path)) == plan


def test_any_flipped_byte_is_one_line(tmp_path):
    """A flipped byte in manifest.json or in a part is reported as an error or has no effect."""
    plan = manifest.create(str(tmp_path), inputs(40), 8, run="aaaaaaaaaaaa")
    whole = pa.concat_tables(unit.table for unit in plan.read_units(range(5)))
    claim(tmp_path, "aaaaaaaaaaaa")
    generator = random.Random(0)
    part = tmp_path / "manifest" / plan.plan / "part-000000.parquet"
    refused: Counter[str] = Counter()
    for path in (tmp_path / "manifest" / "manifest.json", part):
        data = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(data)
            damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            path.write_bytes(damaged)
            try:
                found = manifest.load(str(tmp_path))
                rows = found and pa.concat_tables(unit.table for unit in found.read_units(range(5)))
                assert found is None or (found == plan and rows.equals(whole))
                refused[path.name] += found is None
            except GliedError:
                refused[path.name] += 1
        path.write_bytes(data)
    assert refused["manifest.json"] > 130, "a flipped space may not change the meaning"
    assert refused["part-000000.parquet"] == 150
