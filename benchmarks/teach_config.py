"""Options of benchmarks/teach.py."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.study_config import RESULTS, StudyConfig
from benchmarks.teach_worlds import STUDENTS, TEACHER, WORLDS, World
from glied.errors import UsageError

SEEDS = (0, 1, 2)
SHORT = ("by_references", "by_teacher", "by_teacher_cider")
"""Students of the short form."""
WORLD_OPTIONS = ("data", "features", "teacher", "filter_clip", "judge", "runs")
"""Options whose default is the world's value."""


@dataclass(frozen=True, kw_only=True)
class Config(StudyConfig):
    """What to train, and the inputs and outputs; empty options take the world's values (teach_worlds.py)."""

    students: tuple[str, ...] = ()
    """With full or short: students to train (benchmarks/teach_worlds.py); empty for all of the world."""
    data: str = ""
    """Folder with captions.json in train/, val/ and test/."""
    teacher: str = ""
    """Checkpoint of the teacher (demo world)."""
    filter_clip: str = ""
    """Checkpoint of the CLIP that filters (demo world)."""

    def __post_init__(self) -> None:
        """Fill in the world's values, and check the names."""
        super().__post_init__()
        defaults = {name: getattr(self.spec, name) for name in WORLD_OPTIONS}
        self.fill(defaults | {"results": str(RESULTS / "teach")})
        for name in self.students:
            if name not in STUDENTS:
                raise UsageError(f"students: {name!r} is none of {', '.join(STUDENTS)}")

    @property
    def spec(self) -> World:
        """The world."""
        return WORLDS[self.world]

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
