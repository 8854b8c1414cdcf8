"""Show the progress of a bulk run, which may be running; reads its folder and changes nothing.

.venv/bin/python jobs/status.py runs/photos
.venv/bin/python jobs/status.py s3://bucket/captions --json
.venv/bin/python jobs/status.py runs/photos --verify

--verify opens every committed unit and checks that its rows have the digest and count of the commit record
and the ids of the manifest.

Exit code 0: every image has its row. 1: the run is incomplete, or --verify found something, a line each.
2: bad usage, or the folder holds no run.
"""

import json
import sys
from dataclasses import dataclass
from datetime import datetime, timezone

from glied.bulk.run import status
from glied.config import parse, split_arguments
from glied.errors import UsageError
from glied.terminal_text import printable


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """Which run to show, and how."""

    run: str
    """Run folder of jobs/caption_dataset.py or jobs/extract_regions.py; --run may be omitted."""
    json: bool = False
    """Print JSON."""
    verify: bool = False
    """Open every committed unit and compare it with its commit record and the manifest."""


def main() -> int:
    """Print the progress of the run and, if asked, what is damaged."""
    runs, options = split_arguments(sys.argv[1:], StatusConfig)
    if len(runs) > 1:
        raise UsageError(f"{len(runs)} run folders given, one is needed: python jobs/status.py RUN")
    config = parse(
        StatusConfig, [*options, *(f"--run={one}" for one in runs)], description=__doc__, arguments="RUN"
    )
    found = status.open_run(config.run)
    state = status.status(found)
    violations = list(status.verify(found)) if config.verify else []
    code = 0 if state.complete and not violations else 1
    if config.json:
        extra = {"violations": violations} if config.verify else {}
        print(json.dumps(state.to_dict() | extra, indent=1))
        return code
    print("\n".join(map(printable, [*state.lines(datetime.now(timezone.utc)), *violations])))
    if config.verify:
        units = state.units_done + state.units_damaged
        print(f"verified {units} units, violations: {len(violations)}")
    return code
