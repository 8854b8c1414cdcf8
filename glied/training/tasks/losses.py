"""Losses as small pure functions."""

import torch
import torch.distributed
from torch import Tensor
from torch.nn import functional as F

from glied.rewards.advantage import EPSILON


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


def batch_normalized(advantages: Tensor) -> Tensor:
    """Advantages divided by their standard deviation over all workers' batches (GDPO, arXiv 2601.05242).

    Args:
        advantages: [B, S], mean 0 for each image, so that their mean over a batch is 0 as well; B may differ
            between workers. On the device of the training.
    """
    sums = torch.stack([advantages.square().sum(), torch.ones_like(advantages).sum()])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    squares, count = sums
    return advantages / ((squares / (count - 1)).sqrt() + EPSILON)


def preference_loss(log_ratios: Tensor, scores: Tensor, *, beta: float, temperature: float) -> Tensor:
    """DiCO's loss: an image's best sample shall gain on the others, against a frozen reference.

    -log sigmoid(beta (d_best - sum_i w_i d_i)) with d = log p - log p_reference, where i runs over the
    samples with a lower score and w is the softmax of how much lower, divided by the temperature (Moratelli
    et al., BMVC 2024, arXiv 2408.14547). An image whose samples all have the same score has no gradient.

    Args:
        log_ratios: [B, S], d of whole samples, with gradients.
        scores: [B, S], by which the best sample is found.
        beta: how strongly the reference holds: a larger one ends the push at a smaller difference.
        temperature: the lower, the more only the worst samples count.
    """
    scores = scores.to(log_ratios)
    best, place = scores.max(dim=1, keepdim=True)
    worse = scores < best
    # The softmax of a row without a worse sample is NaN: such an image has no weights.
    weights = ((best - scores) / temperature).masked_fill(~worse, -torch.inf).softmax(dim=1).nan_to_num()
    margins = weights.sum(dim=1) * log_ratios.gather(1, place).squeeze(1) - (weights * log_ratios).sum(dim=1)
    return -F.logsigmoid(beta * margins).mean()


def entropy(log_probabilities: Tensor) -> Tensor:
    """Mean entropy in nats of the distributions [..., V]; words without probability count nothing."""
    return torch.special.entr(log_probabilities.exp()).sum(dim=-1).mean()
