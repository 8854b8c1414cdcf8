"""What a bulk run does, as its config says it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from glied.bulk.config import InputConfig, OutputConfig, PublishedConfig, ResourcesConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run does.

    Attributes:
        results: folder of the outputs, "captions" or "features".
        schema: of the rows, with the metadata of the files; input columns follow.
        encode: a unit's rows as the bytes of its file.
        model: names the weights, for rows that no worker wrote.
        config: resolved config, for run.json.
        fingerprint: what the rows depend on; another one never joins the run.
        example: the text of a row that the summary may show, or None; None where rows have no such text.
    """

    results: str
    schema: pa.Schema
    encode: Callable[[pa.Table], bytes]
    model: str
    config: dict[str, Any]
    fingerprint: dict[str, Any]
    source: InputConfig | PublishedConfig
    output: OutputConfig
    resources: ResourcesConfig
    error_budget: float
    example: Callable[[dict[str, Any]], str | None] | None

    def takes(self, unit: int) -> bool:
        """Whether this job of those that share the run does the unit."""
        index, count = self.output.share
        return unit % count == index
