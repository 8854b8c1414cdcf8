"""Losses as small pure functions."""

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
