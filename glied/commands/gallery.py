"""Make one self-contained HTML page of captioned runs: captions, scores, and the attention of each word.

.venv/bin/python jobs/gallery.py --run demo/captions --references demo/scenes/captions.json \\
    --out demo/gallery.html
.venv/bin/python jobs/gallery.py --run demo/photographs demo/captions --names Photographs Scenes \\
    --references demo/scenes/captions.json --out demo/gallery.html
.venv/bin/python jobs/gallery.py --run s3://bucket/captions --out worst.html --explain 100 \\
    --explain_order worst
"""

import sys

from glied.config import lists_as_json, parse
from glied.reports.gallery import GalleryConfig, make_gallery

LISTS = ("--run", "--names")


def main() -> int:
    """Make the page and print a summary."""
    config = parse(GalleryConfig, lists_as_json(sys.argv[1:], LISTS), description=__doc__)
    report = make_gallery(config)
    for note in report.notes:
        print(f"note: {note}")
    images = f"{report.images} of {report.total}" if report.images < report.total else report.images
    print(f"{images} images, {report.explained} of them explained: {config.out} ({report.size / 1e6:.1f} MB)")
    return 0
