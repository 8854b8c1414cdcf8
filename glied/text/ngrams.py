"""N-gram counts of captions and their references, computed for a whole batch at once in numpy.

Each n-gram is identified by a 64-bit hash of its words, so counting is one sort and no n-gram becomes a
Python object. In a batch of 256 images, 54 bits distinguish the n-grams of one image: the probability that
two of its few hundred n-grams collide is below 1e-11.

Shapes: B images, S captions (hypotheses) per image, R references of the image that has the most, C = S + R;
U distinct n-grams over all images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

ORDERS = 4
"""The longest n-grams that are counted, in words."""

Tokens = Sequence[int]
"""A caption as word ids."""
Array = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Packed:
    """Captions concatenated into one array, which is cheap to store and to join.

    Attributes:
        tokens: [T] int64, word ids of all captions.
        lengths: int64, number of words of each caption; may be 0.
    """

    tokens: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    @classmethod
    def of(cls, captions: Sequence[Tokens]) -> "Packed":
        """Pack `captions`."""
        lengths = np.fromiter(map(len, captions), np.int64, len(captions))
        return cls(np.fromiter(chain.from_iterable(captions), np.int64, int(lengths.sum())), lengths)

    @classmethod
    def join(cls, parts: Sequence["Packed"]) -> "Packed":
        """Concatenate the captions of `parts`, in order."""
        return cls(np.concatenate([p.tokens for p in parts]), np.concatenate([p.lengths for p in parts]))


@dataclass(frozen=True)
class Counts:
    """How often each n-gram occurs in each caption and each reference of its image.

    Attributes:
        hashes: [U].
        counts: [U, C] float64, hypotheses first; 0 in the columns of references that an image lacks.
        starts: rows at which a new segment, the n-grams of one image and order, begins.
        segments: image * ORDERS + order - 1 of each segment.
        lengths: [B, C] int64, in words.
        real: [B, C], False for references that an image lacks.
    """

    hashes: Hashes
    counts: Array
    starts: npt.NDArray[np.int64]
    segments: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    real: npt.NDArray[np.bool_]

    def sum(self, values: Array, rows: npt.NDArray[np.int64] | None = None) -> Array:
        """Sum over the n-grams of each image and order, [U, ...] -> [B, ORDERS, ...].

        `rows` (ascending) selects the n-grams that `values` belong to; None means all of them.
        """
        starts, segments = self.starts, self.segments
        if rows is not None:
            segments = segments[np.searchsorted(starts, rows, side="right") - 1]
            starts = np.flatnonzero(np.diff(segments, prepend=-1))
            segments = segments[starts]
        sums = np.zeros((len(self.lengths) * ORDERS, *values.shape[1:]))
        if len(starts):
            sums[segments] = np.add.reduceat(values, starts, axis=0)
        return sums.reshape(len(self.lengths), ORDERS, *values.shape[1:])


def count(hypotheses: Packed, samples: int, references: Sequence[Packed]) -> Counts:
    """Count the n-grams of B images.

    Args:
        hypotheses: B * S captions, grouped by image.
        samples: S, the number of captions per image.
        references: the references of each image.
    """
    numbers = np.array([len(one.lengths) for one in references], np.int64)
    images, columns = len(references), samples + int(numbers.max(initial=0))
    every = Packed.join([hypotheses, *references])
    image = np.concatenate(
        [np.repeat(np.arange(images), samples), np.repeat(np.arange(images), numbers)]
    )  # of each caption
    ends = numbers.cumsum()
    of_image = np.arange(numbers.sum()) - np.repeat(ends - numbers, numbers)
    column = np.concatenate([np.tile(np.arange(samples), images), samples + of_image])
    lengths, real = np.zeros((images, columns), np.int64), np.zeros((images, columns), np.bool_)
    lengths[image, column], real[image, column] = every.lengths, True

    hashes, order, caption = _occurrences(every)
    bits = np.uint64(max(1, int(images * ORDERS - 1).bit_length()))
    segment = (image[caption] * ORDERS + order).astype(np.uint64)
    keys = segment << (np.uint64(64) - bits) | hashes >> bits
    sort = np.argsort(keys)
    keys = keys[sort]
    first = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    row, firsts = first.cumsum() - 1, np.flatnonzero(first)
    counts = np.bincount(row * columns + column[caption][sort], minlength=len(firsts) * columns)
    segments = (keys[firsts] >> (np.uint64(64) - bits)).astype(np.int64)
    starts = np.flatnonzero(np.diff(segments, prepend=-1))
    return Counts(
        hashes=hashes[sort[firsts]],
        counts=counts.reshape(len(firsts), columns).astype(np.float64),
        starts=starts,
        segments=segments[starts],
        lengths=lengths,
        real=real,
    )


def distinct(captions: Packed) -> Hashes:
    """Return the hashes of all distinct n-grams of `captions`."""
    return np.unique(_occurrences(captions)[0])


def _occurrences(captions: Packed) -> tuple[Hashes, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return hash, order - 1 and caption index of every n-gram occurrence."""
    tokens = captions.tokens.astype(np.uint64)
    caption = np.repeat(np.arange(len(captions.lengths)), captions.lengths)
    left = np.repeat(captions.lengths.cumsum(), captions.lengths) - np.arange(len(tokens))
    hashes, occurrences = np.zeros(len(tokens), np.uint64), []
    for order in range(min(ORDERS, len(tokens))):
        hashes = _mix(hashes[: len(tokens) - order] + tokens[order:])
        starts = np.flatnonzero(left[: len(hashes)] > order)
        occurrences.append((hashes[starts], np.full(len(starts), order), caption[starts]))
    if not occurrences:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    all_hashes, orders, captions_ = zip(*occurrences, strict=True)
    return np.concatenate(all_hashes), np.concatenate(orders), np.concatenate(captions_)


def _mix(values: Hashes) -> Hashes:
    """Apply the 64-bit bijection of splitmix64, in which every output bit depends on every input bit."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
