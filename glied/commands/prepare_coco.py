"""Prepare photographs with captions for training: COCO, Flickr8k, Flickr30k (Karpathy's splits), or your own.

.venv/bin/python jobs/prepare_coco.py --config configs/prepare/coco.yaml
.venv/bin/python jobs/prepare_coco.py --config configs/prepare/own.yaml --captions '[captions.json]' \\
    --images photos

Downloads what is missing, checks digests, and writes references, vocabulary, word lists and the table of
document frequencies into `out`. The same command resumes, also in the middle of a download; a second run does
nothing. Exit code 0: all is there. 1: a download failed or is not what its digest says, or numbers are not as
expected. 2: bad usage, input or config; photographs are missing.
"""

import json

from glied.config import parse
from glied.data.prepare import PrepareConfig, prepare


def main() -> int:
    """Prepare and report."""
    manifest = prepare(parse(PrepareConfig, description=__doc__))
    names = ("dataset", "images", "captions", "words", "published_words", "attribute_words", "ngrams")
    print(json.dumps({name: manifest[name] for name in names if name in manifest}))
    return 0
