"""What a run's plan and commit records say of it at any time: what its status and its summary share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glied.bulk.run.ledger import Counts
from glied.captioner.familiarity import UNFAMILIAR


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Totals of a run.

    Attributes:
        run: the run folder.
        results: the folder in it that holds the rows.
        images, units: planned.
        units_done: committed.
        units_missing: not committed; in a summary, of the job's share of the units (`output.shard`).
        statuses, errors: committed images by status, and those not ok by kind of error.
        images_rated: committed images whose familiarity is known, of which images_unfamiliar look unlike what
            the captioner was trained on.
        stage_seconds: seconds in each stage over all attempts, summed over workers.
        usage: requests, tokens and cost of the committed rows, where the captioner is billed.
        host_errors: those of `errors` that are failures of web hosts, which a table names.
    """

    run: str
    results: str
    images: int = 0
    units: int = 0
    units_done: int = 0
    units_missing: int = 0
    statuses: dict[str, int]
    errors: dict[str, int]
    images_rated: int = 0
    images_unfamiliar: int = 0
    stage_seconds: dict[str, float]
    usage: dict[str, float] = field(default_factory=dict)
    host_errors: dict[str, int] = field(default_factory=dict)

    def error_lines(self) -> list[str]:
        """For a person: errors by kind, and images that the captioner does not know."""
        lines = [f"errors: {counted(self.errors)}"] if self.errors else []
        if self.images_rated:
            lines.append(unfamiliar_line(self.images_unfamiliar, self.images_rated))
        return lines


def of_rows(counts: Counts) -> dict[str, Any]:
    """The fields of `Totals` that sum up commit records."""
    return {
        "statuses": counts.rows,
        "errors": counts.errors,
        "images_rated": counts.familiarity.get("rated", 0),
        "images_unfamiliar": counts.familiarity.get("unfamiliar", 0),
        "stage_seconds": {stage: round(seconds, 2) for stage, seconds in counts.seconds.items()},
        "usage": counts.usage,
        "host_errors": counts.host_errors,
    }


def counted(counts: dict[str, int]) -> str:
    """For a person, such as "3 ok, 1 rejected"."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def usage_line(usage: Mapping[str, float]) -> str:
    """For a person: what a run has used."""
    parts = [f"{value:,.0f} {name.replace('_', ' ')}" for name, value in usage.items() if name != "cost"]
    return ", ".join(parts) + (f", cost {usage['cost']:.4f}" if usage.get("cost") else "")


def unfamiliar_line(count: int, of: int) -> str:
    """Says how many images look unlike what the captioner was trained on."""
    return (
        f"{count} of {of} images look unlike anything the captioner was trained on "
        f"(familiarity below {UNFAMILIAR:g})"
    )
