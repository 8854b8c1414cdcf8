"""Familiarity of an image to a captioner: whether it resembles the captioner's training images.

Three distances are computed from an image's region features. Two measure its deviation from linear relations
that hold for nearly every training image: the principal components of *lowest* variance, in units of that
variance. Images from another domain violate them, even if their leading components look normal. One is of the
mean over the image's regions, the other of the mean and second moment of those features that the others
predict best. The third is the inverse of the features' contrast, their standard deviation within a region:
features respond weakly to what they were not trained on (Yu et al. 2023, "Block Selection Method for Using
Feature Norm in Out-of-Distribution Detection"). The logarithms of the distances are scaled (0 is the median
of the validation images, 1 their 99 % quantile) and added. Familiarity is the rank of that sum among those of
the validation images, which is a conformal p-value (Vovk et al. 2005). The training images would be a biased
reference, because the components were fitted to them.

Files of an earlier format have three distances of single regions in place of the contrast. They are still
evaluated, so that captioners and unfinished runs of that version keep their values.

This module does not import torch, because the drivers of bulk jobs import it.

Shapes: ``R`` regions, ``F`` feature size, ``V`` values of a statistic, ``K`` relations, ``M`` images.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from glied import shipped, storage
from glied.errors import UsageError

FILE = "familiarity.safetensors"
"""File beside a captioner's weights. It does not affect captions and is not part of the weights' digest."""
UNFAMILIAR = 0.01
"""Images with a lower familiarity count as unlike the training images."""
LEAST_VALIDATION = 100
"""With fewer validation images, no familiarity is below `UNFAMILIAR`."""
RELATIONS = 20
"""Number of components of lowest variance."""
WEIGHTS = np.array([1, 0.5, 1])
"""Weights of the distances in their sum."""
PREDICTABLE = 192
"""Number of feature values whose second moment is used."""
_FORMAT = "glied-familiarity-2"
_EARLIER_FORMAT = "glied-familiarity-1"
_EARLIER_WEIGHTS = np.array([1, 1, 1, 1, 0.5])
_EARLIER_RELATIONS = (10, 25, 40)
"""Numbers of components used for single regions: for two the 10 % quantile counts, for one the minimum."""
_LEAST_VARIANCE = 1e-5
"""Components of lower variance, relative to that of a value, are rounding errors or constant values."""
_LEAST_SCALE = 1e-3
"""Smallest standard deviation used for scaling, relative to the mean one."""
_LEAST_DISTANCE = 1e-9
_CHUNK = 4096

Array = NDArray[np.float32]
Exact = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Relations:
    """Linear relations between values that hold approximately for the values they were fitted to.

    Attributes:
        mean: [V] float32.
        scale: [V] float32, standard deviations.
        directions: [K, V] float16, for standardized values, lowest variance first.
        variances: [K] float32, variances along the directions.
    """

    mean: Array
    scale: Array
    directions: NDArray[np.float16]
    variances: Array

    @cached_property
    def _directions(self) -> Exact:
        return self.directions.T.astype(np.float64)

    def deviations(self, values: NDArray[np.floating]) -> Exact:
        """Return the squared deviations from the relations, in variances: [..., V] -> [..., K]."""
        along = ((values.astype(np.float64) - self.mean) / self.scale) @ self._directions
        return np.asarray(along**2 / self.variances)


class _Spectrum(NamedTuple):
    """Principal components of standardized values, in ascending order of variance."""

    mean: Exact
    scale: Exact
    covariance: Exact
    variances: Exact
    components: Exact  # [V, V], one per column

    def _live(self) -> NDArray[np.intp]:
        """Return the components that vary; all of them if none does, as for identical images."""
        live = np.flatnonzero(self.variances > _LEAST_VARIANCE)
        return live if len(live) else np.arange(len(self.variances))

    def relations(self, count: int) -> Relations:
        directions = self.components[:, self._live()[:count]].T.astype(np.float16)
        exact = directions.astype(np.float64)
        variances = ((exact @ self.covariance) * exact).sum(axis=1)  # of the stored directions
        return Relations(
            self.mean.astype(np.float32),
            self.scale.astype(np.float32),
            directions,
            np.maximum(variances, _LEAST_VARIANCE).astype(np.float32),
        )

    def predictable(self, count: int) -> NDArray[np.int32]:
        """Return the indices of the values with the lowest variance given all others, ascending."""
        live = self._live()
        variances = np.maximum(self.variances[live], _LEAST_VARIANCE)
        precision = (self.components[:, live] ** 2 / variances).sum(axis=1)
        return np.sort(np.argsort(-precision, kind="stable")[:count]).astype(np.int32)


def _spectrum(values: NDArray[np.floating]) -> _Spectrum:
    """Compute the principal components of values [M, V]."""
    mean = values.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((len(mean), len(mean)))
    for start in range(0, len(values), _CHUNK):
        centered = values[start : start + _CHUNK] - mean
        covariance += centered.T @ centered
    covariance /= len(values)
    deviations = np.sqrt(np.diag(covariance))
    scale = np.maximum(deviations, _LEAST_SCALE * deviations.mean() or 1.0)
    covariance /= np.outer(scale, scale)
    return _Spectrum(mean, scale, covariance, *np.linalg.eigh(covariance))


def _moments(features: NDArray[np.floating]) -> Exact:
    """Return the means of the values and of their squares, [R, F] -> [2, F]."""
    exact = features.astype(np.float64)
    return np.stack([exact.mean(axis=0), (exact**2).mean(axis=0)])


def _chosen(moments: NDArray[np.floating], columns: NDArray[np.int32]) -> NDArray[np.floating]:
    """Select both moments of the features `columns`, [..., 2, F] -> [..., V]."""
    selected = moments[..., columns]
    return selected.reshape(*selected.shape[:-2], -1)


@dataclass(frozen=True, eq=False)
class Familiarity:
    """The fitted statistics that rate the familiarity of images.

    Attributes:
        image: relations between the means over the regions of an image; V is F.
        moment: relations between means and second moments of the features `columns`; V is twice their number.
        columns: int32, indices of the features whose moments are used.
        median: [3] float32, medians of the log distances of the validation images.
        spread: [3] float32, their 99 % quantiles minus the medians.
        distances: [M] float32, summed distances of the validation images, ascending.
        region: in files of the earlier format, relations between the features of a region; V is F. There are
            five distances then.
    """

    image: Relations
    moment: Relations
    columns: NDArray[np.int32]
    median: Array
    spread: Array
    distances: Array
    region: Relations | None = None

    @classmethod
    def fit(cls, training: Iterable[Array], validation: Iterable[Array]) -> "Familiarity":
        """Fit to the region features [R, F] of at least one training and one validation image.

        The caller leaves out images without regions and images whose features are not finite.
        """
        fitted = cls._related(np.stack([_moments(image).astype(np.float32) for image in training]))
        logs = np.stack([fitted._logs(image) for image in validation])
        median = np.median(logs, axis=0)
        spread = np.maximum(np.quantile(logs, 0.99, axis=0) - median, 1e-6)
        return fitted._ranking(median.astype(np.float32), spread.astype(np.float32), logs)

    @classmethod
    def _related(cls, moments: Array) -> "Familiarity":
        """Fit the relations to `moments` [M, 2, F]."""
        means = _spectrum(moments[:, 0])
        columns = means.predictable(PREDICTABLE)
        return cls(
            image=means.relations(RELATIONS),
            moment=_spectrum(np.asarray(_chosen(moments, columns), np.float32)).relations(RELATIONS),
            columns=columns,
            median=np.zeros(len(WEIGHTS), np.float32),
            spread=np.ones(len(WEIGHTS), np.float32),
            distances=np.empty(0, np.float32),
        )

    def _ranking(self, median: Array, spread: Array, logs: Exact) -> "Familiarity":
        """Return a copy with the reference distances of images whose log distances are `logs` [M, 3]."""
        scaled = replace(self, median=median, spread=spread)
        # Use the rounded values that are stored, so that rounding cannot change an image's rank.
        distances = np.sort(np.array([scaled._sum(one) for one in logs], np.float32))
        return replace(scaled, distances=distances)

    @property
    def feature_size(self) -> int:
        """F, the size of the region features."""
        return len(self.image.mean)

    @property
    def _weights(self) -> NDArray[np.float64]:
        return WEIGHTS if self.region is None else _EARLIER_WEIGHTS

    def _logs(self, features: Array) -> Exact:
        """Return the logarithms of the distances, [R, F] -> [3], or [5] in the earlier format."""
        moments = _moments(features)
        distances = [
            self.image.deviations(moments[0]).mean(),
            self.moment.deviations(_chosen(moments, self.columns)).mean(),
        ]
        if self.region is None:
            distances.append(1 / max(features.std(axis=1, dtype=np.float64).mean(), _LEAST_DISTANCE))
        else:
            distances += _earlier_distances(self.region.deviations(features))
        return np.log(np.maximum(distances, _LEAST_DISTANCE))

    def _sum(self, logs: Exact) -> np.float32:
        return np.float32(((logs - self.median) / self.spread) @ self._weights)

    def distance(self, features: Array) -> np.float32:
        """Return the distance from the training images of an image with region features [R, F].

        Median about 0.
        """
        return self._sum(self._logs(features)) if len(features) else np.float32(np.inf)

    def __call__(self, features: Array) -> float:
        """Return the familiarity of an image with region features [R, F], in (0, 1].

        This is the share of images, among the validation images and the image itself, whose distance from the
        training images is at least as large; the minimum is therefore 1 / (M + 1).
        """
        nearer = int(np.searchsorted(self.distances, self.distance(features)))
        return (len(self.distances) - nearer + 1) / (len(self.distances) + 1)

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the file that `save` writes."""
        return hashlib.sha256(self._to_bytes()).hexdigest()

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        parts = {
            f"{name}.{one.name}": getattr(relations, one.name)
            for name, relations in self._relations().items()
            for one in fields(Relations)
        }
        return parts | {name: getattr(self, name) for name in _PLAIN}

    def _relations(self) -> dict[str, Relations]:
        earlier = {} if self.region is None else {"region": self.region}
        return {"image": self.image, "moment": self.moment} | earlier

    def _to_bytes(self) -> bytes:
        arrays = {name: np.ascontiguousarray(array) for name, array in self._arrays().items()}
        return safetensors.numpy.save(arrays, {"format": _FORMAT if self.region is None else _EARLIER_FORMAT})

    def save(self, folder_uri: str) -> None:
        """Write the file beside a captioner's weights."""
        storage.write_bytes(storage.join(folder_uri, FILE), self._to_bytes())


_PLAIN = ("columns", "median", "spread", "distances")


def _earlier_distances(deviations: Exact) -> list[float]:
    """Return the three distances of single regions from their deviations [R, K]."""
    few, some, many = (deviations[:, :count].mean(axis=1) for count in _EARLIER_RELATIONS)
    return [np.quantile(few, 0.1), np.quantile(some, 0.1), many.min()]


def load_familiarity(folder_uri: str) -> Familiarity | None:
    """Load what `Familiarity.save` wrote beside a captioner's weights; None if there is no file.

    Raises:
        UsageError: the file is broken.
    """
    try:
        data = storage.read_bytes(storage.join(shipped.locate(folder_uri), FILE))
    except FileNotFoundError:
        return None
    try:
        names = _NAMES[_format(data)]
        found = _from_arrays(safetensors.numpy.load(data), names)
        _check(found)
        return found
    except (SafetensorError, ValueError, KeyError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        hint = "delete it and recompute it with jobs/add_familiarity.py"
        raise UsageError(f"{FILE} in {folder_uri} is broken: {reason}; {hint}") from error


_NAMES = {_FORMAT: ("image", "moment"), _EARLIER_FORMAT: ("image", "moment", "region")}
"""The relations in a file of each format."""


def _from_arrays(arrays: Mapping[str, NDArray[np.generic]], names: Iterable[str]) -> Familiarity:
    relations = {
        name: Relations(**{one.name: arrays[f"{name}.{one.name}"] for one in fields(Relations)})  # type: ignore[arg-type]  # checked by _check
        for name in names
    }
    return Familiarity(**relations, **{name: arrays[name] for name in _PLAIN})  # type: ignore[arg-type]  # as above


def _format(data: bytes) -> str:
    safetensors.numpy.load(data)  # raises an informative error for other bytes
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if (found := header.get("__metadata__", {}).get("format")) not in _NAMES:
        raise ValueError(f"its format is {found!r}, not {_FORMAT!r}")
    return str(found)


def _check(found: Familiarity) -> None:
    size, chosen = found.feature_size, found.columns
    shapes = {"columns": chosen.shape, "distances": (len(found.distances),)}
    shapes |= dict.fromkeys(("median", "spread"), found._weights.shape)
    for name, relations in found._relations().items():
        width, count = 2 * chosen.size if name == "moment" else size, len(relations.directions)
        shapes |= {
            f"{name}.mean": (width,),
            f"{name}.scale": (width,),
            f"{name}.directions": (count, width),
            f"{name}.variances": (count,),
        }
    for name, array in found._arrays().items():
        if array.shape != shapes[name] or not array.size:
            raise ValueError(f"{name} has the shape {array.shape}, which does not fit the other arrays")
    if chosen.ndim != 1 or chosen.min() < 0 or chosen.max() >= size:
        raise ValueError(f"columns are not numbers of its {size} feature values")
