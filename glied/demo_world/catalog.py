"""Contents of the demo world: objects, places, colors.

Everything here is plain data. Heights are fractions of the image's shorter side for an object of ordinary
size in the foreground; the drawing package owns shapes and aspects.
"""

from __future__ import annotations

from glied.demo_world.drawing import COLORS, KINDS, LIGHTS, PATTERNS, PLACES, STUFF

CLASSES: tuple[str, ...] = tuple(KINDS)
SIZES: tuple[str, ...] = ("small", "large")
INDOOR = frozenset({"room", "kitchen"})
PEOPLE = frozenset({"man", "woman"})

__all__ = ["CLASSES", "COLORS", "INDOOR", "LIGHTS", "PATTERNS", "PEOPLE", "PLACES", "SIZES", "STUFF"]

HEIGHTS: dict[str, float] = {
    "man": 0.62,
    "woman": 0.60,
    "dog": 0.32,
    "cat": 0.27,
    "horse": 0.50,
    "cow": 0.44,
    "sheep": 0.33,
    "bird": 0.19,
    "duck": 0.20,
    "elephant": 0.60,
    "car": 0.33,
    "bus": 0.48,
    "truck": 0.44,
    "bicycle": 0.36,
    "boat": 0.32,
    "kite": 0.27,
    "umbrella": 0.36,
    "ball": 0.19,
    "bench": 0.29,
    "tree": 0.74,
    "house": 0.64,
    "chair": 0.42,
    "table": 0.36,
    "sofa": 0.37,
    "lamp": 0.46,
    "cup": 0.17,
    "book": 0.16,
    "clock": 0.22,
    "vase": 0.28,
    "box": 0.25,
    "surfboard": 0.52,
    "backpack": 0.25,
}

# Co-occurrence: relative frequency of each kind per place, in the background and in relations.
POPULATION: dict[str, dict[str, float]] = {
    "beach": {
        "man": 3,
        "woman": 3,
        "dog": 2,
        "kite": 3,
        "umbrella": 3,
        "ball": 2,
        "surfboard": 3,
        "boat": 3,
        "bird": 1.5,
        "chair": 1.5,
        "backpack": 1,
        "horse": 0.7,
        "bench": 0.5,
    },
    "field": {
        "man": 1.5,
        "woman": 1.5,
        "dog": 1.5,
        "horse": 3,
        "cow": 3,
        "sheep": 3,
        "tree": 3,
        "house": 2,
        "kite": 1.2,
        "ball": 1,
        "bird": 1,
        "bicycle": 0.7,
        "truck": 0.7,
        "elephant": 0.3,
    },
    "snow": {
        "man": 3,
        "woman": 3,
        "dog": 3,
        "tree": 3,
        "house": 2.5,
        "bird": 1,
        "backpack": 1.5,
        "bench": 1.2,
        "horse": 1,
        "cat": 0.7,
        "box": 0.7,
        "sheep": 0.7,
        "car": 0.7,
    },
    "street": {
        "man": 2.5,
        "woman": 2.5,
        "car": 3,
        "bus": 3,
        "truck": 2.5,
        "bicycle": 3,
        "dog": 1.5,
        "cat": 1,
        "bench": 1.5,
        "tree": 1.5,
        "umbrella": 1.5,
        "backpack": 0.8,
        "box": 0.7,
        "bird": 0.6,
    },
    "park": {
        "man": 2,
        "woman": 2,
        "dog": 2.5,
        "bench": 3,
        "tree": 3,
        "ball": 1.5,
        "bicycle": 1.5,
        "duck": 2.5,
        "kite": 1.2,
        "bird": 1.5,
        "umbrella": 1,
        "cat": 1,
        "book": 0.5,
        "backpack": 0.8,
    },
    "room": {
        "sofa": 3,
        "chair": 2.5,
        "table": 2.5,
        "lamp": 2.5,
        "cat": 2.5,
        "dog": 1.5,
        "book": 2,
        "clock": 2,
        "vase": 2,
        "box": 1.5,
        "man": 1,
        "woman": 1,
        "ball": 0.8,
        "backpack": 0.8,
        "cup": 0.8,
    },
    "kitchen": {
        "table": 3,
        "chair": 3,
        "cup": 3,
        "vase": 2,
        "clock": 2,
        "cat": 1.5,
        "dog": 1,
        "book": 1,
        "box": 1,
        "man": 1.2,
        "woman": 1.2,
        "lamp": 0.8,
    },
    "desert": {
        "elephant": 2.5,
        "horse": 2,
        "car": 1.5,
        "truck": 2,
        "man": 2,
        "woman": 1.5,
        "bird": 1,
        "backpack": 1.2,
        "box": 1,
        "bicycle": 0.8,
        "umbrella": 0.8,
        "dog": 0.7,
        "house": 0.6,
    },
    "mountain": {
        "man": 2,
        "woman": 2,
        "horse": 2,
        "cow": 1.5,
        "sheep": 2.5,
        "tree": 2.5,
        "house": 2,
        "backpack": 1.5,
        "dog": 1.2,
        "bicycle": 1.2,
        "bird": 0.8,
        "kite": 0.5,
        "car": 0.6,
    },
}

# Zone of background objects that are not on the ground: (place, kind) -> zone.
AIR_KINDS = frozenset({"kite"})
WATER_KINDS = frozenset({"boat", "duck"})
WALL_KINDS = frozenset({"clock"})
TABLETOP_KINDS = frozenset({"cup", "vase", "book", "lamp"})

_PAINT = {
    "red": 4.0,
    "orange": 2.0,
    "yellow": 3.0,
    "green": 3.0,
    "blue": 4.0,
    "purple": 2.0,
    "pink": 2.0,
    "white": 2.0,
    "black": 1.2,
    "gray": 0.8,
    "brown": 0.8,
}
_CLOTHES = {
    "red": 4.0,
    "blue": 4.0,
    "green": 3.0,
    "yellow": 3.0,
    "white": 2.0,
    "black": 2.0,
    "purple": 1.5,
    "pink": 1.5,
}
_WOOD = {"brown": 6.0, "white": 2.0, "green": 1.0, "red": 1.0, "blue": 1.0, "yellow": 0.6, "gray": 0.8}
COLOR_WEIGHTS: dict[str, dict[str, float]] = {
    **dict.fromkeys(
        ("kite", "umbrella", "ball", "box", "surfboard", "backpack", "vase", "cup", "book"), _PAINT
    ),
    **dict.fromkeys(("car", "bus", "truck", "bicycle", "boat", "sofa", "lamp"), _PAINT),
    "man": _CLOTHES,
    "woman": {**_CLOTHES, "pink": 3.0, "purple": 3.0, "black": 1.0},
    "dog": {"brown": 5, "black": 3, "white": 3, "gray": 1, "yellow": 0.5, "orange": 0.1},
    "cat": {"black": 3, "white": 3, "gray": 3, "orange": 3, "brown": 1},
    "horse": {"brown": 6, "white": 3, "black": 3, "gray": 0.7},
    "cow": {"brown": 4, "white": 4, "black": 3},
    "sheep": {"white": 7, "black": 2, "gray": 0.8},
    "bird": {"blue": 3, "red": 2, "white": 2, "black": 2, "yellow": 2, "brown": 1, "gray": 1},
    "duck": {"white": 3, "yellow": 3, "brown": 3, "black": 0.6},
    "elephant": {"gray": 9, "brown": 1, "pink": 0.15},
    "bench": _WOOD,
    "table": _WOOD,
    "chair": {**_WOOD, "brown": 4.0, "red": 2.0, "blue": 2.0},
    "tree": {"green": 9, "orange": 1.5, "yellow": 1, "pink": 0.5, "red": 0.5},
    "house": {"white": 3, "red": 3, "yellow": 2, "blue": 2, "brown": 2, "gray": 0.7, "pink": 0.5},
    "clock": {"white": 3, "red": 2, "blue": 2, "black": 1.5, "yellow": 1.5, "brown": 1.5, "green": 1},
}

# Share of objects of a kind with a pattern, and the possible patterns.
PATTERN_WEIGHTS: dict[str, dict[str, float]] = {
    "dog": {"spotted": 0.15},
    "cat": {"striped": 0.2},
    "cow": {"spotted": 0.3},
    "horse": {"spotted": 0.08},
    **{
        kind: {"striped": 0.2, "spotted": 0.12, "checkered": 0.1}
        for kind in ("kite", "umbrella", "ball", "vase", "cup", "sofa", "box")
    },
    **{kind: {"striped": 0.2, "spotted": 0.06} for kind in ("surfboard", "backpack", "man", "woman")},
}

LARGE_KINDS = frozenset(
    {
        "dog",
        "cat",
        "bird",
        "boat",
        "kite",
        "umbrella",
        "ball",
        "box",
        "vase",
        "clock",
        "cup",
        "backpack",
        "elephant",
        "book",
        "table",
        "car",
        "truck",
    }
)
GROUP_KINDS = frozenset(
    {
        "dog",
        "cat",
        "horse",
        "cow",
        "sheep",
        "bird",
        "duck",
        "kite",
        "boat",
        "ball",
        "chair",
        "tree",
        "umbrella",
        "box",
        "bicycle",
        "man",
        "woman",
        "elephant",
    }
)
# Kinds whose drawings have holes, so that objects behind them stay visible.
SEE_THROUGH = frozenset(
    {"bicycle", "chair", "table", "bench", "umbrella", "kite", "lamp", "tree", "bird", "surfboard"}
)
