"""The papers' claims on two worlds: ways to train a captioner, three seeds of each, a verdict on each claim.

python benchmarks/claims.py
python benchmarks/claims.py --full
python benchmarks/claims.py --world photographs --full
python benchmarks/claims.py --short

Without an option: prints the results that are committed beside this file, with where they came from, and
which cells are missing. Seconds.

With --full: trains what is compared, each with seeds 0 to 2. A cell is one variant with one seed:
`glied.training.here` trains it with the world's config in this process, it captions the test images, and all
figures go to <results>/<variant>-<seed>.json as soon as the cell is done. The same command goes on where it
was stopped, within a cell too; figures that another CLIP or judge would change are measured again. Processes
with different --seeds share the work. No caption is denied a repetition.

The demo world: Base, a Base with GLIED's number of parameters, GLIED and its six ablations under
cross-entropy (XE), then GLIED with five rewards; 6 hours on two cores. Needs what the configs of captioner/
and scst/ need, the features of the test scenes, and for rewards a CLIP with a grammar head and a judge that
is fit: full descriptions find their image with R@1 70 in a pool of 5,000.

Photographs (Flickr8k): Base, a Base, an Up-Down and a CT with GLIED's number of parameters and GLIED under
XE, then GLIED with the reward CIDEr; 95 minutes on one core. Greedy and with 5 beams. Needs what
configs/captioner/photographs.yaml and configs/scst/photographs.yaml need and the features of the test
photographs. With --judge, a training run of jobs/train_clip.py, its R@1 as well.

With --short: some variants with one seed, two steps each, 20 test images; a minute. It shows that the script
works and says nothing about the claims: its results stay in --runs, under short/.

The last line is one JSON object.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the configs of jobs/

from benchmarks import claims_table  # noqa: E402
from benchmarks.claims_table import SEEDS  # noqa: E402
from benchmarks.claims_worlds import WORLDS, World  # noqa: E402
from glied.config import lists_as_json, parse, run, split_arguments  # noqa: E402
from glied.errors import UsageError  # noqa: E402

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


def main() -> int:
    """Train what is missing, or print what is there."""
    _, options = split_arguments(lists_as_json(sys.argv[1:], ("--variants", "--seeds")), Config)
    config = parse(Config, options, description=__doc__)
    if config.full or config.short:
        from benchmarks import claims_cells  # torch and all

        claims_cells.prepare(config)
        for variant, seed in config.work:
            claims_cells.measure(config, variant, seed)
            told = claims_table.report(read_cells(config.cells), config.spec)
            (config.cells / "claims.md").write_text(page(config, told))
    told = {"short": config.short, **claims_table.report(read_cells(config.cells), config.spec)}
    print(page(config, told))
    if config.out:
        Path(config.out).write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told))
    return 0


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """The cells that are done."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*-*.json"))]


def page(config: Config, told: Mapping[str, Any]) -> str:
    """The report, where it came from above it."""
    cells = config.cells
    folder = cells.relative_to(ROOT) if cells.is_relative_to(ROOT) else cells
    if not told["rows"]:
        return f"no cells in {folder}: --full trains and measures; nothing is shown or refuted\n"
    lines = [f"From the cells in {folder}.", ""]
    if config.short:
        lines = ["**The short form: it shows that the script works and says nothing about the claims.**", ""]
    return "\n".join(lines) + "\n" + claims_table.markdown(told, config.spec)


if __name__ == "__main__":
    run(main)
