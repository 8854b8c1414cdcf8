"""CIDEr-D as a reward."""

from dataclasses import dataclass

import torch
from torch import Tensor

from glied.rewards.reward import Captions, References
from glied.text.cider import DocumentFrequencies, cider_d


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
