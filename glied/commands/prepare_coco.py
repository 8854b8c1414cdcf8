"""Prepare photographs with captions for training: COCO, Flickr8k, Flickr30k (Karpathy's splits), or your own.

.venv/bin/python jobs/prepare_coco.py --config configs/prepare/coco.yaml
.venv/bin/python jobs/prepare_coco.py --config configs/prepare/own.yaml --captions '[captions.json]' \\
    --images photos

Downloads missing files, checks digests, and writes references, vocabulary, word lists and the table of
document frequencies to `out`. The same command resumes, even in the middle of a download; if everything is
complete, it does nothing.

Exit code 0: complete. 1: a download failed or has another digest, or numbers differ from the expected ones.
2: bad usage, input or config, or photographs are missing.
"""

import json

from glied.config import parse
from glied.data.prepare import PrepareConfig, prepare


def main() -> int:
    """Prepare the dataset and print its numbers."""
    manifest = prepare(parse(PrepareConfig, description=__doc__))
    names = ("dataset", "images", "captions", "words", "published_words", "attribute_words", "ngrams")
    print(json.dumps({name: manifest[name] for name in names if name in manifest}))
    return 0
