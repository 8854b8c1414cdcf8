"""The engine of steps: which steps run again, and which steps a changed setting invalidates."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from glied.errors import JobError, UsageError
from glied.teach import step_records
from glied.teach.step_records import Done, Step, StepRecords, run_steps


class Chain:
    """Steps a, b (reads a), c (reads a), d (reads b); each writes a file and counts its runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: list[str] = []
        self.settings: dict[str, dict[str, Any]] = {name: {"value": 1} for name in "abcd"}
        self.fails: set[str] = set()
        self.mistakes: set[str] = set()
        self.checks: list[str] = []

    def step(self, name: str, *needs: str) -> Step:
        def run(done: Done) -> dict[str, Any]:
            self.runs.append(name)
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name / f"{len(self.runs)}.txt").write_text(name)
            if name in self.fails:
                raise JobError(f"{name} failed")
            if name in self.mistakes:
                raise UsageError(f"{name} is wrong")
            return {"sum": self.settings[name]["value"] + sum(done[one]["sum"] for one in needs)}

        def check(done: Done) -> None:
            self.checks.append(name)

        settings = self.settings
        return Step(
            name=name,
            needs=needs,
            settings=lambda done: settings[name],
            run=run,
            folders=(name,),
            check=check,
        )

    def __call__(self, *, redo: bool = False) -> dict[str, int]:
        self.runs, self.checks = [], []
        steps = [self.step("a"), self.step("b", "a"), self.step("c", "a"), self.step("d", "b")]
        records = run_steps(steps, StepRecords(str(self.folder)), redo=redo)
        return {name: record.facts["sum"] for name, record in records.items()}


@pytest.fixture
def chain(tmp_path) -> Chain:
    return Chain(tmp_path)


def test_finished_steps_are_checked_and_not_run_again(chain) -> None:
    assert chain() == {"a": 1, "b": 2, "c": 2, "d": 3}
    assert chain.runs == [*"abcd"]
    assert chain() == {"a": 1, "b": 2, "c": 2, "d": 3}
    assert (chain.runs, chain.checks) == ([], [*"abcd"])


def test_the_next_call_resumes_at_the_failed_step(chain) -> None:
    chain.fails = {"c"}
    with pytest.raises(JobError, match="c failed"):
        chain()
    chain.fails = set()
    chain()
    assert chain.runs == [*"cd"]


def test_seconds_of_all_attempts_are_recorded(chain, monkeypatch) -> None:
    """Also of an attempt that is killed: the record is renewed while a step runs."""
    clock = itertools.count(0, 10)
    monkeypatch.setattr(step_records.time, "perf_counter", lambda: next(clock))
    chain.fails = {"a"}
    with pytest.raises(JobError):
        chain()
    records = StepRecords(str(chain.folder))
    failed = records.read("a")
    assert failed is not None
    assert (failed.complete, failed.seconds) == (False, 10)
    chain.fails = set()
    chain()
    done = records.read("a")
    assert done is not None
    assert (done.complete, done.seconds) == (True, 20)


def test_the_time_before_the_first_step_is_that_of_all_attempts(tmp_path) -> None:
    assert StepRecords(str(tmp_path)).start(2.5) == 2.5
    assert StepRecords(str(tmp_path)).start(3.0) == 5.5


def test_changed_setting_names_the_steps_that_it_invalidates(chain) -> None:
    chain()
    chain.settings["b"] = {"value": 5}
    with pytest.raises(
        UsageError, match=r"step b have changed \(value was 1, is 5\); to be done again: b, d\."
    ):
        chain()
    assert chain.runs == []
    assert chain(redo=True) == {"a": 1, "b": 6, "c": 2, "d": 7}
    assert chain.runs == [*"bd"]
    assert [file.name for file in (chain.folder / "b").iterdir()] == ["1.txt"], (
        "what b wrote before is deleted"
    )
    assert chain() == {"a": 1, "b": 6, "c": 2, "d": 7}
    assert chain.runs == []


def test_settings_cannot_change_within_a_step(chain) -> None:
    chain.fails = {"b"}
    with pytest.raises(JobError):
        chain()
    chain.settings["b"] = {"value": 2}
    with pytest.raises(UsageError, match="settings of step b have changed"):
        chain()


def test_a_mistake_does_not_bind_the_corrected_command(chain) -> None:
    chain.mistakes = {"b"}
    with pytest.raises(UsageError, match="b is wrong"):
        chain()
    chain.mistakes, chain.settings["b"] = set(), {"value": 2}
    assert chain()["b"] == 3
    assert [file.name for file in (chain.folder / "b").iterdir()] == ["1.txt"]


def test_a_mistake_when_resuming_loses_nothing(chain) -> None:
    chain.fails = {"b"}
    with pytest.raises(JobError):
        chain()
    chain.fails, chain.mistakes = set(), {"b"}
    with pytest.raises(UsageError, match="b is wrong"):
        chain()
    assert len([*(chain.folder / "b").iterdir()]) == 2, "what was written before stays"
    chain.settings["b"] = {"value": 2}
    with pytest.raises(UsageError, match="settings of step b have changed"):
        chain()


def test_long_values_are_cut_in_the_message(chain) -> None:
    chain()
    chain.settings["b"] = {"value": 5, "digest": "f" * 500}
    with pytest.raises(UsageError, match=r"digest was None, is 'f{119}\.\.\.\)"):
        chain()


def test_steps_that_were_never_begun_are_not_named(chain) -> None:
    chain.fails = {"b"}
    with pytest.raises(JobError):
        chain()
    chain.settings["a"] = {"value": 2}
    with pytest.raises(UsageError, match=r"to be done again: a, b\. --run\.redo true"):
        chain()


def test_damaged_record_is_named(chain) -> None:
    chain()
    (chain.folder / "steps" / "c.json").write_text('{"digest": ')
    with pytest.raises(UsageError, match=r"c.json is damaged: delete it"):
        chain()
