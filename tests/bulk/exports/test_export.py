"""Exports of small handmade runs, read back with the usual readers of each format."""

import io
import json
import math
import re
import shutil
import tarfile
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from glied import storage
from glied.bulk import row_schemas
from glied.bulk.exports import export as exports
from glied.bulk.exports import sidecars, unit_files
from glied.bulk.exports.export import ExportConfig, ExportReport, export
from glied.errors import JobError, StorageError, UsageError
from tests.bulk import runs

IDS = ["a.jpg", "sub/b.png", "bad.jpg", "c.d.jpg", "e.jpg"]
ROWS = [runs.row(image_id, "rejected" if image_id == "bad.jpg" else "ok") for image_id in IDS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs.make_run(tmp_path / "run", ROWS, 2)
    return tmp_path / "run"


def run(folder: Path, form: str, out: str = "out", **options) -> ExportReport:
    return export(ExportConfig(run=str(folder), out=str(folder.parent / out), form=form, **options))


def files(folder: Path) -> dict[str, bytes]:
    """Return the exported files by path, without the files of the export's state."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes() for name, path in sorted(paths.items()) if not name.startswith(".export/")
    }


def fail_after(monkeypatch, count: int, name: str = "write_bytes") -> None:
    """Let storage fail after `count` writes of exported files."""
    real = getattr(storage, name)
    written: list[str] = []

    def write(uri: str, data: bytes):
        if "/.export/" not in uri:
            if len(written) == count:
                raise StorageError("the cable was pulled")
            written.append(uri)
        return real(uri, data)

    monkeypatch.setattr(storage, name, write)
    monkeypatch.setattr(unit_files, "UNITS_IN_FLIGHT", 1)
    monkeypatch.setattr(sidecars, "SIDECARS_IN_FLIGHT", 1)


def test_parquet(folder):
    report = run(folder, "parquet", columns=["caption", "id"])
    assert (report.units, report.written, report.refused) == (3, 5, 0)
    tables = [pq.read_table(path) for path in sorted((folder.parent / "out").glob("*.parquet"))]
    assert [table.column_names for table in tables] == [["caption", "id"]] * 3
    rows = pa.concat_tables(tables).to_pylist()
    assert rows == [{"caption": row["caption"], "id": row["id"]} for row in ROWS]


def test_parquet_keeps_all_columns_and_their_types(folder):
    run(folder, "parquet")
    table = pq.read_table(folder.parent / "out" / "unit-000000.parquet")
    assert table.schema.equals(row_schemas.CAPTIONS)
    assert table.to_pylist() == ROWS[:2]


def test_jsonl(folder):
    run(folder, "jsonl")
    out = folder.parent / "out"
    assert list(files(out)) == [
        "_SUCCESS",
        "unit-000000.jsonl",
        "unit-000001.jsonl",
        "unit-000002.jsonl",
    ]
    lines = [line for path in sorted(out.glob("*.jsonl")) for line in path.read_text().splitlines()]
    assert [json.loads(line) for line in lines] == ROWS
    assert json.loads((out / "_SUCCESS").read_text())["units"] == 3


def test_values_that_json_lacks():
    table = pa.table(
        {
            "float": pa.array([math.nan, -math.inf, 0.5]),
            "list": pa.array([[math.inf], [1.0], None]),
            "binary": pa.array([b"\xff\x00", b"", None]),
            "time": pa.array([datetime(2026, 1, 2, 3)] * 3, pa.timestamp("ns")),
            "span": pa.array([1_500_000_000] * 3, pa.duration("ns")),
            "decimal": pa.array([Decimal("1.50")] * 3),
            "map": pa.array([[("k", b"\x01")]] * 3, pa.map_(pa.string(), pa.binary())),
            "struct": pa.array([{"x": math.nan}] * 3),
            "big": pa.array([2**63 - 1] * 3),
            "text": pa.array(["\u2028\n\u00e9"] * 3),
        }
    )
    text = unit_files.encode_jsonl(table).decode()
    first, second, third = (json.loads(line, parse_constant=pytest.fail) for line in text.splitlines())
    assert first == {
        "float": None,
        "list": [None],
        "binary": "/wA=",
        "time": "2026-01-02T03:00:00",
        "span": 1.5,
        "decimal": "1.50",
        "map": [["k", "AQ=="]],
        "struct": {"x": None},
        "big": 2**63 - 1,
        "text": "\u2028\n\u00e9",
    }
    assert (second["float"], second["binary"], third["float"], third["binary"]) == (None, "", 0.5, None)


def test_columns_from_the_input_pass_through(tmp_path):
    plan = runs.plan_run(tmp_path / "run", IDS[:2], 2)
    extra = {"embedding": pa.array([[1.0, math.nan], None]), "raw": pa.array([b"\x00", None])}
    runs.commit(tmp_path / "run", plan, 0, runs.table(ROWS[:2], **extra))
    run(tmp_path / "run", "jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out" / "unit-000000.jsonl").open()]
    assert [(row["embedding"], row["raw"]) for row in rows] == [([1.0, None], "AA=="), (None, None)]


def test_unknown_columns(folder):
    with pytest.raises(UsageError, match=r"columns nothing: the rows have id, uri, caption"):
        run(folder, "parquet", columns=["id", "nothing"])
    assert not (folder.parent / "out").exists()


@pytest.mark.parametrize("form", ["jsonl", "webdataset", "parquet"])
def test_an_interrupted_export_resumes(folder, monkeypatch, form):
    run(folder, form, "whole")
    with monkeypatch.context() as patch:
        fail_after(patch, 1)
        with pytest.raises(StorageError):
            run(folder, form)
    first = folder.parent / "out" / f"unit-000000{unit_files.EXTENSIONS[form]}"
    stamp = first.stat().st_mtime_ns
    assert not (folder.parent / "out" / "_SUCCESS").exists()
    report = run(folder, form)
    assert (report.units, report.earlier, report.written) == (2, 1, 3)
    assert first.stat().st_mtime_ns == stamp
    assert files(folder.parent / "out") == files(folder.parent / "whole")
    assert run(folder, form).lines()[-1] == (
        f"{form} at {folder.parent / 'out'}: 3 of 3 units, 3 of them from before; 0 rows written, "
        "0 skipped, 0 refused, 0 images without a caption"
    )


def test_a_file_that_was_deleted_is_exported_again(folder):
    run(folder, "jsonl")
    (folder.parent / "out" / "unit-000001.jsonl").unlink()
    assert run(folder, "jsonl").units == 1
    assert (folder.parent / "out" / "unit-000001.jsonl").exists()


def test_a_later_generation_is_exported_again(folder):
    run(folder, "jsonl")
    again = runs.table([runs.row("bad.jpg"), ROWS[3]])
    runs.commit(folder, runs.manifest.load(str(folder)), 1, again, generation=1)
    report = run(folder, "jsonl")
    assert (report.units, report.earlier) == (1, 2)
    assert "a picture of bad.jpg" in (folder.parent / "out" / "unit-000001.jsonl").read_text()
    assert run(folder, "jsonl").units == 0


def test_two_runs_are_not_mixed(folder, tmp_path):
    runs.make_run(tmp_path / "other", ROWS[:2], 2)
    run(folder, "jsonl")
    before = files(tmp_path / "out")
    for source, form in [(tmp_path / "other", "jsonl"), (folder, "parquet")]:
        with pytest.raises(UsageError, match="holds another export"):
            run(source, form)
    assert files(tmp_path / "out") == before
    run(tmp_path / "other", "parquet", existing="overwrite")
    assert list(files(tmp_path / "out")) == ["_SUCCESS", "unit-000000.parquet"]


def test_an_export_with_other_columns_starts_again(folder):
    run(folder, "parquet", columns=["id"])
    with pytest.raises(UsageError, match="holds another export"):
        run(folder, "parquet")
    run(folder, "parquet", existing="overwrite")
    assert pq.read_schema(folder.parent / "out" / "unit-000000.parquet").names == row_schemas.CAPTIONS.names


NAMES = [
    *["a.jpg", "a.png", "dir.v1/a.b.c", "../up.jpg", "/abs.jpg", "a//b.jpg", ".hidden", "50%.jpg"],
    *["\u00fc \u4e2d.jpg", "C:\\x.jpg", "__meta__", "a/", "x" * 300 + ".jpg", "https://h.org/a.jpg?b=1"],
    *["50%25.jpg", "a%2Ejpg", ".", ".."],
]


@pytest.fixture
def tar(tmp_path) -> Path:
    rows = [runs.row(name, "failed" if name == "a.png" else "ok") for name in NAMES]
    runs.make_run(tmp_path / "run", rows, 100)
    run(tmp_path / "run", "webdataset")
    return tmp_path / "out" / "unit-000000.tar"


def test_names_follow_the_rule_of_webdataset(tar):
    with tarfile.open(tar) as opened:
        members = {info.name: opened.extractfile(info).read() for info in opened}
    groups: dict[str, dict[str, bytes]] = {}
    for name, data in members.items():
        # webdataset.tariterators.base_plus_ext
        key, extension = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", name).groups()
        assert (key, extension) == tuple(name.split(".", 1)), "datasets splits names at the first dot"
        groups.setdefault(key, {})[extension] = data
    assert len(members) == 2 * len(NAMES) - 1
    assert [json.loads(sample["json"])["id"] for sample in groups.values()] == NAMES
    for sample in groups.values():
        row = json.loads(sample["json"])
        assert row.keys() == set(row_schemas.CAPTIONS.names)
        assert sample.get("txt", b"").decode() == (row["caption"] or "")
        assert ("txt" in sample) == (row["status"] == "ok")
    for key in groups:
        assert not key.startswith(("/", "__"))
        assert not {"", ".", ".."} & set(key.split("/"))
        assert "\\" not in key


def test_plain_names_stay_readable():
    assert unit_files.webdataset_key("sub dir/img_1.jpg") == "sub dir/img_1%2Ejpg"


def test_read_by_webdataset(tar):
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode())
    assert [sample["json"]["id"] for sample in samples] == NAMES
    assert samples[0]["txt"] == "a picture of a.jpg"


def test_a_file_per_caption(folder):
    report = run(folder, "txt")
    assert (report.written, report.skipped, report.captionless, report.refused) == (4, 0, 1, 0)
    assert files(folder.parent / "out") == {
        "a.txt": b"a picture of a.jpg\n",
        "c.d.txt": b"a picture of c.d.jpg\n",
        "e.txt": b"a picture of e.jpg\n",
        "sub/b.txt": b"a picture of sub/b.png\n",
    }


@pytest.mark.parametrize(
    ("existing", "content", "counts"),
    [
        ("skip", b"mine", (3, 1)),
        ("overwrite", b"a picture of a.jpg\n", (4, 0)),
    ],
)
def test_existing_files(folder, existing, content, counts):
    out = folder.parent / "out"
    out.mkdir()
    (out / "a.txt").write_bytes(b"mine")
    report = run(folder, "txt", existing=existing)
    assert (report.written, report.skipped) == counts
    assert (out / "a.txt").read_bytes() == content
    (out / "e.txt").unlink()
    assert run(folder, "txt", existing=existing).units == 0
    assert (out / "a.txt").read_bytes() == content
    assert not (out / "e.txt").exists(), "an exported unit is not written again"


@pytest.mark.parametrize("writes", range(4))
def test_sidecars_continue_where_they_were_interrupted(folder, monkeypatch, writes):
    with monkeypatch.context() as patch:
        fail_after(patch, writes, "put_if_absent")
        with pytest.raises(StorageError):
            run(folder, "txt")
    run(folder, "txt")
    assert (folder.parent / "out" / "sub/b.txt").read_bytes() == b"a picture of sub/b.png\n"
    assert len(files(folder.parent / "out")) == 4


@pytest.mark.parametrize("existing", ["skip", "overwrite"])
def test_a_later_generation_adds_only_new_captions(folder, existing):
    run(folder, "txt", existing=existing)
    again = runs.table([runs.row("bad.jpg"), ROWS[3]])
    plan = runs.manifest.load(str(folder))
    runs.commit(folder, plan, 1, again, generation=1)
    assert run(folder, "txt", existing=existing).units == 1
    runs.commit(folder, plan, 1, again.replace_schema_metadata({"b": "c"}), generation=2)
    assert run(folder, "txt", existing=existing).units == 1
    found = files(folder.parent / "out")
    assert found["bad.txt"] == b"a picture of bad.jpg\n"
    assert found["c.d.txt"] == b"a picture of c.d.jpg\n"
    assert len(found) == 5


def test_another_run_replaces_sidecars_and_is_replaced(folder, tmp_path):
    runs.make_run(tmp_path / "other", [runs.row("a.jpg", caption="second")], 1)
    run(folder, "txt")
    run(tmp_path / "other", "txt", existing="overwrite")
    assert (tmp_path / "out" / "a.txt").read_text() == "second\n"
    assert run(folder, "txt", existing="overwrite").written == 4
    assert (tmp_path / "out" / "a.txt").read_text() == "a picture of a.jpg\n"


def test_a_destination_of_version_0_1(folder):
    """Its markers say which rows were written, and with append there were markers of that mode."""
    run(folder, "txt")
    state = folder.parent / "out" / ".export"
    (export_folder,) = state.iterdir()
    for marker in export_folder.glob("unit-*.json"):
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"rows": [0, 1]}))
    shutil.copytree(export_folder, state / export_folder.name.replace("skip", "append"))
    report = run(folder, "txt")
    assert (report.units, report.earlier) == (0, 3)
    assert run(folder, "txt", existing="overwrite").written == 4


HOSTILE = [
    *["../up.jpg", "a/../../up.jpg", "/etc/x.jpg", "..\\up.jpg", "C:/x.jpg", "c:x.jpg", "nul\0.jpg"],
    *[
        "",
        "..",
        ".",
        "a/.",
        "a/",
        ".export/x.jpg",
        "./.export/x.jpg",
        "n" * 250 + ".jpg",
        "file:///etc/x.jpg",
    ],
    *["s3:/x/y.jpg"],
]


def test_ids_that_lead_out_of_the_folder_are_refused_and_reported(tmp_path):
    rows = [runs.row(image_id) for image_id in [*HOSTILE, "fine.jpg", "https://h.org/a.jpg"]]
    runs.make_run(tmp_path / "run", rows, 4)
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    report = run(tmp_path / "run", "txt")
    assert set(files(tmp_path / "out")) == {"fine.txt", "https:/h.org/a.txt"}
    assert {path for path in tmp_path.rglob("*") if "out" not in path.relative_to(tmp_path).parts} == before
    assert report.refused == len(HOSTILE)
    assert report.lines()[0] == "refused '../up.jpg': it leads out of the destination"
    assert f"{len(HOSTILE)} refused" in report.lines()[-1]
    assert run(tmp_path / "run", "txt").refused == len(HOSTILE), "earlier refusals are reported again"


def test_ids_that_would_share_a_file(tmp_path):
    ids = ["a.jpg", "b.jpg", "a.png", "a.png.gif", "x/a.jpg", "b", "c", "d.txt", "e.f/a", "a.jpg.jpg"]
    runs.make_run(tmp_path / "run", [runs.row(image_id) for image_id in ids], 2)
    run(tmp_path / "run", "txt")
    assert {text.decode()[13:-1]: name for name, text in files(tmp_path / "out").items()} == {
        "a.jpg": "a.txt",
        "b.jpg": "b.jpg.txt",
        "a.png": "a.png.txt",
        "a.png.gif": "a.png.gif.txt",
        "x/a.jpg": "x/a.txt",
        "b": "b.txt",
        "c": "c.txt",
        "d.txt": "d.txt.txt",
        "e.f/a": "e.f/a.txt",
        "a.jpg.jpg": "a.jpg.jpg.txt",
    }


def test_empty_names_and_dots_in_a_path_export(tmp_path):
    """`tar cf s.tar .` names its members ./a.png, and keys may contain empty names."""
    ids = [
        "s.tar/./a.png",
        "s.tar//abs/b.png",
        "x//y.png",
        "aa::b.png",
        "x/y://z.jpg",
        "x/y.png",
        "./x/y.png",
    ]
    runs.make_run(tmp_path / "run", [runs.row(image_id) for image_id in ids], 3)
    report = run(tmp_path / "run", "txt")
    assert {text.decode()[13:-1]: name for name, text in files(tmp_path / "out").items()} == {
        "s.tar/./a.png": "s.tar/a.txt",
        "s.tar//abs/b.png": "s.tar/abs/b.txt",
        "x//y.png": "x/y.txt",
        "aa::b.png": "aa::b.txt",
        "x/y://z.jpg": "x/y:/z.txt",
    }
    assert report.refusals == [f"{one!r}: another image has its file" for one in ("x/y.png", "./x/y.png")]


def test_names_do_not_depend_on_the_finished_units(tmp_path):
    rows = [runs.row("a.jpg"), runs.row("a.png")]
    plan = runs.make_run(tmp_path / "run", rows, 1, units=0)
    runs.commit(tmp_path / "run", plan, 1, runs.table(rows[1:]))
    run(tmp_path / "run", "txt", partial=True)
    assert list(files(tmp_path / "out")) == ["a.png.txt"]


def test_a_folder_in_place_of_the_file_is_one_clear_line(folder):
    (folder.parent / "out" / "a.txt").mkdir(parents=True)
    for existing in ("skip", "overwrite"):
        with pytest.raises(StorageError, match=r"a\.txt"):
            run(folder, "txt", existing=existing)


def test_read_by_pycocotools(tmp_path, capsys):
    from pycocotools.coco import COCO

    names = ["COCO_val2014_000000123456.jpg", "x/0042.png", "7"]
    runs.make_run(tmp_path / "run", [*map(runs.row, names), runs.row("bad_9.jpg", "failed")], 2)
    report = run(tmp_path / "run", "coco", "out.json")
    assert (report.written, report.captionless) == (3, 1)
    images = [{"id": image_id} for image_id in (123456, 42, 7, 9)]
    (tmp_path / "references.json").write_text(json.dumps({"info": {}, "images": images, "annotations": []}))
    results = COCO(str(tmp_path / "references.json")).loadRes(str(tmp_path / "out.json"))
    assert {one["image_id"]: one["caption"] for one in results.anns.values()} == {
        123456: "a picture of COCO_val2014_000000123456.jpg",
        42: "a picture of x/0042.png",
        7: "a picture of 7",
    }


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("000000000000.jpg", 0),
        ("a_12.v2.jpg", "a_12.v2.jpg"),
        ("a12.jpg", "a12.jpg"),
        ("dir_7/x.jpg", "dir_7/x.jpg"),
        ("_5.jpg", 5),
        ("\u0663.jpg", "\u0663.jpg"),
        ("-3.jpg", "-3.jpg"),
        ("9" * 5_000, "9" * 5_000),
    ],
)
def test_image_id(name, image_id):
    assert exports.coco_image_id(name) == image_id


def test_equal_image_ids_are_refused(tmp_path):
    runs.make_run(tmp_path / "run", [runs.row("a/1.jpg"), runs.row("b_001.jpg")], 1)
    with pytest.raises(UsageError, match=r"a/1.jpg and b_001.jpg have the same COCO image_id 1"):
        run(tmp_path / "run", "coco", "out.json")
    assert not (tmp_path / "out.json").exists()


def test_an_existing_file(folder):
    run(folder, "coco", "out.json")
    content = (folder.parent / "out.json").read_bytes()
    run(folder, "coco", "out.json")
    (folder.parent / "out.json").write_text("[]")
    with pytest.raises(UsageError, match="exists and differs"):
        run(folder, "coco", "out.json")
    run(folder, "coco", "out.json", existing="overwrite")
    assert (folder.parent / "out.json").read_bytes() == content
    (folder.parent / "there").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        run(folder, "coco", "there")


@pytest.mark.parametrize("form", ["parquet", "jsonl", "webdataset", "txt", "coco"])
def test_an_unfinished_run(tmp_path, form):
    plan = runs.make_run(tmp_path / "run", ROWS, 2, units=2)
    with pytest.raises(UsageError, match="2 of 3 units are done"):
        run(tmp_path / "run", form)
    assert not (tmp_path / "out").exists()
    report = run(tmp_path / "run", form, partial=True)
    assert (report.units, report.planned) == (2, 3)
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    runs.commit(tmp_path / "run", plan, 2, runs.table(ROWS[4:]))
    if form != "coco":
        assert run(tmp_path / "run", form).units == 1
    assert (tmp_path / "out" / "_SUCCESS").exists() == (form in unit_files.EXTENSIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "txt", "existing": "append"}, r"append was removed in version 0\.2: use skip"),
        ({"form": "jsonl", "columns": ["id"]}, "columns is for the forms parquet"),
        ({"form": "parquet", "columns": []}, "name at least one"),
        ({"form": "parquet", "columns": ["id", "id"]}, "none twice"),
    ],
)
def test_contradictory_options(options, message):
    with pytest.raises(UsageError, match=message):
        ExportConfig(run="r", out="o", **options)


def test_unsuitable_runs_and_destinations(folder, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        run(tmp_path / "nowhere", "jsonl")
    runs.plan_run(tmp_path / "features", ["a.jpg"], 1, results="features")
    with pytest.raises(UsageError, match="no captions"):
        run(tmp_path / "features", "jsonl")
    for out in ("run", "run/captions/x", "run/../run/commits"):
        with pytest.raises(UsageError, match="the run's own folder"):
            run(folder, "parquet", out)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is not usable"):
        run(folder, "jsonl", "file")
    (folder / "manifest" / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"manifest\.json is missing, but"):
        run(folder, "jsonl")
    shutil.rmtree(folder / "commits")
    with pytest.raises(UsageError, match="still being listed"):
        run(folder, "jsonl")


@pytest.mark.parametrize("form", ["jsonl", "txt", "coco"])
def test_a_commit_without_its_output(folder, form):
    plan = runs.manifest.load(str(folder))
    path = runs.output(folder, plan, 1)
    path.write_bytes(b"PAR1")
    with pytest.raises(JobError, match=r"unit 1 is committed, but .* has 4 bytes"):
        run(folder, form)
    path.unlink()
    with pytest.raises(JobError, match="unit 1 is committed, but"):
        run(folder, form)


@pytest.mark.slow
def test_the_job(tmp_path):
    runs.make_run(tmp_path / "run", [*ROWS, runs.row("../x.jpg")], 2, units=3)
    runs.make_run(tmp_path / "more", ROWS, 2, units=2)
    place = f"--out={tmp_path / 'out'}"
    done = runs.light_job("export", "--run", str(tmp_path / "run"), place, "--form=jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("6 rows written, 0 skipped, 0 refused, 1 images without a caption\n")
    refused = runs.light_job(
        "export", "--run", str(tmp_path / "run"), f"--out={tmp_path / 'txt'}", "--form", "txt", "--partial"
    )
    assert refused.returncode == 1
    assert refused.stdout.startswith("refused '../x.jpg'")
    options = ["--run", str(tmp_path / "more"), f"--out={tmp_path / 'coco.json'}", "--form=coco"]
    unfinished = runs.light_job("export", *options)
    assert (unfinished.returncode, unfinished.stdout) == (2, "")
    assert "2 of 3 units are done" in unfinished.stderr
    assert runs.light_job("export", "--partial", *options).returncode == 0
    columns = ["--columns", "[id, caption]", "--form=parquet", f"--out={tmp_path / 'parquet'}"]
    assert runs.light_job("export", "--run", str(tmp_path / "run"), *columns).returncode == 0
    table = pq.read_table(io.BytesIO((tmp_path / "parquet" / "unit-000000.parquet").read_bytes()))
    assert table.column_names == ["id", "caption"]


@pytest.mark.parametrize(
    "options",
    [[], ["--run=a"], ["--run=configs", "--out=o", "--form=csv"], ["--run=a", "--out=o", "--from=txt"]],
)
def test_mistakes_are_one_line_and_exit_2(options):
    done = runs.light_job("export", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
