"""Plans of scenes: place, light, objects and main relation, before any object has a position.

A plan depends only on (split, seed, index). With probability `FAMILY_SHARE`, a block of four consecutive
indices is a family, whose members share place, light, image size, colors and background, and differ from the
first in one object, one attribute or one relation.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from glied.demo_world.catalog import (
    AIR_KINDS,
    COLOR_WEIGHTS,
    GROUP_KINDS,
    INDOOR,
    LARGE_KINDS,
    PATTERN_WEIGHTS,
    PEOPLE,
    PLACES,
    POPULATION,
    SIZES,
    TABLETOP_KINDS,
    WALL_KINDS,
    WATER_KINDS,
)
from glied.demo_world.relations import RELATIONS, may_relate

FAMILY_SHARE = 0.35
FAMILY_SIZE = 4
ASPECTS = {4 / 3: 5, 3 / 2: 4, 1.0: 2, 3 / 4: 2, 2 / 3: 1, 16 / 9: 2, 5 / 4: 1}
LIGHT_WEIGHTS = {"day": 5, "sunset": 2, "night": 1.5, "overcast": 2}
WATER_PLACES = {"boat": frozenset({"beach"}), "duck": frozenset({"park"})}


@dataclass(frozen=True)
class Item:
    """One or more equal objects, which a single noun phrase names.

    Attributes:
        size: "small", "large" or None; determines the drawn height.
        zone: "ground", "air", "water", "wall" or "tabletop": the location, unless a relation determines it.
    """

    kind: str
    color: str
    pattern: str = "plain"
    size: str | None = None
    count: int = 1
    zone: str = "ground"

    @property
    def look(self) -> tuple[str, str]:
        """Kind and color, which must be unique, so that a phrase names only one item."""
        return self.kind, self.color


@dataclass(frozen=True)
class Plan:
    """The discrete description of a scene; `relation` holds between the subject and the partner."""

    place: str
    light: str
    width: int
    height: int
    subject: Item
    relation: str | None = None
    partner: Item | None = None
    extras: tuple[Item, ...] = ()
    family: int | None = None

    @property
    def items(self) -> tuple[Item, ...]:
        """Subject, partner if any, then the background objects."""
        return (self.subject, *((self.partner,) if self.partner else ()), *self.extras)


def stream(*key: object) -> random.Random:
    """Create a random generator that depends only on the text of `key`, on any machine and in any process."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return random.Random(int.from_bytes(digest[:16], "big"))


def pick(rng: random.Random, weights: Mapping) -> object:
    """Draw a key of `weights` with a probability proportional to its value."""
    return rng.choices(list(weights), list(weights.values()))[0]


def sample_plan(split: str, index: int, seed: int) -> Plan:
    """Sample the plan of a scene."""
    block, member = divmod(index, FAMILY_SIZE)
    family_rng = stream(split, seed, "family", block)
    if family_rng.random() >= FAMILY_SHARE:
        return _sample_base(stream(split, seed, "plan", index), pair_share=0.7)
    base = replace(_sample_base(family_rng, pair_share=0.9), family=block)
    changes = [_change_object, _change_attribute, _change_relation]
    family_rng.shuffle(changes)
    if member == 0:
        return base
    rng = stream(split, seed, "member", index)
    return changes[member - 1](rng, base)


def _sample_base(rng: random.Random, pair_share: float) -> Plan:
    place = rng.choice(PLACES)
    long_side = rng.randint(300, 500) if rng.random() < 0.85 else rng.randint(220, 300)
    aspect = float(pick(rng, ASPECTS))  # type: ignore[arg-type]
    width, height = (
        (long_side, round(long_side / aspect)) if aspect >= 1 else (round(long_side * aspect), long_side)
    )
    light = str(pick(rng, LIGHT_WEIGHTS))
    main = _sample_pair(rng, place) if rng.random() < pair_share else (_sample_single(rng, place), None, None)
    subject, relation, partner = main
    plan = Plan(place, light, width, height, subject, relation, partner)
    return replace(plan, extras=_sample_extras(rng, plan))


def _sample_pair(rng: random.Random, place: str) -> tuple[Item, str, Item]:
    population = POPULATION[place]
    weights = {relation: weight for relation, (weight, _, _) in RELATIONS.items() if _pairs(place, relation)}
    relation = str(pick(rng, weights))
    pairs = _pairs(place, relation)
    subject, partner = rng.choices(pairs, [population[a] * population[b] for a, b in pairs])[0]
    first = sample_item(rng, subject)
    second = sample_item(rng, partner, unlike=first)
    return (
        first,
        relation,
        replace(second, zone=zone_of(rng, partner, place)) if partner == "boat" else second,
    )


def _pairs(place: str, relation: str) -> list[tuple[str, str]]:
    population = POPULATION[place]
    return [(a, b) for a in population for b in population if may_relate(a, relation, b)]


def _sample_single(rng: random.Random, place: str) -> Item:
    """Sample the subject of a scene without a main relation: one object, or a group of two or three."""
    kinds = {kind: weight for kind, weight in POPULATION[place].items() if kind not in TABLETOP_KINDS}
    if rng.random() < 0.45:
        kinds = {kind: weight for kind, weight in kinds.items() if kind in GROUP_KINDS}
        item = sample_item(rng, str(pick(rng, kinds)))
        item = replace(item, count=3 if rng.random() < 0.35 else 2)
    else:
        item = sample_item(rng, str(pick(rng, kinds)))
    return replace(item, zone=zone_of(rng, item.kind, place))


def zone_of(rng: random.Random, kind: str, place: str) -> str:
    """Return the zone of an object of this kind if no relation determines its position."""
    if kind in AIR_KINDS or (kind == "bird" and place not in INDOOR and rng.random() < 0.7):
        return "air"
    if kind in WATER_KINDS and place in WATER_PLACES[kind]:
        return "water"
    if kind in WALL_KINDS:
        return "wall"
    if kind in TABLETOP_KINDS and place == "kitchen":
        return "tabletop"
    return "ground"


def sample_item(rng: random.Random, kind: str, unlike: Item | None = None) -> Item:
    """Sample color, pattern and size of an object; people in a scene differ in the color of their clothes."""
    colors = dict(COLOR_WEIGHTS[kind])
    if unlike is not None and (unlike.kind == kind or {unlike.kind, kind} <= PEOPLE):
        colors.pop(unlike.color, None)
    color = str(pick(rng, colors))
    return Item(kind, color, sample_pattern(rng, kind), sample_size(rng, kind))


def sample_pattern(rng: random.Random, kind: str) -> str:
    """Sample a pattern, mostly plain."""
    patterns = PATTERN_WEIGHTS.get(kind, {})
    return str(pick(rng, {"plain": 1 - sum(patterns.values()), **patterns}))


def sample_size(rng: random.Random, kind: str) -> str | None:
    """Sample a notable size, or None; always None for people."""
    if kind in PEOPLE:
        return None
    draw = rng.random()
    if draw < 0.14:
        return SIZES[0]
    return SIZES[1] if draw < 0.28 and kind in LARGE_KINDS else None


def _sample_extras(rng: random.Random, plan: Plan) -> tuple[Item, ...]:
    """Sample background objects: few in most scenes, six objects in total at most, each with its own look."""
    room = 6 - sum(item.count for item in plan.items)
    wanted = min(room, rng.choices((0, 1, 2, 3, 4), (20, 30, 26, 15, 9))[0])
    weights = {kind: weight for kind, weight in POPULATION[plan.place].items() if _may_be_extra(kind, plan)}
    extras: list[Item] = []
    for _ in range(12):
        if wanted <= 0 or not weights:
            break
        kind = str(pick(rng, weights))
        item = replace(
            sample_item(rng, kind), size=_extra_size(rng, kind), zone=zone_of(rng, kind, plan.place)
        )
        if wanted >= 2 and kind in GROUP_KINDS and rng.random() < 0.3:
            item = replace(item, count=2)
        if any(clash(item, other) for other in (*plan.items, *extras)):
            continue
        extras.append(item)
        wanted -= item.count
        weights.pop(kind)
    return tuple(extras)


def _may_be_extra(kind: str, plan: Plan) -> bool:
    """Whether the place has what an object needs: a table or a wall; other objects fit anywhere."""
    return kind not in TABLETOP_KINDS or plan.place == "kitchen" or kind == "lamp"


def _extra_size(rng: random.Random, kind: str) -> str | None:
    return None if kind in PEOPLE or rng.random() < 0.5 else "small"


def clash(one: Item, other: Item) -> bool:
    """Whether two items would be named by the same words."""
    if {one.kind, other.kind} <= PEOPLE:
        return one.kind == other.kind or one.color == other.color
    return one.look == other.look


def _change_object(rng: random.Random, base: Plan) -> Plan:
    """Replace the kind of the partner or the subject, keeping its color if that is natural."""
    population = POPULATION[base.place]
    if base.partner is None or base.relation is None:
        kinds = [k for k in population if _fits_zone(k, base.subject) and k in GROUP_KINDS]
        return _with_kind(rng, base, "subject", kinds)
    by_role = {
        "partner": [k for k in population if may_relate(base.subject.kind, base.relation, k)],
        "subject": [k for k in population if may_relate(k, base.relation, base.partner.kind)],
    }
    roles = [role for role, kinds in by_role.items() if len(kinds) > 1] or ["subject"]
    role = rng.choice(roles)
    return _with_kind(rng, base, role, by_role[role])


def _fits_zone(kind: str, item: Item) -> bool:
    special = {
        "air": AIR_KINDS | {"bird"},
        "water": WATER_KINDS,
        "wall": WALL_KINDS,
        "tabletop": TABLETOP_KINDS,
    }
    if item.zone in special:
        return kind in special[item.zone]
    return kind not in AIR_KINDS | WATER_KINDS | WALL_KINDS | TABLETOP_KINDS


def _with_kind(rng: random.Random, base: Plan, role: str, kinds: list[str]) -> Plan:
    old: Item = getattr(base, role)
    others = {kind: POPULATION[base.place][kind] for kind in kinds if kind != old.kind}
    rest = [item for item in base.items if item is not old]
    for _ in range(20):
        if not others:
            break
        kind = str(pick(rng, others))
        color = old.color if old.color in COLOR_WEIGHTS[kind] else sample_item(rng, kind).color
        pattern = old.pattern if old.pattern in PATTERN_WEIGHTS.get(kind, {}) else "plain"
        size = None if kind in PEOPLE or (old.size == "large" and kind not in LARGE_KINDS) else old.size
        new = replace(old, kind=kind, color=color, pattern=pattern, size=size)
        if not any(clash(new, item) for item in rest):
            return _replace_role(base, role, new)
    return _change_attribute(rng, base)


def _change_attribute(rng: random.Random, base: Plan) -> Plan:
    """Replace the color, sometimes the pattern, of one of the main objects."""
    role = rng.choice(["subject", "partner"]) if base.partner else "subject"
    old: Item = getattr(base, role)
    rest = [item for item in base.items if item is not old]
    if PATTERN_WEIGHTS.get(old.kind) and rng.random() < 0.25:
        patterns = {"plain": 0.5, **PATTERN_WEIGHTS[old.kind]}
        patterns.pop(old.pattern)
        return _replace_role(base, role, replace(old, pattern=str(pick(rng, patterns))))
    colors = {color: weight for color, weight in COLOR_WEIGHTS[old.kind].items() if color != old.color}
    for _ in range(20):
        new = replace(old, color=str(pick(rng, colors)))
        if not any(clash(new, item) for item in rest):
            return _replace_role(base, role, new)
    return base


def _change_relation(rng: random.Random, base: Plan) -> Plan:
    """Replace the main relation by another valid one; without a relation, change the count."""
    if base.partner is None:
        if base.subject.kind in GROUP_KINDS:
            return replace(base, subject=replace(base.subject, count=1 if base.subject.count > 1 else 2))
        return _change_attribute(rng, base)
    weights = {
        relation: weight
        for relation, (weight, _, _) in RELATIONS.items()
        if relation != base.relation and may_relate(base.subject.kind, relation, base.partner.kind)
    }
    if not weights:
        return _change_attribute(rng, base)
    return replace(base, relation=str(pick(rng, weights)))


def _replace_role(base: Plan, role: str, item: Item) -> Plan:
    return replace(base, subject=item) if role == "subject" else replace(base, partner=item)
