"""Repetition within a caption."""

from collections.abc import Sequence

_REPEATED_SHARE = 0.1
"""Share of repeated sequences of four words above which a caption repeats itself."""


def repeated_share(words: Sequence[str], order: int) -> float:
    """Return 1 - distinct n-grams / n-grams of a caption, n = `order`; 0 if it has fewer than n words."""
    ngrams = [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def repeats(words: Sequence[str]) -> bool:
    """Whether a caption repeats itself as degenerate ones do.

    That is: a word three times in a row, several words twice in a row ("on a bed on a bed"), or more than a
    tenth of all sequences of four words being repetitions.
    """
    if repeated_share(words, 4) > _REPEATED_SHARE:
        return True
    lengths = range(1, len(words) // 2 + 1)
    return any(_stutters(words, length, times=3 if length == 1 else 2) for length in lengths)


def _stutters(words: Sequence[str], length: int, *, times: int) -> bool:
    """Whether `length` words stand `times` times in a row."""
    equal = 0  # words in a row that equal those `length` before them
    for place in range(length, len(words)):
        equal = equal + 1 if words[place] == words[place - length] else 0
        if equal == length * (times - 1):
            return True
    return False
