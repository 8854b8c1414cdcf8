"""Vehicles, seen from the side and driving to the right."""

from glied.demo_world.drawing.palette import CREAM, DARK, GLASS, METAL, WOOD, luminance, scale
from glied.demo_world.drawing.pen import Pen, ellipse, rectangle

HEADLIGHT = (255, 240, 170)
TAILLIGHT = (200, 40, 40)


def car(pen: Pen) -> None:
    """A rounded saloon."""
    pen.body(
        [(0.01, 0.62), (0.03, 0.44), (0.17, 0.40), (0.28, 0.09), (0.40, 0.02), (0.60, 0.03), (0.74, 0.38),
         (0.93, 0.45), (0.99, 0.60), (0.98, 0.80), (0.80, 0.84), (0.2, 0.84), (0.02, 0.80)],
        smooth=True,
    )  # fmt: skip
    pen.shape([(0.24, 0.40), (0.33, 0.13), (0.46, 0.11), (0.46, 0.41)], GLASS)
    pen.shape([(0.50, 0.11), (0.59, 0.12), (0.68, 0.40), (0.50, 0.41)], GLASS)
    pen.line([(0.48, 0.42), (0.48, 0.78)], scale(pen.color, 0.6), 0.02)
    pen.line([(0.53, 0.52), (0.59, 0.52)], scale(pen.color, 0.5), 0.045)
    pen.flat(ellipse(0.955, 0.58, 0.03, 0.055), HEADLIGHT)
    pen.flat(ellipse(0.03, 0.58, 0.02, 0.06), TAILLIGHT)
    pen.line([(0.03, 0.80), (0.97, 0.80)], (60, 60, 66), 0.06)
    for x in (0.23, 0.77):
        pen.wheel(x, 0.79, 0.20)


def bus(pen: Pen) -> None:
    """A long box with a row of windows."""
    pen.body([(0.02, 0.03), (0.95, 0.03), (0.985, 0.12), (0.995, 0.84), (0.01, 0.84), (0.01, 0.08)])
    pen.shape(rectangle(0.03, 0.0, 0.94, 0.06), scale(pen.color, 0.75))
    for i in range(5):
        pen.shape(rectangle(0.045 + i * 0.145, 0.16, 0.165 + i * 0.145, 0.45), GLASS)
    pen.shape(rectangle(0.785, 0.16, 0.875, 0.82), (150, 190, 214))
    pen.line([(0.83, 0.17), (0.83, 0.81)], DARK, 0.015)
    pen.shape([(0.905, 0.15), (0.975, 0.15), (0.99, 0.50), (0.905, 0.50)], GLASS)
    stripe = CREAM if luminance(pen.color) < 190 else scale(pen.color, 0.45)
    pen.flat(rectangle(0.015, 0.56, 0.775, 0.61), stripe)
    pen.flat(ellipse(0.975, 0.70, 0.016, 0.045), HEADLIGHT)
    pen.flat(rectangle(0.012, 0.62, 0.03, 0.74), TAILLIGHT)
    for x in (0.20, 0.70):
        pen.wheel(x, 0.84, 0.155)


def truck(pen: Pen) -> None:
    """A cab with a cargo box behind."""
    pen.shape(rectangle(0.02, 0.74, 0.96, 0.84), (70, 72, 78))
    pen.body(rectangle(0.01, 0.02, 0.65, 0.75))
    for x in (0.22, 0.43):
        pen.line([(x, 0.05), (x, 0.72)], scale(pen.color, 0.74), 0.012)
    pen.shape(
        [(0.68, 0.22), (0.83, 0.22), (0.91, 0.48), (0.985, 0.54), (0.995, 0.80), (0.68, 0.80)],
        scale(pen.color, 0.86),
    )
    pen.shape([(0.73, 0.28), (0.815, 0.28), (0.875, 0.49), (0.73, 0.49)], GLASS)
    pen.line([(0.73, 0.57), (0.77, 0.57)], DARK, 0.03)
    pen.flat(ellipse(0.975, 0.64, 0.016, 0.045), HEADLIGHT)
    pen.shape(rectangle(0.93, 0.75, 1.0, 0.83), METAL)
    for x in (0.15, 0.32, 0.82):
        pen.wheel(x, 0.845, 0.15)


def bicycle(pen: Pen) -> None:
    """Two wheels and a diamond frame in the sprite's color."""
    for x in (0.20, 0.80):
        rim = [*pen.circle(x, 0.68, 0.292), pen.circle(x, 0.68, 0.292)[0]]
        pen.line(rim, (40, 40, 44), 0.06)
        pen.line([*pen.circle(x, 0.68, 0.26), pen.circle(x, 0.68, 0.26)[0]], (196, 200, 206), 0.018)
        for px, py in pen.circle(x, 0.68, 0.25)[::4]:
            pen.line([(x, 0.68), (px, py)], (170, 174, 180), 0.010)
    frame = ((0.20, 0.68), (0.36, 0.34), (0.68, 0.32), (0.48, 0.70))
    for a, b in ((0, 1), (1, 2), (2, 3), (3, 0), (3, 1)):
        pen.limb([frame[a], frame[b]], pen.color, 0.068, smooth=False)
    pen.limb([(0.65, 0.15), (0.68, 0.32), (0.80, 0.68)], pen.color, 0.068, smooth=False)
    pen.limb([(0.36, 0.34), (0.335, 0.22)], METAL, 0.035, smooth=False)
    pen.shape([(0.24, 0.16), (0.42, 0.17), (0.40, 0.23), (0.28, 0.23)], (60, 46, 42), smooth=True)
    pen.line([(0.65, 0.13), (0.74, 0.07), (0.78, 0.14)], (54, 54, 60), 0.05, smooth=True)
    pen.shape(pen.circle(0.48, 0.70, 0.06), METAL)
    pen.line([(0.44, 0.60), (0.52, 0.80)], DARK, 0.03)


def boat(pen: Pen) -> None:
    """A sailing boat: hull and mainsail in the sprite's color, white foresail."""
    pen.limb([(0.47, 0.02), (0.47, 0.78)], WOOD, 0.03, smooth=False)
    pen.body([(0.44, 0.05), (0.44, 0.66), (0.06, 0.66), (0.22, 0.42)])
    jib = CREAM if pen.sprite.color != "white" else (206, 214, 224)
    pen.shape([(0.50, 0.10), (0.90, 0.66), (0.50, 0.66)], jib)
    pen.flat([(0.47, 0.0), (0.60, 0.03), (0.47, 0.06)], TAILLIGHT)
    pen.body([(0.0, 0.72), (1.0, 0.72), (0.86, 0.99), (0.16, 0.99)])
    pen.shape(
        [(0.0, 0.715), (1.0, 0.715), (0.985, 0.77), (0.02, 0.77)],
        CREAM if luminance(pen.color) < 190 else WOOD,
    )
    if pen.afloat:
        pen.ripples()
