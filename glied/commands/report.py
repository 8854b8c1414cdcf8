"""Make one self-contained HTML page of training runs: curves, sample captions, speed, tables of results.

.venv/bin/python jobs/report.py runs/base runs/glied --out report.html
.venv/bin/python jobs/report.py runs/cider runs/clip_s --out report.html --pictures docs/images --axis epoch
.venv/bin/python jobs/report.py runs/glied --tables benchmarks/results/table2.json claims.json \\
    --out report.html

Runs may still be in progress, and on any storage. --pictures also writes each figure as SVG and PNG.
"""

import json
import sys

from glied.config import lists_as_json, parse, split_arguments
from glied.reports.training_report import ReportConfig, make_report

LISTS = ("--runs", "--tables")


def main() -> int:
    """Make the page and print a summary."""
    bare, options = split_arguments(lists_as_json(sys.argv[1:], LISTS), ReportConfig)
    if bare:
        options.append(f"--runs+={json.dumps(bare)}")
    config = parse(ReportConfig, options, description=__doc__, arguments="RUN...")
    report = make_report(config)
    for note in report.notes:
        print(f"note: {note}")
    for picture in report.pictures:
        print(picture)
    print(f"{', '.join(report.figures)}: {config.out} ({report.size / 1e3:.0f} kB)")
    return 0
