"""Rendering of the demo world: objects, places and lights, deterministic given the seeds.

It uses only Pillow and NumPy, because Skia and Cairo need system libraries.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from glied.demo_world.drawing import animals, furniture, outdoors, people, vehicles
from glied.demo_world.drawing.backgrounds import STUFF, grade, paint
from glied.demo_world.drawing.palette import COLORS, PATTERNS
from glied.demo_world.drawing.pen import Pen, Sprite, soft_shadow
from glied.demo_world.drawing.places import LIGHTS, PLACES, Layout, layout

__all__ = [
    "COLORS",
    "KINDS",
    "LIGHTS",
    "PATTERNS",
    "PLACES",
    "STUFF",
    "KindSpec",
    "Layout",
    "Sprite",
    "layout",
    "render",
]


@dataclass(frozen=True)
class KindSpec:
    """How a kind is drawn."""

    aspect: float
    """Width over height of its box."""
    draw: Callable[[Pen], None]
    patterns: bool = True
    """Whether patterns other than plain can be seen on it."""
    shadow: float = 0.42
    """Opacity of its shadow on the ground; 0 for objects that hang or float."""


KINDS: dict[str, KindSpec] = {
    "man": KindSpec(0.42, people.man),
    "woman": KindSpec(0.44, people.woman),
    "dog": KindSpec(1.25, animals.dog),
    "cat": KindSpec(0.78, animals.cat),
    "horse": KindSpec(1.15, animals.horse),
    "cow": KindSpec(1.4, animals.cow),
    "sheep": KindSpec(1.3, animals.sheep),
    "bird": KindSpec(1.2, animals.bird),
    "duck": KindSpec(1.2, animals.duck, shadow=0.3),
    "elephant": KindSpec(1.35, animals.elephant),
    "car": KindSpec(2.1, vehicles.car),
    "bus": KindSpec(2.2, vehicles.bus),
    "truck": KindSpec(1.9, vehicles.truck),
    "bicycle": KindSpec(1.55, vehicles.bicycle, patterns=False),
    "boat": KindSpec(1.0, vehicles.boat, shadow=0.25),
    "kite": KindSpec(0.62, outdoors.kite, shadow=0.0),
    "umbrella": KindSpec(1.0, outdoors.umbrella),
    "ball": KindSpec(1.0, outdoors.ball),
    "bench": KindSpec(1.9, furniture.bench, patterns=False),
    "tree": KindSpec(0.72, outdoors.tree, patterns=False),
    "house": KindSpec(1.15, outdoors.house),
    "chair": KindSpec(0.62, furniture.chair),
    "table": KindSpec(1.6, furniture.table),
    "sofa": KindSpec(2.0, furniture.sofa),
    "lamp": KindSpec(0.42, furniture.lamp),
    "cup": KindSpec(1.05, furniture.cup),
    "book": KindSpec(1.35, furniture.book),
    "clock": KindSpec(1.0, furniture.clock, patterns=False, shadow=0.0),
    "vase": KindSpec(0.52, furniture.vase),
    "box": KindSpec(1.1, furniture.box),
    "surfboard": KindSpec(0.32, outdoors.surfboard),
    "backpack": KindSpec(0.78, outdoors.backpack),
}


def render(
    place: str, light: str, width: int, height: int, seed: int, sprites: Sequence[Sprite]
) -> np.ndarray:
    """Draw a scene with `sprites` from back to front: [height, width, 3] uint8.

    The same arguments give the same pixels. `seed` is that of the background; each sprite has its own.

    Raises:
        ValueError: unknown place, light, kind, color or pattern.
    """
    plan = layout(place, width, height, seed, light)
    scene = paint(place, light, width, height, seed, plan)
    for sprite in sprites:
        if sprite.kind not in KINDS or sprite.color not in COLORS or sprite.pattern not in PATTERNS:
            raise ValueError(f"cannot draw {sprite.color!r} {sprite.pattern!r} {sprite.kind!r}")
        spec = KINDS[sprite.kind]
        x1, y1, x2, y2 = sprite.box
        airborne = y2 < plan.horizon - 0.01 * height
        afloat = plan.on_water((x1 + x2) / 2, y2)
        if spec.shadow and (afloat or not airborne):
            depth = 0.11 * min(x2 - x1, 1.6 * (y2 - y1)) + 1
            right = x2 + 0.08 * (x2 - x1)
            soft_shadow(scene, (x1 - 0.04 * (x2 - x1), y2 - depth, right, y2 + 0.8 * depth), spec.shadow)
        pen = Pen(sprite, airborne and not afloat, afloat)
        spec.draw(pen)
        pen.paste_onto(scene)
    return grade(scene, place, light, seed)
