import numpy as np
import pytest

from glied.metrics import bootstrap
from glied.metrics.bootstrap import bootstrap_over_seeds, paired_bootstrap

VALUES = np.random.default_rng(0).normal(50, 20, size=400)
SHIFTS = np.random.default_rng(1).normal(3, 10, size=400)


def test_a_system_does_not_differ_from_itself() -> None:
    found = paired_bootstrap(VALUES, VALUES, resamples=500)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert found.first == found.second == pytest.approx(VALUES.mean())


def test_a_clear_difference_is_significant_and_its_interval_is_the_normal_one() -> None:
    found = paired_bootstrap(VALUES, VALUES + SHIFTS, resamples=4000)
    assert found.difference == pytest.approx(SHIFTS.mean())
    half = 1.96 * SHIFTS.std() / 20
    assert found.low == pytest.approx(SHIFTS.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(SHIFTS.mean() + half, abs=0.1 * half)
    assert found.p == pytest.approx(2 / 4001)
    back = paired_bootstrap(VALUES + SHIFTS, VALUES, resamples=4000)
    assert (back.low, back.high, back.p) == (pytest.approx(-found.high), pytest.approx(-found.low), found.p)


def test_pairing_counts_and_noise_is_not_significant() -> None:
    """The same values assigned to other images: no difference, and a wide interval."""
    shuffled = np.random.default_rng(2).permutation(VALUES)
    found = paired_bootstrap(VALUES, shuffled, resamples=1000)
    assert abs(found.difference) < 1e-9
    assert found.p > 0.5
    assert found.high - found.low > 4


def test_results_depend_on_the_seed_and_not_on_the_block_size(monkeypatch) -> None:
    first = paired_bootstrap(VALUES, VALUES + SHIFTS, resamples=300, seed=5)
    assert first == paired_bootstrap(VALUES, VALUES + SHIFTS, resamples=300, seed=5)
    assert first != paired_bootstrap(VALUES, VALUES + SHIFTS, resamples=300, seed=6)
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * len(VALUES))
    blocks = list(bootstrap._weights(len(VALUES), 20, 0))
    assert [block.shape for block in blocks] == [(7, 400), (7, 400), (6, 400)]
    assert all((block.sum(axis=1) == 400).all() for block in blocks)


def test_the_p_value_holds_its_level_where_there_is_no_difference() -> None:
    generator = np.random.default_rng(3)
    pairs = generator.normal(size=(200, 2, 60))
    p_values = [paired_bootstrap(one, two, resamples=200).p for one, two in pairs]
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.11


def test_statistics_of_sums() -> None:
    counts = np.array([[1.0, 2.0], [1.0, 4.0], [3.0, 4.0]])

    def ratio(totals: np.ndarray, images: int) -> np.ndarray:
        return totals[:, 0] / totals[:, 1]

    found = paired_bootstrap(counts, counts * [2, 1], ratio, resamples=200)
    assert (found.first, found.second) == (pytest.approx(0.5), pytest.approx(1))
    assert found.low > 0


def test_trainings_that_differ_widen_the_interval_as_much_as_new_trainings_would() -> None:
    levels = np.array([[50.0, 52.0, 54.0, 51.0, 58.0], [60.0, 60.5, 63.0, 61.0, 66.0]])
    first, second = ([np.full(400, level) for level in own] for own in levels)
    found = bootstrap_over_seeds(first, second, resamples=4000)
    assert found.difference == pytest.approx(levels[1].mean() - levels[0].mean())
    error = np.sqrt((levels.var(axis=1, ddof=1) / 5).sum())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    paired = paired_bootstrap(first[0], second[0], resamples=200)
    assert (paired.low, paired.high) == (10, 10), "one training of each is always itself"


def test_images_are_drawn_together_for_all_trainings() -> None:
    """Systems that differ by the same on each image: only the trainings vary."""
    first = [VALUES + shift for shift in (0.0, 2.0)]
    second = [VALUES + shift for shift in (5.0, 7.0, 9.0)]
    found = bootstrap_over_seeds(first, second, resamples=2000)
    assert found.difference == pytest.approx(6)
    assert (found.low, found.high) == (pytest.approx(3), pytest.approx(9))
