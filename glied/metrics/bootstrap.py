"""Paired bootstrap over images, a significance test for the difference of two systems (Koehn 2004).

`bootstrap_over_seeds` also draws the trainings of each system, which differ by their random seeds.
"""

from collections.abc import Callable, Iterator, Sequence
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


Statistic = Callable[[Array, int], Array]
"""Maps sums over the drawn images [R, K] and their number to values [R]."""


def mean(totals: Array, images: int) -> Array:
    """Average over images, the default statistic: totals [R, 1] -> means [R]."""
    return totals[:, 0] / images


def paired_bootstrap(
    first: Array,
    second: Array,
    statistic: Statistic = mean,
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
        statistic: of the sums over the drawn images.
        resamples: number of resamples.
        seed: seed of the resampling.
        confidence: confidence level of the interval, between 0 and 1.
    """
    return bootstrap_over_seeds(
        [first], [second], statistic, resamples=resamples, seed=seed, confidence=confidence
    )


def bootstrap_over_seeds(
    first: Sequence[Array],
    second: Sequence[Array],
    statistic: Statistic = mean,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """Compare two systems that were trained several times: resample the images, and each system's trainings.

    The images are the same for all trainings. Of S trainings, S - 1 are drawn with replacement, independently
    for each system: their mean then varies as much as that of S new trainings (Rao and Wu 1988), whereas the
    mean of S draws varies less. One training is always itself, which is the paired bootstrap over images.

    Args:
        first: values of the first system for each training, [N] or [N, K], as in `paired_bootstrap`.
        second: values of the second system; the number of trainings may differ.
        statistic: of the sums over the drawn images, averaged over the drawn trainings.
        resamples: number of resamples.
        seed: seed of the resampling.
        confidence: confidence level of the interval, between 0 and 1.
    """
    systems = [np.stack([one.reshape(len(one), -1) for one in runs]) for runs in (first, second)]
    assert systems[0].shape[1:] == systems[1].shape[1:], (
        f"{systems[0].shape} and {systems[1].shape}: not the same images"
    )
    count = systems[0].shape[1]
    generators = [np.random.default_rng([seed, number]) for number in (1, 2)]
    differences = np.concatenate(
        [
            np.diff(
                [
                    statistic(_drawn(runs, images, generator), count)
                    for runs, generator in zip(systems, generators, strict=True)
                ],
                axis=0,
            )[0]
            for images in _weights(count, resamples, seed)
        ]
    )
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(differences, [tail, 100 - tail])
    smaller = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    totals = [runs.mean(axis=0).sum(axis=0, keepdims=True) for runs in systems]
    values = [float(statistic(total, count)[0]) for total in totals]
    return Difference(
        first=values[0],
        second=values[1],
        difference=values[1] - values[0],
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * (1 + int(smaller)) / (resamples + 1)),
    )


def _drawn(runs: Array, images: Array, generator: np.random.Generator) -> Array:
    """Return the sums over drawn images [R, N] of trainings [S, N, K], averaged over drawn ones: [R, K]."""
    trainings, resamples = len(runs), len(images)
    draws = max(1, trainings - 1)
    shares = generator.multinomial(draws, [1 / trainings] * trainings, size=resamples) / draws
    return np.einsum("rs,srk->rk", shares, images @ runs)


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
