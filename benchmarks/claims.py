"""The papers' claims on two worlds: ways to train a captioner, three seeds of each, a verdict on each claim.

python benchmarks/claims.py
python benchmarks/claims.py --full
python benchmarks/claims.py --world photographs --full
python benchmarks/claims.py --short

Without an option: prints the results that are committed beside this file, with where they came from, and
which cells are missing. Seconds.

With --full: trains what is compared, each with seeds 0 to 2. A cell is one variant with one seed:
`glied.training.local_trainer` trains it with the world's config in this process, it captions the test images,
and all figures go to <results>/<variant>-<seed>.json as soon as the cell is done. The same command goes on
where it was stopped, within a cell too; figures that another CLIP or judge would change are measured again.
Processes with different --seeds share the work. No caption is denied a repetition.

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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the configs of jobs/

from benchmarks import claims_table  # noqa: E402
from benchmarks.claims_config import Config  # noqa: E402
from glied.config import lists_as_json, parse, run, split_arguments  # noqa: E402


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
