"""Paired bootstrap over images: is one set of captions better than another, or lucky? (Koehn 2004)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
BLOCK = 1 << 22
"""Weights held at a time; 32 MiB."""


@dataclass(frozen=True)
class Difference:
    """A statistic of two systems on the same images, and how sure the difference is.

    Attributes:
        first: value of the first system.
        second: value of the second.
        difference: second - first.
        low: lower end of the difference's confidence interval.
        high: its upper end.
        p: two-sided p-value of no difference; never below 2 / (resamples + 1).
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float


def mean(totals: Array, images: int) -> Array:
    """The statistic of values that are averaged over images: totals [R, 1] to means [R]."""
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
    """Draw the images anew with replacement, the same ones for both systems, and look at the differences.

    The interval is the percentile interval; p is twice the share of resamples on the far side of 0, with one
    added to count and number (Davison and Hinkley 1997, chapter 4). The same seed draws the same images.

    Args:
        first: values of the first system, [N], or [N, K] for statistics of K sums, such as BLEU's counts.
        second: values of the second system for the same images in the same order.
        statistic: from sums over drawn images [R, K], and how many were drawn, to values [R].
        resamples: how often the images are drawn.
        seed: of the draws.
        confidence: of the interval, between 0 and 1.
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
    """How often each image is drawn in each resample, [some resamples, images], until all have been."""
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // images)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        draws = generator.integers(0, images, size=(size, images))
        draws += images * np.arange(size)[:, None]  # one count over all resamples of the block
        counts = np.bincount(draws.ravel(), minlength=size * images)
        yield counts.reshape(size, images).astype(np.float64)
