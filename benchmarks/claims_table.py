"""What the cells of benchmarks/claims.py say together: means, spreads, and a verdict on each claim.

A cell is {"variant", "seed", "figures": {name: value}, ...}. Plain Python.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Cell = Mapping[str, Any]

SEEDS = 3
"""How many a verdict needs."""
NAMES = {
    "base": "Base, XE",
    "base_wide": "Base with GLIED's parameters, XE",
    "glied": "GLIED, XE",
    "no_visual_distilling": "GLIED without visual distilling, XE",
    "no_attribute_distilling": "GLIED without attribute distilling, XE",
    "no_pivot": "GLIED without pivot, XE",
    "no_local_distilling": "GLIED without local distilling, XE",
    "vision_only": "GLIED, vision only, XE",
    "attributes_only": "GLIED, attributes only, XE",
    "cider": "GLIED, CIDEr",
    "clip_s": "GLIED, CLIP-S",
    "ref_clip_s": "GLIED, RefCLIP-S",
    "cider_clip_s": "GLIED, CIDEr + CLIP-S",
    "clip_s_grammar": "GLIED, CLIP-S + grammar",
}
"""Rows of the table by variant."""
FIGURES = (
    "parameters, millions",
    *("CIDEr", "BLEU-4", "METEOR"),
    *("clip CLIP-S", "clip R@1", "clip R@5", "clip R@10"),
    *("judge CLIP-S", "judge R@1", "judge R@5", "judge R@10"),
    *("recall background", "recall object", "recall relation"),
    *("precision objects", "precision colors", "precision relations"),
    *("repeated bigrams", "cut", "p(grammatical)", "length"),
    *("CIDEr val", "CIDEr val at equal CPU", "CPU minutes"),
)
"""Columns of the table; what a cell lacks stays empty."""


@dataclass(frozen=True)
class Claim:
    """One variant's figure against another's.

    Attributes:
        says: the claim.
        better: variant of which it is claimed.
        other: variant that it is compared with.
        figure: which of `FIGURES`.
        least: how much higher it must be; or with `within`, how much higher it may be.
        beyond_spread: it must also be higher by more than the seeds of either variant differ.
        within: the claim is that the difference is small.
    """

    says: str
    better: str
    other: str
    figure: str
    least: float
    beyond_spread: bool = False
    within: bool = False


CLAIMS = (
    Claim("GLIED is above Base", "glied", "base", "CIDEr", 2, beyond_spread=True),
    Claim("GLIED is above a Base of its size", "glied", "base_wide", "CIDEr", 2, beyond_spread=True),
    Claim("The CIDEr reward is above XE", "cider", "glied", "CIDEr", 5),
    Claim("The CLIP-S reward finds images better than the CIDEr reward", "clip_s", "cider", "judge R@1", 10),
    Claim("CLIP-S alone makes captions repeat themselves", "clip_s", "glied", "repeated bigrams", 5),
    Claim(
        "With grammar they repeat themselves as little as after XE",
        *("clip_s_grammar", "glied", "repeated bigrams"),
        1,
        within=True,
    ),
)


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
    if claim.within:
        shown = difference <= claim.least
    else:
        shown = difference >= claim.least and (difference > widest or not claim.beyond_spread)
    numbers = {"difference": round(difference, 2), "spread": round(widest, 2)}
    return told | {"verdict": "shown" if shown else "not shown", **numbers}


def _needs(claim: Claim) -> str:
    if claim.within:
        return f"{claim.figure}: at most {claim.least:g} above"
    return f"{claim.figure}: {claim.least:g} above" + ", and more than the spread" * claim.beyond_spread


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


def table(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row for each variant that has cells: how many, and of each figure mean and spread."""
    cells, rows = with_equal_cpu(cells), []
    for variant, name in NAMES.items():
        seeds = sum(cell["variant"] == variant for cell in cells)
        row: dict[str, Any] = {"variant": name, "seeds": seeds}
        for figure in FIGURES:
            numbers = list(values(cells, variant, figure).values())
            if numbers:
                row[figure], row[f"{figure} spread"] = round(mean(numbers), 2), round(spread(numbers), 2)
        if seeds:
            rows.append(row)
    return rows


def missing(cells: Sequence[Cell]) -> list[str]:
    """The cells that are not there, variant by variant."""
    there = {(cell["variant"], cell["seed"]) for cell in cells}
    return [f"{variant}-{seed}" for variant in NAMES for seed in range(SEEDS) if (variant, seed) not in there]


def report(cells: Sequence[Cell]) -> dict[str, Any]:
    """All of it, in the form that jobs/report.py reads as a table."""
    machines = sorted({cell["machine"] for cell in cells})
    dates = sorted({cell["date"] for cell in cells})
    note = f"{len(cells)} of {len(NAMES) * SEEDS} cells"
    if cells:
        note += f"; {'; '.join(machines)}; {dates[0]} to {dates[-1]}"
    return {
        "title": "The papers' claims on the demo world",
        "note": note,
        "rows": table(cells),
        "claims": [verdict(claim, cells) for claim in CLAIMS],
        "missing": missing(cells),
    }


def markdown(told: Mapping[str, Any]) -> str:
    """The report for people: verdicts, then each variant's mean and, behind it, the spread over its seeds."""
    lines = [f"**{told['title']}.** {told['note']}.", "", "| claim | needs | difference | spread | verdict |"]
    lines.append("|---|---|---|---|---|")
    for one in told["claims"]:
        numbers = ("" if one[key] is None else f"{one[key]:g}" for key in ("difference", "spread"))
        seeds = f" ({one['seeds']} of {SEEDS} seeds)" if one["verdict"] == "not measured" else ""
        lines.append(f"| {one['claim']} | {one['needs']} | {' | '.join(numbers)} | {one['verdict']}{seeds} |")
    figures = [figure for figure in FIGURES if any(figure in row for row in told["rows"])]
    if told["rows"]:
        lines += ["", f"| | seeds | {' | '.join(figures)} |", "|---" * (2 + len(figures)) + "|"]
    for row in told["rows"]:
        shown = (f"{row[f]:g} ± {row[f'{f} spread']:g}" if f in row else "" for f in figures)
        lines.append(f"| {row['variant']} | {row['seeds']} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"
