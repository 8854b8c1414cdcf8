"""Smoothed sentence BLEU-4 as a reward."""

from dataclasses import dataclass

import torch
from torch import Tensor

from glied.rewards.reward import Captions, References
from glied.text.bleu import bleu_4


@dataclass(frozen=True)
class BleuReward:
    """Smoothed sentence BLEU-4, 0 to 1."""

    references: References

    def __call__(self, captions: Captions) -> Tensor:
        """As the protocol says."""
        references = [self.references(name) for name in captions.images]
        return torch.from_numpy(bleu_4(captions.packed(), captions.samples, references)).float()
