"""Which kinds of objects may stand in which relation to each other."""

from __future__ import annotations

from glied.demo_world.catalog import HEIGHTS, PEOPLE

_ANIMALS = ("dog", "cat", "horse", "cow", "sheep", "elephant", "bird", "duck")
_ROAD = ("car", "bus", "truck")
_MOVABLE = ("ball", "box", "backpack", "umbrella", "book", "vase", "cup")
_FURNITURE = ("chair", "table", "sofa", "bench", "lamp")
_STANDING = (
    *sorted(PEOPLE),
    *_ANIMALS,
    *_ROAD,
    *_FURNITURE,
    *_MOVABLE,
    "bicycle",
    "tree",
    "house",
    "surfboard",
)

# relation -> (weight, subjects, objects). Every pair is drawable by `placement`.
RELATIONS: dict[str, tuple[float, tuple[str, ...], tuple[str, ...]]] = {
    "next to": (3.0, _STANDING, _STANDING),
    "left of": (1.1, _STANDING, _STANDING),
    "right of": (1.1, _STANDING, _STANDING),
    "in front of": (
        2.2,
        ("man", "woman", *_ANIMALS, "bicycle", "ball", "box", "backpack", "bench", "chair", "umbrella"),
        ("house", "tree", *_ROAD, "sofa", "table", "bench", "elephant", "horse"),
    ),
    "behind": (
        1.5,
        ("man", "woman", "horse", "cow", "elephant", "house", "tree", "bus", "lamp"),
        (*_ROAD, "bench", "sofa", "table", "box", "dog", "sheep", "bicycle", "chair"),
    ),
    "on": (
        2.6,
        (
            "cat",
            "dog",
            "bird",
            "book",
            "backpack",
            "box",
            "cup",
            "vase",
            "clock",
            "lamp",
            "ball",
            "man",
            "woman",
        ),
        ("bench", "sofa", "table", "chair", "box", "house", "car", "elephant", "horse"),
    ),
    "under": (
        1.6,
        ("cat", "dog", "ball", "box", "backpack", "man", "woman", "bench", "chair"),
        ("table", "tree", "umbrella"),
    ),
    "above": (
        1.6,
        ("kite", "bird"),
        ("man", "woman", "dog", "house", "tree", "boat", "horse", "cow", "bus", "car"),
    ),
    "holding": (2.2, ("man", "woman"), ("umbrella", "ball", "book", "cup", "backpack", "surfboard", "vase")),
    "riding": (1.8, ("man", "woman"), ("horse", "bicycle", "elephant")),
}

# "on" and "under" are limited to plausible pairs: object -> what may be on / under it.
ON_TOP: dict[str, tuple[str, ...]] = {
    "bench": ("cat", "dog", "bird", "book", "backpack", "box", "man", "woman", "ball"),
    "sofa": ("cat", "dog", "book", "backpack", "box", "ball"),
    "table": ("cup", "vase", "book", "clock", "lamp", "box", "cat"),
    "chair": ("cat", "book", "backpack", "box", "ball"),
    "box": ("cat", "bird", "ball", "cup", "book"),
    "house": ("bird", "cat"),
    "car": ("cat", "bird", "box", "backpack"),
    "elephant": ("bird",),
    "horse": ("bird",),
}
BENEATH: dict[str, tuple[str, ...]] = {
    "table": ("cat", "dog", "ball", "box", "backpack"),
    "tree": ("man", "woman", "dog", "cat", "bench", "chair", "box", "backpack", "ball"),
    "umbrella": ("dog", "cat", "ball", "box", "backpack", "chair"),
}
# Distance of an object's carrying surface from its top edge, as a fraction of its height.
SURFACE: dict[str, float] = {
    "bench": 0.48,
    "sofa": 0.52,
    "table": 0.06,
    "chair": 0.55,
    "box": 0.06,
    "house": 0.03,
    "car": 0.04,
    "elephant": 0.12,
    "horse": 0.30,
}


def may_relate(subject: str, relation: str, partner: str) -> bool:
    """Whether `subject relation partner` is a plausible, drawable relation of two different kinds."""
    _, subjects, partners = RELATIONS[relation]
    if subject not in subjects or partner not in partners or subject == partner:
        return False
    if relation == "on":
        return subject in ON_TOP[partner]
    if relation == "under":
        return subject in BENEATH[partner]
    if relation == "behind":
        return HEIGHTS[subject] > 1.25 * HEIGHTS[partner]
    if relation == "in front of":
        return HEIGHTS[subject] < 0.95 * HEIGHTS[partner] or partner in {"bus", "house", "tree"}
    return True
