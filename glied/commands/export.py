"""Export the committed units of a caption run to other formats; the same command resumes.

.venv/bin/python jobs/export.py --run runs/photos --form jsonl --out exports/photos-jsonl
.venv/bin/python jobs/export.py --run runs/photos --form webdataset --out s3://bucket/photos-tar
.venv/bin/python jobs/export.py --run runs/photos --form parquet --out exports/photos \\
    --columns '[id, caption, status]'
.venv/bin/python jobs/export.py --run runs/photos --form csv --out exports/photos-csv \\
    --columns '[id, caption]'
.venv/bin/python jobs/export.py --run runs/photos --form lance --out exports/photos.lance
.venv/bin/python jobs/export.py --run runs/photos --form parquet --out exports/photos-hub \\
    --image_column image
.venv/bin/python jobs/export.py --run runs/photos --form txt --out photos --existing skip
.venv/bin/python jobs/export.py --run runs/photos --form coco --out exports/photos.json --partial

Exit code 0: every committed unit is exported. 1: storage failed, or ids were refused as names of sidecars,
or images for image_column could not be read, a line each. 2: bad usage, no run, one that is not finished
(without --partial), or a destination that holds something else.
"""

import sys

from glied.bulk.exports.export import ExportConfig, export
from glied.config import parse, split_arguments
from glied.terminal_text import printable


def main() -> int:
    """Export what is missing and print a report."""
    bare, options = split_arguments(sys.argv[1:], ExportConfig)
    report = export(parse(ExportConfig, [*bare, *options], description=__doc__))
    print("\n".join(map(printable, report.lines())))
    return 1 if report.refused else 0
