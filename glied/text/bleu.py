"""Sentence BLEU-4 as a reward, smoothed as in Lin and Och (2004): for n > 1, add one to both counts.

Without smoothing most captions would score 0. The brevity penalty uses the reference whose length is closest
to the caption's, and the shorter one if two are equally close.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from glied.text.ngrams import ORDERS, Array, Packed, count

Integers = npt.NDArray[np.int64]


def bleu_4(hypotheses: Packed, samples: int, references: Sequence[Packed]) -> Array:
    """Return the BLEU-4 of captions, [B, S] float64 from 0 to 1; 0 for a caption that shares no word.

    Args:
        hypotheses: B * S captions as word ids, grouped by image.
        samples: S, the number of captions per image.
        references: the references of each image, at least one.
    """
    counts = count(hypotheses, samples, references)
    ours, most = counts.counts[:, :samples], counts.counts[:, samples:].max(axis=1, keepdims=True)
    matched = counts.sum(np.minimum(ours, most))  # [B, N, S]
    added = (np.arange(ORDERS) > 0)[None, :, None]
    lengths = counts.lengths[:, None, :samples]  # [B, 1, S]
    present = np.maximum(lengths - np.arange(ORDERS)[None, :, None], 0)
    precision = (matched + added) / np.maximum(present + added, 1)
    with np.errstate(divide="ignore"):
        score = np.exp(np.log(precision).mean(axis=1))  # [B, S]
    return score * _brevity(
        counts.lengths[:, :samples], counts.lengths[:, samples:], counts.real[:, samples:]
    )


def _brevity(lengths: Integers, references: Integers, real: npt.NDArray[np.bool_]) -> Array:
    """Compute min(1, exp(1 - closest reference length / length)): [B, S], [B, R], [B, R] -> [B, S]."""
    distance = np.abs(references[:, None] - lengths[..., None]).astype(np.float64)  # [B, S, R]
    distance += 1e-3 * (references[:, None] > lengths[..., None])  # ties go to the shorter reference
    distance[~np.broadcast_to(real[:, None], distance.shape)] = np.inf
    closest = np.take_along_axis(references, distance.argmin(axis=2), axis=1)
    return np.exp(np.minimum(0.0, 1 - closest / np.maximum(lengths, 1)))
