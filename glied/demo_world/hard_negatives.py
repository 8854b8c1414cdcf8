"""False variants of the true captions of a scene, each wrong in one relation, one color or one object.

A CLIP that is trained on pairs alone hardly looks at relations: objects and colors find the right scene of a
batch. So each variant is wrong in one place only, and most are as plausible as the true caption.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from glied.demo_world.catalog import (
    AIR_KINDS,
    CLASSES,
    COLOR_WEIGHTS,
    PEOPLE,
    POPULATION,
    TABLETOP_KINDS,
    WALL_KINDS,
    WATER_KINDS,
)
from glied.demo_world.language import article, plural, verb_for
from glied.demo_world.plan import Item
from glied.demo_world.relations import RELATIONS, may_relate
from glied.demo_world.scene_precision import (
    Box,
    Mention,
    SceneFacts,
    StatedRelation,
    color_of,
    mentions,
    relation_meanings,
    relations,
)
from glied.demo_world.scene_words import GARMENTS, NOUNS, NUMBERS, PRONOUNS, RELATION_WORDS, VERBS

KINDS = ("relation", "color", "object")
MOST = 2
"""Most variants of a caption of each kind."""
_PLACES = (AIR_KINDS, WATER_KINDS, WALL_KINDS, TABLETOP_KINDS)
_ARTICLES = frozenset(("a", "an"))
_SEVERAL = frozenset(NUMBERS.values()) - _ARTICLES
_PARTICIPLES = frozenset(word for words in VERBS.values() for word in words)
_ACTIONS = frozenset(("holding", "riding"))
"""Relations of people, which cannot follow a participle."""

Edit = Mapping[int, Sequence[str]]
"""New words by the index of the word that they replace."""


def hard_negatives(row: Mapping[str, Any], rng: random.Random) -> dict[str, dict[str, list[str]]]:
    """False variants by kind of mistake, and by true caption or part of one.

    Args:
        row: the scene as a line of annotations.jsonl.
        rng: chooses among the variants.

    Returns:
        For each of `KINDS`, the variants of the main clause and of the groups of the description, which stand
        in the description and in selections of its clauses, and of the references; without empty entries.
    """
    main, _, _, *groups = row["clauses"]
    captions = dict.fromkeys([main, *(one.removeprefix("with ") for one in groups), *row["captions"]])
    editor = Editor(SceneFacts.of(row), POPULATION[row["place"]], rng)
    found: dict[str, dict[str, list[str]]] = {}
    for caption in captions:
        for kind, variants in editor.variants(caption).items():
            if variants:
                found.setdefault(kind, {})[caption] = variants
    return found


@dataclass(frozen=True)
class Editor:
    """Makes captions of a scene false.

    Attributes:
        facts: what is true.
        population: how often kinds of objects occur in such places.
        rng: chooses among the variants.
    """

    facts: SceneFacts
    population: Mapping[str, float]
    rng: random.Random

    def variants(self, caption: str) -> dict[str, list[str]]:
        """Up to `MOST` variants of each of `KINDS`."""
        words = [word.rstrip(",") for word in caption.split()]
        found = mentions(words)
        stated = list(relations(words, found))
        edits: dict[str, Iterable[Edit]] = {
            "relation": (edit for one in stated for edit in self._relations(words, one)),
            "color": (edit for one in found if (edit := self._color(words, one))),
            "object": (edit for one in found if (edit := self._object(words, one, stated))),
        }
        return {kind: self._some([edited(caption, one) for one in each]) for kind, each in edits.items()}

    def _some(self, found: Sequence[str]) -> list[str]:
        return self.rng.sample(found, min(MOST, len(found)))

    def _relations(self, words: Sequence[str], stated: StatedRelation) -> list[Edit]:
        """A false relation that these kinds may have, and one that they never have, where there are some.

        A reward drives a captioner to relations that no true caption states, so CLIP must know those, too.
        """
        first, *rest = stated.words
        (subject, *more), (partner, *others) = sorted(stated.subject.kinds), sorted(stated.partner.kinds)
        if more or others:
            return []  # "vehicle"
        acts = subject in PEOPLE and words[first - 1] not in _PARTICIPLES
        names = [name for name in RELATIONS if acts or name not in _ACTIONS]
        false = [name for name in names if self._is_false(stated, name)]
        usual = [name for name in false if may_relate(subject, name, partner)]
        unusual = [name for name in false if name not in usual]
        drawn = [self.rng.choice(several) for several in (usual, unusual) if several]
        return [{first: RELATION_WORDS[name][0].split()} | dict.fromkeys(rest, ()) for name in drawn]

    def _is_false(self, stated: StatedRelation, name: str) -> bool:
        """Whether another relation is false for certain: for sides and depth, the opposite must hold."""
        meanings = relation_meanings(RELATION_WORDS[name][0].split())
        assert meanings is not None, "the first words of a relation state it"
        boxes = [
            (self.facts.elements[i].box, self.facts.elements[j].box) for i, j in self.facts.pairs(stated)
        ]
        holds = self.facts.holds(replace(stated, relations=meanings))
        return not holds and all(_opposite(name, *pair) for pair in boxes)

    def _color(self, words: Sequence[str], mention: Mention) -> Edit | None:
        """Another color that such objects may have, where possible that of another object of the scene."""
        place = next((place for place in mention.look if color_of(words[place])), None)
        if place is None:
            return None
        true = {one.color for one in self.facts.of_kinds(mention.kinds)}
        usual = set.intersection(*(set(COLOR_WEIGHTS[kind]) for kind in mention.kinds))
        new = sorted(usual - true - {color_of(words[place])})
        nearby = [color for color in new if color in {one.color for one in self.facts.elements}]
        return {place: [self.rng.choice(nearby or new)]} if new else None

    def _object(
        self, words: Sequence[str], mention: Mention, stated: Sequence[StatedRelation]
    ) -> Edit | None:
        """Another kind of object that is not in the scene, as similar as possible in what is said of it."""
        old = sorted(mention.kinds)[0]
        people = bool(mention.kinds & PEOPLE)
        if not mention.kinds <= set(CLASSES) or (people and set(words) & set(PRONOUNS.values())):
            return None
        present = {one.kind for one in self.facts.elements}
        new = [kind for kind in CLASSES if kind not in present and (kind in PEOPLE) == people]
        if not new:
            return None
        score = {kind: self._likeness(kind, old, mention, stated) for kind in new}
        kind = self.rng.choice([one for one in new if score[one] == max(score.values())])
        first, *rest = mention.noun
        edit: dict[int, Sequence[str]] = {first: _noun(kind, words, mention).split()}
        if people and mention.end > mention.noun.stop:
            edit[mention.end - 1] = [_garment(kind, words[mention.end - 1])]
        return edit | dict.fromkeys(rest, ())

    def _likeness(self, kind: str, old: str, mention: Mention, stated: Sequence[StatedRelation]) -> int:
        """How well a kind fits where a caption names another; its relations count most, then its place."""
        return (
            4 * all(_may_take_part(kind, mention, one) for one in stated)
            + 3 * all((kind in kinds) == (old in kinds) for kinds in _PLACES)
            + all(color in COLOR_WEIGHTS[kind] for color in mention.colors)
            + (_verb(kind) == _verb(old))
            + (kind in self.population)
        )


def edited(caption: str, edit: Edit) -> str:
    """A caption with some words replaced; commas stay where they are, articles fit the words behind them."""
    new: list[str] = []
    for place, word in enumerate(caption.split()):
        new += edit.get(place, [word.rstrip(",")])
        if word.endswith(","):
            new[-1] += ","
    following = [*new[1:], ""]
    return " ".join(
        article(after) if one in _ARTICLES else one for one, after in zip(new, following, strict=True)
    )


def _opposite(relation: str, one: Box, other: Box) -> bool:
    """Whether boxes rule out a relation even in loose language; True for those that are not about sides."""
    right = one[0] + one[2] >= other[0] + other[2]
    below = one[1] + one[3] >= other[1] + other[3]
    nearer = one[3] >= other[3]
    ruled_out = {"left of": right, "right of": not right, "above": below, "under": not below}
    return (ruled_out | {"behind": nearer, "in front of": not nearer}).get(relation, True)


def _may_take_part(kind: str, mention: Mention, stated: StatedRelation) -> bool:
    """Whether a kind may stand in a relation in place of a mention; True if that takes no part in it."""
    if mention not in (stated.subject, stated.partner):
        return True
    subjects = [kind] if mention == stated.subject else stated.subject.kinds
    partners = [kind] if mention == stated.partner else stated.partner.kinds
    return any(may_relate(a, name, b) for a in subjects for name in stated.relations for b in partners)


def _noun(kind: str, words: Sequence[str], mention: Mention) -> str:
    """The usual noun of a kind, in the plural where the mention is."""
    singular = {noun.split()[-1] for old in mention.kinds for noun in NOUNS.get(old, (old,))}
    several = words[mention.start] in _SEVERAL or words[mention.noun.stop - 1] not in singular
    noun = NOUNS.get(kind, (kind,))[0]
    return plural(noun) if several else noun


def _garment(kind: str, old: str) -> str:
    """The garment of a person of another kind, in the plural where the old one is."""
    return GARMENTS[kind] if old in GARMENTS.values() else plural(GARMENTS[kind])


def _verb(kind: str) -> str:
    return verb_for(Item(kind, ""), None)
