"""Weighted sums of rewards."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from glied.clock import Clock
from glied.rewards.reward import Captions, Reward


@dataclass(frozen=True)
class Rewards:
    """The result of a weighted sum.

    Attributes:
        total: [B, S].
        parts: each part before it was weighted, [B, S].
        seconds: spent on each part.
    """

    total: Tensor
    parts: dict[str, Tensor]
    seconds: dict[str, float]


NO_PARTS: Mapping[str, Tensor] = MappingProxyType({})


class WeightedSum:
    """A weighted sum of rewards.

    Baselines are linear in the reward, so with this total each part has its own baseline.
    """

    def __init__(self, parts: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        """`weights` by part; a part of weight 0, or without one, is never computed."""
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self._parts = {name: part for name, part in parts.items() if name in self.weights}
        assert self._parts, "nothing is rewarded"

    def __call__(self, captions: Captions, known: Mapping[str, Tensor] = NO_PARTS) -> Rewards:
        """Reward `captions`; `known` are parts that the caller has computed, [B, S] each."""
        values = dict(known)
        clock = Clock()
        for name, part in self._parts.items():
            with clock.measure(name):
                values[name] = part(captions)
        assert values.keys() == self.weights.keys(), "a part is missing"
        total = torch.stack([self.weights[name] * value for name, value in values.items()]).sum(dim=0)
        return Rewards(total, values, clock.seconds)
