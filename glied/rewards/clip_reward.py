"""CLIP-S and RefCLIP-S as rewards: images as stored vectors, captions encoded in each step.

Shapes: B images, S captions of each, R references of the image that has most, E width of the embedding.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glied.clip.scorer import ClipScorer
from glied.clip.scores import clip_score, pad_references, ref_clip_score_reward
from glied.data import features, parquet
from glied.data.image_names import ImageNames
from glied.errors import UsageError
from glied.rewards.reward import Captions
from glied.vision.extractors.clip_images import image_fingerprint


class ImageVectors:
    """CLIP's unit vectors of images, read once from a feature store into memory."""

    def __init__(self, uri: str, scorer: ClipScorer) -> None:
        """Read the store at `uri` that jobs/extract_regions.py wrote with regions.kind clip.

        Raises:
            UsageError: there is no store, or another CLIP than `scorer` wrote it.
        """
        if features.fingerprint(uri) != image_fingerprint(scorer):
            raise UsageError(
                f"{uri} was not extracted with this CLIP: extract it anew, with the same regions.clip"
            )
        self.uri = uri
        ids: list[str] = []
        vectors: list[NDArray[np.float16]] = []
        for path in features.paths(uri):
            with parquet.open_file(path) as file:
                table = file.read(columns=["id", *features.VALUES])
            for row in table.to_pylist():
                if row["count"] is not None:
                    ids.append(row["id"])
                    vectors.append(features.values(row)[0].astype(np.float16))
        self._rows = {image_id: number for number, image_id in enumerate(ids)}
        self._names = ImageNames(ids, uri)
        self._vectors = torch.from_numpy(np.stack(vectors)) if vectors else torch.zeros(0, scorer.size)

    def check(self, images: Iterable[str]) -> None:
        """Find the vectors of images, whose names may leave out folders that the store has, and the reverse.

        Raises:
            UsageError: an image has none, or several images fit the same.
        """
        names = list(images)
        found = self._names.join(names, "the training images")
        missing = [name for name in names if name not in found]
        if missing:
            raise UsageError(f"{self.uri} lacks {len(missing)} images, {missing[0]} for one: extract it anew")

    def __call__(self, images: Sequence[str]) -> Tensor:
        """[B, E] float32, on the CPU."""
        return self._vectors[[self._row(image) for image in images]].float()

    def _row(self, image: str) -> int:
        row = self._rows.get(image)
        if row is None:
            row = self._rows[image] = self._rows[self._names.find(image) or ""]
        return row


class TwoScores(Protocol):
    """Computes p(grammatical) [n] and vectors [n, E] of captions at once."""

    def score(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Both."""
        ...


class OnePass:
    """Computes p(grammatical) and vectors of captions in one pass, for several parts of a reward."""

    def __init__(self, scorer: TwoScores) -> None:
        """Caches what `scorer` returned for the last captions."""
        self._scorer = scorer
        self._last: tuple[list[str], tuple[Tensor, Tensor]] | None = None

    def probability(self, captions: Sequence[str]) -> Tensor:
        """p(grammatical) of each, [n]."""
        return self._scores(captions)[0]

    def vectors(self, captions: Sequence[str]) -> Tensor:
        """The unit vector of each, [n, E]."""
        return self._scores(captions)[1]

    def _scores(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        if self._last is None or self._last[0] != list(captions):
            self._last = list(captions), self._scorer.score(captions)
        return self._last[1]


@dataclass(frozen=True)
class ClipReward:
    """CLIP-S, 0 to 2.5.

    Attributes:
        encode: n captions -> their unit vectors [n, E], behind the prompt.
        images: the vectors of the images.
    """

    encode: Callable[[Sequence[str]], Tensor]
    images: ImageVectors

    def __call__(self, captions: Captions) -> Tensor:
        """As `Reward` says."""
        texts = self.encode(captions.flat_texts())
        return clip_score(_repeated(self.images, captions, texts), texts).cpu().view(-1, captions.samples)


@dataclass(frozen=True)
class RefClipReward:
    """RefCLIP-S as rewarded, 0 to 2.5.

    `encode` and `images` as for `ClipReward`. Vectors of references are kept once an image has come up, so
    that from the second epoch on only captions are encoded; in half precision, which moves a cosine by less
    than 1e-4.
    """

    encode: Callable[[Sequence[str]], Tensor]
    images: ImageVectors
    references: Mapping[str, Sequence[str]]
    _known: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, captions: Captions) -> Tensor:
        """As `Reward` says."""
        texts, count = self.encode(captions.flat_texts()), captions.samples
        references, mask = (
            found.to(texts.device).repeat_interleave(count, 0) for found in self._references(captions.images)
        )
        images = _repeated(self.images, captions, texts)
        return ref_clip_score_reward(images, texts, references, mask).cpu().view(-1, count)

    def _references(self, images: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Vectors [B, R, E], and which are real [B, R]; on the CPU."""
        new = [image for image in dict.fromkeys(images) if image not in self._known]
        numbers = [len(self.references[image]) for image in new]
        texts = [text for image in new for text in self.references[image]]
        self._known.update(zip(new, self.encode(texts).half().cpu().split(numbers), strict=True))
        return pad_references([self._known[image].float() for image in images])


def _repeated(images: ImageVectors, captions: Captions, texts: Tensor) -> Tensor:
    """The vector of each caption's image, [B * S, E], where `texts` are."""
    return images(captions.images).to(texts.device).repeat_interleave(captions.samples, 0)
