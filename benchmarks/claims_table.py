"""Means and spreads over the seeds, and a verdict on each claim, from the results of benchmarks/claims.py.

A verdict comes from the 95 % interval of the difference by a bootstrap over images and seeds together.

A run is {"variant", "seed", "figures": {name: value}, "by_image": {name: values}, ...}; `by_image` has only
some of the figures. This module does not import torch.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.claims_worlds import Claim, World
from benchmarks.measurement import batches
from glied.metrics.bootstrap import Array, Difference, Statistic, bootstrap_over_seeds
from glied.metrics.bootstrap import mean as mean_of_images

Run = Mapping[str, Any]

SEEDS = 3
"""Number of seeds that a verdict needs at least."""
RESAMPLES = 5_000
SPEED = "images/s"
NO_SPEED: Mapping[str, float] = MappingProxyType({})
COLUMNS = 5
"""Figures in one table."""


def values(runs: Sequence[Run], variant: str, figure: str) -> list[float]:
    """Return a figure of a variant for each seed."""
    return [float(run["figures"][figure]) for run in measured(runs, figure) if run["variant"] == variant]


def mean(numbers: Sequence[float]) -> float:
    """Return the mean over the seeds."""
    return sum(numbers) / len(numbers)


def spread(numbers: Sequence[float]) -> float:
    """Return the largest minus the smallest value; three seeds are too few for a finer measure."""
    return max(numbers) - min(numbers)


def verdict(claim: Claim, runs: Sequence[Run]) -> dict[str, Any]:
    """Decide whether a claim is "shown", "not shown" or, with fewer than three seeds, "not measured"."""
    better, other = ([run for run in runs if run["variant"] == one] for one in (claim.better, claim.other))
    better, other = (measured(own, claim.figure) for own in (better, other))
    fewest = min(len(better), len(other))
    result: dict[str, Any] = {"claim": claim.says, "needs": _needs(claim), "seeds": fewest}
    if fewest < SEEDS:
        return result | {"verdict": "not measured", "difference": None, "interval": None}
    found = bootstrap_over_seeds(*statistics(other, better, claim.figure), resamples=RESAMPLES)
    result |= {"verdict": _decide(claim, found), "difference": round(found.difference, 2)}
    return result | {"interval": [round(found.low, 2), round(found.high, 2)]}


def measured(runs: Sequence[Run], figure: str) -> list[Run]:
    """Return the runs that have a figure."""
    return [run for run in runs if run["figures"].get(figure) is not None]


def statistics(
    other: Sequence[Run], better: Sequence[Run], figure: str
) -> tuple[list[Array], list[Array], Statistic]:
    """Return a figure's values by image for each run of two variants, and the statistic that is compared.

    Where a run has no values by image, each run is one value, and the interval is over the seeds alone.
    """
    found = [[run.get("by_image", {}).get(figure) for run in runs] for runs in (other, better)]
    if any(one is None for values in found for one in values):
        found = [[[run["figures"][figure]] for run in runs] for runs in (other, better)]
    first, second = ([np.array(one, float) for one in values] for values in found)
    return first, second, ratio if first[0].ndim == 2 else mean_of_images


def ratio(totals: Array, images: int) -> Array:
    """Return the share x 100 of what is right, from [R, 2]: how much is right, how much there is."""
    return 100 * totals[:, 0] / totals[:, 1]


def _decide(claim: Claim, found: Difference) -> str:
    if claim.kind == "compared":
        return "higher" if found.low > 0 else "lower" if found.high < 0 else "no difference"
    shown = {
        "above": found.difference >= claim.bound and found.low > 0,
        "at least": found.low >= claim.bound,
        "at most": found.high <= claim.bound,
    }
    return "shown" if shown[claim.kind] else "not shown"


def _needs(claim: Claim) -> str:
    if claim.kind == "compared":
        return f"{claim.figure}: a comparison"
    if claim.kind == "above":
        return f"{claim.figure}: {claim.bound:g} above, and above 0 with 95 %"
    return f"{claim.figure}: {claim.kind} {claim.bound:+g}, with 95 %"


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


def table(runs: Sequence[Run], world: World, speed: Mapping[str, float] = NO_SPEED) -> list[dict[str, Any]]:
    """Return a row for each variant that has runs: their number, and mean and spread of each figure.

    Args:
        runs: the results.
        world: its variants and figures.
        speed: images/s by variant, which are measured apart from the runs.
    """
    runs, rows = with_equal_cpu(runs), []
    for variant, known in world.variants.items():
        seeds = sum(run["variant"] == variant for run in runs)
        row: dict[str, Any] = {"variant": known.name, "seeds": seeds}
        for figure in world.figures:
            numbers = values(runs, variant, figure)
            if numbers:
                row[figure], row[f"{figure} spread"] = round(mean(numbers), 2), round(spread(numbers), 2)
        if variant in speed:
            row[SPEED], row[f"{SPEED} spread"] = speed[variant], 0
        if seeds:
            rows.append(row)
    return rows


def missing(runs: Sequence[Run], world: World) -> list[str]:
    """Return the missing runs, by variant."""
    finished = {(run["variant"], run["seed"]) for run in runs}
    planned = [(variant, seed) for variant in world.variants for seed in range(world.seeds)]
    return [f"{variant}-{seed}" for variant, seed in planned if (variant, seed) not in finished]


def report(runs: Sequence[Run], world: World, speed: Mapping[str, float] = NO_SPEED) -> dict[str, Any]:
    """Return the whole report in the form that jobs/report.py reads as a table."""
    planned = len(world.variants) * world.seeds
    return {
        "title": world.title,
        "note": f"{len(runs)} of {planned} runs{machines_and_dates(runs)}",
        "rows": table(runs, world, speed),
        "claims": [verdict(claim, runs) for claim in world.claims],
        "missing": missing(runs, world),
    }


def machines_and_dates(runs: Sequence[Run]) -> str:
    """Return where and when the runs were made, for the end of a note; nothing without runs."""
    if not runs:
        return ""
    machines, dates = ({run[key] for run in runs} for key in ("machine", "date"))
    return f"; {'; '.join(sorted(machines))}; {min(dates)} to {max(dates)}"


def markdown(result: Mapping[str, Any], world: World) -> str:
    """Format a report as Markdown: the verdicts, then mean ± spread over the seeds for each variant."""
    lines = [f"**{result['title']}.** {result['note']}.", "", *verdict_lines(result["claims"])]
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


def verdict_lines(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table of verdicts, and of a sentence about the claims without one."""
    rows = [["claim", "needs", "difference", "95 %", "seeds", "verdict"]]
    for one in verdicts:
        if one["interval"]:
            interval = " to ".join(f"{bound:g}" for bound in one["interval"])
            difference = f"{one['difference']:g}"
            rows.append([one["claim"], one["needs"], difference, interval, str(one["seeds"]), one["verdict"]])
    head, *claims = (f"| {' | '.join(row)} |" for row in rows)
    missing = [f"{one['claim']} ({one['seeds']})" for one in verdicts if not one["interval"]]
    sentence = f"Not measured, with fewer than {SEEDS} seeds: {'; '.join(missing)}."
    return [*([head, _rule(head), *claims] if claims else []), *(["", sentence] if missing else [])]
