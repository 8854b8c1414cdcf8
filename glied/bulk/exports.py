"""The committed units of a caption run in other forms, at a destination of their own.

    <out>/unit-000012.jsonl|.tar|.parquet        jsonl, webdataset, parquet: a file per unit
    <out>/_SUCCESS                               written when every unit of the run is there
    <out>/<id with .txt for its extension>       txt: a sidecar per image
    <out>/.export/<export>/unit-000012.g0.json   what was exported; written last, so that an export that was
                                                 cut off goes on
    <out>                                        coco: this one file

A destination has one exporter at a time. Two runs never mix in one destination, sidecars excepted.
"""

import base64
import hashlib
import io
import json
import math
import posixpath
import re
import tarfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, time, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from glied import storage
from glied.bulk.manifest import Manifest
from glied.bulk.sinks import OK
from glied.bulk.status import CommittedUnit, Run, committed_units, in_order, open_run, reader
from glied.errors import JobError, StorageError, UsageError

STATE = ".export"
SUCCESS = "_SUCCESS"
CAPTION_COLUMNS = ["id", "caption", "status"]
EXTENSIONS = {"jsonl": ".jsonl", "webdataset": ".tar", "parquet": ".parquet"}
UNITS_IN_FLIGHT = 8
"""Units read and written at once; bounds memory."""
SIDECARS_IN_FLIGHT = 32
NAME_BYTES = 236
"""Most bytes of a name in an id: 255, less .txt and what the name of a temporary file adds."""
NAMED = 20
"""Refused ids that a report names before it only counts them."""

_MARKER = re.compile(r"unit-(\d{6,})\.g(\d+)\.json")
_UNIT_FILE = re.compile(r"unit-(\d{6,})\.(?:jsonl|tar|parquet)")
_COCO_NUMBER = re.compile(r"(?:.*_)?0*([0-9]{1,18})", re.DOTALL)
_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]+:/(/?)")
_KEY_ESCAPED = re.compile(r"[%.\\:\x00-\x1f\x7f]|^_(?=_)|^/|(?<=/)/|/$")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, as what, and where to."""

    run: str
    """Run folder of jobs/caption_dataset.py."""
    out: str
    """Folder to write to; with form coco the JSON file."""
    form: Literal["parquet", "jsonl", "webdataset", "txt", "coco"]
    """parquet, jsonl and webdataset are a file per unit, txt a sidecar per image, coco one JSON list."""
    existing: Literal["skip", "append", "overwrite"] = "skip"
    """What happens to a sidecar that is there already: skip leaves it, append adds a line, overwrite replaces
    it. With the other forms overwrite replaces an export of another run; append is refused."""
    partial: bool = False
    """Export what a run has that is not finished; a bare --partial means true."""
    columns: list[str] | None = None
    """Columns of form parquet, in this order; all of them by default."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if not self.run or not self.out:
            raise UsageError("run and out must not be empty")
        if self.existing == "append" and self.form != "txt":
            raise UsageError(f"existing append is for form txt; form {self.form} takes skip or overwrite")
        if self.columns is not None and self.form != "parquet":
            raise UsageError(f"columns is for form parquet, not for {self.form}")
        if self.columns is not None and (not self.columns or len(set(self.columns)) < len(self.columns)):
            raise UsageError(f"columns {self.columns}: name at least one, and none twice")


@dataclass(frozen=True)
class Report:
    """What an export did.

    Attributes:
        config: of the export.
        planned, units, earlier: units of the run, those exported now, those exported by an earlier call.
        written: rows (jsonl, webdataset, parquet), sidecars (txt) or captions (coco) written now.
        skipped: sidecars that were there already and stayed.
        captionless: images exported now that have no caption to write; they are not ok.
        refused: ids with a caption for which there is no safe file name, over the whole export.
        refusals: the first of them with the reason.
    """

    config: ExportConfig
    planned: int
    units: int = 0
    earlier: int = 0
    written: int = 0
    skipped: int = 0
    captionless: int = 0
    refused: int = 0
    refusals: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a person."""
        lines = [f"refused {refusal}" for refusal in self.refusals]
        if self.refused > len(self.refusals):
            lines.append(f"refused {self.refused - len(self.refusals)} more ids")
        noun = {"txt": "sidecars", "coco": "captions"}.get(self.config.form, "rows")
        lines.append(
            f"{self.config.form} at {self.config.out}: {self.units + self.earlier} of {self.planned} units, "
            f"{self.earlier} of them from before; {self.written} {noun} written, {self.skipped} skipped, "
            f"{self.refused} refused, {self.captionless} images without a caption"
        )
        return lines


@dataclass(frozen=True)
class _Unit:
    """What became of one unit; the content of its marker.

    Attributes:
        rows: txt: positions in the unit whose sidecar holds its caption by this export.
        written, skipped, captionless, refusals: as in `Report`.
    """

    written: int = 0
    skipped: int = 0
    captionless: int = 0
    rows: list[int] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


def export(config: ExportConfig) -> Report:
    """Export the committed units of a run that were not exported yet.

    Raises:
        UsageError: the run, its state, the columns or the destination do not fit; nothing was written.
        JobError: a committed unit is not readable.
        StorageError: storage failed; the same call goes on.
    """
    run = open_run(config.run)
    plan = _exportable(config, run)
    units = committed_units(run)
    if len(units) < plan.units and not config.partial:
        raise UsageError(
            f"{run.uri}: {len(units)} of {plan.units} units are done; finish the run, or export what is "
            "there with --partial"
        )
    if config.form == "coco":
        return _export_coco(config, plan, run, units)
    if config.columns:
        _check_columns(run, units, config.columns)
    book = _Book(config, plan)
    book.open()
    export_units = _export_sidecars if config.form == "txt" else _export_files
    return export_units(config, plan, run, book, units)


def _exportable(config: ExportConfig, run: Run) -> Manifest:
    if run.results != "captions":
        raise UsageError(f"{run.uri} holds {run.results}, no captions: name a run of jobs/caption_dataset.py")
    if run.plan is None:
        raise UsageError(f"{run.uri}: its inputs are still being listed, no unit is done")
    base, out = _absolute(run.uri), _absolute(config.out)
    own = (run.results, "commits", "attempts", "manifest")
    if out == base or any(f"{out}/".startswith(f"{base}/{folder}/") for folder in own):
        raise UsageError(f"out {config.out} is the run's own folder: choose another")
    return run.plan


def _export_files(
    config: ExportConfig, plan: Manifest, run: Run, book: "_Book", units: dict[int, CommittedUnit]
) -> Report:
    files = _UnitFiles(config, run, book)
    todo = files.pending(units)
    success = storage.join(config.out, SUCCESS)
    if todo:
        storage.delete(success)
    report = _sum(Report(config, plan.units, earlier=len(units) - len(todo)), files.run(todo))
    if len(units) == plan.units:
        content = {"run": run.uri, "plan": plan.plan, "form": config.form, "units": plan.units}
        _write(success, json.dumps(content).encode())
    return report


def _export_sidecars(
    config: ExportConfig, plan: Manifest, run: Run, book: "_Book", units: dict[int, CommittedUnit]
) -> Report:
    sidecars = _Sidecars(config, plan, run, book)
    todo = [unit for unit in units.values() if not book.is_done(unit)]
    report = _sum(Report(config, plan.units, earlier=len(units) - len(todo)), sidecars.run(todo))
    refusals = book.refusals(units)
    return replace(report, refused=len(refusals), refusals=refusals[:NAMED])


def _export_coco(config: ExportConfig, plan: Manifest, run: Run, units: dict[int, CommittedUnit]) -> Report:
    """One JSON list, whole or not at all."""
    if config.out.endswith("/") or (storage.is_local(config.out) and storage.local_path(config.out).is_dir()):
        raise UsageError(f"out {config.out} is a folder: form coco writes one JSON file")
    read = reader(run.uri)
    owners: dict[int | str, str] = {}
    items: list[str] = []
    images = 0
    for table in in_order(lambda unit: _table(read, unit, CAPTION_COLUMNS), units.values()):
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
        _write(config.out, data)
    elif not _put(config.out, data):
        raise UsageError(f"out {config.out} is there and differs: --existing overwrite replaces it")
    count = len(items)
    return Report(config, plan.units, units=len(units), written=count, captionless=images - count)


def coco_image_id(image_id: str) -> int | str:
    """The number that the file name is, or ends in after an underscore; else the id itself."""
    match = _COCO_NUMBER.fullmatch(posixpath.splitext(posixpath.basename(image_id))[0])
    return int(match[1]) if match else image_id


def _sum(report: Report, units: "Iterable[_Unit]") -> Report:
    for done in units:
        report = replace(
            report,
            units=report.units + 1,
            written=report.written + done.written,
            skipped=report.skipped + done.skipped,
            captionless=report.captionless + done.captionless,
        )
    return report


def _absolute(uri: str) -> str:
    return str(storage.local_path(uri).resolve()) if storage.is_local(uri) else uri.rstrip("/")


def _check_columns(run: Run, units: dict[int, CommittedUnit], columns: list[str]) -> None:
    for unit in units.values():
        known = pq.read_schema(io.BytesIO(_read(reader(run.uri), unit))).names
        unknown = [name for name in columns if name not in known]
        if unknown:
            raise UsageError(f"columns {', '.join(unknown)}: the rows have {', '.join(known)}")
        return


def _read(read: Callable[[str], bytes], unit: CommittedUnit) -> bytes:
    try:
        return read(unit.output)
    except FileNotFoundError as error:
        raise JobError(
            f"unit {unit.unit} is committed, but {unit.output} is missing; jobs/status.py --verify tells more"
        ) from error


def _table(read: Callable[[str], bytes], unit: CommittedUnit, columns: list[str] | None = None) -> pa.Table:
    try:
        table = pq.read_table(io.BytesIO(_read(read, unit)), columns=columns)
    except pa.ArrowException as error:
        raise JobError(f"{unit.output} cannot be read as Parquet: {error}") from error
    return table.select(columns) if columns else table


def _write(uri: str, data: bytes) -> None:
    try:
        storage.write_bytes(uri, data)
    except OSError as error:  # a folder stands there
        raise StorageError(f"cannot write {uri}: {error}") from error


def _put(uri: str, data: bytes) -> bool:
    try:
        return storage.put_if_absent(uri, data)
    except OSError as error:
        raise StorageError(f"cannot write {uri}: {error}") from error


class _Book:
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
        self._reader = reader(config.out)

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
            _write(storage.join(self.folder, self.name, "export.json"), json.dumps(content).encode())
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

    def mark(self, unit: CommittedUnit, done: _Unit) -> _Unit:
        """Write the marker of a unit whose files are all there."""
        _write(self.uri(unit.unit, unit.generation), json.dumps(done.__dict__).encode())
        self.exported[unit.unit] = unit.generation
        return done

    def read(self, unit: int) -> _Unit:
        """The marker of a unit, of the highest generation exported."""
        if unit not in self.exported:
            return _Unit()
        uri = self.uri(unit, self.exported[unit])
        try:
            return _Unit(**json.loads(self._reader(uri)))
        except (ValueError, TypeError) as error:
            raise JobError(f"{uri} is not of this program: {error}") from error

    def refusals(self, units: Iterable[int]) -> list[str]:
        """All refusals of the export, by this call and by earlier ones."""
        return [line for unit in in_order(self.read, units) for line in unit.refusals]


def _digest(names: list[str]) -> str:
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]


class _UnitFiles:
    """Forms with a file per unit."""

    def __init__(self, config: ExportConfig, run: Run, book: _Book) -> None:
        self.config = config
        self.book = book
        self.read = reader(run.uri)
        self.extension = EXTENSIONS[config.form]

    def pending(self, units: dict[int, CommittedUnit]) -> list[CommittedUnit]:
        """Units whose file or marker is missing, or of an earlier generation."""
        there = {file.name for file in storage.list_files(self.config.out, recursive=False)}
        return [
            unit for unit in units.values() if not self.book.is_done(unit) or self._name(unit) not in there
        ]

    def run(self, units: Iterable[CommittedUnit]) -> Iterator[_Unit]:
        """Export them."""
        return in_order(self._export, units, UNITS_IN_FLIGHT)

    def _name(self, unit: CommittedUnit) -> str:
        return f"unit-{unit.unit:06d}{self.extension}"

    def _export(self, unit: CommittedUnit) -> _Unit:
        table = _table(self.read, unit, self.config.columns)
        encode = {"jsonl": encode_jsonl, "webdataset": encode_webdataset, "parquet": _encode_parquet}
        _write(storage.join(self.config.out, self._name(unit)), encode[self.config.form](table))
        captionless = 0
        if "status" in table.column_names:
            captionless = sum(status != OK for status in table["status"].to_pylist())
        return self.book.mark(unit, _Unit(written=table.num_rows, captionless=captionless))


def _encode_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def encode_jsonl(table: pa.Table) -> bytes:
    """Rows as JSON, a line each; values that JSON lacks as `to_json` says."""
    return "".join(to_json(row) + "\n" for row in table.to_pylist()).encode()


def encode_webdataset(table: pa.Table) -> bytes:
    """A tar with <key>.json, all columns, and <key>.txt, the caption where there is one."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for row in table.to_pylist():
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
    """The id with %XX for whatever a key must not hold; two ids never have the same key.

    Readers cut a name at its first dot, so that no dot stays; neither does what makes a path absolute or
    leads out of a folder. webdataset skips names like __this__.
    """
    return _KEY_ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", image_id) or "%"


def to_json(row: dict[str, Any]) -> str:
    """A row as JSON in one line of ASCII.

    Numbers that are not finite become null, bytes Base64, times ISO 8601, durations seconds, maps lists of
    pairs, and what else JSON lacks text.
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


class _Sidecars:
    """Form txt: a file per image."""

    def __init__(self, config: ExportConfig, plan: Manifest, run: Run, book: _Book) -> None:
        self.config = config
        self.plan = plan
        self.book = book
        self.read = reader(run.uri)
        self.read_sidecar = reader(config.out)

    def run(self, units: list[CommittedUnit]) -> Iterator[_Unit]:
        """Export them, one after the other."""
        if not units:
            return
        names = SidecarNames(unit.ids for unit in self.plan.read_units(range(self.plan.units)))
        with ThreadPoolExecutor(SIDECARS_IN_FLIGHT) as pool:
            for unit in units:
                yield self._export(unit, names, pool)

    def _export(self, unit: CommittedUnit, names: "SidecarNames", pool: ThreadPoolExecutor) -> _Unit:
        rows = _table(self.read, unit, CAPTION_COLUMNS).to_pylist()
        lines: dict[int, tuple[str, bytes]] = {}
        refusals = []
        for position, row in enumerate(rows):
            if row["status"] != OK:
                continue
            if reason := refusal(row["id"]):
                refusals.append(f"{row['id']!r}: {reason}")
                continue
            # A path with :// in it would pass for a URI; ids with :/ are refused.
            name = names(row["id"], unit.unit * self.plan.unit_size + position).replace("://", ":/")
            lines[position] = storage.join(self.config.out, name), f"{row['caption'] or ''}\n".encode()
        # Rows that an earlier generation had are copied into this one: they must not be appended again.
        earlier = set(self.book.read(unit.unit).rows) if self.config.existing == "append" else set()
        todo = {position: line for position, line in lines.items() if position not in earlier}
        written = self._write(unit, todo, pool)
        done = _Unit(
            written=len(written),
            skipped=len(todo) - len(written),
            captionless=sum(row["status"] != OK for row in rows),
            rows=sorted(earlier | written),
            refusals=refusals,
        )
        self.book.mark(unit, done)
        if self.config.existing == "append":
            storage.delete(self._begun_uri(unit))
        return done

    def _write(
        self, unit: CommittedUnit, todo: dict[int, tuple[str, bytes]], pool: ThreadPoolExecutor
    ) -> set[int]:
        """Write lines (URI, content) by position; the positions whose line stands in its file now."""
        if self.config.existing == "skip":
            results = pool.map(lambda line: _put(*line), todo.values())
            return {position for position, stands in zip(todo, results, strict=True) if stands}
        files = self._appended(unit, todo, pool) if self.config.existing == "append" else todo
        list(pool.map(lambda file: _write(*file), files.values()))
        return set(todo)

    def _appended(
        self, unit: CommittedUnit, todo: dict[int, tuple[str, bytes]], pool: ThreadPoolExecutor
    ) -> dict[int, tuple[str, bytes]]:
        """The files with their line at the end, without those that an attempt cut off before has written.

        What that attempt found is on record: a file that has grown since holds its line.
        """
        contents = dict(zip(todo, pool.map(lambda line: self._content(line[0]), todo.values()), strict=True))
        sizes = self._sizes_before(unit, {position: len(content) for position, content in contents.items()})
        return {
            position: (uri, _with_newline(contents[position]) + line)
            for position, (uri, line) in todo.items()
            if len(contents[position]) == sizes[position]
        }

    def _sizes_before(self, unit: CommittedUnit, sizes: dict[int, int]) -> dict[int, int]:
        uri = self._begun_uri(unit)
        try:
            return {int(position): size for position, size in json.loads(self.read_sidecar(uri)).items()}
        except FileNotFoundError:
            _write(uri, json.dumps(sizes).encode())
            return sizes

    def _begun_uri(self, unit: CommittedUnit) -> str:
        return self.book.uri(unit.unit, unit.generation, "begun")

    def _content(self, uri: str) -> bytes:
        try:
            return self.read_sidecar(uri)
        except FileNotFoundError:
            return b""


def _with_newline(content: bytes) -> bytes:
    return content if not content or content.endswith(b"\n") else content + b"\n"


class SidecarNames:
    """Names of sidecars, one for each id of a run.

    An id's extension becomes .txt. Where an earlier id has that name already, or the name could be another
    id's that keeps its extension, the id keeps it too: a.jpg has a.txt, a.png has a.png.txt. Names depend on
    the manifest alone, not on what was exported before. 16 bytes an id while they are compared, 64-bit
    digests: two that are equal by chance cost a plainer name and nothing else.
    """

    def __init__(self, ids: Iterable[list[str]]) -> None:
        """Compare the ids of a manifest, given in its order."""
        own, stems = array("Q"), array("Q")
        for batch in ids:
            own.extend(_digest_64(image_id) for image_id in batch)
            stems.extend(_digest_64(_stem(image_id)) for image_id in batch)
        own_array, stem_array = np.frombuffer(own, np.uint64), np.frombuffer(stems, np.uint64)
        unique, first, count = np.unique(stem_array, return_index=True, return_counts=True)
        again = count > 1
        self._first = dict(zip(unique[again].tolist(), first[again].tolist(), strict=True))
        self._ids = set(np.intersect1d(stem_array[stem_array != own_array], own_array).tolist())

    def __call__(self, image_id: str, position: int) -> str:
        """The name for an id at a position of the manifest."""
        stem = _stem(image_id)
        digest = _digest_64(stem)
        taken = self._first.get(digest, position) != position or digest in self._ids
        return f"{image_id}.txt" if taken or image_id == f"{stem}.txt" else f"{stem}.txt"


def _stem(image_id: str) -> str:
    return posixpath.splitext(image_id)[0]


def _digest_64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def refusal(image_id: str) -> str | None:
    """Why no file below the destination may have the name of this id, or None."""
    scheme = _SCHEME.match(image_id)
    path = image_id[scheme.end() :] if scheme else image_id
    parts = path.split("/")
    if path.startswith("/") or re.match("[A-Za-z]:", image_id):
        return "an absolute path"
    if ".." in parts:
        return "it leads out of the destination"
    if "\\" in image_id or "\0" in image_id:
        return "a backslash or a zero character"
    if "::" in image_id:
        return ":: chains file systems"
    if "" in parts or "." in parts or (scheme and not scheme[1]):
        return "an empty name or a dot in the path"
    if parts[0] == STATE:
        return f"{STATE} is the state of the export"
    if any(len(part.encode()) > NAME_BYTES for part in parts):
        return f"a name of more than {NAME_BYTES} bytes"
    return None
