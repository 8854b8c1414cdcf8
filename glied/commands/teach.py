"""Make a captioner of your own from an archive of images, with captions of yours or of a teacher.

.venv/bin/python jobs/teach.py --config configs/teach/own.yaml --captions captions.csv \\
    --input.uri s3://bucket/photos --output.uri s3://bucket/captioner
.venv/bin/python jobs/make_scenes.py --out scenes --split train --count 400
.venv/bin/python jobs/teach.py --config configs/teach/demo.yaml --input.uri scenes/images \\
    --captions scenes/captions.json --output.uri runs/taught

The same command goes on after any kill. <output>/model holds the captioner, <output>/caption.yaml the config
that captions the whole archive with it, <output>/report.html what was learned. docs/own_data.md explains the
steps. Exit code 0: there is a captioner, whatever the verdict says. 1: a step failed or is not complete, or
nothing was learned, or Ctrl-C. 2: bad usage, input or config, or settings of a finished step have changed.
143: SIGTERM.
"""

import json
import time

from glied.config import parse
from glied.teach.config import TeachConfig


def main() -> int:
    """Parse, teach, report."""
    started = time.perf_counter()
    config = parse(TeachConfig, description=__doc__)

    from glied.teach.run import teach  # torch takes seconds to import; mistakes are found before

    print(json.dumps(teach(config, started=started)))
    return 0
