"""Files by URI: local paths, `s3://`, `http(s)://` for reading, and the other schemes of fsspec.

Objects in S3 go through `glied.s3`, which changes no key and verifies every answer. S3 takes endpoint
(AWS_ENDPOINT_URL), region and credentials from the usual AWS_* environment variables, or from the profile
that AWS_PROFILE names; AWS_NO_SIGN_REQUEST=1 reads public buckets without credentials.
"""

import io
import itertools
import os
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs

from glied import local_files, s3
from glied.errors import GliedError, StorageError, UsageError
from glied.fsspec_files import StrictHandler, distinguish_absence, hub
from glied.redaction import redacted, shown
from glied.s3 import TooLarge


@dataclass(frozen=True)
class FileInfo:
    """One file of a listing.

    Attributes:
        uri: where to read it.
        name: path below the listed prefix, "/"-separated; bytes of a local name that are not UTF-8 appear as
            %XX.
        size: bytes.
    """

    uri: str
    name: str
    size: int


def join(uri: str, *parts: str) -> str:
    """`uri` with path parts appended as they are: a part that begins with a slash leaves an empty name."""
    base = uri.rstrip("/") if is_local(uri) else uri.removesuffix("/")
    return "/".join([base, *parts])


def is_local(uri: str) -> bool:
    """Whether `uri` names a file of this machine."""
    return "://" not in uri or _is_file_uri(uri)


def local_path(uri: str) -> Path:
    """The path of a local `uri`: a `file://` URI may be percent-encoded, a plain path never is."""
    if not _is_file_uri(uri):
        return Path(uri)
    text = uri[len("file://") :].removeprefix("localhost")
    decoded = Path(urllib.parse.unquote(text, errors="surrogateescape"))
    return Path(text) if not os.path.lexists(decoded) and os.path.lexists(text) else decoded


def _is_file_uri(uri: str) -> bool:
    return uri[: len("file://")].lower() == "file://"


def local_uri(path: str) -> str:
    """The URI of a local file in valid UTF-8: its path, or a percent-encoded URI if the path is not UTF-8."""
    return path if escaped(path) == path else "file://" + urllib.parse.quote(os.fsencode(path))


def absolute(uri: str) -> str:
    """`uri` with a local path made absolute, so that workers with another working directory find the file."""
    if is_local(uri):
        return local_uri(str(local_path(uri).absolute()))
    return uri if uri.endswith("//") else uri.removesuffix("/")  # a key may contain an empty name


def path_below(uri: str, folder: str) -> str | None:
    """The path of `uri` below a folder; "" for the folder itself, None if it is elsewhere.

    Links of local paths are resolved. Bytes that are not UTF-8 appear as %XX.
    """
    if is_local(uri) and is_local(folder):
        path, root = (os.path.realpath(local_path(one)) for one in (uri, folder))
    else:
        path, root = absolute(uri), absolute(folder)
    if path == root:
        return ""
    below = root.rstrip("/") + "/"
    return escaped(path.removeprefix(below)) if path.startswith(below) else None


def escaped(name: str) -> str:
    """A local name with bytes that are not UTF-8 as %XX; other names unchanged."""
    return "".join(f"%{ord(one) - 0xDC00:02X}" if "\udc80" <= one <= "\udcff" else one for one in name)


def read_bytes(uri: str, *, listed: int | None = None, most: int | None = None) -> bytes:
    """The whole content of a file.

    Args:
        uri: of the file.
        listed: its length in bytes if known, which saves a request.
        most: longer files are not read.

    Raises:
        FileNotFoundError: it does not exist.
        TooLarge: it has more than `most` bytes.
        StorageError: the storage or the credentials failed, or not all bytes came.
    """
    with _reading(uri):
        if is_local(uri):
            with local_files.open_file(local_path(uri)) as file:
                _check_size(os.fstat(file.fileno()).st_size, most)
                return file.read()
        if place := s3.parse(uri):
            return s3.read(place, listed=listed, most=most)
        filesystem, path = _filesystem(uri)
        size = filesystem.info(path)["size"] if most is not None or listed is None else listed
        _check_size(size, most)
        data = filesystem.cat_file(path)
    if size is not None and len(data) != size:
        raise StorageError(f"cannot read {uri}: {len(data)} of {size} bytes came")
    return data


def _check_size(size: int | None, most: int | None) -> None:
    if most is not None and size is not None and size > most:
        raise TooLarge(size)


def read_range(uri: str, start: int, stop: int, *, whole: int | None = None) -> bytes:
    """Bytes `start` to `stop` (exclusive) of a file; `whole` is its length if known.

    Raises as `read_bytes`, also if the file is shorter.
    """
    with _reading(uri):
        if place := s3.parse(uri):
            return s3.read_range(place, start, stop, whole=whole)
        if is_local(uri):
            with local_files.open_file(local_path(uri)) as file:
                file.seek(start)
                data = file.read(stop - start)
        else:
            filesystem, path = _filesystem(uri)
            data = filesystem.cat_file(path, start=start, end=stop)
    if len(data) != stop - start:
        raise StorageError(f"{uri} is shorter than {stop} bytes: {len(data)} of {stop - start} came")
    return data


def file_size(uri: str) -> int:
    """The length of a file in bytes; raises as `read_bytes`."""
    with _reading(uri):
        if place := s3.parse(uri):
            return s3.size(place)
        if is_local(uri):
            with local_files.open_file(local_path(uri)) as file:
                return os.fstat(file.fileno()).st_size
        filesystem, path = _filesystem(uri)
        return int(filesystem.info(path)["size"])


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    """Turn the errors of all kinds of storage into those of `read_bytes`."""
    try:
        with distinguish_absence():
            yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"no such file: {shown(uri)}") from error
    except (GliedError, TooLarge):
        raise
    except Exception as error:
        raise StorageError(f"cannot read {uri}: {_reason(error)}") from error


class RangeReader(io.RawIOBase):
    """Reads a file by ranges at any position; a range comes whole, or reading raises as `read_range`."""

    def __init__(self, uri: str) -> None:
        """Asks for the size; raises as `file_size`."""
        self.uri = uri
        self.size = file_size(uri)
        self._position = 0

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """The position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes; fewer only at the end of the file."""
        stop = self.size if size is None or size < 0 else min(self.size, self._position + size)
        if stop <= self._position:
            return b""
        data = read_range(self.uri, self._position, stop, whole=self.size)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; fewer bytes only at the end of the file."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def open_input(uri: str) -> pa.NativeFile:
    """A file for random access, as Parquet needs it; opening and reading raise as `read_bytes`."""
    if s3.parse(uri):
        return pa.PythonFile(RangeReader(uri), mode="r")
    if is_local(uri) and escaped(path := str(local_path(uri))) != path:  # Arrow takes no such name
        return pa.PythonFile(local_files.open_file(Path(path)), mode="r")
    filesystem, path = arrow_filesystem(uri)
    return filesystem.open_input_file(path)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file; readers see the old or the new content, never a part.

    Raises:
        StorageError: it cannot be written.
    """
    with _failures("write", uri):
        if is_local(uri):
            local_files.write(local_path(uri), data)
        elif place := s3.parse(uri):
            s3.write(place, data)
        else:
            filesystem, path = _filesystem(uri)
            filesystem.pipe_file(path, data)


def put_if_absent(uri: str, data: bytes) -> bool:
    """Create a file unless it exists; atomic between processes and machines.

    Locally a temporary file is synced and linked to the final name; on S3 this is a conditional write. If the
    answer to a write was lost, its own retry is refused; so the content is compared before a refusal counts.

    Returns:
        Whether the file has this content now.

    Raises:
        StorageError: it cannot be written.
    """
    with _failures("write", uri):
        if is_local(uri):
            return local_files.create(local_path(uri), data)
        if place := s3.parse(uri):
            return s3.write_if_absent(place, data) or read_bytes(uri) == data
        filesystem, path = _filesystem(uri)
        try:
            filesystem.pipe_file(path, data, mode="create")
        except OSError as error:
            if isinstance(error, FileExistsError) or exists(uri):
                return read_bytes(uri) == data
            raise
    return True


def exists(uri: str) -> bool:
    """Whether there is a file at `uri`."""
    with _failures("look at", uri):
        if place := s3.parse(uri):
            try:
                return s3.size(place) >= 0
            except FileNotFoundError:
                return False
        filesystem, path = _filesystem(uri)
        filesystem.invalidate_cache()
        try:
            # Not `isfile`, which takes every failure for a no.
            with distinguish_absence():
                return bool(filesystem.info(path)["type"] == "file")
        except (FileNotFoundError, NotADirectoryError):
            return False


def delete(uri: str) -> None:
    """Delete a file, if it exists; raises `StorageError` if it cannot be deleted."""
    with _failures("delete", uri):
        if place := s3.parse(uri):
            s3.delete(place)
            return
        filesystem, path = _filesystem(uri)
        with suppress(FileNotFoundError):
            filesystem.rm_file(path)


@contextmanager
def _failures(verb: str, uri: str) -> Iterator[None]:
    """Turn the errors of all kinds of storage into `StorageError`; they have no common base."""
    try:
        yield
    except GliedError:
        raise
    except Exception as error:
        raise StorageError(f"cannot {verb} {uri}: {_reason(error)}") from error


def list_files(
    uri: str, *, recursive: bool = True, skip: Callable[[str, str], None] | None = None
) -> Iterator[FileInfo]:
    """All files below a prefix in the order of their names; nothing if the prefix does not exist.

    Local folders and S3 are listed as the caller consumes the result, folder by folder and page by page:
    memory does not grow with the number of files.

    Args:
        uri: the prefix.
        recursive: whether to enter folders.
        skip: called with the name of each local entry that is not a file, and what it is: "dangling link",
            "link loop" (a link to a folder that it is in) or "special file".

    Raises:
        StorageError: the storage or the credentials failed.
    """
    with _failures("list", uri):
        if is_local(uri):
            yield from _list_local(local_path(uri).absolute(), recursive, skip)
        elif place := s3.parse(uri):
            root_uri = f"{uri.partition('://')[0]}://{place.bucket}/"
            prefix = place.key and place.key.removesuffix("/") + "/"
            for key, size in s3.list_keys(place.bucket, prefix, recursive=recursive):
                if len(key) > len(prefix) and not key.endswith("/"):  # such keys stand for folders
                    yield FileInfo(root_uri + key, key[len(prefix) :], size)
        else:
            for name, size in _list_arrow(uri, recursive):
                yield FileInfo(join(uri, name), name, size)


def _list_local(root: Path, recursive: bool, skip: Callable[[str, str], None] | None) -> Iterator[FileInfo]:
    def skip_escaped(name: str, kind: str) -> None:
        if skip is not None:
            skip(escaped(name), kind)

    for name, size in local_files.walk(root, recursive=recursive, skip=skip_escaped):
        yield FileInfo(local_uri(f"{str(root).rstrip('/')}/{name}"), escaped(name), size)


def _list_arrow(uri: str, recursive: bool) -> Iterator[tuple[str, int]]:
    filesystem, root = arrow_filesystem(uri)
    selector = pyarrow.fs.FileSelector(root, recursive=recursive, allow_not_found=True)
    found = sorted(filesystem.get_file_info(selector), key=lambda info: info.path)
    prefix = root.rstrip("/") + "/"
    if repeated := [one.path for one, next_one in itertools.pairwise(found) if one.path == next_one.path]:
        raise StorageError(f"cannot list {uri}: the storage lists {repeated[0]} twice")
    for info in found:
        if info.type == pyarrow.fs.FileType.File:
            yield info.path.removeprefix(prefix), info.size


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """pyarrow's file system for `uri` and the path in it, for libraries that want one; to read a file, use
    `open_input`.
    """
    if is_local(uri):
        return pyarrow.fs.LocalFileSystem(), str(local_path(uri).absolute())
    filesystem, path = _filesystem(uri)
    return pyarrow.fs.PyFileSystem(StrictHandler(filesystem)), path  # type: ignore[abstract]  # the stubs omit its methods


def _filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    # A local path or a key must not be taken for a chain of file systems, "a::b".
    if is_local(uri):
        return fsspec.filesystem("file"), str(local_path(uri).absolute())
    if place := s3.parse(uri):
        options = {"anon": True} if s3.is_anonymous() else {}
        filesystem = fsspec.filesystem("s3", use_listings_cache=False, **options)
        return filesystem, f"{place.bucket}/{place.key}".rstrip("/")
    try:
        if uri.startswith("hf://"):
            return hub(), hub()._strip_protocol(uri)
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{uri}: {_reason(error)}") from error
    return filesystem, path


def _reason(error: BaseException) -> str:
    return redacted(" ".join(str(error).split())) or type(error).__name__
