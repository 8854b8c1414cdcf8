"""Captions by teachers of every kind, and images behind links."""

from pathlib import Path
from typing import Any

import pytest

from glied.config import build
from glied.teach.config import TeachConfig
from glied.teach.data_steps import DataSteps
from glied.teach.images import read_images
from glied.teach.job_runner import JobRunner
from glied.teach.step_records import StepRecords, run_steps
from glied.teach.teacher_steps import TeacherSteps
from glied.teach.teaching import Teaching
from tests.captioner.engines.chat_server import serve
from tests.captioner.engines.faults import numbered_images


def teaching_of(folder: Path, teacher: dict[str, Any]) -> Teaching:
    values: dict[str, Any] = {
        "input": {"uri": str(folder / "in")},
        "output": {"uri": str(folder / "out")},
        "regions": {"kind": "torchvision", "checkpoint": "glied/weights/demo/regions"},
        "teacher": teacher,
    }
    return Teaching(build(TeachConfig, values), JobRunner.of("local"))


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with links to images elsewhere."""
    (tmp_path / "in").mkdir()
    for image in numbered_images(tmp_path / "elsewhere", 6).iterdir():
        (tmp_path / "in" / image.name).symlink_to(image)
    return tmp_path


def test_a_server_teaches(linked: Path) -> None:
    """Its answers are drawn: several for each image."""
    with serve() as server:
        captioner = {"url": server.url, "model": "tiny", "prompts": {"caption": "Say."}}
        teacher = {"config": "caption/endpoint", "candidates": 3, "captions": 2}
        teaching = teaching_of(linked, teacher | {"options": {"captioner": captioner}})
        TeacherSteps(teaching).check()
        steps = DataSteps(teaching).steps()[:3]
        assert [step.name for step in steps] == ["sample", "teacher", "chosen"]
        run_steps(steps, StepRecords(teaching.output), redo=False)
        asked = [(body["n"], body["temperature"]) for body in server.bodies[-6:]]
    assert asked == [(3, 0.7)] * 6
    images = read_images(teaching.path("chosen", "images.jsonl"))
    said = {one.id: one.taught for one in images}
    assert said["0004.png"] == ["image 4 for 'Say.'", "image 4 for 'Say.'!"]
    assert len(said) == 6
    TeacherSteps(teaching).check()  # the server is gone, and the step done


@pytest.mark.parametrize(
    ("kind", "method", "expected"),
    [
        ("glied", "sample",
         {"decoding": {"method": "sample", "n_best": 4, "sampling": {"temperature": 0.7}}}),
        ("coca", "beam", {"decoding": {"method": "beam", "n_best": 4, "beam_size": 5}}),
        ("transformers", "beam", {"captioner": {"generation": {"n_best": 4, "beam_size": 5}}}),
        ("transformers", "sample",
         {"captioner": {"generation": {"n_best": 4, "beam_size": 1}, "sampling": {"temperature": 0.7}}}),
    ],
)  # fmt: skip
def test_candidates_by_kind(tmp_path: Path, kind: str, method: str, expected: dict[str, Any]) -> None:
    teacher = {"config": "caption/demo", "candidates": 4, "method": method}
    steps = TeacherSteps(teaching_of(tmp_path, teacher))
    assert steps._candidates({"captioner": {"kind": kind}}) == expected
