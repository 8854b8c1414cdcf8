"""Odd tables: the result of each row, from planning and fetching to the unit's file."""

import base64
import csv
import datetime
import decimal
import gzip
import io
import itertools
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glied.bulk import row_schemas
from glied.bulk.arrow_tables import conform, from_ipc, to_ipc
from glied.bulk.config import InputConfig
from glied.bulk.plan import manifest
from glied.bulk.plan.manifest import INPUT
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.plan.sources.input_columns import distinct, escaped, passed_name
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.bulk.plan.sources.text_tables import ENDINGS
from glied.bulk.plan.sources.uri_tables import open_table
from glied.errors import JobError, StorageError, UsageError


def run(
    uri: Path | str, form: str = "table", **options: Any
) -> tuple[list[dict[str, Any]], pa.Schema, dict[str, int]]:
    """Run an input in units of two; return the written rows, the columns, and the skipped files."""
    config = InputConfig(uri=str(uri), form=form, **options)
    source = open_source(config, "/nowhere")
    batches = inputs(source, config)
    first = next(batches, None)
    if first is None:
        return [], source.columns, source.skipped
    every = itertools.chain([first], batches)
    with tempfile.TemporaryDirectory() as folder:
        manifest.create(folder, every, 2, columns=source.columns, skipped=source.skipped)
        plan = manifest.load(folder)
        assert plan is not None
        units = list(plan.read_units(range(plan.units)))
    schema = pa.schema(
        [*(pa.field(name, pa.string()) for name in ("id", "uri", "kind", "error")), *plan.columns]
    )
    fetch = Fetch(form=form, image_column=config.image_column, id_column=config.id_column, pause=0.0)
    rows: list[dict[str, Any]] = []
    for unit in units:
        table = unit.table
        for column in plan.columns:
            if INPUT + column.name not in table.column_names:
                table = table.append_column(INPUT + column.name, pa.nulls(table.num_rows, column.type))
        fetched = from_ipc(to_ipc(fetch(from_ipc(to_ipc(table)))))
        assert fetched["id"].to_pylist() == unit.ids
        written = conform(fetched, schema).take(list(range(fetched.num_rows)))
        read = row_schemas.decode(row_schemas.encode(written))
        assert read.schema.equals(schema)  # otherwise a resumed run would take it for another run's file
        read.validate(full=True)
        data = fetched["data"].to_pylist()
        rows += [row | {"data": one} for row, one in zip(read.to_pylist(), data, strict=True)]
    return rows, plan.columns, source.skipped


def kinds(rows: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Return the bytes, or the error kind, by id."""
    return [(row["id"], row["kind"] or row["data"]) for row in rows]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.png").write_bytes(name.encode())
    return folder


A, B, C, D = (((f"{name}.png"), name.encode()) for name in "abcd")
LONG = "x" * 200_000

TEXTS = {
    # Python's reader adds everything after an unclosed quote to the value.
    "unclosed at the end": ("t.csv", 'uri,alt\na.png,x\nb.png,"open\nc.png,y\nd.png,z\n',
        [A, ("t.csv#1", "bad_row"), C, D]),
    "unclosed, then well-formed quotes": ("t.csv",
        'uri,alt\na.png,"open\nb.png,"fine"\nc.png,"a ""b"""\nd.png,z\n',
        [("t.csv#0", "bad_row"), B, C, D]),
    "two unclosed": ("t.csv", 'uri,alt\na.png,"open\nb.png,x\nc.png,"open\nd.png,z\n',
        [("t.csv#0", "bad_row"), B, ("t.csv#2", "bad_row"), D]),
    "unclosed, all quoted": ("t.csv", '"uri","alt"\n"a.png","open\n"b.png","x"\n',
        [("t.csv#0", "bad_row"), B]),
    "unclosed in the URI": ("t.csv", 'uri,alt\n"a.png,x\nb.png,y\n', [("t.csv#0", "bad_row"), B]),
    "unclosed in the last line": ("t.csv", 'uri,alt\na.png,x\nb.png,"open', [A, ("t.csv#1", "bad_row")]),
    "lines within quotes": ("t.csv", 'uri,alt\na.png,"one\ntwo, ""three""\r\nfour"\nb.png,y\n', [A, B]),
    "quotes in the middle": ("t.csv", 'uri,alt\na.png,5" wide\nb.png,"5" wide\nc.png,z\n', [A, B, C]),
    "too many and too few fields": ("t.csv", "uri,alt\na.png,x,y\nb.png\nc.png,z\n",
        [("t.csv#0", "bad_row"), ("t.csv#1", "bad_row"), C]),
    "a malformed row with a URI that is there": ("t.csv", "uri,alt\na.png,x\na.png,x,y\n",
        [A, ("t.csv#1", "bad_row")]),
    "long fields": ("t.csv", f'uri,alt\na.png,"{LONG}"\nb.png,{LONG}\n', [A, B]),
    "a field of many lines": ("t.csv", 'uri,alt\na.png,"' + "line\n" * 50_000 + '"\nb.png,x\n', [A, B]),
    "byte order mark": ("t.csv", b"\xef\xbb\xbfuri,alt\na.png,x\n", [A]),
    "UTF-16, as Excel saves it": ("t.csv", "uri\talt\r\na.png\tgr\u00f6\u00dfer\r\n".encode("utf-16"), [A]),
    "CR line ends": ("t.csv", "uri,alt\ra.png,x\rb.png,y\r", [A, B]),
    "CRLF line ends": ("t.csv", 'uri,alt\r\na.png,"x"\r\nb.png,y\r\n\r\n', [A, B]),
    "blank lines": ("t.csv", "\n\nuri,alt\n\na.png,x\n   \nb.png,y\n\n", [A, B]),
    "semicolons": ("t.csv", "uri;alt\na.png;x, y\n", [A]),
    "a delimiter that the header does not need": ("t.csv", 'uri\na.png\n"b.png"\n', [A, B]),
    "tabs": ("t.tsv", "uri\talt\na.png\tx, y\n", [A]),
    "spaces in the header": ("t.csv", " uri , alt\na.png,x\n", [A]),
    "no last line end": ("t.csv", "uri\na.png", [A]),
    "only a header": ("t.csv", "uri,alt\n", []),
    "empty": ("t.csv", "", []),
    "upper-case ending": ("T.CSV", "uri\na.png\n", [A]),
    "gzipped CSV": ("t.csv.gz", gzip.compress(b"uri\na.png\nb.png\n"), [A, B]),
    "gzip of several members": ("t.csv.gz", gzip.compress(b"uri\na.png\n") + gzip.compress(b"b.png\n"),
        [A, B]),
    "gzipped, by another name": ("t.csv", gzip.compress(b"uri\na.png\n"), [A]),
    "gzipped TSV": ("t.tsv.gz", gzip.compress(b"uri\talt\na.png\tx\n"), [A]),
    "gzipped JSON lines": ("t.jsonl.gz", gzip.compress(b'{"uri": "a.png"}\n'), [A]),
    "Latin-1 beside the URI": ("t.csv", b"uri,alt\na.png,caf\xe9\nb.png,x\n", [A, B]),
    "Latin-1 in the URI": ("t.csv", b"uri,alt\ncaf\xe9.png,x\nb.png,y\n", [(r"caf\xe9.png", "bad_row"), B]),
    "NUL beside the URI": ("t.csv", b"uri,alt\na.png,x\0y\n", [A]),
    "no URI": ("t.csv", "uri,alt\n,x\n  ,y\nc.png,z\n", [("t.csv#0", "bad_row"), ("t.csv#1", "bad_row"), C]),
    "blank lines in JSON": ("t.jsonl", '{"uri": "a.png"}\r\n\r\n  \n{"uri": "b.png"}\r\n\r\n', [A, B]),
    "a lone surrogate": ("t.jsonl", '{"uri": "a.png", "alt": "sunset \\ud83d"}\n', [A]),
    "a lone surrogate within": ("t.jsonl", '{"uri": "a.png", "tags": ["\\udc00", {"\\ud83d": 1}]}\n', [A]),
    "a lone surrogate in the URI": ("t.jsonl", '{"uri": "a\\ud83d.png"}\n{"uri": "a.png"}\n',
        [(r"a\ud83d.png", "bad_row"), A]),
    "a lone surrogate in a name": ("t.jsonl", '{"uri": "a.png", "k\\ud83d": 1}\n', [A]),
    "a pair of surrogates": ("t.jsonl", '{"uri": "a.png", "alt": "\\ud83d\\ude00"}\n', [A]),
    "Latin-1 in JSON": ("t.jsonl", b'{"uri": "a.png", "alt": "caf\xe9"}\n{"uri": "\xe9.png"}\n',
        [A, (r"\xe9.png", "bad_row")]),
    "lines that are no objects": ("t.jsonl", '{"uri": "a.png"}\n{"uri": \n[1]\n"x"\n5\nnull\n',
        [A, *((f"t.jsonl#{number}", "bad_row") for number in range(1, 6))]),
    "URIs that are no text": ("t.jsonl",
        '{"uri": ["a.png"]}\n{"uri": 5}\n{"uri": null}\n{}\n{"uri": "a.png"}\n',
        [*((f"t.jsonl#{number}", "bad_row") for number in range(4)), A]),
    "depth": ("t.jsonl", '{"uri": "a.png"}\n' + '{"uri": ' + "[" * 100_000 + "\n",
        [A, ("t.jsonl#1", "bad_row")]),
    "a number of many digits": ("t.jsonl", '{"uri": "b.png", "n": ' + "9" * 5_000 + '}\n{"uri": "a.png"}',
        [B, A]),
    "a URI of many digits": ("t.jsonl", '{"uri": ' + "9" * 5_000 + '}\n{"uri": "a.png"}',
        [("t.jsonl#0", "bad_row"), A]),
    "NaN": ("t.jsonl", '{"uri": "a.png", "n": NaN}\n', [A]),
    "a JSON array": ("t.json", '[{"uri": "a.png"}, {"uri": "b.png"}, 5]', [A, B, ("t.json#2", "bad_row")]),
    "a JSON array over lines": ("t.jsonl", '[\n {\n  "uri": "a.png"\n },\n {"uri": "b.png"}\n]\n', [A, B]),
    "JSON lines named .json": ("t.json", '{"uri": "a.png"}\n{"uri": "b.png"}\n', [A, B]),
    "gzipped JSON": ("t.json.gz", gzip.compress(b'[{"uri": "a.png"}]'), [A]),
    ".ndjson": ("t.NDJSON", '{"uri": "a.png"}\n', [A]),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_rows_of_text_tables(images, name):
    file, content, expected = TEXTS[name]
    (images / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    rows, _, _ = run(images / file)
    assert kinds(rows) == expected
    assert all(bool(row["error"]) == bool(row["kind"]) for row in rows)


VALUES = {
    'uri,alt\na.png,"one\ntwo, ""three"""\n': {"alt": 'one\ntwo, "three"'},
    f"uri,alt\na.png,{LONG}\n": {"alt": LONG},
    'uri,alt\na.png,"5" wide\n': {"alt": "5 wide"},
    'uri,alt\na.png,"say \\"hi\\", or \\\\"\n': {"alt": 'say "hi", or \\'},
    'uri,alt\na.png,"C:\\dir\\"\n': {"alt": "C:\\dir\\"},
    "uri;alt\na.png;x, y\n": {"alt": "x, y"},
    " uri , alt\na.png, x \n": {"alt": " x "},
    ",uri,alt,\n0,a.png,x,y\n": {"Unnamed: 0": "0", "alt": "x", "Unnamed: 3": "y"},
    "uri,alt,alt,alt.1\na.png,1,2,3\n": {"alt": "1", "alt.2": "2", "alt.1": "3"},
    "uri,caption,input_caption,input_note\na.png,1,2,3\n": {
        "input_caption": "1", "input_input_caption": "2", "input_note": "3",
    },
    b"uri,alt\na.png,caf\xe9 \xff\xfe\n": {"alt": r"caf\xe9 \xff\xfe"},
    "uri\talt\na.png\tgr\u00f6\u00dfer\n".encode("utf-16"): {"alt": "gr\u00f6\u00dfer"},
}  # fmt: skip


@pytest.mark.parametrize("content", VALUES)
def test_columns_of_csv_files(images, content):
    (images / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    ((row,), columns, _) = run(images / "t.csv")
    assert {name: row[name] for name in columns.names} == VALUES[content]
    assert row["data"] == b"a"


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["excel", "excel-tab", "unix"])
def test_written_tables_are_read_back_unchanged(images, dialect):
    draw = random.Random(dialect)
    texts = ["".join(draw.choices("ab,;\t|\" \\\n\r'é", k=draw.randrange(12))) for _ in range(2_000)]
    name = "t.tsv" if dialect == "excel-tab" else "t.csv"
    with (images / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, dialect)
        writer.writerow(["uri", "key", "alt"])
        writer.writerows(["a.png", number, text] for number, text in enumerate(texts))
    rows, _, _ = run(images / name, id_column="key")
    assert [(row["id"], row["alt"]) for row in rows] == [(str(n), text) for n, text in enumerate(texts)]


@pytest.mark.parametrize("dialect", ["excel", "unix"])
def test_a_missing_or_extra_quote_affects_no_other_row(images, dialect):
    draw = random.Random(dialect)
    texts = [draw.choice(["text", "a, b", 'say ""hi""', ""]) for _ in range(20)]
    file = io.StringIO()
    writer = csv.writer(file, dialect)
    writer.writerows([["uri", "key", "alt"], *(["a.png", number, text] for number, text in enumerate(texts))])
    bad = 0
    for _ in range(40):
        lines = file.getvalue().splitlines()
        broken = draw.randrange(1, 21)
        line = lines[broken]
        places = [place for place, one in enumerate(line) if one == '"']
        place = draw.choice(places) if places and draw.random() < 0.5 else draw.randrange(len(line))
        lines[broken] = (
            line[:place] + line[place + 1 :] if place in places else line[:place] + '"' + line[place:]
        )
        (images / "t.csv").write_text("\n".join(lines))
        rows, _, _ = run(images / "t.csv", id_column="key")
        assert len(rows) == 20, lines[broken]
        others = [(row["id"], row["alt"]) for number, row in enumerate(rows) if number != broken - 1]
        assert others == [(str(n), text) for n, text in enumerate(texts) if n != broken - 1], lines[broken]
        bad += rows[broken - 1]["kind"] == "bad_row"
    assert bad > 10  # the others are quotes within text


def test_text_that_is_not_utf8_is_escaped(images):
    row = {"uri": "a.png", "alt": "sunset \ud83d", "tags": ["\udc00"], "k\ud83d": "\ud83d\ude00"}
    (images / "t.jsonl").write_text(json.dumps(row))
    ((found,), columns, _) = run(images / "t.jsonl")
    assert columns.names == ["alt", "tags", r"k\ud83d"]
    assert [found[name] for name in columns.names] == [r"sunset \ud83d", r'["\udc00"]', "\U0001f600"]


def test_a_bad_row_says_where_it_is(images):
    (images / "t.csv").write_text('uri,alt\n\na.png,"one\ntwo"\nb.png,"open\nc.png,x,y\n')
    rows, _, _ = run(images / "t.csv")
    assert [row["error"] for row in rows] == [
        None, "line 5: a quote opens that is not closed", "line 6 has 3 fields, the header has 2",
    ]  # fmt: skip
    (images / "t.jsonl").write_text('{"uri": "a.png"}\n\n{"uri"\n')
    rows, _, _ = run(images / "t.jsonl")
    assert rows[1]["error"] == "line 3: not JSON: Expecting ':' delimiter at character 8"


@pytest.mark.parametrize("array", [False, True])
def test_ids_in_json_are_as_in_parquet(images, array):
    values = ["1.0", "2", "2.5", '"x"', '"3.0"', "NaN", "null", '""', "true", "9" * 5_000]
    lines = [f'{{"uri": "a.png", "id": {value}}}' for value in values]
    name = "t.json" if array else "t.jsonl"
    (images / name).write_text(f"[{','.join(lines)}]" if array else "\n".join(lines))
    rows, _, _ = run(images / name, id_column="id")
    missing = [f"{name}#{number}" for number in (5, 6, 7)]
    assert [row["id"] for row in rows] == ["1", "2", "2.5", "x", "3.0", *missing, "true", "9" * 5_000]


@pytest.mark.parametrize("value", ["[1]", "[]", '{"a": 1}'])
def test_an_id_in_json_that_is_neither_text_nor_a_number_makes_a_bad_row(images, value):
    (images / "t.jsonl").write_text(f'{{"uri": "a.png", "id": 1}}\n{{"uri": "b.png", "id": {value}}}\n')
    rows, _, _ = run(images / "t.jsonl", id_column="id")
    assert [(row["id"], row["kind"]) for row in rows] == [("1", None), ("t.jsonl#1", "bad_row")]
    assert rows[1]["error"] == "line 2: column id is not an id"


@pytest.mark.slow
def test_damaged_gzip_loses_the_rows_after_the_damage(images):
    lines = [
        f'{{"uri": "a.png", "n": {number}, "noise": "{random.Random(number).random()}"}}'
        for number in range(9_000)
    ]
    whole = gzip.compress("\n".join(lines).encode())
    (images / "0.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (images / "1.csv.gz").write_bytes(b"no gzip")
    (images / "2.csv").write_text("uri,n\nb.png,x\n")
    rows, columns, _ = run(images, id_column="n")
    assert rows[-3]["id"] == "0.jsonl.gz#break"
    assert kinds(rows[-2:]) == [("1.csv.gz#break", "broken_shard"), ("x", b"b")]
    assert {row["kind"] for row in rows[:-3]} == {None}
    assert len(rows) > 2_000
    assert columns.names == ["noise"]


REFUSED = {
    ("t.csv", "url\na.png\n"): r"t\.csv: no input\.uri_column 'uri'; the columns are url",
    ("t.csv", "uri,uri\na.png,b.png\n"): r"t\.csv: 2 columns are called uri",
    ("t.csv", '"uri,alt\na.png,x\n'): r"t\.csv: the header cannot be read: line 1: a quote opens",
    ("t.jsonl", '{\n "uri": "a.png"\n}'): r"t\.jsonl: no row of it can be read: line 1: not JSON",
    ("t.json", '{"data": [{"uri": "a.png"}]}'): r"t\.json: no input\.uri_column 'uri'; the columns are data",
    ("t.json", '[{"uri": "a.png"}, '): r"t\.json: no row of it can be read: not a JSON array",
    ("t.csv.gz", "uri\na.png\n"): r"no table there can be read: damaged gzip",
    ("t.parquet", "uri\na.png\n"): r"no table there can be read: .*t\.parquet is not a readable Parquet file",
    ("t.xlsx", "PK"): r"t\.xlsx: the name of a table must end with \.parquet, \.csv",
    ("t.csv", "PK\3\4\0"): r"columns are PK\?\?\?; if",
    ("t.csv.zst", "uri\na.png\n"): r"t\.csv\.zst: the name of a table must end with",
    ("table", "uri\na.png\n"): r"table: the name of a table must end with",
    ("t.csv", f"<html>{LONG}{100 * chr(44)}\n"): r"columns are <html>x{74}, Unnamed: 1, .* and 61 more; if",
    ("t.jsonl", '{"\\n a\\n b": 1}\n'): r"no input\.uri_column 'uri'; the columns are a b; if",
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), REFUSED)
def test_files_that_are_not_tables_are_refused(images, name, content):
    (images / name).write_text(content)
    with pytest.raises(UsageError, match=REFUSED[name, content]):
        run(images / name)


def test_the_error_for_a_folder_without_tables_names_its_files(images):
    (images / "t.xlsx").touch()
    (images / "info.json").write_text("[]")
    with pytest.raises(UsageError, match=r"no \.parquet or .* file there; other files: 1 \.json, 4 \.png"):
        run(images)


@pytest.mark.parametrize("form", ["table", "parquet"])
def test_arrow_files_are_refused_with_advice(images, form):
    (images / "data.ARROW").write_bytes(b"\xff\xff\xff\xff")
    for uri in (images, images / "data.ARROW"):
        with pytest.raises(UsageError, match=r"\.arrow|Arrow files") as caught:
            run(uri, form)
        assert str(caught.value).endswith("datasets.load_from_disk(FOLDER).to_parquet(FILE)")


def test_the_error_for_a_csv_column_that_is_a_number_in_parquet_explains_the_types(images):
    pq.write_table(pa.table({"uri": ["a.png"], "n": [1]}), images / "0.parquet")
    (images / "1.csv").write_text("uri,n\nb.png,2\n")
    told = r"1\.csv: column n is string, and int64 in .*0\.parquet; .* \(columns of CSV and JSON .* text"
    with pytest.raises(UsageError, match=told):
        run(images)


def test_hidden_shards_are_left_out_and_counted(images):
    (images / "_temporary/0").mkdir(parents=True)
    (images / "day=1").mkdir()
    (images / "_day=2").mkdir()
    for name in (
        "_temporary/0/part.csv",
        "_SUCCESS",
        "_metadata",
        ".part.csv.crc",
        ".hidden.csv",
        "part.csv.tmp",
    ):
        (images / name).write_text("uri\na.png\n")
    for name in ("day=1/part.csv", "_day=2/part.csv", "part.CSV"):
        (images / name).write_text(f"uri,from\n../a.png,{name}\n")
    rows, _, skipped = run(images, duplicates="error", id_column="from")
    assert [row["id"] for row in rows] == ["_day=2/part.csv", "day=1/part.csv", "part.CSV"]
    assert skipped == {"(hidden)": 5, ".png": 4, ".tmp": 1}


def test_all_forms_in_one_folder(images):
    (images / "0.csv").write_text("uri,n\na.png,1\n")
    (images / "1.csv").write_bytes(b"")  # Spark writes empty partitions like this
    (images / "2.jsonl").write_text('{"n": "2", "uri": "b.png"}\n')
    pq.write_table(pa.table({"n": pa.array(["3"], pa.string_view()), "uri": ["c.png"]}), images / "3.parquet")
    (images / "4.parquet").write_bytes(b"")
    (images / "5.jsonl").write_text("broken\n")
    rows, columns, _ = run(images)
    assert kinds(rows) == [A, B, C, ("4.parquet#break", "broken_shard"), ("5.jsonl#0", "bad_row")]
    assert [row["n"] for row in rows] == ["1", "2", "3", None, None]
    assert columns == pa.schema([("n", pa.string())])


def damaged(table: pa.Table, folder: Path, *, group: int) -> bytes:
    """Write a Parquet file with row groups of two rows, one of them damaged."""
    pq.write_table(
        table, folder / "whole.parquet", row_group_size=2, compression="zstd", use_dictionary=False
    )
    data = bytearray((folder / "whole.parquet").read_bytes())
    column = pq.read_metadata(folder / "whole.parquet").row_group(group).column(0)
    data[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = b"\xff" * (
        column.total_compressed_size
    )
    (folder / "whole.parquet").unlink()
    return bytes(data)


class TestBrokenParquet:
    def test_readable_row_groups_of_a_damaged_table_are_read(self, images):
        table = pa.table({"uri": [f"{name}.png" for name in "abcd"], "n": [1, 2, 3, 4]})
        (images / "t.parquet").write_bytes(damaged(table, images, group=0))
        rows, _, _ = run(images / "t.parquet")
        assert kinds(rows) == [C, D, ("t.parquet#break", "broken_shard")]
        assert "2 of 4 rows are not readable" in rows[2]["error"]

    @pytest.mark.parametrize("broken", ["empty", "text", "cut", "footer", "encrypted"])
    @pytest.mark.parametrize("name", ["0.parquet", "2.parquet"])
    @pytest.mark.parametrize("form", ["table", "parquet"])
    def test_a_damaged_file_makes_one_bad_row(self, images, form, name, broken):
        pq.write_table(pa.table({"uri": ["a.png"], "image": [b"a"], "n": [1]}), images / "1.parquet")
        whole = (images / "1.parquet").read_bytes()
        length = int.from_bytes(whole[-8:-4], "little") + 8
        (images / name).write_bytes({
            "empty": b"",
            "text": b"not found" * 20,
            "cut": whole[length:],
            "footer": whole[:-length] + b"\xff" * (length - 8) + whole[-8:],
            "encrypted": whole[:-4] + b"PARE",
        }[broken])  # fmt: skip
        rows, columns, _ = run(images, form)
        found = {row["id"]: row for row in rows}
        assert len(rows) == 2
        assert found[f"{name}#break"]["kind"] == "broken_shard"
        assert found["a.png" if form == "table" else "1.parquet#0"]["data"] == b"a"
        assert [row["n"] for row in rows] in ([1, None], [None, 1])
        assert "n" in columns.names

    def test_a_table_without_readable_rows_is_refused(self, images):
        for name in ("0.parquet", "1.parquet"):
            (images / name).write_bytes(b"")
        for form in ("table", "parquet"):
            with pytest.raises(
                UsageError, match=r"can be read: .*0\.parquet is not a readable Parquet file: it is empty"
            ):
                run(images, form)

    def test_ids_that_cannot_be_read_are_file_and_row_number(self, images):
        table = pa.table({"id": ["w", "x", "y", "z"], "image": [b"a", b"b", b"c", b"d"]})
        (images / "t.parquet").write_bytes(damaged(table, images, group=1))
        rows, _, _ = run(images / "t.parquet", "parquet", id_column="id")
        assert kinds(rows) == [
            ("w", b"a"),
            ("x", b"b"),
            ("t.parquet#2", "corrupt"),
            ("t.parquet#3", "corrupt"),
        ]

    def test_a_file_that_changed_after_planning(self, images):
        pq.write_table(pa.table({"image": [b"a", b"b", b"c"]}), images / "t.parquet")
        config = InputConfig(uri=str(images / "t.parquet"), form="parquet")
        plan = pa.concat_tables(inputs(open_source(config, "/nowhere"), config))
        pq.write_table(pa.table({"image": [b"a"]}), images / "t.parquet")
        for part in (plan, plan.slice(2)):
            assert set(Fetch(form="parquet", pause=0.0)(part)["kind"].to_pylist()) == {"storage"}
        pq.write_table(pa.table({"other": [1, 2, 3]}), images / "t.parquet")
        assert set(Fetch(form="parquet", pause=0.0)(plan)["kind"].to_pylist()) == {"storage"}


def png(color: tuple[int, int, int] = (1, 2, 3)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), color).save(file, "PNG")
    return file.getvalue()


PNG = png()
TEXT = base64.b64encode(PNG).decode()
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CELLS = {
    "binary": pa.array([PNG, None]),
    "large binary": pa.array([PNG, None], pa.large_binary()),
    "view": pa.array([PNG, None], pa.binary_view()),
    "fixed-size": pa.array([PNG, None], pa.binary(len(PNG))),
    "dictionary": pa.array([PNG, None]).dictionary_encode(),
    "struct": pa.array([{"bytes": PNG, "path": "x.png"}, None], STRUCT),
    "struct with an empty one": pa.array([{"bytes": PNG}, {"bytes": None, "path": None}], STRUCT),
    "large struct": pa.array([{"bytes": PNG}, None], pa.struct([("bytes", pa.large_binary())])),
    "struct of views": pa.array([{"bytes": PNG}, None], pa.struct([("bytes", pa.binary_view())])),
    "struct of a dictionary": pa.array(
        [{"bytes": PNG}, None], pa.struct([("bytes", pa.dictionary(pa.int32(), pa.binary()))])
    ),
    "struct with one field of binary": pa.array(
        [{"data": PNG, "width": 3}, None], pa.struct([("data", pa.binary()), ("width", pa.int64())])
    ),
    "list of one": pa.array([[PNG], []]),
    "large list of structs": pa.array([[{"bytes": PNG}], None], pa.large_list(STRUCT)),
    "unsigned bytes": pa.array([list(PNG), []], pa.list_(pa.uint8())),
    "signed bytes": pa.array([[b - 256 if b > 127 else b for b in PNG], None], pa.list_(pa.int8())),
    "numbers": pa.array([list(PNG), None]),
    "as many bytes each": pa.array([list(PNG), None], pa.list_(pa.uint8(), len(PNG))),
    "base64": pa.array([TEXT, None]),
    "base64 in lines": pa.array([TEXT[:40] + "\r\n" + TEXT[40:], None], pa.large_string()),
    "data URI": pa.array([f"data:image/png;base64,{TEXT}", None], pa.string_view()),
}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_the_image_in_a_cell(images, name):
    pq.write_table(pa.table({"image": CELLS[name], "n": [1, 2]}), images / "t.parquet")
    rows, columns, _ = run(images / "t.parquet", "parquet")
    first, second = rows
    with Image.open(io.BytesIO(first["data"])) as image:
        assert image.getpixel((0, 0)) == (1, 2, 3)
    assert first["data"] == PNG
    assert (second["data"] or None, second["kind"]) in [(None, "empty"), (None, None)]  # null or empty
    assert (columns.names, [row["n"] for row in rows]) == (["n"], [1, 2])


def test_files_with_different_kinds_of_image_columns(images):
    for number, name in enumerate(CELLS):
        pq.write_table(
            pa.table({"image": CELLS[name], "n": [number, None]}), images / f"{number:02d}.parquet"
        )
    pq.write_table(pa.table({"image": pa.nulls(1)}), images / "nulls.parquet")
    rows, _, _ = run(images, "parquet")
    assert [row["data"] for row in rows if row["n"] is not None] == [PNG] * len(CELLS)
    assert rows[-1]["kind"] == "empty"


BAD_CELLS = {
    "two images": (pa.array([[PNG], [PNG, PNG]]), "a list of 2 images"),
    "large numbers": (pa.array([list(PNG), [256]]), "numbers that are not bytes"),
    "nulls among bytes": (pa.array([list(PNG), [1, None]]), "numbers that are not bytes"),
    "no base64": (pa.array([TEXT, "a.png"]), "not an image in base64"),
}


@pytest.mark.parametrize("name", BAD_CELLS)
def test_a_cell_without_an_image_is_a_bad_row(images, name):
    column, message = BAD_CELLS[name]
    pq.write_table(pa.table({"image": column}), images / "t.parquet")
    rows, _, _ = run(images / "t.parquet", "parquet")
    assert kinds(rows) == [("t.parquet#0", PNG), ("t.parquet#1", "bad_row")]
    assert message in rows[1]["error"]


NO_IMAGES = {
    "numbers": (pa.array([1]), r"'image' is int64, not images"),
    "floats": (pa.array([[1.0]]), r"is list<element: double>, not images"),
    "struct": (pa.array([{"width": 3}]), r"is struct<width: int64>, not images"),
    "links": (
        pa.array([None, "https://host/a.png"]),
        r"for paths or links use --input.form table",
    ),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_columns_without_images_are_refused(images, name):
    column, message = NO_IMAGES[name]
    pq.write_table(pa.table({"image": column}), images / "t.parquet")
    with pytest.raises(UsageError, match=message):
        run(images / "t.parquet", "parquet")


class TestPaths:
    def test_structs_without_bytes_are_read_from_their_path(self, images):
        (images / "sub").mkdir()
        (images / "sub/e.png").write_bytes(b"e")
        cells = [
            {"bytes": b"z", "path": "a.png"}, {"bytes": None, "path": "a.png"},
            {"bytes": None, "path": str(images / "b.png")}, {"bytes": b"", "path": "sub/e.png"},
            {"bytes": None, "path": "gone.png"}, {"bytes": None, "path": ""},
        ]  # fmt: skip
        pq.write_table(pa.table({"image": pa.array(cells, STRUCT), "n": range(6)}), images / "t.parquet")
        rows, _, _ = run(images / "t.parquet", "parquet")
        assert [row["kind"] or row["data"] for row in rows] == [b"z", b"a", b"b", b"e", "not_found", "empty"]
        assert [row["uri"] for row in rows] == [f"{images}/t.parquet#{number}" for number in range(6)]
        assert [row["n"] for row in rows] == list(range(6))

    @pytest.mark.parametrize(
        "kind",
        [pa.struct([("path", pa.string())]), pa.struct([("bytes", pa.null()), ("path", pa.large_string())])],
    )
    def test_structs_of_paths_alone(self, images, kind):
        pq.write_table(pa.table({"image": pa.array([{"path": "a.png"}], kind)}), images / "t.parquet")
        assert kinds(run(images, "parquet")[0]) == [("t.parquet#0", b"a")]

    def test_addresses_are_checked_like_those_of_tables(self, images):
        cells = [{"bytes": None, "path": "http://127.0.0.1:9/a.png"}]
        pq.write_table(pa.table({"image": pa.array(cells, STRUCT)}), images / "t.parquet")
        assert [row["kind"] for row in run(images, "parquet")[0]] == ["forbidden"]


URIS = {
    "large string": pa.array(["a.png", None], pa.large_string()),
    "view": pa.array(["a.png", None], pa.string_view()),
    "dictionary": pa.array(["a.png", None]).dictionary_encode(),
}


@pytest.mark.parametrize("name", URIS)
def test_uris_in_every_encoding_of_text(images, name):
    pq.write_table(pa.table({"uri": URIS[name], "n": [1, 2]}), images / "t.parquet")
    pq.write_table(pa.table({"uri": pa.nulls(1), "n": [3]}), images / "u.parquet")
    rows, _, _ = run(images)
    assert kinds(rows) == [A, ("t.parquet#1", "bad_row"), ("u.parquet#0", "bad_row")]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"a.png"]),
        pa.array([b"a.png"], pa.large_binary()),
        pa.array([b"a.png"]).dictionary_encode(),
        pa.array([["a.png"]]),
        pa.array([{"path": "a.png"}]),
        pa.array([1]),
    ],
)
def test_uris_that_are_not_text_are_refused(images, column):
    pq.write_table(pa.table({"uri": column}), images / "t.parquet")
    with pytest.raises(UsageError, match=r"t\.parquet: input\.uri_column 'uri' is .* and not text"):
        run(images)


IDS = {
    "numbers": (pa.array([0, 1, None, 3]), ["0", "1", "t.parquet#2", "3"]),
    "pandas numbers with a gap": (
        pa.array([0.0, 1.0, float("nan"), None]),
        ["0", "1", "t.parquet#2", "t.parquet#3"],
    ),
    "other numbers": (pa.array([0.5, 1e15, -2.0, 1e300]), ["0.5", "1000000000000000", "-2", str(int(1e300))]),
    "text": (pa.array(["", "x", None, "0"]), ["t.parquet#0", "x", "t.parquet#2", "0"]),
    "binary": (pa.array([b"w", b"caf\xe9", b"y", None]), ["w", r"caf\xe9", "y", "t.parquet#3"]),
    "dictionary": (pa.array(["w", "x", "y", None]).dictionary_encode(), ["w", "x", "y", "t.parquet#3"]),
    "view": (pa.array(["w", "x", "y", None], pa.string_view()), ["w", "x", "y", "t.parquet#3"]),
    "large numbers": (pa.array([2**64 - 1, 0, 1, 2], pa.uint64()), ["18446744073709551615", "0", "1", "2"]),
    "decimals": (pa.array([decimal.Decimal(n) for n in range(4)]), ["0", "1", "2", "3"]),
    "dates": (
        pa.array([datetime.date(2020, 1, day) for day in (1, 2, 3, 4)]),
        [f"2020-01-0{day}" for day in (1, 2, 3, 4)],
    ),
    "UUIDs": (
        pa.array([bytes([n] * 16) for n in range(4)], pa.uuid()),
        ["-".join(f"0{n}" * size for size in (4, 2, 2, 2, 6)) for n in range(4)],
    ),
    "nulls": (pa.nulls(4), [f"t.parquet#{n}" for n in range(4)]),
}


@pytest.mark.parametrize("form", ["table", "parquet"])
@pytest.mark.parametrize("name", IDS)
def test_ids(images, form, name):
    column, expected = IDS[name]
    names = [f"{one}.png" for one in "abcd"]
    table = pa.table({"id": column, "uri": names, "image": [one.encode() for one in "abcd"]})
    pq.write_table(table, images / "t.parquet")
    rows, _, _ = run(images, form, id_column="id")
    assert kinds(rows) == list(zip(expected, (b"a", b"b", b"c", b"d"), strict=True))


@pytest.mark.parametrize("form", ["table", "parquet"])
def test_ids_that_are_lists_are_refused(images, form):
    pq.write_table(pa.table({"id": [["x"]], "uri": ["a.png"], "image": [b"a"]}), images / "t.parquet")
    with pytest.raises(
        UsageError, match=r"input\.id_column 'id' is list<element: string>; ids are text or numbers"
    ):
        run(images, form, id_column="id")


US, NS = pa.timestamp("us"), pa.timestamp("ns")
MIXED = {
    "null and text": (pa.nulls(1), pa.array(["x"]), pa.string(), [None, "x"]),
    "text and large text": (
        pa.array(["x"]),
        pa.array(["y"], pa.large_string()),
        pa.large_string(),
        ["x", "y"],
    ),
    "text and views": (pa.array(["x"]), pa.array(["y"], pa.string_view()), pa.string(), ["x", "y"]),
    "text and a dictionary": (pa.array(["x"]).dictionary_encode(), pa.array(["y"]), pa.string(), ["x", "y"]),
    "two dictionaries": (
        pa.array(["x"], pa.dictionary(pa.int8(), pa.string())),
        pa.array(["y"], pa.dictionary(pa.int16(), pa.string())),
        pa.string(),
        ["x", "y"],
    ),
    "binary of two sizes": (
        pa.array([b"xy"], pa.binary(2)),
        pa.array([b"z"], pa.binary(1)),
        pa.binary(),
        [b"xy", b"z"],
    ),
    "integers": (pa.array([1], pa.int8()), pa.array([2**40]), pa.int64(), [1, 2**40]),
    "integers and floats": (pa.array([1]), pa.array([1.5]), pa.float64(), [1.0, 1.5]),
    "integers and short floats": (
        pa.array([2**24 + 1], pa.int32()),
        pa.array([1.5], pa.float32()),
        pa.float64(),
        [2.0**24 + 1, 1.5],
    ),
    "seconds in two units": (
        pa.array([1], US),
        pa.array([1_000_000_000], NS),
        NS,
        [datetime.datetime(1970, 1, 1, 0, 0, 0, 1), datetime.datetime(1970, 1, 1, 0, 0, 1)],
    ),
    "lists": (pa.array([[1]]), pa.array([[1.5]]), pa.list_(pa.float64()), [[1.0], [1.5]]),
    "lists and large lists": (pa.array([[1]]), pa.array([[2]], pa.large_list(pa.int64())), None, [[1], [2]]),
    "structs": (
        pa.array([{"a": 1}]),
        pa.array([{"b": "x", "a": 2}]),
        None,
        [{"a": 1, "b": None}, {"a": 2, "b": "x"}],
    ),
    "an empty list": (pa.array([[]]), pa.array([["x"]]), pa.list_(pa.string()), [[], ["x"]]),
}


@pytest.mark.parametrize("form", ["table", "parquet"])
@pytest.mark.parametrize("name", MIXED)
def test_columns_of_several_types_are_unified(images, form, name):
    first, second, kind, expected = MIXED[name]
    for number, column in enumerate((first, second)):
        table = pa.table({"uri": [f"{'ab'[number]}.png"], "image": [b"ab"[number : number + 1]], "t": column})
        pq.write_table(table, images / f"{number}.parquet")
    rows, columns, _ = run(images, form)
    assert [row["data"] for row in rows] == [b"a", b"b"]
    assert [row["t"] for row in rows] == expected
    assert kind is None or columns.field("t").type == kind


@pytest.mark.parametrize("form", ["table", "parquet"])
class TestColumns:
    def write(self, images: Path, *tables: dict[str, Any]) -> None:
        for number, columns in enumerate(tables):
            name = "abcd"[number]
            pq.write_table(
                pa.table({"uri": [f"{name}.png"], "image": [name.encode()]} | columns),
                images / f"{number}.parquet",
            )

    def test_in_another_order_or_missing(self, images, form):
        self.write(images, {"t": [1], "u": [2]}, {"u": [3], "t": [4]}, {"v": ["x"]})
        rows, columns, _ = run(images, form)
        assert [name for name in columns.names if name in "tuv"] == ["t", "u", "v"]
        assert [(row["t"], row["u"], row["v"]) for row in rows] == [
            (1, 2, None),
            (4, 3, None),
            (None, None, "x"),
        ]

    def test_types_that_cannot_be_unified_are_refused_with_file_and_column(self, images, form):
        self.write(images, {"t": [1]}, {"t": ["x"]})
        with pytest.raises(UsageError, match=r"1\.parquet: column t is string, and int64 in .*0\.parquet"):
            run(images, form)

    def test_ids_of_several_types(self, images, form):
        self.write(images, {"key": [7]}, {"key": ["x"]}, {"key": [8.0]}, {"key": pa.nulls(1)})
        rows, columns, _ = run(images, form, id_column="key")
        assert [row["id"] for row in rows] == ["7", "x", "8", "3.parquet#0"]
        assert "key" not in columns.names

    def test_a_value_that_does_not_fit_makes_a_bad_row(self, images, form):
        far = 2**62
        self.write(images, {"t": pa.array([far], US)}, {"t": pa.array([1], NS)})
        rows, _, _ = run(images, form)
        assert [row["kind"] for row in rows] == ["bad_row", None]
        assert rows[0]["t"] is None
        assert "column t does not fit timestamp[ns]" in rows[0]["error"]

    def test_column_names_that_the_output_uses(self, images, form):
        self.write(
            images,
            {"caption": ["1"]},
            {"input_caption": ["2"]},
            {"caption": ["3"], "input_caption": ["4"], "id": ["5"]},
        )
        rows, _, _ = run(images, form)
        assert [(row["input_caption"], row["input_input_caption"], row["input_id"]) for row in rows] == [
            ("1", None, None), (None, "2", None), ("3", "4", "5"),
        ]  # fmt: skip

    def test_duplicate_column_names(self, images, form):
        table = pa.table([["a.png"], [b"a"], [1], [2], ["y"]], names=["uri", "image", "t", "t", ""])
        pq.write_table(table, images / "t.parquet")
        ((row,), _, _) = run(images, form)
        assert (row["t"], row["t.1"], row["Unnamed: 4"]) == (1, 2, "y")
        used = "uri" if form == "table" else "image"
        pq.write_table(
            pa.table([["a.png"], [b"a"], ["a.png"]], names=["uri", "image", used]), images / "t.parquet"
        )
        with pytest.raises(UsageError, match=rf"t\.parquet: 2 columns are called {used}"):
            run(images, form)

    def test_text_that_is_not_utf8(self, images, form):
        raw = pa.array([b"caf\xe9", b"ok", None])
        text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
        table = pa.table(
            {
                "uri": ["a.png", "b.png", "c.png"],
                "image": [b"a", b"b", b"c"],
                "t": text,
                "d": text.dictionary_encode(),
                "n": pa.ListArray.from_arrays([0, 1, 2, 3], text),
            }
        )
        pq.write_table(table, images / "t.parquet")
        rows, _, _ = run(images / "t.parquet", form)
        assert [row["t"] for row in rows] == [r"caf\xe9", "ok", None]
        assert [row["d"] for row in rows] == [r"caf\xe9", "ok", None]
        assert [row["kind"] for row in rows] == [
            "bad_row",
            None,
            None,
        ]  # because of the list, which is not escaped
        assert [row["n"] for row in rows] == [None, ["ok"], [None]]

    def test_every_type_passes_through_unchanged(self, images, form):
        self.write(images, {f"c{number}": column for number, column in enumerate(TYPES)})
        table = pq.read_table(images / "0.parquet")
        ((row,), columns, _) = run(images, form)
        for number, column in enumerate(TYPES):
            assert row[f"c{number}"] == table[f"c{number}"].to_pylist()[0], column.type
        assert not any(
            pa.types.is_dictionary(one.type) or one.type in (pa.string_view(), pa.binary_view())
            for one in columns
        )


TYPES = [
    pa.array([True]),
    pa.array([2**64 - 1], pa.uint64()),
    pa.array([0.5], pa.float16()),
    pa.array([0.1], pa.float32()),
    pa.array([decimal.Decimal("1.23")]),
    pa.array([0], pa.date32()),
    pa.array([1], NS),
    pa.array([1], pa.timestamp("us", "UTC")),
    pa.array([1], pa.time64("ns")),
    pa.array([1], pa.duration("ns")),
    pa.array([b"x"]),
    pa.array(["x"], pa.large_string()),
    pa.array(["x"], pa.string_view()),
    pa.array([b"x"], pa.binary_view()),
    pa.array([b"ab"], pa.binary(2)),
    pa.array(["x"]).dictionary_encode(),
    pa.array([[1, None]]),
    pa.array([[{"a": 1}]]),
    pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
    pa.array([["x"]], pa.large_list(pa.string())),
    pa.array([["x"]], pa.list_(pa.string_view())),
    pa.array([{"a": {"b": [1]}}]),
    pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
    pa.nulls(1),
    pa.array([b"x" * 16], pa.uuid()),
    pa.array(['{"a": 1}'], pa.json_()),
]


def test_a_value_that_python_cannot_hold_passes_through(images):
    far = pa.array([2**62], US)  # the year 148,107
    pq.write_table(pa.table({"uri": ["a.png"], "image": [b"a"], "t": far}), images / "t.parquet")
    for form in ("table", "parquet"):
        config = InputConfig(uri=str(images / "t.parquet"), form=form)
        plan = pa.concat_tables(inputs(open_source(config, "/nowhere"), config))
        if form == "parquet":
            plan = plan.append_column(INPUT + "t", pa.nulls(1, US))
        assert Fetch(form=form)(plan)["t"].cast(pa.int64()).to_pylist() == [2**62]


def test_columns_of_plans_from_before_the_second_prefix(images):
    """They used `input_caption` for a column named caption."""
    pq.write_table(pa.table({"image": [b"a"], "input_caption": ["x"]}), images / "t.parquet")
    config = InputConfig(uri=str(images / "t.parquet"), form="parquet")
    plan = pa.concat_tables(inputs(open_source(config, "/nowhere"), config))
    plan = plan.append_column(INPUT + "input_caption", pa.nulls(1, pa.string()))
    assert Fetch(form="parquet")(plan)["input_caption"].to_pylist() == ["x"]


def test_names():
    assert distinct(["a", "", "a", "a.1", "a", ""]) == ["a", "Unnamed: 1", "a.2", "a.1", "a.3", "Unnamed: 5"]
    assert [passed_name(name) for name in ("alt", "caption", "input_caption", "input_alt")] == [
        "alt", "input_caption", "input_input_caption", "input_alt",
    ]  # fmt: skip
    assert escaped("a\ud83d b\udce9 \U0001f600") == r"a\ud83d b\xe9 " + "\U0001f600"


def test_no_input_column_has_a_name_of_a_table_between_stages():
    tables = [manifest.PLANNED, row_schemas.FETCHED, row_schemas.TRANSIT, row_schemas.CAPTIONS]
    names = {name for table in tables for name in table.names}
    assert names > {"image_vector", "data", "familiarity"}
    assert not names & {passed_name(name) for name in names}


def test_an_unexpected_error_is_one_line(images):
    class Failing:
        def __init__(self):
            self.columns, self.skipped = pa.schema([]), {}

        def __iter__(self):
            yield manifest.planned(id=["a"], uri=["a"])
            raise RuntimeError("two\nlines")

    config = InputConfig(uri=str(images))
    tables = inputs(Failing(), config)
    assert next(tables)["id"].to_pylist() == ["a"]
    with pytest.raises(
        JobError, match=rf"input\.uri {images}: it cannot be planned, RuntimeError: two lines$"
    ):
        next(tables)


def test_tables_in_object_storage(s3, monkeypatch):
    filesystem, variables = s3
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    paths = [None, "a//b.png", "../out.png", "c.png"]
    cells = [{"bytes": PNG if path is None else None, "path": path} for path in paths]
    file = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(cells, STRUCT), "uri": [*paths[1:], None]}), file)
    objects = {
        "t/0.csv.gz": gzip.compress(b"uri\na//b.png\n../out.png\n"),
        "t/1.jsonl": b'{"uri": "c.png"}\n',
        "t/2.parquet": b"",
        "t/3.parquet": file.getvalue(),
        "t/_temporary/4.csv": b"x",
        "t/a//b.png": b"b",
        "t/c.png": b"c",
        "t/a/b.png": b"another",
    }
    for key, data in objects.items():
        filesystem.pipe_file(f"photos/tables/{key}", data)
    try:
        rows, _, skipped = run("s3://photos/tables/t", duplicates="keep_first")
        assert kinds(rows) == [
            ("a//b.png", b"b"),
            ("../out.png", "forbidden"),
            ("c.png", b"c"),
            ("2.parquet#break", "broken_shard"),
            ("3.parquet#3", "bad_row"),
        ]
        assert skipped == {"(hidden)": 1, ".png": 3}
        rows, _, _ = run("s3://photos/tables/t", "parquet")
        assert [row["kind"] or row["data"] for row in rows] == ["broken_shard", PNG, b"b", "forbidden", b"c"]
    finally:
        filesystem.rm("photos/tables", recursive=True)


def test_a_failing_storage_breaks_no_shard(monkeypatch):
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    for name in ("t.csv", "t.jsonl.gz", "t.parquet"):
        with pytest.raises(StorageError):
            open_table(f"s3://photos/{name}", "uri")


def test_a_limit_leaves_unneeded_files_unread(images):
    for number in range(3):
        pq.write_table(pa.table({"image": [b"a", b"b"], f"c{number}": [1, 2]}), images / f"{number}.parquet")
    rows, columns, _ = run(images, "parquet", limit=3)
    assert [row["id"] for row in rows] == ["0.parquet#0", "0.parquet#1", "1.parquet#0"]
    assert columns.names == ["c0", "c1"]


def test_the_page_on_inputs_has_the_extensions_and_error_kinds():
    page = (Path(__file__).parents[4] / "docs" / "inputs.md").read_text()
    tables, _, rest = page.partition("## Parquet files that hold the images")
    tables = tables.partition("## Tables of links")[2]
    for ending in (".parquet", *ENDINGS):
        assert f"`{ending.removesuffix('.gz')}`" in tables, ending
    for text in (
        "`.gz`",
        "`_temporary/`",
        "`Unnamed: 0`",
        "`input_caption`",
        "`input_input_caption`",
        r"`\xe9`",
    ):
        assert text in tables
    for kind in ("bad_row", "broken_shard"):
        assert f"`{kind}`" in tables
    images = rest.partition("## Tars")[0]
    for kind in ("empty", "bad_row", "not_found", "corrupt", "storage", "worker_lost"):
        assert f"`{kind}`" in images
