"""Which units were exported: markers at the destination."""

import hashlib
import json
import re
from collections.abc import Iterable

from glied import storage
from glied.bulk.exports.config import ExportConfig, UnitReport
from glied.bulk.exports.unit_tables import write
from glied.bulk.parallel import in_order
from glied.bulk.plan.manifest import Manifest
from glied.bulk.run.verification import IN_FLIGHT
from glied.errors import JobError, StorageError, UsageError
from glied.run_folder import CommittedUnit

SUCCESS = "_SUCCESS"
STATE = ".export"
"""Folder of the markers."""
_MARKER = re.compile(r"unit-(\d{6,})\.g(\d+)\.json")
_UNIT_FILE = re.compile(r"unit-(\d{6,})\.(?:jsonl|tar|parquet)")


class Book:
    """Which units were exported: the markers of this export, and those of others in its destination.

    An export is named by its form, what may differ in its files, and the plan of its run; its markers are in
    a folder of that name.
    """

    def __init__(self, config: ExportConfig, plan: Manifest) -> None:
        self.config = config
        self.plan = plan
        self.folder = storage.join(config.out, STATE)
        variant = _digest(config.columns) if config.columns else "all"
        if config.form == "txt":
            variant = config.existing
        self.name = f"{config.form}-{variant}-{plan.plan}"
        self.exported: dict[int, int] = {}

    def open(self) -> None:
        """Read the markers; make sure of the destination.

        Raises:
            UsageError: it cannot be written, or holds the export of another run, form or choice of columns.
        """
        try:
            others = self._others()
            if others and self.config.form != "txt" and self.config.existing != "overwrite":
                raise UsageError(
                    f"out {self.config.out} holds another export ({min(others)}): choose another out, or "
                    "--existing overwrite to replace it"
                )
            self._clear(others)
            content = {"run": self.config.run, "form": self.config.form, "plan": self.plan.plan}
            write(storage.join(self.folder, self.name, "export.json"), json.dumps(content).encode())
        except StorageError as error:
            raise UsageError(f"out {self.config.out} is not usable: {error}") from error

    def _others(self) -> dict[str, list[str]]:
        """Reads the markers; the files of other exports that this one cannot leave in place, by export."""
        others: dict[str, list[str]] = {}
        for file in storage.list_files(self.folder):
            export, _, name = file.name.partition("/")
            if export == self.name:
                self._note(name)
            elif self._conflicts(export):
                others.setdefault(export, []).append(file.uri)
        return others

    def _note(self, name: str) -> None:
        if match := _MARKER.fullmatch(name):
            unit, generation = int(match[1]), int(match[2])
            self.exported[unit] = max(generation, self.exported.get(unit, 0))

    def _conflicts(self, export: str) -> bool:
        """Unit files do not mix; sidecars do, but a marker must not outlive what another export replaced."""
        if self.config.form != "txt":
            return not export.startswith("txt-")
        kept = export.startswith("txt-append-") and self.config.existing != "overwrite"
        return export.startswith("txt-") and not kept

    def _clear(self, others: dict[str, list[str]]) -> None:
        if not others:
            return
        if self.config.form != "txt":
            storage.delete(storage.join(self.config.out, SUCCESS))
            for file in list(storage.list_files(self.config.out, recursive=False)):
                if _UNIT_FILE.fullmatch(file.name):
                    storage.delete(file.uri)
        for uri in (uri for uris in others.values() for uri in uris):
            storage.delete(uri)

    def is_done(self, unit: CommittedUnit) -> bool:
        """Whether this generation of the unit, or a later one, was exported."""
        return self.exported.get(unit.unit, -1) >= unit.generation

    def uri(self, unit: int, generation: int, kind: str = "json") -> str:
        """Where the marker of a unit is; another kind than json counts for nothing."""
        return storage.join(self.folder, self.name, f"unit-{unit:06d}.g{generation}.{kind}")

    def mark(self, unit: CommittedUnit, done: UnitReport) -> UnitReport:
        """Write the marker of a unit whose files are all there."""
        write(self.uri(unit.unit, unit.generation), json.dumps(done.__dict__).encode())
        self.exported[unit.unit] = unit.generation
        return done

    def read(self, unit: int) -> UnitReport:
        """The marker of a unit, of the highest generation exported."""
        if unit not in self.exported:
            return UnitReport()
        uri = self.uri(unit, self.exported[unit])
        try:
            return UnitReport(**json.loads(storage.read_bytes(uri)))
        except (ValueError, TypeError) as error:
            raise JobError(f"{uri} is not of this program: {error}") from error

    def refusals(self, units: Iterable[int]) -> list[str]:
        """All refusals of the export, by this call and by earlier ones."""
        return [line for unit in in_order(self.read, units, IN_FLIGHT) for line in unit.refusals]


def _digest(names: list[str]) -> str:
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]
