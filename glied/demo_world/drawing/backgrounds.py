"""Painting of places as laid out by `places.layout`, and color grading of the finished scene by light."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from glied.demo_world.drawing.brush import SCALE, Brush
from glied.demo_world.drawing.interiors import (
    paint_counter,
    paint_floor,
    paint_rug,
    paint_wall,
    paint_window,
)
from glied.demo_world.drawing.palette import RGB, SKIES, mix, scale
from glied.demo_world.drawing.pen import Box, spline
from glied.demo_world.drawing.places import INDOORS, Layout

GRADES: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "sunset": (1.03, 0.92, 0.84),
    "night": (0.67, 0.70, 0.86),
    "overcast": (0.90, 0.92, 0.95),
}
INDOOR_GRADES: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "sunset": (1.03, 0.93, 0.84),
    "night": (0.96, 0.85, 0.70),
    "overcast": (0.90, 0.92, 0.96),
}


def _paint_sky(brush: Brush, box: Box) -> None:
    top, bottom = SKIES[brush.light]
    brush.gradient(box, top, bottom)
    if brush.light == "night":
        for _ in range(40):
            x, y = brush.rng.uniform(box[0], box[2]), brush.rng.uniform(box[1], box[3] * 0.9)
            r = brush.rng.uniform(0.6, 1.5)
            brush.draw.ellipse((x - r, y - r, x + r, y + r), fill=(250, 246, 220))


def _paint_distance(brush: Brush, box: Box) -> None:
    """What stands behind the ground, before sun and clouds: hills, firs, dunes."""
    bottom = SKIES[brush.light][1]
    if brush.place == "field":
        brush.ridge((box[0], box[3], box[2], box[3]), mix((84, 140, 92), bottom, 0.35), 0.12 * box[3], 6)
    elif brush.place == "snow":
        brush.ridge((box[0], box[3], box[2], box[3]), mix((186, 202, 224), bottom, 0.15), 0.30 * box[3], 4)
        _firs(brush, box)
    elif brush.place == "street":
        brush.ridge((box[0], box[3], box[2], box[3]), mix((96, 132, 104), bottom, 0.35), 0.26 * box[3], 12)
    elif brush.place == "park":
        brush.ridge((box[0], box[3], box[2], box[3]), (66, 120, 74), 0.22 * box[3], 14)
        brush.ridge((box[0], box[3], box[2], box[3]), (84, 142, 82), 0.13 * box[3], 18)
    elif brush.place == "desert":
        brush.ridge((box[0], box[3], box[2], box[3]), mix((214, 168, 112), bottom, 0.2), 0.16 * box[3], 4)


def _firs(brush: Brush, box: Box) -> None:
    """A far row of snowy firs."""
    x = box[0]
    while x < box[2]:
        h = brush.rng.uniform(0.10, 0.26) * box[3]
        w = 0.22 * h
        for k in range(3):
            y = box[3] - h + k * h * 0.28
            half = w * (0.5 + 0.3 * k)
            points = [(x, y), (x + half, y + 0.44 * h), (x - half, y + 0.44 * h)]
            brush.draw.polygon(points, fill=(70, 112, 104))
            brush.draw.polygon(
                [(x, y), (x + 0.5 * half, y + 0.2 * h), (x - 0.5 * half, y + 0.2 * h)], fill=(236, 242, 248)
            )
        x += brush.rng.uniform(0.5, 4.0) * w + 3


def _paint_orb(brush: Brush, box: Box) -> None:
    x1, y1, x2, y2 = box
    cx, cy, r = (x1 + x2) / 2, (y1 + y2) / 2, (y2 - y1) / 2
    color: RGB = {"sunset": (255, 120, 62), "night": (244, 240, 214)}.get(brush.light, (255, 226, 96))
    halo = ImageDraw.Draw(brush.image, "RGBA")
    for k, opacity in ((1.7, 30), (1.35, 60)):
        halo.ellipse((cx - k * r, cy - k * r, cx + k * r, cy + k * r), fill=(*color, opacity))
    brush.draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=color)
    if brush.light == "night":
        for dx, dy, size in ((-0.3, -0.2, 0.2), (0.3, 0.3, 0.26), (0.15, -0.4, 0.12)):
            x, y, s = cx + dx * r, cy + dy * r, size * r
            brush.draw.ellipse((x - s, y - s, x + s, y + s), fill=(216, 210, 186))


def _paint_cloud(brush: Brush, box: Box) -> None:
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    white: RGB = {"sunset": (255, 214, 186), "night": (96, 106, 150), "overcast": (226, 228, 232)}.get(
        brush.light, (255, 255, 255)
    )
    for color, shift in ((scale(white, 0.88), 0.08), (white, 0.0)):
        for u, v, r in ((0.2, 0.66, 0.32), (0.42, 0.42, 0.42), (0.64, 0.5, 0.38), (0.82, 0.68, 0.28)):
            cx, cy, ry = x1 + u * w, y1 + (v + shift) * h, r * h * (1 - shift)
            brush.draw.ellipse(
                (max(x1, cx - 0.55 * r * w), cy - ry, min(x2, cx + 0.55 * r * w), min(y2, cy + ry)),
                fill=color,
            )


def _paint_sea(brush: Brush, box: Box) -> None:
    x1, y1, x2, y2 = box
    brush.gradient(box, (34, 112, 168), (92, 190, 206))
    if brush.light == "sunset":
        brush.gradient(box, (150, 110, 140), (96, 150, 178))
    brush.strokes((x1, y1 + 4, x2, y2 - 8), ((132, 206, 222), (206, 236, 242), (60, 140, 188)), 4.5, 12, 0)
    count = 12
    foam = [(x1 + i * (x2 - x1) / count, y2 - brush.rng.uniform(1, 9)) for i in range(count + 1)]
    brush.draw.polygon([(x1, y2), *spline(foam, closed=False), (x2, y2)], fill=(246, 250, 250))


def _grain(brush: Brush, box: Box, colors: tuple[RGB, ...], density: float = 7.0) -> None:
    for _ in range(brush.count(box, density)):
        x, y = brush.rng.uniform(box[0], box[2]), brush.rng.uniform(box[1], box[3])
        brush.draw.rectangle((x, y, x + 1.5, y + 1), fill=brush.rng.choice(colors))


def _paint_sand(brush: Brush, box: Box) -> None:
    x1, y1, x2, y2 = box
    if brush.place == "desert":
        brush.gradient(box, (224, 172, 108), (240, 202, 140))
        brush.waves(box, (212, 160, 98), 9)
    else:
        brush.gradient((x1, y1, x2, y1 + 0.12 * (y2 - y1)), (206, 180, 134), (232, 208, 158))
        brush.gradient((x1, y1 + 0.12 * (y2 - y1), x2, y2), (236, 212, 162), (246, 226, 182))
    _grain(brush, box, ((212, 184, 132), (250, 236, 204), (190, 160, 112)))


def _paint_grass(brush: Brush, box: Box) -> None:
    far, near = (
        ((122, 178, 84), (84, 150, 62)) if brush.place != "mountain" else ((140, 170, 92), (96, 142, 66))
    )
    brush.gradient(box, far, near)
    brush.strokes(box, ((68, 132, 54), (146, 196, 96), (104, 168, 70)), 8.0, 1.5, -6)
    if brush.place in ("field", "mountain"):
        for _ in range(brush.count(box, 0.35)):
            x, y = brush.rng.uniform(box[0], box[2]), brush.rng.uniform(box[1] + 10, box[3])
            color = brush.rng.choice(((250, 246, 236), (250, 220, 90), (236, 160, 190)))
            brush.draw.ellipse((x - 2.4, y - 2.4, x + 2.4, y + 2.4), fill=color)


def _paint_snow(brush: Brush, box: Box) -> None:
    brush.gradient(box, (222, 232, 244), (248, 250, 253))
    brush.waves(box, (208, 221, 238), 8)
    _grain(brush, box, ((255, 255, 255), (200, 214, 232)), 5.0)


def _paint_building(brush: Brush, box: Box) -> None:
    x1, y1, x2, y2 = box
    color = brush.rng.choice(
        ((196, 124, 98), (206, 184, 154), (164, 166, 176), (176, 146, 126), (150, 160, 150))
    )
    brush.rectangle(box, color)
    lit = brush.light in ("night", "sunset")
    columns = max(2, round((x2 - x1) / (22 * SCALE)))
    rows = max(2, round((y2 - y1) / (26 * SCALE)))
    dx, dy = (x2 - x1) / columns, (y2 - y1) / rows
    if color[0] > 170:
        for k in range(int((y2 - y1) / 8)):
            brush.draw.line([(x1 + 2, y1 + k * 8), (x2 - 2, y1 + k * 8)], fill=scale(color, 0.92), width=1)
    for row in range(rows):
        for column in range(columns):
            glass = (255, 224, 128) if lit and brush.rng.random() < 0.55 else (124, 156, 186)
            wx, wy = x1 + (column + 0.24) * dx, y1 + (row + 0.25) * dy
            if row == rows - 1 and column == columns // 2:
                brush.draw.rectangle((wx, wy, wx + 0.52 * dx, y2), fill=(104, 72, 56))
                continue
            brush.draw.rectangle(
                (wx - 2, wy - 2, wx + 0.52 * dx + 2, wy + 0.52 * dy + 2), fill=scale(color, 1.18)
            )
            brush.draw.rectangle((wx, wy, wx + 0.52 * dx, wy + 0.52 * dy), fill=glass)
    brush.draw.rectangle((x1, y1, x2, y1 + 5), fill=scale(color, 0.7))


def _paint_sidewalk(brush: Brush, box: Box) -> None:
    x1, y1, x2, y2 = box
    brush.gradient(box, (186, 184, 180), (204, 202, 198))
    for i in range(14):
        x = x1 + (i + 0.5) * (x2 - x1) / 14
        brush.draw.line([(x, y1), (x + (x - (x1 + x2) / 2) * 0.12, y2)], fill=(166, 164, 162), width=2)
    brush.draw.line([(x1, (y1 + y2) / 2), (x2, (y1 + y2) / 2)], fill=(170, 168, 166), width=1)
    brush.draw.rectangle((x1, y2 - 5, x2, y2), fill=(150, 148, 148))


def _paint_road(brush: Brush, box: Box) -> None:
    _, y1, x2, y2 = box
    brush.gradient(box, (92, 94, 100), (112, 114, 120))
    _grain(brush, box, ((84, 86, 92), (128, 130, 136)), 5.0)
    y, thick = y1 + 0.46 * (y2 - y1), 0.045 * (y2 - y1)
    start = brush.rng.uniform(0, 60) - 90
    while start < x2:
        brush.draw.polygon(
            [(start + 5, y), (start + 65, y), (start + 60, y + thick), (start, y + thick)],
            fill=(238, 232, 206),
        )
        start += 120


def _paint_pond(brush: Brush, box: Box) -> None:
    x1, y1, x2, y2 = box
    mask = Image.new("L", (max(1, round(x2) - round(x1)), max(1, round(y2) - round(y1))), 0)
    w, h = mask.size
    edge = [
        (0.0, 0.5), (0.12, 0.14), (0.4, 0.0), (0.7, 0.04), (0.95, 0.22), (1.0, 0.55), (0.86, 0.9),
        (0.5, 1.0), (0.14, 0.86),
    ]  # fmt: skip
    rim = spline([(u * w, v * h) for u, v in edge])
    ImageDraw.Draw(mask).polygon(rim, fill=255)
    brush.gradient(box, (78, 150, 190), (132, 196, 218), mask)
    brush.draw.line(
        [(x + x1, y + y1) for x, y in [*rim, rim[0]]], fill=(150, 134, 92), width=4, joint="curve"
    )
    for _ in range(9):
        x, y = x1 + brush.rng.uniform(0.2, 0.7) * w, y1 + brush.rng.uniform(0.2, 0.85) * h
        brush.draw.line([(x, y), (x + 0.1 * w, y)], fill=(190, 226, 238), width=2)


def _paint_path(brush: Brush, box: Box) -> None:
    x1, y1, x2, y2 = box
    left = x1 > brush.image.width / 3
    far = x1 + (0.35 if left else 0.65) * (x2 - x1)
    bend = (x1 + x2) / 2 + (-0.1 if left else 0.1) * (x2 - x1)
    half = (x2 - x1) / 2
    lefts = spline([(far - 0.08 * half, y1), (bend - 0.45 * half, (y1 + y2) / 2), (x1, y2)], closed=False)
    rights = spline([(x2, y2), (bend + 0.45 * half, (y1 + y2) / 2), (far + 0.08 * half, y1)], closed=False)
    brush.shape([*lefts, *rights], (214, 192, 150))


def _paint_cactus(brush: Brush, box: Box) -> None:
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    green, dark = (86, 148, 84), (48, 92, 54)
    stems = (
        ([(0.5, 0.08), (0.5, 0.98)], 0.26),
        ([(0.5, 0.62), (0.12, 0.58), (0.12, 0.32)], 0.18),
        ([(0.5, 0.50), (0.87, 0.46), (0.87, 0.22)], 0.18),
    )
    for color, grow in ((dark, 4), (green, 0)):
        for points, share in stems:
            placed = [(x1 + u * w, y1 + v * h) for u, v in points]
            thick = share * w + grow
            brush.draw.line(placed, fill=color, width=round(thick), joint="curve")
            for x, y in (placed[0], placed[-1]):
                brush.draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=color)
    for u in (0.44, 0.56):
        brush.draw.line([(x1 + u * w, y1 + 0.08 * h), (x1 + u * w, y2 - 4)], fill=(66, 122, 68), width=1)


def _paint_mountain(brush: Brush, box: Box) -> None:
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    peak = brush.rng.uniform(0.4, 0.6)
    color = mix((112, 118, 140), SKIES[brush.light][1], brush.rng.uniform(0.0, 0.2))
    left = [(x1, y2), (x1 + 0.45 * peak * w, y1 + 0.52 * h), (x1 + 0.62 * peak * w, y1 + 0.40 * h)]
    right = [(x1 + (peak + 0.16) * w, y1 + 0.30 * h), (x1 + (peak + 0.26) * w, y1 + 0.50 * h), (x2, y2)]
    top = (x1 + peak * w, y1)
    brush.shape([*left, top, *right], color)
    brush.draw.polygon(
        [top, *right, (x1 + (peak + 0.05) * w, y2), (x1 + (peak - 0.03) * w, y1 + 0.5 * h)],
        fill=scale(color, 0.8),
    )
    zigzag = [
        (peak + 0.15, 0.29),
        (peak + 0.07, 0.25),
        (peak + 0.03, 0.36),
        (peak - 0.05, 0.26),
        (peak * 0.72, 0.30),
    ]
    brush.draw.polygon([top, *((x1 + u * w, y1 + v * h) for u, v in zigzag)], fill=(246, 249, 252))
    brush.draw.polygon([top, *((x1 + u * w, y1 + v * h) for u, v in zigzag[:3])], fill=(214, 224, 238))


_PAINTERS: dict[str, Callable[[Brush, Box], None]] = {
    "sky": _paint_sky,
    "sun": _paint_orb,
    "moon": _paint_orb,
    "cloud": _paint_cloud,
    "sea": _paint_sea,
    "sand": _paint_sand,
    "grass": _paint_grass,
    "snow": _paint_snow,
    "building": _paint_building,
    "sidewalk": _paint_sidewalk,
    "road": _paint_road,
    "pond": _paint_pond,
    "path": _paint_path,
    "wall": paint_wall,
    "floor": paint_floor,
    "window": paint_window,
    "rug": paint_rug,
    "counter": paint_counter,
    "cactus": _paint_cactus,
    "mountain": _paint_mountain,
}
STUFF = tuple(_PAINTERS)
HEAVENLY = ("sky", "sun", "moon", "cloud")


def paint(place: str, light: str, width: int, height: int, seed: int, plan: Layout) -> Image.Image:
    """The empty place, without the light's grade."""
    brush = Brush(width, height, light, place, seed)
    sky: Box | None = None
    for name, (x1, y1, x2, y2) in plan.stuff:
        box = (x1 * SCALE, y1 * SCALE, x2 * SCALE, y2 * SCALE)
        if sky and name not in HEAVENLY:
            _paint_distance(brush, sky)
            sky = None
        _PAINTERS[name](brush, box)
        if name == "sky":
            sky = box
    return brush.image.reduce(SCALE)


def grade(image: Image.Image, place: str, light: str, seed: int) -> np.ndarray:
    """Tints the scene by its light, adds a vignette and film grain: [H,W,3] uint8."""
    indoors = place in INDOORS
    tint = (INDOOR_GRADES if indoors else GRADES)[light]
    rng = np.random.default_rng([seed & 0xFFFFFFFF, 77])
    u, v = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16))
    lamp = indoors and light == "night"
    center = rng.uniform(-0.5, 0.5) if lamp else 0.0
    fall = (0.24 if lamp else rng.uniform(0.02, 0.12)) * np.minimum(
        1.6, (u - center) ** 2 + (v + 0.2 * lamp) ** 2
    )
    field = (255 * np.asarray(tint) / max(1.0, *tint) * (1 - fall)[..., None]).clip(0, 255).astype(np.uint8)
    graded = ImageChops.multiply(image, Image.fromarray(field).resize(image.size, Image.Resampling.BILINEAR))
    grain = rng.integers(-3, 4, size=(image.height, image.width, 1), dtype=np.int16)
    return (np.asarray(graded, dtype=np.int16) + grain).clip(0, 255).astype(np.uint8)
