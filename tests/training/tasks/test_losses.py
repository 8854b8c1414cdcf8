import math

import pytest
import torch

from glied.training.tasks.losses import word_cross_entropy


def test_mean_over_real_words_only():
    logits, targets = torch.randn(2, 3, 5), torch.tensor([[1, 2, 0], [4, 0, 0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    table = logits.log_softmax(-1)
    expected = -(table[0, 0, 1] + table[0, 1, 2] + table[1, 0, 4]) / 3
    torch.testing.assert_close(word_cross_entropy(logits, targets, mask), expected)
    torch.testing.assert_close(word_cross_entropy(logits[mask], targets[mask]), expected)


def test_label_smoothing_spreads_evenly():
    logits, targets = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    first, second = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    expected = 0.95 * first + 0.05 * second
    assert word_cross_entropy(logits, targets, label_smoothing=0.1).item() == pytest.approx(expected)
