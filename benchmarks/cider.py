"""Speed of the CIDEr-D reward on one core, and how far it is from the reference implementation.

python benchmarks/cider.py --out cider.json

As in training: batches of 50 images with 5 samples and a greedy caption each, 5 references of about 11 words,
a table of some 400,000 n-grams. References are counted anew in every call; turning text into ids is not part
of it. `one_each_per_s` is the same with a single caption per image. The reference implementation is
pycocoevalcap's; it cannot be given a table, so both take the document frequencies of the compared images.
"""

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer

from glied.config import parse, run
from glied.text.cider import DocumentFrequencies, cider_d
from glied.text.ngrams import Packed

IMAGES = 50
CAPTIONS = 6
REFERENCES = 5
VOCABULARY = 9487
DOCUMENTS = 6_250  # gives about 400,000 n-grams
COMPARED = 1_000


@dataclass(frozen=True, kw_only=True)
class Config:
    """How long to measure."""

    full: bool = False
    """Many more rounds, for a busy machine."""
    out: str | None = None
    """Where to write the result as JSON."""


def make_caption(generator: np.random.Generator) -> list[int]:
    """9 to 13 words, the commonest far commoner than the others, as in a language."""
    return (4 + generator.zipf(1.35, int(generator.integers(9, 14))) % VOCABULARY).tolist()


def alter(generator: np.random.Generator, caption: Sequence[int]) -> list[int]:
    """The caption with two words replaced: what a captioner says is near a reference."""
    altered = list(caption)
    for place in generator.integers(0, len(caption), 2):
        altered[place] = int(4 + generator.zipf(1.35) % VOCABULARY)
    return altered


def speed(references: list[list[list[int]]], table: DocumentFrequencies, samples: int, rounds: int) -> float:
    """Hypotheses/s of the fastest round; the packing of the hypotheses is measured, too."""
    generator, images = np.random.default_rng(1), IMAGES * CAPTIONS // samples
    chosen = references[:images]
    hypotheses = [alter(generator, own[s % REFERENCES]) for own in chosen for s in range(samples)]
    packed = [Packed.of(own) for own in chosen]
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        cider_d(Packed.of(hypotheses), samples, packed, table)
        seconds.append(time.perf_counter() - begun)
    return len(hypotheses) / min(seconds)


def reference_speed_and_difference(references: list[list[list[int]]]) -> tuple[float, float]:
    """Hypotheses/s of pycocoevalcap, and the largest difference from it."""
    generator = np.random.default_rng(2)
    hypotheses = [alter(generator, own[0]) for own in references]
    hypotheses[0], hypotheses[1] = [], [7]
    begun = time.perf_counter()
    scorer = CiderScorer()
    for hypothesis, own in zip(hypotheses, references, strict=True):
        scorer += (" ".join(map(str, hypothesis)), [" ".join(map(str, one)) for one in own])
    _, expected = scorer.compute_score()
    spent = time.perf_counter() - begun
    packed = [Packed.of(own) for own in references]
    found = cider_d(Packed.of(hypotheses), 1, packed, DocumentFrequencies.of(packed))[:, 0]
    return len(hypotheses) / spent, float(np.abs(found - expected).max())


def main() -> int:
    """Measure, print, write."""
    config = parse(Config, description=__doc__)
    generator = np.random.default_rng(0)
    references = [[make_caption(generator) for _ in range(REFERENCES)] for _ in range(DOCUMENTS)]
    table = DocumentFrequencies.of(Packed.of(own) for own in references)
    size, rounds = len(table), 3000 if config.full else 300
    in_training, one_each = (speed(references, table, samples, rounds) for samples in (CAPTIONS, 1))
    reference, difference = reference_speed_and_difference(references[:COMPARED])
    result = {
        "hypotheses_per_s": round(in_training),
        "one_each_per_s": round(one_each),
        "reference_per_s": round(reference),
        "max_abs_difference": difference,
        "table": size,
        "table_grew": len(table) - size,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    text = json.dumps(result)
    if config.out:
        Path(config.out).write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    run(main)
