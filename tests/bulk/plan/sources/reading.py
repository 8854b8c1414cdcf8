"""Plan and fetch a source."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from glied.bulk.config import InputConfig
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.plan.sources.input_sources import inputs, open_source


def read(uri: Path | str, form: str, **options: Any) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the bytes, or the error kind, by id in the order of the plan, and the skipped files by kind."""
    rows, skipped = read_rows(uri, form, **options)
    found = {row["id"]: row["kind"] or row["data"] for row in rows}
    assert len(found) == len(rows)
    return found, skipped


def read_rows(uri: Path | str, form: str, **options: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the fetched rows in the chunks of a run, and the skipped files by kind."""
    config = InputConfig(uri=str(uri), form=form, **options)
    source = open_source(config, "/nowhere")
    tables = list(inputs(source, config))
    fetch = Fetch(form=form, pause=0)
    rows: list[dict[str, Any]] = []
    if tables:
        planned = pa.concat_tables(tables)
        for column in source.columns:
            planned = planned.append_column("input:" + column.name, pa.nulls(planned.num_rows, column.type))
        for start in range(0, planned.num_rows, 3):
            rows += fetch(planned.slice(start, 3)).to_pylist()
    return rows, source.skipped
