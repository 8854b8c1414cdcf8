import pytest

from glied.bulk import ledger
from glied.bulk.ledger import Counts, Ledger
from glied.errors import JobError


def test_commits_are_seen_by_the_next_attempt_and_totals_need_no_record(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "SEGMENT_UNITS", 2)
    first = Ledger(str(tmp_path), "plan", "captions")
    for unit in range(5):
        assert first.put_output(unit, b"rows")
        assert first.commit(unit, b"rows", Counts({"ok": 3, "rejected": 1}, {"empty": 1}, {"decode": 0.5}))
    second = Ledger(str(tmp_path), "plan", "captions")
    assert second.committed() == second.outputs() == set(range(5))
    for record in tmp_path.glob("commits/*.json"):
        record.write_text("not to be opened")
    totals = second.totals({0, 1, 2, 3, 4})
    assert totals == Counts({"ok": 15, "rejected": 5}, {"empty": 5}, {"decode": 2.5})


def test_the_first_commit_wins(tmp_path):
    first, second = (Ledger(str(tmp_path), "plan", "captions") for _ in range(2))
    assert first.put_output(0, b"mine")
    assert not second.put_output(0, b"yours")
    assert first.put_output(0, b"mine"), "a put whose answer was lost is refused by its own retry"
    assert first.commit(0, b"mine", Counts({"ok": 1}))
    before = (tmp_path / "commits" / "unit-000000.g0.json").read_bytes()
    assert not second.commit(0, b"mine", Counts({"ok": 1}))
    assert (tmp_path / "commits" / "unit-000000.g0.json").read_bytes() == before
    assert second.totals({0}).rows == {"ok": 1}


def test_a_journal_without_its_commit_does_not_count(tmp_path):
    book = Ledger(str(tmp_path), "plan", "captions")
    book.commit(0, b"", Counts({"ok": 1}))
    book.commit(1, b"", Counts({"ok": 7}))
    (tmp_path / "commits" / "unit-000001.g0.json").unlink()
    assert book.committed() == {0}
    assert book.totals({0}).rows == {"ok": 1}
    with pytest.raises(JobError, match="lacks the journal"):
        book.totals({0, 9})


def test_clear_leaves_foreign_files(tmp_path):
    book = Ledger(str(tmp_path), "plan", "captions")
    book.put_output(0, b"rows")
    book.commit(0, b"rows", Counts({"ok": 1}))
    (tmp_path / "mine.txt").write_text("stays")
    ledger.clear(str(tmp_path), "captions")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.txt"]
