"""Loads the rewards of a `RewardConfig`, and checks before the first step that nothing is missing."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from glied.clip.config import ClipConfig
from glied.data import features
from glied.data.captioned_regions import RewardedRegions
from glied.errors import UsageError
from glied.rewards.bleu_reward import BleuReward
from glied.rewards.cider_reward import CiderReward
from glied.rewards.config import LIKELIHOOD, RewardConfig
from glied.rewards.distinct_reward import DistinctReward
from glied.rewards.grammar_reward import GrammarReward
from glied.rewards.reward import Reward
from glied.rewards.weighted_sum import WeightedSum
from glied.text.cider import DocumentFrequencies
from glied.text.references import EncodedReferences, load_frequencies
from glied.text.vocabulary import SPECIAL, Vocabulary

if TYPE_CHECKING:  # open_clip takes seconds to import
    from glied.clip.grammar_head import GrammarScorer
    from glied.clip.scorer import ClipScorer
    from glied.rewards.clip_reward import ImageVectors, OnePass


@dataclass(frozen=True)
class RewardLoader:
    """Loads what rewards share: the table, the CLIP, the grammar scorer; each when it is first needed.

    Attributes:
        config: which rewards.
        vocabulary: of the captioner that is rewarded.
        training: captions by image whose document frequencies were counted.
        device: where CLIP and grammar run.
    """

    config: RewardConfig
    vocabulary: Vocabulary
    training: Mapping[str, Sequence[str]]
    device: torch.device

    @cached_property
    def frequencies(self) -> DocumentFrequencies:
        """The document frequencies; raises as `load_frequencies`."""
        return load_frequencies(self.config.frequencies, self.training, self.vocabulary)

    @cached_property
    def scorer(self) -> "ClipScorer":
        """The CLIP; raises as `load_clip` and `load_grammar`."""
        from glied.clip.scorer import load_clip

        return self._grammar.clip if self.config.grammar else load_clip(self._clip)

    @property
    def _clip(self) -> ClipConfig:
        assert self.config.clip is not None
        return dataclasses.replace(self.config.clip, device=str(self.device))

    @cached_property
    def _grammar(self) -> "GrammarScorer":
        from glied.clip.grammar_head import load_grammar

        return load_grammar(self._clip, required=self.config.grammar_accuracy)

    @cached_property
    def _both(self) -> "OnePass":
        from glied.rewards.clip_reward import OnePass

        return OnePass(self._grammar)

    @cached_property
    def _stores(self) -> dict[str, "ImageVectors"]:
        """Vectors of images by store: those of COCO are 116 MB."""
        return {}

    def load(self, data: RewardedRegions) -> WeightedSum:
        """The rewards of a split but for the likelihood; parts of weight 0 are not loaded.

        Raises:
            UsageError: something that a part needs is missing or belongs to something else.
        """
        weights = self.config.weights
        parts = {name: self._part(name, data) for name in weights if weights[name] and name != LIKELIHOOD}
        return WeightedSum(parts, weights)

    def check(self, data: RewardedRegions) -> None:
        """Load the rewards of a split, and look for what its images and the vocabulary would lack.

        Raises:
            UsageError: as `load`; an image has no references or no CLIP vector; CLIP does not know a word.
        """
        if self.config.needs_references:
            if not data.captions:
                raise UsageError(f"{data.features}: this reward compares with references, give captions")
            data.check()
        if self.config.needs_images:
            self._vectors(data).check(data.name(image_id) for image_id in features.image_ids(data.features))
        if self.config.needs_images or self.config.grammar:
            self._check_words()
        self.load(data)

    def _check_words(self) -> None:
        unknown = self.scorer.unknown_words(self.vocabulary.words[len(SPECIAL) :])
        if unknown:
            words = ", ".join(unknown[:5])
            raise UsageError(f"reward.clip has never seen {len(unknown)} words of the vocabulary: {words}")

    def _part(self, name: str, data: RewardedRegions) -> Reward:
        if name == "cider":
            return CiderReward(EncodedReferences(data.references, self.vocabulary), self.frequencies)
        if name == "bleu":
            return BleuReward(EncodedReferences(data.references, self.vocabulary))
        if name == "distinct":
            return DistinctReward()
        if name == "grammar":
            return GrammarReward(self._both.probability)
        from glied.rewards.clip_reward import ClipReward, RefClipReward

        vectors = self._vectors(data)
        encode = self._both.vectors if self.config.grammar else self.scorer.encode_texts
        if name == "clip_s":
            return ClipReward(encode, vectors)
        return RefClipReward(encode, vectors, data.references)

    def _vectors(self, data: RewardedRegions) -> "ImageVectors":
        from glied.rewards.clip_reward import ImageVectors

        uri = data.clip_features
        if not uri:
            raise UsageError(f"{data.features}: this reward looks at the images, give clip_features")
        if uri not in self._stores:
            self._stores[uri] = ImageVectors(uri, self.scorer)
        return self._stores[uri]
