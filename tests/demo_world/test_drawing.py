"""Drawings stay in their boxes, are deterministic, and show color and pattern."""

import numpy as np
import pytest

from glied.demo_world.drawing import COLORS, KINDS, LIGHTS, PATTERNS, PLACES, STUFF, Sprite, layout, render
from glied.demo_world.drawing.palette import BASE

WIDTH, HEIGHT = 160, 120
BOX = (50.0, 40.0, 110.0, 100.0)


def draw(
    kind: str, color: str = "red", pattern: str = "plain", seed: int = 1, flip: bool = False
) -> np.ndarray:
    """Draw one object on a field."""
    return render("field", "day", WIDTH, HEIGHT, 5, [Sprite(kind, color, pattern, BOX, flip, seed)])


def changed(a: np.ndarray, b: np.ndarray, threshold: int = 6) -> np.ndarray:
    """Return [H, W] bool: the pixels that differ visibly."""
    return np.abs(a.astype(int) - b.astype(int)).max(axis=2) > threshold


@pytest.fixture(scope="module")
def empty() -> np.ndarray:
    return render("field", "day", WIDTH, HEIGHT, 5, [])


@pytest.mark.parametrize("kind", KINDS)
def test_kind_fills_its_box_and_nothing_else(kind: str, empty: np.ndarray) -> None:
    difference = changed(draw(kind), empty)
    ys, xs = np.nonzero(difference)
    x1, y1, x2, y2 = BOX
    shadow = 9
    assert xs.min() >= x1 - shadow
    assert xs.max() <= x2 + shadow
    assert ys.min() >= y1 - 3
    assert ys.max() <= y2 + shadow
    inside = difference[int(y1) : int(y2), int(x1) : int(x2)]
    assert inside.mean() > 0.12
    rows, columns = np.nonzero(inside)
    assert np.ptp(rows) > 0.9 * (y2 - y1)
    assert np.ptp(columns) > 0.85 * (x2 - x1)


@pytest.mark.parametrize("kind", KINDS)
def test_color_shows(kind: str, empty: np.ndarray) -> None:
    base = np.array([BASE[color] for color in COLORS], dtype=float)
    for index, color in enumerate(COLORS):
        picture = draw(kind, color)
        pixels = picture[40:100, 50:110][changed(picture, empty)[40:100, 50:110]].astype(float)
        nearest = ((pixels[:, None] - base[None]) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == index).mean() > 0.18, color


@pytest.mark.parametrize("kind", [kind for kind, spec in KINDS.items() if spec.patterns])
def test_every_pattern_shows(kind: str) -> None:
    pictures = [draw(kind, "blue", pattern) for pattern in PATTERNS]
    for i, a in enumerate(pictures):
        for b in pictures[i + 1 :]:
            assert changed(a, b, 25).sum() > 60


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_and_clipped_sprites_are_drawn(kind: str, empty: np.ndarray) -> None:
    sprites = [
        Sprite(kind, "purple", "spotted", (20.3, 80.8, 28.1, 88.4), False, 3),
        Sprite(kind, "purple", "checkered", (140, 90, 190, 140), True, 4),
        Sprite(kind, "purple", "striped", (-30, -20, 25, 30), True, 4),
    ]
    for sprite in sprites:
        assert changed(render("field", "day", WIDTH, HEIGHT, 5, [sprite]), empty).sum() > 15


def test_same_arguments_give_the_same_pixels() -> None:
    for place in PLACES:
        sprites = [Sprite(kind, "green", "striped", BOX, True, 9) for kind in ("woman", "tree", "vase")]
        first, second = (render(place, "sunset", WIDTH, HEIGHT, 8, sprites) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert first.shape == (HEIGHT, WIDTH, 3)
        assert first.dtype == np.uint8


def test_flip_mirrors_the_shape(empty: np.ndarray) -> None:
    right, left = (changed(draw("duck", "purple", flip=flip), empty)[40:90, 50:110] for flip in (False, True))
    assert (right == left[:, ::-1]).mean() > 0.93
    assert (right == left).mean() < 0.93


def test_duck_swims_without_feet() -> None:
    plan = layout("beach", WIDTH, HEIGHT, 4)
    sea = plan.first("sea")
    assert sea is not None
    y = sea[3] - 4
    assert plan.on_water(80, y)
    assert not plan.on_water(80, sea[3] + 5)
    pictures = [
        render("beach", "day", WIDTH, HEIGHT, 4, [Sprite("duck", "white", "plain", box, False, 1)])
        for box in ((60.0, y - 30, 96.0, y), (60.0, 80.0, 96.0, 110.0))
    ]
    orange = [((p[..., 0] > 200) & (p[..., 2] < 90)).sum() for p in pictures]
    assert orange[0] < orange[1]


def test_bird_flies_above_the_ground() -> None:
    box = (60.0, 8.0, 90.0, 33.0)
    assert layout("street", WIDTH, HEIGHT, 2).horizon > 40
    low, high = (
        render("street", "overcast", WIDTH, HEIGHT, 2, [Sprite("bird", "red", "plain", b, False, 1)])
        for b in ((60.0, 80.0, 90.0, 105.0), box)
    )
    assert changed(low[80:105, 60:90], high[8:33, 60:90], 60).mean() > 0.1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("light", LIGHTS)
def test_layout_lies_inside_the_image(place: str, light: str) -> None:
    for seed in range(40):
        plan = layout(place, 320, 200, seed, light)
        assert 0.25 * 200 < plan.horizon < 0.75 * 200
        assert plan.horizon == layout(place, 320, 200, seed).horizon
        for name, (x1, y1, x2, y2) in plan.stuff:
            assert name in STUFF
            assert 0 <= x1 < x2 <= 320
            assert 0 <= y1 < y2 <= 200


@pytest.mark.parametrize("size", [(200, 480), (300, 300), (500, 200)])
def test_sun_and_moon_are_round_in_every_image(size: tuple[int, int]) -> None:
    seen = 0
    for seed in range(20):
        for light in LIGHTS:
            for name, (x1, y1, x2, y2) in layout("field", *size, seed, light).stuff:
                if name in ("sun", "moon"):
                    seen += 1
                    assert x2 - x1 == pytest.approx(y2 - y1)
                    assert 0 <= x1 < x2 <= size[0]
    assert seen > 10


def test_lights_and_seeds_give_different_places() -> None:
    pictures = [render("beach", light, WIDTH, HEIGHT, 1, []) for light in LIGHTS]
    pictures += [render("beach", "day", WIDTH, HEIGHT, 2, [])]
    for i, a in enumerate(pictures):
        for b in pictures[i + 1 :]:
            assert changed(a, b, 10).mean() > 0.1
    assert pictures[LIGHTS.index("night")].mean() > 40  # still readable


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="moonbase"):
        layout("moonbase", WIDTH, HEIGHT, 1)
    with pytest.raises(ValueError, match="dragon"):
        render("field", "day", WIDTH, HEIGHT, 1, [Sprite("dragon", "red", "plain", BOX, False, 1)])
