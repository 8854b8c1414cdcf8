"""jobs/select_negatives.py: which captions of a file or a run it selects."""

import json
import sys
from pathlib import Path

import pytest

from glied.bulk.run.committed_rows import read_rows
from glied.commands import select_negatives
from glied.commands.select_negatives import Config, select
from glied.errors import JobError, UsageError
from glied.training.tasks.bad_captions import load_bad_captions
from tests.demo_world.test_invented_relations import SCENE

RUN = Path(__file__).resolve().parents[1] / "fixtures" / "v0_1" / "runs" / "captions"
CAPTIONS = {
    "a.jpg": ["a dog on a beach on a beach", "a red dog and a red ball", "a dog"],
    "images/a.jpg": ["a woman riding an umbrella"],
}


@pytest.fixture
def captions(tmp_path: Path) -> str:
    lines = [{"image": name, "captions": texts} for name, texts in CAPTIONS.items()]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(tmp_path / "captions.jsonl")


def selected(captions: str, **options) -> list[tuple[str, list[str]]]:
    return [
        (one["caption"], one["reasons"]) for one in select(Config(captions=captions, out="", **options))[0]
    ]


def test_repetitions_and_invented_relations_are_selected(tmp_path: Path, captions: str) -> None:
    twice, alike, _ = CAPTIONS["a.jpg"]
    assert selected(captions, ngram=2) == [(twice, ["repeated"]), (alike, ["repeated"])]
    assert selected(captions) == [(twice, ["repeated"])]
    (tmp_path / "annotations.jsonl").write_text(json.dumps(SCENE))
    scenes = str(tmp_path / "annotations.jsonl")
    riding = ("a woman riding an umbrella", ["invented"])
    assert selected(captions, scenes=scenes) == [(twice, ["repeated"]), riding]
    assert selected(captions, ngram=0, scenes=scenes) == [riding]


def test_the_file_is_what_the_grammar_head_learns_from(
    tmp_path: Path, captions: str, monkeypatch, capsys
) -> None:
    out = str(tmp_path / "bad.jsonl")
    options = ["--captions", captions, "--out", out, "--ngram", "2"]
    monkeypatch.setattr(sys, "argv", ["select_negatives.py", *options])
    assert select_negatives.main() == 0
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert counts == {"captions": 4, "selected": 2, "repeated": 2, "invented": 0}
    assert sorted(load_bad_captions(out).all) == sorted(CAPTIONS["a.jpg"][:2])


def test_all_captions_of_a_run_are_read() -> None:
    rows = list(read_rows(str(RUN)))
    texts = {(row["id"], one["text"]) for row in rows for one in row["captions"] or () if one["text"]}
    found, counts = select(Config(captions=str(RUN), out=""))
    assert counts["captions"] == len(texts) > 4
    assert {(one["image"], one["caption"]) for one in found} <= texts


def test_bad_options_are_named(tmp_path: Path, captions: str, monkeypatch) -> None:
    with pytest.raises(UsageError, match="ngram 0 without scenes selects nothing"):
        Config(captions=captions, out="", ngram=0)
    with pytest.raises(UsageError, match="scenes: there is no"):
        selected(captions, scenes=str(tmp_path / "none.jsonl"))
    (tmp_path / "annotations.jsonl").write_text('{"id": 1}')
    with pytest.raises(UsageError, match=r"line 1 is not one of annotations\.jsonl"):
        selected(captions, scenes=str(tmp_path / "annotations.jsonl"))
    options = ["--captions", captions, "--out", str(tmp_path / "bad.jsonl"), "--ngram", "9"]
    monkeypatch.setattr(sys, "argv", ["select_negatives.py", *options])
    with pytest.raises(JobError, match="none of the 4 captions"):
        select_negatives.main()
