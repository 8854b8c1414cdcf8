"""Captions that repeat themselves."""

import pytest

from glied.text.repetition import repeated_share, repeats


@pytest.mark.parametrize(
    "text",
    ["a dog a dog", "no no no", "a man on a bed on a bed", "a b c d e f a b c d x y"],
)
def test_repetition_is_found(text):
    assert repeats(text.split())


@pytest.mark.parametrize(
    "text",
    ["", "a", "the the", "side by side", "a cat sits on the mat and a dog lies on the floor"],
)
def test_ordinary_captions_do_not_repeat(text):
    assert not repeats(text.split())


def test_a_long_text_may_use_a_phrase_twice():
    words = [f"w{number}" for number in range(60)]
    words[10:14] = words[50:54] = ["on", "the", "left", "of"]
    assert repeated_share(words, 4) > 0
    assert not repeats(words)
