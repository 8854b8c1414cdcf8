"""Who is to blame for rows that failed: storage, the web hosts of a table, or the server of a captioner.

Web hosts and servers fail in the same ways and with the same kinds of error. The width tells them apart: it
is known once an image is decoded, and from then on only the captioner can fail.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from glied.bulk.plan.sources import fetch
from glied.bulk.plan.sources.web_hosts import is_host_failure
from glied.bulk.row_schemas import FAILED, OK
from glied.redaction import shown

LEAST_IMAGES = 16
"""A server is not given up for fewer images, which may be at fault themselves."""
_OF_SERVER = frozenset({"insufficient_quota", "broken_answer", "cut_answer"})
"""Kinds of error of servers, beside those that they share with web hosts."""
_COLUMNS = ["status", "error_kind", "error", "uri", "width"]


@dataclass(frozen=True)
class Failure:
    """A failed row.

    Attributes:
        kind, error: of the row.
        uri: of its image.
        is_decoded: whether its image was decoded.
    """

    kind: str
    error: str | None
    uri: str
    is_decoded: bool

    @property
    def is_of_host(self) -> bool:
        """Whether a web host did not deliver the image."""
        return not self.is_decoded and is_host_failure(self.kind)

    @property
    def is_of_server(self) -> bool:
        """Whether the server of a captioner gave no usable answer."""
        return self.is_decoded and (is_host_failure(self.kind) or self.kind in _OF_SERVER)

    @property
    def is_suspect(self) -> bool:
        """Whether the image may kill its worker: it was read, and nothing is known to have described it."""
        return not (self.is_decoded or fetch.is_failure(self.kind))


def failures(table: pa.Table) -> list[Failure]:
    """The failed rows of a table, in order."""
    rows = _narrow(table).filter(pc.field("status") == FAILED).to_pylist()
    return [
        Failure(str(row["error_kind"]), row["error"], row["uri"], is_decoded=row["width"] is not None)
        for row in rows
    ]


def _narrow(table: pa.Table) -> pa.Table:
    """The columns that say what failed; features are large."""
    if "width" not in table.column_names:
        table = table.append_column("width", pa.nulls(table.num_rows))
    return table.select(_COLUMNS)


def host_errors(table: pa.Table) -> dict[str, int]:
    """Images that web hosts did not deliver, by kind of error."""
    return dict(Counter(one.kind for one in failures(table) if one.is_of_host))


class ServerWatch:
    """Notices that a captioner's server is down: unit after unit gets no caption at all."""

    def __init__(self, units: int) -> None:
        """Give the server up after so many units in a row."""
        self.most_units = units
        self._units = self._images = 0

    def __call__(self, table: pa.Table, rows: Collection[int]) -> str:
        """Why the run has to stop after another unit, of which `rows` were described; empty if it has not."""
        new = _narrow(table).take(sorted(rows))
        if OK in new["status"].to_pylist():
            self._units = self._images = 0
            return ""
        if not (unanswered := [one for one in failures(new) if one.is_of_server]):
            return ""
        self._units, self._images = self._units + 1, self._images + len(unanswered)
        if self._units < self.most_units or self._images < LEAST_IMAGES:
            return ""
        last = unanswered[-1]
        return (
            f"the captioner's server failed for all images of {self._units} units in a row, last for "
            f"{shown(last.uri)}: {last.error}. The same command goes on, and --output.mode retry_failed also "
            "tries the failed images again"
        )
