"""How often a CLIP finds the image of a caption, and a caption of an image, in pools of several sizes.

python benchmarks/retrieval.py --clip.checkpoint runs/photographs/clip/best \
    --pairs.pairs data/flickr8k/val/captions.json --pairs.images data/flickr8k/photographs

Every caption counts, not only the first of each image. A pool has one caption of each of its images; images
are dealt into as many pools of a size as there are, and figures are means over pools and captions. Words that
the CLIP has never seen are left out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glied import storage
from glied.clip.config import ClipConfig
from glied.clip.scorer import ClipScorer, load_clip
from glied.config import parse, run
from glied.data.pairs import PairsConfig
from glied.errors import UsageError
from glied.metrics.retrieval import retrieval
from glied.training.tasks.clip_images import read_image

_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which CLIP, among which images."""

    clip: ClipConfig
    """The CLIP that is measured."""
    pairs: PairsConfig
    """Images and their captions."""
    pools: tuple[int, ...] = (1000, 500)
    """Sizes of the pools."""
    out: str | None = None
    """Where to write the result as JSON."""


def recalls(images: NDArray, texts: Sequence[NDArray], pool: int) -> dict[str, float]:
    """Mean recall in percent over all pools and captions.

    Args:
        images: [N, E], unit vectors.
        texts: for each caption of an image, the unit vectors [N, E] of all images.
        pool: images that are compared with each other; those that fill no pool are left out.

    Raises:
        UsageError: there are fewer images than that.
    """
    count = len(images) // pool
    if not count:
        raise UsageError(f"pools: {pool} is more than the {len(images)} images there are")
    found = []
    for vectors in texts:
        for first in range(count):
            rows = slice(first, count * pool, count)
            forth = retrieval(vectors[rows], images[rows])
            back = retrieval(images[rows], vectors[rows])
            found.append({**forth, **{f"image to text {name}": value for name, value in back.items()}})
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def encode(scorer: ClipScorer, pairs: PairsConfig) -> tuple[NDArray, list[NDArray]]:
    """Unit vectors of the images, and of as many captions of each as all of them have."""
    images = []
    for start in range(0, len(pairs.all), _CHUNK):
        part = [read_image(pair.image) for pair in pairs.all[start : start + _CHUNK]]
        images.append(scorer.encode_images(part).cpu().numpy())
    unknown = set(scorer.unknown_words(text for pair in pairs.all for text in pair.texts))
    texts = [
        [_without(unknown, pair.texts[number]) for pair in pairs.all]
        for number in range(min(len(pair.texts) for pair in pairs.all))
    ]
    return np.concatenate(images), [scorer.encode_texts(one).cpu().numpy() for one in texts]


def _without(unknown: set[str], text: str) -> str:
    return " ".join(word for word in text.split() if word not in unknown)


def measure(config: Config) -> dict[str, dict[str, float]]:
    """Recalls by the size of the pool."""
    images, texts = encode(load_clip(config.clip), config.pairs)
    return {str(pool): recalls(images, texts, pool) for pool in config.pools}


def main() -> int:
    """Parse, measure, report."""
    config = parse(Config, description=__doc__)
    result = json.dumps(measure(config), indent=1)
    if config.out:
        storage.write_bytes(config.out, result.encode() + b"\n")
    print(result)
    return 0


if __name__ == "__main__":
    run(main)
