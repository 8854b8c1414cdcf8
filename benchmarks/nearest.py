"""Caption images with the captions of their nearest training images: a baseline for trained captioners.

python benchmarks/nearest.py                                          # prints the committed results
python benchmarks/nearest.py --full true --out benchmarks/results/nearest.json

Images are compared by the features of their first region, which is the whole image in stores of timm cells.
The caption is the one among the nearest images' captions that has the highest mean CIDEr to all of them
(Devlin et al. 2015, arXiv 1505.04467). The number of neighbors is chosen on val. `--full` needs the feature
stores of configs/extract/photographs.yaml.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.measurement import print_result
from glied.config import parse, run
from glied.data import coco, features
from glied.metrics.text_metrics import text_metrics
from glied.text.cider import DocumentFrequencies
from glied.text.ngrams import ORDERS, Packed, count
from glied.text.tokenizer import tokenize
from glied.text.vocabulary import Vocabulary

RESULTS = Path(__file__).parent / "results" / "nearest.json"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which images to use."""

    full: bool = False
    """Measure instead of printing the committed results."""
    features: str = "runs/photographs/features"
    """Folder of the feature stores train, val and test."""
    captions: str = "data/flickr8k"
    """Folder of the splits, each with its captions.json."""
    neighbors: tuple[int, ...] = (10, 20, 40, 60, 90, 130)
    """Numbers of neighbors to try on val."""
    splits: tuple[str, ...] = ("test",)
    """Splits to measure with the number of neighbors that is best on val."""
    out: str | None = None
    """File for the result as JSON."""


def vectors(store: str) -> tuple[list[str], NDArray[np.float32]]:
    """Return the ids of a store's images, and the unit vectors [images, F] of their first regions."""
    names, first_regions = [], []
    for path in features.paths(store):
        for row in pq.read_table(path, columns=["id", *features.VALUES]).to_pylist():
            if row["count"]:
                names.append(row["id"])
                first_regions.append(features.values(row)[0])
    matrix = np.stack(first_regions)
    return names, matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


@dataclass(frozen=True)
class Profile:
    """The captions of an image as sparse TF-IDF unit vectors, one for each order of n-grams.

    Attributes:
        captions: [n] index of the caption that each value belongs to.
        ngrams: [n] index of the n-gram in the table of document frequencies.
        values: [n] components of the vectors.
        count: number of captions.
    """

    captions: NDArray[np.int64]
    ngrams: NDArray[np.int64]
    values: NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, captions: Packed, table: DocumentFrequencies) -> "Profile":
        """Compute the vectors of an image's captions; all their n-grams must be in the table."""
        number = len(captions.lengths)
        counts = count(captions, number, [Packed.of([])])
        weights = counts.counts * table.inverse(counts.hashes)[:, None]  # [U, captions]
        norms = np.sqrt(counts.sum(weights**2))[0]  # [orders, captions]
        rows = np.diff(counts.starts, append=len(weights))
        lengths = norms[np.repeat(counts.segments % ORDERS, rows)]
        unit = np.divide(weights, lengths, out=np.zeros_like(weights), where=lengths > 0)
        ngram, caption = unit.nonzero()
        places = np.searchsorted(table.hashes, counts.hashes[ngram])
        return cls(caption, places, unit[ngram, caption], number)


def consensus(profiles: Sequence[Profile], ngrams: int) -> int:
    """Return the index of the caption with the highest mean CIDEr to all captions of `profiles`.

    Args:
        profiles: captions of the nearest images.
        ngrams: number of n-grams in the table of document frequencies.
    """
    firsts = np.cumsum([0, *(one.count for one in profiles)])
    captions = np.concatenate([one.captions + first for one, first in zip(profiles, firsts, strict=False)])
    places = np.concatenate([one.ngrams for one in profiles])
    values = np.concatenate([one.values for one in profiles])
    total = np.bincount(places, values, minlength=ngrams)
    return int(np.bincount(captions, values * total[places], minlength=firsts[-1]).argmax())


class Neighbors:
    """Training images and their captions, for looking up the nearest images."""

    def __init__(self, store: str, captions: str) -> None:
        """Read a feature store and a captions file, and count the document frequencies."""
        names, self.matrix = vectors(store)
        references = coco.load_captions(captions)
        self.texts = [references[name] for name in names]
        vocabulary = Vocabulary.from_captions((text for texts in self.texts for text in texts), 1)
        packed = [Packed.of([vocabulary.encode(tokenize(text)) for text in texts]) for texts in self.texts]
        self.table = DocumentFrequencies.of(packed)
        self.profiles = [Profile.of(one, self.table) for one in packed]

    def captions(self, store: str, most: int) -> dict[str, str]:
        """Caption each image of a store from its `most` nearest training images."""
        names, matrix = vectors(store)
        nearest = np.argsort(-(matrix @ self.matrix.T), axis=1, kind="stable")[:, :most]
        return {name: self._caption(row.tolist()) for name, row in zip(names, nearest, strict=True)}

    def _caption(self, nearest: list[int]) -> str:
        texts = [text for index in nearest for text in self.texts[index]]
        return texts[consensus([self.profiles[index] for index in nearest], len(self.table))]


def measure(config: Config) -> dict[str, Any]:
    """Choose the number of neighbors on val, and measure the splits with it."""
    training_images = Neighbors(f"{config.features}/train", f"{config.captions}/train/captions.json")

    def scores(split: str, most: int) -> Mapping[str, float]:
        references = coco.load_captions(f"{config.captions}/{split}/captions.json")
        captions = training_images.captions(f"{config.features}/{split}", most)
        return text_metrics(captions, {name: references[name] for name in captions})

    val = {most: scores("val", most)["CIDEr"] for most in config.neighbors}
    best = max(val, key=lambda most: val[most])
    result: dict[str, Any] = {
        "neighbors": best,
        "val_cider": {str(most): value for most, value in val.items()},
    }
    return result | {split: dict(scores(split, best)) for split in config.splits}


def main() -> int:
    """Measure, or read the committed results, and print them."""
    config = parse(Config, description=__doc__)
    print_result(measure(config) if config.full else json.loads(RESULTS.read_text()), config.out)
    return 0


if __name__ == "__main__":
    run(main)
