"""Advantages: a sample's reward minus its baseline. B images, S samples of each."""

from collections.abc import Mapping

import torch
from torch import Tensor

EPSILON = 1e-4
"""Is added to standard deviations, so that the noise of nearly equal rewards is not blown up."""


def greedy_advantage(samples: Tensor, greedy: Tensor) -> Tensor:
    """Rewards minus that of the greedy caption (Rennie et al. 2017, equation 8): [B, S], [B] -> [B, S]."""
    return samples - greedy[:, None]


def leave_one_out_advantage(samples: Tensor) -> Tensor:
    """Rewards minus the mean of the image's other samples (Kool et al. 2019): [B, S] -> [B, S], S at least 2.

    As the others' mean is (sum - own) / (S - 1), this is S / (S - 1) times the difference from the mean.
    """
    count = samples.shape[1]
    assert count > 1, "one sample has no others"
    return (samples - samples.mean(dim=1, keepdim=True)) * (count / (count - 1))


def decoupled_advantage(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Weighted sum of the parts of a reward, each in standard deviations from the mean of its image.

    So the weights alone say how much a part counts, not how widely it varies (GDPO, Liu et al. 2026, arXiv
    2601.05242, section 3.1). What remains is the division by the standard deviation over the batch
    (`glied.training.tasks.losses.batch_normalized`).

    Args:
        parts: the rewards of the samples before they are weighted, [B, S] each, S at least 2.
        weights: of the parts.

    Returns:
        [B, S], mean 0 for each image.
    """
    return torch.stack([weights[name] * _standardized(part) for name, part in parts.items()]).sum(dim=0)


def _standardized(samples: Tensor) -> Tensor:
    assert samples.shape[1] > 1, "one sample has no standard deviation"
    deviation = samples.std(dim=1, keepdim=True)
    return (samples - samples.mean(dim=1, keepdim=True)) / (deviation + EPSILON)
