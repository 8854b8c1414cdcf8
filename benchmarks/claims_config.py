"""Options of benchmarks/claims.py."""

from dataclasses import dataclass

from benchmarks.claims_worlds import WORLDS, World
from benchmarks.study_config import RESULTS, StudyConfig
from glied.errors import UsageError

WORLD_OPTIONS = ("configs", "runs", "scenes", "features", "clip", "judge")
"""Options whose default is the world's value."""


@dataclass(frozen=True, kw_only=True)
class Config(StudyConfig):
    """What to train, and the inputs and outputs; empty options take the world's values (claims_worlds.py)."""

    speed: bool = False
    """Measure the images/s of the variants that are trained; let nothing else run meanwhile."""
    picture: str = ""
    """SVG file for a picture of what the rewards gain and lose."""
    variants: tuple[str, ...] = ()
    """With full or short: variants to train; empty for all of them (short: for some)."""
    configs: str = ""
    """With full or short: suffix of the names of the configs to use, such as demo."""
    scenes: str = ""
    """With full or short: folder of the test images' captions.json. To choose settings, name that of the
    validation images, together with their features and separate runs and results; any CLIP may judge then."""
    clip: str = ""
    """With full: checkpoint of the CLIP used as reward, with its grammar head."""

    def __post_init__(self) -> None:
        """Fill in the world's values and check the options; `judge` is a run of jobs/train_clip.py."""
        super().__post_init__()
        spec = self.spec
        defaults = {name: getattr(spec, {"scenes": "test"}.get(name, name)) for name in WORLD_OPTIONS}
        self.fill(defaults | {"results": str(RESULTS / spec.results)})
        for name in self.variants:
            if name not in spec.variants:
                raise UsageError(f"variants: {name!r} is none of {', '.join(spec.variants)}")

    @property
    def spec(self) -> World:
        """The variants and claims of the world."""
        return WORLDS[self.world]

    @property
    def judge_checkpoint(self) -> str:
        """Checkpoint of the judge; empty without a judge."""
        return f"{self.judge}/best" if self.judge else ""

    @property
    def planned_runs(self) -> list[tuple[str, int]]:
        """Variants and seeds in the order of training: for each seed XE first, then the rewards."""
        chosen = self.variants or (self.spec.short if self.short else tuple(self.spec.variants))
        seeds = self.seeds or ((0,) if self.short else tuple(range(self.spec.seeds)))
        return [(variant, seed) for seed in seeds for variant in self.spec.variants if variant in chosen]
