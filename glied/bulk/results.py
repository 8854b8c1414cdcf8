"""Reading a caption run: the rows of its committed units."""

from collections.abc import Iterator
from typing import Any

from glied import storage
from glied.bulk import manifest, sinks
from glied.bulk.ledger import Ledger
from glied.errors import UsageError


def read_rows(run_uri: str) -> Iterator[dict[str, Any]]:
    """The rows of a caption run in the order of its manifest, one per input image.

    Raises:
        UsageError: the folder holds no run, or units are missing: a part of a run must not pass as the whole.
    """
    plan = manifest.load(run_uri)
    if plan is None:
        raise UsageError(f"{run_uri} is no run of jobs/caption_dataset.py: it has no manifest")
    ledger = Ledger(run_uri, plan.plan, "captions")
    committed = ledger.committed()
    if len(committed) < plan.units:
        raise UsageError(f"{run_uri}: {len(committed)} of {plan.units} units are done; finish the run first")
    for unit, generation in sorted(committed.items()):
        yield from sinks.decode(storage.read_bytes(ledger.output_uri(unit, generation))).to_pylist()
