"""Repetition within a caption."""

from collections.abc import Sequence


def repeated_share(words: Sequence[str], order: int) -> float:
    """Return 1 - distinct n-grams / n-grams of a caption, n = `order`; 0 if it has fewer than n words."""
    ngrams = [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
