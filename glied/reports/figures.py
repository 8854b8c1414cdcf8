"""Plots of curves and bars: SVG that follows the reader's light or dark theme, and PNG on a light background.

Titles are plain text, never formulas. Plots do not depend on the time: equal figures give equal files.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

PAPER, INK = "#fffefb", "#1d1f24"
DARK_PAPER, DARK_INK = "#1e2024", "#eceae4"
COLORS = ("#d9730d", "#1389a3", "#8a63d2", "#c8426a", "#4f9138", "#8d7355")
"""Line colors.

Each has a contrast of at least 3 : 1 on both backgrounds, as WCAG 2.1 requires for graphics.
"""
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
"""Line styles, so that lines can be distinguished without colors."""
COLUMNS = 3
"""Panels per row."""
FEW = 24
"""Lines with at most this many points have markers."""
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # names may contain $
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "figure.dpi": 100,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "glied",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """A line plot.

    Attributes:
        title: the measured quantity.
        axis: label of the x axis.
        lines: points by name of the line.
    """

    title: str
    axis: str
    lines: Mapping[str, Points]


@dataclass(frozen=True)
class Picture:
    """A rendered figure.

    Attributes:
        svg: SVG with a light background, or a dark one if the reader prefers that.
        png: PNG with a light background, 160 dpi.
    """

    svg: bytes
    png: bytes


def curves(title: str, panels: Sequence[Panel], names: Sequence[str] | None = None) -> Picture:
    """Draw panels with one legend; lines of the same name look the same in all panels.

    Args:
        title: title of the picture.
        panels: the panels, three per row.
        names: all line names, to style lines consistently across figures; by default those of these panels.
    """
    drawn = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    looks = {name: look for name, look in _looks(names or drawn).items() if name in drawn}
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with _style():
        figure = Figure(figsize=(max(3.6 * columns, 5.2), 2.35 * rows + 0.35), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_lines(axes, panel, looks)
        handles = [grid.flat[0].plot([], [], **look)[0] for look in looks.values()]
        figure.legend(handles, list(looks), loc="outside upper left", ncols=min(len(looks), 2 * columns))
        return _files(figure, title)


def labeled_points(title: str, panels: Sequence[Panel]) -> Picture:
    """Draw panels whose lines are points with their names beside them; a line of several points is joined.

    Args:
        title: title of the picture.
        panels: the panels, side by side.
    """
    with _style():
        figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=True):
            _draw_lines(axes, panel, {name: {"color": COLORS[1]} for name in panel.lines})
            for name, points in panel.lines.items():
                axes.annotate(name, points[-1], xytext=(4, 3), textcoords="offset points", fontsize=7)
            axes.margins(x=0.25, y=0.12)
        return _files(figure, title)


def bars(title: str, labels: Sequence[str], columns: Mapping[str, Sequence[float | None]]) -> Picture:
    """Draw a group of labeled bars for each column; None has no bar.

    Args:
        title: title of the picture.
        labels: labels of the rows, from top to bottom.
        columns: values of the rows by name of the column.
    """
    width = 0.09 * max(map(len, labels)) + 1.9 * len(columns)
    with _style():
        figure = Figure(figsize=(width, 0.3 * len(labels) + 0.55), layout="constrained")
        grid = figure.subplots(1, len(columns), sharey=True, squeeze=False)
        for axes, (name, values) in zip(grid.flat, columns.items(), strict=True):
            _draw_bars(axes, name, values)
        grid.flat[0].set_yticks(range(len(labels)), labels)
        grid.flat[0].invert_yaxis()
        return _files(figure, title)


def number(value: float) -> str:
    """Format a number with four digits and thousands separators: 1,500, 0.0312, 110.7."""
    if not math.isfinite(value) or (abs(value) < 1e-3 and value):
        return f"{value:.3g}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1e4 else f"{value:.4g}"


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # ignore the user's matplotlibrc
        matplotlib.rcParams.update(_STYLE)
        yield


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    pairs = zip(names, cycle(COLORS), cycle(DASHES), strict=False)
    return {name: {"color": color, "linestyle": dashes} for name, color, dashes in pairs}


def _draw_lines(axes: Axes, panel: Panel, looks: Mapping[str, Mapping[str, Any]]) -> None:
    for name, points in panel.lines.items():
        marker = "o" if len(points) <= FEW else ""
        axes.plot(*zip(*points, strict=True), linewidth=1.4, marker=marker, markersize=2.6, **looks[name])
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.axis)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(useOffset=False)
    axes.grid(True)


def _draw_bars(axes: Axes, name: str, values: Sequence[float | None]) -> None:
    widths = [value if value is not None and math.isfinite(value) else 0.0 for value in values]
    drawn = axes.barh(range(len(values)), widths, height=0.62, color=COLORS[1], alpha=0.55)
    texts = ["" if value is None else number(value) for value in values]
    axes.bar_label(drawn, texts, padding=3)
    axes.margins(x=0.35)
    axes.set_title(name, loc="left")
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[["bottom", "left"]].set_visible(False)


def _files(figure: Figure, title: str) -> Picture:
    drawn, pixels = io.StringIO(), io.BytesIO()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # keep the computed layout for both files
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(pixels, format="png", facecolor=PAPER, metadata={"Software": None})
    return Picture(_themed(drawn.getvalue(), title).encode(), pixels.getvalue())


def _themed(svg: str, title: str) -> str:
    """Add light and dark colors to an SVG, and remove the parts of a standalone document."""
    style = f"svg{{color:{INK}}}@media(prefers-color-scheme:dark)"
    style += f"{{svg{{color:{DARK_INK}}}.paper{{fill:{DARK_PAPER}}}}}"
    head = f"<title>{escape(title)}</title><style>{style}</style>"
    head += f'<rect class="paper" width="100%" height="100%" fill="{PAPER}"/>'
    body = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r"<svg[^>]*>", lambda root: root[0] + head, body, count=1)
