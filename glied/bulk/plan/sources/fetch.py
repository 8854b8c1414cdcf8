"""Fetching the bytes of a chunk of images.

Files are read through `storage` with threads, http(s) through `web_hosts` and `web_reader`. Apart from the
image, two things may fail: the run's own storage, whose failures have the kind `STORAGE` and count for its
failure limits, and web hosts that a table names, whose failures have kinds of their own. Both are tried a
bounded number of times.
"""

import dataclasses
import functools
import logging
import posixpath
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from glied import storage
from glied.bulk.plan.sources import archives, tars, web_hosts
from glied.bulk.plan.sources.backpressure import Gate, Slot
from glied.bulk.plan.sources.image_cells import BAD_ROW, image_in
from glied.bulk.plan.sources.input_columns import distinct, passed, passed_name
from glied.bulk.plan.sources.retries import Unreadable, retried, within
from glied.bulk.plan.sources.row_uris import RowUris
from glied.bulk.plan.sources.web_hosts import HostError, PatientReader
from glied.bulk.plan.sources.web_reader import WebReader
from glied.bulk.row_schemas import FETCHED as FETCHED
from glied.bulk.row_schemas import INPUT
from glied.data import parquet
from glied.errors import ImageError
from glied.redaction import redacted, shown

log = logging.getLogger(__name__)

T = TypeVar("T")
Row = dict[str, Any]

STORAGE = "storage"
"""Kind of error of a row whose bytes could not be read."""
TOO_LARGE = "too_large"
SIDECAR = "sidecar"
"""Column of the texts in files beside the images, for the stage that follows; no run writes it."""
WAITING = 16
"""Rows of a table in progress for each file that is read at once; most of them wait for hosts."""
ROOM = 8
"""Files are not read ahead while so many pieces of rows wait for an earlier one."""


@dataclass(frozen=True)
class Fetch:
    """Reads the bytes of a chunk of images.

    Attributes:
        form: of the input, as in `InputConfig`.
        image_column: of form parquet.
        id_column: of form parquet.
        threads: files read at once.
        attempts: how often one file is tried before its row fails.
        max_bytes: larger files are not read; their rows are the image's fault.
        pause: seconds before the second attempt, doubled for each further one.
        web: reads http(s).
        uris: what the rows of tables may name; None if they need no second check.
        file_s: longest time for a file of a storage other than local disks and S3, all attempts together.
        rows: reads the rows of form parquet, and caches a row group for the next chunk.
        sidecar: of form files: extension of text files beside the images to read as column `SIDECAR`.
    """

    form: str = "files"
    image_column: str = "image"
    id_column: str | None = None
    threads: int = 16
    attempts: int = 4
    max_bytes: int = 1 << 28
    pause: float = 0.5
    web: PatientReader = field(default_factory=lambda: PatientReader(reader=WebReader()))
    uris: RowUris | None = None
    file_s: float = 120.0
    rows: parquet.RowReader = field(default_factory=parquet.RowReader)
    sidecar: str = ""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows of the manifest to `FETCHED` and what passes through; one row out per row in, in order."""
        rows, passing = _divided(table)
        if self.form == "webdataset":
            fetched = self._by_file(rows, self._tar_rows)
            passing = _with_sidecars(passing, fetched)
        elif self.form == "parquet":
            fetched, passing = self._from_parquet(rows, passing)
        else:
            fetched = self._from_files(rows)
        if self.sidecar:
            passing = passing.append_column(SIDECAR, pa.array(self._beside(fetched), pa.string()))
        return _fetched(fetched, passing)

    def pieces(self, tables: Sequence[pa.Table], size: int) -> Iterator[tuple[int, pa.Table]]:
        """As `__call__` for several tables with files of unknown sizes, in pieces of about `size` bytes.

        Yields:
            The number of the table that a piece is of, and the piece; in order.
        """
        divided = [_divided(table) for table in tables]
        fetched = self._ahead([row for rows, _ in divided for row in rows], size)
        for number, (rows, passing) in enumerate(divided):
            first = 0
            for some in _filled(islice(fetched, len(rows)), size):
                yield number, _fetched(some, passing.slice(first, len(some)))
                first += len(some)

    def tasks_per_worker(self, tables: Iterable[pa.Table]) -> int:
        """Few for Parquet, of which a row group is cached; one for web links, which wait for hosts."""
        if self.form == "table":
            return int(any(pc.any(pc.starts_with(table["uri"], "http")).as_py() for table in tables))
        return 4 if self.form == "parquet" else 0

    def clear_cache(self) -> None:
        """Free the cached row group."""
        self.rows.clear()

    def _by_file(self, rows: list[Row], read: Callable[[str, list[Row]], list[Row]]) -> list[Row]:
        """Neighboring rows of one file are read together."""
        fetched: list[Row] = []
        for uri, group in groupby(rows, key=lambda row: row["file"]):
            some = list(group)
            fetched += [_fault(row) for row in some] if uri is None else read(uri, some)
        return fetched

    def _from_files(self, rows: list[Row]) -> list[Row]:
        if self.form == "table":
            return list(self._ahead(rows, 2 * self.max_bytes))
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(functools.partial(self._file, slot=nullcontext()), rows))

    def _beside(self, fetched: list[Row]) -> list[str | None]:
        """The texts beside the images, None where there is none; an image whose text cannot be read fails."""

        def read(row: Row) -> str | None:
            uri = f"{posixpath.splitext(row['uri'])[0]}.{self.sidecar.lstrip('.')}"
            try:
                return self._bytes(uri, None, nullcontext()).decode("utf-8-sig", errors="replace")
            except FileNotFoundError:
                return None
            except (ImageError, Unreadable) as error:
                kind = error.kind if isinstance(error, ImageError) else STORAGE
                row |= _failed(row, kind, f"the file beside it: {error}")
                return None

        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(read, fetched))

    def _ahead(self, rows: Sequence[Row], size: int) -> Iterator[Row]:
        """The rows in order, read ahead by many threads, most of which wait for hosts.

        Memory stays bounded: a file larger than half of `size` is read when its turn comes.
        """
        small = dataclasses.replace(self, max_bytes=min(size // 2, self.max_bytes))
        gate = Gate(self.threads, ROOM * size)

        def read(number: int, row: Row) -> Row:
            fetched = small._file(row, Slot(gate, number))
            gate.hold(len(fetched["data"] or b""))
            return fetched

        pool = ThreadPoolExecutor(self.threads * WAITING)
        try:
            futures = deque(pool.submit(read, number, row) for number, row in enumerate(rows))
            for number, row in enumerate(rows):
                gate.turn(number)
                fetched = futures.popleft().result()
                gate.hold(-len(fetched["data"] or b""))
                if fetched["kind"] == TOO_LARGE and small.max_bytes < self.max_bytes:
                    fetched = self._file(row, Slot(gate, number))
                yield fetched
        finally:
            gate.turn(len(rows))
            pool.shutdown(cancel_futures=True)

    def _file(self, row: Row, slot: AbstractContextManager[object]) -> Row:
        if row["fault"] is not None:
            return _fault(row)
        if row["size"] is not None and row["size"] > self.max_bytes:
            return self._oversized(row, row["size"])
        try:
            uri = row["uri"] if self.uris is None else self.uris.checked(row["uri"])
            return _read(row, self._bytes(uri, row["size"], slot))
        except (ImageError, HostError) as error:
            return _failed(row, error.kind, error.message)
        except FileNotFoundError:
            # A file with a size was listed, so it has vanished.
            missing = "not_found" if row["size"] is None else STORAGE
            return _failed(row, missing, "there is no such file")
        except Unreadable as error:
            return _failed(row, STORAGE, str(error))

    def _bytes(self, uri: str, listed: int | None, slot: AbstractContextManager[object]) -> bytes:
        scheme = uri.partition("://")[0].lower() if "://" in uri else "file"
        if scheme in ("http", "https"):
            try:
                return self.web.read(uri, max_bytes=self.max_bytes, slot=slot)
            except (ImageError, HostError):
                raise
            except Exception as error:  # what a host sends may trigger any bug of the client
                reason = redacted(f"{type(error).__name__}: {error}")
                log.warning("%s: the answer cannot be read: %s", shown(uri), reason)
                raise HostError(web_hosts.BAD_ANSWER, reason, host="") from error
        read = functools.partial(self.retried, functools.partial(self._read_file, uri, listed))
        with slot:
            return read() if scheme in ("file", "s3") else self._bounded(uri, read)

    def _bounded(self, uri: str, read: Callable[[], bytes]) -> bytes:
        """The result of `read`, unless the storage takes too long, or has just failed several times.

        Raises:
            Unreadable: it does, or has.
        """
        place = "/".join(uri.split("/")[:3])
        memory = self.web.memory
        began = time.monotonic()
        try:
            memory.check(place)
            data = within(self.file_s, read)
        except HostError as error:
            raise Unreadable(error.message) from error
        except Unreadable as error:
            failure = HostError(web_hosts.UNREACHABLE, str(error), host=place, reached=False)
            memory.failed(failure, began=began)
            raise
        memory.succeeded(place)
        return data

    def _read_file(self, uri: str, listed: int | None) -> bytes:
        try:
            return storage.read_bytes(uri, listed=listed, most=self.max_bytes)
        except storage.TooLarge as error:
            raise ImageError(
                TOO_LARGE, f"{error.size} bytes are more than the {self.max_bytes} allowed"
            ) from error

    def _oversized(self, row: Row, size: int) -> Row:
        return _failed(row, TOO_LARGE, f"{size} bytes are more than the {self.max_bytes} allowed")

    def retried(self, read: Callable[[], T]) -> T:
        """The result of `read`; see `retries.retried`."""
        return retried(read, attempts=self.attempts, pause_s=self.pause)

    def _tar_rows(self, uri: str, rows: list[Row]) -> list[Row]:
        """Images and sidecars; members close to each other are read by one request."""
        fetched = {
            row["id"]: self._oversized(row, row["size"]) for row in rows if row["size"] > self.max_bytes
        }
        for some in tars.neighbors([row for row in rows if row["id"] not in fetched], self.max_bytes):
            places = [place for row in some for place in tars.member_places(row).values()]
            read = functools.partial(archives.read, uri, some[0].get("compressed"), places)
            try:
                found = dict(zip(places, self.retried(read), strict=True))
            except (FileNotFoundError, Unreadable) as error:
                fetched |= {row["id"]: _failed(row, STORAGE, str(error)) for row in some}
                continue
            for row in some:
                data = {name: found[place] for name, place in tars.member_places(row).items()}
                fetched[row["id"]] = _read(row, data.pop("")) | {
                    INPUT + passed_name(name): text.decode(errors="replace") for name, text in data.items()
                }
        return [fetched[row["id"]] for row in rows]

    def _from_parquet(self, rows: list[Row], passing: pa.Table) -> tuple[list[Row], pa.Table]:
        """The images in rows of Parquet files, and the columns that pass through, as `passing` has them."""
        fetched: list[Row] = []
        columns: list[pa.Table] = []
        for uri, group in groupby(rows, key=lambda row: row["file"]):
            some = list(group)
            if uri is None:
                more, values = [_fault(row) for row in some], _nulls(passing.schema, len(some))
            else:
                more, values = self._parquet_rows(uri, some, passing.schema)
            fetched += more
            columns.append(values)
        return fetched, pa.concat_tables(columns)

    def _parquet_rows(self, uri: str, rows: list[Row], columns: pa.Schema) -> tuple[list[Row], pa.Table]:
        """The images and all other columns of rows of one file."""
        offsets = [row["offset"] for row in rows]
        piece = parquet.Piece(uri, min(offsets), max(offsets) + 1)
        try:
            found = self.retried(functools.partial(self.rows.read, piece))
        except (pa.ArrowException, FileNotFoundError, Unreadable) as error:
            kind, message = "corrupt" if self._delivers(uri) else STORAGE, " ".join(str(error).split())
            return [_failed(row, kind, message) for row in rows], _nulls(columns, len(rows))
        found = found.rename_columns(distinct(found.column_names))
        if found.num_rows < piece.last - piece.first or self.image_column not in found.column_names:
            message = f"{uri} has changed since it was planned"
            return [_failed(row, STORAGE, message) for row in rows], _nulls(columns, len(rows))
        places = [offset - piece.first for offset in offsets]
        images = found[self.image_column]
        values, faults = passed(found.drop_columns([self.image_column]), columns)
        fetched = [
            _failed(row, BAD_ROW, faults[place]) if place in faults else self._cell(row, images[place])
            for row, place in zip(rows, places, strict=True)
        ]
        return self._by_path(uri, fetched), pa.table(dict(values), schema=columns).take(places)

    def _by_path(self, uri: str, rows: list[Row]) -> list[Row]:
        """The rows, after reading the images whose cells hold only paths."""
        folder = uri.rsplit("/", 1)[0]
        rules = self.uris or RowUris.of(uri)
        named = [
            row | dict(zip(("uri", "fault_kind", "fault"), rules.plan(row["path"], folder), strict=True))
            for row in rows
            if "path" in row
        ]
        read = iter(self._from_files(named))
        return [next(read) | {"uri": row["uri"]} if "path" in row else row for row in rows]

    def _delivers(self, uri: str) -> bool:
        """Whether the storage delivers the file, so that the fault is in its content."""
        try:
            return bool(self.retried(functools.partial(storage.read_range, uri, 0, 1)))
        except (OSError, Unreadable):
            return False

    def _cell(self, row: Row, cell: pa.Scalar) -> Row:
        """The image in a cell; or the row with the "path" that the cell holds instead."""
        try:
            image = image_in(cell)
        except ImageError as error:
            return _failed(row, error.kind, error.message)
        if image is None:
            return _failed(row, "empty", "the row holds no image")
        if isinstance(image, str):
            return row | {"path": image, "size": None}
        return self._oversized(row, len(image)) if len(image) > self.max_bytes else _read(row, image)


def is_failure(kind: str) -> bool:
    """Whether an error of this kind is a failure that may pass, and not the fault of the image."""
    return kind == STORAGE or web_hosts.is_host_failure(kind)


def _filled(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Runs of rows with at most `size` bytes of data, at least one each."""
    some: list[Row] = []
    held = 0
    for row in rows:
        one = len(row["data"] or b"")
        if some and held + one > size:
            yield some
            some, held = [], 0
        some.append(row)
        held += one
    if some:
        yield some


def _divided(table: pa.Table) -> tuple[list[Row], pa.Table]:
    """Rows of the manifest, and their columns that pass through."""
    columns = [name for name in table.column_names if name.startswith(INPUT)]
    passing = table.select(columns).rename_columns([name.removeprefix(INPUT) for name in columns])
    return table.drop_columns(columns).to_pylist(), passing


def _fetched(rows: list[Row], passing: pa.Table) -> pa.Table:
    result = pa.Table.from_pylist(rows, schema=FETCHED)
    for name in passing.column_names:  # not as Python values, which cannot hold all of Arrow's
        result = result.append_column(passing.schema.field(name), passing[name])
    return result


def _fault(row: Row) -> Row:
    return _failed(row, row["fault_kind"], row["fault"])


def _failed(row: Row, kind: str, error: str) -> Row:
    return {"id": row["id"], "uri": row["uri"], "data": None, "kind": kind, "error": redacted(error)}


def _read(row: Row, data: bytes) -> Row:
    return {"id": row["id"], "uri": row["uri"], "data": data, "kind": None, "error": None}


def _nulls(schema: pa.Schema, count: int) -> pa.Table:
    return pa.table([pa.nulls(count, field.type) for field in schema], schema=schema)


def _with_sidecars(passing: pa.Table, rows: list[Row]) -> pa.Table:
    """The columns that pass through from tars, filled with the sidecars that were read."""
    columns = [
        pa.array([row.get(INPUT + field.name) for row in rows], field.type) for field in passing.schema
    ]
    return pa.table(columns, schema=passing.schema)
