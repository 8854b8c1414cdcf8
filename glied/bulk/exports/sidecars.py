"""Form txt: a text file per image, beside the images or anywhere else."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from glied import storage
from glied.bulk.exports.config import ExportConfig, UnitReport
from glied.bulk.exports.markers import Markers
from glied.bulk.exports.sidecar_names import SidecarNames, refusal
from glied.bulk.exports.unit_tables import CAPTION_COLUMNS, read_table
from glied.bulk.plan.manifest import Manifest
from glied.bulk.row_schemas import OK
from glied.run_folder import CommittedUnit

SIDECARS_IN_FLIGHT = 32


class Sidecars:
    """Writes the sidecar files of units."""

    def __init__(self, config: ExportConfig, plan: Manifest, markers: Markers) -> None:
        self.config = config
        self.plan = plan
        self.markers = markers
        self.where = config.row_filter

    def run(self, units: list[CommittedUnit]) -> Iterator[UnitReport]:
        """Export units, one after the other."""
        if not units:
            return
        flat = storage.is_local(self.config.out)
        names = SidecarNames((unit.ids for unit in self.plan.read_units(range(self.plan.units))), flat=flat)
        with ThreadPoolExecutor(SIDECARS_IN_FLIGHT) as pool:
            for unit in units:
                yield self._export(unit, names, pool)

    def _export(self, unit: CommittedUnit, names: SidecarNames, pool: ThreadPoolExecutor) -> UnitReport:
        named = self.where.columns if self.where else ()
        table = read_table(unit, list(dict.fromkeys([*CAPTION_COLUMNS, *named])))
        chosen = range(table.num_rows) if self.where is None else self.where.positions(table)
        rows = table.select(CAPTION_COLUMNS).to_pylist()
        files: list[tuple[str, bytes]] = []
        refusals = []
        for position in chosen:
            row = rows[position]
            if row["status"] != OK:
                continue
            name = names(row["id"], unit.unit * self.plan.unit_size + position)
            reason = refusal(row["id"], self.config.out)
            if reason or name is None:
                refusals.append(f"{row['id']!r}: {reason or 'another image has its file'}")
                continue
            files.append((storage.join(self.config.out, name), f"{row['caption'] or ''}\n".encode()))
        written = sum(pool.map(lambda file: self._write(*file), files))
        report = UnitReport(
            written=written,
            skipped=len(files) - written,
            captionless=sum(rows[position]["status"] != OK for position in chosen),
            refusals=refusals,
        )
        return self.markers.mark(unit, report)

    def _write(self, uri: str, data: bytes) -> bool:
        """Whether the file has this content now."""
        if self.config.existing == "skip":
            return storage.put_if_absent(uri, data)
        storage.write_bytes(uri, data)
        return True
