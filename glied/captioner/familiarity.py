"""How familiar an image is to a captioner: whether it looks like the images that the captioner learned from.

The distance of an image from the training images is measured on its pooled region features: the Mahalanobis
distance along the leading principal components of the training images, plus the squared distance from the
space that these span, each divided by what an average training image has. Weighted like this, no part drowns
the other: the first alone misses drawings and documents, the second alone condemns close-ups. Familiarity is
the rank of that distance among those of the validation images, as a conformal p-value (Vovk et al. 2005); the
training images themselves would be a biased reference, because the components were fitted to them.

No torch here: drivers of bulk jobs import this module.

Shapes: ``R`` regions, ``F`` feature size, ``K`` components, ``M`` images.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from glied import storage
from glied.errors import UsageError

FILE = "familiarity.safetensors"
"""Beside a captioner's weights, and no part of their digest: it changes no caption."""
UNFAMILIAR = 0.01
"""An image whose familiarity is below this looks unlike the training images."""
LEAST_VALIDATION = 100
"""With fewer validation images no familiarity is below `UNFAMILIAR`."""
COMPONENTS = 64
_FORMAT = "glied-familiarity-1"
_LEAST_VARIANCE = 1e-6
"""Smallest variance of a component or of the rest, as a share of the mean variance of a feature value."""

Array = NDArray[np.float32]


def pooled(features: Array) -> Array:
    """[R, F] -> [F], the mean over the regions; for cells that is the feature of the whole image."""
    return features.mean(axis=0, dtype=np.float64).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Familiarity:
    """What the familiarity of images is computed from.

    Attributes:
        mean: [F] float32, of the training images' pooled features.
        directions: [K, F] float16, the principal components of these.
        variances: [K] float32, along the components.
        rest: [1] float32, the training images' mean squared distance from the space of the components.
        distances: [M] float32, of the validation images, ascending.
    """

    mean: Array
    directions: NDArray[np.float16]
    variances: Array
    rest: Array
    distances: Array

    @classmethod
    def fit(cls, training: Sequence[Array], validation: Sequence[Array]) -> "Familiarity":
        """From the pooled features of training and validation images, at least one of each.

        Images whose features are not finite must have been left out.
        """
        images = np.asarray(training, np.float64)  # [M, F]
        mean = images.mean(axis=0)
        centered = images - mean
        variances, directions = _principal(centered)
        total = centered.var(axis=0).sum() if len(images) > 1 else 0.0
        floor = _LEAST_VARIANCE * (total / len(mean) or 1.0)
        rest = total - variances.sum()
        fitted = cls(
            mean=mean.astype(np.float32),
            directions=directions.astype(np.float16),
            variances=np.maximum(variances, floor).astype(np.float32),
            rest=np.array([max(rest, floor)], np.float32),
            distances=np.empty(0, np.float32),
        )
        # As the stored numbers give them, so that rounding cannot move an image against its reference.
        distances = np.sort([fitted.distance(one) for one in validation]).astype(np.float32)
        return cls(fitted.mean, fitted.directions, fitted.variances, fitted.rest, distances)

    @cached_property
    def _directions(self) -> NDArray[np.float64]:
        return self.directions.astype(np.float64)

    @property
    def feature_size(self) -> int:
        """F."""
        return len(self.mean)

    def distance(self, feature: Array) -> np.float32:
        """Of an image with this pooled feature [F] from the training images; an average one has 2."""
        centered = feature.astype(np.float64) - self.mean
        along = self._directions @ centered
        outside = centered - along @ self._directions
        mahalanobis = (along**2 / self.variances).sum() / max(1, len(along))
        return np.float32(mahalanobis + (outside**2).sum() / self.rest[0])

    def __call__(self, features: Array) -> float:
        """The familiarity of an image with regions of these features [R, F], more than 0 and at most 1.

        It is the share of images that lie at least as far from the training images, counting the validation
        images and the image itself; so 1 / (M + 1) is the least there is.
        """
        nearer = int(np.searchsorted(self.distances, self.distance(pooled(features))))
        return (len(self.distances) - nearer + 1) / (len(self.distances) + 1)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what `save` writes, hexadecimal."""
        return hashlib.sha256(self._to_bytes()).hexdigest()

    def _to_bytes(self) -> bytes:
        tensors = {name: getattr(self, name) for name in _SHAPES}
        return safetensors.numpy.save(tensors, {"format": _FORMAT})

    def save(self, folder_uri: str) -> None:
        """Write it beside a captioner's weights."""
        storage.write_bytes(storage.join(folder_uri, FILE), self._to_bytes())


_SHAPES = {"mean": 1, "directions": 2, "variances": 1, "rest": 1, "distances": 1}
"""Dimensions of the stored arrays."""


def load_familiarity(folder_uri: str) -> Familiarity | None:
    """What `Familiarity.save` wrote beside a captioner's weights; None where there is nothing of it.

    Raises:
        UsageError: the file is broken.
    """
    try:
        data = storage.read_bytes(storage.join(folder_uri, FILE))
    except FileNotFoundError:
        return None
    try:
        arrays = safetensors.numpy.load(data)
        found = Familiarity(**{name: arrays[name] for name in _SHAPES})
        _check(found, data)
        return found
    except (SafetensorError, ValueError, KeyError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UsageError(f"{FILE} in {folder_uri} is broken: {reason}") from error


def _check(found: Familiarity, data: bytes) -> None:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if (format_ := header.get("__metadata__", {}).get("format")) != _FORMAT:
        raise ValueError(f"its format is {format_!r}, not {_FORMAT!r}")
    for name, dimensions in _SHAPES.items():
        if getattr(found, name).ndim != dimensions:
            raise ValueError(f"{name} has the shape {getattr(found, name).shape}")
    if found.directions.shape != (len(found.variances), len(found.mean)) or not len(found.distances):
        raise ValueError("its arrays do not fit each other")


def _principal(centered: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[M, F] -> variances [K] and directions [K, F] of the leading components."""
    count, size = centered.shape
    leading = min(COMPONENTS, count // 4, size // 2)  # more of them would be fitted to single images
    if count < size:  # the smaller of two matrices with the same eigenvalues
        values, vectors = np.linalg.eigh(centered @ centered.T / count)
        vectors = centered.T @ vectors / np.sqrt(np.maximum(values, 1e-300) * count)
    else:
        values, vectors = np.linalg.eigh(centered.T @ centered / count)
    order = np.argsort(-values)[:leading]
    order = order[values[order] > 1e-9 * max(values.max(initial=0.0), 1e-300)]
    return values[order], vectors[:, order].T
