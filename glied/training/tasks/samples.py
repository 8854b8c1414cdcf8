"""Sampled captions as the loss reads them, and what is logged of them.

Shapes: B images, S samples of each, T tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glied.captioner.decode import Hypothesis
from glied.text.repetition import repeated_share
from glied.text.vocabulary import BOS, EOS, PAD


@dataclass(frozen=True)
class Samples:
    """Captions of B images: S samples of each, then the greedy caption."""

    hypotheses: list[list[Hypothesis]]

    @property
    def sampled(self) -> list[Hypothesis]:
        """All B * S samples, without the greedy captions."""
        return [one for image in self.hypotheses for one in image[:-1]]


def complete(hypotheses: Sequence[Hypothesis], count: int) -> list[Hypothesis]:
    """The first `count` hypotheses, filled up with empty ones.

    Decoding finds too few where probabilities are not finite; the loss is then not finite either.
    """
    return [*hypotheses, *[Hypothesis((), -math.inf)] * count][:count]


def sample_tensors(samples: Sequence[Hypothesis], count: int) -> tuple[Tensor, Tensor]:
    """B * S samples -> inputs and targets [B, S, T] int64 for teacher forcing; S is `count`.

    The end token is a target of a finished sample, but not of a truncated one; `PAD` is no token.
    """
    length = max(len(one.tokens) + one.finished for one in samples)
    targets = [[*one.tokens, EOS][: len(one.tokens) + one.finished] for one in samples]
    padded = torch.tensor([words + [PAD] * (length - len(words)) for words in targets])
    inputs = torch.cat((torch.full((len(padded), 1), BOS), padded[:, :-1]), dim=1)
    inputs.masked_fill_(padded == PAD, PAD)
    return inputs.view(-1, count, length), padded.view(-1, count, length)


def caption_figures(hypotheses: Sequence[Hypothesis]) -> dict[str, float]:
    """Mean number of words, and the shares of captions that repeat a bigram or were truncated."""
    count = len(hypotheses)
    return {
        "length": sum(len(one.tokens) for one in hypotheses) / count,
        "repeated_bigrams": sum(repeated_share([*map(str, one.tokens)], 2) > 0 for one in hypotheses) / count,
        "truncated": sum(not one.finished for one in hypotheses) / count,
    }
