"""Layouts of places: the boxes of sky, sand, walls etc.

`layout` determines all boxes from the seed, and `backgrounds` paints them, so boxes and pixels agree.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from glied.demo_world.drawing.pen import Box

PLACES = ("beach", "field", "snow", "street", "park", "room", "kitchen", "desert", "mountain")
INDOORS = ("room", "kitchen")
LIGHTS = ("day", "sunset", "night", "overcast")


@dataclass(frozen=True)
class Layout:
    """The layout of a place."""

    horizon: float
    """y in pixels of the upper edge of the ground."""
    stuff: tuple[tuple[str, Box], ...]
    """Class names and boxes (x1, y1, x2, y2 in pixels), from back to front."""

    def first(self, name: str) -> Box | None:
        """Return the box of the first stuff of a class, or None."""
        return next((box for stuff, box in self.stuff if stuff == name), None)

    def on_water(self, x: float, y: float) -> bool:
        """Whether a point in pixels is in the sea or well inside the oval of a pond."""
        for name, (x1, y1, x2, y2) in self.stuff:
            u, v = 2 * (x - x1) / (x2 - x1) - 1, 2 * (y - y1) / (y2 - y1) - 1
            if (name == "sea" and abs(u) <= 1 and abs(v) <= 1) or (name == "pond" and u * u + v * v < 0.95):
                return True
        return False


def layout(place: str, width: int, height: int, seed: int, light: str = "day") -> Layout:
    """Determine the layout of a place: the ground's upper edge and the boxes of all stuff.

    `light` only affects the sky: the sun by day, the moon at night, neither under an overcast sky.

    Raises:
        ValueError: unknown place or light.
    """
    if place not in PLACES or light not in LIGHTS:
        raise ValueError(f"no place {place!r} with light {light!r}; places: {PLACES}, lights: {LIGHTS}")
    rng = random.Random(f"{place} {seed}")
    horizon, stuff = _PLANS[place](rng, light)
    boxes = tuple(
        (name, (x1 * width, y1 * height, x2 * width, y2 * height)) for name, (x1, y1, x2, y2) in stuff
    )
    return Layout(horizon * height, tuple((name, _in_proportion(name, box, width)) for name, box in boxes))


SHAPES = {
    "sun": 1.0,
    "moon": 1.0,
    "cloud": 2.6,
    "cactus": 0.5,
}  # width over height, whatever the image's shape


def _in_proportion(name: str, box: Box, width: int) -> Box:
    """Correct the width of stuff with a fixed shape, keeping its center, inside the image."""
    if name not in SHAPES:
        return box
    x1, y1, x2, y2 = box
    half = min(SHAPES[name] * (y2 - y1), 0.6 * width) / 2
    middle = min(max((x1 + x2) / 2, half), width - half)
    return middle - half, y1, middle + half, y2


Plan = tuple[float, list[tuple[str, Box]]]


def _sky(rng: random.Random, light: str, bottom: float) -> list[tuple[str, Box]]:
    """Lay out the sky down to `bottom`, with sun or moon and clouds."""
    stuff: list[tuple[str, Box]] = [("sky", (0, 0, 1, bottom))]
    r, x, y = rng.uniform(0.055, 0.075), rng.uniform(0.12, 0.88), rng.uniform(0.11, 0.18)
    shown = rng.random() < 0.6
    clouds = [(rng.uniform(0.02, 0.72), rng.uniform(0.03, 0.16), rng.uniform(0.16, 0.26)) for _ in range(3)]
    count = rng.choice(
        (0, 1, 1, 2)
    )  # drawn in every light: the rest of the plan must not depend on the light
    if shown and light != "overcast":
        if light == "sunset":
            y = bottom - 2.2 * r
        stuff.append(("moon" if light == "night" else "sun", (x - 0.75 * r, y - r, x + 0.75 * r, y + r)))
    for cx, cy, w in clouds[: 3 if light == "overcast" else count]:
        stuff.append(("cloud", (cx, cy, cx + w, cy + 0.5 * w)))
    return stuff


def _beach(rng: random.Random, light: str) -> Plan:
    sea = rng.uniform(0.30, 0.38)
    sand = sea + rng.uniform(0.18, 0.26)
    return sand, [*_sky(rng, light, sea), ("sea", (0, sea, 1, sand)), ("sand", (0, sand, 1, 1))]


def _field(rng: random.Random, light: str) -> Plan:
    ground = rng.uniform(0.38, 0.50)
    return ground, [*_sky(rng, light, ground), ("grass", (0, ground, 1, 1))]


def _snow(rng: random.Random, light: str) -> Plan:
    ground = rng.uniform(0.40, 0.50)
    return ground, [*_sky(rng, light, ground), ("snow", (0, ground, 1, 1))]


def _street(rng: random.Random, light: str) -> Plan:
    ground = rng.uniform(0.46, 0.52)
    road = ground + rng.uniform(0.10, 0.15)
    stuff = _sky(rng, light, ground)
    x = rng.uniform(-0.1, 0.06)
    while x < 0.94:
        width = rng.uniform(0.24, 0.40)
        if rng.random() < 0.85:
            stuff.append(
                ("building", (max(0.0, x), ground - rng.uniform(0.26, 0.42), min(1.0, x + width), ground))
            )
        x += width + rng.uniform(0.0, 0.05)
    return ground, [*stuff, ("sidewalk", (0, ground, 1, road)), ("road", (0, road, 1, 1))]


def _park(rng: random.Random, light: str) -> Plan:
    ground = rng.uniform(0.36, 0.44)
    stuff = [*_sky(rng, light, ground), ("grass", (0, ground, 1, 1))]
    left = rng.random() < 0.5
    pond_width = rng.uniform(0.42, 0.56)
    x = rng.uniform(0.02, 0.06) if left else rng.uniform(0.94, 0.98) - pond_width
    y = ground + rng.uniform(0.06, 0.10)
    stuff.append(("pond", (x, y, x + pond_width, y + rng.uniform(0.20, 0.28))))
    path = rng.uniform(0.26, 0.34)
    if rng.random() < 0.6:
        stuff.append(("path", (0.99 - path, ground, 0.99, 1) if left else (0.01, ground, 0.01 + path, 1)))
    return ground, stuff


def _room(rng: random.Random, light: str) -> Plan:
    floor = rng.uniform(0.54, 0.62)
    stuff: list[tuple[str, Box]] = [("wall", (0, 0, 1, floor)), ("floor", (0, floor, 1, 1))]
    if rng.random() < 0.75:
        x, w = rng.uniform(0.08, 0.62), rng.uniform(0.20, 0.28)
        stuff.append(("window", (x, 0.07, x + w, 0.07 + rng.uniform(0.28, 0.34))))
    if rng.random() < 0.7:
        x = rng.uniform(0.12, 0.28)
        stuff.append(("rug", (x, floor + 0.12, x + rng.uniform(0.5, 0.6), floor + 0.32)))
    return floor, stuff


def _kitchen(rng: random.Random, light: str) -> Plan:
    floor = rng.uniform(0.60, 0.66)
    stuff: list[tuple[str, Box]] = [("wall", (0, 0, 1, floor)), ("floor", (0, floor, 1, 1))]
    if rng.random() < 0.7:
        x = rng.uniform(0.1, 0.6)
        stuff.append(("window", (x, 0.06, x + rng.uniform(0.2, 0.28), 0.30)))
    left, width = rng.random() < 0.5, rng.uniform(0.52, 0.7)
    stuff.append(
        (
            "counter",
            (0, floor - 0.24, width, floor + 0.02) if left else (1 - width, floor - 0.24, 1, floor + 0.02),
        )
    )
    return floor, stuff


def _desert(rng: random.Random, light: str) -> Plan:
    ground = rng.uniform(0.42, 0.52)
    stuff = [*_sky(rng, light, ground), ("sand", (0, ground, 1, 1))]
    for _ in range(rng.choice((0, 1, 2))):
        x, h = rng.uniform(0.03, 0.85), rng.uniform(0.20, 0.30)
        y = ground + rng.uniform(0.02, 0.10)
        stuff.append(("cactus", (x, y - h, x + 0.42 * h, y)))
    return ground, stuff


def _mountain(rng: random.Random, light: str) -> Plan:
    ground = rng.uniform(0.48, 0.56)
    stuff = _sky(rng, light, ground)
    x, width = rng.uniform(0, 0.3), rng.uniform(0.45, 0.6)
    stuff.append(("mountain", (x, ground - rng.uniform(0.34, 0.42), x + width, ground)))
    other = 0.0 if x > 0.15 else 1.0
    w = rng.uniform(0.42, 0.55)
    stuff.append(("mountain", (min(other, 1 - w), ground - rng.uniform(0.18, 0.28), max(w, other), ground)))
    return ground, [*stuff, ("grass", (0, ground, 1, 1))]


_PLANS: dict[str, Callable[[random.Random, str], Plan]] = {
    "beach": _beach,
    "field": _field,
    "snow": _snow,
    "street": _street,
    "park": _park,
    "room": _room,
    "kitchen": _kitchen,
    "desert": _desert,
    "mountain": _mountain,
}
