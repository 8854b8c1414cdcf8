import random
from collections import Counter

import pytest

from glied.clip.grammar_head import CORRUPTIONS
from glied.training.tasks.corruptions import LONGEST_LOOP, Corruptor

CAPTIONS = [
    "a red dog on a sandy beach",
    "a small dog next to a white kite",
    "two white kites in the sky with a man on the beach",
    "a man holding a red umbrella in the snow and a small brown dog to the left of the man",
]
CORRUPTOR = Corruptor.of(CAPTIONS)
SEEDS = range(60)


def broken(kind: str) -> list[tuple[list[str], list[str]]]:
    """Yield the words of captions and of their corruptions of a kind, for several seeds."""
    return [
        (text.split(), CORRUPTOR(text, kind, random.Random(seed)).split())
        for text in CAPTIONS
        for seed in SEEDS
    ]


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("caption", [*CAPTIONS, "dog", "dog dog", "dog dog dog"])
def test_corruptions_differ_from_their_caption_and_depend_on_the_seed(kind: str, caption: str):
    for seed in SEEDS:
        found = CORRUPTOR(caption, kind, random.Random(seed))
        assert found.split() not in ([], caption.split())
        assert found == CORRUPTOR(caption, kind, random.Random(seed))


@pytest.mark.parametrize("kind", ["repeat", "remove", "insert", "swap", "shuffle"])
def test_corruptions_have_pairs_of_words_that_no_correct_caption_has(kind: str):
    for _, found in broken(kind):
        pairs = set(zip(["", *found], [*found, ""], strict=True))
        assert not pairs <= CORRUPTOR.neighbors


def test_a_single_draw_may_leave_a_correct_caption():
    found = {CORRUPTOR("a small dog", "remove", random.Random(seed), once=True) for seed in range(60)}
    assert "a small" in found
    assert "small dog" in found
    known = Corruptor.of([*CAPTIONS, "a dog", "a small dog", "small dog"])
    found = {known("a small dog", "remove", random.Random(seed), once=True) for seed in range(60)}
    assert "a dog" in found
    assert "a dog" not in {known("a small dog", "remove", random.Random(seed)) for seed in range(60)}


def test_labels_mark_words_that_cannot_follow_or_are_repeated():
    assert CORRUPTOR.faults("a red dog on a sandy beach", None) == [False] * 8
    assert CORRUPTOR.faults("a red on a sandy", "remove") == [False, False, True, False, False, True]
    twice = "a small dog next to a small dog next to a white kite"
    assert not any(CORRUPTOR.faults(twice, None))
    again = [place for place, fault in enumerate(CORRUPTOR.faults(twice, "duplicate")) if fault]
    assert again == [6, 7, 8, 9, 10]


def test_repeat_puts_1_to_3_words_in_1_to_3_times():
    added = [len(found) - len(words) for words, found in broken("repeat")]
    assert set(added) == {1, 2, 3, 4, 6, 9}
    assert all(not Counter(words) - Counter(found) for words, found in broken("repeat"))


def test_remove_takes_1_to_3_neighbors_out():
    for words, found in broken("remove"):
        assert 1 <= len(words) - len(found) <= 3
        cut = next(i for i in range(len(found) + 1) if i == len(found) or words[i] != found[i])
        lengths = range(cut + 1)
        assert any(words[:start] + words[start + len(words) - len(found) :] == found for start in lengths)
    assert {len(words) - len(found) for words, found in broken("remove")} == {1, 2, 3}


def test_insert_adds_1_to_3_known_words():
    for words, found in broken("insert"):
        added = Counter(found) - Counter(words)
        assert 1 <= added.total() == len(found) - len(words) <= 3
        assert set(added) <= set(CORRUPTOR.words)


def test_swap_changes_up_to_3_words_in_place():
    changed = [sum(map(str.__ne__, words, found)) for words, found in broken("swap")]
    assert set(changed) == {1, 2, 3}
    assert all(len(words) == len(found) for words, found in broken("swap"))


def test_shuffle_keeps_the_words():
    assert all(sorted(words) == sorted(found) for words, found in broken("shuffle"))


def test_duplicate_says_a_phrase_again_behind_a_joint():
    caption = "a white kite"
    found = {CORRUPTOR(caption, "duplicate", random.Random(seed)) for seed in range(300)}
    assert "a white kite with a white kite" in found
    assert "a white kite next to a white kite" in found
    for words, one in broken("duplicate"):
        assert 3 <= len(one) - len(words) <= 7
        assert not Counter(words) - Counter(one)


def test_loop_repeats_a_span_3_to_6_times_without_end():
    for words, found in broken("loop"):
        assert len(found) <= max(LONGEST_LOOP, len(words) + 5)
        spans = ((start, length) for length in range(2, 6) for start in range(len(found) - 3 * length + 1))
        assert any(
            found[start : start + length] * 3 == found[start : start + 3 * length] for start, length in spans
        )
