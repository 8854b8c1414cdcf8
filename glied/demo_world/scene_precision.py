"""What a caption says of a scene that is not so: objects, colors and relations, in the demo world's language.

Recall asks whether a caption names what is there, and rewards a caption that names everything. Precision asks
whether what it names is there. Captions are read with the words of `glied.demo_world.language`, as those were
written: noun phrases, colors before them (people: of what they wear), and the words between two of them.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glied.demo_world.catalog import CLASSES, COLORS, PATTERNS, PEOPLE, SIZES
from glied.demo_world.language import (
    ADJECTIVES,
    GARMENTS,
    INVERSE,
    NOUNS,
    PRONOUNS,
    RELATION_WORDS,
    VERBS,
    plural,
)
from glied.text.tokenizer import tokenize

CRITERIA = ("objects", "colors", "relations")
Box = Sequence[float]

_STUFF: dict[str, Sequence[str]] = {
    "sea": ("sea", "ocean"),
    "building": ("building", "buildings"),
    "mountain": ("mountain", "mountains"),
    "cloud": ("cloud", "clouds"),
    **{
        name: (name,)
        for name in ("pond", "window", "counter", "rug", "moon", "sun", "sidewalk", "path", "wall")
    },
}
_OBJECTS = frozenset(CLASSES)
_MEANINGS = {word: usual for usual, words in ADJECTIVES.items() for word in words}
_ADJECTIVES = frozenset((*COLORS, *SIZES, *PATTERNS, *_MEANINGS))
_DETERMINERS = frozenset(("a", "an", "the", "two", "three", "four"))
_VERBS = frozenset(("is", "are", "that", "swimming", *(word for words in VERBS.values() for word in words)))
_PRONOUNS = frozenset((*PRONOUNS.values(), "it"))
_WORN = frozenset((*GARMENTS.values(), *map(plural, GARMENTS.values())))
_INVERSE = {**INVERSE, "on": "under", "above": "under", "under": "above"}
_VAGUE = ("with", "and")
"""Words of "holding" that say no relation by themselves."""


def _by_words(meanings: Mapping[str, Sequence[str]]) -> dict[tuple[str, ...], frozenset[str]]:
    """What each phrase may mean, from the phrases of each meaning."""
    found: dict[tuple[str, ...], set[str]] = {}
    for meaning, phrases in meanings.items():
        for phrase in phrases:
            found.setdefault(tuple(phrase.split()), set()).add(meaning)
    return {words: frozenset(several) for words, several in found.items()}


_FORMS: dict[str, Sequence[str]] = {
    kind: [form for noun in NOUNS.get(kind, (kind,)) for form in (noun, plural(noun))] for kind in CLASSES
}
_NOUNS = _by_words({**_FORMS, **_STUFF})
_RELATIONS = _by_words(
    {name: [words for words in several if words not in _VAGUE] for name, several in RELATION_WORDS.items()}
)
_LONGEST = max(map(len, _NOUNS))


@dataclass(frozen=True)
class Mention:
    """A noun phrase of a caption.

    Attributes:
        kinds: what it may be, "vehicle" being several.
        colors: said of it.
        start: place of its first word, determiner included.
        end: place after its last word.
    """

    kinds: frozenset[str]
    colors: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Said:
    """That one thing stands in a relation to another; what it may be, `relations`, depends on the word."""

    subject: Mention
    relations: frozenset[str]
    partner: Mention


@dataclass(frozen=True)
class Thing:
    """An object or a stretch of stuff of a scene."""

    kind: str
    color: str | None
    box: Box


def precision(captions: Mapping[str, str], scenes: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Share x 100 of what captions name that is so, by criterion, and how much they name, "named ...", each.

    A criterion of which nothing is named has no share.

    Args:
        captions: by image.
        scenes: by image, as the lines of annotations.jsonl.
    """
    named, right = dict.fromkeys(CRITERIA, 0), dict.fromkeys(CRITERIA, 0)
    for image, caption in captions.items():
        for criterion, so in judged(caption, scenes[image]):
            named[criterion] += 1
            right[criterion] += so
    shares = {
        criterion: 100 * right[criterion] / named[criterion] for criterion in CRITERIA if named[criterion]
    }
    return shares | {f"named {criterion}": named[criterion] / len(captions) for criterion in CRITERIA}


def judged(caption: str, scene: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Everything that a caption says of a scene: the criterion, and whether it is so."""
    things = [
        Thing(one["class"], next((a for a in one["attributes"] if a in COLORS), None), one["box"])
        for one in scene["objects"]
    ]
    words = tokenize(caption)
    found = mentions(words)
    for mention in found:
        those = [thing for thing in things if thing.kind in mention.kinds]
        yield "objects", bool(those)
        for color in mention.colors:
            yield "colors", any(thing.color == color for thing in those)
    told = {(i, relation, j) for i, relation, j in scene["relations"]}
    told |= {(j, _INVERSE[relation], i) for i, relation, j in told if relation in _INVERSE}
    for said in relations(words, found):
        yield "relations", _holds(said, things, told)


def mentions(words: Sequence[str]) -> list[Mention]:
    """The noun phrases of a caption, in order."""
    found: list[Mention] = []
    place = 0
    while place < len(words):
        length = next((n for n in range(_LONGEST, 0, -1) if tuple(words[place : place + n]) in _NOUNS), 0)
        if length:
            found.append(_mention(words, place, place + length, found[-1].end if found else 0))
            place = found[-1].end
        else:
            place += 1
    return found


def _mention(words: Sequence[str], noun: int, end: int, earliest: int) -> Mention:
    kinds, start = _NOUNS[tuple(words[noun:end])], noun
    while start > earliest and words[start - 1] in _ADJECTIVES:
        start -= 1
    adjectives = words[start:noun]
    if start > earliest and words[start - 1] in _DETERMINERS:
        start -= 1
    if kinds & PEOPLE:
        adjectives, end = _worn(words, end)
    colors = (_MEANINGS.get(word, word) for word in adjectives)
    return Mention(kinds, tuple(color for color in colors if color in COLORS), start, end)


def _worn(words: Sequence[str], end: int) -> tuple[Sequence[str], int]:
    """The adjectives of "in a red shirt" behind a person, if that follows, and where it ends."""
    if words[end : end + 1] != ["in"]:
        return (), end
    first = end + 1 + (words[end + 1 : end + 2] == ["a"])
    last = first
    while last < len(words) and words[last] in _ADJECTIVES:
        last += 1
    return (words[first:last], last + 1) if words[last : last + 1] and words[last] in _WORN else ((), end)


def relations(words: Sequence[str], found: Sequence[Mention]) -> Iterator[Said]:
    """What a caption says of one object and the next: "a dog on a sofa", "a sofa with a dog on it".

    Walls, ponds and the like are no partners: where they begin and end is no question of boxes.
    """
    for first, second in itertools.pairwise(found):
        if not first.kinds | second.kinds <= _OBJECTS:
            continue
        between = _meaning(words[first.end : second.start])
        if between:
            yield Said(first, between, second)
        elif words[first.end : second.start] == ["with"]:
            rest = words[second.end :]
            pronoun = next((place for place, word in enumerate(rest) if word in _PRONOUNS), None)
            after = _meaning(rest[:pronoun]) if pronoun is not None else None
            if after:
                yield Said(second, after, first)


def _meaning(words: Sequence[str]) -> frozenset[str] | None:
    """What the words between two noun phrases may mean, verbs aside."""
    return _RELATIONS.get(tuple(word for word in words if word not in _VERBS))


def _holds(said: Said, things: Sequence[Thing], told: set[tuple[int, str, int]]) -> bool:
    return any(
        (i, relation, j) in told or _looks(relation, one.box, other.box)
        for i, one in enumerate(things)
        if one.kind in said.subject.kinds
        for j, other in enumerate(things)
        if other.kind in said.partner.kinds and i != j
        for relation in said.relations
    )


def _looks(relation: str, one: Box, other: Box) -> bool:
    """Whether the boxes [x1, y1, x2, y2] look like it; generous, as a speaker is."""
    width, middle = one[2] - one[0], (one[0] + one[2]) / 2
    over = one[0] < other[2] and other[0] < one[2]
    if relation == "left of":
        return middle < other[0]
    if relation == "right of":
        return middle > other[2]
    if relation == "next to":
        gap = max(one[0], other[0]) - min(one[2], other[2])
        return gap < max(width, other[2] - other[0]) and one[1] < other[3] and other[1] < one[3]
    if relation in ("in front of", "behind"):
        return over and ((one[3] > other[3]) == (relation == "in front of"))
    if relation == "above":
        return over and one[3] < (other[1] + other[3]) / 2
    return relation == "under" and over and one[1] > (other[1] + other[3]) / 2
