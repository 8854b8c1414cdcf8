"""Worlds and students of benchmarks/teach.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Student:
    """A captioner that is trained and measured.

    Attributes:
        title: name of its row.
        learns_from: references; the teacher's captions, the first of each image; or the best of them by
            CLIP-S, without the images whose best caption fits worst.
        reward: whether a training with the CIDEr reward against the same captions follows.
    """

    title: str
    learns_from: Literal["references", "teacher", "filtered"]
    reward: bool = False


STUDENTS = {
    "by_references": Student(title="GLIED taught by references", learns_from="references"),
    "by_teacher": Student(title="GLIED taught by the teacher", learns_from="teacher"),
    "by_filtered": Student(title="GLIED taught by the teacher, filtered by CLIP", learns_from="filtered"),
    "by_references_cider": Student(title="... references, CIDEr", learns_from="references", reward=True),
    "by_teacher_cider": Student(title="... the teacher, CIDEr", learns_from="teacher", reward=True),
    "by_filtered_cider": Student(title="... filtered, CIDEr", learns_from="filtered", reward=True),
}
TEACHER = "teacher"
"""Name of the teacher's own row."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Images with references and stored regions.

    Attributes:
        title: heading of the table.
        students: those that are trained by default.
        data: folder with captions.json in train/, val/ and test/.
        images: folder of the test images, relative to `data`/test.
        features: folder of the feature stores train, val and test.
        teacher: checkpoint of the teacher; empty trains a GLIED on images of its own.
        teacher_images: how many training images it is trained on, which the students do not see.
        teacher_attributes: attribute predictor of the teacher.
        configs: configs of the jobs, below configs/.
        lengths: trainer settings that differ from the configs', by job.
        settings: other settings that differ from them, by job.
        filter_clip: the CLIP that filters; empty for none.
        judge: another one, which neither filters nor rewards; empty for none.
        runs: folder of the trainings.
    """

    title: str
    students: tuple[str, ...]
    data: str
    images: str
    features: str
    teacher: str = ""
    teacher_images: int = 0
    teacher_attributes: str = ""
    configs: Mapping[str, str]
    lengths: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Mapping[str, Any]]
    filter_clip: str = ""
    judge: str = ""
    runs: str


DEMO = World(
    title="Demo world: the teacher is CT, each student sees 8,000 scenes",
    students=tuple(STUDENTS),
    data="data/scenes",
    images="images",
    features="runs/features",
    teacher="runs/claims/ct-0/best",
    teacher_attributes="glied/weights/demo/attributes",
    configs={
        "attributes": "attributes/demo.yaml",
        "captioner": "captioner/glied_demo.yaml",
        "reward": "scst/cider_demo.yaml",
    },
    lengths={
        "attributes": {"epochs": 8, "max_steps": 500, "monitoring.validate_every_epochs": 4},
        "captioner": {
            "epochs": 10,
            "max_steps": 1000,
            "optimizer.ema_decay": 0.0,
            "optimizer.precision": "fp32",
        },
        "reward": {"max_steps": 300},
    },
    settings={"attributes": {}, "captioner": {}, "reward": {}},
    filter_clip="runs/filter_clip/best",
    judge="glied/weights/demo/clip",
    runs="runs/teach",
)

_ONE_VIEW = {"train.copies": "[]"}
PHOTOGRAPHS = World(
    title="Photographs: the teacher is GLIED from 2,000 others, each student sees 4,000",
    students=("by_references", "by_teacher", "by_references_cider", "by_teacher_cider"),
    data="data/flickr8k",
    images="../photographs",
    features="runs/photographs/features",
    teacher_images=2000,
    configs={
        "attributes": "attributes/photographs.yaml",
        "captioner": "captioner/photographs.yaml",
        "reward": "scst/photographs.yaml",
    },
    lengths={
        "attributes": {"epochs": 9, "max_steps": 280, "monitoring.validate_every_epochs": 4},
        "captioner": {
            "epochs": 18,
            "max_steps": 558,
            "optimizer.ema_decay": 0.98,
            "monitoring.validate_every_steps": 93,
            "monitoring.validate_every_epochs": 18,
        },
        "reward": {"epochs": 5, "max_steps": 279, "monitoring.validate_every_steps": 93},
    },
    settings={"attributes": _ONE_VIEW, "captioner": _ONE_VIEW, "reward": _ONE_VIEW},
    judge="runs/photographs/clip_judge/best",
    runs="runs/photographs/teach",
)

WORLDS = {"demo": DEMO, "photographs": PHOTOGRAPHS}
"""Worlds by their names in the option --world."""
