"""Options of benchmarks/claims.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.claims_worlds import WORLDS, World
from benchmarks.measurement import ROOT
from glied.errors import UsageError

RESULTS = ROOT / "benchmarks" / "results"
WORLD_OPTIONS = ("configs", "runs", "scenes", "features", "clip", "judge")
"""Options whose default is the world's value."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, and the inputs and outputs."""

    world: Literal["demo", "photographs"] = "demo"
    """Which images: scenes of the demo world, or the photographs of Flickr8k. The options below that are
    empty take this world's values (benchmarks/claims_worlds.py)."""
    full: bool = False
    """Train and measure the missing runs; otherwise print the committed results."""
    short: bool = False
    """Train and measure in about a minute, to try the script."""
    speed: bool = False
    """Measure the images/s of the variants that are trained; let nothing else run meanwhile."""
    variants: tuple[str, ...] = ()
    """With full or short: variants to train; empty for all of them (short: for some)."""
    seeds: tuple[int, ...] = ()
    """With full: seeds to train; empty for all of the world (demo: 0 to 4)."""
    configs: str = ""
    """With full or short: suffix of the names of the configs to use, such as demo."""
    runs: str = ""
    """With full or short: folder of the training runs."""
    scenes: str = ""
    """With full or short: folder of the test images' captions.json. To choose settings, name that of the
    validation images, together with their features and separate runs and results."""
    features: str = ""
    """With full or short: feature store of the test images."""
    clip: str = ""
    """With full: checkpoint of the CLIP used as reward, with its grammar head."""
    judge: str = ""
    """With full: training run of the CLIP used as judge (demo: configs/clip/judge.yaml)."""
    results: str = ""
    """Folder of the result files; the short form writes them beside its training runs."""
    threads: int = 1
    """With full or short: number of torch threads."""
    out: str | None = None
    """File for the JSON of the last line."""

    def __post_init__(self) -> None:
        """Fill in the world's values and check the options."""
        spec = self.spec
        defaults = {name: getattr(spec, {"scenes": "test"}.get(name, name)) for name in WORLD_OPTIONS}
        for name, value in (defaults | {"results": str(RESULTS / spec.results)}).items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        for name in self.variants:
            if name not in spec.variants:
                raise UsageError(f"variants: {name!r} is none of {', '.join(spec.variants)}")
        if any(seed < 0 for seed in self.seeds):
            raise UsageError(f"seeds: {min(self.seeds)} is negative")
        if self.full and self.short:
            raise UsageError("full and short exclude each other")

    @property
    def spec(self) -> World:
        """The variants and claims of the world."""
        return WORLDS[self.world]

    @property
    def judge_checkpoint(self) -> str:
        """Checkpoint of the judge; empty without a judge."""
        return f"{self.judge}/best" if self.judge else ""

    @property
    def folder(self) -> Path:
        """Folder of the training runs."""
        return Path(self.runs) / "short" if self.short else Path(self.runs)

    @property
    def result_folder(self) -> Path:
        """Folder of the result files."""
        return self.folder / "results" if self.short else Path(self.results)

    @property
    def planned_runs(self) -> list[tuple[str, int]]:
        """Variants and seeds in the order of training: for each seed XE first, then the rewards."""
        chosen = self.variants or (self.spec.short if self.short else tuple(self.spec.variants))
        seeds = self.seeds or ((0,) if self.short else tuple(range(self.spec.seeds)))
        return [(variant, seed) for seed in seeds for variant in self.spec.variants if variant in chosen]
