"""The manifest: every input exactly once, listed in one go and divided into units.

    <run>/manifest/<plan id>/part-000000.parquet   id, uri, size, unit
    <run>/manifest/manifest.json                   names the plan that won; put-if-absent, written last

A run that is started again reads the manifest and never lists its inputs a second time. A plan that was cut
off, or lost a race, leaves parts that nothing refers to.
"""

import hashlib
import io
import json
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glied import storage
from glied.bulk import tables
from glied.errors import StorageError, UsageError

SCHEMA = tables.schema(id=pa.string(), uri=pa.string(), size=pa.int64(), unit=pa.int32())
PART_ROWS = 131_072
"""About how many rows a part holds; a part always holds whole units."""


@dataclass(frozen=True)
class Entry:
    """One input image.

    Attributes:
        id: name below the input prefix, "/"-separated; unique in a run.
        uri: where its bytes are.
        size: encoded bytes, as listed.
    """

    id: str
    uri: str
    size: int


@dataclass(frozen=True)
class Unit:
    """The images that are written and committed together."""

    index: int
    entries: list[Entry]


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
        skipped: files under the prefix that are no inputs, by their extension.
        digest: SHA-256 over ids and URIs in order.
    """

    folder: str
    plan: str
    parts: list[Part]
    images: int
    units: int
    unit_size: int
    skipped: int
    digest: str

    def read_units(self, wanted: Collection[int]) -> Iterator[Unit]:
        """The wanted units in order; parts without a wanted unit are not read."""
        wanted = set(wanted)
        for part in self.parts:
            if wanted.isdisjoint(range(part.first_unit, part.last_unit + 1)):
                continue
            table = _read_part(storage.join(self.folder, self.plan, part.name))
            for start in range(0, part.rows, self.unit_size):
                rows = table.slice(start, self.unit_size).to_pylist()
                if rows[0]["unit"] in wanted:
                    yield Unit(rows[0]["unit"], [Entry(row["id"], row["uri"], row["size"]) for row in rows])


def load(run_uri: str) -> Manifest | None:
    """The manifest of a run, or None where no plan was finished.

    Raises:
        UsageError: the manifest is there but not readable.
    """
    folder = storage.join(run_uri, "manifest")
    try:
        data = json.loads(storage.read_bytes(storage.join(folder, "manifest.json")))
        parts = [Part(**part) for part in data.pop("parts")]
        return Manifest(folder=folder, parts=parts, **data)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{folder}/manifest.json is not a manifest of this program: {error}") from error


def create(run_uri: str, entries: Iterable[Entry], unit_size: int, skipped: dict[str, int]) -> Manifest:
    """Write the entries as a plan and return the plan that won, which may be another process's.

    `skipped` is read after `entries` is exhausted, so that a listing may fill it on the way.
    """
    folder = storage.join(run_uri, "manifest")
    plan = uuid.uuid4().hex[:12]
    parts: list[Part] = []
    digest = hashlib.sha256()
    images = units = 0
    iterator = iter(entries)
    part_rows = unit_size * max(1, PART_ROWS // unit_size)
    while batch := list(islice(iterator, part_rows)):
        for entry in batch:
            digest.update(f"{entry.id}\0{entry.uri}\n".encode(errors="surrogateescape"))
        last = units + (len(batch) - 1) // unit_size
        part = Part(f"part-{len(parts):06d}.parquet", len(batch), units, last)
        _write_part(storage.join(folder, plan, part.name), batch, units, unit_size)
        parts.append(part)
        images, units = images + len(batch), last + 1
    manifest = Manifest(
        folder, plan, parts, images, units, unit_size, sum(skipped.values()), digest.hexdigest()
    )
    record = {key: value for key, value in asdict(manifest).items() if key != "folder"}
    if storage.put_if_absent(storage.join(folder, "manifest.json"), json.dumps(record, indent=1).encode()):
        return manifest
    winner = load(run_uri)
    if winner is None:
        raise StorageError(f"{folder}/manifest.json was refused, yet it cannot be read")
    for part in parts:
        storage.delete(storage.join(folder, plan, part.name))
    return winner


def _write_part(uri: str, entries: list[Entry], first_unit: int, unit_size: int) -> None:
    columns: dict[str, list[Any]] = {
        "id": [entry.id for entry in entries],
        "uri": [entry.uri for entry in entries],
        "size": [entry.size for entry in entries],
        "unit": [first_unit + position // unit_size for position in range(len(entries))],
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue())


def _read_part(uri: str) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(storage.read_bytes(uri)))
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise StorageError(f"the manifest is damaged, {uri}: {error}") from error
