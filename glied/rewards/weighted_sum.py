"""Weighted sums of rewards."""

from collections.abc import Mapping
from dataclasses import dataclass

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
        clock = Clock()
        for name, part in self._parts.items():
            with clock.measure(name):
                values[name] = part(captions)
        total = torch.stack([weight * values[name] for name, weight in self.weights.items()]).sum(dim=0)
        return Rewards(total, values, clock.seconds)
