"""Painting of what rooms consist of: walls, floors, windows, rugs, counters."""

from glied.demo_world.drawing.brush import SCALE, Brush
from glied.demo_world.drawing.palette import CREAM, RGB, SKIES, WOOD, mix, scale
from glied.demo_world.drawing.pen import Box

WALLS: tuple[RGB, ...] = ((232, 218, 194), (190, 206, 212), (206, 214, 190), (226, 204, 196), (214, 208, 222))
FLOORS: tuple[RGB, ...] = ((176, 126, 80), (146, 100, 64), (196, 156, 108))
RUGS: tuple[RGB, ...] = ((164, 76, 72), (84, 104, 144), (196, 166, 116), (110, 136, 108))


def paint_wall(brush: Brush, box: Box) -> None:
    """A wall with a skirting board, with tiles or stripes."""
    x1, y1, x2, y2 = box
    color = brush.rng.choice(WALLS)
    brush.gradient(box, scale(color, 0.96), scale(color, 1.04))
    if brush.place == "kitchen":
        size = 13 * SCALE
        for i in range(int((x2 - x1) / size) + 1):
            brush.draw.line(
                [(x1 + i * size, y1 + 0.5 * (y2 - y1)), (x1 + i * size, y2)], fill=scale(color, 0.9), width=1
            )
        for k in range(int(0.5 * (y2 - y1) / size) + 1):
            y = y1 + 0.5 * (y2 - y1) + k * size
            brush.draw.line([(x1, y), (x2, y)], fill=scale(color, 0.9), width=1)
    else:
        for i in range(int((x2 - x1) / (15 * SCALE)) + 1):
            x = x1 + i * 15 * SCALE
            brush.draw.rectangle((x, y1, x + 5 * SCALE, y2), fill=scale(color, 0.965))
    brush.draw.rectangle((x1, y2 - 7 * SCALE, x2, y2), fill=mix(color, CREAM, 0.75))
    brush.draw.line([(x1, y2 - 7 * SCALE), (x2, y2 - 7 * SCALE)], fill=scale(color, 0.75), width=SCALE)


def paint_floor(brush: Brush, box: Box) -> None:
    """A floor of tiles or boards."""
    x1, y1, x2, y2 = box
    middle = (x1 + x2) / 2
    if brush.place == "kitchen":
        light, dark = (226, 220, 208), (166, 172, 178)
        brush.gradient(box, light, scale(light, 1.05))
        rows = [y1 + (y2 - y1) * (k / 5) ** 1.4 for k in range(6)]
        for k in range(5):
            for i in range(-11, 11):
                if (i + k) % 2 == 0:
                    continue
                near, far = (1 + 0.9 * (k + 1) / 5), (1 + 0.9 * k / 5)
                a, b = i * (x2 - x1) / 12, (i + 1) * (x2 - x1) / 12
                tile = [
                    (middle + a * far, rows[k]),
                    (middle + b * far, rows[k]),
                    (middle + b * near, rows[k + 1]),
                    (middle + a * near, rows[k + 1]),
                ]
                brush.draw.polygon(tile, fill=dark)
        return
    color = brush.rng.choice(FLOORS)
    brush.gradient(box, scale(color, 0.9), scale(color, 1.1))
    for i in range(-14, 15):
        x = i * (x2 - x1) / 14
        brush.draw.line([(middle + x * 0.9, y1), (middle + x * 1.8, y2)], fill=scale(color, 0.78), width=2)
    for _ in range(16):
        y, x = brush.rng.uniform(y1, y2), brush.rng.uniform(x1, x2)
        brush.draw.line([(x, y), (x + 40, y)], fill=scale(color, 0.84), width=1)


def paint_window(brush: Brush, box: Box) -> None:
    """A window with the sky behind it."""
    x1, y1, x2, y2 = box
    frame = 4 * SCALE
    brush.rectangle(box, (246, 243, 236))
    inner = (x1 + frame, y1 + frame, x2 - frame, y2 - frame)
    top, bottom = SKIES[brush.light]
    brush.gradient(inner, top, bottom)
    brush.gradient(
        (inner[0], inner[1] + 0.75 * (inner[3] - inner[1]), inner[2], inner[3]),
        (120, 160, 110),
        (90, 140, 90),
    )
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    brush.draw.rectangle((cx - SCALE, y1, cx + SCALE, y2), fill=(240, 236, 228))
    brush.draw.rectangle((x1, cy - SCALE, x2, cy + SCALE), fill=(240, 236, 228))
    curtain = brush.rng.choice(RUGS)
    w = 0.16 * (x2 - x1)
    if brush.place == "room":
        brush.shape([(x1, y1), (x1 + 1.5 * w, y1), (x1 + 0.7 * w, y2), (x1, y2)], curtain)
        brush.shape([(x2, y1), (x2 - 1.5 * w, y1), (x2 - 0.7 * w, y2), (x2, y2)], curtain)


def paint_rug(brush: Brush, box: Box) -> None:
    """A rug on the floor."""
    x1, y1, x2, y2 = box
    color = brush.rng.choice(RUGS)
    for inset, tone in (
        (0.0, color),
        (0.07, mix(color, CREAM, 0.6)),
        (0.12, color),
        (0.3, mix(color, CREAM, 0.35)),
    ):
        dx, dy = inset * (x2 - x1) / 2, inset * (y2 - y1) / 2
        brush.draw.ellipse((x1 + dx, y1 + dy, x2 - dx, y2 - dy), fill=tone)


def paint_counter(brush: Brush, box: Box) -> None:
    """A kitchen counter."""
    x1, y1, x2, y2 = box
    front = brush.rng.choice(((214, 220, 216), (150, 172, 166), WOOD, (176, 190, 206)))
    top = y1 + 0.14 * (y2 - y1)
    brush.rectangle((x1, top, x2, y2), front)
    doors = max(2, round((x2 - x1) / (48 * SCALE)))
    for i in range(doors):
        a, b = x1 + i * (x2 - x1) / doors, x1 + (i + 1) * (x2 - x1) / doors
        brush.draw.rectangle((a + 6, top + 10, b - 6, y2 - 10), outline=scale(front, 0.72), width=2)
        brush.draw.rectangle((b - 18, top + 20, b - 13, top + 40), fill=(110, 110, 116))
    brush.rectangle((x1, y1, x2, top), (236, 232, 226) if front == WOOD else (120, 96, 80))
