"""Exports as tables for other libraries, read back with them: CSV, Lance, and Parquet with images."""

import csv
import io
import json
import math
import sys
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glied.bulk import row_schemas
from glied.bulk.exports.csv_rows import encode_csv
from glied.bulk.exports.export import ExportConfig, export
from glied.errors import JobError, UsageError
from tests.bulk import runs
from tests.bulk.endpoint_runs import caption_with_endpoint

IDS = ["a.jpg", "sub/b, or c.png", "bad.jpg", 'c "d".jpg', "e.jpg"]
ROWS = [runs.row(image_id, "rejected" if image_id == "bad.jpg" else "ok") for image_id in IDS]


@pytest.fixture
def folder(tmp_path):
    runs.make_run(tmp_path / "run", ROWS, 2)
    return tmp_path / "run"


def run(folder, form, out="out", **options):
    return export(ExportConfig(run=str(folder), out=str(folder.parent / out), form=form, **options))


def csv_rows(folder):
    rows = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    return rows


def test_csv(folder):
    report = run(folder, "csv", columns=["id", "caption", "status"])
    assert (report.units, report.written, report.captionless) == (3, 5, 1)
    found = csv_rows(folder.parent / "out")
    assert found == [
        {"id": row["id"], "caption": row["caption"] or "", "status": row["status"]} for row in ROWS
    ]
    assert run(folder, "csv", columns=["id", "caption", "status"]).earlier == 3


def test_csv_has_lists_as_json_and_distinguishes_null_from_an_empty_text():
    table = pa.table(
        {
            "text": ["a, b", "", None, 'say "x"\nand\r\ny', "\u00fc"],
            "number": [1.5, math.nan, None, 2.0, 3.0],
            "words": [[{"word": "dog", "p": 0.5}], [], None, [{"word": None, "p": math.inf}], []],
            "data": [b"\xff\x00", b"", None, b"x", b"y"],
            "at": [datetime(2026, 1, 2, 3)] * 5,
        }
    )
    data = encode_csv(table)
    frame = pd.read_csv(io.BytesIO(data), keep_default_na=False)
    assert frame["text"].tolist() == ["a, b", "", "", 'say "x"\nand\r\ny', "\u00fc"]
    assert json.loads(frame["words"][0]) == [{"word": "dog", "p": 0.5}]
    assert json.loads(frame["words"][3]) == [{"word": None, "p": None}]
    assert frame["words"][2] == ""
    assert frame["data"][0] == "/wA="
    assert frame["at"][0] == "2026-01-02T03:00:00"
    second, third = data.decode().splitlines()[2:4]
    assert (second.split(",")[0], third.split(",")[0]) == ('""', "")


def test_lance(folder):
    lance = pytest.importorskip("lance")
    report = run(folder, "lance")
    assert (report.units, report.written, report.captionless) == (3, 5, 1)
    dataset = lance.dataset(str(folder.parent / "out"))
    assert dataset.to_table().to_pylist() == ROWS
    assert dataset.to_table(filter="status = 'rejected'", columns=["id"]).to_pylist() == [{"id": "bad.jpg"}]
    again = run(folder, "lance")
    assert (again.earlier, again.written) == (3, 0)
    assert lance.dataset(str(folder.parent / "out")).version == 1


def test_a_later_generation_is_a_new_version_of_the_dataset(folder):
    lance = pytest.importorskip("lance")
    run(folder, "lance", columns=["id", "caption"])
    again = runs.table([runs.row("bad.jpg"), ROWS[3]])
    runs.commit(folder, runs.manifest.load(str(folder)), 1, again, generation=1)
    assert run(folder, "lance", columns=["id", "caption"]).written == 5
    dataset = lance.dataset(str(folder.parent / "out"))
    assert dataset.to_table().to_pylist()[2] == {"id": "bad.jpg", "caption": "a picture of bad.jpg"}
    assert lance.dataset(str(folder.parent / "out"), version=1).to_table().to_pylist()[2]["caption"] is None


def test_lance_replaces_another_dataset_only_when_told_to(folder, tmp_path):
    lance = pytest.importorskip("lance")
    lance.write_dataset(pa.table({"x": [1]}), str(tmp_path / "out"))
    with pytest.raises(UsageError, match=r"holds another dataset: choose another out, or --existing"):
        run(folder, "lance")
    assert run(folder, "lance", existing="overwrite").written == 5
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds files that are no Lance dataset"):
        run(folder, "lance", "notes")


def test_a_unit_that_cannot_be_read_leaves_no_version(folder, monkeypatch):
    lance = pytest.importorskip("lance")
    run(folder, "lance", columns=["id"])
    runs.output(folder, runs.manifest.load(str(folder)), 2).write_bytes(b"PAR1")
    with pytest.raises((JobError, UsageError)):
        run(folder, "lance", columns=["id", "caption"], existing="overwrite")
    assert lance.dataset(str(folder.parent / "out")).version == 1


def test_without_the_package_a_line_says_what_to_install(captioned, monkeypatch):
    for name in ("lance", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r'form lance needs the package pylance: pip .*"\.\[lance\]"'):
        run(captioned, "lance")
    with pytest.raises(UsageError, match=r'needs the package datasets: pip install -e "\.\[datasets\]"'):
        run(captioned, "parquet", image_column="image")


def test_lance_in_object_storage(folder, s3, monkeypatch):
    lance = pytest.importorskip("lance")
    for name, value in s3[1].items():
        monkeypatch.setenv(name, value)
    config = ExportConfig(run=str(folder), out="s3://captions/photos.lance", form="lance")
    assert export(config).written == 5
    assert export(config).written == 0
    options = {"allow_http": "true"}
    rows = lance.dataset("s3://captions/photos.lance", storage_options=options).to_table()
    assert rows.to_pylist() == ROWS


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """A run over real images, of which one is broken."""
    tmp_path = tmp_path_factory.mktemp("captioned")
    (tmp_path / "in").mkdir()
    for number in range(5):
        pixels = np.full((8, 10 + number, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "broken.jpg").write_text("no image")
    where = [f"--input.uri={tmp_path / 'in'}", f"--output.uri={tmp_path / 'run'}"]
    caption_with_endpoint(*where, "--output.unit_size=4")
    return tmp_path / "run"


def test_images_in_a_column_load_with_datasets(captioned, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    report = run(captioned, "parquet", str(tmp_path / "out"), image_column="image")
    assert (report.written, report.captionless, report.refused) == (6, 1, 0)
    found = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(found.features["image"], datasets.Image)
    assert found.column_names == [*row_schemas.CAPTIONS.names, "image"]
    by_id = {row["id"]: row for row in found}
    assert [by_id[f"{n}.png"]["image"].size for n in range(5)] == [(10 + n, 8) for n in range(5)]
    assert by_id["3.png"]["image"].getpixel((0, 0)) == (120, 120, 120)
    assert by_id["3.png"]["caption"].startswith("image ")
    assert by_id["broken.jpg"]["image"] is None
    raw = pq.read_table(tmp_path / "out" / "unit-000000.parquet", columns=["id", "image"]).to_pylist()
    for row in raw:
        if row["image"]:
            assert row["image"]["bytes"] == (captioned.parent / "in" / row["id"]).read_bytes()
            assert row["image"]["path"] == row["id"]


def test_an_image_that_is_gone_is_named(captioned, tmp_path):
    pytest.importorskip("datasets")
    options = {"out": str(tmp_path / "out"), "image_column": "picture", "columns": ["caption"]}
    (captioned.parent / "in" / "2.png").rename(tmp_path / "elsewhere.png")
    report = run(captioned, "parquet", **options)
    assert report.refused == 1
    assert report.lines()[0] == "no image for '2.png': storage: there is no such file"
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    names = pq.read_schema(tmp_path / "out" / "unit-000000.parquet").names
    assert names == ["caption", "picture"]
    (tmp_path / "elsewhere.png").rename(captioned.parent / "in" / "2.png")
    again = run(captioned, "parquet", **options)
    assert (again.refused, again.units, again.earlier) == (0, 1, 1)
    assert (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "jsonl", "image_column": "image"}, "image_column is for form parquet, not for jsonl"),
        ({"form": "jsonl", "columns": ["id"]}, "columns is for the forms parquet, csv, lance, not for jsonl"),
        ({"form": "parquet", "image_column": "caption"}, "the rows have that column; choose another name"),
    ],
)
def test_options_that_do_not_fit_are_refused(captioned, options, message):
    pytest.importorskip("datasets")
    with pytest.raises(UsageError, match=message):
        run(captioned, **options)
