"""The image in a cell of a table, for the types that Parquet files have for images."""

import base64
from typing import Any

import numpy as np
import pyarrow as pa

from glied.bulk.plan.sources.input_columns import is_binary, is_text
from glied.errors import ImageError

BAD_ROW = "bad_row"
"""Kind of error of a row without an image or the address of one."""


def holds_images(kind: Any) -> bool:
    """Whether cells of an Arrow type can hold an image or its path.

    An image is binary; text, in base64; a list of numbers, its bytes; a list with one image; a struct as
    Hugging Face writes it, with a field `bytes` or a `path`, or with one field of binary. Nulls hold none.
    """
    if is_binary(kind) or is_text(kind) or pa.types.is_null(kind):
        return True
    if pa.types.is_dictionary(kind):
        return holds_images(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return holds_images(kind.storage_type)
    if pa.types.is_struct(kind):
        return _image_field(kind) is not None or _has_path(kind)
    if _is_list(kind):
        return pa.types.is_integer(kind.value_type) or holds_images(kind.value_type)
    return False


def image_in(cell: Any) -> bytes | str | None:
    """The encoded image in a cell, an Arrow scalar; or its path, if the cell has nothing else; or None.

    Raises:
        ImageError: there is something else in it.
    """
    if not cell.is_valid:
        return None
    kind = cell.type
    if pa.types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        return image_in(cell.value)
    if is_binary(kind):
        return cell.as_py()
    if is_text(kind):
        return _base64(_text(cell))
    if pa.types.is_struct(kind):
        field = _image_field(kind)
        image = None if field is None else image_in(cell[field])
        path = _text(cell["path"]) if _has_path(kind) and not image else None
        return path or image
    return _in_list(cell.values)


def _text(cell: Any) -> str | None:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        raise ImageError(BAD_ROW, f"the text is not valid UTF-8: {error}") from error


def _base64(text: str | None) -> bytes:
    """The bytes that a text in base64, or a data URI, holds."""
    text = text or ""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise ImageError(BAD_ROW, f"the text is not an image in base64: {error}") from error


def _in_list(values: pa.Array) -> bytes | str | None:
    if pa.types.is_integer(values.type):
        numbers = values.fill_null(0).to_numpy()
        bits = numbers.astype(np.uint8)
        signed = pa.types.is_int8(values.type)  # as Java has bytes
        if values.null_count or not (signed or (bits == numbers).all()):
            raise ImageError(BAD_ROW, "the row holds a list of numbers that are not bytes")
        return bits.tobytes()
    if len(values) > 1:
        raise ImageError(BAD_ROW, f"the row holds a list of {len(values)} images; one is allowed")
    return image_in(values[0]) if len(values) else None


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _has_path(kind: pa.StructType) -> bool:
    return kind.get_field_index("path") >= 0 and is_text(kind.field("path").type)


def _image_field(kind: pa.StructType) -> str | None:
    """The field `bytes`, or the only one of binary."""
    names = [field.name for field in kind if is_binary(field.type)]
    if kind.get_field_index("bytes") >= 0 and holds_images(kind.field("bytes").type):
        return "bytes"
    return names[0] if len(names) == 1 else None
