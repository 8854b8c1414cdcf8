import random
from collections import Counter

import pytest
import torch

from glied.data.pairs import Pair
from glied.errors import UsageError
from glied.training.tasks.clip_texts import TextsConfig, all_texts, draw_text, python_random

TEXTS = ["full a b c", "one", "two"]
CLAUSES = ["a", "b", "c", "d"]


def draws(config: TextsConfig, clauses: list[str]) -> Counter[str]:
    rng = random.Random(0)
    return Counter(draw_text(TEXTS, clauses, config, rng) for _ in range(2000))


def test_subsets_keep_the_order_and_leave_clauses_out():
    found = draws(TextsConfig(clauses=1.0), CLAUSES)
    assert set(found) == {
        *("a b", "a c", "a d", "b c", "b d", "c d"),
        *("a b c", "a b d", "a c d", "b c d"),
    }


def test_shares_are_as_configured():
    found = draws(TextsConfig(clauses=0.0, first=0.4), CLAUSES)
    assert set(found) == set(TEXTS)
    assert 0.55 < found[TEXTS[0]] / 2000 < 0.65  # 0.4 plus a third of the rest
    equal = draws(TextsConfig(clauses=1.0, first=0.0), ["the only clause"])
    assert all(0.28 < equal[text] / 2000 < 0.39 for text in TEXTS)


def test_the_generator_determines_the_text():
    first, same, other = (python_random(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    numbers = [rng.random() for rng in (first, same, other)]
    assert numbers[0] == numbers[1] != numbers[2]


def test_all_texts_hold_every_word():
    assert all_texts([Pair("x", TEXTS, CLAUSES)]) == TEXTS + CLAUSES


@pytest.mark.parametrize("name", ["clauses", "first"])
def test_all_proportions_zero_is_refused(name):
    with pytest.raises(UsageError, match=f"texts.{name}: 1.5"):
        TextsConfig(**{name: 1.5})
