"""Exports the committed units of a caption run to other formats.

    <out>/unit-000012.csv|.jsonl|.tar|.parquet   csv, jsonl, webdataset, parquet: a file per unit
    <out>/_SUCCESS                               written when every unit of the run is exported
    <out>/<id with .txt for its extension>       txt: a sidecar file per image
    <out>/.export/<export>/unit-000012.g0.json   marker of an exported unit; written last, so that an
                                                 interrupted export continues
    <out>                                        coco: this one file; lance: this dataset

Only one process may export to a destination at a time. Except for sidecars, a destination holds one run.
"""

import json
import posixpath
import re
from collections.abc import Iterable
from dataclasses import replace

from glied import storage
from glied.bulk.exports.config import ExportConfig, ExportReport, UnitReport
from glied.bulk.exports.image_column import ImageColumn
from glied.bulk.exports.lance_dataset import export_lance
from glied.bulk.exports.markers import SUCCESS, Markers
from glied.bulk.exports.sidecars import Sidecars
from glied.bulk.exports.unit_files import UnitFiles
from glied.bulk.exports.unit_tables import CAPTION_COLUMNS, read_schema, read_table
from glied.bulk.parallel import in_order
from glied.bulk.plan.manifest import Manifest
from glied.bulk.row_schemas import OK
from glied.bulk.run.status import Run, committed_units, open_run
from glied.bulk.run.verification import IN_FLIGHT
from glied.errors import UsageError
from glied.run_folder import CommittedUnit

NAMED = 20
"""Most refused ids that a report names; it counts all."""
_COCO_NUMBER = re.compile(r"(?:.*_)?0*([0-9]{1,18})", re.DOTALL)


def export(config: ExportConfig) -> ExportReport:
    """Export the committed units of a run that were not exported before.

    Raises:
        UsageError: the run, its state, the columns or the destination are not suitable; nothing was written.
        JobError: a committed unit cannot be read.
        StorageError: storage failed; the same call continues.
    """
    run = open_run(config.run)
    plan = _exportable(config, run)
    units = committed_units(run)
    if len(units) < plan.units and not config.partial:
        raise UsageError(
            f"{run.uri}: {len(units)} of {plan.units} units are done; finish the run, or export these with "
            "--partial"
        )
    _check_columns(units, config)
    if config.form == "coco":
        return _export_coco(config, plan, units)
    if config.form == "lance":
        return export_lance(config, plan, units)
    images = ImageColumn(config.image_column, run.uri, plan) if config.image_column else None
    markers = Markers(config, plan)
    if config.form == "txt":
        return _export_sidecars(config, plan, markers, units)
    return _export_files(config, UnitFiles(config, markers, images), plan, units, run.uri)


def _exportable(config: ExportConfig, run: Run) -> Manifest:
    if run.results != "captions":
        raise UsageError(f"{run.uri} holds {run.results}, no captions: name a run of jobs/caption_dataset.py")
    if run.plan is None:
        raise UsageError(f"{run.uri}: its inputs are still being listed, no unit is done")
    inside = storage.path_below(config.out, run.uri)
    if inside is not None and inside.partition("/")[0] in (
        "",
        run.results,
        "commits",
        "attempts",
        "manifest",
    ):
        raise UsageError(f"out {config.out} is the run's own folder: choose another")
    return run.plan


def _export_files(
    config: ExportConfig, files: UnitFiles, plan: Manifest, units: dict[int, CommittedUnit], run_uri: str
) -> ExportReport:
    todo = files.pending(units)
    success = storage.join(config.out, SUCCESS)
    if todo:
        storage.delete(success)
    report = _sum(ExportReport(config, plan.units, earlier=len(units) - len(todo)), files.run(todo))
    if len(units) == plan.units and not report.refused:
        content = {"run": run_uri, "plan": plan.plan, "form": config.form, "units": plan.units}
        storage.write_bytes(success, json.dumps(content).encode())
    return report


def _export_sidecars(
    config: ExportConfig, plan: Manifest, markers: Markers, units: dict[int, CommittedUnit]
) -> ExportReport:
    sidecars = Sidecars(config, plan, markers)
    todo = [unit for unit in units.values() if not markers.is_done(unit)]
    report = _sum(ExportReport(config, plan.units, earlier=len(units) - len(todo)), sidecars.run(todo))
    refusals = markers.refusals(units)
    return replace(report, refused=len(refusals), refusals=refusals[:NAMED])


def _export_coco(config: ExportConfig, plan: Manifest, units: dict[int, CommittedUnit]) -> ExportReport:
    """Write one JSON list, all of it or nothing."""
    if config.out.endswith("/") or (storage.is_local(config.out) and storage.local_path(config.out).is_dir()):
        raise UsageError(f"out {config.out} is a folder: form coco writes one JSON file")
    owners: dict[int | str, str] = {}
    items: list[str] = []
    images = 0
    where = config.row_filter
    for table in in_order(lambda unit: read_table(unit, CAPTION_COLUMNS, where), units.values(), IN_FLIGHT):
        images += table.num_rows
        for row in table.to_pylist():
            if row["status"] != OK:
                continue
            image_id = coco_image_id(row["id"])
            if image_id in owners:
                raise UsageError(
                    f"{owners[image_id]} and {row['id']} have the same COCO image_id {image_id}; form jsonl "
                    "keeps the ids"
                )
            owners[image_id] = row["id"]
            items.append(json.dumps({"image_id": image_id, "caption": row["caption"] or ""}))
    data = ("[" + ",\n".join(items) + "]\n").encode()
    if config.existing == "overwrite":
        storage.write_bytes(config.out, data)
    elif not storage.put_if_absent(config.out, data):
        raise UsageError(f"out {config.out} exists and differs: --existing overwrite replaces it")
    count = len(items)
    return ExportReport(config, plan.units, units=len(units), written=count, captionless=images - count)


def coco_image_id(image_id: str) -> int | str:
    """The number that the file name is or, after an underscore, ends with; else the id itself."""
    match = _COCO_NUMBER.fullmatch(posixpath.splitext(posixpath.basename(image_id))[0])
    return int(match[1]) if match else image_id


def _sum(report: ExportReport, units: Iterable[UnitReport]) -> ExportReport:
    for done in units:
        report = replace(
            report,
            units=report.units + 1,
            written=report.written + done.written,
            skipped=report.skipped + done.skipped,
            captionless=report.captionless + done.captionless,
            refused=report.refused + len(done.refusals),
            refusals=[*report.refusals, *done.refusals][:NAMED],
        )
    return report


def _check_columns(units: dict[int, CommittedUnit], config: ExportConfig) -> None:
    """Refuse columns that the rows do not have, and conditions that do not fit them."""
    where = config.row_filter
    if not units or not (config.columns or where):
        return
    schema = read_schema(next(iter(units.values())))
    unknown = [name for name in config.columns or () if name not in schema.names]
    if unknown:
        raise UsageError(f"columns {', '.join(unknown)}: the rows have {', '.join(schema.names)}")
    if where is not None:
        where.check(schema)
