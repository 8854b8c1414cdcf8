"""Reference-free figures of a set of captions: repetition, vocabulary, length, novelty."""

from collections.abc import Collection, Iterable

from glied.text.repetition import repeated_share
from glied.text.tokenizer import tokenize

ORDERS = (1, 2, 3, 4)


def diversity(captions: Iterable[str], training: Iterable[str] | None = None) -> dict[str, float]:
    """Compute figures over the captions that are not empty.

    captions, empty: numbers of all and of empty captions. vocabulary: number of distinct words. length: mean
    number of words. distinct: share of distinct captions. repeats-n: share of captions that repeat an n-gram.
    rep-n: mean share of a caption's n-grams that repeat an earlier one (seq-rep-n of Welleck et al. 2020).
    novel: share of captions that equal no training caption word for word. Shares are x 100.

    Args:
        captions: raw captions, empty for images without one.
        training: raw captions of the training set; without them, novel is omitted.
    """
    every = [tuple(tokenize(caption)) for caption in captions]
    tokens = [words for words in every if words]
    count = len(tokens)
    figures: dict[str, float] = {"captions": len(every), "empty": len(every) - count}
    figures["vocabulary"] = len({word for words in tokens for word in words})
    if not count:
        return figures
    figures["length"] = sum(map(len, tokens)) / count
    figures["distinct"] = 100 * len(set(tokens)) / count
    for order in ORDERS:
        shares = [repeated_share(words, order) for words in tokens]
        figures[f"repeats-{order}"] = 100 * sum(share > 0 for share in shares) / count
        figures[f"rep-{order}"] = 100 * sum(shares) / count
    if training is not None:
        figures["novel"] = 100 * _novel(tokens, {tuple(tokenize(caption)) for caption in training}) / count
    return figures


def _novel(captions: Iterable[tuple[str, ...]], training: Collection[tuple[str, ...]]) -> int:
    return sum(words not in training for words in captions)
