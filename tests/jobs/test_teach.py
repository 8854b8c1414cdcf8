"""jobs/teach.py from an archive to a captioner: killed and resumed, with a teacher, and its errors."""

import html
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, fetch_stage
from glied.bulk.plan.manifest import planned
from glied.captioner.captioner import Captioner
from glied.config import parse
from glied.data import coco
from glied.demo_world.dataset import write_split
from glied.errors import JobError, UsageError
from glied.teach.config import TeachConfig
from glied.teach.data_steps import DataSteps
from glied.teach.images import read_images
from glied.teach.job_runner import JobRunner
from glied.teach.run import teach
from glied.teach.step_records import StepRecords, run_steps
from glied.teach.teaching import KNOWN, Teaching
from tests.jobs.conftest import ROOT

SCENES = 60
TRAINER = {"learning_rate": 5e-3, "ema_decay": 0.0, "validate_every_steps": 24, "checkpoint_every_steps": 6}
OVERRIDES = {
    "captioner": {"model": {"dropout": 0.0}, "label_smoothing": 0.0, "trainer": TRAINER},
    "reward": {"sampling": {"samples": 2}, "trainer": {"validate_every_steps": 2}},
    "test": {"decoding": {"beam_size": 2}},
}
"""Settings of a captioner that memorizes 44 scenes in seconds."""
STARTS = {"captioner": "glied", "attributes": "attributes"}
SCHEDULE = {
    "steps": 48,
    "model.width": 32,
    "batch_size": 16,
    "attribute_steps": 4,
    "reward.steps": 2,
    "validation": 8,
    "test": 8,
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_split(folder, "train", SCENES, 0, 1)
    return folder


def arguments(scenes: Path, out: Path, *more: str, schedule: dict[str, Any] = SCHEDULE) -> list[str]:
    given = [f"--config={ROOT / 'configs' / 'teach' / 'demo.yaml'}", "--run.runtime=local"]
    given += [
        f"--input.uri={scenes / 'images'}",
        f"--output.uri={out}",
        f"--run.overrides={json.dumps(OVERRIDES)}",
    ]
    return [*given, *(f"--schedule.{name}={value}" for name, value in schedule.items()), *more]


def with_captions(scenes: Path) -> list[str]:
    return [f"--captions={scenes / 'captions.json'}", "--teacher=null", "--filter=null"]


KILLED = {
    "features": "features/train/commits/*",
    "attributes": "attributes/run.json",
    "captioner": "captioner/checkpoints/*",
    "reward": "rewarded/run.json",
}
"""Steps in which the command is killed, and what is there when they have done some of their work."""


def killed_within(step: str, command: list[str], out: Path) -> None:
    """Run a command as a process and kill it when a step has done some of its work."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "teach.py"), *command],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 400
        while not [*out.glob(KILLED[step])] and time.monotonic() < deadline:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not json.loads((out / "steps" / f"{step}.json").read_text())["complete"]


@pytest.mark.timeout(1200)  # half a minute of CPU; a busy machine takes long
def test_killed_teaching_resumes_to_the_same_captioner(scenes, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    more = [*with_captions(scenes), "--judge.checkpoint=glied/weights/demo/clip"]
    command = arguments(scenes, tmp_path / "out", *more)
    for step in KILLED:
        killed_within(step, command, tmp_path / "out")
    result = teach(parse(TeachConfig, command))
    whole = teach(parse(TeachConfig, arguments(scenes, tmp_path / "whole", *more)))
    assert result["digest"] == whole["digest"]
    assert result["test"] == whole["test"]
    assert result["test"]["student"].items() >= {"captions": 8, "pool": 8}.items()
    assert not (tmp_path / "out" / "steps" / "running.json").exists()
    check_report(tmp_path / "out", result)
    again = teach(parse(TeachConfig, command))
    assert again["seconds"] == result["seconds"] | {"this_time": again["seconds"]["this_time"]}

    check_caption_config(tmp_path / "out" / "caption.yaml", scenes)
    check_changed_settings(command, tmp_path / "out")


def check_caption_config(path: Path, scenes: Path) -> None:
    """Check that caption.yaml captions new images with the new captioner."""
    config = parse(CaptionDatasetConfig, [f"--config={path}"])
    assert config.input.uri == str(scenes / "images")
    image = scenes / "images" / "train-000000.jpg"
    chunk = planned(id=["a"], uri=[str(image)], size=[image.stat().st_size])
    stage = caption_factory(config).build()
    (row,) = stage(fetch_stage(config.input, config.resources)(chunk)).to_pylist()
    assert row["status"] == "ok"
    assert row["caption"]


def check_report(out: Path, result: dict[str, Any]) -> None:
    """Check that the page has the verdict, the captions and the time of every step."""
    page = (out / "report.html").read_text()
    assert html.escape(result["verdict"]) in page
    for name in ("captions", "time", "schedule", "running", "evaluation"):
        assert json.loads((out / "report" / f"{name}.json").read_text())["rows"]
    rows = json.loads((out / "report" / "time.json").read_text())["rows"]
    total = rows.pop()["seconds"]
    assert total == pytest.approx(sum(row["seconds"] for row in rows), abs=1)
    assert {row["step"] for row in rows} >= {"start", "features", "captioner", "reward", "test"}


def check_changed_settings(command: list[str], out: Path) -> None:
    """Check that a changed reward is reported with the later steps, and that no output is deleted."""
    changed = parse(TeachConfig, [*command, "--schedule.reward.learning_rate=1e-5"])
    message = (
        r"optimizer.learning_rate was 0.0001, is 1e-05\); to be done again: reward, model, test, evaluation"
    )
    with pytest.raises(UsageError, match=message):
        teach(changed)
    assert json.loads((out / "steps" / "reward.json").read_text())["complete"]


def test_teacher_captions_the_sample_and_the_best_of_it_is_kept(scenes, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--sample.images=24", f"--captions={some_captions(scenes, tmp_path)}"]
    config = parse(
        TeachConfig, arguments(scenes, tmp_path / "out", *more, schedule={"validation": 4, "test": 4})
    )
    teaching = Teaching(config, JobRunner.of("local"))
    steps = [step for step in DataSteps(teaching).steps() if step.name not in ("features", "copies")]
    records = run_steps(steps, StepRecords(teaching.output), redo=False)
    facts = records["chosen"].facts
    assert facts["by_teacher"] == 20  # the fifth with the worst scores is left out
    assert facts["clip_s_of_chosen"] > facts["clip_s_of_all"]
    images = read_images(str(tmp_path / "out" / "chosen" / "images.jsonl"))
    assert {len(one.all_captions) for one in images} <= {1, 2, 3, 4}
    mixed = [one for one in images if one.captions]
    assert mixed
    assert all(one.all_captions[0] == "a caption that is there" for one in mixed)
    people = records["captions"].facts["known"]
    known = coco.load_captions(teaching.captions(KNOWN)) if people else {}
    assert all(texts == ["a caption that is there"] for texts in known.values())
    assert len(known) == people
    names = [name for split in coco.SPLITS for name in coco.load_captions(teaching.captions(split))]
    assert sorted(names) == sorted(one.id for one in images)
    assert yaml.safe_load((ROOT / "configs" / "caption" / "demo.yaml").read_text())["decoding"]["n_best"] == 3


def some_captions(scenes: Path, folder: Path) -> Path:
    """Return the captions of every second scene."""
    path = folder / "some.jsonl"
    names = sorted(file.name for file in (scenes / "images").iterdir())[::2]
    lines = [{"image": name, "caption": "a caption that is there"} for name in names]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_shipped_captioner_learns_new_words(scenes, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    captions = coco.load_captions(str(scenes / "captions.json"))
    lines = [{"image": name, "caption": f"{text} zyx"} for name, texts in captions.items() for text in texts]
    (tmp_path / "zyx.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = [f"--captions={tmp_path / 'zyx.jsonl'}", "--teacher=null", "--filter=null"]
    more += [f"--start.{name}=glied/weights/demo/{folder}" for name, folder in STARTS.items()]
    short = {"steps": 3, "batch_size": 16, "reward.steps": 2}
    result = teach(parse(TeachConfig, arguments(scenes, tmp_path / "out", *more, schedule=short)))
    known = Captioner.load(str(ROOT / "glied" / "weights" / "demo" / "glied")).vocabulary.words
    taught = Captioner.load(str(tmp_path / "out" / "model" / "captioner"))
    assert taught.vocabulary.words[: len(known)] == known
    assert "zyx" in taught.vocabulary
    assert set(result["test"]) == {"student", "before", "commonest_cider", "gain"}
    assert "before" in result["verdict"]


@pytest.mark.timeout(1200)
def test_reward_without_references_raises_clip_s(scenes, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    more = [*with_captions(scenes), "--sample.images=24", "--reward.kind=clip_s_grammar"]
    more += [f"--start.{name}=glied/weights/demo/{folder}" for name, folder in STARTS.items()]
    more += ["--start.cross_entropy=false", "--reward.clip.checkpoint=glied/weights/demo/grammar"]
    short = {"validation": 4, "test": 4, "reward.steps": 2}
    result = teach(parse(TeachConfig, arguments(scenes, tmp_path / "out", *more, schedule=short)))
    figures = json.loads((tmp_path / "out" / "steps" / "reward.json").read_text())["facts"]
    assert {"reward_clip_s", "reward_grammar", "cider"} <= figures.keys()
    assert not (tmp_path / "out" / "captioner").exists()
    model = json.loads((tmp_path / "out" / "steps" / "model.json").read_text())["facts"]
    assert (model["from"], model["digest"]) == ("rewarded", result["digest"])


@pytest.mark.timeout(1200)
def test_steps_run_on_a_ray_cluster(scenes, tmp_path, monkeypatch, ray_session) -> None:
    """With validations in the middle of an epoch, when tasks still read for the training."""
    monkeypatch.chdir(tmp_path)
    # Each process takes seconds to start.
    one = {"resources": {"worker": {"count": 1}, "fetch": {"cpus": 2.0}}}
    overrides = {**OVERRIDES, "features": one, "test": one | OVERRIDES["test"]}
    more = [*with_captions(scenes), "--run.runtime=ray", f"--run.overrides={json.dumps(overrides)}"]
    result = teach(parse(TeachConfig, arguments(scenes, tmp_path / "out", *more)))
    assert Captioner.load(str(tmp_path / "out" / "model" / "captioner")).digest == result["digest"]
    assert result["test"]["student"]["CIDEr"] > result["test"]["commonest_cider"]
    assert (tmp_path / "out" / "report.html").exists()


def test_captioner_that_learned_nothing_is_refused(scenes, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = SCHEDULE | {"steps": 2, "attribute_steps": 2}
    config = parse(TeachConfig, arguments(scenes, tmp_path / "out", *with_captions(scenes), schedule=short))
    for _ in range(2):  # at the second call the step is finished
        with pytest.raises(
            JobError, match=r"nothing was learned: (CIDEr on validation is|the loss did not fall)"
        ):
            teach(config)
    assert not (tmp_path / "out" / "model").exists()
