"""One protocol for everything that rewards captions, and weighted sums of it.

Shapes: B images, S captions of each; the greedy caption is one of them, all are rewarded in one call.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from glied.rewards.bleu import bleu_4
from glied.rewards.cider import DocumentFrequencies, cider_d
from glied.rewards.ngrams import Packed, Tokens


@dataclass(frozen=True)
class Captions:
    """Captions of B images, S of each.

    Attributes:
        images: names of the images, [B].
        tokens: word ids, [B][S]; the end token is the last one unless the caption was cut.
        texts: the same in words, without the end, [B][S].
    """

    images: Sequence[str]
    tokens: Sequence[Sequence[Tokens]]
    texts: Sequence[Sequence[str]]

    @property
    def samples(self) -> int:
        """S."""
        return len(self.tokens[0])

    def packed(self) -> Packed:
        """All B * S captions as word ids."""
        return Packed.of(list(chain.from_iterable(self.tokens)))

    def flat_texts(self) -> list[str]:
        """All B * S captions in words."""
        return list(chain.from_iterable(self.texts))


class Reward(Protocol):
    """What captions are worth: the higher the better."""

    def __call__(self, captions: Captions) -> Tensor:
        """The reward of each caption, [B, S] float32 on the CPU, without a gradient."""
        ...


References = Callable[[str], Packed]
"""The references of an image by its name, as word ids with the end token."""


@dataclass(frozen=True)
class CiderReward:
    """CIDEr-D, 0 to 10."""

    references: References
    frequencies: DocumentFrequencies

    def __call__(self, captions: Captions) -> Tensor:
        """As the protocol says."""
        references = [self.references(name) for name in captions.images]
        scores = cider_d(captions.packed(), captions.samples, references, self.frequencies)
        return torch.from_numpy(scores).float()


@dataclass(frozen=True)
class BleuReward:
    """Smoothed sentence BLEU-4, 0 to 1."""

    references: References

    def __call__(self, captions: Captions) -> Tensor:
        """As the protocol says."""
        references = [self.references(name) for name in captions.images]
        return torch.from_numpy(bleu_4(captions.packed(), captions.samples, references)).float()


@dataclass(frozen=True)
class GrammarReward:
    """The probability that a caption is grammatical, 0 to 1.

    Attributes:
        probability: n captions in words -> [n].
    """

    probability: Callable[[Sequence[str]], Tensor]

    def __call__(self, captions: Captions) -> Tensor:
        """As the protocol says."""
        return self.probability(captions.flat_texts()).float().cpu().view(-1, captions.samples)


@dataclass(frozen=True)
class Rewards:
    """What a weighted sum gave.

    Attributes:
        total: [B, S].
        parts: each part before it was weighted, [B, S].
        seconds: that each part took.
    """

    total: Tensor
    parts: dict[str, Tensor]
    seconds: dict[str, float]


class WeightedSum:
    """A weighted sum of rewards.

    Baselines are linear in the reward, so with this total each part has its own baseline.
    """

    def __init__(self, parts: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        """`weights` by part; a part of weight 0, or without one, is never computed."""
        self.weights = {name: weights[name] for name in parts if weights.get(name)}
        self._parts = {name: parts[name] for name in self.weights}
        assert self._parts, "nothing is rewarded"

    def __call__(self, captions: Captions) -> Rewards:
        """Reward `captions`."""
        values: dict[str, Tensor] = {}
        seconds: dict[str, float] = {}
        for name, part in self._parts.items():
            begun = time.perf_counter()
            values[name] = part(captions)
            seconds[name] = time.perf_counter() - begun
        total = torch.stack([weight * values[name] for name, weight in self.weights.items()]).sum(dim=0)
        return Rewards(total, values, seconds)
