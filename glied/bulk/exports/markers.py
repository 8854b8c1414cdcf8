"""Which units were exported: a marker file per unit at the destination."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable

from glied import storage
from glied.bulk.exports.config import ExportConfig, UnitReport
from glied.bulk.parallel import in_order
from glied.bulk.plan.manifest import Manifest
from glied.bulk.run.verification import IN_FLIGHT
from glied.errors import JobError, StorageError, UsageError
from glied.run_folder import CommittedUnit

SUCCESS = "_SUCCESS"
STATE = ".export"
"""Folder of the markers."""
_MARKER = re.compile(r"unit-(\d{6,})\.g(\d+)\.json")
_UNIT_FILE = re.compile(r"unit-(\d{6,})\.(?:csv|jsonl|tar|parquet)")
_REPORT_FIELDS = {field.name for field in dataclasses.fields(UnitReport)}


class Markers:
    """The markers of an export, and those that other exports left at its destination.

    An export is named by its form, the options that change its files, and the plan of its run; its markers
    are in a folder of that name.
    """

    def __init__(self, config: ExportConfig, plan: Manifest) -> None:
        """Read the markers and prepare the destination.

        Raises:
            UsageError: it cannot be written to, or holds the export of another run, form or set of columns.
        """
        self.config = config
        self.folder = storage.join(config.out, STATE)
        columns = [*(config.columns or ())]
        if config.image_column:
            columns.append(f"image:{config.image_column}")
        variant = _digest(columns) if columns else "all"
        if config.form == "txt":
            variant = config.existing
        if config.where:
            variant += f"-where-{_digest([config.where])}"
        self.name = f"{config.form}-{variant}-{plan.plan}"
        self.exported: dict[int, int] = {}
        content = {"run": config.run, "form": config.form, "plan": plan.plan}
        try:
            self._replace(self._read())
            storage.write_bytes(
                storage.join(self.folder, self.name, "export.json"), json.dumps(content).encode()
            )
        except StorageError as error:
            raise UsageError(f"out {config.out} is not usable: {error}") from error

    def _read(self) -> dict[str, list[str]]:
        """Read which units were exported; returns the markers of exports that conflict, by export."""
        others: dict[str, list[str]] = {}
        for file in storage.list_files(self.folder):
            export, _, name = file.name.partition("/")
            if export != self.name:
                # Sidecars of several exports may share a folder, but replaced ones must not count as done.
                if export.startswith("txt-") == (self.config.form == "txt"):
                    others.setdefault(export, []).append(file.uri)
            elif match := _MARKER.fullmatch(name):
                unit, generation = int(match[1]), int(match[2])
                self.exported[unit] = max(generation, self.exported.get(unit, 0))
        return others

    def _replace(self, others: dict[str, list[str]]) -> None:
        """Delete the unit files and markers of other exports, if that is asked for."""
        if not others:
            return
        if self.config.form != "txt":
            if self.config.existing != "overwrite":
                raise UsageError(
                    f"out {self.config.out} holds another export ({min(others)}): choose another out, or "
                    "--existing overwrite to replace it"
                )
            storage.delete(storage.join(self.config.out, SUCCESS))
            for file in list(storage.list_files(self.config.out, recursive=False)):
                if _UNIT_FILE.fullmatch(file.name):
                    storage.delete(file.uri)
        for uri in (uri for uris in others.values() for uri in uris):
            storage.delete(uri)

    def is_done(self, unit: CommittedUnit) -> bool:
        """Whether this generation of the unit, or a later one, was exported."""
        return self.exported.get(unit.unit, -1) >= unit.generation

    def mark(self, unit: CommittedUnit, report: UnitReport) -> UnitReport:
        """Write the marker of a unit whose files are all written."""
        storage.write_bytes(
            self._uri(unit.unit, unit.generation), json.dumps(dataclasses.asdict(report)).encode()
        )
        self.exported[unit.unit] = unit.generation
        return report

    def _uri(self, unit: int, generation: int) -> str:
        return storage.join(self.folder, self.name, f"unit-{unit:06d}.g{generation}.json")

    def _read_report(self, unit: int) -> UnitReport:
        if unit not in self.exported:
            return UnitReport()
        uri = self._uri(unit, self.exported[unit])
        try:
            content = json.loads(storage.read_bytes(uri))
            # Markers of version 0.1 have further keys.
            return UnitReport(**{name: content[name] for name in _REPORT_FIELDS & content.keys()})
        except (ValueError, TypeError, AttributeError) as error:
            raise JobError(f"{uri} is damaged: {error}; delete it, and its unit is exported again") from error

    def refusals(self, units: Iterable[int]) -> list[str]:
        """All ids refused by this call and by earlier ones, with the reasons."""
        return [line for unit in in_order(self._read_report, units, IN_FLIGHT) for line in unit.refusals]


def _digest(names: list[str]) -> str:
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]
