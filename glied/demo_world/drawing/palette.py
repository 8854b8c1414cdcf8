"""Colors of the demo world: named colors with jitter, mixing, and the second color of a pattern."""

import random

RGB = tuple[int, int, int]

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")
PATTERNS = ("plain", "striped", "spotted", "checkered")

BASE: dict[str, RGB] = {
    "red": (208, 40, 42),
    "orange": (243, 132, 28),
    "yellow": (248, 214, 48),
    "green": (58, 156, 68),
    "blue": (44, 98, 208),
    "purple": (132, 66, 178),
    "pink": (248, 150, 190),
    "brown": (132, 82, 44),
    "black": (44, 44, 50),
    "white": (244, 244, 241),
    "gray": (142, 146, 151),
}
JITTER = 9  # per channel and for brightness: far less than the distance between two named colors

SKIN: tuple[RGB, ...] = ((250, 216, 186), (236, 190, 152), (205, 150, 108), (158, 106, 70), (112, 74, 50))
HAIR: tuple[RGB, ...] = ((46, 36, 32), (92, 58, 34), (146, 96, 48), (214, 172, 92), (170, 78, 40))
WOOD: RGB = (166, 112, 64)
METAL: RGB = (176, 182, 190)
DARK: RGB = (52, 50, 56)
GLASS: RGB = (176, 214, 236)
CREAM: RGB = (248, 242, 226)
SKIES: dict[str, tuple[RGB, RGB]] = {
    "day": ((92, 164, 232), (206, 232, 248)),
    "sunset": ((106, 92, 172), (255, 186, 142)),
    "night": ((30, 38, 84), (86, 96, 152)),
    "overcast": ((150, 160, 172), (206, 210, 214)),
}
"""Top and bottom of the sky by light."""


def clamp(values: tuple[float, float, float]) -> RGB:
    """Rounds to integers within 0..255."""
    r, g, b = (int(min(255.0, max(0.0, value)) + 0.5) for value in values)
    return r, g, b


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """Color on the way from `a` (share 0) to `b` (share 1)."""
    return clamp((a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share))


def scale(color: RGB, factor: float) -> RGB:
    """Darkens (factor < 1) or brightens (factor > 1)."""
    return clamp((color[0] * factor, color[1] * factor, color[2] * factor))


def luminance(color: RGB) -> float:
    """Perceived brightness, 0..255 (Rec. 601)."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def jittered(name: str, rng: random.Random) -> RGB:
    """RGB of a named color with a small random shift."""
    common = rng.uniform(-JITTER, JITTER)
    r, g, b = BASE[name]
    return clamp(
        (
            r + common + rng.uniform(-JITTER, JITTER) / 2,
            g + common + rng.uniform(-JITTER, JITTER) / 2,
            b + common + rng.uniform(-JITTER, JITTER) / 2,
        )
    )


def outline_of(color: RGB) -> RGB:
    """Outline: a dark relative of the fill."""
    return clamp((color[0] * 0.38 + 8, color[1] * 0.36 + 6, color[2] * 0.40 + 12))


def second_color(color: RGB) -> RGB:
    """Color of stripes, spots and squares: white on dark colors, dark on light ones."""
    if luminance(color) > 165:
        return mix(scale(color, 0.45), DARK, 0.55)
    return mix(color, (252, 250, 245), 0.82)
