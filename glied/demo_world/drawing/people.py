"""Man and woman, seen from the front; their color is their clothes'."""

from glied.demo_world.drawing.palette import HAIR, RGB, SKIN, scale
from glied.demo_world.drawing.pen import Pen, ellipse

TROUSERS: tuple[RGB, ...] = ((58, 66, 98), (74, 70, 72), (150, 128, 96), (52, 78, 84))


def _face(pen: Pen, y: float) -> None:
    for x in (0.43, 0.57):
        pen.dot(x, y, 0.0095, (34, 26, 28))
    pen.line([(0.43, y + 0.036), (0.5, y + 0.046), (0.57, y + 0.036)], (166, 64, 60), 0.035, smooth=True)


def man(pen: Pen) -> None:
    """Short hair, shirt in the sprite's color, trousers."""
    skin, hair = pen.rng.choice(SKIN), pen.rng.choice(HAIR)
    trousers = pen.rng.choice([color for color in TROUSERS if pen.sprite.color != "blue" or color[2] < 90])
    for x1, x2 in ((0.25, 0.48), (0.52, 0.75)):
        pen.shape([(x1, 0.955), (x2, 0.955), (x2 + 0.03, 0.995), (x1 - 0.05, 0.995)], (50, 42, 42))
    pen.shape(
        [(0.26, 0.54), (0.74, 0.54), (0.77, 0.96), (0.54, 0.96), (0.50, 0.66), (0.46, 0.96), (0.23, 0.96)],
        trousers,
    )
    for sign in (-1, 1):
        pen.shape(ellipse(0.5 + sign * 0.415, 0.565, 0.065, 0.03), skin)
        pen.body(
            [(0.5 + sign * 0.24, 0.215), (0.5 + sign * 0.38, 0.25), (0.5 + sign * 0.485, 0.545),
             (0.5 + sign * 0.35, 0.555), (0.5 + sign * 0.24, 0.34)],
            horizontal=True,
            tone=0.9,
        )  # fmt: skip
    pen.body(
        [(0.36, 0.20), (0.64, 0.20), (0.80, 0.24), (0.76, 0.58), (0.24, 0.58), (0.20, 0.24)], horizontal=True
    )
    pen.shape([(0.40, 0.195), (0.60, 0.195), (0.5, 0.25)], skin)
    pen.shape(pen.circle(0.5, 0.108, 0.092), skin)
    pen.shape(
        [
            (0.27, 0.11), (0.26, 0.05), (0.40, 0.005), (0.60, 0.005), (0.74, 0.05), (0.73, 0.11),
            (0.68, 0.07), (0.40, 0.06),
        ],
        hair,
        smooth=True,
    )  # fmt: skip
    _face(pen, 0.115)
    if pen.rng.random() < 0.3:
        pen.flat(
            [(0.33, 0.14), (0.42, 0.155), (0.58, 0.155), (0.67, 0.14), (0.60, 0.195), (0.40, 0.195)],
            scale(hair, 0.9),
        )
        pen.line([(0.44, 0.165), (0.56, 0.165)], (190, 90, 84), 0.035)


def woman(pen: Pen) -> None:
    """Long hair, flared dress in the sprite's color, bare legs."""
    skin, hair = pen.rng.choice(SKIN), pen.rng.choice(HAIR)
    pen.shape(
        [
            (0.5, 0.0), (0.70, 0.03), (0.79, 0.13), (0.80, 0.32), (0.70, 0.36), (0.30, 0.36), (0.20, 0.32),
            (0.21, 0.13), (0.30, 0.03),
        ],
        scale(hair, 0.85),
        smooth=True,
    )  # fmt: skip
    for x in (0.40, 0.60):
        pen.shape([(x - 0.065, 0.70), (x + 0.065, 0.70), (x + 0.045, 0.97), (x - 0.045, 0.97)], skin)
        pen.shape(
            [(x - 0.08, 0.965), (x + 0.08, 0.965), (x + 0.09, 0.995), (x - 0.09, 0.995)],
            scale(pen.color, 0.55),
        )
    for sign in (-1, 1):
        arm = [(0.5 + sign * 0.27, 0.26), (0.5 + sign * 0.37, 0.40), (0.5 + sign * 0.42, 0.54)]
        pen.limb(arm, skin, 0.11)
    pen.body(
        [(0.34, 0.215), (0.66, 0.215), (0.74, 0.27), (0.66, 0.42), (0.985, 0.75), (0.75, 0.785), (0.5, 0.795),
         (0.25, 0.785), (0.015, 0.75), (0.34, 0.42), (0.26, 0.27)],
        horizontal=True,
    )  # fmt: skip
    pen.line([(0.335, 0.42), (0.5, 0.43), (0.665, 0.42)], scale(pen.color, 0.5), 0.05)
    pen.shape([(0.41, 0.205), (0.59, 0.205), (0.5, 0.26)], skin)
    pen.shape(pen.circle(0.5, 0.115, 0.085), skin)
    pen.shape(
        [
            (0.5, 0.01), (0.70, 0.03), (0.74, 0.15), (0.62, 0.08), (0.50, 0.05), (0.36, 0.08),
            (0.26, 0.15), (0.30, 0.03),
        ],
        hair,
        smooth=True,
    )  # fmt: skip
    _face(pen, 0.122)
