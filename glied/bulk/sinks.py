"""What a caption run writes: the schema of its rows, and a unit as one Parquet file."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 1

CAPTIONS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        ("caption", pa.string()),
        ("captions", pa.list_(pa.struct([("text", pa.string()), ("log_probability", pa.float32())]))),
        ("attributes", pa.list_(pa.struct([("word", pa.string()), ("probability", pa.float32())]))),
        (
            "regions",
            pa.list_(
                pa.struct(
                    [("box", pa.list_(pa.float32())), ("label", pa.string()), ("score", pa.float32())]
                )
            ),
        ),
        ("width", pa.int32()),
        ("height", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        ("error_kind", pa.string()),
        ("error", pa.string()),
        pa.field("model", pa.string(), nullable=False),
    ]
)
"""One row per image. `status` is ok, rejected (the image is at fault) or failed (ours); boxes are xyxy in upright pixels."""


def encode(table: pa.Table) -> bytes:
    """A unit's rows as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def decode(data: bytes) -> pa.Table:
    """The rows of a unit's Parquet file.

    Raises:
        pyarrow.ArrowInvalid: the bytes are no Parquet file.
    """
    return pq.read_table(io.BytesIO(data))


def empty_row(schema: pa.Schema, **values: Any) -> dict[str, Any]:
    """A row of nulls with the given values set."""
    return {name: None for name in schema.names} | values
