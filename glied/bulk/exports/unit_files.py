"""Forms with one file per unit: CSV, JSON lines, WebDataset, Parquet."""

import dataclasses
import io
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from glied import storage
from glied.bulk import arrow_tables
from glied.bulk.exports.config import ExportConfig, UnitReport
from glied.bulk.exports.csv_rows import encode_csv
from glied.bulk.exports.image_column import NEEDED, ROW_GROUP, ImageColumn
from glied.bulk.exports.json_rows import to_json
from glied.bulk.exports.markers import Markers
from glied.bulk.exports.unit_tables import captionless, read_table
from glied.bulk.parallel import in_order
from glied.bulk.row_schemas import OK
from glied.run_folder import CommittedUnit

EXTENSIONS = {"csv": ".csv", "jsonl": ".jsonl", "webdataset": ".tar", "parquet": ".parquet"}
UNITS_IN_FLIGHT = 8
"""Units read and written at once; bounds memory. With images it is one, whose files are read in parallel."""
_KEY_ESCAPED = re.compile(r"[%.\\:\x00-\x1f\x7f]|^_(?=_)|^/|(?<=/)/|/$")


class UnitFiles:
    """Writes a file per unit."""

    def __init__(self, config: ExportConfig, markers: Markers, images: ImageColumn | None = None) -> None:
        self.config = config
        self.markers = markers
        self.images = images
        self.extension = EXTENSIONS[config.form]

    def pending(self, units: dict[int, CommittedUnit]) -> list[CommittedUnit]:
        """Units whose file or marker is missing or is that of an earlier generation."""
        names = {file.name for file in storage.list_files(self.config.out, recursive=False)}
        return [
            unit for unit in units.values() if not self.markers.is_done(unit) or self._name(unit) not in names
        ]

    def run(self, units: Iterable[CommittedUnit]) -> Iterator[UnitReport]:
        """Export units."""
        return in_order(self._export, units, UNITS_IN_FLIGHT if self.images is None else 1)

    def _name(self, unit: CommittedUnit) -> str:
        return f"unit-{unit.unit:06d}{self.extension}"

    def _export(self, unit: CommittedUnit) -> UnitReport:
        if self.images is not None:
            return self._export_with_images(unit, self.images)
        table = read_table(unit, self.config.columns, self.config.row_filter)
        encode: dict[str, Callable[[pa.Table], bytes]] = {
            "csv": encode_csv,
            "jsonl": encode_jsonl,
            "webdataset": encode_webdataset,
            "parquet": _encode_parquet,
        }
        return self._write(unit, encode[self.config.form](table), _report(table))

    def _export_with_images(self, unit: CommittedUnit, images: ImageColumn) -> UnitReport:
        columns = self.config.columns and [*dict.fromkeys((*self.config.columns, *NEEDED))]
        table, missing = images.added(unit, read_table(unit, columns, self.config.row_filter))
        report = dataclasses.replace(_report(table), refusals=missing)
        if self.config.columns:
            table = table.select([*self.config.columns, images.name])
        data = _encode_parquet(images.described(table), row_group_size=ROW_GROUP)
        return self._write(unit, data, report)

    def _write(self, unit: CommittedUnit, data: bytes, report: UnitReport) -> UnitReport:
        """Write a unit's file; the next call writes it again where images are missing now."""
        storage.write_bytes(storage.join(self.config.out, self._name(unit)), data)
        return report if report.refusals else self.markers.mark(unit, report)


def _report(table: pa.Table) -> UnitReport:
    return UnitReport(written=table.num_rows, captionless=captionless(table))


def _encode_parquet(table: pa.Table, row_group_size: int | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
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
