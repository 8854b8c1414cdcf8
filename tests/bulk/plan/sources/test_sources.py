"""Plans and bytes of every input form, written with the usual tools of each format."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from glied import storage
from glied.bulk.config import InputConfig
from glied.bulk.plan.manifest import INPUT
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.errors import UsageError


def plan(uri: Path, *, exclude: str = "/nowhere", **options) -> tuple[pa.Table, pa.Schema]:
    config = InputConfig(uri=str(uri), **options)
    source = open_source(config, exclude)
    return pa.concat_tables(inputs(source, config)), source.columns


def fetch(table: pa.Table, columns: pa.Schema, **options) -> list[dict]:
    for column in columns:
        if INPUT + column.name not in table.column_names:
            table = table.append_column(INPUT + column.name, pa.nulls(table.num_rows, column.type))
    fetched = Fetch(pause=0.0, **options)(table)
    for column in columns:
        assert fetched.schema.field(column.name).type == column.type
    return fetched.to_pylist()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        add(tar, "a/0.x.jpg", b"zero")  # the key is a/0, up to the first dot
        add(tar, "a/1.json", b'{"n": 1}')  # out of order
        add(tar, "a/0.txt", "größer".encode())
        add(tar, "a/1.jpg", b"one")
        add(tar, "a/1.cls", b"7")
        add(tar, "long/" + "x" * 300 + ".png", b"two" * 1000)
        add(tar, "../../etc/evil.jpg", b"three")


class TestFiles:
    def test_files_are_sorted_by_full_name_without_the_run_folder(self, tmp_path):
        for name in ("b.jpg", "a/x.jpg", "a-b.jpg", "a/run/old.jpg", "note.txt", "größe #1.png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(name.encode())
        table, columns = plan(tmp_path, exclude=str(tmp_path / "a/run"))
        assert table["id"].to_pylist() == ["a-b.jpg", "a/x.jpg", "b.jpg", "größe #1.png"]
        rows = fetch(table, columns)
        assert [row["data"].decode() for row in rows] == table["id"].to_pylist()
        assert plan(tmp_path, limit=2)[0]["id"].to_pylist() == ["a-b.jpg", "a/run/old.jpg"]

    def test_missing_and_too_large_files(self, tmp_path):
        for name in ("a.jpg", "b.jpg"):
            (tmp_path / name).write_bytes(b"x" * 100)
        table, columns = plan(tmp_path)
        (tmp_path / "a.jpg").unlink()
        assert [row["kind"] for row in fetch(table, columns)] == ["storage", None]
        (row,) = fetch(table.slice(1), columns, max_bytes=99)
        assert (row["kind"], row["data"]) == ("too_large", None)

    def test_a_file_in_place_of_a_folder(self, tmp_path):
        (tmp_path / "a.tar").write_bytes(b"")
        with pytest.raises(UsageError, match=r"not a folder.*--input\.form"):
            plan(tmp_path / "a.tar")


class TestTars:
    def test_images_with_their_sidecars(self, tmp_path):
        write_tar(tmp_path / "s-0.tar")
        table, columns = plan(tmp_path, form="webdataset")
        rows = {row["id"]: row for row in fetch(table, columns, form="webdataset")}
        assert [id[8:] for id in rows][:2] == ["a/0.x.jpg", "a/1.jpg"]
        assert rows["s-0.tar/a/0.x.jpg"] | {"data": None} == {
            "id": "s-0.tar/a/0.x.jpg", "uri": f"{tmp_path}/s-0.tar#a/0.x.jpg", "data": None,
            "kind": None, "error": None, "json": None, "txt": "größer",
        }  # fmt: skip
        assert (rows["s-0.tar/a/1.jpg"]["data"], rows["s-0.tar/a/1.jpg"]["json"]) == (b"one", '{"n": 1}')
        assert rows["s-0.tar/../../etc/evil.jpg"]["data"] == b"three"
        assert [len(row["data"]) for row in rows.values()] == [4, 3, 3000, 5]

    def test_tars_written_by_webdataset(self, tmp_path):
        with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
            for number in range(3):
                sample = {"jpg": f"image {number}".encode(), "json": {"n": number}, "txt": f"text {number}"}
                writer.write({"__key__": f"dir/{number:03d}"} | sample)
        table, columns = plan(tmp_path, form="webdataset")
        rows = fetch(table, columns, form="webdataset")
        assert [row["data"] for row in rows] == [b"image 0", b"image 1", b"image 2"]
        assert [(json.loads(row["json"])["n"], row["txt"]) for row in rows] == [
            (n, f"text {n}") for n in range(3)
        ]

    def test_one_tar_by_name_and_several_by_prefix(self, tmp_path):
        for shard in range(3):
            write_tar(tmp_path / f"s-{shard}.tar")
        assert plan(tmp_path / "s-1.tar", form="webdataset")[0].num_rows == 4
        table, _ = plan(tmp_path, form="webdataset")
        assert (table.num_rows, len(set(table["id"].to_pylist()))) == (12, 12)

    def test_a_broken_tar_gives_its_readable_members_and_a_row_for_the_rest(self, tmp_path):
        write_tar(tmp_path / "a.tar")
        whole = (tmp_path / "a.tar").read_bytes()
        (tmp_path / "b.tar").write_bytes(whole[: whole.index(b"twotwo") + 100])
        (tmp_path / "c.tar").write_bytes(b"no tar at all" * 500)
        (tmp_path / "d.tar").write_bytes(whole[:1024] + b"\xff" * 512 + whole[1536:])
        (tmp_path / "e.tar").write_bytes(whole[:1024])  # between two members
        table, columns = plan(tmp_path, form="webdataset")
        rows = fetch(table, columns, form="webdataset")
        assert [row["id"] for row in rows[4:]] == [
            "b.tar/a/0.x.jpg", "b.tar/a/1.jpg", "b.tar#break", "c.tar#break",
            "d.tar/a/0.x.jpg", "d.tar#break", "e.tar/a/0.x.jpg", "e.tar#break",
        ]  # fmt: skip
        assert {row["kind"] for row in rows if row["id"].endswith("#break")} == {"broken_shard"}
        assert "cut off inside long/" in rows[6]["error"]

    def test_a_tar_that_changed_is_a_storage_failure(self, tmp_path):
        write_tar(tmp_path / "a.tar")
        table, columns = plan(tmp_path, form="webdataset")
        (tmp_path / "a.tar").write_bytes(b"")
        assert {row["kind"] for row in fetch(table, columns, form="webdataset")} == {"storage"}


def write_images(path: Path, start: int, count: int, **columns) -> pa.Table:
    images = [{"bytes": f"image {i}".encode(), "path": f"{i}.jpg"} for i in range(start, start + count)]
    numbers = list(range(start, start + count))
    table = pa.table({"image": images, "label": numbers, "caption": [f"no {i}" for i in numbers], **columns})
    pq.write_table(table, path, row_group_size=4)
    return table


class TestImageTables:
    def test_hugging_faces_struct_with_other_columns(self, tmp_path):
        write_images(tmp_path / "0.parquet", 0, 10)
        write_images(tmp_path / "1.parquet", 10, 3)
        table, columns = plan(tmp_path, form="parquet")
        assert columns == pa.schema([("label", pa.int64()), ("input_caption", pa.string())])
        rows = fetch(table.slice(3, 9), columns, form="parquet")
        assert [row["data"].decode() for row in rows] == [f"image {i}" for i in range(3, 12)]
        assert [row["label"] for row in rows] == list(range(3, 12))
        assert rows[-1]["id"] == "1.parquet#1"
        assert rows[-1]["input_caption"] == "no 11"

    def test_plain_bytes_and_an_id_column(self, tmp_path):
        table = pa.table(
            {
                "jpeg": [b"a", None, b"c"],
                "key": ["x", "y", "z"],
                "when": pa.array([1, 2, 3], pa.timestamp("ms")),
            }
        )
        pq.write_table(table, tmp_path / "t.parquet")
        options = {"form": "parquet", "image_column": "jpeg", "id_column": "key"}
        planned, columns = plan(tmp_path / "t.parquet", **options)
        rows = fetch(planned, columns, **options)
        assert [(row["id"], row["data"], row["kind"]) for row in rows] == [
            ("x", b"a", None), ("y", None, "empty"), ("z", b"c", None),
        ]  # fmt: skip
        assert columns == pa.schema([("when", pa.timestamp("ms"))])

    def test_a_file_without_a_footer_is_one_row(self, tmp_path):
        write_images(tmp_path / "0.parquet", 0, 2)
        (tmp_path / "1.parquet").write_bytes((tmp_path / "0.parquet").read_bytes()[:-10])
        table, columns = plan(tmp_path, form="parquet")
        rows = fetch(table, columns, form="parquet")
        assert [row["kind"] for row in rows] == [None, None, "broken_shard"]

    def test_broken_pages_make_bad_rows(self, tmp_path):
        write_images(tmp_path / "0.parquet", 0, 8)
        data = bytearray((tmp_path / "0.parquet").read_bytes())
        data[4:60] = b"\xff" * 56  # the first row group
        (tmp_path / "0.parquet").write_bytes(data)
        table, columns = plan(tmp_path, form="parquet")
        kinds = [fetch(table.slice(start, 4), columns, form="parquet")[0]["kind"] for start in (0, 4)]
        assert kinds == ["corrupt", None]

    def test_mistakes_are_named(self, tmp_path):
        write_images(tmp_path / "0.parquet", 0, 2)
        with pytest.raises(UsageError, match=r"'label' is .*, not images.*columns are image, label, caption"):
            plan(tmp_path, form="parquet", image_column="label")
        with pytest.raises(UsageError, match=r"no \.tar or .* file there"):
            plan(tmp_path, form="webdataset")


class TestUriTables:
    @pytest.fixture
    def images(self, tmp_path) -> Path:
        for name in ("0.jpg", "1.jpg"):
            (tmp_path / name).write_bytes(name.encode())
        return tmp_path

    def test_csv(self, images):
        text = f'uri,name,size\n0.jpg,"a, ""b""\nc",1\n{images}/1.jpg,x,2\n,empty,3\nlast.jpg\n\n'
        (images / "t.csv").write_text(text)
        table, columns = plan(images / "t.csv", form="table", id_column="name")
        rows = fetch(table, columns, form="table")
        assert columns == pa.schema([("input_size", pa.string())])
        assert [(row["id"], row["data"], row["kind"], row["input_size"]) for row in rows] == [
            ('a, "b"\nc', b"0.jpg", None, "1"), ("x", b"1.jpg", None, "2"), ("empty", None, "bad_row", "3"),
            ("t.csv#3", None, "bad_row", None),
        ]  # fmt: skip

    def test_json_lines(self, images):
        lines = [{"uri": "0.jpg", "tags": ["a", 1]}, {"uri": "1.jpg", "more": "text"}, {"uri": "gone.jpg"}]
        (images / "t.jsonl").write_text("\n".join([*map(json.dumps, lines), "{broken", "[1]"]))
        table, columns = plan(images / "t.jsonl", form="table")
        rows = fetch(table, columns, form="table")
        assert columns.names == ["tags", "more"]
        assert [row["kind"] for row in rows] == [None, None, "not_found", "bad_row", "bad_row"]
        assert (rows[0]["tags"], rows[1]["more"], rows[0]["id"]) == ('["a", 1]', "text", "0.jpg")
        assert len({row["id"] for row in rows}) == 5

    def test_parquet_keeps_its_types_and_files_with_other_columns_fit(self, images):
        pq.write_table(pa.table({"uri": ["0.jpg"], "n": pa.array([1], pa.int32())}), images / "0.parquet")
        pq.write_table(
            pa.table({"uri": ["1.jpg"], "n": pa.array([2], pa.int64()), "b": [np.float32(0.5)]}),
            images / "1.parquet",
        )
        table, columns = plan(images, form="table")
        rows = fetch(table, columns, form="table")
        assert columns == pa.schema([("n", pa.int64()), ("b", pa.float32())])
        assert [(row["n"], row["b"], row["data"]) for row in rows] == [
            (1, None, b"0.jpg"),
            (2, 0.5, b"1.jpg"),
        ]

    def test_duplicate_ids(self, images):
        (images / "t.csv").write_text("uri\n0.jpg\n1.jpg\n0.jpg\n")
        with pytest.raises(UsageError, match=r"duplicate id '0\.jpg'"):
            plan(images / "t.csv", form="table")
        table, _ = plan(images / "t.csv", form="table", duplicates="keep_first")
        assert table["id"].to_pylist() == ["0.jpg", "1.jpg"]

    def test_private_addresses_are_refused(self, images):
        (images / "t.csv").write_text("uri\nhttp://127.0.0.1:9/a.jpg\nhttp://169.254.169.254/latest\n")
        table, columns = plan(images / "t.csv", form="table")
        assert {row["kind"] for row in fetch(table, columns, form="table")} == {"forbidden"}

    def test_columns_are_named(self, images):
        (images / "t.csv").write_text("url\n0.jpg\n")
        with pytest.raises(UsageError, match=r"no input\.uri_column 'uri'; the columns are url"):
            plan(images / "t.csv", form="table")


def test_names_below_a_prefix_are_sorted_as_one_text(tmp_path):
    for name in ("a/b", "a b/c", "a.b", "a0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [file.name for file in storage.list_files(str(tmp_path))]
    assert names == sorted(names) == ["a b/c", "a.b", "a/b", "a0"]
