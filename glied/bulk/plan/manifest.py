"""The manifest: a list of all inputs, each exactly once, divided into units.

    <run>/manifest/<plan id>/part-000000.parquet   the columns of PLANNED, unit, and those of the source
    <run>/manifest/manifest.json                   names run and plan; conditional write, written last

A resumed run reads the manifest and never lists its inputs again. A plan that was interrupted, or lost a
race, leaves parts that nothing refers to. A manifest belongs to the run that it names: a job that plans while
another one overwrites its run does not plan for the new run. Inputs are processed as Arrow tables, one part
at a time, so memory does not grow with their number.
"""

import base64
import hashlib
import io
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from glied import run_folder, storage
from glied.bulk import arrow_tables
from glied.bulk.row_schemas import INPUT as INPUT
from glied.bulk.row_schemas import PLANNED as PLANNED
from glied.errors import JobError, StorageError, UsageError

PART_ROWS = 131_072
"""About how many rows a part has; a part always has whole units."""


@dataclass(frozen=True)
class Unit:
    """The images that are written and committed together; `table` is their part of the manifest."""

    index: int
    table: pa.Table

    @property
    def ids(self) -> list[str]:
        """The ids in order."""
        return arrow_tables.texts(self.table, "id")


@dataclass(frozen=True)
class Part:
    """One Parquet file of the manifest; units `first_unit` to `last_unit`, both included.

    `sha256` is the digest of the file, empty in manifests of older versions.
    """

    name: str
    rows: int
    first_unit: int
    last_unit: int
    sha256: str = ""


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
        skipped: number of files under the prefix that are not inputs.
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
            table = _read_part(storage.join(self.folder, self.plan, part.name), part.sha256)
            for unit in units:
                yield Unit(unit, table.slice((unit - part.first_unit) * self.unit_size, self.unit_size))

    def rows_of(self, unit: int) -> int:
        """How many images a unit has."""
        return min(self.unit_size, self.images - unit * self.unit_size)


def load(run_uri: str, run: str | None = None) -> Manifest | None:
    """The manifest of a run, or None if no plan was finished.

    Args:
        run_uri: the run folder.
        run: id of the run; by default the one that run.json names.

    Raises:
        UsageError: the manifest or run.json is damaged.
    """
    if run is None:
        record = run_folder.read_record(run_uri)
        run = None if record is None else record["run"]
    data = run_folder.read_manifest(run_uri, run)
    if data is None:
        return None
    folder = storage.join(run_uri, "manifest")
    try:
        parts = [Part(**part) for part in data.pop("parts")]
        columns = _unpack_schema(data.pop("columns"))
        manifest = Manifest(folder=folder, parts=parts, columns=columns, **data)
        _check(manifest)
        return manifest
    except (ValueError, TypeError, KeyError, AttributeError, OSError, pa.ArrowException) as error:
        raise UsageError(f"{folder}/manifest.json is damaged: {' '.join(str(error).split())}") from error


def _check(manifest: Manifest) -> None:
    """Raise `ValueError` if the numbers of a manifest contradict each other."""
    next_unit = 0
    for part in manifest.parts:
        units = -(-part.rows // manifest.unit_size)
        if (part.first_unit, part.last_unit) != (next_unit, next_unit + units - 1):
            raise ValueError(f"the units of {part.name} are not those after the part before it")
        next_unit = part.last_unit + 1
    if next_unit != manifest.units or sum(part.rows for part in manifest.parts) != manifest.images:
        raise ValueError("the number of images in its parts is another one")


def create(
    run_uri: str,
    batches: Iterable[pa.Table],
    unit_size: int,
    *,
    columns: pa.Schema | None = None,
    skipped: dict[str, int] | None = None,
    run: str | None = None,
    confirm: Callable[[], None] = lambda: None,
) -> Manifest:
    """Write the inputs as a plan and return the plan that won, which may be that of another process.

    Args:
        run_uri: the run folder.
        batches: tables of one schema, that of `PLANNED` and what the source adds.
        unit_size: images per unit.
        columns: of the input, which pass through to the output.
        skipped: files that are not inputs, by extension; read after `batches` is exhausted, so that a
            listing may fill it on the way.
        run: id of the run that the plan is for.
        confirm: called before the plan is published; raises `JobError` if the folder holds another run.
    """
    folder = storage.join(run_uri, "manifest")
    plan = uuid.uuid4().hex[:12]
    parts: list[Part] = []
    digest = hashlib.sha256()
    images = units = 0
    for table in _rebatched(batches, unit_size * max(1, PART_ROWS // unit_size)):
        for column in ("id", "uri"):
            digest.update("\n".join(arrow_tables.texts(table, column)).encode(errors="surrogateescape"))
        last = units + (table.num_rows - 1) // unit_size
        name = f"part-{len(parts):06d}.parquet"
        numbers = pa.array(units + np.arange(table.num_rows) // unit_size, pa.int32())
        sha256 = _write_part(storage.join(folder, plan, name), table.append_column("unit", numbers))
        parts.append(Part(name, table.num_rows, units, last, sha256))
        images, units = images + table.num_rows, last + 1
    columns = columns or pa.schema([])
    kinds = dict(skipped or {})
    count = sum(kinds.values())
    manifest = Manifest(
        folder, plan, parts, images, units, unit_size, count, digest.hexdigest(), columns, kinds
    )
    try:
        confirm()
        winner = _publish(run_uri, manifest, run)
    except JobError:
        _delete_parts(manifest)
        raise
    if winner.plan != plan:
        _delete_parts(manifest)
    return winner


def _publish(run_uri: str, manifest: Manifest, run: str | None) -> Manifest:
    """Make this the plan of its run, unless it has one; returns the plan of the run."""
    data = _to_json(manifest, run)
    # manifest.json may be that of a run that this one has overwritten; then another name is used.
    names = ["manifest.json", *([run_folder.manifest_name(run)] if run else [])]
    for name in names:
        if storage.put_if_absent(storage.join(manifest.folder, name), data):
            return manifest
        winner = load(run_uri, run)
        if winner is not None:
            return winner
    raise StorageError(f"{manifest.folder}/{names[-1]} was refused, yet it cannot be read")


def _delete_parts(manifest: Manifest) -> None:
    for part in manifest.parts:
        storage.delete(storage.join(manifest.folder, manifest.plan, part.name))


def planned(**values: Any) -> pa.Table:
    """A table of `PLANNED`; columns that are not given are null."""
    count = len(values["id"])
    return pa.table([values.get(name, [None] * count) for name in PLANNED.names], schema=PLANNED)


def _rebatched(batches: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows; the last one may be shorter."""
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


def _to_json(manifest: Manifest, run: str | None) -> bytes:
    names = ("plan", "images", "units", "unit_size", "skipped", "digest")
    record: dict[str, Any] = {"run": run} | {name: getattr(manifest, name) for name in names}
    record |= {"skipped_kinds": manifest.skipped_kinds} if manifest.skipped_kinds else {}
    record |= {"columns": _pack_schema(manifest.columns)}
    record |= {"parts": [asdict(part) for part in manifest.parts]}
    return run_folder.with_checksum(record)


def _pack_schema(schema: pa.Schema) -> str:
    return base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()


def _unpack_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def _write_part(uri: str, table: pa.Table) -> str:
    """Write a part; the digest of its file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _read_part(uri: str, sha256: str) -> pa.Table:
    try:
        data = storage.read_bytes(uri)
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise StorageError(
                f"{uri} of the manifest is damaged: it has another digest than manifest.json says"
            )
        return pq.read_table(pa.BufferReader(data)).drop_columns(["unit"])
    except (FileNotFoundError, OSError, KeyError, pa.ArrowException) as error:
        raise StorageError(f"{uri} of the manifest is damaged: {' '.join(str(error).split())}") from error
