from glied.rewards.distinct_reward import DistinctReward
from glied.rewards.reward import Captions


def test_distinct_by_hand() -> None:
    texts = [["a dog and a dog", "a dog and a cat"], ["a", ""]]
    found = DistinctReward()(Captions(["1.jpg", "2.jpg"], [[(1,)] * 2] * 2, texts))
    assert found.tolist() == [[0.75, 1.0], [1.0, 1.0]]
