"""Conditions on rows, and exports of the rows that fulfill them."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glied.bulk import row_schemas
from glied.bulk.exports.export import ExportConfig, export
from glied.bulk.exports.row_filter import RowFilter
from glied.errors import UsageError
from tests.bulk import runs

TABLE = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "status": ["ok", "ok", "failed", "ok"],
        "clip_score": pa.array([0.75, 0.25, None, 0.5], pa.float32()),
        "repeats": [False, True, None, None],
        "caption": ["A dog runs", "a cat", None, ""],
        "odd name": [1, 2, 3, 4],
        "position in the table": [4, 3, 2, 1],
        "size": pa.array([1, 300, None, 70_000], pa.int32()),
        "price": pa.array([None, Decimal("1.50"), Decimal("2.00"), Decimal("3.25")], pa.decimal128(30, 2)),
        "kind": pa.array(["x", None, "y", "x"]).dictionary_encode(),
    }
)


@pytest.mark.parametrize(
    ("where", "positions"),
    [
        ("status == 'ok' and clip_score >= 0.5", [0, 3]),
        ("status != 'ok' or clip_score < 0.5", [1, 2]),
        ("not repeats", [0]),  # null is neither true nor false
        ("repeats is null or not repeats", [0, 2, 3]),
        ("clip_score is not None", [0, 1, 3]),
        ("0.2 < clip_score <= 0.5", [1, 3]),
        ("status in ['failed', 'rejected']", [2]),
        ("status not in ('ok',)", [2]),
        ("clip_score in [0.75, -1]", [0]),
        ("contains(caption, 'DOG')", [0]),
        ("starts_with(caption, 'A') or ends_with(caption, 't')", [0, 1]),
        ("words(caption) >= 2", [0, 1]),
        ("length(caption) == 0", [3]),
        ("column('odd name') > 2", [2, 3]),
        ("column('position in the table') > 2 and column('odd name') > 1", [1]),
        ("repeats == true", [1]),
        ("(field('clip_score') >= 0.5) & ~pc.field('repeats')", [0]),
        ("(status == 'failed') | (id == 'a')", [0, 2]),
        ("size in [300, 70000, 5000000000]", [1, 3]),
        ("size not in [1, 2]", [1, 3]),
        ("size in [0.5, 1]", [0]),
        ("size in [300, null]", [1]),
        ("size not in [300, null]", []),  # null might be any of them
        ("clip_score in [1, 0]", []),
        ("caption not in ['a cat', '']", [0]),
        ("kind in ['x', 'z']", [0, 3]),
        ("repeats in [true]", [1]),
        ("id in []", []),
        ("id not in []", [0, 1, 2, 3]),
        ("words(caption) in [0, 2]", [1, 3]),
        ("words(caption) == 0", [3]),
        ("words(caption) < 3", [1, 3]),
        ("price > 2", [3]),
        ("price > 2.0", [3]),
        ("2 <= field('price') < 9223372036854775807", [2, 3]),
        ("price not in [2, -1]", [1, 3]),
        ("price > 1 and size > -1", [1, 3]),
        ("-1 < clip_score and (id == 'a' or id == 'c')", [0]),
    ],
)
def test_rows_that_fulfill_a_condition(where, positions):
    condition = RowFilter(where)
    condition.check(TABLE.schema)
    assert condition.positions(TABLE) == positions
    assert condition.positions(TABLE.slice(0, 0)) == []


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("status = 'ok'", "invalid syntax"),
        ("", "invalid syntax"),
        ("__import__('os').system('true')", "no function"),
        ("caption.lower() == 'a'", r"no function caption\.lower"),
        ("contains(caption, 3)", "no text in quotes"),
        ("words() > 1", "takes 1 argument"),
        ("true", "names no column"),
        ("clip_score > 1 & length(id) < 2", "neither a column nor a value"),
        ("a if b else c", "neither a column nor a value"),
        ("status is 'ok'", "`is` takes null"),
        ("id == b'x'", "neither a column nor a value"),
        ("size > 99999999999999999999", "a number is larger than 9223372036854775807"),
        ("size in [1, -99999999999999999999]", "a number is larger than 9223372036854775807"),
        ("id == 'a' or " * 600 + "id == 'b'", "more than 1000 parts"),
        ("(id == 'a') | " * 600 + "(id == 'b')", "more than 1000 parts"),
        ("(id == 'a') | " * 100_000 + "(id == 'b')", "where"),
        (f"clip_score in {[number + 0.5 for number in range(1001)]}", "more than 1000 parts"),
        ("0 < " * 1001 + "clip_score", "more than 1000 parts"),
        ("(" * 500, "where"),
        ("not " * 100_000 + "repeats", "where"),
    ],
)
def test_other_syntax_is_refused_in_one_line(where, message):
    with pytest.raises(UsageError, match=message) as caught:
        ExportConfig(run="a", out="b", form="jsonl", where=where)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nope == 1", "no column nope; they have id, status"),
        ("status == 3", "types do not fit .status is string."),
        ("clip_score > 'a'", "types do not fit .clip_score is float."),
        ("clip_score", "types do not fit"),
        ("words(clip_score) > 1", "types do not fit"),
        ("repeats > 0.5", "types do not fit"),
        ("status in [3, 4]", "types do not fit"),
        ("id in ['a', 3]", "types do not fit"),
        ("size in ['a']", "types do not fit"),
        (f"clip_score in {[*range(1001)]}", "more than 1000 parts"),
    ],
)
def test_conditions_that_do_not_fit_the_columns_are_refused(where, message):
    with pytest.raises(UsageError, match=message):
        RowFilter(where).check(TABLE.schema)


@pytest.mark.parametrize(
    "where",
    [
        f"size in {[*range(100_000)]}",
        f"id in {['a', 'c'] + [str(number) for number in range(100_000)]} and size is not null",
        "size == 2 or " * 498 + "size == 1",
        "(size == 2) | " * 498 + "(size == 1)",
        "0 <= " * 998 + "size < 2",
        "~" * 90 + "(size == 1)",
    ],
)
def test_long_conditions_do_not_end_the_process(where):
    script = (
        "import sys, threading, pyarrow as pa; from glied.bulk.exports.row_filter import RowFilter; "
        "condition = RowFilter(sys.stdin.read()); threading.stack_size(512 * 1024); "
        "table = pa.table({'id': ['a', 'b'], 'size': pa.array([1, None], pa.int32())}); "
        "thread = threading.Thread(target=lambda: print(condition.positions(table))); "
        "thread.start(); thread.join()"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=where, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[0]\n"), done.stderr


SCORES = [0.0, 0.125, 0.25, None, 0.5, 0.625, 0.75]
ROWS = [
    runs.row(f"{number}.jpg", "ok" if score is not None else "rejected", clip_score=score)
    for number, score in enumerate(SCORES)
]
WHERE = "clip_score >= 0.25 and clip_score < 0.7"
KEPT = ["2.jpg", "4.jpg", "5.jpg"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs.make_run(tmp_path / "run", ROWS, 2)
    return tmp_path / "run"


def run(folder: Path, form: str, out: str = "out", **options):
    return export(ExportConfig(run=str(folder), out=str(folder.parent / out), form=form, **options))


def test_every_form_has_only_the_chosen_rows(folder, tmp_path):
    out = tmp_path / "out"
    report = run(folder, "parquet", where=WHERE, columns=["id"])
    assert pq.read_table(out).to_pydict() == {"id": KEPT}
    assert (report.units, report.written) == (4, 3)
    assert report.lines()[-1].endswith(f"rows where {WHERE}")
    assert run(folder, "jsonl", "lines", where=WHERE).written == 3
    lines = "".join(path.read_text() for path in sorted((tmp_path / "lines").glob("*.jsonl"))).splitlines()
    assert [json.loads(line)["id"] for line in lines] == KEPT
    run(folder, "coco", "coco.json", where=WHERE)
    assert [one["image_id"] for one in json.loads((tmp_path / "coco.json").read_text())] == [2, 4, 5]
    report = run(folder, "txt", "texts", where=WHERE)
    assert sorted(path.name for path in (tmp_path / "texts").glob("*.txt")) == ["2.txt", "4.txt", "5.txt"]
    assert (report.written, report.captionless) == (3, 0)


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("status == 'ok' and clip_score < 0.3", ["0.txt", "1.txt", "2.txt"]),
        ("ends_with(caption, '4.jpg')", ["4.txt"]),
        ("id in ['5.jpg', '6.jpg'] and id != '6.jpg' and caption is not null", ["5.txt"]),
    ],
)
def test_conditions_on_the_columns_that_sidecars_read_anyway(folder, tmp_path, where, names):
    run(folder, "txt", "texts", where=where)
    assert sorted(path.name for path in (tmp_path / "texts").glob("*.txt")) == names


def test_another_condition_is_another_export(folder):
    run(folder, "parquet", where=WHERE)
    assert run(folder, "parquet", where=WHERE).earlier == 4
    with pytest.raises(UsageError, match="holds another export"):
        run(folder, "parquet", where="clip_score > 0.5")
    with pytest.raises(UsageError, match="holds another export"):
        run(folder, "parquet")


def test_conditions_are_checked_before_anything_is_written(folder, tmp_path):
    for form in ("parquet", "txt", "coco"):
        with pytest.raises(UsageError, match="no column nope"):
            run(folder, form, where="nope")
    assert not (tmp_path / "out").exists()


def test_columns_that_older_rows_lack_are_null(tmp_path):
    plan = runs.plan_run(tmp_path / "run", ["a"], 2)
    older = pa.list_(pa.struct(list(row_schemas.CAPTION)[:2]))
    table = runs.table([runs.row("a")]).drop_columns(sorted(row_schemas.LATER))
    place = table.column_names.index("captions")
    table = table.set_column(place, "captions", pa.array([[{"text": "x", "log_probability": -1.0}]], older))
    runs.commit(tmp_path / "run", plan, 0, table)
    assert run(tmp_path / "run", "parquet", where="repeats is null").written == 1
    (row,) = pq.read_table(tmp_path / "out").to_pylist()
    known = {"text": "x", "log_probability": -1.0}
    assert row["captions"] == [dict.fromkeys(row_schemas.CAPTION.names) | known]
    assert run(tmp_path / "run", "parquet", "other", where="not repeats").written == 0
