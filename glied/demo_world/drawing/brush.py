"""The brush that paints the backgrounds of scenes."""

import random

from PIL import Image, ImageDraw

from glied.demo_world.drawing.palette import RGB, mix, outline_of
from glied.demo_world.drawing.pen import Box, Point, gradient, spline

SCALE = 2  # the background is painted at twice the size and reduced


class Brush:
    """Paints stuff on an image of SCALE times the size."""

    def __init__(self, width: int, height: int, light: str, place: str, seed: int) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE))
        self.draw = ImageDraw.Draw(self.image)
        self.light, self.place = light, place
        self.rng = random.Random(f"paint {place} {seed}")

    def gradient(self, box: Box, top: RGB, bottom: RGB, mask: Image.Image | None = None) -> None:
        """Vertical gradient."""
        x1, y1, x2, y2 = (round(value) for value in box)
        size = (max(1, x2 - x1), max(1, y2 - y1))
        colors = b"".join(bytes(mix(top, bottom, share)) for share in (0.0, 0.33, 0.67, 1.0))
        self.image.paste(
            Image.frombytes("RGB", (1, 4), colors).resize(size, Image.Resampling.BILINEAR), (x1, y1), mask
        )

    def shape(self, points: list[Point], color: RGB, outline: bool = True) -> None:
        """Shaded polygon in pixels."""
        xs, ys = [x for x, _ in points], [y for _, y in points]
        left, top = int(min(xs)), int(min(ys))
        size = (max(1, int(max(xs)) - left + 1), max(1, int(max(ys)) - top + 1))
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in points], fill=255)
        self.image.paste(gradient(color, size, 0.8), (left, top), mask)
        if outline:
            self.draw.line(
                [*points, points[0]], fill=mix(color, outline_of(color), 0.6), width=SCALE, joint="curve"
            )

    def rectangle(self, box: Box, color: RGB, outline: bool = True) -> None:
        """Shaded rectangle in pixels."""
        x1, y1, x2, y2 = box
        self.shape([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], color, outline)

    def strokes(self, box: Box, colors: tuple[RGB, ...], density: float, dx: float, dy: float) -> None:
        """Scattered short lines, longer toward the viewer.

        `density` per 1000 pixels of the final image; `dx`, `dy` in pixels of the final image.
        """
        x1, y1, x2, y2 = box
        for _ in range(self.count(box, density)):
            depth = self.rng.random()
            x, y = self.rng.uniform(x1, x2), y1 + depth * (y2 - y1)
            size = SCALE * (0.4 + 0.9 * depth)
            end = (x + self.rng.uniform(0.5, 1) * dx * size, y + dy * size)
            self.draw.line([(x, y), end], fill=self.rng.choice(colors), width=SCALE // 2 + 1)

    def count(self, box: Box, density: float) -> int:
        """Return the number of details in a box at `density` per 1000 pixels of the final image."""
        x1, y1, x2, y2 = box
        return int((x2 - x1) * (y2 - y1) / SCALE**2 * density / 1000)

    def waves(self, box: Box, color: RGB, count: int) -> None:
        """Soft crescents lying on the ground, flat in the distance: drifts of snow, ripples of sand."""
        x1, y1, x2, y2 = box
        for i in range(count):
            depth = (i + self.rng.random()) / count
            y, half = y1 + (0.08 + 0.9 * depth) * (y2 - y1), (0.10 + 0.16 * depth) * (x2 - x1)
            x, rise = self.rng.uniform(x1, x2), (0.015 + 0.035 * depth) * (y2 - y1)
            upper = [
                (x - half, y),
                (x - 0.3 * half, y - rise),
                (x + 0.4 * half, y - 0.8 * rise),
                (x + half, y),
            ]
            lower = [(x + 0.3 * half, y - 0.1 * rise), (x - 0.4 * half, y - 0.2 * rise)]
            self.draw.polygon(spline([*upper, *lower]), fill=color)

    def ridge(self, box: Box, color: RGB, height: float, bumps: int) -> None:
        """A soft line of hills or dunes that stands on the upper edge of `box`."""
        x1, y1, x2, _ = box
        step = (x2 - x1) / bumps
        tops = [(x1 + i * step, y1 - self.rng.uniform(0.15, 1) * height) for i in range(bumps + 1)]
        self.draw.polygon([(x1, y1 + 1), *spline(tops, closed=False), (x2, y1 + 1)], fill=color)
