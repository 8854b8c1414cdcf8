"""Forms with one file per unit: JSON lines, WebDataset, Parquet."""

import base64
import io
import json
import math
import re
import tarfile
from collections.abc import Iterable, Iterator
from datetime import date, time, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glied import storage
from glied.bulk import arrow_tables
from glied.bulk.exports.config import ExportConfig, UnitReport
from glied.bulk.exports.markers import Markers
from glied.bulk.exports.unit_tables import read_table
from glied.bulk.parallel import in_order
from glied.bulk.row_schemas import OK
from glied.run_folder import CommittedUnit

EXTENSIONS = {"jsonl": ".jsonl", "webdataset": ".tar", "parquet": ".parquet"}
UNITS_IN_FLIGHT = 8
"""Units read and written at once; bounds memory."""
_KEY_ESCAPED = re.compile(r"[%.\\:\x00-\x1f\x7f]|^_(?=_)|^/|(?<=/)/|/$")


class UnitFiles:
    """Writes a file per unit."""

    def __init__(self, config: ExportConfig, markers: Markers) -> None:
        self.config = config
        self.markers = markers
        self.extension = EXTENSIONS[config.form]

    def pending(self, units: dict[int, CommittedUnit]) -> list[CommittedUnit]:
        """Units whose file or marker is missing or is that of an earlier generation."""
        names = {file.name for file in storage.list_files(self.config.out, recursive=False)}
        return [
            unit for unit in units.values() if not self.markers.is_done(unit) or self._name(unit) not in names
        ]

    def run(self, units: Iterable[CommittedUnit]) -> Iterator[UnitReport]:
        """Export units."""
        return in_order(self._export, units, UNITS_IN_FLIGHT)

    def _name(self, unit: CommittedUnit) -> str:
        return f"unit-{unit.unit:06d}{self.extension}"

    def _export(self, unit: CommittedUnit) -> UnitReport:
        table = read_table(unit, self.config.columns)
        encode = {"jsonl": encode_jsonl, "webdataset": encode_webdataset, "parquet": _encode_parquet}
        storage.write_bytes(storage.join(self.config.out, self._name(unit)), encode[self.config.form](table))
        captionless = 0
        if "status" in table.column_names:
            captionless = sum(status != OK for status in table["status"].to_pylist())
        return self.markers.mark(unit, UnitReport(written=table.num_rows, captionless=captionless))


def _encode_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def encode_jsonl(table: pa.Table) -> bytes:
    """Rows as JSON lines; `to_json` says what becomes of values that JSON does not have."""
    return "".join(to_json(row) + "\n" for row in arrow_tables.to_rows(table)).encode()


def encode_webdataset(table: pa.Table) -> bytes:
    """A tar with <key>.json (all columns) and, if there is a caption, <key>.txt for each row."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for row in arrow_tables.to_rows(table):
            members = {"json": to_json(row)}
            if row["status"] == OK:
                members["txt"] = row["caption"] or ""
            for extension, text in members.items():
                info = tarfile.TarInfo(f"{webdataset_key(row['id'])}.{extension}")
                data = text.encode()
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def webdataset_key(image_id: str) -> str:
    """The id with characters that a key must not have as %XX; two ids never have the same key.

    Readers split a name at its first dot, so dots are escaped; so is everything that makes a path absolute or
    leads out of a folder. webdataset skips names like __this__.
    """
    return _KEY_ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", image_id) or "%"


def to_json(row: dict[str, Any]) -> str:
    """A row as one line of ASCII JSON.

    Numbers that are not finite become null, bytes Base64, times ISO 8601, durations seconds, maps lists of
    pairs, and other values that JSON does not have text.
    """
    return json.dumps(_plain(row), allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else str(value)
