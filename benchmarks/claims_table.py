"""What the cells of benchmarks/claims.py say together: means, spreads, and a verdict on each claim.

A cell is {"variant", "seed", "figures": {name: value}, "by_image": {name: values}, ...}, the last with some
figures only. Needs no torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.claims_worlds import Claim, World
from glied.metrics.bootstrap import paired_bootstrap

Cell = Mapping[str, Any]

SEEDS = 3
"""How many a verdict needs."""


def values(cells: Sequence[Cell], variant: str, figure: str) -> dict[int, float]:
    """A figure of a variant by seed."""
    found = {cell["seed"]: cell["figures"].get(figure) for cell in cells if cell["variant"] == variant}
    return {seed: float(value) for seed, value in sorted(found.items()) if value is not None}


def mean(numbers: Sequence[float]) -> float:
    """Of what the seeds gave."""
    return sum(numbers) / len(numbers)


def spread(numbers: Sequence[float]) -> float:
    """The largest minus the smallest: three seeds are too few for anything finer."""
    return max(numbers) - min(numbers)


def verdict(claim: Claim, cells: Sequence[Cell]) -> dict[str, Any]:
    """Whether a claim is "shown", "not shown", or "not measured" for want of cells, with its numbers."""
    found, base = (values(cells, variant, claim.figure) for variant in (claim.better, claim.other))
    seeds = sorted(found.keys() & base.keys())
    told: dict[str, Any] = {"claim": claim.says, "needs": _needs(claim), "seeds": len(seeds)}
    if len(seeds) < SEEDS:
        return told | {"verdict": "not measured", "difference": None, "spread": None}
    one, other = [found[seed] for seed in seeds], [base[seed] for seed in seeds]
    difference, widest = mean(one) - mean(other), max(spread(one), spread(other))
    told |= {"verdict": _decide(claim, difference, widest)}
    told |= {"difference": round(difference, 2), "spread": round(widest, 2)}
    interval = over_images(claim, cells, seeds)
    return told | ({"interval": interval} if interval else {})


def _decide(claim: Claim, difference: float, widest: float) -> str:
    if claim.compared:
        higher = "higher" if difference > 0 else "lower"
        return higher if abs(difference) > widest else "no difference"
    if claim.within:
        shown = difference <= claim.least
    else:
        shown = difference >= claim.least and (difference > widest or not claim.beyond_spread)
    return "shown" if shown else "not shown"


def _needs(claim: Claim) -> str:
    if claim.compared:
        return f"{claim.figure}: a comparison, by more than the spread"
    if claim.within:
        return f"{claim.figure}: at most {claim.least:g} above"
    return f"{claim.figure}: {claim.least:g} above" + ", and more than the spread" * claim.beyond_spread


def over_images(claim: Claim, cells: Sequence[Cell], seeds: Sequence[int]) -> list[float] | None:
    """The 95 % interval of a claim's difference over other draws of the test images, or None.

    It is a paired bootstrap of the images' means over the seeds; none where a cell has no values by image.
    """
    means = []
    for variant in (claim.other, claim.better):
        rows = [
            cell.get("by_image", {}).get(claim.figure)
            for cell in cells
            if cell["variant"] == variant and cell["seed"] in seeds
        ]
        if None in rows:
            return None
        means.append(np.mean(rows, axis=0))
    drawn = paired_bootstrap(*means)
    return [round(drawn.low, 2), round(drawn.high, 2)]


def with_equal_cpu(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, those under XE with the best validation CIDEr that they had when the cheapest was done.

    The cheapest is that of the same seed, among all that there are.
    """
    budgets: dict[int, float] = {}
    for cell in cells:
        if cell.get("curve"):
            spent = cell["curve"][-1]["cpu_minutes"]
            budgets[cell["seed"]] = min(spent, budgets.get(cell["seed"], spent))
    return [_at_budget(cell, budgets[cell["seed"]]) if cell.get("curve") else cell for cell in cells]


def _at_budget(cell: Cell, budget: float) -> Cell:
    reached = [point["cider"] for point in cell["curve"] if point["cpu_minutes"] <= budget]
    best = {"CIDEr val at equal CPU": max(reached)} if reached else {}
    return {**cell, "figures": {**cell["figures"], **best}}


def table(cells: Sequence[Cell], world: World) -> list[dict[str, Any]]:
    """A row for each variant that has cells: how many, and of each figure mean and spread."""
    cells, rows = with_equal_cpu(cells), []
    for variant, known in world.variants.items():
        seeds = sum(cell["variant"] == variant for cell in cells)
        row: dict[str, Any] = {"variant": known.name, "seeds": seeds}
        for figure in world.figures:
            numbers = list(values(cells, variant, figure).values())
            if numbers:
                row[figure], row[f"{figure} spread"] = round(mean(numbers), 2), round(spread(numbers), 2)
        if seeds:
            rows.append(row)
    return rows


def missing(cells: Sequence[Cell], world: World) -> list[str]:
    """The cells that are not there, variant by variant."""
    there = {(cell["variant"], cell["seed"]) for cell in cells}
    every = [(variant, seed) for variant in world.variants for seed in range(SEEDS)]
    return [f"{variant}-{seed}" for variant, seed in every if (variant, seed) not in there]


def report(cells: Sequence[Cell], world: World) -> dict[str, Any]:
    """All of it, in the form that jobs/report.py reads as a table."""
    machines = sorted({cell["machine"] for cell in cells})
    dates = sorted({cell["date"] for cell in cells})
    note = f"{len(cells)} of {len(world.variants) * SEEDS} cells"
    if cells:
        note += f"; {'; '.join(machines)}; {dates[0]} to {dates[-1]}"
    return {
        "title": world.title,
        "note": note,
        "rows": table(cells, world),
        "claims": [verdict(claim, cells) for claim in world.claims],
        "missing": missing(cells, world),
    }


def markdown(told: Mapping[str, Any], world: World) -> str:
    """The report for people: verdicts, then each variant's mean and, behind it, the spread over its seeds."""
    head, *claims = verdict_rows(told["claims"])
    lines = [f"**{told['title']}.** {told['note']}.", "", head, "|---" * (head.count("|") - 1) + "|", *claims]
    figures = [figure for figure in world.figures if any(figure in row for row in told["rows"])]
    if told["rows"]:
        lines += ["", f"| | seeds | {' | '.join(figures)} |", "|---" * (2 + len(figures)) + "|"]
    for row in told["rows"]:
        shown = (f"{row[f]:g} ± {row[f'{f} spread']:g}" if f in row else "" for f in figures)
        lines.append(f"| {row['variant']} | {row['seeds']} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def verdict_rows(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of verdicts, its head first; with a column for intervals if there are any."""
    bounded = any("interval" in one for one in verdicts)
    rows = [["claim", "needs", "difference", *["95 % over images"] * bounded, "spread", "verdict"]]
    for one in verdicts:
        difference, widest = ("" if one[key] is None else f"{one[key]:g}" for key in ("difference", "spread"))
        interval = " to ".join(f"{bound:g}" for bound in one.get("interval", ()))
        seeds = f" ({one['seeds']} of {SEEDS} seeds)" if one["verdict"] == "not measured" else ""
        rows.append(
            [one["claim"], one["needs"], difference, *[interval] * bounded, widest, one["verdict"] + seeds]
        )
    return [f"| {' | '.join(row)} |" for row in rows]
