"""Paired bootstrap over images, a significance test for the difference of two systems (Koehn 2004)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
BLOCK = 1 << 22
"""Weights in memory at a time; 32 MiB."""


@dataclass(frozen=True)
class Difference:
    """A statistic of two systems on the same images, with the confidence interval of the difference.

    Attributes:
        first: value of the first system.
        second: value of the second.
        difference: second - first.
        low: lower end of the difference's confidence interval.
        high: upper end of the interval.
        p: two-sided p-value of no difference; at least 2 / (resamples + 1).
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float


def mean(totals: Array, images: int) -> Array:
    """Average over images, the default statistic: totals [R, 1] -> means [R]."""
    return totals[:, 0] / images


def paired_bootstrap(
    first: Array,
    second: Array,
    statistic: Callable[[Array, int], Array] = mean,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """Resample the images with replacement, the same ones for both systems, and compare the statistics.

    The interval is the percentile interval. p is twice the share of resamples on the far side of 0, with 1
    added to numerator and denominator (Davison and Hinkley 1997, chapter 4). The same seed draws the same
    images.

    Args:
        first: values of the first system, [N], or [N, K] for statistics of K sums, such as BLEU's counts.
        second: values of the second system for the same images in the same order.
        statistic: maps sums over the drawn images [R, K] and their number to values [R].
        resamples: number of resamples.
        seed: seed of the resampling.
        confidence: confidence level of the interval, between 0 and 1.
    """
    one, two = (values.reshape(len(values), -1) for values in (first, second))
    assert one.shape == two.shape, f"{one.shape} and {two.shape}: not the same images"
    count = len(one)
    differences = np.concatenate(
        [
            statistic(drawn @ two, count) - statistic(drawn @ one, count)
            for drawn in _weights(count, resamples, seed)
        ]
    )
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(differences, [tail, 100 - tail])
    smaller = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    values = [float(statistic(part.sum(axis=0, keepdims=True), count)[0]) for part in (one, two)]
    return Difference(
        first=values[0],
        second=values[1],
        difference=values[1] - values[0],
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * (1 + int(smaller)) / (resamples + 1)),
    )


def _weights(images: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield how often each image is drawn, [resamples, images], in blocks of resamples."""
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // images)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        draws = generator.integers(0, images, size=(size, images))
        draws += images * np.arange(size)[:, None]  # so that one bincount covers all resamples of the block
        counts = np.bincount(draws.ravel(), minlength=size * images)
        yield counts.reshape(size, images).astype(np.float64)
