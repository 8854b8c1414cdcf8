"""Test the papers' claims: train variants of the captioner with several seeds each and decide every claim.

python benchmarks/claims.py
python benchmarks/claims.py --full
python benchmarks/claims.py --world photographs --full
python benchmarks/claims.py --speed
python benchmarks/claims.py --picture rewards.svg
python benchmarks/claims.py --short

Without an option, the script prints the committed results, their source and the list of missing runs. This
takes seconds.

With --full, it trains every variant with seeds 0 to 4 (photographs: 0 to 2). A run is one variant with one
seed: the script trains it in this process with the world's config (`glied.training.local_trainer`), captions
the test images and writes all figures to <results>/<variant>-<seed>.json. The same command resumes after an
interruption, also in the middle of a run; it measures a finished run again if its CLIP or judge has changed.
Several processes with different --seeds can share the work. Decoding blocks no repeated n-grams.

A verdict comes from the 95 % interval of a difference, by a bootstrap over the test images and the seeds
together (`glied.metrics.bootstrap.bootstrap_over_seeds`).

Demo world: Base, a Base with as many parameters as GLIED, GLIED, its six ablations, CT, GLIED and CT at
each other's size, and the recurrent models of Table 2 are trained with cross-entropy (XE), then GLIED with
five rewards and those of claims_rewards.py. It needs the inputs of the configs in captioner/ and scst/ and
the features of the test scenes; the rewards also need a CLIP with a grammar head and a judge (held-out
evaluator) that reaches R@1 70 with full descriptions in a pool of 5,000.

Photographs (Flickr8k): Base, GLIED, its six ablations, and a Base, an Up-Down and a CT with as many
parameters as GLIED are trained with XE, then GLIED with the CIDEr reward; 3 hours on one core. Captions are
decoded greedily and with 5 beams. It needs the inputs of configs/captioner/photographs.yaml and
configs/scst/photographs.yaml and the features of the test photographs. With --judge, a training run of
jobs/train_clip.py, it also reports the judge's R@1.

With --speed, it measures the images/s of all variants trained with XE alternately, with 3 beams. With
--picture, it draws R@1 against the precision of relations and colors for each reward of the demo world.

With --short, it trains some variants with one seed for two steps and captions 20 test images, in about a
minute. This only checks that the script works. The results stay in --runs, under short/.

The last line is one JSON object.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks import claims_table
from benchmarks.claims_config import Config
from benchmarks.measurement import ROOT, print_result
from glied.config import lists_as_json, parse, run, split_arguments


def main() -> int:
    """Train and measure the missing runs if asked to, then print the report."""
    _, options = split_arguments(lists_as_json(sys.argv[1:], ("--variants", "--seeds")), Config)
    config = parse(Config, options, description=__doc__)
    if config.full or config.short:
        from benchmarks import claims_runs  # imports torch

        claims_runs.prepare(config)
        for variant, seed in config.planned_runs:
            claims_runs.measure(config, variant, seed)
            report = report_of(config)
            (config.result_folder / "claims.md").write_text(page(config, report))
    if config.speed:
        from benchmarks import claims_speed

        claims_speed.measure(config)
    report = {"short": config.short, **report_of(config)}
    if config.picture:
        from benchmarks import claims_picture  # imports matplotlib

        Path(config.picture).write_bytes(claims_picture.trade_off(report["rows"], config.spec).svg)
    print(page(config, report))
    print_result(report, config.out)
    return 0


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Read the results of the finished runs."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*-*.json"))]


def report_of(config: Config) -> dict[str, Any]:
    """Summarize the results of the finished runs, with their speed where it was measured."""
    path = config.result_folder / "speed.json"
    speed = json.loads(path.read_text())["images/s"] if path.exists() else {}
    return claims_table.report(read_runs(config.result_folder), config.spec, speed)


def page(config: Config, report: Mapping[str, Any]) -> str:
    """Format the report as Markdown, headed by the folder of its results."""
    folder = config.result_folder
    folder = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    if not report["rows"]:
        return f"no results in {folder}: --full trains and measures; no claim is decided\n"
    lines = [f"Results of {folder}.", ""]
    if config.short:
        lines = ["**Short form: it checks that the script works; its figures say nothing.**", ""]
    return "\n".join(lines) + "\n" + claims_table.markdown(report, config.spec)


if __name__ == "__main__":
    run(main)
