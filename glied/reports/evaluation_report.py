"""Formatting of an evaluation as lines for the terminal and as tables in Markdown."""

import json
from collections.abc import Mapping
from typing import Any

from glied.metrics.bootstrap import Difference
from glied.metrics.text_metrics import Scores
from glied.reports.evaluate import Evaluation, Figures, recall_means

SHARES_NOTE = "Text metrics, CLIP-S, recalls and shares are x 100. FineCapEval recall compares Porter stems; "
SHARES_NOTE += "(script) is the published script's count."


def lines(evaluation: Evaluation) -> list[str]:
    """Format the figures of each file, the differences, and the notes for the terminal."""
    shown: list[str] = []
    for figures in evaluation.systems:
        name = f"{figures.uri}: " if len(evaluation.systems) == 2 else ""
        count = f"{name}{len(figures.captions)} captions: "
        if figures.scores:
            shown.append(count + _values(figures.scores.values))
        if figures.clip is not None:
            shown.append(f"{count}{_values(figures.clip.values)}")
        if figures.recall is not None:
            shown.append(f"{count}FineCapEval {_values(_finecapeval(figures))}")
    for name, difference in evaluation.differences.items():
        shown.append(f"{name}: {_difference(difference)}")
    return shown + evaluation.notes()


def markdown(evaluation: Evaluation) -> str:
    """Format all figures as tables, one column per file, with differences, notes and recipe."""
    systems = evaluation.systems
    parts = ["# Captions scored", *_captions(evaluation)]
    for title, column in (
        ("Against the references", [_scores(figures.scores) for figures in systems]),
        ("FineCapEval", [_finecapeval(figures) | _scores(figures.overall) for figures in systems]),
        ("By CLIP", [figures.clip.values if figures.clip else {} for figures in systems]),
        ("Without references", [figures.diversity for figures in systems]),
    ):
        if any(column):
            parts += [f"## {title}", _table(column)]
    if evaluation.differences:
        parts += ["## Differences, second - first", _differences(evaluation)]
    parts += [SHARES_NOTE, *(f"- {note}" for note in evaluation.notes())]
    parts += ["## Recipe", "```json\n" + json.dumps(evaluation.recipe, indent=1) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _captions(evaluation: Evaluation) -> list[str]:
    letters = "AB" if len(evaluation.systems) == 2 else "A"
    found = []
    for letter, figures in zip(letters, evaluation.systems, strict=True):
        facts = figures.to_json()
        digest = facts["captions_sha256"][:12]
        found.append(f"{letter}: `{figures.uri}`, {len(figures.captions)} images, sha256 {digest}")
    return found


def _scores(scores: Scores | None) -> dict[str, float]:
    return scores.values if scores else {}


def _finecapeval(figures: Figures) -> dict[str, float]:
    if figures.recall is None or figures.published is None:
        return {}
    published = recall_means(figures.published)
    return recall_means(figures.recall) | {f"{name} (script)": value for name, value in published.items()}


def _table(columns: list[Mapping[str, float]] | list[dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for column in columns for name in column))
    header = ["", *("AB"[: len(columns)])]
    rows = [[name, *(_cell(column.get(name)) for column in columns)] for name in names]
    return _rows(header, rows)


def _differences(evaluation: Evaluation) -> str:
    rows = [
        [name, f"{d.difference:+.2f}", f"{d.low:+.2f} to {d.high:+.2f}", f"{d.p:.4f}"]
        for name, d in evaluation.differences.items()
    ]
    return _rows(["", "B - A", "95 % interval", "p"], rows)


def _rows(header: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _values(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in values.items())


def _difference(found: Difference) -> str:
    interval = f"[{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.first:.1f} to {found.second:.1f}, {found.difference:+.2f} {interval}, p {found.p:.4f}"
