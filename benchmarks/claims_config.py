"""What benchmarks/claims.py trains, and where it lies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.claims_table import SEEDS
from benchmarks.claims_worlds import WORLDS, World
from glied.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
OF_WORLD = ("configs", "runs", "scenes", "features", "clip", "judge")
"""Options that take the world's value where they are empty."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train and where it lies."""

    world: Literal["demo", "photographs"] = "demo"
    """Which images: scenes of the demo world, or Flickr8k's photographs. Options below that are empty take
    this world's values (benchmarks/claims_worlds.py)."""
    full: bool = False
    """Train and measure what is missing; otherwise print the committed results."""
    short: bool = False
    """Train and measure in a minute, for a trial of this script."""
    variants: tuple[str, ...] = ()
    """With full or short: which variants; all of them (short: some) when there are none."""
    seeds: tuple[int, ...] = ()
    """With full: which seeds; 0 to 2 when there are none."""
    configs: str = ""
    """With full or short: which of the configs, by the end of their names."""
    runs: str = ""
    """With full or short: folder of the runs."""
    scenes: str = ""
    """With full or short: folder of the test images' captions.json. A trial names that of the validation
    images, with their features and its own runs and results: what is chosen is not chosen on test."""
    features: str = ""
    """With full or short: feature store of the test images."""
    clip: str = ""
    """With full: checkpoint of the CLIP that rewards, with its grammar head."""
    judge: str = ""
    """With full: training run of the CLIP that judges (demo: configs/clip/judge.yaml)."""
    results: str = ""
    """Folder of the cells; the short form writes them beside its runs."""
    threads: int = 1
    """With full or short: threads of torch."""
    out: str | None = None
    """Where to write the JSON of the last line too."""

    def __post_init__(self) -> None:
        """Take the world's values, refuse variants that it does not have, and two forms at once."""
        spec = self.spec
        defaults = {name: getattr(spec, {"scenes": "test"}.get(name, name)) for name in OF_WORLD}
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
        """What is compared."""
        return WORLDS[self.world]

    @property
    def judge_checkpoint(self) -> str:
        """The judge's weights; empty without a judge."""
        return f"{self.judge}/best" if self.judge else ""

    @property
    def folder(self) -> Path:
        """Where the runs are."""
        return Path(self.runs) / "short" if self.short else Path(self.runs)

    @property
    def cells(self) -> Path:
        """Where the results are."""
        return self.folder / "results" if self.short else Path(self.results)

    @property
    def work(self) -> list[tuple[str, int]]:
        """The cells to do: for each seed first XE, then what starts from it."""
        chosen = self.variants or (self.spec.short if self.short else tuple(self.spec.variants))
        seeds = self.seeds or ((0,) if self.short else tuple(range(SEEDS)))
        return [(variant, seed) for seed in seeds for variant in self.spec.variants if variant in chosen]
