"""Precision of captions of the demo world: whether the objects, colors and relations they mention are true.

Recall measures whether a caption mentions what is in the scene, and favors captions that mention everything.
Precision measures whether what it mentions is in the scene. Captions are parsed with the vocabulary of
`glied.demo_world.language`: noun phrases, colors before them (for people, of their clothes), and the words
between two noun phrases.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glied.demo_world.catalog import CLASSES, COLORS, PATTERNS, PEOPLE, SIZES
from glied.demo_world.language import plural
from glied.demo_world.scene_words import (
    ADJECTIVES,
    GARMENTS,
    INVERSE,
    NOUNS,
    PRONOUNS,
    RELATION_WORDS,
    VERBS,
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
"""Words for "holding" that do not state a relation by themselves."""


def _by_words(meanings: Mapping[str, Sequence[str]]) -> dict[tuple[str, ...], frozenset[str]]:
    """Index the possible meanings of each phrase, given the phrases of each meaning."""
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
        kinds: possible classes; "vehicle", for example, has several.
        colors: colors in the phrase.
        start: index of its first word, including the determiner.
        end: index after its last word.
    """

    kinds: frozenset[str]
    colors: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True)
class StatedRelation:
    """A stated relation between two mentions; `relations` are the possible meanings of its words."""

    subject: Mention
    relations: frozenset[str]
    partner: Mention


@dataclass(frozen=True)
class SceneElement:
    """An object or a stuff area of a scene."""

    kind: str
    color: str | None
    box: Box


def precision(captions: Mapping[str, str], scenes: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Compute the share x 100 of true statements by criterion, and the statements per caption, "named ...".

    A criterion without statements has no share.

    Args:
        captions: caption by image.
        scenes: scene by image, as in the lines of annotations.jsonl.
    """
    named, right = dict.fromkeys(CRITERIA, 0), dict.fromkeys(CRITERIA, 0)
    for image, caption in captions.items():
        for criterion, so in statements(caption, scenes[image]):
            named[criterion] += 1
            right[criterion] += so
    shares = {
        criterion: 100 * right[criterion] / named[criterion] for criterion in CRITERIA if named[criterion]
    }
    return shares | {f"named {criterion}": named[criterion] / len(captions) for criterion in CRITERIA}


def statements(caption: str, scene: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the statements of a caption about a scene: criterion, and whether the statement is true."""
    elements = [
        SceneElement(one["class"], next((a for a in one["attributes"] if a in COLORS), None), one["box"])
        for one in scene["objects"]
    ]
    words = tokenize(caption)
    found = mentions(words)
    for mention in found:
        matching = [thing for thing in elements if thing.kind in mention.kinds]
        yield "objects", bool(matching)
        for color in mention.colors:
            yield "colors", any(thing.color == color for thing in matching)
    annotated = {(i, relation, j) for i, relation, j in scene["relations"]}
    annotated |= {(j, _INVERSE[relation], i) for i, relation, j in annotated if relation in _INVERSE}
    for stated in relations(words, found):
        yield "relations", _is_true(stated, elements, annotated)


def mentions(words: Sequence[str]) -> list[Mention]:
    """Find the noun phrases of a caption, in order."""
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
        adjectives, end = _clothing_colors(words, end)
    colors = (_MEANINGS.get(word, word) for word in adjectives)
    return Mention(kinds, tuple(color for color in colors if color in COLORS), start, end)


def _clothing_colors(words: Sequence[str], end: int) -> tuple[Sequence[str], int]:
    """Parse clothing after a person ("in a red shirt"): its adjectives, and the end index."""
    if words[end : end + 1] != ["in"]:
        return (), end
    first = end + 1 + (words[end + 1 : end + 2] == ["a"])
    last = first
    while last < len(words) and words[last] in _ADJECTIVES:
        last += 1
    return (words[first:last], last + 1) if words[last : last + 1] and words[last] in _WORN else ((), end)


def relations(words: Sequence[str], found: Sequence[Mention]) -> Iterator[StatedRelation]:
    """Yield the relations stated between consecutive objects: "a dog on a sofa", "a sofa with a dog on it".

    Stuff such as walls and ponds is ignored, because boxes do not describe its extent.
    """
    for first, second in itertools.pairwise(found):
        if not first.kinds | second.kinds <= _OBJECTS:
            continue
        between = _meaning(words[first.end : second.start])
        if between:
            yield StatedRelation(first, between, second)
        elif words[first.end : second.start] == ["with"]:
            rest = words[second.end :]
            pronoun = next((place for place, word in enumerate(rest) if word in _PRONOUNS), None)
            after = _meaning(rest[:pronoun]) if pronoun is not None else None
            if after:
                yield StatedRelation(second, after, first)


def _meaning(words: Sequence[str]) -> frozenset[str] | None:
    """Return the possible meanings of the words between two noun phrases, ignoring verbs."""
    return _RELATIONS.get(tuple(word for word in words if word not in _VERBS))


def _is_true(
    stated: StatedRelation, elements: Sequence[SceneElement], annotated: set[tuple[int, str, int]]
) -> bool:
    return any(
        (i, relation, j) in annotated or _boxes_satisfy(relation, one.box, other.box)
        for i, one in enumerate(elements)
        if one.kind in stated.subject.kinds
        for j, other in enumerate(elements)
        if other.kind in stated.partner.kinds and i != j
        for relation in stated.relations
    )


def _boxes_satisfy(relation: str, one: Box, other: Box) -> bool:
    """Whether the boxes [x1, y1, x2, y2] satisfy a relation, with tolerance as in everyday language."""
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
