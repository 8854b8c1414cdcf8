import pytest

from glied.metrics.diversity import diversity
from glied.text.repetition import repeated_share

CAPTIONS = ["A dog and a dog.", "a red kite", "A red kite!", ""]


def test_figures_by_hand() -> None:
    figures = diversity(CAPTIONS, ["a red kite.", "a dog"])
    assert (figures["captions"], figures["empty"], figures["vocabulary"]) == (4, 1, 5)
    assert figures["length"] == pytest.approx((5 + 3 + 3) / 3)
    assert figures["distinct"] == pytest.approx(200 / 3)
    assert [figures[f"repeats-{n}"] for n in (1, 2, 3, 4)] == pytest.approx([100 / 3, 100 / 3, 0, 0])
    # "a dog and a dog": 3 of 5 words and 3 of 4 pairs are distinct.
    assert figures["rep-1"] == pytest.approx(100 * (2 / 5) / 3)
    assert figures["rep-2"] == pytest.approx(100 * (1 / 4) / 3)
    assert figures["novel"] == pytest.approx(100 / 3)
    assert "novel" not in diversity(CAPTIONS)


def test_repetition_of_longer_and_shorter_captions() -> None:
    words = ["the", "dog", "on", "the", "dog", "on", "the", "dog"]
    assert repeated_share(words, 3) == pytest.approx(1 - 3 / 6)
    assert repeated_share(["a", "a"], 2) == 0
    assert repeated_share(["a"], 2) == 0


def test_empty_captions_have_no_ratios() -> None:
    assert diversity(["", "!"]) == {"captions": 2, "empty": 2, "vocabulary": 0}
