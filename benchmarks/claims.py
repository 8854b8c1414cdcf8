"""The papers' claims on the demo world: 14 ways to train a captioner, three seeds, a verdict on each claim.

python benchmarks/claims.py
python benchmarks/claims.py --full
python benchmarks/claims.py --short

Without an option: prints the results that are committed beside this file, with where they came from, and
which cells are missing. Seconds.

With --full: trains Base, a Base with GLIED's number of parameters, GLIED and its six ablations under
cross-entropy (XE), then GLIED with five rewards, each with seeds 0 to 2. A cell is one of them with one seed:
`glied.training.here` trains it with the demo's config in this process, greedy decoding captions the test
scenes, and all figures go to <results>/<variant>-<seed>.json as soon as the cell is done. The same command
goes on where it was stopped, within a cell too; figures that another CLIP or judge would change are measured
again. Two processes with different --seeds share the work; all of it is made to fit in 6 hours on two cores.
No caption is denied a repetition. Needs what the configs of captioner/ and scst/ need, the features of the
test scenes, and for rewards a CLIP with a grammar head and a judge that is fit: full descriptions find their
image with R@1 70 in a pool of 5,000.

With --short: Base, GLIED and the CIDEr reward with one seed, two steps each, 20 test scenes; a minute. It
shows that the script works and says nothing about the claims: its results stay in --runs, under short/.

The last line is one JSON object.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the configs of jobs/

from benchmarks import claims_table  # noqa: E402
from benchmarks.claims_table import NAMES, SEEDS  # noqa: E402
from glied.config import lists_as_json, parse, run, split_arguments  # noqa: E402
from glied.errors import UsageError  # noqa: E402

SHORT_VARIANTS = ("base", "glied", "cider")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train and where it lies."""

    full: bool = False
    """Train and measure what is missing; otherwise print the committed results."""
    short: bool = False
    """Train and measure in a minute, for a trial of this script."""
    variants: tuple[str, ...] = ()
    """With full or short: which variants; all of them (short: three) when there are none."""
    seeds: tuple[int, ...] = ()
    """With full: which seeds; 0 to 2 when there are none."""
    configs: str = "demo"
    """With full or short: which of the configs, by the end of their names."""
    runs: str = "runs/claims"
    """With full or short: folder of the runs."""
    scenes: str = "data/scenes/test"
    """With full or short: the test scenes."""
    features: str = "runs/features/test"
    """With full or short: feature store of the test scenes."""
    clip: str = "glied/weights/demo/grammar"
    """With full: checkpoint of the CLIP that rewards, with its grammar head."""
    judge: str = "runs/judge"
    """With full: training run of the CLIP that judges (configs/clip/judge.yaml)."""
    results: str = str(ROOT / "benchmarks" / "results" / "claims")
    """Folder of the cells; the short form writes them beside its runs."""
    threads: int = 1
    """With full or short: threads of torch."""
    out: str | None = None
    """Where to write the JSON of the last line too."""

    def __post_init__(self) -> None:
        """Refuse variants that there are not, and two forms at once."""
        for name in self.variants:
            if name not in NAMES:
                raise UsageError(f"variants: {name!r} is none of {', '.join(NAMES)}")
        if any(seed < 0 for seed in self.seeds):
            raise UsageError(f"seeds: {min(self.seeds)} is negative")
        if self.full and self.short:
            raise UsageError("full and short exclude each other")

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
        chosen = self.variants or (SHORT_VARIANTS if self.short else tuple(NAMES))
        seeds = self.seeds or ((0,) if self.short else tuple(range(SEEDS)))
        return [(variant, seed) for seed in seeds for variant in NAMES if variant in chosen]


def main() -> int:
    """Train what is missing, or print what is there."""
    _, options = split_arguments(lists_as_json(sys.argv[1:], ("--variants", "--seeds")), Config)
    config = parse(Config, options, description=__doc__)
    if config.full or config.short:
        from benchmarks import claims_cells  # torch and all

        claims_cells.prepare(config)
        for variant, seed in config.work:
            claims_cells.measure(config, variant, seed)
            told = claims_table.report(read_cells(config.cells))
            (config.cells / "claims.md").write_text(page(config, told))
    told = {"short": config.short, **claims_table.report(read_cells(config.cells))}
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
    return "\n".join(lines) + "\n" + claims_table.markdown(told)


if __name__ == "__main__":
    run(main)
