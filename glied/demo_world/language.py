"""What people would say about a scene: five references, one full description, phrases per criterion.

References follow the COCO manner: lowercase, mostly about the salient objects, each by a speaker with words
of their own. The description names everything, with the canonical (first) word of each synonym list. Its
words are the references' words, so that a captioner trained on the references can say all of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glied.demo_world.catalog import AIR_KINDS, INDOOR, PEOPLE, WATER_KINDS
from glied.demo_world.plan import Item, stream
from glied.demo_world.scene_words import (
    ADJECTIVES,
    GARMENTS,
    INDOOR_LIGHT_PHRASES,
    INDOOR_LIGHT_WORDS,
    INVERSE,
    IRREGULAR,
    LIGHT_PHRASES,
    LIGHT_WORDS,
    NOUNS,
    NUMBERS,
    OPENINGS,
    PLACE_PHRASES,
    PLACE_WORDS,
    PRONOUNS,
    RELATION_WORDS,
    REVERSIBLE,
    STUFF_CLAUSES,
    VERBS,
    ZONE_WORDS,
)
from glied.demo_world.world import Scene

REFERENCES = 5

# How much the five annotators differ; tuned on the leave-one-out CIDEr of 500 test scenes
# (benchmarks/results/scenes.md).
COLOR_SHARE = 0.6
SIZE_SHARE = 0.5
PATTERN_SHARE = 0.6
SYNONYM_SHARE = 0.45
PLACE_SHARE = 0.52
CLAUSE_SHARE = 0.19
VERB_SHARE = 0.5
OPENING_SHARE = 0.33
SWAP_SHARE = 0.45
USUAL_WORD_SHARE = 0.2
ADJECTIVE_SHARE = 0.2
THE_SHARE = 0.1
RELATION_SHARE = 0.74

_SITTING = frozenset({"cat"})
_VEHICLES = frozenset({"car", "bus", "truck", "bicycle"})
_MOVABLE = frozenset({"ball", "box", "backpack", "book", "vase", "cup", "lamp", "chair"})
_ANIMALS = frozenset({"dog", "cat", "horse", "cow", "sheep", "elephant", "bird", "duck"})


@dataclass(frozen=True)
class Language:
    """The texts that describe a scene.

    Attributes:
        references: five sentences without punctuation.
        description: one sentence with all objects, their look and relations, the place and the light.
        clauses: the parts of the description, each true by itself.
        phrases: "background", "object" and "relation" phrases, as in FineCapEval.
    """

    references: tuple[str, ...]
    description: str
    clauses: list[str]
    phrases: dict[str, list[str]]


def describe(scene: Scene) -> Language:
    """Generate references, description and phrases of a scene, which depend only on (split, index, seed)."""
    speakers = (
        Speaker(stream(scene.split, scene.seed, "speaker", scene.index, number), scene)
        for number in range(REFERENCES)
    )
    references = tuple(speaker.reference() for speaker in speakers)
    return Language(references, description(scene), clauses(scene), phrases(scene))


def plural(noun: str) -> str:
    """Return the plural of a noun of the demo world."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch")) else "s")


def noun_phrase(
    item: Item, noun: str | None = None, *, color: bool = True, size: bool = True, pattern: bool = True
) -> str:
    """Build the noun phrase of an item with the given attributes: "two small striped red balls"."""
    noun = noun or item.kind
    adjectives = [item.size] if size and item.size else []
    look = [item.pattern] if pattern and item.pattern != "plain" else []
    look += [item.color] if color else []
    head = noun if item.count == 1 else plural(noun)
    if item.kind in PEOPLE:
        words = [*adjectives, head]
        if look:
            garment = GARMENTS[item.kind]
            words += ["in", "a", *look, garment] if item.count == 1 else ["in", *look, plural(garment)]
    else:
        words = [*adjectives, *look, head]
    if item.count > 1:
        return " ".join([NUMBERS[item.count], *words])
    return " ".join([article(words[0]), *words])


def article(word: str) -> str:
    """ "an" before a vowel, else "a"."""
    return "an" if word[0] in "aeiou" else "a"


def join(parts: Sequence[str]) -> str:
    """ "x", "x and y", "x, y and z"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def verb_for(item: Item, relation: str | None) -> str:
    """Return the participle that goes with the item in this relation, or ""."""
    kind = item.kind
    if relation in {"holding", "riding"}:
        return ""
    if kind in AIR_KINDS or (kind == "bird" and (item.zone == "air" or relation == "above")):
        return "flying"
    if kind in WATER_KINDS and item.zone == "water":
        return "floating" if kind == "boat" else "swimming"
    if kind in _SITTING or (relation == "on" and kind not in PEOPLE | _ANIMALS):
        return "sitting"
    if kind in PEOPLE or kind in _ANIMALS:
        return "standing"
    if kind in _VEHICLES:
        return "parked"
    return "placed" if relation and kind in _MOVABLE else ""


class Speaker:
    """One of the five annotators of a scene, who randomly chooses words and what to mention."""

    def __init__(self, rng: random.Random, scene: Scene) -> None:
        """Describe `scene` with the random choices of `rng`."""
        self.rng, self.scene, self.plan = rng, scene, scene.plan
        self.opened = self.chance(OPENING_SHARE)

    def chance(self, share: float) -> bool:
        """Return True with probability `share`."""
        return self.rng.random() < share

    def choose(self, words: Sequence[str], bias: float | None = None) -> str:
        """Choose the usual word (the first) with probability `bias`, else any of them."""
        share = USUAL_WORD_SHARE if bias is None else bias
        return words[0] if self.chance(share) else self.rng.choice(words)

    def verb(self, item: Item, relation: str | None) -> str:
        """Return a random verb phrase for what the item does, or ""."""
        verb = verb_for(item, relation) if self.chance(VERB_SHARE) else ""
        if not verb:
            return ""
        be = "are" if item.count > 1 else "is"
        # After an opening such as "there is a kite", the verb must be a participle.
        auxiliaries = ("", f"that {be} ") if self.opened else ("", f"{be} ", f"that {be} ")
        return self.choose(auxiliaries, 0.6) + self.choose(VERBS.get(verb, (verb,)))

    def phrase(self, item: Item) -> str:
        """Return the annotator's noun phrase for an item."""
        nouns = NOUNS.get(item.kind, (item.kind,))
        noun = self.rng.choice(nouns[1:]) if len(nouns) > 1 and self.chance(SYNONYM_SHARE) else nouns[0]
        color_share = COLOR_SHARE * {"tree": 0.4, "man": 0.6, "woman": 0.6, "elephant": 0.5}.get(
            item.kind, 1.0
        )
        named = noun_phrase(
            item,
            noun,
            color=self.chance(color_share),
            size=self.chance(SIZE_SHARE),
            pattern=self.chance(PATTERN_SHARE),
        )
        words = [self.choose(ADJECTIVES[w], ADJECTIVE_SHARE) if w in ADJECTIVES else w for w in named.split()]
        if item.count == 1:
            words[0] = "the" if self.chance(THE_SHARE) else article(words[1])
        return " ".join(words)

    def reference(self) -> str:
        """Generate a reference caption."""
        parts = [self.opening(), self.main()]
        if self.chance(PLACE_SHARE):
            parts.append(self.choose(PLACE_WORDS[self.plan.place]))
        clauses = [c for c in (self.background(), self.small_object(), self.extra_relation()) if c]
        return " ".join([part for part in parts if part] + clauses)

    def opening(self) -> str:
        """Return an opening phrase, which a minority of captions has, or ""."""
        if not self.opened:
            return ""
        opening = self.rng.choice(OPENINGS)
        several = self.plan.subject.count > 1 and opening in {"there is", "this is", "here is"}
        return "there are" if several else opening

    def main(self) -> str:
        """Describe the subject, and usually its relation to the partner."""
        plan = self.plan
        if plan.partner is None or plan.relation is None:
            return self.alone(plan.subject)
        if not self.chance(RELATION_SHARE):
            if self.chance(0.5):
                return f"{self.phrase(plan.subject)} and {self.phrase(plan.partner)}"
            return self.alone(plan.subject if self.chance(0.7) else plan.partner)
        return self.related(plan.subject, plan.relation, plan.partner)

    def related(self, subject: Item, relation: str, partner: Item) -> str:
        """Describe the main relation from either side."""
        if relation in INVERSE and self.chance(SWAP_SHARE):
            subject, relation, partner = partner, INVERSE[relation], subject
        words = self.choose(RELATION_WORDS[relation])
        if relation in REVERSIBLE and self.chance(SWAP_SHARE / 2 if relation in INVERSE else SWAP_SHARE):
            pronoun = PRONOUNS.get(partner.kind, "it")
            return f"{self.phrase(partner)} with {self.phrase(subject)} {words} {pronoun}"
        parts = (self.phrase(subject), self.verb(subject, relation), words, self.phrase(partner))
        return " ".join(part for part in parts if part)

    def alone(self, item: Item) -> str:
        """Describe an item, and what it does or where it is."""
        if item.zone in ZONE_WORDS and self.chance(0.7):
            return f"{self.phrase(item)} {self.choose(ZONE_WORDS[item.zone])}"
        return f"{self.phrase(item)} {self.verb(item, None)}".rstrip()

    def background(self) -> str:
        """Sometimes mention the light or the background."""
        if not self.chance(CLAUSE_SHARE):
            return ""
        stuff = sorted({name for name, _ in self.scene.stuff} & STUFF_CLAUSES.keys())
        if stuff and self.chance(0.45):
            return self.choose(STUFF_CLAUSES[self.rng.choice(stuff)])
        return self.choose(light_words(self.scene))

    def small_object(self) -> str:
        """Sometimes mention a background object and its position."""
        if not self.plan.extras or not self.chance(CLAUSE_SHARE):
            return ""
        number = self.rng.randrange(len(self.plan.extras))
        where = self.choose(ZONE_WORDS[zone(self.scene, number)])
        return f"with {self.phrase(self.plan.extras[number])} {where}"

    def extra_relation(self) -> str:
        """Sometimes mention on which side of the subject a background object is."""
        sides = side_relations(self.scene)
        if not sides or not self.chance(CLAUSE_SHARE):
            return ""
        number, relation = self.rng.choice(sides)
        subject = self.plan.subject.kind if self.plan.subject.count == 1 else plural(self.plan.subject.kind)
        words = self.choose(RELATION_WORDS[relation][:3])
        return f"and {self.phrase(self.plan.extras[number])} {words} the {subject}"


def light_words(scene: Scene) -> tuple[str, ...]:
    """Return the phrases for the light, indoors or outdoors."""
    return (INDOOR_LIGHT_WORDS if scene.plan.place in INDOOR else LIGHT_WORDS)[scene.plan.light]


def _members(scene: Scene, number: int) -> list:
    first = 2 if scene.plan.partner else 1
    return [o for o in scene.objects if o.item == first + number]


def zone(scene: Scene, number: int) -> str:
    """Return the zone of background item `number`, a key of `ZONE_WORDS`."""
    item = scene.plan.extras[number]
    if item.zone != "ground":
        return item.zone
    members = _members(scene, number)
    foot = max(o.full_box[3] for o in members)
    main_foot = max(o.full_box[3] for o in scene.objects if o.salient)
    if foot < main_foot - 0.1 * scene.plan.height:
        return "far"
    centers = [(o.box[0] + o.box[2]) / 2 / scene.plan.width for o in members]
    if max(centers) < 0.4:
        return "left"
    return "right" if min(centers) > 0.6 else "near"


def side_relations(scene: Scene) -> list[tuple[int, str]]:
    """Yield (background item, "left of" or "right of") for single items entirely beside a single subject."""
    if scene.plan.subject.count > 1:
        return []
    subject = scene.objects[0].box
    found = []
    for number, item in enumerate(scene.plan.extras):
        box = _members(scene, number)[0].box
        if item.count == 1 and item.zone == "ground" and box[2] < subject[0]:
            found.append((number, "left of"))
        elif item.count == 1 and item.zone == "ground" and box[0] > subject[2]:
            found.append((number, "right of"))
    return found


def description(scene: Scene) -> str:
    """Build the full description, with equal objects merged and each zone named once."""
    main, *around = clauses(scene)
    settings, groups = around[:2], [clause.removeprefix("with ") for clause in around[2:]]
    return " ".join([main, *settings, *(["with " + join(groups)] if groups else [])])


def clauses(scene: Scene) -> list[str]:
    """Build the description in parts of which any selection is true: objects, place, light, background."""
    plan = scene.plan
    verb = verb_for(plan.subject, plan.relation)
    words = [noun_phrase(plan.subject)]
    if plan.partner is not None and plan.relation is not None:
        words += [verb, RELATION_WORDS[plan.relation][0], noun_phrase(plan.partner)]
    elif plan.subject.zone != "ground":
        words += [ZONE_WORDS[plan.subject.zone][0]]
    else:
        words += [verb]
    main = " ".join(word for word in words if word)
    groups = [f"with {join(names)} {where}" for where, names in _extras_by_zone(scene).items()]
    return [main, PLACE_WORDS[plan.place][0], light_words(scene)[0], *groups]


def _extras_by_zone(scene: Scene) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for number, item in enumerate(scene.plan.extras):
        groups.setdefault(ZONE_WORDS[zone(scene, number)][0], []).append(noun_phrase(item))
    return groups


def phrases(scene: Scene) -> dict[str, list[str]]:
    """Build the background, object and relation phrases."""
    plan = scene.plan
    lights = INDOOR_LIGHT_PHRASES if plan.place in INDOOR else LIGHT_PHRASES
    relations = []
    if plan.partner is not None and plan.relation is not None:
        words = RELATION_WORDS[plan.relation][0]
        relations.append(f"{_bare(plan.subject)} {words} {_bare(plan.partner)}")
    else:
        verb = verb_for(plan.subject, None)
        where = ZONE_WORDS.get(plan.subject.zone, (PLACE_WORDS[plan.place][0],))[0]
        relations.append(" ".join(word for word in (_bare(plan.subject), verb, where) if word))
    for number, item in enumerate(plan.extras[:2]):
        relations.append(f"{_bare(item)} {ZONE_WORDS[zone(scene, number)][0]}")
    return {
        "background": [PLACE_PHRASES[plan.place], lights[plan.light]],
        "object": unique(noun_phrase(item) for item in plan.items),
        "relation": unique(relations),
    }


def _bare(item: Item) -> str:
    return noun_phrase(item, color=False, size=False, pattern=False)


def unique(values: Iterable[str]) -> list[str]:
    """Remove duplicates, keeping the order."""
    return list(dict.fromkeys(values))
