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
        noun: indices of the words of its noun.
        look: indices of its adjectives, for people those of the clothing.
    """

    kinds: frozenset[str]
    colors: tuple[str, ...]
    start: int
    end: int
    noun: range
    look: range


@dataclass(frozen=True)
class StatedRelation:
    """A stated relation between two mentions.

    Attributes:
        subject: what is somewhere.
        relations: possible meanings of its words.
        partner: where that is.
        words: indices of its words, without verbs.
    """

    subject: Mention
    relations: frozenset[str]
    partner: Mention
    words: tuple[int, ...]


@dataclass(frozen=True)
class SceneElement:
    """An object or a stuff area of a scene."""

    kind: str
    color: str | None
    box: Box


@dataclass(frozen=True)
class SceneFacts:
    """What is true of a scene.

    Attributes:
        elements: objects and stuff.
        annotated: relations as (index, relation, index), from both sides.
    """

    elements: Sequence[SceneElement]
    annotated: frozenset[tuple[int, str, int]]

    @classmethod
    def of(cls, scene: Mapping[str, Any]) -> "SceneFacts":
        """Those of a line of annotations.jsonl."""
        elements = [
            SceneElement(one["class"], next((a for a in one["attributes"] if a in COLORS), None), one["box"])
            for one in scene["objects"]
        ]
        annotated = {(i, relation, j) for i, relation, j in scene["relations"]}
        annotated |= {(j, _INVERSE[relation], i) for i, relation, j in annotated if relation in _INVERSE}
        return cls(elements, frozenset(annotated))

    def of_kinds(self, kinds: frozenset[str]) -> list[SceneElement]:
        """The elements of these classes."""
        return [one for one in self.elements if one.kind in kinds]

    def pairs(self, stated: StatedRelation) -> Iterator[tuple[int, int]]:
        """Indices of elements that a stated relation may be about."""
        for i, one in enumerate(self.elements):
            for j, other in enumerate(self.elements):
                if i != j and one.kind in stated.subject.kinds and other.kind in stated.partner.kinds:
                    yield i, j

    def holds(self, stated: StatedRelation) -> bool:
        """Whether a stated relation is true."""
        return any(
            (i, relation, j) in self.annotated
            or _boxes_satisfy(relation, self.elements[i].box, self.elements[j].box)
            for i, j in self.pairs(stated)
            for relation in stated.relations
        )


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
    facts, words = SceneFacts.of(scene), tokenize(caption)
    found = mentions(words)
    for mention in found:
        matching = facts.of_kinds(mention.kinds)
        yield "objects", bool(matching)
        for color in mention.colors:
            yield "colors", any(thing.color == color for thing in matching)
    for stated in relations(words, found):
        yield "relations", facts.holds(stated)


def mentions(words: Sequence[str]) -> list[Mention]:
    """Find the noun phrases of a caption, in order."""
    found: list[Mention] = []
    place = 0
    while place < len(words):
        longest = min(_LONGEST, len(words) - place)
        length = next((n for n in range(longest, 0, -1) if tuple(words[place : place + n]) in _NOUNS), 0)
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
    look, named = range(start, noun), range(noun, end)
    if start > earliest and words[start - 1] in _DETERMINERS:
        start -= 1
    if kinds & PEOPLE:
        look, end = _clothing(words, end)
    colors = (color_of(words[place]) for place in look)
    return Mention(kinds, tuple(color for color in colors if color), start, end, named, look)


def color_of(word: str) -> str | None:
    """The color that an adjective names: "gray" for "grey"; None for other words."""
    meaning = _MEANINGS.get(word, word)
    return meaning if meaning in COLORS else None


def _clothing(words: Sequence[str], end: int) -> tuple[range, int]:
    """Parse clothing after a person ("in a red shirt"): the places of its adjectives, and the end index."""
    nothing = range(end, end)
    if words[end : end + 1] != ["in"]:
        return nothing, end
    first = end + 1 + (words[end + 1 : end + 2] == ["a"])
    last = first
    while last < len(words) and words[last] in _ADJECTIVES:
        last += 1
    worn = words[last : last + 1] and words[last] in _WORN
    return (range(first, last), last + 1) if worn else (nothing, end)


def relations(words: Sequence[str], found: Sequence[Mention]) -> Iterator[StatedRelation]:
    """Yield the relations stated between consecutive objects: "a dog on a sofa", "a sofa with a dog on it".

    Stuff such as walls and ponds is ignored, because boxes do not describe its extent.
    """
    for first, second in itertools.pairwise(found):
        if not first.kinds | second.kinds <= _OBJECTS:
            continue
        between = _stated(words, range(first.end, second.start))
        if between:
            yield StatedRelation(first, between[0], second, between[1])
        elif words[first.end : second.start] == ["with"]:
            pronoun = next((n for n in range(second.end, len(words)) if words[n] in _PRONOUNS), second.end)
            after = _stated(words, range(second.end, pronoun))
            if after:
                yield StatedRelation(second, after[0], first, after[1])


def _stated(words: Sequence[str], places: range) -> tuple[frozenset[str], tuple[int, ...]] | None:
    """The possible meanings of the words between two noun phrases, ignoring verbs, and their places."""
    stating = tuple(place for place in places if words[place] not in _VERBS)
    meanings = relation_meanings([words[place] for place in stating])
    return (meanings, stating) if meanings else None


def relation_meanings(words: Sequence[str]) -> frozenset[str] | None:
    """The possible meanings of the words of a relation; None for other words."""
    return _RELATIONS.get(tuple(words))


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
