"""The manifest: every input exactly once, listed in one go and divided into units.

    <run>/manifest/<plan id>/part-000000.parquet   the columns of PLANNED, unit, and what the source adds
    <run>/manifest/manifest.json                   names the plan that won; put-if-absent, written last

A run that is started again reads the manifest and never lists its inputs a second time. A plan that was cut
off, or lost a race, leaves parts that nothing refers to. Inputs pass through as Arrow tables, a part at a
time, so that memory does not grow with their number.
"""

import base64
import hashlib
import io
import json
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from glied import storage
from glied.bulk import tables
from glied.errors import StorageError, UsageError

PLANNED = tables.schema(
    id=pa.string(),
    uri=pa.string(),
    file=pa.string(),
    offset=pa.int64(),
    size=pa.int64(),
    fault_kind=pa.string(),
    fault=pa.string(),
)
"""An input: `id` is unique in a run, `uri` names it for people.

Its bytes are the whole of `uri`; or, where `file` is set, the `size` bytes of that file from `offset` on (a
tar), or its row number `offset` (a Parquet file). `size` is null where it is not known. An input that could
already not be planned has a `fault`. Columns that pass through to the output begin with `INPUT`.
"""
INPUT = "input:"
PART_ROWS = 131_072
"""About how many rows a part holds; a part always holds whole units."""


@dataclass(frozen=True)
class Unit:
    """The images that are written and committed together; `table` is their part of the manifest."""

    index: int
    table: pa.Table

    @property
    def ids(self) -> list[str]:
        """The ids in order."""
        return tables.texts(self.table, "id")


@dataclass(frozen=True)
class Part:
    """One Parquet file of the manifest; units `first_unit` to `last_unit`, both included."""

    name: str
    rows: int
    first_unit: int
    last_unit: int


@dataclass(frozen=True)
class Manifest:
    """The plan of a run.

    Attributes:
        folder: URI of the manifest folder.
        plan: id of the plan, the folder of its parts.
        parts: its Parquet files in the order of the units.
        images: number of inputs.
        units: number of units.
        unit_size: images per unit; the last unit may hold fewer.
        skipped: number of files under the prefix that are no inputs.
        digest: SHA-256 over ids and URIs in order.
        columns: of the input, which pass through to the output.
        skipped_kinds: the skipped files by extension; manifests of earlier versions lack it.
    """

    folder: str
    plan: str
    parts: list[Part]
    images: int
    units: int
    unit_size: int
    skipped: int
    digest: str
    columns: pa.Schema
    skipped_kinds: dict[str, int] = field(default_factory=dict)

    def read_units(self, wanted: Collection[int]) -> Iterator[Unit]:
        """The wanted units in order; parts without a wanted unit are not read."""
        wanted = set(wanted)
        for part in self.parts:
            units = [unit for unit in range(part.first_unit, part.last_unit + 1) if unit in wanted]
            if not units:
                continue
            table = _read_part(storage.join(self.folder, self.plan, part.name))
            for unit in units:
                yield Unit(unit, table.slice((unit - part.first_unit) * self.unit_size, self.unit_size))

    def rows_of(self, unit: int) -> int:
        """How many images a unit has."""
        return min(self.unit_size, self.images - unit * self.unit_size)


def load(run_uri: str) -> Manifest | None:
    """The manifest of a run, or None where no plan was finished.

    Raises:
        UsageError: the manifest is there but not readable.
    """
    folder = storage.join(run_uri, "manifest")
    try:
        data = json.loads(storage.read_bytes(storage.join(folder, "manifest.json")))
        parts = [Part(**part) for part in data.pop("parts")]
        columns = _unpack_schema(data.pop("columns"))
        return Manifest(folder=folder, parts=parts, columns=columns, **data)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{folder}/manifest.json is not a manifest of this program: {error}") from error


def create(
    run_uri: str,
    batches: Iterable[pa.Table],
    unit_size: int,
    *,
    columns: pa.Schema | None = None,
    skipped: dict[str, int] | None = None,
) -> Manifest:
    """Write the inputs as a plan and return the plan that won, which may be another process's.

    Args:
        run_uri: the run folder.
        batches: tables of one schema, that of `PLANNED` and what the source adds.
        unit_size: images per unit.
        columns: of the input, which pass through to the output.
        skipped: files that are no inputs, by extension; read after `batches` is exhausted, so that a
            listing may fill it on the way.
    """
    folder = storage.join(run_uri, "manifest")
    plan = uuid.uuid4().hex[:12]
    parts: list[Part] = []
    digest = hashlib.sha256()
    images = units = 0
    for table in _rebatched(batches, unit_size * max(1, PART_ROWS // unit_size)):
        for name in ("id", "uri"):
            digest.update("\n".join(tables.texts(table, name)).encode(errors="surrogateescape"))
        last = units + (table.num_rows - 1) // unit_size
        part = Part(f"part-{len(parts):06d}.parquet", table.num_rows, units, last)
        numbers = pa.array(units + np.arange(table.num_rows) // unit_size, pa.int32())
        _write_part(storage.join(folder, plan, part.name), table.append_column("unit", numbers))
        parts.append(part)
        images, units = images + table.num_rows, last + 1
    columns = columns or pa.schema([])
    kinds = dict(skipped or {})
    count = sum(kinds.values())
    manifest = Manifest(
        folder, plan, parts, images, units, unit_size, count, digest.hexdigest(), columns, kinds
    )
    if storage.put_if_absent(storage.join(folder, "manifest.json"), _to_json(manifest)):
        return manifest
    winner = load(run_uri)
    if winner is None:
        raise StorageError(f"{folder}/manifest.json was refused, yet it cannot be read")
    for part in parts:
        storage.delete(storage.join(folder, plan, part.name))
    return winner


def planned(**values: Any) -> pa.Table:
    """A table of `PLANNED`; columns that are not given are null."""
    count = len(values["id"])
    return pa.table([values.get(name, [None] * count) for name in PLANNED.names], schema=PLANNED)


def _rebatched(batches: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows; the last may be shorter."""
    waiting: list[pa.Table] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.concat_tables(waiting)
            yield table.slice(0, rows).combine_chunks()
            count -= rows
            waiting = [table.slice(rows)]
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def _to_json(manifest: Manifest) -> bytes:
    record = {name: getattr(manifest, name) for name in ("plan", "images", "units", "unit_size", "skipped")}
    record |= {"skipped_kinds": manifest.skipped_kinds} if manifest.skipped_kinds else {}
    record |= {"digest": manifest.digest, "columns": _pack_schema(manifest.columns)}
    return json.dumps(record | {"parts": [asdict(part) for part in manifest.parts]}, indent=1).encode()


def _pack_schema(schema: pa.Schema) -> str:
    return base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()


def _unpack_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def _write_part(uri: str, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue())


def _read_part(uri: str) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(storage.read_bytes(uri))).drop_columns(["unit"])
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise StorageError(f"the manifest is damaged, {uri}: {error}") from error
