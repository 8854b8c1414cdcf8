"""The probability that a caption is grammatical, as a reward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from glied.rewards.reward import Captions


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
