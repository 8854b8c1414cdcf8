import pytest

from glied.bulk import ledger
from glied.bulk.ledger import Counts, Ledger
from glied.errors import JobError

PLAN = "0123456789ab"


def open_ledger(folder, plan=PLAN) -> Ledger:
    return Ledger(str(folder), plan, "captions")


def test_commits_are_seen_by_the_next_attempt_and_totals_need_no_record(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "SEGMENT_UNITS", 2)
    first = open_ledger(tmp_path)
    for unit in range(5):
        assert first.put_output(unit, 0, b"rows")
        assert first.commit(unit, 0, b"rows", Counts({"ok": 3, "rejected": 1}, {"empty": 1}, {"decode": 0.5}))
    second = open_ledger(tmp_path)
    assert second.committed() == second.outputs() == dict.fromkeys(range(5), 0)
    for record in tmp_path.glob("commits/*.json"):
        record.write_text("not to be opened")
    totals = second.totals(second.committed())
    assert totals == Counts({"ok": 15, "rejected": 5}, {"empty": 5}, {"decode": 2.5})


def test_the_first_commit_wins(tmp_path):
    first, second = open_ledger(tmp_path), open_ledger(tmp_path)
    assert first.put_output(0, 0, b"mine")
    assert not second.put_output(0, 0, b"yours")
    assert first.put_output(0, 0, b"mine"), "a put whose answer was lost is refused by its own retry"
    assert first.commit(0, 0, b"mine", Counts({"ok": 1}))
    (record,) = tmp_path.glob("commits/*.json")
    before = record.read_bytes()
    assert not second.commit(0, 0, b"mine", Counts({"ok": 1}))
    assert record.read_bytes() == before
    assert second.totals({0: 0}).rows == {"ok": 1}


def test_a_journal_without_its_commit_does_not_count(tmp_path):
    book = open_ledger(tmp_path)
    book.commit(0, 0, b"", Counts({"ok": 1}))
    book.commit(1, 0, b"", Counts({"ok": 7}))
    next(tmp_path.glob("commits/unit-000001*")).unlink()
    assert book.committed() == {0: 0}
    assert book.totals({0: 0}).rows == {"ok": 1}
    with pytest.raises(JobError, match="lacks the journal"):
        book.totals({0: 0, 9: 0})


def test_the_highest_committed_generation_counts(tmp_path):
    book = open_ledger(tmp_path)
    for generation, counts in ((0, {"ok": 1, "failed": 1}), (1, {"ok": 2})):
        book.put_output(0, generation, b"rows")
        book.commit(0, generation, b"rows", Counts(counts))
    book.put_output(0, 2, b"not committed")
    assert (book.committed(), book.outputs()) == ({0: 1}, {0: 2})
    assert book.totals(book.committed()).rows == {"ok": 2}
    assert book.superseded() == [(0, 0)]
    book.delete(0, 0)
    assert book.superseded() == []
    assert len(list(tmp_path.glob("commits/*"))) == 1
    assert book.totals(book.committed()).rows == {"ok": 2}


def test_the_files_of_another_plan_are_not_seen(tmp_path):
    old = open_ledger(tmp_path, "ffffffff0000")
    old.put_output(0, 0, b"rows of a run that was overwritten")
    old.commit(0, 0, b"rows of a run that was overwritten", Counts({"ok": 1}))
    book = open_ledger(tmp_path)
    assert (book.committed(), book.outputs()) == ({}, {})
    assert book.put_output(0, 0, b"mine")


def test_clear_leaves_foreign_files(tmp_path):
    book = open_ledger(tmp_path)
    book.put_output(0, 0, b"rows")
    book.commit(0, 0, b"rows", Counts({"ok": 1}))
    (tmp_path / "mine.txt").write_text("stays")
    ledger.clear(str(tmp_path), "captions")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.txt"]
