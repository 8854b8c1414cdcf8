"""Score captions: CIDEr, BLEU-1..4, ROUGE-L, METEOR, SPICE, FineCapEval, diversity, CLIP-S, retrieval.

.venv/bin/python jobs/evaluate.py --captions demo/captions --references demo/scenes/captions.json \\
    --out results.json
.venv/bin/python jobs/evaluate.py --captions new.json --references val.json --metrics CIDEr BLEU
.venv/bin/python jobs/evaluate.py --compare base.json glied.json --references val.json \\
    --finecapeval finecapeval.csv
.venv/bin/python jobs/evaluate.py --captions run --finecapeval FineCapEval.csv --training_captions train.json
.venv/bin/python jobs/evaluate.py --captions run --references val.json --clip.checkpoint runs/clip/best \\
    --clip.images val

METEOR and SPICE need Java, SPICE also its parser models; unavailable metrics are omitted with a note.
Captions files with missing, duplicate or unknown images are rejected. The results file includes the recipe,
and a table in Markdown is written beside it.

Exit code 0: scored. 1: the results could not be written. 2: bad usage.
"""

import json
import sys

from glied import storage
from glied.config import lists_as_json, parse, split_arguments
from glied.reports import evaluation_report
from glied.reports.evaluate import EvaluateConfig, evaluate

LISTS = ("--compare", "--metrics")


def main() -> int:
    """Score the captions, print and write the results."""
    bare, options = split_arguments(lists_as_json(sys.argv[1:], LISTS), EvaluateConfig)
    config = parse(EvaluateConfig, [*bare, *options], description=__doc__)
    evaluation = evaluate(config, sys.argv)
    print("\n".join(evaluation_report.lines(evaluation)))
    if config.out:
        results = evaluation.to_json()
        storage.write_bytes(config.out, json.dumps(results, indent=1).encode() + b"\n")
        storage.write_bytes(
            config.out.removesuffix(".json") + ".md", evaluation_report.markdown(evaluation).encode()
        )
    return 0
