"""Figures as files: their content and accessibility."""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from glied.reports import figures
from glied.reports.figures import Panel, Picture

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["_run", "$cost$ & <b>", "c"]
POINTS = [(0.0, 1.0), (10.0, 3.0), (20.0, float("nan")), (30.0, 2.0)]


def panels() -> list[Panel]:
    """Return four panels with up to three lines."""
    lines = dict.fromkeys(NAMES, POINTS)
    return [
        Panel("loss_a^2", "step", lines),
        *(Panel(f"p{n}", "step", {NAMES[0]: POINTS[:1]}) for n in range(3)),
    ]


def texts(picture: Picture) -> list[str]:
    root = ElementTree.fromstring(picture.svg)
    return ["".join(one.itertext()) for one in root.iter(f"{SVG}text")]


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))


def test_names_and_titles_are_unchanged() -> None:
    picture = figures.curves('a "title" & <b>', panels())
    found = texts(picture)
    assert [one for one in found if one in NAMES] == NAMES, "the legend"
    assert {"loss_a^2", "p0", "p1", "p2", "step"} <= set(found)
    root = ElementTree.fromstring(picture.svg)
    assert [one.text for one in root.iter(f"{SVG}title")] == ['a "title" & <b>']


def test_lines_and_names_are_distinguished_by_color_and_dashes() -> None:
    looks = figures._looks([str(number) for number in range(24)])
    assert len({repr(look) for look in looks.values()}) == 12
    first = list(looks.values())[:4]
    assert len({look["color"] for look in first}) == len({repr(look["linestyle"]) for look in first}) == 4
    drawn = pixels(figures.curves("t", [Panel("p", "step", {"a": POINTS, "b": [(0, 2.5), (30, 2.5)]})]))
    for color in figures.COLORS[:2]:
        wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
        assert (drawn == wanted).all(axis=2).sum() > 100


def test_a_line_has_the_same_style_with_and_without_others() -> None:
    panel = Panel("p", "step", {"b": POINTS})
    alone, known = (figures.curves("t", [panel], names) for names in (None, ["a", "b"]))
    for picture, color, other in ((alone, 0, 1), (known, 1, 0)):
        assert figures.COLORS[color] in picture.svg.decode()
        assert figures.COLORS[other] not in picture.svg.decode()
        assert [text for text in texts(picture) if text in "ab"] == ["b"]


@pytest.mark.parametrize("color", figures.COLORS)
@pytest.mark.parametrize("paper", [figures.PAPER, figures.DARK_PAPER])
def test_lines_are_visible_on_light_and_dark_backgrounds(color: str, paper: str) -> None:
    assert contrast(color, paper) >= 3


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio as defined by WCAG 2.1."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    values = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_figure_is_self_contained_and_follows_the_theme() -> None:
    svg = figures.curves("t", panels()).svg.decode()
    assert not {"href", "src"} & {
        name.split("}")[-1]
        for one in ElementTree.fromstring(svg).iter()
        for name, value in one.items()
        if not value.startswith("#")
    }
    assert "prefers-color-scheme:dark" in svg
    assert "currentColor" in svg
    assert figures.INK not in svg.replace(f"svg{{color:{figures.INK}}}", "")


def test_equal_figures_are_equal_files() -> None:
    first, second, other = (figures.curves("t", panels()[place:4]) for place in (3, 3, 2))
    assert first == second
    assert first.png != other.png


def test_points_have_their_names_beside_them() -> None:
    panels = [Panel("truth", "images found", {"XE": [(1, 2)], "CIDEr": [(3, 1)]})] * 2
    shown = texts(figures.labeled_points("Trade-off", panels))
    for text in ("XE", "CIDEr", "truth", "images found"):
        assert shown.count(text) == 2, text


def test_bars_are_labeled_and_the_largest_value_is_the_longest() -> None:
    picture = figures.bars("t", ["LSTM", "GLIED", "none"], {"CIDEr": [50.0, 100.25, None], "n": [1, 2, 3]})
    assert {"LSTM", "GLIED", "none", "CIDEr", "n", "50", "100.2", "1", "2", "3"} <= set(texts(picture))
    drawn = pixels(figures.bars("t", ["a", "b"], {"n": [50.0, 100.0]})).astype(int)
    blue = ((drawn[:, :, 2] - drawn[:, :, 0]) > 60).sum(axis=1)  # of each row of pixels
    assert blue.max() == pytest.approx(2 * blue[blue > 20].min(), rel=0.05)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1500, "1,500"),
        (12345.6, "12,346"),
        (110.66, "110.7"),
        (0.0312, "0.0312"),
        (7.3e-10, "7.3e-10"),
        (0.0, "0"),
        (-3.25, "-3.25"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value: float, shown: str) -> None:
    assert figures.number(value) == shown
