"""Captions of the nearest training images by consensus: what a trained captioner has to beat.

python benchmarks/nearest.py                                          # prints the committed results
python benchmarks/nearest.py --full true --out benchmarks/results/nearest.json

Images are compared by the features of their first region, which of timm's cells is the whole image; the
caption is that of the nearest images' captions which is most like the others in CIDEr (Devlin et al. 2015,
arXiv 1505.04467). How many neighbors are asked is chosen on val. `--full` needs the feature stores of
configs/extract/photographs.yaml.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

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
    """Which images."""

    full: bool = False
    """Measure, instead of printing what was measured."""
    features: str = "runs/photographs/features"
    """Folder of the feature stores train, val and test."""
    captions: str = "data/flickr8k"
    """Folder of the splits, each with its captions.json."""
    neighbors: tuple[int, ...] = (10, 20, 40, 60, 90, 130)
    """Numbers of neighbors that are tried on val."""
    splits: tuple[str, ...] = ("test",)
    """Splits that are measured with the number that is best on val."""
    out: str | None = None
    """Where to write the result as JSON."""


def vectors(store: str) -> tuple[list[str], NDArray[np.float32]]:
    """Ids of a store's images, and the unit vectors [images, F] of their first regions."""
    names, found = [], []
    for path in features.paths(store):
        for row in pq.read_table(path, columns=["id", *features.VALUES]).to_pylist():
            if row["count"]:
                names.append(row["id"])
                found.append(features.values(row)[0])
    matrix = np.stack(found)
    return names, matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


@dataclass(frozen=True)
class Profile:
    """The captions of an image as TF-IDF vectors of length 1 for each order of n-grams.

    Attributes:
        captions: [n] which caption of the image each value belongs to.
        ngrams: [n] number of the n-gram in the table of document frequencies.
        values: [n].
        count: number of captions.
    """

    captions: NDArray[np.int64]
    ngrams: NDArray[np.int64]
    values: NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, captions: Packed, table: DocumentFrequencies) -> "Profile":
        """Of an image's captions, all of whose n-grams are in the table."""
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
    """Number of the caption with the highest mean CIDEr to all of `profiles`; the table has `ngrams`."""
    firsts = np.cumsum([0, *(one.count for one in profiles)])
    captions = np.concatenate([one.captions + first for one, first in zip(profiles, firsts, strict=False)])
    places = np.concatenate([one.ngrams for one in profiles])
    values = np.concatenate([one.values for one in profiles])
    total = np.bincount(places, values, minlength=ngrams)
    return int(np.bincount(captions, values * total[places], minlength=firsts[-1]).argmax())


class Neighbors:
    """Training images with their captions."""

    def __init__(self, store: str, captions: str) -> None:
        """Read both; n-grams are counted over the training captions."""
        names, self.matrix = vectors(store)
        references = coco.load_captions(captions)
        self.texts = [references[name] for name in names]
        vocabulary = Vocabulary.from_captions((text for texts in self.texts for text in texts), 1)
        packed = [Packed.of([vocabulary.encode(tokenize(text)) for text in texts]) for texts in self.texts]
        self.table = DocumentFrequencies.of(packed)
        self.profiles = [Profile.of(one, self.table) for one in packed]

    def captions(self, store: str, most: int) -> dict[str, str]:
        """A caption for each image of a store, from its `most` nearest training images."""
        names, matrix = vectors(store)
        near = np.argsort(-(matrix @ self.matrix.T), axis=1, kind="stable")[:, :most]
        return {name: self._caption(row.tolist()) for name, row in zip(names, near, strict=True)}

    def _caption(self, near: list[int]) -> str:
        texts = [text for index in near for text in self.texts[index]]
        return texts[consensus([self.profiles[index] for index in near], len(self.table))]


def measure(config: Config) -> dict[str, Any]:
    """CIDEr on val for each number of neighbors, and all metrics on the splits with the best one."""
    known = Neighbors(f"{config.features}/train", f"{config.captions}/train/captions.json")

    def scores(split: str, most: int) -> Mapping[str, float]:
        references = coco.load_captions(f"{config.captions}/{split}/captions.json")
        found = known.captions(f"{config.features}/{split}", most)
        return text_metrics(found, {name: references[name] for name in found})

    val = {most: scores("val", most)["CIDEr"] for most in config.neighbors}
    best = max(val, key=lambda most: val[most])
    result: dict[str, Any] = {
        "neighbors": best,
        "val_cider": {str(most): value for most, value in val.items()},
    }
    return result | {split: dict(scores(split, best)) for split in config.splits}


def main() -> int:
    """Measure or repeat, report."""
    config = parse(Config, description=__doc__)
    result = measure(config) if config.full else json.loads(RESULTS.read_text())
    if config.out:
        Path(config.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    run(main)
