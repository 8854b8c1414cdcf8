"""Test whether a captioner can be taught without references: a teacher's captions instead, on two worlds.

python benchmarks/teach.py
python benchmarks/teach.py --full
python benchmarks/teach.py --world photographs --full
python benchmarks/teach.py --short

Without an option, the script prints the committed results and the list of missing runs. This takes seconds.

With --full, it trains every student with seeds 0 to 2, as jobs/teach.py does but from regions that are stored
already. A student is an attribute predictor and a GLIED with cross-entropy on captions of the training
images, which are references, or the teacher's (5 drawn at temperature 0.7, of which 3 are kept: the first, or
the best by the CLIP-S of a CLIP, without the fifth of the images whose best caption fits worst). With _cider,
the CIDEr reward against the same captions follows. The teacher's captions also select the best checkpoint and
make vocabulary and attribute words: students "by teacher" see no reference. Then the script captions the test
images greedily and writes <results>/<world>-<student>-<seed>.json. The same command resumes after an
interruption, also in the middle of a training.

Demo world: the teacher is CT (benchmarks/claims.py --full --variants ct --seeds 0; for the committed results
it was trained in float32 without averaged weights), and students see 8,000 scenes. The judge
(held-out evaluator) is the CLIP that ships with the demo world; the CLIP that filters is another one, trained
by configs/clip/judge.yaml with fewer scenes:

    .venv/bin/python jobs/make_scenes.py --out data/scenes_filter/train --split train --seed 3 --count 10000
    .venv/bin/python jobs/make_scenes.py --out data/scenes_filter/val --split val --seed 3 --count 500
    .venv/bin/python jobs/train_clip.py --config configs/clip/judge.yaml --trainer.output runs/filter_clip \\
        --train.pairs data/scenes_filter/train/descriptions.jsonl --trainer.epochs 8 \\
        --validation.pairs data/scenes_filter/val/descriptions.jsonl

It needs data/scenes/{train,val,test} and the feature stores runs/features/{train,val,test}
(configs/extract/demo.yaml with the detector that ships). About 12 CPU minutes a student.

Photographs (Flickr8k): the teacher is a GLIED trained on 2,000 training photographs, and students see the
other 4,000; figures are against human references. There is no filter. It needs data/flickr8k and
runs/photographs/features (docs/photographs.md). About 6 CPU minutes a student.

With --short, it trains students of the demo world for two steps on 24 scenes, in about a minute. This only
checks that the script works.

The last line is one JSON object with judge_r1_share: R@1 by the judge of GLIED taught by the teacher, with
the filter where the world has one, divided by that of GLIED taught by references; means over the seeds that
both have. judge_r1_share_cider is the same after the CIDEr reward, judge_r1_share_unfiltered without filter.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.measurement import print_result
from benchmarks.teach_config import Config
from benchmarks.teach_worlds import STUDENTS, TEACHER
from glied.config import lists_as_json, parse, run

FIGURES = (
    *("CIDEr", "BLEU-4", "judge R@1", "judge R@5", "filter R@1"),
    *("repeated bigrams", "length", "vocabulary", "CPU minutes"),
)
JUDGED = "judge R@1"


def main() -> int:
    """Train and measure what is missing if asked to, then print the table."""
    config = parse(Config, lists_as_json(sys.argv[1:], ("--students", "--seeds")), description=__doc__)
    if config.full or config.short:
        from benchmarks import teach_students  # imports torch

        teach_students.prepare(config)
        for student, seed in config.planned:
            if not config.path(student, seed).exists():
                found = teach_students.Lesson(config, seed).measure(student)
                teach_students.write(config.path(student, seed), found)
    report = summary(config)
    print(page(config, report))
    print_result(report, config.out)
    return 0


def read_results(config: Config) -> list[dict[str, Any]]:
    """Read the results of the world."""
    return [
        json.loads(path.read_text()) for path in sorted(config.result_folder.glob(f"{config.world}-*.json"))
    ]


def summary(config: Config) -> dict[str, Any]:
    """Return means and spreads over the seeds, the shares, and what is missing."""
    results = read_results(config)
    by_student: dict[str, list[dict[str, Any]]] = {}
    for one in results:
        by_student.setdefault(one["student"], []).append(one)
    order = [name for name in (TEACHER, *STUDENTS) if name in by_student]
    missing = [f"{name}-{seed}" for name, seed in config.planned if not config.path(name, seed).exists()]
    taught = "by_filtered" if config.spec.filter_clip else "by_teacher"
    return {
        "judge_r1_share": share(by_student, taught, "by_references", JUDGED),
        "judge_r1_share_cider": share(by_student, f"{taught}_cider", "by_references_cider", JUDGED),
        "judge_r1_share_unfiltered": share(by_student, "by_teacher", "by_references", JUDGED),
        "cider_share": share(by_student, taught, "by_references", "CIDEr"),
        "cider_share_cider": share(by_student, f"{taught}_cider", "by_references_cider", "CIDEr"),
        "world": config.world,
        "short": config.short,
        "rows": {name: row([one["figures"] for one in by_student[name]]) for name in order},
        "missing": missing,
        "machine": sorted({one["machine"] for one in results}),
    }


def share(results: dict[str, list[dict[str, Any]]], of: str, to: str, figure: str) -> float | None:
    """Divide the means of a figure of two students over the seeds that both have; None without any."""
    first, second = (
        {one["seed"]: one["figures"].get(figure) for one in results.get(name, ())} for name in (of, to)
    )
    seeds = [seed for seed in first.keys() & second.keys() if first[seed] is not None and second[seed]]
    return mean(first[seed] for seed in seeds) / mean(second[seed] for seed in seeds) if seeds else None


def row(figures: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return mean and spread (largest minus smallest seed) of each figure."""
    found: dict[str, Any] = {"seeds": len(figures)}
    for name in FIGURES:
        values = [one[name] for one in figures if one.get(name) is not None]
        if values:
            found[name] = {"mean": round(mean(values), 2), "spread": round(max(values) - min(values), 2)}
    return found


def page(config: Config, report: dict[str, Any]) -> str:
    """Format the results as Markdown."""
    rows = report["rows"]
    if not rows:
        return f"no results in {config.result_folder}: --full trains and measures\n"
    columns = [name for name in FIGURES if any(name in values for values in rows.values())]
    lines = [f"**{config.spec.title}.** Means over seeds ± largest minus smallest.", ""]
    lines += ["| | seeds | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for name, values in rows.items():
        cells = [
            f"{values[one]['mean']:g} ± {values[one]['spread']:g}" if one in values else "" for one in columns
        ]
        title = STUDENTS[name].title if name in STUDENTS else "the teacher"
        lines.append(f"| {title} | {values['seeds']} | " + " | ".join(cells) + " |")
    if report["missing"]:
        lines += ["", f"Missing: {', '.join(report['missing'])}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
