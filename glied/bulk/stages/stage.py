"""The stage that a worker of a bulk job runs: an Arrow table of fetched images to one of described rows.

As many rows leave as came, in the same order. No image raises: a row is `ok`, `rejected` (the image is at
fault) or `failed` (we are), with the kind of error and a message. Ids, URIs and the columns that pass through
stay in Arrow; only what the models read and write becomes Python values. No Ray here.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from glied.bulk import arrow_tables, row_schemas
from glied.bulk.plan.sources import fetch
from glied.bulk.row_schemas import FAILED, OK, REJECTED
from glied.bulk.stages.describe import Describe, Row
from glied.clock import Clock
from glied.data import features
from glied.data.caption_files import without_surrogates
from glied.errors import ImageError
from glied.redaction import redacted
from glied.regions import Regions
from glied.vision.decoder_pool import Decoded
from glied.vision.images import Picture

log = logging.getLogger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")

BATCH_BYTES = 16 << 20
"""Most encoded bytes that are decoded together: pixels take about thirteen times as much."""
_LONGEST_ERROR = 500


@dataclass(frozen=True)
class Fault:
    """Why there is nothing to describe: the columns status, error_kind and error of a row."""

    status: str
    kind: str
    message: str


class Read(Protocol[Item]):
    """What the models of a stage get from a table.

    Attributes:
        schema: the first columns of a table, which are read; those behind them pass through.
    """

    @property
    def schema(self) -> pa.Schema: ...  # noqa: D102  # see Attributes

    def __call__(self, table: pa.Table, clock: Clock) -> Iterator[list[Item | Fault]]:
        """An item or a fault per row, in order, in batches as the models are to have them.

        The table also has the columns that pass through.
        """
        ...


class Decoding(Protocol):
    """A batch of images that is being decoded."""

    def result(self) -> list[Decoded]:
        """Wait for it: a picture or an error per image, in order."""
        ...


class Decoder(Protocol):
    """What decodes images; `glied.vision.decoder_pool.DecoderPool`, for one."""

    def start(self, batch: Sequence[bytes]) -> Decoding:
        """Begin with a batch and return at once."""
        ...


class DescribeStage(Generic[Item]):
    """Reads items from a table, describes them in batches and puts the rows into a table."""

    def __init__(self, read: Read[Item], describe: Describe[Item]) -> None:
        """`describe` gets the batches of `read`, or parts of them where a batch fails."""
        self.read = read
        self.describe = describe

    def __call__(self, table: pa.Table) -> pa.Table:
        """Columns of `read.schema` to those of `describe.schema`; what stands behind them passes through.

        The result's metadata has the seconds by part (`arrow_tables.seconds_of`).
        """
        clock = Clock()
        rows = [row for batch in self.read(table, clock) for row in self._rows(batch, clock)]
        described = self._table(table, rows)
        passing = table.select(range(len(self.read.schema), table.num_columns))
        result = pa.table(
            [*described.columns, *passing.columns], schema=pa.schema([*described.schema, *passing.schema])
        )
        return arrow_tables.with_seconds(result, clock.seconds)

    def _rows(self, batch: list[Item | Fault], clock: Clock) -> list[Row]:
        items = [item for item in batch if not isinstance(item, Fault)]
        described = iter(_described(self.describe, items, clock))
        return [self._row(item if isinstance(item, Fault) else next(described), item) for item in batch]

    def _row(self, found: Row | Fault, item: Item | Fault) -> Row:
        if isinstance(found, Fault):
            return self._fault_row(found)
        return {"status": OK, "error": _note(item), "model": self.describe.model} | found

    def _fault_row(self, found: Fault) -> Row:
        known = {"status": found.status, "error_kind": found.kind, "error": found.message}
        return {"model": self.describe.model} | known

    def _table(self, items: pa.Table, rows: list[Row]) -> pa.Table:
        """The rows, with the id and the uri of their items."""
        schema, kept = self.describe.schema, ("id", "uri")
        values = self._columns(rows, pa.schema([field for field in schema if field.name not in kept]))
        columns = [(items if name in kept else values)[name] for name in schema.names]
        return pa.table(columns, schema=schema)

    def _columns(self, rows: list[Row], schema: pa.Schema) -> pa.Table:
        """The rows as a table; one with a value that no column can hold fails by itself."""
        try:
            return pa.Table.from_pylist(rows, schema=schema)
        except Exception as error:  # pyarrow's own, and those of Python for text and numbers
            log.warning("a table of %d rows failed (%s); trying each row", len(rows), type(error).__name__)
        return pa.concat_tables(self._one_row(row, schema) for row in rows)

    def _one_row(self, row: Row, schema: pa.Schema) -> pa.Table:
        try:
            return pa.Table.from_pylist([row], schema=schema)
        except Exception as error:
            return pa.Table.from_pylist([self._fault_row(_failure(error))], schema=schema)


class DecodeImages:
    """Pictures of fetched images (`fetch.FETCHED`); implements `Read`.

    Decoding happens in other processes, one batch ahead of the models.
    """

    schema = fetch.FETCHED

    def __init__(
        self,
        decoder: Decoder,
        *,
        batch_size: int = 16,
        vary: Callable[[str, Picture], Picture] | None = None,
    ) -> None:
        """A batch has at most `batch_size` images, or `BATCH_BYTES` of encoded ones.

        Args:
            decoder: decodes them.
            batch_size: most images of a batch.
            vary: makes the picture of an image id what is described in its place.
        """
        self.decoder = decoder
        self.batch_size = batch_size
        self.vary = vary

    def __call__(self, table: pa.Table, clock: Clock) -> Iterator[list[Picture | Fault]]:
        """A picture or a fault per row."""
        for rows, decoding in _one_ahead(self._started(table)):
            with clock.measure("decode"):  # the time that the models wait
                decoded = iter(decoding.result())
            yield [self._item(row, decoded) for row in rows]

    def _started(self, table: pa.Table) -> Iterator[tuple[list[Row], Decoding]]:
        table = table.select(self.schema.names)
        sizes = pc.fill_null(pc.binary_length(table["data"]), 0).to_pylist()
        for first, last in arrow_tables.ranges(sizes, most=self.batch_size, size=BATCH_BYTES):
            rows = table.slice(first, last - first).to_pylist()
            yield rows, self.decoder.start([row["data"] for row in rows if row["data"] is not None])

    def _item(self, row: Row, decoded: Iterator[Decoded]) -> Picture | Fault:
        if row["data"] is None:
            status = FAILED if fetch.is_failure(row["kind"]) else REJECTED
            return Fault(status, row["kind"], row["error"])
        found = next(decoded)
        if not isinstance(found, Picture):
            status = REJECTED if isinstance(found, ImageError) else FAILED
            return Fault(status, found.kind, found.message)
        return self.vary(row["id"], found) if self.vary else found


class ReadRegions:
    """Regions of the rows that `ExtractRegions` or a feature store gave; implements `Read`."""

    def __init__(self, *, batch_size: int = 16, transit: bool = False) -> None:
        """A batch has at most `batch_size` images; in `transit` they come from another pool."""
        self.batch_size = batch_size
        self.schema = row_schemas.TRANSIT if transit else row_schemas.FEATURES

    def __call__(self, table: pa.Table, clock: Clock) -> Iterator[list[Regions | Fault]]:
        """Regions or a fault per row."""
        table = table.select(self.schema.names)
        for first in range(0, table.num_rows, self.batch_size):
            yield [self._item(row) for row in table.slice(first, self.batch_size).to_pylist()]

    def _item(self, row: Row) -> Regions | Fault:
        if row["status"] != OK:
            return Fault(row["status"], row["error_kind"], row["error"])
        regions, vector = features.read(row), row.get("image_vector")
        return regions if vector is None else replace(regions, image_vector=np.asarray(vector, np.float32))


def _described(describe: Describe[T], batch: list[T], clock: Clock) -> list[Row | Fault]:
    """A batch described; where that fails, its halves; at last single images, which fail by themselves."""
    if not batch:
        return []
    try:
        rows = describe(batch, clock)
        assert len(rows) == len(batch), f"{len(rows)} rows for {len(batch)} images"
        return list(rows)
    except Exception as error:
        if len(batch) == 1:
            return [_failure(error)]
        log.warning("a batch of %d failed (%s); trying its halves", len(batch), type(error).__name__)
    # Outside the except block: the traceback would keep the tensors of the failed batch alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    return _described(describe, batch[:middle], clock) + _described(describe, batch[middle:], clock)


def _failure(error: Exception) -> Fault:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        kind = "out_of_memory"
    else:
        kind = type(error).__name__
        log.warning("an image failed", exc_info=error)
    return Fault(FAILED, kind, redacted(" ".join(without_surrogates(str(error)).split()))[:_LONGEST_ERROR])


def _note(item: object) -> str | None:
    """What there is to say of an image that is described all the same."""
    item = getattr(item, "item", item)  # of an entry
    if isinstance(item, Picture) and item.missing_rows:
        return f"the file was cut off: the last {item.missing_rows} rows are missing"
    return None


def _one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, each when the next one has been drawn."""
    held: list[T] = []
    for item in items:
        held.append(item)
        if len(held) == 2:
            yield held.pop(0)
    yield from held
