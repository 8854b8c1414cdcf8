"""Drawing primitives for all kinds: shaded, patterned, outlined shapes in the unit square of a box.

Pillow draws without antialiasing, so a sprite is drawn on a tile 2 or 3 times as large as its box and reduced
when it is pasted. Coordinates: (0, 0) is the upper left of the box, (1, 1) the lower right; light falls from
the upper left, also when the sprite is flipped.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from PIL import Image, ImageDraw

from glied.demo_world.drawing.palette import RGB, clamp, jittered, luminance, outline_of, second_color

Point = tuple[float, float]
Box = tuple[float, float, float, float]

SPLINE_STEPS = 6
TILE_MARGIN = 3  # pixels of the final image around the box, for outlines


@dataclass(frozen=True)
class Sprite:
    """One object of a scene."""

    kind: str
    color: str
    pattern: str
    box: Box
    """x1, y1, x2, y2 in pixels of the final image."""
    flip: bool
    """False faces right."""
    seed: int


def spline(points: Sequence[Point], closed: bool = True) -> list[Point]:
    """Catmull-Rom curve through `points`."""
    p = np.asarray(points, dtype=np.float64)
    if closed:
        p0, p1, p2, p3 = np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)
    else:
        padded = np.concatenate([p[:1], p, p[-1:]])
        p0, p1, p2, p3 = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(SPLINE_STEPS) / SPLINE_STEPS)[None, :, None]
    a, b, c, d = p0[:, None], p1[:, None], p2[:, None], p3[:, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    flat = curve.reshape(-1, 2)
    if not closed:
        flat = np.concatenate([flat, p[-1:]])
    return [(x, y) for x, y in flat.tolist()]


def ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0
) -> list[Point]:
    """Points on an ellipse; angles in degrees, clockwise from the right as y points down."""
    count = 28 if end - start > 200 else 16
    angles = (math.radians(start + (end - start) * i / count) for i in range(count + (end - start < 360)))
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[Point]:
    """Corners of an axis-aligned rectangle."""
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def gradient(color: RGB, size: tuple[int, int], strength: float = 1.0) -> Image.Image:
    """Shaded color: lit from the upper left, darker at the lower right."""
    light = luminance(color) / 255
    depth = strength * (0.52 - 0.22 * light)  # white stays white, dark colors get volume
    glow = strength * (26 - 22 * light)
    corners = bytearray()
    for v in (0.0, 0.33, 0.67, 1.0):
        for u in (0.0, 0.33, 0.67, 1.0):
            dark = 0.4 * u + 0.6 * v
            factor, add = 1 + depth * (0.36 - dark), glow * (0.6 - dark)
            corners += bytes(
                clamp((color[0] * factor + add, color[1] * factor + add, color[2] * factor + add))
            )
    return Image.frombytes("RGB", (4, 4), bytes(corners)).resize(size, Image.Resampling.BILINEAR)


class Pen:
    """Draws one sprite.

    `airborne` is true when the box ends above the ground (a bird then flies), `afloat` when it ends on water.
    """

    def __init__(self, sprite: Sprite, airborne: bool = False, afloat: bool = False) -> None:
        self.sprite = sprite
        self.airborne, self.afloat = airborne, afloat
        self.rng = random.Random(sprite.seed * 7919 + 13)
        self.color = jittered(sprite.color, self.rng)
        x1, y1, x2, y2 = sprite.box
        self.width, self.height = max(1.0, x2 - x1), max(1.0, y2 - y1)
        self.ratio = self.height / self.width
        self.factor = 3 if max(self.width, self.height) < 120 else 2
        self.left, self.top = math.floor(x1) - TILE_MARGIN, math.floor(y1) - TILE_MARGIN
        size = (
            (math.ceil(x2) + TILE_MARGIN - self.left) * self.factor,
            (math.ceil(y2) + TILE_MARGIN - self.top) * self.factor,
        )
        # What lies under an edge pixel is the dark of the outline, so that reduced edges do not turn light.
        self.tile = Image.new("RGB", size, outline_of(self.color))
        self.alpha = Image.new("L", size, 0)
        self.draw = ImageDraw.Draw(self.tile)
        self.cover = ImageDraw.Draw(self.alpha)
        reach = min(self.width, self.height)
        self.hair = max(1.0, 0.014 * reach) * self.factor
        """Width of an outline in tile pixels."""

    def place(self, points: Sequence[Point]) -> list[Point]:
        """Convert unit coordinates to tile pixels."""
        x1, y1 = (self.sprite.box[0] - self.left) * self.factor, (self.sprite.box[1] - self.top) * self.factor
        w, h = self.width * self.factor, self.height * self.factor
        if self.sprite.flip:
            return [(x1 + (1 - x) * w, y1 + y * h) for x, y in points]
        return [(x1 + x * w, y1 + y * h) for x, y in points]

    def body(
        self, points: Sequence[Point], *, smooth: bool = False, horizontal: bool = False, tone: float = 1.0
    ) -> None:
        """Draw a part in the sprite's color and pattern."""
        color = clamp((self.color[0] * tone, self.color[1] * tone, self.color[2] * tone))
        self.shape(points, color, smooth=smooth, pattern=self.sprite.pattern, horizontal=horizontal)

    def shape(
        self,
        points: Sequence[Point],
        color: RGB,
        *,
        smooth: bool = False,
        pattern: str = "plain",
        horizontal: bool = False,
        outline: bool = True,
        strength: float = 1.0,
    ) -> None:
        """Draw a shaded, outlined part with a clipped pattern."""
        placed = self.place(spline(points) if smooth else points)
        xs, ys = [x for x, _ in placed], [y for _, y in placed]
        left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
        right, bottom = (
            min(self.tile.width, math.ceil(max(xs)) + 1),
            min(self.tile.height, math.ceil(max(ys)) + 1),
        )
        if right <= left or bottom <= top:
            return
        size = (right - left, bottom - top)
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in placed], fill=255)
        texture = gradient(color, size, strength)
        if pattern != "plain":
            self._pattern(texture, pattern, (left, top), second_color(color), horizontal)
        self.tile.paste(texture, (left, top), mask)
        self.alpha.paste(255, (left, top), mask)
        if outline:
            self._outline(placed, outline_of(color))

    def flat(self, points: Sequence[Point], color: RGB, *, smooth: bool = False) -> None:
        """Draw a small detail in one color, without an outline."""
        placed = self.place(spline(points) if smooth else points)
        self.draw.polygon(placed, fill=color)
        self.cover.polygon(placed, fill=255)

    def tint(self, points: Sequence[Point], color: RGB, opacity: float, *, smooth: bool = False) -> None:
        """Blend a color over the parts drawn so far, without drawing outside of them."""
        placed = self.place(spline(points) if smooth else points)
        ImageDraw.Draw(self.tile, "RGBA").polygon(placed, fill=(*color, round(255 * opacity)))

    def line(self, points: Sequence[Point], color: RGB, width: float, *, smooth: bool = False) -> None:
        """Draw a stroke; `width` is relative to the shorter side of the box, at least 0.8 pixels."""
        placed = self.place(spline(points, closed=False) if smooth else points)
        pixels = max(0.8, width * min(self.width, self.height)) * self.factor
        for target, fill in ((self.draw, color), (self.cover, 255)):
            target.line(placed, fill=fill, width=round(pixels), joint="curve")
            if pixels > 3:
                for x, y in (placed[0], placed[-1]):
                    r = pixels / 2
                    target.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def limb(self, points: Sequence[Point], color: RGB, width: float, *, smooth: bool = True) -> None:
        """Draw a stroke with an outline: a leg, a tail, a pole."""
        extra = 2 * self.hair / self.factor / min(self.width, self.height)
        self.line(points, outline_of(color), width + extra, smooth=smooth)
        self.line(points, color, width, smooth=smooth)

    def circle(self, cx: float, cy: float, r: float) -> list[Point]:
        """Return a circle in pixel space, whatever the box; `r` is relative to its height."""
        return ellipse(cx, cy, r * self.ratio, r)

    def dot(self, cx: float, cy: float, r: float, color: RGB) -> None:
        """Draw a flat disc of at least 0.6 pixels; `r` is relative to the height."""
        self.flat(self.circle(cx, cy, max(r, 0.6 / self.height)), color)

    def wheel(self, cx: float, cy: float, r: float) -> None:
        """Draw a tire with a hub."""
        self.shape(self.circle(cx, cy, r), (46, 46, 50))
        self.shape(self.circle(cx, cy, r * 0.52), (190, 194, 200), outline=False)
        self.dot(cx, cy, r * 0.16, (80, 82, 88))

    def ripples(self) -> None:
        """Draw two light waves where the sprite touches the water."""
        for x1, x2, y in ((0.04, 0.94, 0.955), (0.20, 0.80, 0.99)):
            step = (x2 - x1) / 4
            wave = [(x1 + i * step, y - 0.02 * (i % 2)) for i in range(5)]
            self.line(wave, (222, 240, 248), 0.03, smooth=True)

    @cached_property
    def cell(self) -> float:
        """Size of a pattern's repeat in tile pixels: at least 5 pixels of the final image."""
        return max(5.0, 0.17 * min(self.width, self.height)) * self.factor

    def _outline(self, placed: list[Point], color: RGB) -> None:
        ring = [*placed, placed[0]]
        self.draw.line(ring, fill=color, width=round(self.hair), joint="curve")
        self.cover.line(ring, fill=255, width=round(self.hair), joint="curve")

    def _pattern(
        self, texture: Image.Image, pattern: str, origin: tuple[int, int], color: RGB, horizontal: bool
    ) -> None:
        """Draws stripes, spots or squares on the texture, aligned between the parts of a sprite."""
        draw = ImageDraw.Draw(texture)
        width, height = texture.size
        step, (left, top) = self.cell, origin
        if pattern == "striped":
            if horizontal:
                for i in range(int(top / step) - 1, int((top + height) / step) + 1):
                    y = i * step - top
                    draw.rectangle((0, y, width, y + 0.42 * step), fill=color)
                return
            slant = 0.18 * height
            for i in range(int(left / step) - 1, int((left + width + slant) / step) + 2):
                x = i * step - left
                draw.polygon(
                    [(x, 0), (x + 0.42 * step, 0), (x + 0.42 * step - slant, height), (x - slant, height)],
                    fill=color,
                )
            return
        for row in range(int(top / step) - 1, int((top + height) / step) + 2):
            for column in range(int(left / step) - 1, int((left + width) / step) + 2):
                x, y = column * step - left, row * step - top
                if pattern == "checkered" and (row + column) % 2:
                    draw.rectangle((x, y, x + step - 1, y + step - 1), fill=color)
                elif pattern == "spotted":
                    x += 0.5 * step * (row % 2)
                    r = step * (0.24 + 0.05 * ((row * 7 + column * 3) % 3))
                    draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def paste_onto(self, scene: Image.Image) -> None:
        """Downscale the tile and paste it into the scene."""
        scene.paste(self.tile.reduce(self.factor), (self.left, self.top), self.alpha.reduce(self.factor))


def soft_shadow(scene: Image.Image, box: Box, opacity: float) -> None:
    """Darkens an ellipse with a soft edge."""
    x1, y1, x2, y2 = (round(value) for value in box)
    size = (max(1, x2 - x1), max(1, y2 - y1))
    scene.paste(
        (22, 24, 38),
        (x1, y1),
        soft_disc().resize(size, Image.Resampling.BILINEAR).point(lambda v: v * opacity),
    )


@cache
def soft_disc() -> Image.Image:
    """A mask that is opaque in the middle and fades outward."""
    v, u = np.mgrid[-1:1:24j, -1:1:24j]
    fall = np.clip(1.15 * (1 - np.hypot(u, v)), 0, 1)
    return Image.fromarray((255 * fall).astype(np.uint8))
