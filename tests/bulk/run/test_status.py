"""The output of jobs/status.py for handmade runs."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from glied import run_folder, storage
from glied.bulk.plan import manifest
from glied.bulk.run import status
from glied.bulk.run.ledger import Commit, Counts
from glied.errors import JobError, UsageError
from tests.bulk import runs

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def commits(*seconds: float, images: int = 10) -> list[Commit]:
    """Return commits at these numbers of seconds after noon."""
    times = [NOON + timedelta(seconds=second) for second in seconds]
    return [Commit(unit, 0, Counts({"ok": images}), time) for unit, time in enumerate(times)]


@pytest.fixture
def unfinished(tmp_path):
    rows = [runs.row(f"{i:02d}.jpg", "rejected" if i % 5 == 4 else "ok") for i in range(18)]
    return tmp_path / "run", runs.make_run(tmp_path / "run", rows, 4, units=3)


def test_done_and_missing(unfinished):
    folder, _ = unfinished
    state = status.status(status.open_run(str(folder)))
    assert (state.images, state.images_done, state.images_missing) == (18, 12, 6)
    assert (state.units, state.units_done, state.units_missing) == (5, 3, 2)
    assert state.statuses == {"ok": 10, "rejected": 2}
    assert state.errors == {"empty": 2}
    assert state.stage_seconds == {"decode": 1.5}
    assert state.last_commit
    lines = state.lines(datetime.fromisoformat(state.last_commit) + timedelta(minutes=5))
    assert lines[0] == "12 of 18 images done (10 ok, 2 rejected), 3 of 5 units"
    assert lines[1] == "missing: 6 images in 2 units"
    assert "5 min ago" in "\n".join(lines)


def test_the_last_unit_is_smaller(tmp_path):
    plan = runs.make_run(tmp_path, [runs.row(f"{i}.jpg") for i in range(5)], 4, units=0)
    runs.commit(tmp_path, plan, 1, runs.table([runs.row("4.jpg")]))
    state = status.status(status.open_run(str(tmp_path)))
    assert (state.images_done, state.images_missing) == (1, 4)


@pytest.mark.slow
def test_ten_thousand_units_without_opening_an_output(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "PART_ROWS", 4_000)
    count = 10_000
    plan = runs.plan_run(tmp_path, [f"{i:06d}.jpg" for i in range(count)], 1)
    for folder in ("commits", "captions"):
        (tmp_path / folder).mkdir()
    content = {"generation": 0, "committed_at": NOON.isoformat(), "errors": {}, "seconds": {}}
    content |= {"plan": plan.plan, "rows": 1, "statuses": {"ok": 1}, "sha256": ""}
    for unit in range(count):
        name = run_folder.record_name(unit, 0, plan.plan, 4)
        (tmp_path / "commits" / name).write_text(json.dumps(content | {"unit": unit}))
        (tmp_path / "captions" / run_folder.output_name(unit, 0, plan.plan)).write_text("none")
    for part in plan.parts:
        (tmp_path / "manifest" / plan.plan / part.name).write_text("not to be opened")
    opened: list[str] = []
    read = storage.read_bytes
    run = status.open_run(str(tmp_path))
    monkeypatch.setattr(storage, "read_bytes", lambda uri: opened.append(uri) or read(uri))
    state = status.status(run)
    assert (state.units_done, state.statuses) == (count, {"ok": count})
    assert {Path(file).parent.name for file in opened if not file.endswith("summary.json")} == {"commits"}


def test_a_higher_generation_replaces_the_lower(unfinished):
    folder, plan = unfinished
    runs.commit(folder, plan, 1, runs.table([runs.row(f"{i:02d}.jpg") for i in range(4, 8)]), generation=1)
    state = status.status(status.open_run(str(folder)))
    assert (state.units_done, state.units_retried) == (3, 1)
    assert state.statuses == {"ok": 11, "rejected": 1}
    assert list(status.verify(status.open_run(str(folder)))) == []


@pytest.mark.parametrize(
    ("seconds", "rate", "window"),
    [
        ([], None, 0),
        ([3], None, 0),
        ([5, 5], None, 0),
        ([0, 10, 20], 1.0, 20),
        ([0, 1, 2, 3, 1000, 1150, 1300], 20 / 300, 300),
        ([0, 0, 0, 600], 1 / 60, 600),
        ([0, 2, 4, 6, 200, 205, 210], 2.0, 10),
        ([0, 0, 0, 70, 70, 70, 140, 140, 140], 60 / 140, 140),
    ],
    ids=["none", "one", "same_time", "steady", "window", "slow_units", "pause", "bursts"],
)
def test_speed(seconds, rate, window):
    found, span = status._pace(commits(*seconds))
    assert found == (None if rate is None else pytest.approx(rate))
    assert span == window


def test_time_left(unfinished, monkeypatch):
    folder, _ = unfinished
    monkeypatch.setattr(status, "read_commits", lambda units: commits(0, 10, 20, images=4))
    now = NOON + timedelta(seconds=40)
    state = status.status(status.open_run(str(folder)), now)
    assert (state.images_per_s, state.seconds_left, state.running) == (0.4, 15.0, True)
    assert state.last_commit == "2026-01-01T12:00:20+00:00"
    text = "\n".join(state.lines(now))
    assert "0.4 images/s over 20 s before the last commit 2026-01-01T12:00:20+00:00, 20 s ago" in text
    assert "15 s left at that speed" in text


@pytest.mark.parametrize(("ended", "after"), [(None, 51), (21, 22)], ids=["long_ago", "a_job_has_ended"])
def test_no_time_is_estimated_if_nothing_runs(unfinished, monkeypatch, ended, after):
    folder, _ = unfinished
    monkeypatch.setattr(status, "read_commits", lambda units: commits(0, 10, 20, images=4))
    if ended is not None:
        content = {"ended_at": (NOON + timedelta(seconds=ended)).isoformat()}
        (folder / "summary.json").write_text(json.dumps(content))
    now = NOON + timedelta(seconds=after)
    state = status.status(status.open_run(str(folder)), now)
    assert (state.seconds_left, state.running) == (None, False)
    text = "\n".join(state.lines(now))
    assert "left at that speed" not in text
    assert "nothing seems to be running" in text


def test_a_summary_of_an_earlier_job_does_not_stop_the_clock(unfinished, monkeypatch):
    folder, _ = unfinished
    monkeypatch.setattr(status, "read_commits", lambda units: commits(0, 10, 20, images=4))
    (folder / "summary.json").write_text(json.dumps({"ended_at": (NOON + timedelta(seconds=5)).isoformat()}))
    assert status.status(status.open_run(str(folder)), NOON + timedelta(seconds=25)).seconds_left == 15.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (3_600, "1 h 0 min"), (180_000, "2 d 2 h")],
)
def test_duration(seconds, text):
    assert status.duration(seconds) == text


def test_a_whole_run_is_verified(unfinished):
    folder, _ = unfinished
    assert list(status.verify(status.open_run(str(folder)))) == []


def rewrite(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_every_violation_is_a_line(unfinished):
    folder, plan = unfinished
    runs.output(folder, plan, 0).unlink()
    rewrite(runs.record(folder, 1), rows=7, plan="other")
    path = runs.output(folder, plan, 2)
    path.write_bytes(path.read_bytes()[:-9])
    problems = list(status.verify(status.open_run(str(folder))))
    assert [problem.split(":")[0] for problem in problems] == [
        "unit 0",
        "unit 1",
        "unit 1",
        "unit 2",
        "unit 2",
    ]
    expected = ["is missing", "for plan other", "record says 7", "another digest", "as Parquet"]
    assert all(text in problem for text, problem in zip(expected, problems, strict=True))


def test_rows_must_be_those_of_the_manifest(unfinished):
    folder, plan = unfinished
    rows = [runs.row(f"{i:02d}.jpg") for i in (12, 13, 14, 99)]
    runs.commit(folder, plan, 3, runs.table(rows))
    runs.commit(folder, plan, 4, runs.table([runs.row("17.jpg"), runs.row("16.jpg")]))
    runs.record(folder, 0).write_text("{}")
    problems = list(status.verify(status.open_run(str(folder))))
    assert len(problems) == 3
    assert "is no commit record" in problems[0]
    assert problems[1].endswith("1 ids of the manifest are missing, 1 are not in it")
    assert problems[2].endswith("doubled or in another order")


def test_a_unit_beyond_the_manifest(unfinished):
    folder, plan = unfinished
    runs.commit(folder, plan, 9, runs.table([runs.row("x.jpg")]))
    found = status.open_run(str(folder))
    assert status.status(found).units_done == 3
    assert list(status.verify(found)) == ["unit 9: committed, but the manifest has 5 units"]


def test_deleted_and_truncated_files_are_missing(unfinished):
    folder, plan = unfinished
    runs.output(folder, plan, 0).unlink()
    runs.output(folder, plan, 1).write_bytes(runs.output(folder, plan, 1).read_bytes()[:-1])
    state = status.status(status.open_run(str(folder)))
    assert (state.units_done, state.units_missing, state.units_damaged) == (1, 4, 2)
    assert state.statuses == {"ok": 4} or sum(state.statuses.values()) == 4
    assert any("damaged: the rows of 2 committed units" in line for line in state.lines(NOON))


@pytest.mark.parametrize(
    "content",
    [b"[", b"\xff", b"{}", b'{"unit": 0, "generation": 0, "committed_at": "yesterday"}'],
    ids=["cut", "no_text", "empty", "time"],
)
def test_damaged_records_are_one_line(unfinished, content):
    folder, _ = unfinished
    runs.record(folder, 1).write_bytes(content)
    with pytest.raises(JobError, match=r"unit-000001.* is damaged: .*--output\.mode repair"):
        status.status(status.open_run(str(folder)))


def test_ids_in_several_units_are_detected(tmp_path):
    rows = [runs.row(name) for name in ("a", "b", "c", "a", "d", "b")]
    runs.make_run(tmp_path, rows, 2)
    problems = list(status.verify(status.open_run(str(tmp_path))))
    assert [problem.split(":")[0] for problem in problems] == ["unit 1", "unit 2"]
    assert "1 ids of the manifest are duplicates, first 'a'" in problems[0]
    assert "first 'b'" in problems[1]


def test_duplicate_ids_of_a_plan_are_detected_before_their_units_are_done(tmp_path):
    runs.make_run(tmp_path, [runs.row(name) for name in ("a", "b", "c", "a")], 2, units=1)
    (problem,) = status.verify(status.open_run(str(tmp_path)))
    assert problem.startswith("unit 1: 1 ids of the manifest are duplicates")


def test_a_run_that_still_lists_its_inputs(tmp_path):
    runs.plan_run(tmp_path, ["a.jpg"], 1)
    (tmp_path / "manifest" / "manifest.json").unlink()
    found = status.open_run(str(tmp_path))
    state = status.status(found)
    assert not state.planned
    assert "being listed" in state.lines(NOON)[0]
    assert list(status.verify(found)) == []


def test_no_run(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        status.open_run(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="holds no run"):
        status.open_run(str(tmp_path))
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(UsageError, match="not of a bulk run of this program"):
        status.open_run(str(tmp_path))


def test_the_job(unfinished):
    folder, plan = unfinished
    plain = runs.light_job("status", str(folder))
    assert (plain.returncode, plain.stderr) == (1, "")
    assert plain.stdout.startswith("12 of 18 images done")
    as_json = runs.light_job("status", "--json", "true", str(folder), "--verify")
    assert as_json.returncode == 1, "the run is not complete"
    assert json.loads(as_json.stdout)["violations"] == []
    assert json.loads(as_json.stdout)["images_missing"] == 6
    runs.output(folder, plan, 0).unlink()
    found = runs.light_job("status", "--verify", f"--run={folder}")
    assert found.returncode == 1
    assert found.stdout.splitlines()[-2].startswith("unit 0: committed, but ")
    assert found.stdout.splitlines()[-1] == "verified 3 units, violations: 1"


def test_the_job_on_a_complete_run(tmp_path):
    runs.make_run(tmp_path, [runs.row("a.jpg"), runs.row("b.jpg")], 1)
    done = runs.light_job("status", str(tmp_path), "--verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert "left at that speed" not in done.stdout


@pytest.mark.parametrize(
    "options", [[], ["configs"], ["a", "b"], ["configs", "--verfy"], ["configs", "--json=3"]]
)
def test_mistakes_are_one_line_and_exit_2(options):
    done = runs.light_job("status", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
