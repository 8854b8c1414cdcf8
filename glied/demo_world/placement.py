"""Placement of the objects of a plan: boxes in pixels, from back to front.

Objects on the ground follow a simple perspective: the closer the foot is to the lower edge, the taller the
object. All boxes are (x1, y1, x2, y2) floats; y grows downward.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from glied.demo_world.catalog import HEIGHTS, LARGE_KINDS, PEOPLE, SEE_THROUGH
from glied.demo_world.drawing import KINDS, Layout
from glied.demo_world.plan import Item, Plan
from glied.demo_world.relations import SURFACE

Box = tuple[float, float, float, float]

SMALL_BELOW, LARGE_ABOVE = 0.60, 1.17
MAX_HIDDEN = 0.70
GRID = 24


@dataclass(frozen=True)
class Placed:
    """One object with a position.

    Attributes:
        item: index of its item in `plan.items`.
        box: full extent, px.
        layer: drawing order; higher is closer to the viewer.
        scale: height relative to a normal foreground object of the kind; determines the size word.
    """

    item: int
    kind: str
    box: Box
    layer: float
    scale: float

    @property
    def size(self) -> str | None:
        """The size word that describes the drawn object, or None."""
        if self.kind in PEOPLE:
            return None
        if self.scale < SMALL_BELOW:
            return "small"
        return "large" if self.scale > LARGE_ABOVE and self.kind in LARGE_KINDS else None


def place_objects(rng: random.Random, plan: Plan, layout: Layout, shrink: float = 1.0) -> list[Placed]:
    """Place the main objects, then all background objects that fit.

    Args:
        rng: random generator.
        plan: the objects to place.
        layout: the layout of the place.
        shrink: factor on all heights, below 1 if the main objects are too large for the image.

    Raises:
        LookupError: the main objects did not fit; the caller draws other random numbers.
    """
    stage = _Stage(rng, plan, layout, shrink)
    for _ in range(30):
        main = stage.main()
        if all(stage.inside(p) for p in main) and _visible_enough(main):
            break
    else:
        raise LookupError("the main objects do not fit into the image")
    placed = main
    first_extra = 2 if plan.partner else 1
    for position, item in enumerate(plan.extras, start=first_extra):
        scale = stage.extra_scale(item)
        for _ in range(item.count):
            placed = stage.add_extra(placed, position, item, scale)
    return sorted(placed, key=lambda p: p.layer)


class _Stage:
    """The image area, and the random choices of positions in it."""

    def __init__(self, rng: random.Random, plan: Plan, layout: Layout, shrink: float) -> None:
        self.rng, self.plan, self.layout, self.shrink = rng, plan, layout, shrink
        self.width, self.height = plan.width, plan.height
        self.side = min(plan.width, plan.height)
        self.stuff = dict(layout.stuff)
        self.ground = self.height - layout.horizon

    def inside(self, placed: Placed) -> bool:
        """Whether the object is inside the image, up to a narrow margin."""
        x1, y1, x2, y2 = placed.box
        return x1 >= -2 and y1 >= -2 and x2 <= self.width + 2 and y2 <= self.height + 1

    def scale(self, item: Item) -> float:
        """Return the height relative to the normal height of the kind."""
        ranges = {"small": (0.44, 0.56), "large": (1.22, 1.5), None: (0.72, 1.05)}
        return self.shrink * self.rng.uniform(*ranges[item.size])

    def extent(self, kind: str, scale: float) -> tuple[float, float, float]:
        """Return width, height, and the scale after fitting the object into the image."""
        height, aspect = HEIGHTS[kind] * self.side * scale, KINDS[kind].aspect
        fit = min(1.0, 0.66 * self.width / (height * aspect), 0.86 * self.height / height)
        return height * aspect * fit, height * fit, scale * fit

    def foot(self, scale: float) -> float:
        """Return the y of an object's lower edge on the ground; taller objects are closer."""
        depth = min(1.0, max(0.12, (scale - 0.35) / 0.75 + self.rng.uniform(-0.12, 0.12)))
        return self.layout.horizon + (0.12 + 0.84 * depth) * self.ground

    def stand(self, index: int, item: Item, x: float, foot: float, scale: float, lift: float = 0) -> Placed:
        """Place the object with the center of its lower edge at (x, foot)."""
        width, height, scale = self.extent(item.kind, scale)
        box = (x - width / 2, foot - height, x + width / 2, foot)
        return Placed(index, item.kind, box, foot + lift, scale)

    def main(self) -> list[Placed]:
        """Try to place the subject and the partner, or the group that is the subject."""
        plan = self.plan
        if plan.partner is None or plan.relation is None:
            return self.group(0, plan.subject)
        return getattr(self, "_" + plan.relation.replace(" ", "_"))(plan.subject, plan.partner)

    def group(self, index: int, item: Item) -> list[Placed]:
        """Place `count` equal objects in a loose row in the item's zone."""
        scale = self.scale(item) * (0.85 if item.count == 3 and item.size is None else 1.0)
        width, _, scale = self.extent(item.kind, scale)
        if item.count * width > 0.94 * self.width:
            scale *= 0.94 * self.width / (item.count * width)
            width = 0.94 * self.width / item.count
        step = width * self.rng.uniform(0.98, 1.25)
        middle = self.width * (self.rng.uniform(0.35, 0.65) if item.count == 1 else 0.5)
        row = []
        for i in range(item.count):
            base = self.zone_position(item, scale)
            if base is None:
                base = (0.0, self.foot(scale))
            x = middle + (i - (item.count - 1) / 2) * step
            row.append(self.stand(index, item, x, base[1], scale))
        return row

    def zone_position(self, item: Item, scale: float) -> tuple[float, float] | None:
        """Return (x, foot) for an object in its zone, or None if the place has no such zone."""
        width, height, scale = self.extent(item.kind, scale)
        x = self.rng.uniform(width / 2 + 1, max(width / 2 + 2, self.width - width / 2 - 1))
        horizon = self.layout.horizon
        if item.zone == "air":
            return x, self.rng.uniform(height + 2, max(height + 3, horizon * 0.95))
        if item.zone == "wall":
            return x, self.rng.uniform(height + 2, max(height + 3, horizon * 0.62))
        if item.zone == "water":
            return self._on_water(width, height)
        if item.zone == "tabletop":
            return self._on_counter(x)
        return x, self.foot(scale)

    def _on_water(self, width: float, height: float) -> tuple[float, float] | None:
        box = self.stuff.get("sea") or self.stuff.get("pond")
        if box is None:
            return None
        x1, y1, x2, y2 = box
        inner = min(width / 2, (x2 - x1) / 2)
        x = self.rng.uniform(x1 + inner, max(x1 + inner, x2 - inner))
        return x, min(y2, max(height + 2, self.rng.uniform(y1 + 0.45 * (y2 - y1), y1 + 0.9 * (y2 - y1))))

    def _on_counter(self, x: float) -> tuple[float, float] | None:
        box = self.stuff.get("counter")
        if box is None or not box[0] < x < box[2]:
            return None
        return x, box[1] + 0.04 * (box[3] - box[1])

    def extra_scale(self, item: Item) -> float:
        """Return the height of a background object relative to the normal height of its kind."""
        low, high = (0.48, 0.57) if item.size == "small" else (0.66, 0.92)
        if item.kind in PEOPLE:
            low, high = 0.45, 0.8
        return self.rng.uniform(low, high)

    def add_extra(self, placed: list[Placed], index: int, item: Item, scale: float) -> list[Placed]:
        """Add an object to `placed`, unless it would hide others in all attempts."""
        for _ in range(14):
            position = self.zone_position(item, scale)
            if position is None:
                continue
            lift = 0 if item.zone == "ground" else -self.height
            new = self.stand(index, item, *position, scale, lift=lift)
            if self.inside(new) and _clear(new, placed) and _visible_enough([*placed, new]):
                return [*placed, new]
        return placed

    # One method per relation; each returns the subject, then the partner.

    def _pair(self, a: Item, b: Item) -> tuple[float, float, float]:
        """Return the scales of both objects, and a foot on the ground for the closer one."""
        scale_a, scale_b = self.scale(a), self.scale(b)
        return scale_a, scale_b, max(self.foot(scale_a), self.foot(scale_b))

    def _side_by_side(self, a: Item, b: Item, gap: tuple[float, float], a_is_left: bool) -> list[Placed]:
        scale_a, scale_b, foot = self._pair(a, b)
        width_a, _, scale_a = self.extent(a.kind, scale_a)
        width_b, _, scale_b = self.extent(b.kind, scale_b)
        total = width_a + width_b
        if total > 0.92 * self.width:
            fit = 0.92 * self.width / total
            scale_a, scale_b, width_a, width_b, total = (
                v * fit for v in (scale_a, scale_b, width_a, width_b, total)
            )
        distance = min(self.rng.uniform(*gap) * self.side, max(0.0, 0.97 * self.width - total))
        left = self.rng.uniform(0.01 * self.width, max(0.01, 0.99 * self.width - total - distance))
        x_a = left + width_a / 2 if a_is_left else left + width_b + distance + width_a / 2
        x_b = left + width_a + distance + width_b / 2 if a_is_left else left + width_b / 2
        shift = self.rng.uniform(-0.02, 0.02) * self.side
        return [self.stand(0, a, x_a, foot, scale_a), self.stand(1, b, x_b, foot + shift, scale_b)]

    def _next_to(self, a: Item, b: Item) -> list[Placed]:
        return self._side_by_side(a, b, (0.0, 0.07), self.rng.random() < 0.5)

    def _left_of(self, a: Item, b: Item) -> list[Placed]:
        return self._side_by_side(a, b, (0.16, 0.5), True)

    def _right_of(self, a: Item, b: Item) -> list[Placed]:
        return self._side_by_side(a, b, (0.16, 0.5), False)

    def _partner(self, b: Item) -> Placed:
        """Place the partner alone near the middle; boats on the water if there is any."""
        scale = self.scale(b)
        if b.zone == "water" and (spot := self.zone_position(b, scale)):
            return self.stand(1, b, *spot, scale)
        return self.stand(1, b, self.width * self.rng.uniform(0.35, 0.65), self.foot(scale), scale)

    def _in_front_of(self, a: Item, b: Item) -> list[Placed]:
        back = self._partner(b)
        x1, _, x2, y2 = back.box
        foot = min(self.height - 2.0, y2 + self.rng.uniform(0.03, 0.1) * self.side)
        front = self.stand(
            0, a, self.rng.uniform(x1 + 0.2 * (x2 - x1), x2 - 0.2 * (x2 - x1)), foot, self.scale(a)
        )
        return [front, back]

    def _behind(self, a: Item, b: Item) -> list[Placed]:
        front = self._partner(b)
        x1, _, x2, y2 = front.box
        foot = y2 - self.rng.uniform(0.04, 0.1) * self.side
        x = self.rng.uniform(x1 + 0.2 * (x2 - x1), x2 - 0.2 * (x2 - x1))
        return [self.stand(0, a, x, foot, self.scale(a)), front]

    def _on(self, a: Item, b: Item) -> list[Placed]:
        below = self._partner(b)
        x1, y1, x2, y2 = below.box
        width, _, scale = self.extent(a.kind, self.scale(a))
        fit = min(1.0, 0.75 * (x2 - x1) / width)
        spread = 0.04 if b.kind in {"house", "chair"} else 0.2
        x = (x1 + x2) / 2 + self.rng.uniform(-spread, spread) * (x2 - x1 - width * fit)
        above = self.stand(0, a, x, y1 + SURFACE[b.kind] * (y2 - y1), scale * fit)
        return [_with_layer(above, below.layer + 0.5), below]

    def _under(self, a: Item, b: Item) -> list[Placed]:
        cover = self._partner(b)
        x1, y1, x2, y2 = cover.box
        if b.kind == "umbrella":
            return self._under_umbrella(a, cover)
        width, height, scale = self.extent(a.kind, self.scale(a))
        room = (0.66 if b.kind == "table" else 0.5) * (y2 - y1)
        fit = min(1.0, room / height, 0.6 * (x2 - x1) / width)
        spread = 0.1 if b.kind == "table" else 0.25
        x = (x1 + x2) / 2 + self.rng.uniform(-spread, spread) * (x2 - x1)
        below = self.stand(0, a, x, y2 - (0.01 if b.kind == "table" else -0.02) * self.side, scale * fit)
        return [_with_layer(below, cover.layer + 0.5), cover]

    def _under_umbrella(self, a: Item, cover: Placed) -> list[Placed]:
        """Place an upright umbrella beside its handle, with the subject under its edge."""
        x1, _, x2, y2 = cover.box
        width, height, scale = self.extent(a.kind, self.scale(a))
        fit = min(1.0, 0.55 * (y2 - cover.box[1]) / height, 0.45 * (x2 - x1) / width)
        side = self.rng.choice((-1, 1))
        below = self.stand(0, a, (x1 + x2) / 2 + side * 0.25 * (x2 - x1), y2, scale * fit)
        return [_with_layer(below, cover.layer + 0.5), cover]

    def _above(self, a: Item, b: Item) -> list[Placed]:
        below = self._partner(b)
        x1, y1, x2, _ = below.box
        foot = y1 - self.rng.uniform(0.02, 0.12) * self.side
        flying = self.stand(
            0, a, (x1 + x2) / 2 + self.rng.uniform(-0.25, 0.25) * (x2 - x1), foot, self.scale(a)
        )
        return [_with_layer(flying, -1.0), below]

    def _holding(self, a: Item, b: Item) -> list[Placed]:
        person = self.stand(
            0, a, self.width * self.rng.uniform(0.3, 0.7), self.foot(1.0), self.rng.uniform(0.8, 1.08)
        )
        x1, y1, x2, y2 = person.box
        side = self.rng.choice((-1, 1))
        hand = ((x1 + x2) / 2 + side * 0.46 * (x2 - x1), y1 + 0.56 * (y2 - y1))
        if b.kind == "surfboard":
            held = self.stand(1, b, hand[0], y2, person.scale * 0.95)
        elif b.kind == "umbrella":
            held = self.stand(1, b, hand[0], hand[1], person.scale * 0.95)
        else:
            _, height, scale = self.extent(b.kind, self.scale(b))
            fit = min(1.0, 0.3 * (y2 - y1) / height)
            held = self.stand(1, b, hand[0], hand[1] + 0.6 * height * fit, scale * fit)
        return [person, _with_layer(held, person.layer + 0.5)]

    def _riding(self, a: Item, b: Item) -> list[Placed]:
        mount = self._partner(b)
        x1, y1, x2, y2 = mount.box
        lift = {"bicycle": 0.12, "horse": 0.3, "elephant": 0.5}[b.kind]
        scale = min(mount.scale, 0.9)
        rider = self.stand(0, a, (x1 + x2) / 2, y2 - lift * (y2 - y1), scale)
        return [_with_layer(rider, mount.layer - 0.5), mount]


def _with_layer(placed: Placed, layer: float) -> Placed:
    return Placed(placed.item, placed.kind, placed.box, layer, placed.scale)


def _clear(new: Placed, placed: list[Placed]) -> bool:
    """Whether a background object overlaps no other by more than a third of the smaller one."""
    return all(
        intersection(new.box, other.box) < 0.34 * min(area(new.box), area(other.box)) for other in placed
    )


def _visible_enough(placed: list[Placed]) -> bool:
    """Whether no object is hidden over `MAX_HIDDEN` of its area."""
    return all(share >= 1 - MAX_HIDDEN for _, share in visible_boxes(placed))


def visible_boxes(placed: list[Placed]) -> list[tuple[Box, float]]:
    """Return the visible box of each object and the visible share of its area, in the given order.

    Closer objects cover farther ones with 84 % of their box, because drawings do not fill its corners. Behind
    drawings with holes (a bicycle), a box keeps its full extent.
    """
    return [_visible(one, [other for other in placed if other.layer > one.layer]) for one in placed]


def _visible(one: Placed, nearer: list[Placed]) -> tuple[Box, float]:
    x1, y1, x2, y2 = one.box
    covers = [(_shrink(o.box), o.kind in SEE_THROUGH) for o in nearer if intersection(o.box, one.box) > 0]
    if not covers:
        return one.box, 1.0
    step_x, step_y = (x2 - x1) / GRID, (y2 - y1) / GRID
    seen, columns, rows = 0, [], []
    for row in range(GRID):
        y = y1 + (row + 0.5) * step_y
        for column in range(GRID):
            x = x1 + (column + 0.5) * step_x
            hits = [thin for (a, b, c, d), thin in covers if a < x < c and b < y < d]
            seen += not hits
            if all(hits):
                columns.append(column)
                rows.append(row)
    if not columns:
        return one.box, 0.0
    box = (
        x1 + min(columns) * step_x, y1 + min(rows) * step_y,
        x1 + (max(columns) + 1) * step_x, y1 + (max(rows) + 1) * step_y,
    )  # fmt: skip
    return box, seen / GRID**2


def _shrink(box: Box) -> Box:
    x1, y1, x2, y2 = box
    dx, dy = 0.04 * (x2 - x1), 0.04 * (y2 - y1)
    return x1 + dx, y1 + dy, x2 - dx, y2 - dy


def area(box: Box) -> float:
    """Area in square pixels."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def intersection(a: Box, b: Box) -> float:
    """Area of the intersection of two boxes."""
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
