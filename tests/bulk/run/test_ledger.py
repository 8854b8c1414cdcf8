import json
import logging

import pytest

from glied import run_folder
from glied.bulk.run import ledger
from glied.bulk.run.ledger import Counts, Ledger, read_commits, sum_counts
from glied.errors import JobError

PLAN = "0123456789ab"
RUN = "ba9876543210"


def open_ledger(folder, plan=PLAN, run=RUN) -> Ledger:
    content = {"run": run, "results": "captions", "fingerprint": {}}
    (folder / "run.json").write_text(json.dumps(content))
    return Ledger(str(folder), plan, "captions", run)


def generations(book: Ledger) -> dict[int, int]:
    """Return the committed generations."""
    return {unit.unit: unit.generation for unit in book.list_files().units()}


def test_commits_are_seen_by_the_next_attempt(tmp_path):
    first = open_ledger(tmp_path)
    for unit in range(5):
        assert first.put_output(unit, 0, b"rows")
        assert first.commit(unit, 0, b"rows", Counts({"ok": 3, "rejected": 1}, {"empty": 1}, {"decode": 0.5}))
    units = open_ledger(tmp_path).list_files().units()
    assert [(unit.unit, unit.generation, unit.size, unit.damage) for unit in units] == [
        (number, 0, 4, None) for number in range(5)
    ]
    commits = list(read_commits(units))
    assert sum_counts(commits) == Counts({"ok": 15, "rejected": 5}, {"empty": 5}, {"decode": 2.5})
    assert {(commit.run, commit.plan) for commit in commits} == {(RUN, PLAN)}


def test_failures_of_web_hosts_are_counted_apart(tmp_path):
    book = open_ledger(tmp_path)
    errors = {"timeout": 3, "storage": 1}
    for unit, hosts in ((0, {"timeout": 1}), (1, {})):
        book.put_output(unit, 0, b"rows")
        book.commit(unit, 0, b"rows", Counts({"failed": 4}, errors, host_errors=hosts))
    total = sum_counts(read_commits(book.list_files().units()))
    assert (total.errors, total.host_errors) == ({"timeout": 6, "storage": 2}, {"timeout": 1})
    for record in tmp_path.glob("commits/*.json"):  # as earlier versions wrote them
        content = json.loads(record.read_text())
        del content["host_errors"]
        record.write_text(json.dumps(content))
    assert sum_counts(read_commits(book.list_files().units())).host_errors == {"timeout": 6}


def test_the_first_commit_wins(tmp_path):
    first, second = open_ledger(tmp_path), open_ledger(tmp_path)
    assert first.put_output(0, 0, b"mine")
    assert not second.put_output(0, 0, b"yours")
    assert first.put_output(0, 0, b"mine"), "a retried put whose first answer was lost is refused"
    assert first.commit(0, 0, b"mine", Counts({"ok": 1}))
    (record,) = tmp_path.glob("commits/*.json")
    before = record.read_bytes()
    assert not second.commit(0, 0, b"mine", Counts({"ok": 1}))
    assert record.read_bytes() == before


def test_the_highest_committed_generation_counts(tmp_path):
    book = open_ledger(tmp_path)
    for generation, counts in ((0, {"ok": 1, "failed": 1}), (1, {"ok": 2})):
        book.put_output(0, generation, b"rows")
        book.commit(0, generation, b"rows", Counts(counts))
    book.put_output(0, 2, b"not committed")
    files = book.list_files()
    assert (files.generations, files.written) == ({0: 1}, {0: 2})
    assert sum_counts(read_commits(files.units())).rows == {"ok": 2}
    assert [unit.generation for unit in book.clean_up()] == [1]
    assert len(list(tmp_path.glob("commits/*"))) == 1
    assert sorted(path.name[-10:] for path in tmp_path.glob("captions/*")) == ["g1.parquet", "g2.parquet"]


def test_a_generation_with_damaged_rows_replaces_nothing(tmp_path):
    book = open_ledger(tmp_path)
    for generation in (0, 1):
        book.put_output(0, generation, b"rows")
        book.commit(0, generation, b"rows", Counts({"ok": 1}))
    next(tmp_path.glob("captions/*.g1.parquet")).write_bytes(b"ro")
    assert book.clean_up() == []
    assert len(list(tmp_path.glob("captions/*"))) == 2


@pytest.mark.parametrize(("left", "damaged"), [(None, True), (b"", True), (b"row", True), (b"rows", False)])
def test_names_and_sizes_show_damage(tmp_path, left, damaged):
    book = open_ledger(tmp_path)
    book.put_output(0, 0, b"rows")
    book.commit(0, 0, b"rows", Counts({"ok": 1}))
    (output,) = tmp_path.glob("captions/*")
    output.unlink() if left is None else output.write_bytes(left)
    (unit,) = book.list_files().units()
    assert bool(unit.damage) == damaged


def test_a_record_of_an_older_version_lacks_the_size(tmp_path):
    book = open_ledger(tmp_path)
    book.put_output(0, 0, b"rows")
    book.commit(0, 0, b"rows", Counts({"ok": 1}))
    (record,) = tmp_path.glob("commits/*")
    record.rename(tmp_path / "commits" / f"unit-000000-{PLAN[:8]}.g0.json")
    (unit,) = book.list_files().units()
    assert (unit.size, unit.damage) == (None, None)
    (output,) = tmp_path.glob("captions/*")
    output.write_bytes(b"")
    (unit,) = book.list_files().units()
    assert unit.damage


def test_the_files_of_another_plan_are_ignored_and_deleted_at_the_end(tmp_path):
    old = open_ledger(tmp_path, "ffffffff0000", "000000000000")
    old.put_output(0, 0, b"rows of a run that was overwritten")
    old.commit(0, 0, b"rows of a run that was overwritten", Counts({"ok": 1}))
    book = open_ledger(tmp_path)
    assert (generations(book), book.list_files().written) == ({}, {})
    assert book.put_output(0, 0, b"mine")
    with pytest.raises(JobError, match="was overwritten by another job"):
        old.clean_up()
    assert len(list(tmp_path.glob("captions/*"))) == 2, "an overwritten run deletes nothing"
    book.clean_up()
    assert [path.read_bytes() for path in tmp_path.glob("c*/*")] == [b"mine"]


def test_clear_deletes_only_files_with_the_names_of_a_run(tmp_path, caplog):
    book = open_ledger(tmp_path)
    book.put_output(0, 0, b"rows")
    book.commit(0, 0, b"rows", Counts({"ok": 1}))
    old = ["captions/unit-000001.g0.parquet", "attempts/01234567-0123456789ab-0000.json"]
    own = [*old, "manifest/manifest.json", "manifest/manifest-0123456789ab.json", "summary.json"]
    own += [
        "manifest/0123456789ab/part-000000.parquet",
        "captions/.unit-000000-01234567.g0.parquet.abcd_123.tmp",
    ]
    foreign = ["mine.txt", "captions/mine.parquet", "captions/unit-1.parquet", "commits/notes.json"]
    foreign += ["captions/deeper/unit-000000-01234567.g0.parquet", "manifest/photos/part-000000.parquet"]
    foreign += ["attempts/unit-000000.json", "features/unit-000000-01234567.g0.parquet"]
    for name in [*own, *foreign]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    with caplog.at_level(logging.WARNING):
        ledger.clear(str(tmp_path), "captions")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(foreign)
    assert "6 files are not of the run and stay" in caplog.text
    assert "commits/notes.json" in caplog.text


def test_names_of_records_and_outputs_differ_by_plan():
    assert run_folder.output_name(12, 1, PLAN) == "unit-000012-01234567.g1.parquet"
    assert run_folder.record_name(12, 1, PLAN, 4711) == "unit-000012-01234567-4711.g1.json"
