"""Means and spreads over the seeds, and a verdict on each claim, from the results of benchmarks/claims.py.

A run is {"variant", "seed", "figures": {name: value}, "by_image": {name: values}, ...}; `by_image` has only
some of the figures. This module does not import torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.claims_worlds import Claim, World
from benchmarks.measurement import batches
from glied.metrics.bootstrap import paired_bootstrap

Run = Mapping[str, Any]

SEEDS = 3
"""Number of seeds that a verdict needs."""
COLUMNS = 5
"""Figures in one table."""


def values(runs: Sequence[Run], variant: str, figure: str) -> dict[int, float]:
    """Return a figure of a variant by seed."""
    by_seed = {run["seed"]: run["figures"].get(figure) for run in runs if run["variant"] == variant}
    return {seed: float(value) for seed, value in sorted(by_seed.items()) if value is not None}


def mean(numbers: Sequence[float]) -> float:
    """Return the mean over the seeds."""
    return sum(numbers) / len(numbers)


def spread(numbers: Sequence[float]) -> float:
    """Return the largest minus the smallest value; three seeds are too few for a finer measure."""
    return max(numbers) - min(numbers)


def verdict(claim: Claim, runs: Sequence[Run]) -> dict[str, Any]:
    """Decide whether a claim is "shown", "not shown" or, if runs are missing, "not measured"."""
    better, base = (values(runs, variant, claim.figure) for variant in (claim.better, claim.other))
    seeds = sorted(better.keys() & base.keys())
    result: dict[str, Any] = {"claim": claim.says, "needs": _needs(claim), "seeds": len(seeds)}
    if len(seeds) < SEEDS:
        return result | {"verdict": "not measured", "difference": None, "spread": None}
    one, other = [better[seed] for seed in seeds], [base[seed] for seed in seeds]
    difference, widest = mean(one) - mean(other), max(spread(one), spread(other))
    result |= {"verdict": _decide(claim, difference, widest)}
    result |= {"difference": round(difference, 2), "spread": round(widest, 2)}
    interval = over_images(claim, runs, seeds)
    return result | ({"interval": interval} if interval else {})


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


def over_images(claim: Claim, runs: Sequence[Run], seeds: Sequence[int]) -> list[float] | None:
    """Return the 95 % confidence interval of a claim's difference over the test images.

    It is a paired bootstrap of each image's mean over the seeds; None if a run has no values by image.
    """
    means = []
    for variant in (claim.other, claim.better):
        rows = [
            run.get("by_image", {}).get(claim.figure)
            for run in runs
            if run["variant"] == variant and run["seed"] in seeds
        ]
        if None in rows:
            return None
        means.append(np.mean(rows, axis=0))
    interval = paired_bootstrap(*means)
    return [round(interval.low, 2), round(interval.high, 2)]


def with_equal_cpu(runs: Sequence[Run]) -> list[Run]:
    """Add to each XE run its best validation CIDEr within the CPU time of the cheapest XE run of its seed."""
    budgets: dict[int, float] = {}
    for run in runs:
        if run.get("curve"):
            spent = run["curve"][-1]["cpu_minutes"]
            budgets[run["seed"]] = min(spent, budgets.get(run["seed"], spent))
    return [_at_budget(run, budgets[run["seed"]]) if run.get("curve") else run for run in runs]


def _at_budget(run: Run, budget: float) -> Run:
    reached = [point["cider"] for point in run["curve"] if point["cpu_minutes"] <= budget]
    best = {"CIDEr val at equal CPU": max(reached)} if reached else {}
    return {**run, "figures": {**run["figures"], **best}}


def table(runs: Sequence[Run], world: World) -> list[dict[str, Any]]:
    """Return a row for each variant that has runs: their number, and mean and spread of each figure."""
    runs, rows = with_equal_cpu(runs), []
    for variant, known in world.variants.items():
        seeds = sum(run["variant"] == variant for run in runs)
        row: dict[str, Any] = {"variant": known.name, "seeds": seeds}
        for figure in world.figures:
            numbers = list(values(runs, variant, figure).values())
            if numbers:
                row[figure], row[f"{figure} spread"] = round(mean(numbers), 2), round(spread(numbers), 2)
        if seeds:
            rows.append(row)
    return rows


def missing(runs: Sequence[Run], world: World) -> list[str]:
    """Return the missing runs, by variant."""
    finished = {(run["variant"], run["seed"]) for run in runs}
    planned = [(variant, seed) for variant in world.variants for seed in range(SEEDS)]
    return [f"{variant}-{seed}" for variant, seed in planned if (variant, seed) not in finished]


def report(runs: Sequence[Run], world: World) -> dict[str, Any]:
    """Return the whole report in the form that jobs/report.py reads as a table."""
    machines = sorted({run["machine"] for run in runs})
    dates = sorted({run["date"] for run in runs})
    note = f"{len(runs)} of {len(world.variants) * SEEDS} runs"
    if runs:
        note += f"; {'; '.join(machines)}; {dates[0]} to {dates[-1]}"
    return {
        "title": world.title,
        "note": note,
        "rows": table(runs, world),
        "claims": [verdict(claim, runs) for claim in world.claims],
        "missing": missing(runs, world),
    }


def markdown(result: Mapping[str, Any], world: World) -> str:
    """Format a report as Markdown: the verdicts, then mean ± spread over the seeds for each variant."""
    head, *claims = verdict_rows(result["claims"])
    lines = [f"**{result['title']}.** {result['note']}.", "", head, _rule(head), *claims]
    figures = [figure for figure in world.figures if any(figure in row for row in result["rows"])]
    for part in batches(figures, COLUMNS):
        head = f"| | seeds | {' | '.join(part)} |"
        lines += ["", head, _rule(head)]
        for row in result["rows"]:
            shown = (f"{row[f]:g} ± {row[f'{f} spread']:g}" if f in row else "" for f in part)
            lines.append(f"| {row['variant']} | {row['seeds']} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _rule(head: str) -> str:
    return "|---" * (head.count("|") - 1) + "|"


def verdict_rows(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table of verdicts, with a column for the intervals if there are any."""
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
