"""Measure the speed of the CIDEr-D reward on one core, and compare its values with pycocoevalcap's.

python benchmarks/cider.py --out cider.json

The workload is that of training: batches of 50 images with 5 samples and a greedy caption each, 5 references
of about 11 words, and a table of about 400,000 n-grams. Every call counts the references' n-grams again;
encoding text as token ids is not included. `one_each_per_s` is the speed with one caption per image. The
reference implementation cannot be given a table of document frequencies, so the comparison uses those of the
compared images for both.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.measurement import machine, print_result
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
    """Ten times as many rounds, for a busy machine."""
    out: str | None = None
    """File for the result as JSON."""


def make_caption(generator: np.random.Generator) -> list[int]:
    """Draw the token ids of 9 to 13 words with Zipf-distributed frequencies."""
    return (4 + generator.zipf(1.35, int(generator.integers(9, 14))) % VOCABULARY).tolist()


def alter(generator: np.random.Generator, caption: Sequence[int]) -> list[int]:
    """Replace two words of a caption, so that a hypothesis resembles a reference."""
    altered = list(caption)
    for place in generator.integers(0, len(caption), 2):
        altered[place] = int(4 + generator.zipf(1.35) % VOCABULARY)
    return altered


def speed(references: list[list[list[int]]], table: DocumentFrequencies, samples: int, rounds: int) -> float:
    """Return the hypotheses/s of the fastest round, including the packing of the hypotheses."""
    generator, images = np.random.default_rng(1), IMAGES * CAPTIONS // samples
    chosen = references[:images]
    hypotheses = [alter(generator, own[s % REFERENCES]) for own in chosen for s in range(samples)]
    packed = [Packed.of(own) for own in chosen]
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        cider_d(Packed.of(hypotheses), samples, packed, table)
        seconds.append(time.perf_counter() - start)
    return len(hypotheses) / min(seconds)


def reference_speed_and_difference(references: list[list[list[int]]]) -> tuple[float, float]:
    """Return the hypotheses/s of pycocoevalcap, and the largest difference between its values and ours."""
    generator = np.random.default_rng(2)
    hypotheses = [alter(generator, own[0]) for own in references]
    hypotheses[0], hypotheses[1] = [], [7]
    start = time.perf_counter()
    scorer = CiderScorer()
    for hypothesis, own in zip(hypotheses, references, strict=True):
        scorer += (" ".join(map(str, hypothesis)), [" ".join(map(str, one)) for one in own])
    _, expected = scorer.compute_score()
    seconds = time.perf_counter() - start
    packed = [Packed.of(own) for own in references]
    ours = cider_d(Packed.of(hypotheses), 1, packed, DocumentFrequencies.of(packed))[:, 0]
    return len(hypotheses) / seconds, float(np.abs(ours - expected).max())


def main() -> int:
    """Measure and print the figures."""
    config = parse(Config, description=__doc__)
    generator = np.random.default_rng(0)
    references = [[make_caption(generator) for _ in range(REFERENCES)] for _ in range(DOCUMENTS)]
    table = DocumentFrequencies.of(Packed.of(own) for own in references)
    size, rounds = len(table), 3000 if config.full else 300
    in_training, one_each = (speed(references, table, samples, rounds) for samples in (CAPTIONS, 1))
    reference, difference = reference_speed_and_difference(references[:COMPARED])
    figures = {
        "hypotheses_per_s": round(in_training),
        "one_each_per_s": round(one_each),
        "reference_per_s": round(reference),
        "max_abs_difference": difference,
        "table": size,
        "table_grew": len(table) - size,
        "machine": machine(),
    }
    print_result(figures, config.out)
    return 0


if __name__ == "__main__":
    run(main)
