"""Options that the benchmarks share which train many runs: claims.py and teach.py."""

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

    world: Literal["demo", "photographs"] = "demo"
    """Which images: scenes of the demo world, or the photographs of Flickr8k."""
    full: bool = False
    """Train and measure the missing runs; otherwise print the committed results."""
    short: bool = False
    """Train and measure in about a minute, to try the script."""
    seeds: tuple[int, ...] = ()
    """With full: seeds to train; empty for all of the world."""
    features: str = ""
    """With full or short: feature stores of the images."""
    judge: str = ""
    """With full: the CLIP that judges."""
    runs: str = ""
    """With full or short: folder of the training runs."""
    results: str = ""
    """Folder of the result files; the short form writes them beside its training runs."""
    threads: int = 1
    """With full or short: number of torch threads."""
    out: str | None = None
    """File for the JSON of the last line."""

    def fill(self, defaults: Mapping[str, str]) -> None:
        """Give empty options the world's values, and check those that exclude each other."""
        for name, value in defaults.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        if any(seed < 0 for seed in self.seeds):
            raise UsageError(f"seeds: {min(self.seeds)} is negative")
        if self.full and self.short:
            raise UsageError("full and short exclude each other")

    @property
    def folder(self) -> Path:
        """Folder of the training runs."""
        return Path(self.runs) / "short" if self.short else Path(self.runs)

    @property
    def result_folder(self) -> Path:
        """Folder of the result files."""
        return self.folder / "results" if self.short else Path(self.results)
