"""Measure the text-to-image and image-to-text recall of a CLIP in pools of several sizes.

python benchmarks/retrieval.py --clip.checkpoint runs/photographs/clip/best \
    --pairs.pairs data/flickr8k/val/captions.json --pairs.images data/flickr8k/photographs

Every caption of an image counts, not only the first. The images are divided into as many pools of each size
as possible; a pool has one caption of each of its images, and the figures are means over pools and captions.
Words outside the CLIP's vocabulary are removed.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.measurement import print_result
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
    """The CLIP, the images and the pools."""

    clip: ClipConfig
    """CLIP to measure."""
    pairs: PairsConfig
    """Images and their captions."""
    pools: tuple[int, ...] = (1000, 500)
    """Sizes of the pools."""
    out: str | None = None
    """File for the result as JSON."""


def recalls(images: NDArray, texts: Sequence[NDArray], pool: int) -> dict[str, float]:
    """Return the mean recall in percent over all pools and captions.

    Args:
        images: [N, E], unit vectors.
        texts: unit vectors [N, E] of the first caption of each image, of the second, and so on.
        pool: number of images in a pool; images that do not fill a pool are left out.

    Raises:
        UsageError: there are fewer images than a pool has.
    """
    count = len(images) // pool
    if not count:
        raise UsageError(f"pools: {pool} is more than the {len(images)} images")
    by_pool = []
    for vectors in texts:
        for first in range(count):
            rows = slice(first, count * pool, count)
            forth = retrieval(vectors[rows], images[rows])
            back = retrieval(images[rows], vectors[rows])
            by_pool.append({**forth, **{f"image to text {name}": value for name, value in back.items()}})
    return {name: float(np.mean([one[name] for one in by_pool])) for name in by_pool[0]}


def encode(scorer: ClipScorer, pairs: PairsConfig) -> tuple[NDArray, list[NDArray]]:
    """Encode the images and their captions, as many of each image as the image with the fewest has."""
    images = []
    for start in range(0, len(pairs.all), _CHUNK):
        part = [read_image(pair.image) for pair in pairs.all[start : start + _CHUNK]]
        images.append(scorer.encode_images(part).cpu().numpy())
    texts = [
        scorer.known_parts([pair.texts[number] for pair in pairs.all])
        for number in range(min(len(pair.texts) for pair in pairs.all))
    ]
    return np.concatenate(images), [scorer.encode_texts(one).cpu().numpy() for one in texts]


def measure(config: Config) -> dict[str, dict[str, float]]:
    """Return the recalls by pool size."""
    images, texts = encode(load_clip(config.clip), config.pairs)
    return {str(pool): recalls(images, texts, pool) for pool in config.pools}


def main() -> int:
    """Measure the CLIP and print the figures."""
    config = parse(Config, description=__doc__)
    print_result(measure(config), config.out)
    return 0


if __name__ == "__main__":
    run(main)
