"""Options that the benchmarks claims.py and teach.py share, which train models in worlds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.measurement import ROOT
from glied.errors import UsageError

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What to train, and the inputs and outputs; empty options take the world's values."""

    full: bool = False
    """Train and measure what is missing; otherwise print the committed results."""
    short: bool = False
    """Train and measure in a few minutes at most, to try the script."""
    runs: str = ""
    """With full or short: folder of the training runs."""
    results: str = ""
    """Folder of the results; the short form writes them beside its training runs."""
    threads: int = 1
    """With full or short: number of torch threads."""
    out: str | None = None
    """File for the JSON of the last line."""
    world: Literal["demo", "photographs"] = "demo"
    """Which images: scenes of the demo world, or the photographs of Flickr8k."""
    seeds: tuple[int, ...] = ()
    """With full: seeds to train; empty for all of the world."""
    features: str = ""
    """With full or short: feature stores of the images."""
    judge: str = ""
    """With full: the CLIP that judges."""

    def __post_init__(self) -> None:
        """Refuse both forms at once."""
        if self.full and self.short:
            raise UsageError("full and short exclude each other")

    @property
    def folder(self) -> Path:
        """Folder of the training runs."""
        return Path(self.runs) / "short" if self.short else Path(self.runs)

    def fill(self, defaults: Mapping[str, str]) -> None:
        """Give empty options the world's values."""
        for name, value in defaults.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        if any(seed < 0 for seed in self.seeds):
            raise UsageError(f"seeds: {min(self.seeds)} is negative")

    @property
    def result_folder(self) -> Path:
        """Folder of the result files."""
        return self.folder / "results" if self.short else Path(self.results)
