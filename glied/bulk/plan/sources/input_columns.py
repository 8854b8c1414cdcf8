"""Columns of the input: their names in the output, one schema for all files, and valid UTF-8."""

import re
from collections.abc import Iterable, Sequence

import pyarrow as pa

from glied.bulk import row_schemas
from glied.bulk.plan.manifest import PLANNED
from glied.errors import UsageError

_RESERVED = frozenset(
    [*row_schemas.CAPTIONS.names, *row_schemas.TRANSIT.names, *PLANNED.names, "data", "kind", "unit"]
)
_PREFIX = "input_"
_NAMES, _NAME_CHARACTERS = 40, 80
"""Most names of columns, and characters of each, that a message holds."""
_SURROGATES = re.compile("[\ud800-\udfff]")


def passed_name(name: str) -> str:
    """The output's name for an input column.

    A name that the output has itself gets a prefix: `caption` becomes `input_caption`. A column that already
    has that name gets one more, so that two columns never share a name.
    """
    bare = name
    while bare not in _RESERVED and bare.startswith(_PREFIX):
        bare = bare.removeprefix(_PREFIX)
    return _PREFIX + name if bare in _RESERVED else name


def distinct(names: Sequence[str]) -> list[str]:
    """The names of a file's columns, each once, as pandas has them: `Unnamed: 0`, `size`, `size.1`."""
    result: list[str] = []
    for position, name in enumerate(names):
        base = free = name or f"Unnamed: {position}"
        count = 0
        while free in result or (count and free in names):
            count += 1
            free = f"{base}.{count}"
        result.append(free)
    return result


def escaped(text: str) -> str:
    r"""The text with lone surrogates, which no UTF-8 can hold, written out as `\ud83d`.

    Bytes that Python's "surrogateescape" has put in their place become `\xe9`.
    """
    return text if text.isascii() else _SURROGATES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def is_text(kind: pa.DataType) -> bool:
    """Whether values of the type are text, under whatever encoding Arrow has for it."""
    kind = plain(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_binary(kind: pa.DataType) -> bool:
    """Whether values of the type are bytes, under whatever encoding Arrow has for it."""
    kind = plain(kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def plain(kind: pa.DataType) -> pa.DataType:
    """The type with which values pass through, independent of how they are encoded.

    Dictionaries (pandas' categories) become their values, views the types that every reader knows, and
    extension types that not every process knows their storage types.
    """
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if kind == pa.string_view():
        return pa.string()
    if kind == pa.binary_view():
        return pa.binary()
    if isinstance(kind, pa.BaseExtensionType):
        return kind if kind.extension_name.startswith("arrow.") else plain(kind.storage_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_type), plain(kind.item_type))
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(plain(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(plain(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(plain(kind.value_type)), kind.list_size)
    return kind


def passing(schemas: Iterable[tuple[str, pa.Schema]], *used: str | None) -> pa.Schema:
    """The columns of all files of an input that pass through: all but the used ones.

    They have their names in the output, and types that can hold the values of every file. The schemas come
    with the URIs of their files.

    Raises:
        UsageError: a column has types without a common type.
    """
    known: dict[str, tuple[pa.DataType, str]] = {}
    for uri, schema in schemas:
        for field in schema:
            kind = plain(field.type)
            if field.name in used:
                continue
            if field.name not in known:
                known[field.name] = kind, uri
            elif known[field.name][0] != kind:
                known[field.name] = _wider(field.name, *known[field.name], kind, uri), uri
    return pa.schema([(passed_name(name), kind) for name, (kind, _) in known.items()])


def _wider(name: str, first: pa.DataType, there: str, second: pa.DataType, uri: str) -> pa.DataType:
    both = [pa.schema([(name, kind)]) for kind in (first, second)]
    try:
        kind = pa.unify_schemas(both, promote_options="permissive").field(name).type
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        parquet = uri.lower().endswith(".parquet") and there.lower().endswith(".parquet")
        texts = "" if parquet else " (columns of CSV and JSON files are text)"
        raise UsageError(
            f"{uri}: column {name} is {second}, and {first} in {there}; make it one type in all files{texts}"
        ) from error
    # For an integer and a short float Arrow chooses the float, which cannot hold all integers.
    whole = pa.types.is_integer(first) or pa.types.is_integer(second)
    return pa.float64() if pa.types.is_floating(kind) and whole else kind


def fitted(column: pa.ChunkedArray, kind: pa.DataType) -> tuple[pa.ChunkedArray, dict[int, str]]:
    """The column cast to a type of `passing`, and the faults of values that do not fit, by row.

    Such values become null. Text that is not valid UTF-8 does fit: its bytes are `escaped`.
    """
    try:
        return _cast(column, kind), {}
    except pa.ArrowException:
        pass
    parts: list[pa.ChunkedArray] = []
    faults: dict[int, str] = {}
    if is_text(column.type):
        column = _escaped_text(column)
    column = column.cast(plain(column.type))
    for row in range(len(column)):
        value = column.take([row])  # a slice would keep all values of a list or struct
        try:
            parts.append(_cast(value, kind))
        except pa.ArrowException as error:
            faults[row] = f"does not fit {kind}, the type for all files: {first_line(error)}"
            parts.append(nulls(1, kind))
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=kind), faults  # type: ignore[call-overload]  # the stubs know no type in general


def nulls(count: int, kind: pa.DataType) -> pa.ChunkedArray:
    """A column of nulls."""
    return pa.chunked_array([pa.nulls(count).cast(kind)])


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Raises `pyarrow.ArrowException` if a value does not fit."""
    cast = column.cast(kind)
    cast.validate(full=True)  # nothing else checks that text is UTF-8
    return cast


def _escaped_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    texts = text_values(column)
    return pa.chunked_array([pa.array([text and escaped(text) for text in texts], pa.large_string())])


def text_values(column: pa.ChunkedArray) -> list[str | None]:
    """The values of a column of text or bytes; bytes that are not UTF-8 as "surrogateescape" decodes them."""
    try:
        return _cast(column, pa.large_string()).to_pylist()
    except pa.ArrowException:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if one is None else one.decode(errors="surrogateescape") for one in raw]


def named_once(schema: pa.Schema, uri: str, *used: str | None) -> pa.Schema:
    """The columns of a file under `distinct` names.

    Raises:
        UsageError: one of the used columns is a duplicate.
    """
    for name in used:
        if name is not None and schema.names.count(name) > 1:
            raise UsageError(f"{uri}: {schema.names.count(name)} columns are called {name}")
    names = distinct(schema.names)
    return pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])


def passed(table: pa.Table, columns: pa.Schema) -> tuple[list[tuple[str, pa.ChunkedArray]], dict[int, str]]:
    """The columns of a file as `passing` has them, null if they are missing; and faults, by row."""
    result = []
    faults: dict[int, str] = {}
    sources = {passed_name(name): name for name in table.column_names}
    for field in columns:
        source = sources.get(field.name)
        if source is None and passed_name(field.name) not in columns.names:
            source = field.name  # plans from before 2026-12 did not rename names like input_caption
        if source in table.column_names:
            column, misfits = fitted(table[source], field.type)
            faults = {row: f"column {source} {misfit}" for row, misfit in misfits.items()} | faults
        else:
            column = nulls(table.num_rows, field.type)
        result.append((field.name, column))
    return result, faults


def check_id_column(schema: pa.Schema, name: str, uri: str) -> None:
    """Refuse ids that are not scalar.

    Raises:
        UsageError: the ids are lists or structs.
    """
    kind = schema.field(name).type
    if pa.types.is_nested(plain(kind)):
        raise UsageError(f"{uri}: input.id_column {name!r} is {kind}; ids are text or numbers")


def id_values(table: pa.Table, name: str) -> list[str | None]:
    """The ids in a column, None for missing ones; whole numbers are written without a point."""
    if name not in table.column_names:  # of a file without a readable row
        return [None] * table.num_rows
    column = table[name]
    kind = plain(column.type)
    if is_text(kind) or is_binary(kind):
        return [text and escaped(text) for text in text_values(column)]
    if pa.types.is_floating(kind):
        return [number_id(value) for value in column.to_pylist()]
    if isinstance(kind, pa.BaseExtensionType):  # a UUID
        return [None if value is None else str(value) for value in column.to_pylist()]
    return column.cast(kind).cast(pa.string()).to_pylist()


def number_id(value: float | None) -> str | None:
    """A number as an id, whole ones without a point; None for NaN, which is pandas' null."""
    if value is None or value != value:
        return None
    return str(int(value)) if value.is_integer() else str(value)


def named(schema: pa.Schema) -> str:
    """The names of columns for a message, not all of very many or very long ones."""
    names = [_shown(name) for name in schema.names[:_NAMES]]
    more = len(schema.names) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _shown(name: str) -> str:
    text = " ".join(name.split())[:_NAME_CHARACTERS]
    return "".join(one if one.isprintable() else "?" for one in text)


def first_line(error: Exception) -> str:
    """The first line of an exception's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
