"""Losses as small pure functions."""

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.nn.functional import all_gather
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


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over the pairs of all workers together (Radford et al. 2021, figure 3).

    Every worker scores its own pairs against everybody's, with gradients through both, so that data-parallel
    workers, whose gradients are averaged, train as one worker with the whole batch would.

    Args:
        image: [B, E], unit vectors.
        text: [B, E], unit vectors; row i belongs to image i.
        scale: scalar, what cosines are multiplied by.
    """
    images, texts, first = _everybodys(image), _everybodys(text), 0
    if len(images) > len(image):
        first = torch.distributed.get_rank() * len(image)
    own = torch.arange(first, first + len(image), device=image.device)
    by_image = F.cross_entropy(scale * image @ texts.T, own)
    return (by_image + F.cross_entropy(scale * text @ images.T, own)) / 2


def _everybodys(values: Tensor) -> Tensor:
    """[B, E] of this worker -> [workers * B, E], in the order of ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    if torch.distributed.get_world_size() == 1:
        return values
    return torch.cat(all_gather(values))
