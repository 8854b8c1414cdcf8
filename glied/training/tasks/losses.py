"""Losses as small pure functions."""

import torch
from torch import Tensor
from torch.nn import functional as F


def word_cross_entropy(
    logits: Tensor, targets: Tensor, mask: Tensor | None = None, *, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy per word: the mean over the words where `mask` is True, whatever caption they stand in.

    Args:
        logits: [..., V].
        targets: [...] int64.
        mask: [...], True at real words; None when all are.
        label_smoothing: share of the target's probability that is spread evenly over all V words.
    """
    if mask is not None:
        logits, targets = logits[mask], targets[mask]
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), label_smoothing=label_smoothing)


def self_critical_loss(log_probabilities: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """-(r - b) log p of sampled captions, summed over tokens and divided by their number.

    Rennie et al. 2017 (arXiv 1612.00563), equation 6.

    Args:
        log_probabilities: [M], of the tokens at the M True places of `mask`, in order, end tokens included.
        advantages: [B, S], r - b of each sample.
        mask: [B, S, T], True at the tokens of a sample.
    """
    weights = advantages.to(log_probabilities)[..., None].expand(mask.shape)[mask]
    return -(weights * log_probabilities).mean()


def entropy(log_probabilities: Tensor) -> Tensor:
    """Mean entropy in nats of the distributions [..., V]; words without probability count nothing."""
    return torch.special.entr(log_probabilities.exp()).sum(dim=-1).mean()
