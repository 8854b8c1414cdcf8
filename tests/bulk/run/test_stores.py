"""A feature store that is a run: every reader reads only committed units."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from glied.bulk.plan import manifest
from glied.bulk.plan.manifest import Manifest
from glied.bulk.plan.sources.feature_stores import StoreSource
from glied.bulk.run import committed_rows
from glied.bulk.run.ledger import Counts, Ledger
from glied.data import features, tsv_export
from glied.errors import UsageError
from glied.regions import Regions
from tests.bulk import runs
from tests.stores import StoredRegions

FINGERPRINT = {"extractor": "a"}


def rows(names: list[str], value: float = 1.0, fingerprint: dict | None = None) -> bytes:
    """Return rows of a store whose features all have the value `value`."""
    regions = [
        Regions(
            boxes=np.zeros((2, 4), np.float32),
            features=np.full((2, 3), value, np.float32),
            scores=np.ones(2, np.float32),
            labels=["", ""],
            attributes=[[], []],
            width=8,
            height=8,
        )
        for _ in names
    ]
    return features.parquet_bytes(features.write(regions, names, fingerprint=fingerprint or FINGERPRINT))


def commit(folder: Path, plan: Manifest, unit: int, data: bytes, generation: int = 0) -> None:
    book = Ledger(str(folder), plan.plan, "features", runs.RUN)
    assert book.put_output(unit, generation, data)
    book.commit(unit, generation, data, Counts({"ok": 2}))


@pytest.fixture
def store(tmp_path) -> tuple[Path, Manifest]:
    """Two units, the second in two generations, and uncommitted files."""
    folder = tmp_path / "run"
    plan = runs.plan_run(folder, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], 2, results="features")
    commit(folder, plan, 0, rows(["a.jpg", "b.jpg"]))
    commit(folder, plan, 1, rows(["c.jpg", "d.jpg"], 5.0))
    commit(folder, plan, 1, rows(["c.jpg", "d.jpg"]), generation=1)
    book = Ledger(str(folder), plan.plan, "features", runs.RUN)
    assert book.put_output(0, 1, rows(["a.jpg", "b.jpg"], 7.0)), "not committed"
    for name in ("unit-000000-ffffffff.g0.parquet", "mine.parquet"):
        (folder / "features" / name).write_bytes(rows(["e.jpg"], 9.0, {"extractor": "b"}))
    return folder, plan


def values(uri: str) -> dict[str, float]:
    found = StoredRegions(uri)
    return {name: float(found[name].features.max()) for name in found.ids}


@pytest.mark.parametrize("inside", ["", "features", "features/"])
def test_only_committed_units_are_read(store, inside, monkeypatch):
    folder, _ = store
    uri = f"{folder}/{inside}".removesuffix("/") if not inside else f"{folder}/{inside}"
    wanted = dict.fromkeys(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], 1.0)
    assert values(uri) == wanted
    assert features.fingerprint(uri) == FINGERPRINT
    assert features.image_ids(uri) == list(wanted)
    assert features.stored_size(uri, 4).bytes == sum(
        Path(path).stat().st_size for path in features.paths(uri)
    )
    assert [row["id"] for row in tsv_export.stored_rows(uri)] == list(wanted)
    planned = [row for table in StoreSource(uri) for row in table.to_pylist()]
    assert [row["id"] for row in planned] == list(wanted)
    assert {Path(row["file"]).name for row in planned} == {Path(path).name for path in features.paths(uri)}
    monkeypatch.chdir(folder)
    assert values(inside or ".") == wanted


def test_an_unfinished_store_is_reported_and_read(store, caplog):
    folder, _ = store
    for path in folder.glob("commits/unit-000001-*"):
        path.unlink()
    assert values(str(folder)) == {"a.jpg": 1.0, "b.jpg": 1.0}
    assert "1 of 2 units are done" in caplog.text
    for path in folder.glob("commits/*"):
        path.unlink()
    with pytest.raises(UsageError, match="nothing is committed"):
        features.paths(str(folder))


@pytest.mark.parametrize("left", [None, b"", b"PAR1"])
def test_deleted_and_truncated_files_are_refused(store, left):
    folder, plan = store
    path = Path(Ledger(str(folder), plan.plan, "features", runs.RUN).output_uri(1, 1))
    path.unlink() if left is None else path.write_bytes(left)
    with pytest.raises(UsageError, match=r"1 committed units are damaged, first .*unit-000001"):
        features.paths(str(folder))


@pytest.mark.parametrize("content", [None, b"[", b"\xff", b"{}", b'{"run": 3}'])
@pytest.mark.parametrize("inside", ["", "features"])
def test_a_run_with_a_bad_run_json_is_not_read_as_a_plain_folder(store, content, inside):
    folder, _ = store
    path = folder / "run.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UsageError, match=r"run\.json"):
        features.paths(f"{folder}/{inside}")


def test_a_caption_run_is_not_a_store(tmp_path):
    runs.make_run(tmp_path, [runs.row("a.jpg")], 1)
    with pytest.raises(UsageError, match="holds captions, not a feature store"):
        features.paths(str(tmp_path))


def test_all_files_of_a_plain_folder_are_read(store, tmp_path):
    folder, _ = store
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "run.json").write_text(json.dumps({"kind": "a training's"}))
    for path in features.paths(str(folder)):
        shutil.copy(path, plain)
    (plain / "more.parquet").write_bytes(rows(["e.jpg"]))
    assert list(values(str(plain))) == ["e.jpg", "a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert values(str(plain / "more.parquet")) == {"e.jpg": 1.0}


def test_a_run_of_an_older_version_is_read(store):
    folder, plan = store
    for path in folder.glob("commits/*.json"):
        unit, _, generation = path.name.partition(f"-{plan.plan[:8]}-")
        path.rename(path.with_name(f"{unit}-{plan.plan[:8]}.{generation.split('.', 1)[1]}"))
    path = folder / "manifest" / "manifest.json"
    content = json.loads(path.read_text())
    del content["run"], content["checksum"]
    path.write_text(json.dumps(content))
    assert values(str(folder)) == dict.fromkeys(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], 1.0)


def test_the_files_of_a_caption_run(tmp_path):
    plan = runs.make_run(tmp_path, [runs.row(f"{i}.jpg") for i in range(4)], 2)
    runs.commit(tmp_path, plan, 1, runs.table([runs.row("2.jpg"), runs.row("3.jpg")]), generation=1)
    (tmp_path / "captions" / "unit-000000-ffffffff.g0.parquet").write_bytes(b"of another plan")
    assert [Path(uri).name.split(".")[1] for uri in committed_rows.files(str(tmp_path))] == ["g0", "g1"]
    assert [row["id"] for row in committed_rows.read_rows(str(tmp_path))] == [f"{i}.jpg" for i in range(4)]
    assert manifest.load(str(tmp_path)) == plan
    runs.output(tmp_path, plan, 0).unlink()
    with pytest.raises(UsageError, match="1 committed units are damaged"):
        committed_rows.files(str(tmp_path))
