"""The share of different bigrams, as a reward against repetition."""

import torch
from torch import Tensor

from glied.rewards.reward import Captions
from glied.text.repetition import repeated_share


class DistinctReward:
    """Distinct bigrams / bigrams of a caption (distinct-2, Li et al. 2016, arXiv 1510.03055), 0 to 1."""

    def __call__(self, captions: Captions) -> Tensor:
        """As the protocol says."""
        shares = [1 - repeated_share(text.split(), 2) for text in captions.flat_texts()]
        return torch.tensor(shares).view(-1, captions.samples)
