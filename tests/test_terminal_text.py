"""What is printed of captions and file names."""

import sys

import pytest

from glied.bulk.run.summary import Example, Summary
from glied.commands import status as status_command
from glied.config import run
from glied.errors import UsageError
from glied.terminal_text import printable
from tests.bulk import runs

EVIL = "a\ndog\x1b[2J\r\x9b1m\u202e\ud800"
SHOWN = r"a\ndog\x1b[2J\r\x9b1m\u202e\ud800"


def test_control_characters_are_shown_and_others_stay():
    assert printable(EVIL) == SHOWN
    texts = "Ein Hündchen, 一只狗, \U0001f469\u200d\U0001f680, C:\\new"
    assert printable(texts) == texts


def test_summaries_print_one_line_for_each_example():
    summary = Summary(
        run="run", results="captions", statuses={"ok": 1}, errors={}, stage_seconds={}, units_done_earlier=0,
        units_mended=0, skipped_files=1, skipped_kinds={".j\x1bpg": 1}, images_this_time=1, images_per_s=1.0,
        startup_seconds=1.0, seconds=1.0, ended_at="", error_budget=0.0, problems=[],
        examples=[Example("a\n.jpg", EVIL)],
    )  # fmt: skip
    lines = summary.lines()
    assert lines[0] == rf"  a\n.jpg: {SHOWN}"
    assert all(line == printable(line) for line in lines)
    assert summary.examples[0].text == EVIL


def test_status_prints_no_control_characters(tmp_path, monkeypatch, capsys):
    rows = [runs.row("a.jpg", "rejected", error_kind="odd\x1b[2J\nkind")]
    runs.make_run(tmp_path / "run", rows, 2)
    monkeypatch.setattr(sys, "argv", ["status.py", str(tmp_path / "run")])
    status_command.main()
    assert r"errors: 1 odd\x1b[2J\nkind" in capsys.readouterr().out.split("\n")


def test_messages_of_errors_have_no_escape_sequences(monkeypatch, capsys):
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def fail() -> int:
        raise UsageError("no file a\n\x1b[2J.jpg")

    with pytest.raises(SystemExit):
        run(fail)
    assert capsys.readouterr().err == "error: no file a \\x1b[2J.jpg\n"
