"""CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726) with stored document frequencies, fast enough for training.

The scores equal those of the published implementation (pycocoevalcap's `cider`, which computes CIDEr-D:
clipped counts, a Gaussian penalty on the length difference with sigma 6, times 10).

Shapes: B images, S captions per image, R references, U distinct n-grams; see `glied.text.ngrams`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from glied import checkpoint
from glied.errors import UsageError
from glied.text.ngrams import ORDERS, Array, Hashes, Packed, count, distinct

KIND = "document-frequencies"
SIGMA = 6.0
_CHUNK = 20_000  # images whose n-grams are merged at once


@dataclass(frozen=True)
class DocumentFrequencies:
    """The number of images whose references contain each n-gram. Lookups never modify the table.

    Attributes:
        hashes: [n] n-gram hashes, ascending.
        counts: [n] int64, the number of images per n-gram.
        documents: total number of images.
    """

    hashes: Hashes
    counts: npt.NDArray[np.int64]
    documents: int

    @classmethod
    def of(cls, references: Iterable[Packed]) -> "DocumentFrequencies":
        """Count n-grams over the references of each image.

        Raises:
            UsageError: there are no images.
        """
        hashes, counts, documents = np.zeros(0, np.uint64), np.zeros(0, np.int64), 0
        pending: list[Hashes] = []
        for one in references:
            pending.append(distinct(one))
            documents += 1
            if len(pending) == _CHUNK:
                hashes, counts = _merge(hashes, counts, pending)
                pending = []
        if not documents:
            raise UsageError("document frequencies need the references of at least one image")
        return cls(*_merge(hashes, counts, pending), documents)

    def __len__(self) -> int:
        """Number of n-grams."""
        return len(self.hashes)

    @cached_property
    def _buckets(self) -> tuple[np.uint64, npt.NDArray[np.int32]]:
        """The shift that turns a hash into its bucket, and the first index of each bucket."""
        bits = len(self).bit_length() + 1
        edges = np.arange(2**bits, dtype=np.uint64) << np.uint64(64 - bits)
        return np.uint64(64 - bits), np.searchsorted(self.hashes, edges).astype(np.int32)

    @cached_property
    def _inverses(self) -> Array:
        """Inverse document frequency of each n-gram in the table, [n]."""
        return math.log(self.documents) - np.log(np.maximum(1, self.counts))

    def inverse(self, hashes: Hashes) -> Array:
        """Return log(documents / max(1, frequency)) of n-grams, [U] -> [U]."""
        shift, starts = self._buckets
        inverses, pending = np.full(len(hashes), math.log(self.documents)), np.arange(len(hashes))
        position = starts[(hashes >> shift).astype(np.int64)]
        while len(pending):  # one or two probes settle nearly all n-grams
            inside = position < len(self)
            pending, position, hashes = pending[inside], position[inside], hashes[inside]
            stored = self.hashes[position]
            hit = stored == hashes
            inverses[pending[hit]] = self._inverses[position[hit]]
            unsettled = stored < hashes
            pending, position, hashes = pending[unsettled], position[unsettled] + 1, hashes[unsettled]
        return inverses

    def save(self, folder_uri: str, **metadata: str) -> None:
        """Write a checkpoint folder; `metadata` identifies the captions that were counted."""
        tensors = {
            "hashes": torch.from_numpy(self.hashes.view(np.int64)),
            "counts": torch.from_numpy(self.counts),
        }
        checkpoint.save(folder_uri, tensors, metadata | {"kind": KIND, "documents": self.documents})

    @classmethod
    def load(cls, folder_uri: str, **metadata: str) -> "DocumentFrequencies":
        """Load a table that `save` wrote.

        Raises:
            UsageError: there is no table, or it was counted over other captions than `metadata` says.
        """
        try:
            stored = checkpoint.load(folder_uri, KIND)
        except UsageError as error:
            raise UsageError(f"{error}; jobs/prepare_cider.py makes it") from error
        for name, value in metadata.items():
            found = stored.metadata.get(name, "")
            if found != value:
                difference = f"{name} {found[:12]}, this run has {value[:12]}"
                raise UsageError(
                    f"{folder_uri} was counted with {difference}: rebuild it with jobs/prepare_cider.py"
                )
        hashes = stored.tensors["hashes"].numpy().view(np.uint64)
        return cls(hashes, stored.tensors["counts"].numpy(), stored.metadata["documents"])


def cider_d(
    hypotheses: Packed, samples: int, references: Sequence[Packed], frequencies: DocumentFrequencies
) -> Array:
    """Return the CIDEr-D of captions, [B, S] float64 from 0 to 10.

    Args:
        hypotheses: B * S captions as word ids, grouped by image.
        samples: S, the number of captions per image.
        references: the references of each image, at least one.
        frequencies: document frequencies, counted with the same word ids.
    """
    counts = count(hypotheses, samples, references)
    weights = counts.counts * frequencies.inverse(counts.hashes)[:, None]  # [U, S + R]
    norms = np.sqrt(counts.sum(weights**2))  # [B, N, S + R]
    ours, theirs = weights[:, :samples], weights[:, samples:]
    side = (np.arange(weights.shape[1]) < samples).astype(np.float64)
    shared = np.flatnonzero((weights @ side > 0) & (weights @ (1 - side) > 0))
    ours, theirs = ours[shared, :, None], theirs[shared, None]
    similarity = counts.sum(np.minimum(ours, theirs) * theirs, shared)  # [B, N, S, R]
    norm = norms[:, :, :samples, None] * norms[:, :, None, samples:]
    similarity = np.divide(similarity, norm, out=np.zeros_like(similarity), where=norm > 0)
    bigrams = np.maximum(counts.lengths - 1, 0)  # the published code uses these as lengths
    difference = bigrams[:, :samples, None] - bigrams[:, None, samples:]
    similarity = similarity.sum(axis=1) * np.exp(-(difference**2) / (2 * SIGMA**2))  # [B, S, R]
    number = counts.real[:, samples:].sum(axis=1, keepdims=True)
    assert number.all(), "an image without references"
    return 10 / ORDERS * similarity.sum(axis=2) / number


def _merge(
    hashes: Hashes, counts: npt.NDArray[np.int64], documents: Sequence[Hashes]
) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Add 1 to the count of every hash for each document that contains it."""
    new, times = np.unique(np.concatenate([hashes[:0], *documents]), return_counts=True)
    every, place = np.unique(np.concatenate([hashes, new]), return_inverse=True)
    total = np.bincount(place, np.concatenate([counts, times]), minlength=len(every))
    return every, total.astype(np.int64)
