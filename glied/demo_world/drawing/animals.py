"""Animals, facing right (the cat looks at us)."""

from glied.demo_world.drawing.palette import DARK, RGB, luminance, mix, scale
from glied.demo_world.drawing.pen import Pen, Point, ellipse

PINK: RGB = (240, 160, 165)
BEAK: RGB = (244, 160, 40)


def _eye(pen: Pen, x: float, y: float, r: float) -> None:
    if luminance(pen.color) < 90:
        pen.dot(x, y, r * 1.45, (240, 240, 235))
    pen.dot(x, y, r, (26, 22, 26))


def _legs(pen: Pen, xs: tuple[float, ...], top: float, width: float, tone: float, hoof: RGB | None) -> None:
    for x in xs:
        half = width / 2
        color = scale(pen.color, tone)
        leg = [(x - half, top), (x + half, top), (x + 0.8 * half, 0.99), (x - 0.8 * half, 0.99)]
        pen.shape(leg, color)
        if hoof is not None:
            pen.flat([(x - half, 0.93), (x + half, 0.93), (x + half, 0.995), (x - half, 0.995)], hoof)


def dog(pen: Pen) -> None:
    """Standing, floppy ear, tail up, red collar."""
    pen.limb([(0.13, 0.48), (0.05, 0.36), (0.03, 0.16)], pen.color, 0.07)
    _legs(pen, (0.23, 0.60), 0.6, 0.085, 0.72, None)
    _legs(pen, (0.15, 0.68), 0.55, 0.1, 1.0, None)
    pen.body(
        [(0.08, 0.52), (0.14, 0.37), (0.38, 0.38), (0.58, 0.35), (0.68, 0.22), (0.80, 0.38), (0.74, 0.62),
         (0.60, 0.74), (0.40, 0.68), (0.20, 0.74), (0.09, 0.68)],
        smooth=True,
    )  # fmt: skip
    pen.body(
        [(0.62, 0.18), (0.70, 0.04), (0.82, 0.04), (0.88, 0.13), (0.98, 0.20), (0.98, 0.30), (0.84, 0.36),
         (0.70, 0.38), (0.62, 0.30)],
        smooth=True,
    )  # fmt: skip
    collar = (60, 90, 200) if pen.sprite.color in ("red", "orange", "pink") else (206, 40, 44)
    pen.line([(0.62, 0.34), (0.70, 0.42), (0.79, 0.40)], collar, 0.05)
    pen.shape(
        [(0.60, 0.06), (0.69, 0.05), (0.70, 0.20), (0.65, 0.34), (0.57, 0.28)],
        scale(pen.color, 0.6),
        smooth=True,
    )
    pen.dot(0.97, 0.20, 0.036, (30, 26, 28))
    _eye(pen, 0.80, 0.145, 0.026)


def cat(pen: Pen) -> None:
    """Sitting, looking at us, tail curled up beside it."""
    pen.limb([(0.74, 0.90), (0.93, 0.84), (0.94, 0.62), (0.86, 0.50), (0.93, 0.40)], pen.color, 0.10)
    pen.body(
        [(0.34, 0.40), (0.60, 0.40), (0.74, 0.62), (0.82, 0.86), (0.74, 0.985), (0.20, 0.985), (0.12, 0.86),
         (0.20, 0.62)],
        smooth=True,
    )  # fmt: skip
    belly = mix(pen.color, (255, 250, 240), 0.35)
    pen.shape(ellipse(0.47, 0.70, 0.12, 0.15), belly, outline=False)
    for x in (0.36, 0.58):
        pen.shape(ellipse(x, 0.945, 0.10, 0.05), belly)
    for points in ([(0.16, 0.24), (0.15, 0.0), (0.42, 0.09)], [(0.52, 0.09), (0.79, 0.0), (0.78, 0.24)]):
        pen.shape(points, pen.color)
        cx, cy = sum(x for x, _ in points) / 3, sum(y for _, y in points) / 3
        pen.flat([(cx + 0.5 * (x - cx), cy + 0.5 * (y - cy)) for x, y in points], PINK)
    pen.body(ellipse(0.47, 0.26, 0.36, 0.20))
    for x in (0.33, 0.61):
        pen.flat(ellipse(x, 0.235, 0.066, 0.05), (206, 226, 92))
        pen.flat(ellipse(x, 0.235, 0.03, 0.048), (24, 22, 26))
    pen.flat([(0.43, 0.305), (0.51, 0.305), (0.47, 0.34)], PINK)
    pen.line(
        [(0.38, 0.35), (0.43, 0.372), (0.47, 0.345), (0.51, 0.372), (0.56, 0.35)], DARK, 0.018, smooth=True
    )
    whisker = (235, 235, 230) if luminance(pen.color) < 120 else (90, 84, 84)
    for sign in (-1, 1):
        for dy in (-0.02, 0.03):
            pen.line(
                [(0.47 + sign * 0.14, 0.33 + dy / 2), (0.47 + sign * 0.40, 0.32 + dy * 2)], whisker, 0.008
            )


def horse(pen: Pen) -> None:
    """Long legs, arched neck, mane and tail."""
    mane = scale(pen.color, 0.45) if luminance(pen.color) > 70 else (128, 120, 116)
    pen.shape([(0.12, 0.40), (0.03, 0.46), (0.0, 0.76), (0.06, 0.78), (0.11, 0.56)], mane, smooth=True)
    _legs(pen, (0.25, 0.62), 0.56, 0.058, 0.7, DARK)
    _legs(pen, (0.17, 0.69), 0.54, 0.066, 1.0, DARK)
    pen.body(
        [(0.10, 0.44), (0.22, 0.37), (0.42, 0.41), (0.56, 0.37), (0.66, 0.22), (0.74, 0.08), (0.82, 0.07),
         (0.90, 0.16), (0.995, 0.28), (0.97, 0.35), (0.90, 0.34), (0.84, 0.28), (0.80, 0.40), (0.75, 0.57),
         (0.62, 0.64), (0.40, 0.62), (0.22, 0.66), (0.11, 0.58)],
        smooth=True,
    )  # fmt: skip
    pen.shape([(0.74, 0.11), (0.755, 0.0), (0.81, 0.08)], pen.color)
    pen.shape(
        [(0.77, 0.04), (0.68, 0.08), (0.58, 0.24), (0.53, 0.38), (0.62, 0.36), (0.70, 0.22)],
        mane,
        smooth=True,
    )
    _eye(pen, 0.85, 0.16, 0.018)
    pen.dot(0.965, 0.29, 0.012, DARK)


def cow(pen: Pen) -> None:
    """Heavy square body, horns, pink muzzle and udder."""
    horn = (236, 224, 190)
    pen.limb([(0.05, 0.34), (0.02, 0.50), (0.03, 0.70)], pen.color, 0.035)
    pen.flat(ellipse(0.03, 0.74, 0.022, 0.06), DARK)
    _legs(pen, (0.22, 0.66), 0.62, 0.075, 0.7, DARK)
    pen.shape(ellipse(0.27, 0.76, 0.08, 0.075), PINK)
    _legs(pen, (0.12, 0.57), 0.6, 0.085, 1.0, DARK)
    pen.body(
        [(0.035, 0.32), (0.08, 0.21), (0.40, 0.24), (0.66, 0.19), (0.78, 0.30), (0.76, 0.60), (0.66, 0.76),
         (0.30, 0.76), (0.08, 0.74), (0.03, 0.55)],
        smooth=True,
    )  # fmt: skip
    pen.shape([(0.72, 0.12), (0.67, 0.0), (0.735, 0.02), (0.78, 0.10)], horn)
    pen.shape([(0.86, 0.10), (0.90, 0.02), (0.965, 0.0), (0.92, 0.12)], horn)
    pen.shape(ellipse(0.68, 0.20, 0.065, 0.05), scale(pen.color, 0.75))
    pen.shape(ellipse(0.95, 0.20, 0.045, 0.045), scale(pen.color, 0.75))
    pen.body(
        [(0.72, 0.11), (0.81, 0.08), (0.92, 0.11), (0.94, 0.26), (0.93, 0.44), (0.76, 0.44), (0.71, 0.26)],
        smooth=True,
    )  # fmt: skip
    pen.shape(ellipse(0.85, 0.42, 0.115, 0.085), PINK)
    for x in (0.80, 0.90):
        pen.dot(x, 0.42, 0.02, (120, 60, 70))
    for x in (0.775, 0.895):
        _eye(pen, x, 0.23, 0.024)


def sheep(pen: Pen) -> None:
    """A cloud of wool on thin dark legs, dark face."""
    face = (74, 66, 66) if luminance(pen.color) > 75 else (190, 170, 150)
    for x in (0.22, 0.34, 0.56, 0.68):
        pen.shape([(x - 0.025, 0.6), (x + 0.025, 0.6), (x + 0.022, 0.99), (x - 0.022, 0.99)], face)
    wool: list[Point] = []
    bumps = 11
    for i in range(bumps):
        cx, cy = ellipse(0.43, 0.44, 0.345, 0.28)[round(i * 28 / bumps) % 28]
        wool.append((cx, cy))
    for cx, cy in wool:
        pen.body(ellipse(cx, cy, 0.095, 0.125))
    pen.shape(ellipse(0.43, 0.44, 0.36, 0.30), pen.color, pattern=pen.sprite.pattern, outline=False)
    curl = scale(pen.color, 0.84)
    for cx, cy in ((0.28, 0.36), (0.44, 0.30), (0.58, 0.42), (0.34, 0.54), (0.50, 0.58), (0.18, 0.48)):
        pen.line(ellipse(cx, cy, 0.05, 0.06, 10, 190), curl, 0.02)
    pen.shape(
        [(0.72, 0.20), (0.82, 0.14), (0.92, 0.20), (0.985, 0.44), (0.93, 0.54), (0.83, 0.48)],
        face,
        smooth=True,
    )
    pen.shape(ellipse(0.70, 0.27, 0.075, 0.045), face)
    pen.body(ellipse(0.80, 0.15, 0.09, 0.09))
    pen.dot(0.87, 0.29, 0.032, (245, 245, 240))
    pen.dot(0.875, 0.29, 0.019, (24, 22, 26))


def elephant(pen: Pen) -> None:
    """Huge body, big ear, trunk and tusk."""
    pen.limb([(0.04, 0.34), (0.015, 0.48), (0.03, 0.62)], pen.color, 0.03)
    _legs(pen, (0.24, 0.52), 0.58, 0.125, 0.68, None)
    _legs(pen, (0.12, 0.62), 0.54, 0.14, 1.0, None)
    for x in (0.12, 0.62):
        for dx in (-0.04, 0.0, 0.04):
            pen.flat(ellipse(x + dx, 0.975, 0.016, 0.02), (240, 232, 214))
    pen.body(
        [(0.04, 0.40), (0.10, 0.18), (0.32, 0.07), (0.54, 0.10), (0.70, 0.24), (0.73, 0.50), (0.66, 0.72),
         (0.40, 0.76), (0.12, 0.74), (0.04, 0.60)],
        smooth=True,
    )  # fmt: skip
    trunk: list[Point] = [
        (0.62, 0.12), (0.74, 0.02), (0.87, 0.08), (0.94, 0.26), (0.945, 0.50), (0.95, 0.70), (0.995, 0.76),
        (0.985, 0.86), (0.90, 0.86), (0.865, 0.72), (0.86, 0.54), (0.80, 0.46), (0.68, 0.46),
    ]  # fmt: skip
    pen.body(trunk, smooth=True)
    for y in (0.56, 0.63, 0.70):
        pen.line([(0.87, y), (0.945, y - 0.01)], scale(pen.color, 0.6), 0.012)
    pen.shape([(0.78, 0.45), (0.85, 0.45), (0.92, 0.62), (0.86, 0.60)], (248, 242, 224), smooth=True)
    ear: list[Point] = [
        (0.66, 0.12), (0.54, 0.08), (0.45, 0.20), (0.47, 0.44), (0.57, 0.58), (0.66, 0.46), (0.70, 0.26),
    ]  # fmt: skip
    pen.shape(ear, scale(pen.color, 0.84), smooth=True)
    pen.flat(
        [(0.57 + 0.62 * (x - 0.57), 0.32 + 0.62 * (y - 0.32)) for x, y in ear],
        mix(pen.color, PINK, 0.4),
        smooth=True,
    )
    _eye(pen, 0.81, 0.22, 0.02)


def bird(pen: Pen) -> None:
    """In the air with spread wings, on the ground on thin legs."""
    if pen.airborne:
        _flying(pen)
        return
    for x in (0.46, 0.56):
        pen.line([(x, 0.72), (x + 0.02, 0.98), (x + 0.08, 0.98)], (196, 120, 40), 0.03)
    pen.shape([(0.24, 0.50), (0.0, 0.62), (0.02, 0.74), (0.26, 0.68)], scale(pen.color, 0.62))
    pen.body(
        [(0.14, 0.58), (0.34, 0.34), (0.56, 0.26), (0.62, 0.08), (0.76, 0.02), (0.87, 0.10), (0.88, 0.28),
         (0.82, 0.56), (0.66, 0.76), (0.40, 0.80)],
        smooth=True,
    )  # fmt: skip
    pen.shape(
        [(0.62, 0.56), (0.78, 0.38), (0.82, 0.52), (0.68, 0.72)],
        mix(pen.color, (255, 248, 236), 0.6),
        smooth=True,
        outline=False,
    )
    pen.shape(
        [(0.18, 0.56), (0.40, 0.36), (0.60, 0.44), (0.56, 0.62), (0.34, 0.68)],
        scale(pen.color, 0.72),
        smooth=True,
    )
    pen.shape([(0.86, 0.13), (0.995, 0.20), (0.86, 0.26)], BEAK)
    _eye(pen, 0.76, 0.15, 0.04)


def _flying(pen: Pen) -> None:
    pen.shape(
        [(0.44, 0.46), (0.34, 0.18), (0.40, 0.0), (0.58, 0.20), (0.62, 0.46)],
        scale(pen.color, 0.68),
        smooth=True,
    )
    pen.shape([(0.20, 0.56), (0.0, 0.46), (0.02, 0.62), (0.0, 0.76), (0.22, 0.68)], scale(pen.color, 0.7))
    pen.body(
        [(0.14, 0.62), (0.36, 0.46), (0.66, 0.40), (0.76, 0.30), (0.88, 0.32), (0.92, 0.44), (0.82, 0.60),
         (0.62, 0.74), (0.34, 0.74)],
        smooth=True,
    )  # fmt: skip
    pen.body(
        [(0.36, 0.56), (0.20, 0.80), (0.16, 0.995), (0.40, 0.90), (0.58, 0.76), (0.64, 0.54)], smooth=True
    )
    pen.line([(0.24, 0.92), (0.38, 0.76)], scale(pen.color, 0.55), 0.02)
    pen.line([(0.32, 0.92), (0.46, 0.76)], scale(pen.color, 0.55), 0.02)
    pen.shape([(0.90, 0.36), (0.998, 0.42), (0.90, 0.46)], BEAK)
    _eye(pen, 0.83, 0.385, 0.032)


def duck(pen: Pen) -> None:
    """Boat-shaped body, round head, flat orange bill, orange feet; without feet on water."""
    for x in () if pen.afloat else (0.40, 0.56):
        pen.line([(x, 0.80), (x, 0.95)], BEAK, 0.05)
        pen.shape([(x - 0.02, 0.92), (x + 0.12, 0.995), (x - 0.08, 0.995)], BEAK)
    pen.body(
        [(0.02, 0.40), (0.14, 0.52), (0.36, 0.46), (0.56, 0.46), (0.56, 0.30), (0.52, 0.14), (0.64, 0.01),
         (0.78, 0.06), (0.82, 0.20), (0.77, 0.34), (0.80, 0.56), (0.74, 0.78), (0.54, 0.90), (0.28, 0.88),
         (0.10, 0.70)],
        smooth=True,
    )  # fmt: skip
    pen.shape(
        [(0.16, 0.58), (0.34, 0.52), (0.56, 0.58), (0.50, 0.76), (0.32, 0.78)],
        scale(pen.color, 0.76),
        smooth=True,
    )
    pen.shape([(0.79, 0.13), (0.90, 0.17), (0.995, 0.22), (0.97, 0.28), (0.80, 0.26)], BEAK, smooth=True)
    pen.line([(0.81, 0.21), (0.97, 0.25)], (170, 100, 20), 0.014)
    ring = (250, 250, 246) if luminance(pen.color) < 170 else scale(pen.color, 0.6)
    pen.line([(0.555, 0.37), (0.66, 0.40), (0.775, 0.36)], ring, 0.045, smooth=True)
    _eye(pen, 0.70, 0.125, 0.032)
    if pen.afloat:
        pen.ripples()
