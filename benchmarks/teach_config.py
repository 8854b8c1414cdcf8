"""Options of benchmarks/teach.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.measurement import ROOT
from benchmarks.teach_worlds import STUDENTS, TEACHER, WORLDS, World
from glied.errors import UsageError

SEEDS = (0, 1, 2)
SHORT = ("by_references", "by_teacher", "by_teacher_cider")
"""Students of the short form."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, and the inputs and outputs; empty options take the world's values."""

    world: Literal["demo", "photographs"] = "demo"
    """Scenes of the demo world, or the photographs of Flickr8k."""
    full: bool = False
    """Train and measure what is missing; otherwise print the committed results."""
    short: bool = False
    """Train and measure in about a minute, to try the script."""
    students: tuple[str, ...] = ()
    """With full or short: students to train (benchmarks/teach_worlds.py); empty for all of the world."""
    seeds: tuple[int, ...] = ()
    """With full: seeds to train; empty for 0 to 2."""
    data: str = ""
    """Folder with captions.json in train/, val/ and test/."""
    features: str = ""
    """Folder of the feature stores train, val and test."""
    teacher: str = ""
    """Checkpoint of the teacher (demo world)."""
    filter_clip: str = ""
    """Checkpoint of the CLIP that filters (demo world)."""
    judge: str = ""
    """Checkpoint of the CLIP that judges."""
    runs: str = ""
    """Folder of the trainings."""
    results: str = str(ROOT / "benchmarks" / "results" / "teach")
    """Folder of the result files; the short form writes them beside its trainings."""
    threads: int = 1
    """Number of torch threads."""
    out: str | None = None
    """File for the JSON of the last line."""

    def __post_init__(self) -> None:
        """Fill in the world's values, and check the names."""
        for name in ("data", "features", "teacher", "filter_clip", "judge", "runs"):
            if not getattr(self, name):
                object.__setattr__(self, name, getattr(self.spec, name))
        for name in self.students:
            if name not in STUDENTS:
                raise UsageError(f"students: {name!r} is none of {', '.join(STUDENTS)}")
        if self.full and self.short:
            raise UsageError("full and short exclude each other")

    @property
    def spec(self) -> World:
        """The world."""
        return WORLDS[self.world]

    @property
    def folder(self) -> Path:
        """Folder of the trainings."""
        return Path(self.runs) / "short" if self.short else Path(self.runs)

    @property
    def result_folder(self) -> Path:
        """Folder of the result files."""
        return self.folder / "results" if self.short else Path(self.results)

    @property
    def planned(self) -> list[tuple[str, int]]:
        """Students and seeds in the order of training; the teacher first, once where it is given."""
        students = self.students or (SHORT if self.short else self.spec.students)
        seeds = self.seeds or ((0,) if self.short else SEEDS)
        teachers = [] if self.teacher and seeds[0] else [(TEACHER, seeds[0])]
        more = [] if self.teacher else [(TEACHER, seed) for seed in seeds[1:]]
        return [*teachers, *more, *((student, seed) for seed in seeds for student in students)]

    def path(self, student: str, seed: int) -> Path:
        """The result file of a student."""
        return self.result_folder / f"{self.world}-{student}-{seed}.json"
