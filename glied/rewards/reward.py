"""One protocol for everything that rewards captions.

Shapes: B images, S captions of each; the greedy caption is one of them, all are rewarded in one call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from torch import Tensor

from glied.text.ngrams import Packed, Tokens


@dataclass(frozen=True)
class Captions:
    """Captions of B images, S of each.

    Attributes:
        images: names of the images, [B].
        tokens: word ids, [B][S]; the end token is the last one unless the caption was truncated.
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
    """Scores captions; higher is better."""

    def __call__(self, captions: Captions) -> Tensor:
        """The reward of each caption, [B, S] float32 on the CPU, without a gradient."""
        ...


References = Callable[[str], Packed]
"""The references of an image by its name, as word ids with the end token."""
