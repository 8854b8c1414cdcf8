"""The tables of a run in the order of an image's life, and a unit's rows as one Parquet file.

    PLANNED    what the manifest holds of an input        by plan.sources
    FETCHED    an image's bytes                            by plan.sources.fetch
    FEATURES   its regions, a row of a feature store       by stages.describe.ExtractRegions
    CAPTIONS   its caption                                 by stages.describe.CaptionRegions, CaptionImages

`stages.stage` fills status, error_kind, error and model of the last two; the driver those of images whose
workers died (`run.lost_rows`). Columns of the input follow each of them.
"""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glied.bulk import arrow_tables
from glied.data import features

SCHEMA_VERSION = 2
OK, REJECTED, FAILED = "ok", "rejected", "failed"
"""Status of a row: done, faulty image, or system failure."""
BOX = pa.list_(pa.float32())
"""[4], xyxy in upright pixels."""

PLANNED = arrow_tables.schema(
    id=pa.string(),
    uri=pa.string(),
    file=pa.string(),
    offset=pa.int64(),
    size=pa.int64(),
    fault_kind=pa.string(),
    fault=pa.string(),
)
"""An input: `id` is unique in a run, `uri` is shown to people.

Its bytes are those of `uri`; or, if `file` is set, `size` bytes of that file from `offset` on (a tar), or its
row number `offset` (a Parquet file). `size` is null if it is unknown. An input that could not be planned has
a `fault`. The names of columns that pass through to the output begin with `INPUT`.
"""
INPUT = "input:"

FETCHED = arrow_tables.schema(
    id=pa.string(), uri=pa.string(), data=pa.large_binary(), kind=pa.string(), error=pa.string()
)
"""A fetched image; if `data` is null, `kind` and `error` say why."""

CAPTIONS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("captions", arrow_tables.list_of(text=pa.string(), log_probability=pa.float32())),
        pa.field("clip_score", pa.float32()),
        pa.field("familiarity", pa.float64()),
        pa.field("attributes", arrow_tables.list_of(word=pa.string(), probability=pa.float32())),
        pa.field("regions", arrow_tables.list_of(box=BOX, label=pa.string(), score=pa.float32())),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_kind", pa.string()),
        pa.field("error", pa.string()),
        pa.field("model", pa.string(), nullable=False),
    ]
)
"""One row per image; `status` is ok, rejected (faulty image) or failed (system failure).

Boxes are xyxy in upright pixels; log-probabilities are natural; clip_score is CLIP-S, null unless asked for;
familiarity is that of `glied.captioner.familiarity`, null if the captioner cannot compute it.
"""

ENGINE_CAPTIONS = CAPTIONS.set(
    CAPTIONS.get_field_index("captions"),
    pa.field(
        "captions",
        arrow_tables.list_of(
            text=pa.string(),
            log_probability=pa.float32(),
            prompt=pa.string(),
            truncated=pa.bool_(),
        ),
    ),
)
"""The rows of captioners of whole images: each caption also has the name of its prompt and whether it was cut
at its maximum length. Attributes, regions and familiarity are null, as is what a captioner does not know."""

LATER = frozenset({"familiarity"})
"""Columns that rows of older runs do not have; readers and resumed runs treat them as null."""


FEATURES = pa.schema(
    [
        *features.SCHEMA,
        pa.field("uri", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_kind", pa.string()),
        pa.field("error", pa.string()),
        pa.field("model", pa.string(), nullable=False),
    ]
)
"""The columns of the feature store and the status of the image; regions are null unless `status` is ok."""


def encode(table: pa.Table) -> bytes:
    """A unit's rows as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def decode(data: bytes) -> pa.Table:
    """The rows of a unit's Parquet file.

    Raises:
        pyarrow.ArrowInvalid: the bytes are not a Parquet file.
    """
    return pq.read_table(pa.BufferReader(data))


def with_later_columns(table: pa.Table) -> pa.Table:
    """Caption rows with the columns of `LATER`, null and in their position if it has none."""
    for position, field in enumerate(CAPTIONS):
        if field.name in LATER and field.name not in table.column_names:
            nulls = pa.nulls(table.num_rows, field.type)
            table = table.add_column(min(position, table.num_columns), field, nulls)
    return table


def empty_row(schema: pa.Schema, **values: Any) -> dict[str, Any]:
    """A row of nulls with the given values set."""
    return dict.fromkeys(schema.names) | values
