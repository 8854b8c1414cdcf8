import math

import numpy as np
import pytest
import torch

from glied.rewards.advantage import EPSILON
from glied.training.tasks.losses import batch_normalized, preference_loss, word_cross_entropy


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


def test_advantages_are_divided_by_their_deviation_over_the_batch():
    values = np.random.default_rng(0).normal(size=(3, 4))
    values -= values.mean(axis=1, keepdims=True)  # as `decoupled_advantage` gives them
    expected = values / (values.std(ddof=1) + EPSILON)
    np.testing.assert_allclose(batch_normalized(torch.tensor(values)).numpy(), expected)
    assert not batch_normalized(torch.zeros(3, 4)).any()


def plain_preference_loss(log_ratios, scores, beta, temperature):
    """The mean over the images, one by one; and its gradient."""
    losses, gradient = [], np.zeros_like(log_ratios)
    for image, (ratios, values) in enumerate(zip(log_ratios, scores, strict=True)):
        best = int(np.argmax(values))
        worse = [place for place in range(len(values)) if values[place] < values[best]]
        weights = np.array([math.exp((values[best] - values[place]) / temperature) for place in worse])
        weights /= weights.sum()
        margin = ratios[best] - sum(w * ratios[place] for w, place in zip(weights, worse, strict=True))
        losses.append(math.log(1 + math.exp(-beta * margin)))
        slope = -beta / (1 + math.exp(beta * margin)) / len(scores)
        gradient[image, best] = slope
        gradient[image, worse] = -slope * weights
    return np.mean(losses), gradient


def test_preference_loss_equals_the_plain_formula_with_its_gradient():
    random = np.random.default_rng(0)
    ratios, scores = random.normal(0, 3, (4, 5)), random.normal(0, 0.5, (4, 5))
    scores[2, 3] = scores[2].max()  # a tie for the best
    given = torch.tensor(ratios, requires_grad=True)
    loss = preference_loss(given, torch.tensor(scores), beta=0.2, temperature=0.3)
    loss.backward()
    expected, gradient = plain_preference_loss(ratios, scores, 0.2, 0.3)
    assert loss.item() == pytest.approx(expected)
    np.testing.assert_allclose(given.grad.numpy(), gradient, atol=1e-12)


def test_two_samples_have_the_loss_of_direct_preference_optimization():
    ratios = torch.tensor([[-1.0, 2.0]])
    loss = preference_loss(ratios, torch.tensor([[0.7, 0.2]]), beta=0.5, temperature=1.0)
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(0.5 * 3))))


def test_an_image_whose_samples_are_equally_good_has_no_gradient():
    ratios = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 2.0]], requires_grad=True)
    loss = preference_loss(
        ratios, torch.tensor([[0.3, 0.3, 0.3], [1.0, 0.0, 0.0]]), beta=0.2, temperature=0.3
    )
    loss.backward()
    assert not ratios.grad[0].any()
    assert ratios.grad[1, 0] < 0 < ratios.grad[1, 1]


def test_a_low_temperature_leaves_only_the_worst_sample():
    ratios = torch.zeros(1, 4, requires_grad=True)
    preference_loss(ratios, torch.tensor([[0.9, 0.8, 0.1, 0.5]]), beta=1.0, temperature=0.01).backward()
    assert ratios.grad.tolist() == [pytest.approx([-0.5, 0, 0.5, 0])]
