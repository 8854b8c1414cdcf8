"""Rows that no worker wrote fail and keep the columns of the input."""

import io
import os
import signal
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glied.bulk import row_schemas
from glied.bulk.child_process import in_child
from glied.bulk.chunks import run_here
from glied.bulk.config import InputConfig, OutputConfig, RecoveryConfig, ResourcesConfig
from glied.bulk.items import Job
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run
from glied.errors import JobError, UsageError

NAMES = ("a", "b", "c")


def job(folder: Path, form: str) -> Job:
    return Job(
        results="captions",
        schema=row_schemas.CAPTIONS,
        encode=row_schemas.encode,
        model="m",
        config={},
        fingerprint={},
        source=InputConfig(uri=str(folder / "in"), form=form),  # type: ignore[arg-type]
        output=OutputConfig(uri=str(folder / "out"), unit_size=10),
        resources=ResourcesConfig(recovery=RecoveryConfig(rounds=2)),
        error_budget=1.0,
        example=None,
    )


def write(folder: Path, form: str) -> dict[str, list[object]]:
    """Write an input of three images with further columns."""
    folder.mkdir()
    if form == "webdataset":
        with tarfile.open(folder / "t.tar", "w") as tar:
            for name in NAMES:
                for extension, data in (("png", b"x"), ("txt", f"text of {name}".encode())):
                    member = tarfile.TarInfo(f"{name}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        return {"txt": [f"text of {name}" for name in NAMES]}
    columns = {"caption": ["1", "2", "3"], "n": pa.array([1, None, 2**62], pa.timestamp("us"))}
    images = {"image": [b"x"] * 3} if form == "parquet" else {"uri": [f"{name}.png" for name in NAMES]}
    pq.write_table(pa.table(images | columns), folder / "t.parquet")
    return {"input_caption": ["1", "2", "3"], "n": [1, None, 2**62]}


def describe(table: pa.Table) -> pa.Table:
    """A stage that captions every image "a cat"."""
    rows = [
        row_schemas.empty_row(
            row_schemas.CAPTIONS, id=row["id"], uri=row["uri"], status="ok", caption="a cat", model="m"
        )
        for row in table.select(["id", "uri"]).to_pylist()
    ]
    result = pa.Table.from_pylist(rows, schema=row_schemas.CAPTIONS)
    for name in table.column_names[5:]:
        result = result.append_column(table.schema.field(name), table[name])
    return result


@pytest.mark.parametrize("form", ["table", "parquet", "webdataset"])
def test_lost_rows_keep_their_columns(tmp_path, form):
    expected = write(tmp_path / "in", form)
    here = run_here(Fetch(form=form), describe)

    def losing(chunks, *, isolated=False):
        yield from here([chunk for chunk in chunks if not 1 <= chunk.start < 3])

    summary = bulk_run.execute(job(tmp_path, form), losing)
    assert (summary.statuses, summary.errors) == ({"ok": 1, "failed": 2}, {"worker_lost": 2})
    (file,) = (tmp_path / "out/captions").iterdir()
    rows = pq.read_table(file)
    assert rows["error_kind"].to_pylist() == [None, "worker_lost", "worker_lost"]
    found = {name: rows[name] for name in expected}
    if "n" in found:
        found["n"] = found["n"].cast(pa.int64())
    assert {name: column.to_pylist() for name, column in found.items()} == expected


def test_columns_of_a_deleted_file_are_null(tmp_path):
    write(tmp_path / "in", "parquet")

    def stream(chunks, *, isolated=False):
        (tmp_path / "in/t.parquet").unlink(missing_ok=True)
        yield from ()

    summary = bulk_run.execute(job(tmp_path, "parquet"), stream)
    assert summary.statuses == {"failed": 3}
    (file,) = (tmp_path / "out/captions").iterdir()
    assert pq.read_table(file)["n"].to_pylist() == [None] * 3


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    signal.pause()


def _refuse() -> None:
    raise UsageError("no")


@pytest.mark.slow
def test_a_child_that_dies_hangs_or_fails():
    assert in_child(os.getpid, purpose="tells its id") != os.getpid()
    with pytest.raises(JobError, match="the process that ends itself died"):
        in_child(_kill, purpose="ends itself")
    with pytest.raises(JobError, match="the process that waits took longer than 1 s"):
        in_child(_hang, purpose="waits", longest_s=1.0)
    with pytest.raises(UsageError, match="no"):
        in_child(_refuse, purpose="refuses")
