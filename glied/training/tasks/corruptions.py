"""Makes captions ungrammatical, as negatives of the grammar head.

The first five kinds are those of Cho et al. (arXiv 2205.13115, section 3.2). "duplicate" and "loop" are ours.
They imitate what a CLIP reward drives captions to, such as "a white kite with a white kite" and "on a beach
on a beach on a beach", whose pairs of neighboring words all occur in correct captions.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from glied.clip.grammar_head import CORRUPTIONS

Words = list[str]

LONGEST_NGRAM = 3
MOST_TIMES = 3
LOOP_SPAN, LOOP_TIMES = (2, 5), (3, 6)
LONGEST_LOOP = 40
"""In words; the context of a CLIP would truncate a longer loop."""
_TRIES = 20
_BOUNDARY = ""
_JOINTS = ("with", "and", "next to", "on", "in", "near", "of", "in front of")
_DETERMINERS = frozenset(("a", "an", "the", "one", "two", "three", "four", "some", "several", "his", "her"))
_PHRASE = (2, 4)
_PHRASES = ("duplicate", "loop")
"""Kinds whose pairs of neighboring words may all occur in correct captions."""


@dataclass(frozen=True)
class Corruptor:
    """Corrupts correct captions.

    Removing or inserting a word often leaves a correct caption ("a red dog" without "red"), which cannot be
    recognized. So the published kinds are drawn again until some pair of neighboring words occurs in no
    correct caption. Triples are less reliable: one in twelve correct captions of the demo world has a unique
    one.

    Attributes:
        words: all words of correct captions, for insertions and swaps.
        neighbors: all pairs of neighboring words of correct captions; "" is the begin and the end.
    """

    words: tuple[str, ...]
    neighbors: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, captions: Iterable[str]) -> "Corruptor":
        """Collects the words and neighbors of correct captions, whose words are separated by blanks."""
        neighbors = {pair for caption in captions for pair in _neighbors(caption.split())}
        words = sorted({word for pair in neighbors for word in pair} - {_BOUNDARY})
        assert words, "no captions"
        return cls(tuple(words), frozenset(neighbors))

    def __call__(self, caption: str, kind: str, rng: random.Random, *, once: bool = False) -> str:
        """Returns the caption after a corruption; it always differs from the caption.

        Where a kind changes nothing, such as shuffling a single word, words are repeated instead.

        Args:
            caption: a correct caption.
            kind: of the corruption, one of `CORRUPTIONS`.
            rng: source of randomness.
            once: accept the first different caption, correct or not, as published.
        """
        original, last = caption.split(), None
        for _ in range(_TRIES):
            found = _MAKERS[kind](original, self.words, rng)
            if found and found != original:
                last = found
                if once or kind in _PHRASES or not self.neighbors.issuperset(_neighbors(found)):
                    break
        return " ".join(last or _repeat(original, self.words, rng))

    def faults(self, caption: str, kind: str | None) -> list[bool]:
        """For each word, and for the end of the caption, whether it is wrong at its position.

        A word is wrong after a word that it never follows in correct captions; in a duplicate or a loop also
        where the pair of both words has occurred before. `kind` is None for a correct caption.
        """
        found, seen = [], set()
        for pair in _neighbors(caption.split()):
            found.append(pair not in self.neighbors or (kind in _PHRASES and pair in seen))
            seen.add(pair)
        return found


def _neighbors(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip([_BOUNDARY, *words], [*words, _BOUNDARY], strict=True))


def _span(words: Words, longest: int, rng: random.Random) -> tuple[int, int]:
    """First and last (exclusive) place of an n-gram of 1 to `longest` words."""
    length = rng.randint(1, min(longest, len(words)))
    start = rng.randint(0, len(words) - length)
    return start, start + length


def _repeat(words: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    """An n-gram once more at 1-3 random places."""
    start, end = _span(words, LONGEST_NGRAM, rng)
    found = list(words)
    for _ in range(rng.randint(1, MOST_TIMES)):
        place = rng.randint(0, len(found))
        found[place:place] = words[start:end]
    return found


def _remove(words: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    """One n-gram less, never all."""
    start, end = _span(words, min(LONGEST_NGRAM, max(1, len(words) - 1)), rng)
    return words[:start] + words[end:]


def _insert(words: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    """1-3 random words, each at a random place."""
    found = list(words)
    for _ in range(rng.randint(1, MOST_TIMES)):
        found.insert(rng.randint(0, len(found)), rng.choice(vocabulary))
    return found


def _swap(words: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    """1-3 words replaced by random ones."""
    found = list(words)
    for place in rng.sample(range(len(words)), min(rng.randint(1, MOST_TIMES), len(words))):
        found[place] = rng.choice(vocabulary)
    return found


def _shuffle(words: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    """All words in random order."""
    return rng.sample(words, len(words))


def _duplicate(words: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    """A phrase, where possible one that begins with a determiner, once more behind "with", "and", "on" ..."""
    starts = [place for place, word in enumerate(words[:-1]) if word in _DETERMINERS] or [
        rng.randrange(len(words))
    ]
    start = rng.choice(starts)
    end = start + rng.randint(*_PHRASE)
    return [*words[:end], *rng.choice(_JOINTS).split(), *words[start:end], *words[end:]]


def _loop(words: Words, vocabulary: Sequence[str], rng: random.Random) -> Words:
    """A span that comes 3-6 times in a row, after which the caption goes on or not."""
    length = min(rng.randint(*LOOP_SPAN), len(words))
    start = rng.randint(0, len(words) - length)
    span = words[start : start + length]
    looped = words[:start] + span * rng.randint(*LOOP_TIMES)
    rest = words[start + length :] if rng.random() < 0.5 else []
    return (looped + rest)[: max(LONGEST_LOOP, len(words) + length)]


_MAKERS: dict[str, Callable[[Words, Sequence[str], random.Random], Words]] = {
    "repeat": _repeat,
    "remove": _remove,
    "insert": _insert,
    "swap": _swap,
    "shuffle": _shuffle,
    "duplicate": _duplicate,
    "loop": _loop,
}
assert tuple(_MAKERS) == CORRUPTIONS
