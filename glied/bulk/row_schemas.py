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

CAPTION = arrow_tables.schema(
    text=pa.string(),
    log_probability=pa.float32(),
    prompt=pa.string(),
    truncated=pa.bool_(),
    raw_text=pa.string(),
    clip_score=pa.float32(),
)
CAPTION_LIST = pa.list_(pa.struct(list(CAPTION)))
"""The captions of an image, prompt by prompt and the best first.

`prompt` is the name of a prompt, null without prompts. `raw_text` is what the captioner gave, where `text`
differs. Rows of older runs lack all but the first two, or the last two.
"""

CAPTIONS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("caption_source", pa.string()),
        pa.field("captions", CAPTION_LIST),
        pa.field("clip_score", pa.float32()),
        pa.field("low_clip_score", pa.bool_()),
        pa.field("repeats", pa.bool_()),
        pa.field("truncated", pa.bool_()),
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

`caption` is the first of `captions`, and clip_score, low_clip_score, repeats and truncated tell of it
(`stages.quality`); caption_source says whether it is from the model, the input, or both
(`stages.known_captions`). What a captioner does not know is null: those of whole images find no regions and
attributes. Boxes are xyxy in upright pixels; log-probabilities are natural; clip_score is CLIP-S, null unless
asked for; familiarity is that of `glied.captioner.familiarity`, null if the captioner cannot compute it.
"""

LATER = frozenset({"familiarity", "repeats", "truncated", "low_clip_score", "caption_source"})
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

TRANSIT = FEATURES.append(pa.field("image_vector", pa.list_(pa.float32())))
"""Regions between two pools of workers; `image_vector` is a CLIP's, null unless captions are scored."""


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
    """Caption rows as today's version writes them; what older rows lack is null.

    That are the columns of `LATER`, and fields of the column captions.
    """
    for position, field in enumerate(CAPTIONS):
        if field.name in LATER and field.name not in table.column_names:
            nulls = pa.nulls(table.num_rows, field.type)
            table = table.add_column(min(position, table.num_columns), field, nulls)
    place = table.schema.get_field_index("captions")
    if place < 0 or not _is_older(table.schema.field(place).type):
        return table
    return table.set_column(place, CAPTIONS.field("captions"), table["captions"].cast(CAPTION_LIST))


def as_written(schema: pa.Schema, table: pa.Table) -> pa.Schema:
    """`schema` as the version of this project has it that wrote the caption rows of a table."""
    there = table.schema
    fields = [field for field in schema if field.name not in LATER or field.name in there.names]
    if "captions" in there.names and _is_older(kind := there.field("captions").type):
        fields = [field.with_type(kind) if field.name == "captions" else field for field in fields]
    return pa.schema(fields)


def _is_older(kind: pa.DataType) -> bool:
    """Whether a type is what `CAPTION_LIST` was in an older version, with fewer fields."""
    if kind == CAPTION_LIST or not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    today = {field.name: field.type for field in CAPTION}
    return all(today.get(field.name) == field.type for field in kind.value_type)


def empty_row(schema: pa.Schema, **values: Any) -> dict[str, Any]:
    """A row of nulls with the given values set."""
    return dict.fromkeys(schema.names) | values
