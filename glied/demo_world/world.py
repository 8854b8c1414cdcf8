"""Scenes of the demo world: plans with positions, ready to be drawn and described.

The data types of this layer: `Item` and `Plan` (plan), `Placed` (placement), `SceneObject` and `Scene`
(world), `Language` (language), and `Layout` and `Sprite` (drawing).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from glied.demo_world.drawing import Layout, Sprite, layout, render
from glied.demo_world.placement import Box, Placed, area, place_objects, visible_boxes
from glied.demo_world.plan import Item, Plan, sample_plan, stream

SPLITS = ("train", "val", "test")
MIN_STUFF_SIDE = 6.0


@dataclass(frozen=True)
class SceneObject:
    """One drawn object.

    Attributes:
        item: index of its item in the plan: objects of one item look alike.
        box: visible extent within the image (x1, y1, x2, y2), px.
        full_box: full extent without occlusion, px.
        visible: visible share of the full extent's area, 0-1.
        size: "small", "large" or None, as drawn.
        salient: whether it belongs to the subject or its partner.
    """

    item: int
    kind: str
    color: str
    pattern: str
    size: str | None
    box: Box
    full_box: Box
    visible: float
    salient: bool

    @property
    def attributes(self) -> list[str]:
        """Color, then size and pattern if they are notable."""
        size = [self.size] if self.size else []
        return [self.color, *size, *([] if self.pattern == "plain" else [self.pattern])]


@dataclass(frozen=True)
class Scene:
    """A scene, fully determined by (split, index, seed).

    Attributes:
        plan: what the scene is about; counts and sizes are those that were drawn.
        objects: subject first, then partner, then background; `order` is back to front.
        relations: (subject index, relation, object index) between objects.
        stuff: (class, box) of sky, sand etc.
    """

    split: str
    index: int
    seed: int
    plan: Plan
    objects: tuple[SceneObject, ...]
    order: tuple[int, ...]
    relations: tuple[tuple[int, str, int], ...]
    stuff: tuple[tuple[str, Box], ...]
    sprites_seed: int

    @property
    def name(self) -> str:
        """File name without suffix, for example "test-000123"."""
        return f"{self.split}-{self.index:06d}"


def sample_scene(split: str, index: int, seed: int = 0) -> Scene:
    """Sample the scene of an index, independent of all other scenes.

    Raises:
        ValueError: the split is unknown or the index negative.
    """
    if split not in SPLITS or index < 0:
        raise ValueError(
            f"no scene {index} of split {split!r}; splits are {', '.join(SPLITS)}, indices start at 0"
        )
    plan = sample_plan(split, index, seed)
    rng = stream(split, seed, "layout", index)
    sprites_seed = rng.randrange(2**31)
    ground = layout(plan.place, plan.width, plan.height, sprites_seed, plan.light)
    plan, placed = _place(plan, ground, split, index, seed)
    placed.sort(key=lambda p: p.item)
    plan = _as_drawn(plan, placed)
    objects = tuple(_objects(plan, placed))
    kept = sorted({p.item for p in placed})
    objects = tuple(replace(o, item=kept.index(o.item)) for o in objects)
    order = tuple(sorted(range(len(placed)), key=lambda i: placed[i].layer))
    relations = ((0, plan.relation, 1),) if plan.relation and plan.partner else ()
    clipped = ((name, _clip(box, plan.width, plan.height)) for name, box in ground.stuff)
    stuff = tuple((name, box) for name, box in clipped if _large_enough(box))
    return Scene(split, index, seed, plan, objects, order, relations, stuff, sprites_seed)


def _place(plan: Plan, ground: Layout, split: str, index: int, seed: int) -> tuple[Plan, list[Placed]]:
    """Place the objects of a plan, ever smaller until they fit, finally with the relation "next to"."""
    for attempt in range(60):
        if attempt == 30 and plan.partner is not None:
            plan = replace(plan, relation="next to")
        try:
            rng = stream(split, seed, "place", index, attempt)
            return plan, place_objects(rng, plan, ground, shrink=max(0.3, 1 - 0.03 * (attempt % 30)))
        except LookupError:
            continue
    raise AssertionError(f"no room for {plan}")


def _as_drawn(plan: Plan, placed: list[Placed]) -> Plan:
    """Return the plan with the counts and sizes that were drawn, without items that have no object."""
    drawn: list[Item] = []
    for index, item in enumerate(plan.items):
        members = [p for p in placed if p.item == index]
        if members:
            drawn.append(replace(item, count=len(members), size=members[0].size))
    extras = tuple(drawn[2:] if plan.partner else drawn[1:])
    return replace(plan, subject=drawn[0], partner=drawn[1] if plan.partner else None, extras=extras)


def _objects(plan: Plan, placed: list[Placed]) -> Iterator[SceneObject]:
    kept = sorted({p.item for p in placed})
    salient_items = 2 if plan.partner else 1
    for one, (box, share) in zip(placed, visible_boxes(placed), strict=True):
        item = plan.items[kept.index(one.item)]
        clipped = _clip(box, plan.width, plan.height)
        yield SceneObject(
            one.item,
            one.kind,
            item.color,
            item.pattern,
            item.size,
            clipped,
            one.box,
            share,
            one.item < salient_items,
        )


def _clip(box: Box, width: int, height: int) -> Box:
    x1, y1, x2, y2 = box
    return max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)


def _large_enough(box: Box) -> bool:
    return area(box) > 0 and min(box[2] - box[0], box[3] - box[1]) >= MIN_STUFF_SIDE


def draw(scene: Scene) -> np.ndarray:
    """The picture, [height, width, 3] uint8 RGB."""
    rng = stream(scene.split, scene.seed, "sprites", scene.index)
    looks = [(rng.random() < 0.5, rng.randrange(2**31)) for _ in scene.objects]
    sprites = [
        Sprite(o.kind, o.color, o.pattern, o.full_box, *looks[i])
        for i, o in ((i, scene.objects[i]) for i in scene.order)
    ]
    plan = scene.plan
    return render(plan.place, plan.light, plan.width, plan.height, scene.sprites_seed, sprites)
