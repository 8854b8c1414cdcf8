"""Advantages: a sample's reward minus its baseline. B images, S samples of each."""

from torch import Tensor


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
