"""Reading tars: their members, where these are, and the bytes of members.

A plain tar is read by byte ranges. A compressed one is a stream: everything before a member has to be
decompressed, so the stream stays open for the next chunk of members.
"""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple, cast

import pyarrow as pa

from glied import storage
from glied.errors import GliedError, StorageError

ENDINGS = (
    ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz",
)  # fmt: skip
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    **{bytes([0x50 + kind]) + b"\x2a\x4d\x18": "zstd" for kind in range(16)},  # begins with a skippable frame
}
_BUFFER = 1 << 16
"""Bytes read ahead between tar headers: includes small members, large ones are skipped."""
_STREAM_BUFFER = 1 << 22
"""Bytes of a compressed tar that are read at once."""
_MOST_HEADER = 1 << 24
"""Longer extended headers are treated as damage: tarfile would read them into memory."""


class Place(NamedTuple):
    """Position of bytes in the file or, if it is compressed, in the decompressed file."""

    offset: int
    size: int


class Member(NamedTuple):
    """An entry of a tar that is not a folder.

    Attributes:
        name: as in the tar; bytes that are not UTF-8 as %XX.
        part: number of the tar that it is in, if several tars were concatenated into the file.
        place: of its bytes.
        problem: why it has no bytes that could be an image. Pipes and devices have neither place nor problem.
    """

    name: str
    part: int
    place: Place | None
    problem: str | None


class Broken(Exception):
    """The rest of a tar cannot be read; the members before are good."""


def compression(uri: str) -> str | None:
    """How a tar is compressed, by its first bytes: gzip, zstd, bz2, xz, lz4, or None.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the storage failed.
    """
    start = storage.read_range(uri, 0, min(tarfile.BLOCKSIZE, storage.file_size(uri)))
    if start[257:].startswith(b"ustar"):  # checked first: a member's name may look like a magic number
        return None
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def members(uri: str, compressed: str | None) -> Iterator[Member]:
    """The entries of a tar in order, then those of tars concatenated to it.

    Raises:
        Broken: the rest cannot be read; the entries before are good.
        FileNotFoundError: there is no such file.
        StorageError: the storage failed.
    """
    if compressed == "lz4":
        raise Broken("compressed with lz4; gzip, zstd, bz2 and xz are read")
    try:
        with _Stream(uri, compressed, _MOST_HEADER) as stream:
            yield from _members(stream)
    except (GliedError, FileNotFoundError, Broken):
        raise
    except Exception as error:  # those of tarfile, zlib, lzma, and others that damaged input triggers
        raise Broken(f"not readable as a tar: {_reason(error)}") from error


def _members(stream: "_Stream") -> Iterator[Member]:
    part = 0
    while True:
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as tar:
            yield from _entries(tar, stream, part)
            end = tar.offset
        # tarfile stops at a damaged header without an error, as at the end marker.
        stream.seek(end)
        zeros, ended = stream.skip_zeros()
        if zeros < tarfile.BLOCKSIZE:
            damage = "cut off after" if ended else "damaged after"
            raise Broken(f"{damage} byte {end}: neither a member nor the end marker")
        if ended:
            return
        part += 1


def _entries(tar: tarfile.TarFile, stream: "_Stream", part: int) -> Iterator[Member]:
    there: dict[str, Place] = {}
    while (entry := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # else tarfile collects them all
        if entry.isdir():
            continue
        name, link = storage.escaped(entry.name), storage.escaped(entry.linkname)
        place, problem = None, None
        if entry.issparse():
            problem = "a sparse member; pack the file again without --sparse"
        elif entry.isreg():
            place = Place(entry.offset_data, entry.size)
            stream.check(place, name)
        elif entry.islnk():
            place = there.get(_path(link))
            problem = None if place else f"a hard link to {link}, which does not precede it in the tar"
        elif entry.issym():
            problem = f"a symbolic link to {link}"
        elif not entry.isdev():
            problem = f"a member of the unknown type {entry.type!r}"
        if place is not None:
            there[_path(name)] = place
        yield Member(name, part, place, problem)


def _path(name: str) -> str:
    """The file that a name leads to when the tar is unpacked."""
    return "/".join(piece for piece in name.split("/") if piece not in ("", "."))


def read(uri: str, compressed: str | None, places: Sequence[Place]) -> list[bytes]:
    """The bytes at places of a tar.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the storage failed, or the tar is no longer the one that was indexed.
    """
    if compressed is not None:
        return _read_stream(uri, compressed, places)
    start = min(place.offset for place in places)
    data = storage.read_range(uri, start, max(sum(place) for place in places))
    return [data[place.offset - start :][: place.size] for place in places]


def _read_stream(uri: str, compressed: str, places: Sequence[Place]) -> list[bytes]:
    stream = _kept.pop((uri, compressed), None)
    try:
        stream = stream or _Stream(uri, compressed)
        found: dict[Place, bytes] = {}
        for place in sorted(set(places)):
            stream.seek(place.offset)
            found[place] = stream.read(place.size)
            if len(found[place]) < place.size:
                raise StorageError(f"{uri} is shorter than it was when it was indexed")
    except (GliedError, FileNotFoundError):
        raise
    except Exception as error:
        raise StorageError(f"{uri} is not as it was when it was indexed: {_reason(error)}") from error
    while len(_kept) >= _MOST_KEPT:
        _kept.pop(next(iter(_kept)))
    _kept[uri, compressed] = stream
    return [found[place] for place in places]


_MOST_KEPT = 4
_kept: dict[tuple[str, str], "_Stream"] = {}
"""Compressed tars that this process has read partly, at the position that it reached."""


class _Stream(io.RawIOBase):
    """The bytes of a tar, decompressed; seeking backward in a compressed one restarts it."""

    def __init__(self, uri: str, compressed: str | None, most: int | None = None) -> None:
        """Reads of more than `most` bytes are refused."""
        self.uri = uri
        self.compressed = compressed
        self.most = most
        self._open()

    def _open(self) -> None:
        raw = storage.RangeReader(self.uri)
        self._size = raw.size
        buffered: io.BufferedReader = io.BufferedReader(raw, _STREAM_BUFFER if self.compressed else _BUFFER)
        self._file: Any = _DECOMPRESSORS[self.compressed](buffered) if self.compressed else buffered
        self._last = self._pushed_back = b""
        self._position = 0

    def tell(self) -> int:
        """The position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position; in a compressed tar not beyond its end."""
        back = self._position - offset
        if 0 < back <= len(self._last):  # tarfile has looked for a header
            self._pushed_back = self._last[-back:] + self._pushed_back
            self._position = offset
        elif back and self.compressed is None:
            self._file.seek(offset)
            self._pushed_back, self._position = b"", offset
        elif back > 0:
            self._open()
        self._last = b""
        while self._position < offset and self._take(min(offset - self._position, _BUFFER)):
            pass
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes; fewer only at the end."""
        if size is None or size < 0 or (self.most is not None and size > self.most):
            raise Broken(f"damaged at byte {self._position}: a header of {size} bytes")
        pieces = []
        while size and (piece := self._take(size)):
            pieces.append(piece)
            size -= len(piece)
        self._last = b"".join(pieces)
        return self._last

    def _take(self, size: int) -> bytes:
        piece = self._pushed_back[:size] or self._file.read(size)
        self._pushed_back = self._pushed_back[size:]
        self._position += len(piece)
        return piece

    def skip_zeros(self) -> tuple[int, bool]:
        """Skip zero bytes; returns how many there were, and whether the tar ends with them."""
        start, self._last = self._position, b""
        while data := self._take(_BUFFER):
            if rest := data.lstrip(b"\0"):
                self._pushed_back = rest + self._pushed_back
                self._position -= len(rest)
                return self._position - start, False
        return self._position - start, True

    def check(self, place: Place, name: str) -> None:
        """Raise `Broken` if the tar ends before a member does; a compressed tar is read up to there."""
        whole = self.seek(sum(place)) == sum(place) if self.compressed else sum(place) <= self._size
        if not whole:
            raise Broken(f"cut off inside {name}")


def _unpack_zstd(file: io.BufferedReader) -> pa.NativeFile:
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")


_DECOMPRESSORS: dict[str, Callable[[io.BufferedReader], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstd": _unpack_zstd,
}


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
