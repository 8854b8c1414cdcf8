"""A file per image, beside the images or anywhere else, and the names that are safe for it."""

import hashlib
import json
import posixpath
import re
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from glied import s3, storage
from glied.bulk.exports.config import ExportConfig, UnitReport
from glied.bulk.exports.markers import STATE, Book
from glied.bulk.exports.unit_tables import CAPTION_COLUMNS, put, read_table, write
from glied.bulk.plan.manifest import Manifest
from glied.bulk.row_schemas import OK
from glied.run_folder import CommittedUnit

SIDECARS_IN_FLIGHT = 32
NAME_BYTES = 236
"""Most bytes of a name in an id: 255, less .txt and what the name of a temporary file adds."""
_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]+:/(/?)")


class Sidecars:
    """Form txt: a file per image."""

    def __init__(self, config: ExportConfig, plan: Manifest, book: Book) -> None:
        self.config = config
        self.plan = plan
        self.book = book

    def run(self, units: list[CommittedUnit]) -> Iterator[UnitReport]:
        """Export them, one after the other."""
        if not units:
            return
        flat = storage.is_local(self.config.out)
        names = SidecarNames((unit.ids for unit in self.plan.read_units(range(self.plan.units))), flat=flat)
        with ThreadPoolExecutor(SIDECARS_IN_FLIGHT) as pool:
            for unit in units:
                yield self._export(unit, names, pool)

    def _export(self, unit: CommittedUnit, names: "SidecarNames", pool: ThreadPoolExecutor) -> UnitReport:
        rows = read_table(unit, CAPTION_COLUMNS).to_pylist()
        lines: dict[int, tuple[str, bytes]] = {}
        refusals = []
        for position, row in enumerate(rows):
            if row["status"] != OK:
                continue
            name = names(row["id"], unit.unit * self.plan.unit_size + position)
            reason = refusal(row["id"], self.config.out)
            if reason or name is None:
                refusals.append(f"{row['id']!r}: {reason or 'another image has its file'}")
                continue
            lines[position] = storage.join(self.config.out, name), f"{row['caption'] or ''}\n".encode()
        # Rows that an earlier generation had are copied into this one: they must not be appended again.
        earlier = set(self.book.read(unit.unit).rows) if self.config.existing == "append" else set()
        todo = {position: line for position, line in lines.items() if position not in earlier}
        written = self._write(unit, todo, pool)
        done = UnitReport(
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
            results = pool.map(lambda line: put(*line), todo.values())
            return {position for position, stands in zip(todo, results, strict=True) if stands}
        files = self._appended(unit, todo, pool) if self.config.existing == "append" else todo
        list(pool.map(lambda file: write(*file), files.values()))
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
            return {int(position): size for position, size in json.loads(storage.read_bytes(uri)).items()}
        except FileNotFoundError:
            write(uri, json.dumps(sizes).encode())
            return sizes

    def _begun_uri(self, unit: CommittedUnit) -> str:
        return self.book.uri(unit.unit, unit.generation, "begun")

    def _content(self, uri: str) -> bytes:
        try:
            return storage.read_bytes(uri)
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

    def __init__(self, ids: Iterable[list[str]], *, flat: bool = False) -> None:
        """Compare the ids of a manifest, given in its order.

        With `flat`, names are those of local files: a//b and a/./b are a/b, and have no file of their own
        beside one of that name.
        """
        self.flat = flat
        own, stems = array("Q"), array("Q")
        for batch in ids:
            paths = [self._path(image_id) for image_id in batch]
            own.extend(_digest_64(path) for path in paths)
            stems.extend(_digest_64(_stem(path)) for path in paths)
        own_array, stem_array = np.frombuffer(own, np.uint64), np.frombuffer(stems, np.uint64)
        self._first = _repeated(stem_array)
        self._first_own = _repeated(own_array)
        self._ids = set(np.intersect1d(stem_array[stem_array != own_array], own_array).tolist())

    def __call__(self, image_id: str, position: int) -> str | None:
        """The name for an id at a position of the manifest; None where an earlier id has it."""
        path = self._path(image_id)
        if self._first_own.get(_digest_64(path), position) != position:
            return None
        stem = _stem(path)
        digest = _digest_64(stem)
        taken = self._first.get(digest, position) != position or digest in self._ids
        return f"{path}.txt" if taken or path == f"{stem}.txt" else f"{stem}.txt"

    def _path(self, image_id: str) -> str:
        # The :// of an address would make the path a URI.
        path = _SCHEME.sub(lambda match: match[0].replace("://", ":/"), image_id, count=1)
        parts = path.split("/")
        return "/".join(part for part in parts if part not in ("", ".")) if self.flat else path


def _repeated(digests: NDArray[np.uint64]) -> dict[int, int]:
    """The first position of each digest that there is more than once."""
    unique, first, count = np.unique(digests, return_index=True, return_counts=True)
    return dict(zip(unique[count > 1].tolist(), first[count > 1].tolist(), strict=True))


def _stem(image_id: str) -> str:
    return posixpath.splitext(image_id)[0]


def _digest_64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def refusal(image_id: str, out: str) -> str | None:
    """Why no file below the destination may have the name of this id, or None."""
    local = storage.is_local(out)
    scheme = _SCHEME.match(image_id)
    path = image_id[scheme.end() :] if scheme else image_id
    parts = path.split("/")
    if (path.startswith("/") and local) or re.match("[A-Za-z]:", image_id):
        return "an absolute path"
    if ".." in parts:
        return "it leads out of the destination"
    if "\\" in image_id or "\0" in image_id:
        return "a backslash or a zero character"
    if "::" in image_id and not (local or s3.parse(out)):
        return ":: chains file systems"
    if parts[-1] in ("", ".") or (scheme and not scheme[1]):
        return "no file name"
    if STATE in (parts[0], next(part for part in parts if part not in ("", "."))):
        return f"{STATE} is the state of the export"
    if any(len(part.encode()) > NAME_BYTES for part in parts):
        return f"a name of more than {NAME_BYTES} bytes"
    return None
