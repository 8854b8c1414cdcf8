"""The trade-off between the rewards of benchmarks/claims.py, as a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.claims_variants import Variant
from benchmarks.claims_worlds import World
from glied.reports.figures import Panel, Picture, labeled_points

FOUND = "judge R@1"
SPOILED = ("relations", "colors")
"""Words whose precision a reward can spoil."""


def trade_off(rows: Sequence[Mapping[str, Any]], world: World) -> Picture:
    """Draw a point for GLIED (XE) and each reward: how well its captions find the image, how true they are.

    Args:
        rows: rows of the report (`claims_table.report`).
        world: its variants.
    """
    names = {one.name: short(one) for key, one in world.variants.items() if one.reward or key == "glied"}
    panels = []
    for word in SPOILED:
        figure = f"precision {word}"
        known = [row for row in rows if row["variant"] in names and {FOUND, figure} <= row.keys()]
        lines = {names[row["variant"]]: [(row[FOUND], row[figure])] for row in known}
        panels.append(Panel(f"{word} that are true, %", "images found (judge's R@1), %", lines))
    return labeled_points("What rewards gain and lose", panels)


def short(variant: Variant) -> str:
    """Return the last part of a variant's name, which differs from the others'."""
    return variant.name.rpartition(", ")[2]
