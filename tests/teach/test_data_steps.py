"""The steps before anything is extracted, with the archive and the output on S3."""

import csv
import io
import json
from typing import Any

import pytest

from glied.config import build
from glied.data import coco
from glied.errors import UsageError
from glied.teach.config import TeachConfig
from glied.teach.data_steps import DataSteps
from glied.teach.job_runner import JobRunner
from glied.teach.step_records import Record, StepRecords, run_steps
from glied.teach.teaching import Teaching

COUNT = 30


def test_captions_by_another_name_are_no_changed_setting(tmp_path, monkeypatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"not read")
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"image": "a.jpg", "caption": "one"}\n')
    monkeypatch.chdir(tmp_path)

    def sampled(name: str) -> Record:
        values = {
            "input": {"uri": "in"},
            "output": {"uri": "out"},
            "captions": name,
            "regions": {"kind": "torchvision", "checkpoint": "glied/weights/demo/regions"},
        }
        teaching = Teaching(build(TeachConfig, values), JobRunner.of("local"))
        step = DataSteps(teaching).steps()[0]
        return run_steps([step], StepRecords(teaching.output), redo=False)["sample"]

    assert sampled("captions.jsonl") == sampled(str(captions))
    captions.write_text('{"image": "a.jpg", "caption": "two"}\n')
    with pytest.raises(UsageError, match="captions_sha256 was"):
        sampled("captions.jsonl")


def test_settings_of_jobs_are_checked(tmp_path) -> None:
    (tmp_path / "teacher.yaml").write_text("regions: 3\n")

    def settings(**given: Any) -> None:
        values = {
            "input": {"uri": "in"},
            "output": {"uri": str(tmp_path / "out")},
            "regions": {"kind": "torchvision", "checkpoint": "glied/weights/demo/regions"},
            "teacher": {"config": "configs/caption/demo.yaml"},
        }
        steps = DataSteps(Teaching(build(TeachConfig, values | given), JobRunner.of("local"))).steps()
        for step in steps:
            if step.name in ("teacher", "features"):
                step.settings({})

    settings(run={"overrides": {"features": {"regions": {"threshold": 0.1}}, "test": None}})
    with pytest.raises(UsageError, match=r"^run\.overrides\.features holds settings of a job, not 5$"):
        settings(run={"overrides": {"features": 5}})
    with pytest.raises(UsageError, match=r"^run\.overrides\.features\.regions holds settings \(.*, not 5$"):
        settings(run={"overrides": {"features": {"regions": 5}}})
    with pytest.raises(UsageError, match=r"^teacher\.config .*teacher\.yaml: regions holds settings"):
        settings(teacher={"config": str(tmp_path / "teacher.yaml")})
    with pytest.raises(UsageError, match=r"^teacher\.options\.decoding holds settings"):
        settings(teacher={"config": "configs/caption/demo.yaml", "options": {"decoding": 5}})


def test_sample_and_split_on_s3(s3, tmp_path, monkeypatch) -> None:
    filesystem, variables = s3
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for number in range(COUNT):
        filesystem.pipe_file(f"photos/taught/a b/{number}.jpg", b"not read")
    captions = tmp_path / "captions.jsonl"
    lines = [{"image": f"{number}.jpg", "caption": f"caption {number}"} for number in range(COUNT)]
    captions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = {
        "input": {"uri": "s3://photos/taught"},
        "output": {"uri": "s3://captions/taught"},
        "captions": str(captions),
        "regions": {"kind": "torchvision", "checkpoint": "glied/weights/demo/regions"},
        "run": {"runtime": "local"},
    }
    teaching = Teaching(build(TeachConfig, values), JobRunner.of("local"))
    steps = [step for step in DataSteps(teaching).steps() if step.name in ("sample", "captions", "schedule")]
    records = run_steps(steps, StepRecords(teaching.output), redo=False)
    assert records["captions"].facts["images"] == {"train": 14, "val": 8, "test": 8}
    assert run_steps(steps, StepRecords(teaching.output), redo=False) == records

    known = {name: texts for split in coco.SPLITS for name, texts in
             coco.load_captions(f"s3://captions/taught/captions/{split}.json").items()}  # fmt: skip
    assert known == {f"a b/{number}.jpg": [f"caption {number}"] for number in range(COUNT)}
    table = filesystem.cat_file("captions/taught/captions/test.csv").decode()
    rows = [*csv.DictReader(io.StringIO(table))]
    assert len(rows) == 8
    assert all(row["uri"] == f"s3://photos/taught/{row['id']}" for row in rows)
    assert teaching.table_input(teaching.table("test"))["allow"][0] == "s3://photos/taught/"
