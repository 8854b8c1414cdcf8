import torch

from glied.rewards.advantage import greedy_advantage, leave_one_out_advantage


def test_greedy_by_hand() -> None:
    found = greedy_advantage(torch.tensor([[1.0, 3.0], [0.0, 2.0]]), torch.tensor([2.0, 0.0]))
    assert found.tolist() == [[-1, 1], [0, 2]]


def test_leave_one_out_by_hand() -> None:
    found = leave_one_out_advantage(torch.tensor([[1.0, 3.0, 8.0]]))
    torch.testing.assert_close(found, torch.tensor([[1 - 11 / 2, 3 - 9 / 2, 8 - 4 / 2]]))
    assert leave_one_out_advantage(torch.full((2, 5), 0.3)).tolist() == [[0] * 5] * 2
