"""N-grams of captions and their references, counted for a whole batch at once in numpy.

An n-gram is known by a 64-bit hash of its words, so that counting is one sort and no n-gram is ever built as
a Python object. Within an image of a batch of 256, 54 of the bits tell n-grams apart: two of its few hundred
n-grams fall together with a probability below 1e-11.

Shapes: B images, S captions (hypotheses) of an image, R references of the image that has most, C = S + R;
U distinct n-grams of all images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

ORDERS = 4
"""N-grams of 1 to so many words are counted."""

Tokens = Sequence[int]
"""A caption as word ids."""
Array = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Packed:
    """Captions laid end to end: cheap to keep and to put together.

    Attributes:
        tokens: [T] int64, word ids of all captions.
        lengths: int64, words of each caption; one may be empty.
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
        """All captions of `parts`, in order."""
        return cls(np.concatenate([p.tokens for p in parts]), np.concatenate([p.lengths for p in parts]))


@dataclass(frozen=True)
class Counts:
    """How often each n-gram stands in each caption and reference of its image.

    Attributes:
        hashes: [U].
        counts: [U, C] float64, hypotheses first; 0 where an image has fewer references than R.
        starts: rows at which the n-grams of another image or order begin.
        segments: image * ORDERS + order - 1 of each of them.
        lengths: [B, C] int64, words.
        real: [B, C], False where an image has fewer references.
    """

    hashes: Hashes
    counts: Array
    starts: npt.NDArray[np.int64]
    segments: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    real: npt.NDArray[np.bool_]

    def sum(self, values: Array, rows: npt.NDArray[np.int64] | None = None) -> Array:
        """Sums over the n-grams of each image and order, [U, ...] -> [B, ORDERS, ...].

        `rows` (ascending) are the n-grams that `values` are of; None for all.
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
        hypotheses: B * S captions, those of an image in a row.
        samples: S.
        references: of each image.
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
    """The hashes of all n-grams of `captions`, each once."""
    return np.unique(_occurrences(captions)[0])


def _occurrences(captions: Packed) -> tuple[Hashes, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Hash, order - 1 and caption of every n-gram that stands anywhere."""
    tokens = captions.tokens.astype(np.uint64)
    caption = np.repeat(np.arange(len(captions.lengths)), captions.lengths)
    left = np.repeat(captions.lengths.cumsum(), captions.lengths) - np.arange(len(tokens))
    hashes, found = np.zeros(len(tokens), np.uint64), []
    for order in range(min(ORDERS, len(tokens))):
        hashes = _mix(hashes[: len(tokens) - order] + tokens[order:])
        here = np.flatnonzero(left[: len(hashes)] > order)
        found.append((hashes[here], np.full(len(here), order), caption[here]))
    if not found:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    all_hashes, orders, captions_ = zip(*found, strict=True)
    return np.concatenate(all_hashes), np.concatenate(orders), np.concatenate(captions_)


def _mix(values: Hashes) -> Hashes:
    """A bijection of 64 bits in which every bit depends on every other (splitmix64's)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
