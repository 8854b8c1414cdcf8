"""How much a caption repeats itself."""

from collections.abc import Sequence


def repeated_share(words: Sequence[str], order: int) -> float:
    """1 - distinct n-grams / n-grams of one caption, n = `order`; 0 for a caption shorter than n."""
    ngrams = [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
