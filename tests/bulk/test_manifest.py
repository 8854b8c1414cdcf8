from glied.bulk import manifest
from glied.bulk.manifest import Entry


def entries(count: int) -> list[Entry]:
    return [Entry(f"{i:05d}.jpg", f"/in/{i:05d}.jpg", i) for i in range(count)]


def test_units_are_read_back_from_the_parts_that_hold_them(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "PART_ROWS", 20)
    plan = manifest.create(str(tmp_path), entries(50), 8, {})
    assert (plan.images, plan.units, [part.rows for part in plan.parts]) == (50, 7, [16, 16, 16, 2])
    assert manifest.load(str(tmp_path)) == plan
    (tmp_path / "manifest" / plan.plan / "part-000000.parquet").unlink()
    units = list(plan.read_units({2, 6}))
    assert [unit.index for unit in units] == [2, 6]
    assert units[0].entries == entries(50)[16:24]
    assert units[1].entries == entries(50)[48:]


def test_the_first_plan_wins(tmp_path):
    first = manifest.create(str(tmp_path), entries(5), 2, {})
    second = manifest.create(str(tmp_path), entries(9), 2, {})
    assert second == first
    assert len(list(tmp_path.glob("manifest/*/*.parquet"))) == 1


def test_no_plan(tmp_path):
    assert manifest.load(str(tmp_path)) is None


def test_what_was_skipped_is_counted(tmp_path):
    skipped: dict[str, int] = {}

    def listing():
        yield from entries(3)
        skipped[".txt"] = 4

    assert manifest.create(str(tmp_path), listing(), 2, skipped).skipped == 4
