"""Trees, houses and things people carry outdoors."""

from glied.demo_world.drawing.palette import CREAM, DARK, GLASS, METAL, RGB, WOOD, luminance, mix, scale
from glied.demo_world.drawing.pen import Pen, Point, ellipse, rectangle

ROOFS: tuple[RGB, ...] = ((150, 66, 52), (96, 84, 92), (120, 84, 60))


def tree(pen: Pen) -> None:
    """A trunk under a crown of leaf clumps in the sprite's color."""
    bark = (118, 80, 52) if pen.sprite.color != "brown" else (84, 62, 50)
    pen.shape([(0.44, 0.55), (0.56, 0.55), (0.58, 0.88), (0.66, 0.995), (0.34, 0.995), (0.42, 0.88)], bark)
    pen.limb([(0.50, 0.72), (0.62, 0.60), (0.70, 0.52)], bark, 0.04)
    clumps = (
        (0.22, 0.46, 0.21),
        (0.78, 0.46, 0.21),
        (0.50, 0.56, 0.17),
        (0.26, 0.26, 0.20),
        (0.74, 0.26, 0.20),
        (0.50, 0.17, 0.245),
        (0.50, 0.36, 0.30),
    )
    for cx, cy, r in clumps:
        ry = r * 0.68
        pen.body(ellipse(cx, min(max(cy, ry + 0.005), 0.98), min(r, cx, 1 - cx), ry))
    pen.shape(ellipse(0.50, 0.34, 0.34, 0.22), pen.color, pattern=pen.sprite.pattern, outline=False)
    for _ in range(9):
        x, y = pen.rng.uniform(0.2, 0.8), pen.rng.uniform(0.1, 0.5)
        light = pen.rng.random() < 0.5
        pen.line(ellipse(x, y, 0.05, 0.025, 190, 350), scale(pen.color, 1.18 if light else 0.78), 0.02)


def house(pen: Pen) -> None:
    """Walls in the sprite's color, roof, chimney, door, windows."""
    roof = pen.rng.choice([c for c in ROOFS if pen.sprite.color not in ("red", "brown") or c == ROOFS[1]])
    pen.shape(rectangle(0.70, 0.04, 0.81, 0.30), (142, 78, 64))
    pen.shape(rectangle(0.685, 0.02, 0.825, 0.07), (110, 60, 52))
    pen.body(rectangle(0.08, 0.38, 0.92, 0.99))
    pen.shape([(0.0, 0.43), (0.22, 0.08), (0.78, 0.08), (1.0, 0.43)], roof)
    for i in range(1, 4):
        y, inset = 0.08 + i * 0.0875, 0.22 - i * 0.055
        pen.line([(inset + 0.02, y), (0.98 - inset, y)], scale(roof, 0.78), 0.012)
    pen.shape(rectangle(0.42, 0.62, 0.58, 0.99), (108, 66, 42))
    pen.dot(0.55, 0.81, 0.014, (240, 208, 90))
    for x in (0.16, 0.66):
        pen.shape(rectangle(x, 0.54, x + 0.18, 0.76), GLASS)
        pen.line([(x + 0.09, 0.545), (x + 0.09, 0.755)], CREAM, 0.02)
        pen.line([(x, 0.65), (x + 0.18, 0.65)], CREAM, 0.02)
        pen.flat(rectangle(x - 0.015, 0.755, x + 0.195, 0.785), CREAM)


def kite(pen: Pen) -> None:
    """A diamond with a tail of bows."""
    tail: list[Point] = [(0.50, 0.62), (0.42, 0.72), (0.58, 0.82), (0.46, 0.91), (0.54, 0.99)]
    pen.line(tail, (96, 84, 84), 0.03, smooth=True)
    for x, y in tail[1:4]:
        bow = [(x - 0.10, y - 0.025), (x + 0.10, y + 0.025), (x + 0.10, y - 0.025), (x - 0.10, y + 0.025)]
        pen.flat(bow, scale(pen.color, 0.85))
    diamond: list[Point] = [(0.5, 0.005), (0.985, 0.25), (0.5, 0.65), (0.015, 0.25)]
    pen.body(diamond)
    pen.tint([(0.5, 0.005), (0.985, 0.25), (0.5, 0.25)], (0, 0, 0), 0.14)
    pen.tint([(0.015, 0.25), (0.5, 0.25), (0.5, 0.65)], (0, 0, 0), 0.10)
    spar = DARK if luminance(pen.color) > 100 else (220, 214, 200)
    pen.line([(0.5, 0.01), (0.5, 0.64)], spar, 0.02)
    pen.line([(0.02, 0.25), (0.98, 0.25)], spar, 0.02)


def umbrella(pen: Pen) -> None:
    """An open umbrella on its stick with a hooked handle."""
    pen.line(
        [(0.5, 0.02), (0.5, 0.90), (0.53, 0.965), (0.59, 0.965), (0.62, 0.90)],
        (70, 56, 50),
        0.04,
        smooth=True,
    )
    scallops: list[Point] = []
    for i in range(4):
        cx = 0.8725 - i * 0.2483
        scallops += [
            (cx + 0.1242, 0.5),
            (cx + 0.07, 0.445),
            (cx, 0.43),
            (cx - 0.07, 0.445),
            (cx - 0.1242, 0.5),
        ]
    pen.body(ellipse(0.5, 0.50, 0.495, 0.45, 180, 360) + scallops)
    for x in (0.252, 0.5, 0.748):
        pen.line(
            [(0.5, 0.055), (0.5 + 0.8 * (x - 0.5), 0.22), (x, 0.495)],
            scale(pen.color, 0.62),
            0.014,
            smooth=True,
        )
    pen.line([(0.5, 0.0), (0.5, 0.06)], (70, 56, 50), 0.03)


def ball(pen: Pen) -> None:
    """A beach ball with a bright spot."""
    pen.body(ellipse(0.5, 0.5, 0.49, 0.49))
    seam = CREAM if luminance(pen.color) < 190 else scale(pen.color, 0.55)
    if pen.sprite.pattern == "plain":
        pen.line([(0.5, 0.015), (0.30, 0.28), (0.28, 0.72), (0.5, 0.985)], seam, 0.04, smooth=True)
        pen.line([(0.5, 0.015), (0.80, 0.28), (0.82, 0.70), (0.5, 0.985)], seam, 0.04, smooth=True)
    pen.flat(ellipse(0.33, 0.27, 0.10, 0.075), mix(pen.color, (255, 255, 255), 0.75))


def surfboard(pen: Pen) -> None:
    """Standing upright, pointed nose, center line, fin."""
    pen.shape([(0.62, 0.86), (0.98, 0.90), (0.70, 0.97)], DARK)
    pen.body(
        [(0.5, 0.0), (0.74, 0.10), (0.90, 0.32), (0.93, 0.58), (0.82, 0.84), (0.62, 0.985), (0.38, 0.985),
         (0.18, 0.84), (0.07, 0.58), (0.10, 0.32), (0.26, 0.10)],
        smooth=True,
    )  # fmt: skip
    mark = CREAM if luminance(pen.color) < 190 else scale(pen.color, 0.45)
    pen.line([(0.5, 0.03), (0.5, 0.96)], mark, 0.07)
    for y in (0.26, 0.31):
        pen.line([(0.16, y + 0.03), (0.5, y), (0.84, y + 0.03)], mark, 0.06)


def backpack(pen: Pen) -> None:
    """Rounded bag with a front pocket, straps and a handle."""
    pen.line(ellipse(0.5, 0.09, 0.14, 0.075, 170, 370), scale(pen.color, 0.45), 0.06)
    for x in (0.06, 0.94):
        pen.shape(ellipse(x, 0.66, 0.06, 0.20), scale(pen.color, 0.55))
    pen.body(
        [(0.10, 0.40), (0.16, 0.16), (0.34, 0.075), (0.66, 0.075), (0.84, 0.16), (0.90, 0.40), (0.92, 0.88),
         (0.84, 0.985), (0.16, 0.985), (0.08, 0.88)],
        smooth=True,
    )  # fmt: skip
    zipper = CREAM if luminance(pen.color) < 190 else DARK
    pen.line(
        [(0.17, 0.44), (0.24, 0.24), (0.5, 0.19), (0.76, 0.24), (0.83, 0.44)], zipper, 0.025, smooth=True
    )
    pen.shape(
        [
            (0.20, 0.56), (0.24, 0.53), (0.76, 0.53), (0.80, 0.56), (0.80, 0.88), (0.74, 0.92),
            (0.26, 0.92), (0.20, 0.88),
        ],
        scale(pen.color, 0.78),
    )  # fmt: skip
    pen.line([(0.24, 0.62), (0.76, 0.62)], zipper, 0.022)
    pen.dot(0.70, 0.645, 0.02, METAL)
    pen.flat(rectangle(0.45, 0.36, 0.55, 0.43), WOOD)
