"""Runs in folders that are damaged, overwritten by another job, or of another run."""

import contextlib
import json
import logging
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from glied import run_folder, storage
from glied.bulk import row_schemas
from glied.bulk.config import ChunkConfig, InputConfig, OutputConfig, RecoveryConfig, ResourcesConfig
from glied.bulk.exports.export import ExportConfig, export
from glied.bulk.items import Chunk, DescribedChunk, Job
from glied.bulk.plan import manifest
from glied.bulk.run import bulk_run, committed_rows, ledger, status
from glied.bulk.run.summary import Summary
from glied.errors import GliedError, JobError, StorageError, UsageError
from tests.bulk import runs

IMAGES = 23
UNIT = 5


@pytest.fixture
def source(tmp_path) -> Path:
    """A folder of image files that are never decoded."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(IMAGES):
        (folder / f"{number:03d}.jpg").write_bytes(b"x")
    return folder


def job(source: Path, out: Path, *, mode: Any = "resume", shard: str = "0/1") -> Job:
    """A job without models."""
    return Job(
        results="captions",
        schema=row_schemas.CAPTIONS,
        encode=row_schemas.encode,
        model="m",
        config={},
        fingerprint={"model": "m"},
        source=InputConfig(uri=str(source)),
        output=OutputConfig(uri=str(out), unit_size=UNIT, mode=mode, shard=shard),
        resources=ResourcesConfig(chunk=ChunkConfig(images=2), recovery=RecoveryConfig(rounds=1)),
        error_budget=0.0,
        example=None,
    )


class Captioner:
    """A stream that captions every image; `seen` are the ids it received."""

    def __init__(self, status: str = "ok", **values: Any) -> None:
        self.status = status
        self.values = values
        self.seen: list[str] = []

    def __call__(self, chunks: list[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
        for chunk in chunks:
            ids = chunk.table["id"].to_pylist()
            self.seen += ids
            rows = runs.table([runs.row(one, self.status, **self.values) for one in ids])
            yield DescribedChunk(chunk.unit, chunk.start, rows)


def execute(source: Path, out: Path, stream: Captioner | None = None, **options: Any) -> Summary:
    return bulk_run.execute(job(source, out, **options), stream or Captioner())


def rows_of(out: Path) -> list[str]:
    return [row["id"] for row in committed_rows.read_rows(str(out))]


def content(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "summary.json"
    }


def unit_of(out: Path, unit: int) -> Path:
    return next(out.glob(f"captions/unit-{unit:06d}-*"))


def all_ids(source: Path) -> list[str]:
    return sorted(path.name for path in source.iterdir())


DAMAGES: dict[str, Callable[[Path, Path], Any]] = {
    "deleted": lambda path, other: path.unlink(),
    "empty": lambda path, other: path.write_bytes(b""),
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[:-7]),
    "longer": lambda path, other: path.write_bytes(path.read_bytes() + b"x"),
    "swapped": lambda path, other: shutil.copy(other, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_deleted_or_truncated_after_their_commit_are_made_again(source, tmp_path, damage, caplog):
    out = tmp_path / "out"
    execute(source, out)
    # The last unit has fewer rows, so its file has a different size.
    DAMAGES[damage](unit_of(out, 1), unit_of(out, 4))
    with pytest.raises(UsageError, match="1 committed units are damaged"):
        rows_of(out)
    stream = Captioner()
    summary = execute(source, out, stream)
    assert (summary.units_mended, summary.units_done, summary.images_this_time) == (1, 5, UNIT)
    assert stream.seen == all_ids(source)[5:10]
    assert (summary.statuses, bulk_run.exit_code(summary)) == ({"ok": IMAGES}, 0)
    assert "unit 1 is done again" in caplog.text
    assert rows_of(out) == all_ids(source)
    assert list(status.verify(status.open_run(str(out)))) == []
    ids = [one for path in out.glob("captions/*.parquet") for one in pq.read_table(path)["id"].to_pylist()]
    assert sorted(ids) == all_ids(source), "the damaged file is deleted"
    assert execute(source, out).images_this_time == 0


def test_repair_finds_damage_that_a_listing_does_not_show(source, tmp_path):
    out = tmp_path / "out"
    execute(source, out)
    first, second = unit_of(out, 0), unit_of(out, 1)
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 4
    first.write_bytes(data)
    assert len(second.read_bytes()) == len(unit_of(out, 2).read_bytes())
    shutil.copy(unit_of(out, 2), second)
    next(out.glob("commits/unit-000003-*")).write_bytes(b"{}")
    stream = Captioner()
    summary = execute(source, out, stream, mode="repair")
    assert (summary.units_mended, bulk_run.exit_code(summary)) == (3, 0)
    ids = all_ids(source)
    assert stream.seen == [*ids[:10], *ids[15:20]]
    assert rows_of(out) == ids
    assert list(status.verify(status.open_run(str(out)))) == []
    assert execute(source, out, mode="repair").images_this_time == 0


def test_repair_replaces_foreign_files_of_units(source, tmp_path):
    out = tmp_path / "out"
    execute(source, out)
    next(out.glob("commits/unit-000001-*")).unlink()
    unit_of(out, 1).write_bytes(b"something else")
    with pytest.raises(JobError, match="is in the way"):
        execute(source, out)
    assert execute(source, out, mode="repair").statuses == {"ok": IMAGES}
    assert rows_of(out) == all_ids(source)


def test_a_plan_with_duplicate_ids_cannot_be_repaired(tmp_path, source):
    rows = [runs.row(name) for name in ("a", "b", "a", "d")]
    out = tmp_path / "out"
    plan = runs.make_run(out, rows, 2)
    record = json.loads((out / "run.json").read_text())
    wanted = job(source, out, mode="repair")
    record |= {"fingerprint": wanted.fingerprint, "input": asdict(wanted.source)}
    (out / "run.json").write_text(json.dumps(record))
    assert plan.units == 2
    with pytest.raises(JobError, match=r"cannot mend unit 1: 1 ids .* are duplicates"):
        bulk_run.execute(wanted, Captioner())


OLDER_CAPTIONS = pa.list_(pa.struct(list(row_schemas.CAPTION)[:2]))
OLDER = pa.schema(
    [
        field.with_type(OLDER_CAPTIONS) if field.name == "captions" else field
        for field in row_schemas.CAPTIONS
        if field.name not in row_schemas.LATER
    ]
)
"""Columns of a run that was started by an older version."""


def older(source: Path, out: Path, **options: Any) -> Job:
    return replace(job(source, out, **options), schema=OLDER)


def test_a_run_whose_rows_lack_a_newer_column_resumes(source, tmp_path):
    out, ids = tmp_path / "out", all_ids(source)
    bulk_run.execute(older(source, out, shard="0/2"), Captioner())
    assert "familiarity" not in pq.read_schema(unit_of(out, 0)).names
    next(out.glob("commits/unit-000002-*")).unlink()  # as after a kill; it is adopted
    stream = Captioner(familiarity=0.003)
    summary = execute(source, out, stream)
    assert stream.seen == [*ids[5:10], *ids[15:20]]
    expected = {one: 0.003 if one in stream.seen else None for one in ids}
    assert {row["id"]: row["familiarity"] for row in committed_rows.read_rows(str(out))} == expected
    assert (summary.images_rated, summary.images_unfamiliar) == (10, 10)
    assert "10 of 10 images look unlike anything" in "\n".join(summary.lines())
    state = status.status(status.open_run(str(out)))
    assert (state.images_rated, state.images_unfamiliar) == (10, 10)
    assert list(status.verify(status.open_run(str(out)))) == []
    assert execute(source, out).images_this_time == 0

    for columns in (None, ["familiarity", "id"]):
        parts = tmp_path / f"parts {columns}"
        export(ExportConfig(run=str(out), out=str(parts), form="parquet", columns=columns))
        assert len({str(pq.read_schema(part)) for part in parts.glob("*.parquet")}) == 1
        assert pq.read_table(parts)["familiarity"].to_pylist() == list(expected.values())


def test_rows_are_retried_in_a_run_whose_rows_lack_a_newer_column(source, tmp_path):
    out = tmp_path / "out"
    good, bad = Captioner(), Captioner("failed", error_kind="out_of_memory")

    def half(chunks: list[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
        for number, chunk in enumerate(chunks):
            yield from (bad if number % 2 else good)([chunk])

    bulk_run.execute(older(source, out), half)
    summary = execute(source, out, Captioner(familiarity=0.5), mode="retry_failed")
    assert summary.statuses == {"ok": IMAGES}
    assert (summary.images_rated, summary.images_unfamiliar) == (len(bad.seen), 0)
    expected = {one: 0.5 if one in bad.seen else None for one in all_ids(source)}
    assert {row["id"]: row["familiarity"] for row in committed_rows.read_rows(str(out))} == expected
    assert all(
        pq.read_schema(path).equals(row_schemas.CAPTIONS) for path in out.glob("captions/*.g1.parquet")
    )


def test_fingerprints_are_compared_by_their_common_keys_if_a_run_has_no_familiarity(source, tmp_path):
    plain = job(source, tmp_path / "out")
    measured = replace(plain, fingerprint=plain.fingerprint | {"familiarity": "abc"})
    bulk_run.execute(plain, Captioner())
    assert bulk_run.execute(measured, Captioner()).images_this_time == 0
    bulk_run.execute(
        replace(measured, output=replace(plain.output, uri=str(tmp_path / "other"))), Captioner()
    )
    for changed, now in (
        (plain, "null"),
        (replace(measured, fingerprint={**plain.fingerprint, "familiarity": "d"}), '"d"'),
    ):
        with pytest.raises(UsageError, match=f'familiarity was "abc" and is now {now}'):
            bulk_run.execute(
                replace(changed, output=replace(plain.output, uri=str(tmp_path / "other"))), Captioner()
            )


def test_an_older_run_whose_input_has_a_column_of_that_name_is_refused(source, tmp_path):
    out, wanted = tmp_path / "out", job(source, tmp_path / "out")
    out.mkdir()
    record = {"run": runs.RUN, "results": "captions", "config": {}, "fingerprint": wanted.fingerprint}
    (out / "run.json").write_text(json.dumps(record | {"input": asdict(wanted.source)}))
    planned = manifest.planned(id=["a"], uri=["/in/a"])
    manifest.create(
        str(out), [planned], UNIT, run=runs.RUN, columns=pa.schema([("familiarity", pa.string())])
    )
    with pytest.raises(UsageError, match="an older version, whose input has a column familiarity"):
        bulk_run.execute(wanted, Captioner())


def test_a_run_of_an_older_version_resumes_and_has_totals(source, tmp_path):
    """Its records lack the size and the run, its manifest lacks the run, and its journals are not read."""
    out = tmp_path / "out"
    execute(source, out, shard="0/2")
    for path in out.glob("commits/*.json"):
        record = json.loads(path.read_text())
        for key in ("run", "bytes"):
            del record[key]
        unit, plan, _ = path.name.removesuffix(".g0.json").split("-")[1:]
        (out / "commits" / f"unit-{unit}-{plan}.g0.json").write_text(json.dumps(record))
        path.unlink()
    path = out / "manifest" / "manifest.json"
    plan_record = json.loads(path.read_text())
    del plan_record["run"], plan_record["checksum"]
    for part in plan_record["parts"]:
        del part["sha256"]
    path.write_text(json.dumps(plan_record))
    (out / "attempts").mkdir()
    (out / "attempts" / f"{plan}-0123456789ab-0000.json").write_text("[")
    summary = execute(source, out)
    assert (summary.units_done_earlier, summary.images_this_time) == (3, 10)
    assert summary.statuses == {"ok": IMAGES}
    assert rows_of(out) == all_ids(source)
    assert status.status(status.open_run(str(out))).statuses == {"ok": IMAGES}
    unit_of(out, 0).unlink()
    assert execute(source, out).units_mended == 1
    assert list(status.verify(status.open_run(str(out)))) == []


# --- ownership of the folder


def test_a_job_whose_run_is_overwritten_during_planning_stops(source, tmp_path, monkeypatch):
    """A has listed its input but not published its plan when B overwrites the run."""
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    for name in ("x.jpg", "y.jpg"):
        (other / name).write_bytes(b"x")
    publish = manifest._publish

    for moment in ("before", "after"):
        shutil.rmtree(out, ignore_errors=True)

        def overwritten(run_uri, plan, run_id, moment=moment):
            monkeypatch.setattr(manifest, "_publish", publish)
            if moment == "before":  # B has claimed the folder and plans after A
                plans = publish(run_uri, plan, run_id)
                execute(other, out, mode="overwrite")
                return plans
            execute(other, out, mode="overwrite")
            return publish(run_uri, plan, run_id)

        monkeypatch.setattr(manifest, "_publish", overwritten)
        with pytest.raises(JobError, match="was overwritten by another job"):
            execute(source, out)
        assert rows_of(out) == ["x.jpg", "y.jpg"]
        assert json.loads((out / "run.json").read_text())["input"]["uri"] == str(other)
        assert list(status.verify(status.open_run(str(out)))) == []
        assert execute(other, out).images_this_time == 0


def test_a_manifest_published_after_an_overwrite_is_not_adopted(source, tmp_path, monkeypatch):
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    (other / "x.jpg").write_bytes(b"x")
    a = job(source, out)
    claimed_by_a = bulk_run._claim(a, str(out))
    plan = bulk_run._plan

    def late(b, run_uri, run_id, index):
        batches = [manifest.planned(id=["a-of-a"], uri=["a-of-a"])]
        manifest.create(
            run_uri, batches, UNIT, run=claimed_by_a
        )  # A checked just before B claimed the folder
        return plan(b, run_uri, run_id, index)

    monkeypatch.setattr(bulk_run, "_plan", late)
    execute(other, out, mode="overwrite")
    assert rows_of(out) == ["x.jpg"]
    monkeypatch.undo()
    assert execute(other, out).images_this_time == 0
    with pytest.raises(UsageError, match="mismatched fingerprint"):
        execute(source, out)


def test_a_driver_notices_that_it_was_overwritten(source, tmp_path, monkeypatch):
    monkeypatch.setattr("glied.bulk.run.driver.CONFIRM_S", -1.0)
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    (other / "x.jpg").write_bytes(b"x")

    class Slow(Captioner):
        def __call__(self, chunks, *, isolated=False):
            for number, result in enumerate(super().__call__(chunks, isolated=isolated)):
                if number == 3:
                    execute(other, out, mode="overwrite")
                yield result

    with pytest.raises(JobError, match="was overwritten by another job"):
        execute(source, out, Slow())
    assert len(list(out.glob("captions/*"))) == len(list(out.glob("commits/*"))) == 1, (
        "it wrote nothing afterward"
    )
    assert rows_of(out) == ["x.jpg"]


def test_files_of_an_overwritten_run_are_deleted(source, tmp_path):
    out = tmp_path / "out"
    execute(source, out)
    late = unit_of(out, 0).with_name("unit-000000-ffffffff.g0.parquet")
    record = out / "commits" / "unit-000000-ffffffff-3.g0.json"
    late.write_bytes(b"row")
    record.write_text("{}")
    assert rows_of(out) == all_ids(source)
    execute(source, out)
    assert not late.exists()
    assert not record.exists()


def test_overwrite_deletes_the_run_and_nothing_else(source, tmp_path, caplog):
    out = tmp_path / "out"
    execute(source, out)
    mine = ["captions/mine.parquet", "commits/notes.json", "manifest/photos/part-000000.parquet", "photo.jpg"]
    mine += ["features/unit-000000-01234567.g0.parquet", "captions/2024/unit-000000-01234567.g0.parquet"]
    for name in mine:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    with caplog.at_level(logging.WARNING):
        execute(source, out, mode="overwrite")
    assert all((out / name).read_bytes() == b"mine" for name in mine)
    assert "captions/mine.parquet" in caplog.text
    assert "photo.jpg" not in caplog.text, "files beside the run's folders are kept"
    assert rows_of(out) == all_ids(source)


@pytest.mark.parametrize("record", [None, b"{}", b'{"kind": "caption", "trainer": {}}', b"[1", b"\xff\xfe"])
def test_overwrite_refuses_a_folder_without_a_run(source, tmp_path, record):
    out = tmp_path / "out"
    names = [
        "captions/unit-000000.g0.parquet",
        "commits/unit-000000-01234567.g0.json",
        "manifest/manifest.json",
    ]
    names += ["captions/a.parquet", "summary.json"]
    for name in names:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    if record is not None:
        (out / "run.json").write_bytes(record)
    before = content(out)
    with pytest.raises(UsageError):
        execute(source, out, mode="overwrite")
    after = content(out)
    assert {name: after[name] for name in before} == before


def test_overwrite_of_an_empty_folder_is_a_run(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo.jpg").write_bytes(b"mine")
    assert execute(source, tmp_path / "out", mode="overwrite").statuses == {"ok": IMAGES}
    assert (tmp_path / "out" / "photo.jpg").read_bytes() == b"mine"


def test_overwriting_a_store_by_captions_deletes_the_store(source, tmp_path):
    out = tmp_path / "out"
    plan = runs.plan_run(out, ["a.jpg"], 1, results="features")
    book = ledger.Ledger(str(out), plan.plan, "features", runs.RUN)
    book.put_output(0, 0, b"rows")
    execute(source, out, mode="overwrite")
    assert list((out / "features").iterdir()) == []


# --- lost or damaged control files


def test_a_deleted_manifest_beside_commits_is_refused(source, tmp_path):
    out = tmp_path / "out"
    execute(source, out)
    (out / "manifest" / "manifest.json").unlink()
    before = content(out)
    with pytest.raises(UsageError, match=r"manifest\.json is missing, but 5 units are committed"):
        execute(source, out)
    assert content(out) == before
    assert execute(source, out, mode="overwrite").statuses == {"ok": IMAGES}


def test_every_reader_names_a_deleted_manifest(source, tmp_path):
    out = tmp_path / "out"
    execute(source, out)
    (out / "manifest" / "manifest.json").unlink()
    lost = r"manifest\.json is missing, but 5 units are committed"
    for read in (status.open_run, committed_rows.files, run_folder.committed):
        with pytest.raises(UsageError, match=lost):
            read(str(out))
    with pytest.raises(UsageError, match=lost):
        export(ExportConfig(run=str(out), form="jsonl", out=str(tmp_path / "exported")))


@pytest.mark.parametrize("key", ["run", "results", "fingerprint", "input"])
def test_a_changed_value_in_run_json_is_detected(source, tmp_path, key):
    """Otherwise it would count as another run, whose job deletes the rows of this one."""
    out = tmp_path / "out"
    execute(source, out)
    text = (out / "run.json").read_text()
    place = text.index(f'"{key}": ') + len(f'"{key}": ')
    place += re.search(r"[0-9a-z]", text[place:]).start()
    (out / "run.json").write_text(text[:place] + ("1" if text[place] != "1" else "2") + text[place + 1 :])
    before = content(out)
    for mode in ("resume", "repair", "overwrite"):
        with pytest.raises(UsageError, match=r"run\.json is (damaged|not of a bulk run)"):
            execute(source, out, mode=mode)
    with pytest.raises(UsageError, match=r"run\.json is (damaged|not of a bulk run)"):
        status.open_run(str(out))
    assert content(out) == before


def test_a_run_json_of_an_older_version_has_no_checksum(source, tmp_path):
    out = tmp_path / "out"
    execute(source, out)
    record = json.loads((out / "run.json").read_text())
    record.pop(run_folder.CHECKSUM)
    (out / "run.json").write_text(json.dumps(record))
    assert execute(source, out).images_this_time == 0


def test_an_interrupted_plan_is_made_again_beside_records_of_an_overwritten_run(source, tmp_path):
    out = tmp_path / "out"
    execute(source, out)
    record = json.loads((out / "run.json").read_text())
    record.pop(run_folder.CHECKSUM)
    claimed = run_folder.with_checksum(
        record | {"run": "0123456789ab"}
    )  # B claimed the folder and was killed
    (out / "run.json").write_bytes(claimed)
    (out / "manifest" / "manifest.json").unlink()
    summary = execute(source, out)
    assert summary.images_this_time == IMAGES
    assert rows_of(out) == all_ids(source)
    assert len(list(out.glob("captions/*"))) == 5


@pytest.mark.parametrize("mode", ["resume", "repair"])
def test_flipped_bytes_in_any_control_file_are_one_line(source, tmp_path, mode):
    """Either one of our errors is raised, or the run completes with the right rows."""
    out = tmp_path / "out"
    execute(source, out)
    generator = random.Random(1)
    whole = content(out)
    names = [name for name in whole if not name.startswith("captions/")]
    names += [name for name in whole if name.startswith("captions/")] if mode == "repair" else []
    for name in names:
        for _ in range(12):
            data = bytearray(whole[name])
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            (out / name).write_bytes(data)
            try:
                summary = execute(source, out, mode=mode)
                if bulk_run.exit_code(summary) == 0 and mode == "repair":
                    assert rows_of(out) == all_ids(source), name
            except GliedError as error:
                message = str(error)
                assert "\n" not in message, name
            shutil.rmtree(out)
            for path, one in whole.items():
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                (out / path).write_bytes(one)


# --- exit codes


def test_a_storage_failure_during_planning_is_not_a_usage_error(source, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise StorageError("cannot list: slow down") from TimeoutError("slow down")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "list_files", fails)
        with pytest.raises(StorageError, match="slow down") as caught:
            execute(source, tmp_path / "out")
    assert caught.value.exit_code == 1
    with monkeypatch.context() as patch:
        patch.setattr(storage, "put_if_absent", fails)
        with pytest.raises(
            StorageError, match=r"output\.uri .* is not usable: cannot list: slow down"
        ) as caught:
            execute(source, tmp_path / "out")
    assert caught.value.exit_code == 1


def s3_error(code: str, status_code: int) -> ClientError:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status_code}}
    return ClientError(answer, "GetObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (PermissionError("access denied"), 2),
        (NoCredentialsError(), 2),
        (s3_error("AccessDenied", 403), 2),
        (s3_error("ExpiredToken", 400), 2),
        (s3_error("SlowDown", 503), 1),
        (s3_error("RequestTimeout", 400), 1),
        (ConnectionResetError("reset"), 1),
        (OSError(28, "no space left"), 1),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_access_is_a_usage_error_and_a_failing_storage_is_not(
    source, tmp_path, monkeypatch, cause, code
):
    def fails(*arguments, **options):
        raise StorageError("cannot write") from cause

    monkeypatch.setattr(storage, "put_if_absent", fails)
    with pytest.raises(GliedError, match="cannot write") as caught:
        execute(source, tmp_path / "out")
    assert caught.value.exit_code == code


@pytest.mark.parametrize(("kind", "status_"), [("not_found", "rejected"), ("empty", "rejected")])
def test_a_run_without_any_ok_row_fails(source, tmp_path, kind, status_):
    summary = execute(source, tmp_path / "out", Captioner(status_, error_kind=kind))
    assert summary.errors == {kind: IMAGES}
    assert bulk_run.exit_code(summary) == 1
    assert any("nothing was delivered" in line for line in summary.lines())
    again = execute(source, tmp_path / "out")
    assert bulk_run.exit_code(again) == 1


def test_a_run_with_one_ok_row_succeeds(source, tmp_path):
    class Few(Captioner):
        def __call__(self, chunks, *, isolated=False):
            for result in super().__call__(chunks, isolated=isolated):
                ids = result.table["id"].to_pylist()
                rows = [runs.row(one, "ok" if one == "000.jpg" else "rejected") for one in ids]
                yield replace(result, table=runs.table(rows))

    summary = execute(source, tmp_path / "out", Few())
    assert (summary.statuses["ok"], bulk_run.exit_code(summary)) == (1, 0)


# --- crashes between any two requests


class Crash(BaseException):
    """Simulates the death of the process."""


CALLS = ("put_if_absent", "write_bytes", "delete", "read_bytes")


def crashing(patch: pytest.MonkeyPatch, number: int, *, after: bool) -> list[str]:
    """Raise `Crash` before or after storage request `number`; return the requests."""
    calls: list[str] = []

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            mine = len(calls) == number
            if mine and not after:
                raise Crash
            answer = function(*arguments, **options)
            if mine:
                raise Crash
            return answer

        return call

    for name in CALLS:
        patch.setattr(storage, name, wrapped(name, getattr(storage, name)))
    return calls


def prepared(source: Path, out: Path, mode: str) -> None:
    """Prepare a folder in which the mode has work to do."""
    if mode in ("retry_failed", "overwrite"):
        failing = Captioner("failed", error_kind="storage_")
        bulk_run.execute(replace(job(source, out), error_budget=1.0), failing)
    elif mode in ("mend", "repair"):
        execute(source, out)
        unit_of(out, 1).unlink()
        path = unit_of(out, 2)
        path.write_bytes(bytes(path.stat().st_size) if mode == "repair" else b"")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("mode", ["resume", "retry_failed", "overwrite", "mend", "repair"])
def test_a_crash_at_any_request_loses_and_duplicates_nothing(source, tmp_path, monkeypatch, mode, after):
    for name in all_ids(source)[11:]:
        (source / name).unlink()
    first = tmp_path / "first"
    prepared(source, first, mode)
    options = {"mode": "resume" if mode == "mend" else mode}
    number = 0
    while True:
        number += 1
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        if first.exists():
            shutil.copytree(first, out)
        with monkeypatch.context() as patch:
            calls = crashing(patch, number, after=after)
            with contextlib.suppress(Crash):
                execute(source, out, **options)
        if len(calls) < number:
            break  # it ended before
        again = options if mode != "overwrite" else {"mode": "overwrite" if number % 2 else "resume"}
        execute(source, out, **again)
        if mode == "overwrite" and again["mode"] == "resume":  # what was not deleted is still the old run
            execute(source, out, mode="retry_failed")
        assert rows_of(out) == all_ids(source), number
        assert {row["status"] for row in committed_rows.read_rows(str(out))} == {"ok"}, number
        assert list(status.verify(status.open_run(str(out)))) == [], number
        ids = [
            one for path in out.glob("captions/*.parquet") for one in pq.read_table(path)["id"].to_pylist()
        ]
        assert sorted(ids) == all_ids(source), number
    assert number > 12
