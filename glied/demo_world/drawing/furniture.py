"""Furniture and what stands on it."""

from glied.demo_world.drawing.palette import CREAM, DARK, METAL, WOOD, luminance, mix, scale
from glied.demo_world.drawing.pen import Pen, ellipse, rectangle


def bench(pen: Pen) -> None:
    """A park bench: slats in the sprite's color on dark iron."""
    iron = (62, 62, 68) if luminance(pen.color) > 80 else (150, 152, 158)
    for x in (0.10, 0.90):
        pen.limb([(x, 0.02), (x, 0.62)], iron, 0.05, smooth=False)
        pen.limb([(x - 0.05, 0.98), (x - 0.03, 0.60)], iron, 0.07, smooth=False)
        pen.limb([(x + 0.05, 0.98), (x + 0.03, 0.60)], iron, 0.07, smooth=False)
    for y in (0.05, 0.21, 0.37):
        pen.body(rectangle(0.01, y, 0.99, y + 0.12), tone=0.95)
    pen.body([(0.04, 0.54), (0.96, 0.54), (1.0, 0.70), (0.0, 0.70)], tone=1.08)
    pen.line([(0.02, 0.62), (0.98, 0.62)], scale(pen.color, 0.6), 0.025)
    for x in (0.05, 0.95):
        pen.limb([(x, 0.58), (x, 0.36)], iron, 0.05, smooth=False)


def chair(pen: Pen) -> None:
    """A kitchen chair, three quarters from the side."""
    leg = scale(pen.color, 0.62)
    for points in ([(0.30, 0.60), (0.30, 0.90)], [(0.86, 0.60), (0.86, 0.90)]):
        pen.limb(points, scale(leg, 0.8), 0.06, smooth=False)
    pen.limb([(0.10, 0.02), (0.12, 0.97)], leg, 0.075, smooth=False)
    pen.limb([(0.70, 0.62), (0.72, 0.97)], leg, 0.075, smooth=False)
    pen.body([(0.06, 0.03), (0.36, 0.0), (0.40, 0.45), (0.10, 0.50)])
    pen.body([(0.08, 0.54), (0.36, 0.46), (0.96, 0.48), (0.80, 0.60)])
    pen.shape([(0.08, 0.54), (0.80, 0.60), (0.80, 0.67), (0.08, 0.61)], scale(pen.color, 0.75))
    pen.shape([(0.80, 0.60), (0.96, 0.48), (0.96, 0.54), (0.80, 0.67)], scale(pen.color, 0.65))


def table(pen: Pen) -> None:
    """A table with a cloth-like top and four legs."""
    leg = scale(pen.color, 0.66)
    for x in (0.24, 0.76):
        pen.shape(rectangle(x - 0.02, 0.3, x + 0.02, 0.84), scale(leg, 0.8))
    for x in (0.08, 0.92):
        pen.shape([(x - 0.035, 0.3), (x + 0.035, 0.3), (x + 0.025, 0.99), (x - 0.025, 0.99)], leg)
    pen.body([(0.12, 0.01), (0.88, 0.01), (1.0, 0.26), (0.0, 0.26)], tone=1.06)
    pen.body(rectangle(0.0, 0.26, 1.0, 0.42), tone=0.88)


def sofa(pen: Pen) -> None:
    """Back, seat cushions, arm rests."""
    for x in (0.10, 0.90):
        pen.shape(rectangle(x - 0.03, 0.88, x + 0.03, 0.99), WOOD)
    pen.body([(0.10, 0.14), (0.16, 0.02), (0.5, 0.0), (0.84, 0.02), (0.90, 0.14), (0.90, 0.7), (0.10, 0.7)])
    pen.line([(0.5, 0.03), (0.5, 0.52)], scale(pen.color, 0.6), 0.02)
    pen.body([(0.12, 0.68), (0.88, 0.68), (0.88, 0.92), (0.12, 0.92)], tone=0.85)
    for x in (0.13, 0.505):
        pen.body(
            [(x, 0.53), (x + 0.02, 0.50), (x + 0.345, 0.50), (x + 0.365, 0.53), (x + 0.365, 0.70), (x, 0.70)],
            tone=1.08,
        )
    for x in (0.0, 0.845):
        pen.body(
            [
                (x, 0.42), (x + 0.03, 0.33), (x + 0.125, 0.33), (x + 0.155, 0.42), (x + 0.15, 0.92),
                (x + 0.005, 0.92),
            ]
        )  # fmt: skip


def lamp(pen: Pen) -> None:
    """A floor lamp; the shade has the color."""
    pen.shape(ellipse(0.5, 0.955, 0.30, 0.04), (84, 80, 80))
    pen.limb([(0.5, 0.30), (0.5, 0.94)], METAL, 0.10, smooth=False)
    pen.tint(ellipse(0.5, 0.36, 0.30, 0.06), (255, 240, 180), 0.7)
    pen.body([(0.26, 0.01), (0.74, 0.01), (0.99, 0.36), (0.01, 0.36)])
    pen.tint([(0.36, 0.02), (0.62, 0.02), (0.70, 0.35), (0.30, 0.35)], (255, 246, 200), 0.28)
    pen.line([(0.02, 0.355), (0.98, 0.355)], mix(pen.color, (255, 240, 190), 0.7), 0.05)


def cup(pen: Pen) -> None:
    """A mug with a handle on the right, coffee inside."""
    handle = [(0.70, 0.30), (0.92, 0.30), (0.955, 0.52), (0.84, 0.72), (0.66, 0.74)]
    pen.limb(handle, pen.color, 0.10)
    pen.body(
        [
            (0.02, 0.12), (0.74, 0.12), (0.71, 0.84), (0.68, 0.94), (0.58, 0.99), (0.18, 0.99),
            (0.08, 0.94), (0.05, 0.84),
        ],
        horizontal=True,
    )  # fmt: skip
    pen.shape(ellipse(0.38, 0.12, 0.365, 0.11), mix(pen.color, CREAM, 0.45))
    pen.flat(ellipse(0.38, 0.14, 0.29, 0.07), (92, 54, 34))


def book(pen: Pen) -> None:
    """A closed book lying in perspective: cover in the color, pages, title band."""
    pen.shape([(0.06, 0.70), (0.30, 0.16), (0.99, 0.30), (0.80, 0.96), (0.05, 0.86)], scale(pen.color, 0.55))
    pen.shape([(0.06, 0.64), (0.78, 0.76), (0.79, 0.92), (0.06, 0.80)], CREAM)
    pen.shape([(0.78, 0.76), (0.97, 0.24), (0.975, 0.38), (0.79, 0.92)], scale(CREAM, 0.84))
    for y in (0.69, 0.74):
        pen.line([(0.08, y), (0.77, y + 0.12)], (190, 180, 160), 0.018)
    pen.body([(0.01, 0.60), (0.27, 0.03), (0.99, 0.16), (0.79, 0.76)])
    title = CREAM if luminance(pen.color) < 180 else DARK
    pen.flat([(0.30, 0.27), (0.36, 0.15), (0.78, 0.225), (0.73, 0.35)], title)
    pen.limb([(0.015, 0.60), (0.02, 0.80), (0.06, 0.84)], scale(pen.color, 0.8), 0.05, smooth=False)


def clock(pen: Pen) -> None:
    """A round clock with a thick rim in the color."""
    pen.body(ellipse(0.5, 0.5, 0.49, 0.49))
    pen.shape(ellipse(0.5, 0.5, 0.345, 0.345), (252, 250, 242), strength=0.5)
    for i, (x, y) in enumerate(ellipse(0.5, 0.5, 0.285, 0.285)[1::7]):
        pen.dot(x, y, 0.032 if i % 2 == 0 else 0.03, DARK)
    hour, minute = pen.rng.randrange(28), pen.rng.randrange(28)
    pen.line([(0.5, 0.5), ellipse(0.5, 0.5, 0.17, 0.17)[hour]], (40, 40, 46), 0.055)
    pen.line([(0.5, 0.5), ellipse(0.5, 0.5, 0.26, 0.26)[minute]], (40, 40, 46), 0.035)
    pen.dot(0.5, 0.5, 0.035, (190, 50, 50))


def vase(pen: Pen) -> None:
    """A bellied vase with three flowers."""
    petals = [(236, 84, 96), (250, 206, 70), (244, 244, 240), (190, 110, 210)]
    stems = ((0.24, 0.13), (0.52, 0.075), (0.78, 0.15))
    for x, y in stems:
        pen.line([(0.5, 0.45), (0.4 + 0.2 * x, 0.32), (x, y)], (66, 138, 60), 0.05, smooth=True)
    for x, y in ((0.30, 0.30), (0.70, 0.30)):
        pen.shape(ellipse(x, y, 0.12, 0.035), (84, 160, 74))
    for x, y in stems:
        color = pen.rng.choice(petals)
        for px, py in pen.circle(x, y, 0.042)[::6]:
            pen.shape(pen.circle(px, py, 0.033), color)
        pen.dot(x, y, 0.026, (250, 190, 50) if color[1] < 180 or color[2] > 200 else (150, 90, 40))
    pen.body(
        [(0.32, 0.40), (0.36, 0.48), (0.20, 0.58), (0.08, 0.74), (0.18, 0.90), (0.32, 0.985), (0.68, 0.985),
         (0.82, 0.90), (0.92, 0.74), (0.80, 0.58), (0.64, 0.48), (0.68, 0.40)],
        smooth=True,
        horizontal=True,
    )  # fmt: skip
    pen.shape(ellipse(0.5, 0.405, 0.20, 0.028), scale(pen.color, 0.55))
    pen.tint(ellipse(0.30, 0.70, 0.06, 0.09), (255, 255, 255), 0.35)


def box(pen: Pen) -> None:
    """A cardboard box in the sprite's color, seen from above a corner."""
    pen.shape([(0.64, 0.30), (0.99, 0.16), (0.98, 0.80), (0.64, 0.99)], scale(pen.color, 0.7))
    pen.body(rectangle(0.02, 0.30, 0.64, 0.99))
    pen.shape(
        [(0.02, 0.30), (0.40, 0.10), (0.99, 0.16), (0.64, 0.30)],
        mix(scale(pen.color, 0.5), (90, 60, 40), 0.2),
    )
    pen.shape([(0.02, 0.30), (0.40, 0.10), (0.34, 0.0), (0.0, 0.17)], mix(pen.color, CREAM, 0.3))
    pen.shape([(0.40, 0.10), (0.99, 0.16), (0.94, 0.03), (0.40, 0.0)], mix(pen.color, CREAM, 0.18))
    tape = (226, 196, 140) if luminance(pen.color) < 190 else (176, 128, 76)
    pen.flat(rectangle(0.28, 0.30, 0.38, 0.52), tape)
