import numpy as np
import pytest
import torch

from glied.rewards.advantage import EPSILON, decoupled_advantage, greedy_advantage, leave_one_out_advantage


def test_greedy_by_hand() -> None:
    found = greedy_advantage(torch.tensor([[1.0, 3.0], [0.0, 2.0]]), torch.tensor([2.0, 0.0]))
    assert found.tolist() == [[-1, 1], [0, 2]]


def test_leave_one_out_by_hand() -> None:
    found = leave_one_out_advantage(torch.tensor([[1.0, 3.0, 8.0]]))
    torch.testing.assert_close(found, torch.tensor([[1 - 11 / 2, 3 - 9 / 2, 8 - 4 / 2]]))
    assert leave_one_out_advantage(torch.full((2, 5), 0.3)).tolist() == [[0] * 5] * 2


def test_decoupled_parts_by_numpy() -> None:
    random = np.random.default_rng(0)
    parts = {"clip_s": random.normal(1.0, 0.05, (4, 5)), "grammar": random.uniform(0, 1, (4, 5))}
    weights = {"clip_s": 2.0, "grammar": 1.0, "cider": 0.0}
    expected = np.zeros((4, 5))
    for name, values in parts.items():
        for image in range(4):
            mine = values[image]
            expected[image] += weights[name] * (mine - mine.mean()) / (mine.std(ddof=1) + EPSILON)
    found = decoupled_advantage({name: torch.tensor(values) for name, values in parts.items()}, weights)
    np.testing.assert_allclose(found.numpy(), expected)


def test_the_scale_of_a_decoupled_part_does_not_matter() -> None:
    """The summed reward would be that of the wide part alone."""
    wide, narrow = torch.tensor([[0.0, 10.0, 20.0]]), torch.tensor([[0.02, 0.01, 0.0]])
    found = decoupled_advantage({"a": wide, "b": 100 * narrow}, {"a": 1.0, "b": 1.0})
    torch.testing.assert_close(found, torch.zeros(1, 3), atol=1e-3, rtol=0)


def test_equal_rewards_of_a_part_count_nothing() -> None:
    found = decoupled_advantage({"a": torch.full((2, 5), 0.3)}, {"a": 2.0})
    assert found.abs().max().item() == pytest.approx(0, abs=1e-6)
