"""Training task of the attribute predictor: which words of its captions an image's regions show."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from glied.config_checks import check_least
from glied.data import features
from glied.data.captioned_regions import CaptionedRegions
from glied.data.pickling import FieldsOnlyPickle
from glied.errors import UsageError
from glied.regions import RegionBatch
from glied.text.tokenizer import tokenize
from glied.text.vocabulary import by_count, image_counts, load_words
from glied.training.config import TrainerConfig
from glied.training.task import Row, Split
from glied.vision.attributes import AttributePredictor, noisy_or_loss, save_attributes

log = logging.getLogger(__name__)

_STOP_WORDS = """
    a an the this that these those some there here it its is are was were be been being has have having
    do does and or but as of to in on at by with from for into onto off over under near next beside
    behind front above below up down out around along across through between while who which what where
    when very other another each both all photo picture image scene view shot his her their him them
    they he she we you i can see seen shows showing one
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that name nothing visible; they may be predicted, but do not count in the mean AP."""


@dataclass(frozen=True)
class AttributeBatch:
    """Regions of B images and [B, W] float targets: 1 where a word is in one of the image's references."""

    regions: RegionBatch
    targets: Tensor

    def to(self, device: torch.device | str) -> AttributeBatch:
        """The same batch on another device."""
        return AttributeBatch(self.regions.to(device), self.targets.to(device))


@dataclass(frozen=True, kw_only=True)
class TrainAttributesConfig:
    """What the attribute predictor learns, from which images, and how."""

    train: CaptionedRegions
    """Images to learn from; their captions give the words."""
    validation: CaptionedRegions
    """Images whose mean average precision selects the best checkpoint."""
    trainer: TrainerConfig
    """Optimization, workers and output."""
    words: int = 1000
    """Attribute words: the commonest of the training captions, or the first of `word_list`."""
    word_list: str = ""
    """attributes.json (path or URI) of jobs/prepare_coco.py; empty counts the training captions' words."""
    minimum_positives: int = 20
    """Words that occur in fewer validation images do not count in the mean average precision."""
    typical_regions: int = 16
    """About how many regions an image has; biases start so that a word's probability is its frequency."""

    def __post_init__(self) -> None:
        """Refuse counts without meaning."""
        check_least(self, 1, "words", "minimum_positives", "typical_regions")


@dataclass(frozen=True)
class AttributesTask(FieldsOnlyPickle):
    """Learns an `AttributePredictor`; implements `glied.training.task.Task`."""

    config: TrainAttributesConfig
    name: str = "attributes"

    @cached_property
    def _counts(self) -> Counter[str]:
        """In how many training images' captions each word occurs."""
        return image_counts(self.config.train.references.values())

    @cached_property
    def vocabulary(self) -> list[str]:
        """The first `words` words of the file `word_list`, or the commonest of the training captions.

        Those are counted once per image, the commonest first. Raises as `load_words`.
        """
        known = load_words(self.config.word_list) if self.config.word_list else by_count(self._counts)
        if len(known) < self.config.words:
            where = self.config.word_list or self.config.train.captions
            log.warning(
                "words: %d attribute words are asked for, %s has %d", self.config.words, where, len(known)
            )
        return known[: self.config.words]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.vocabulary)}

    def build(self) -> AttributePredictor:
        """The untrained predictor; its biases start at the words' frequencies."""
        images = len(self.config.train.references)
        frequencies = [self._counts[word] / images for word in self.vocabulary]
        return AttributePredictor(
            self.vocabulary,
            feature_size=self.config.train.feature_size(),
            frequencies=frequencies,
            typical_regions=self.config.typical_regions,
        )

    def data(self, split: Split) -> list[str]:
        """The Parquet files of the feature store.

        Raises:
            UsageError: as `features.paths` and `CaptionedRegions.check`; training and validation images come
                from different extractors, or there are no words to learn.
        """
        source = self.config.train if split == "train" else self.config.validation
        if split == "train":
            features.check_same_extractor([self.config.train.features, self.config.validation.features])
        source.check()
        if not self.vocabulary:
            raise UsageError(f"{self.config.train.captions} has no words")
        return source.paths()

    def collate(self, rows: Sequence[Row], *, training: bool, generator: torch.Generator) -> AttributeBatch:
        """Read regions, and turn each image's references into a 0/1 vector over words."""
        pairs = (self.config.train if training else self.config.validation).pair(rows)
        regions = RegionBatch.collate([features.read(row) for row, _ in pairs])
        targets = torch.zeros(len(pairs), len(self.vocabulary))
        for place, (_, captions) in enumerate(pairs):
            targets[place, [self._index[word] for word in _words(captions) if word in self._index]] = 1
        return AttributeBatch(regions, targets)

    def loss(self, model: nn.Module, batch: AttributeBatch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Multi-label binary cross-entropy, summed over words."""
        loss = noisy_or_loss(model(batch.regions.features, batch.regions.mask), batch.targets)
        return loss, {"loss": loss.detach()}

    def validate(self, model: nn.Module, batches: Iterable[AttributeBatch]) -> dict[str, float]:
        """Mean AP over content words with enough positives, how many those are, and the loss."""
        outputs = [(model(b.regions.features, b.regions.mask).cpu(), b.targets.cpu()) for b in batches]
        log_absent = torch.cat([output for output, _ in outputs])
        targets = torch.cat([truth for _, truth in outputs])
        words = cast(AttributePredictor, model).words
        precisions = average_precisions(
            -log_absent.numpy(), targets.numpy(), words, self.config.minimum_positives
        )
        mean = sum(precisions.values()) / max(len(precisions), 1)
        return {"map": mean, "map_words": len(precisions), "loss": float(noisy_or_loss(log_absent, targets))}

    def export(self, model: nn.Module, folder_uri: str) -> None:
        """Write the predictor in half precision, as it ships."""
        predictor = cast(AttributePredictor, model)
        predictor.extractor = self.config.train.extractor
        save_attributes(predictor, folder_uri)


def _words(captions: Sequence[str]) -> frozenset[str]:
    return frozenset(word for one in captions for word in tokenize(one))


def average_precisions(
    scores: np.ndarray, targets: np.ndarray, words: Sequence[str], minimum_positives: int
) -> dict[str, float]:
    """Average precision of every content word with at least `minimum_positives` images.

    Args:
        scores: [images, words], higher where a word is more likely; tied images count in their order.
        targets: [images, words], 1 where the word is in the references.
        words: names of the columns; `STOP_WORDS` are left out.
        minimum_positives: rarer words are left out too.
    """
    counted = [
        column
        for column, word in enumerate(words)
        if word not in STOP_WORDS and targets[:, column].sum() >= max(minimum_positives, 1)
    ]
    return {words[column]: _average_precision(scores[:, column], targets[:, column]) for column in counted}


def _average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean over the positives of the precision at their rank, not interpolated."""
    hits = targets[np.argsort(-scores, kind="stable")] > 0
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())
