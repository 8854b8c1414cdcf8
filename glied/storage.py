"""Files by URI: local paths, `s3://`, `http(s)://` for reading, whatever else fsspec knows.

Objects in S3 go through `glied.s3`, which changes no key and checks every answer. S3 takes endpoint
(AWS_ENDPOINT_URL), region and credentials from the usual AWS_* environment variables, or from the profile
that AWS_PROFILE names; AWS_NO_SIGN_REQUEST=1 reads public buckets without credentials.
"""

import errno
import io
import itertools
import os
import stat
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs

from glied import s3
from glied.errors import StorageError, UsageError
from glied.fsspec_files import StrictHandler, absence_told_from_failure
from glied.redaction import redacted, shown
from glied.s3 import TooLarge


@dataclass(frozen=True)
class FileInfo:
    """One file of a listing.

    Attributes:
        uri: where to read it.
        name: path below the listed prefix, "/"-separated; bytes of a local name that are no UTF-8 stand
            there as %XX.
        size: bytes.
    """

    uri: str
    name: str
    size: int


def join(uri: str, *parts: str) -> str:
    """`uri` with path parts appended, as they are: a part that begins with a slash leaves an empty name."""
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
    """What names a local file in valid UTF-8: its path, or where that is none, a percent-encoded URI."""
    return path if _is_utf8(path) else "file://" + urllib.parse.quote(os.fsencode(path))


def absolute(uri: str) -> str:
    """A local path as an absolute one, so that workers with another working directory find it."""
    if is_local(uri):
        return local_uri(str(local_path(uri).absolute()))
    return uri if uri.endswith("//") else uri.removesuffix("/")  # a key may hold an empty name


def escaped(name: str) -> str:
    """A local name with bytes that are no UTF-8 as %XX; other names as they are."""
    return "".join(f"%{ord(one) - 0xDC00:02X}" if "\udc80" <= one <= "\udcff" else one for one in name)


def read_bytes(uri: str, *, listed: int | None = None, most: int | None = None) -> bytes:
    """The content of a file, all of it.

    Args:
        uri: of the file.
        listed: its length in bytes as far as known, which saves a request.
        most: longer files are not read.

    Raises:
        FileNotFoundError: there is none.
        TooLarge: it has more than `most` bytes.
        StorageError: the storage or the credentials failed, or not all bytes came.
    """
    if is_local(uri):
        return _read_local(uri, most)
    if place := s3.parse(uri):
        return s3.read(place, listed=listed, most=most)
    filesystem, path = _filesystem(uri)
    try:
        with absence_told_from_failure():
            size = filesystem.info(path)["size"] if most is not None or listed is None else listed
            if most is not None and size is not None and size > most:
                raise TooLarge(size)
            data = filesystem.cat_file(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"no such file: {shown(uri)}") from error
    except TooLarge:
        raise
    except Exception as error:
        raise StorageError(f"cannot read {uri}: {_reason(error)}") from error
    if size is not None and len(data) != size:
        raise StorageError(f"cannot read {uri}: {len(data)} of {size} bytes came")
    return data


def read_range(uri: str, start: int, stop: int, *, whole: int | None = None) -> bytes:
    """Bytes `start` to `stop` (exclusive) of a file; `whole` is its length as far as known.

    It raises as `read_bytes`, also where the file is shorter.
    """
    if place := s3.parse(uri):
        return s3.read_range(place, start, stop, whole=whole)
    try:
        if is_local(uri):
            with _open_local(uri) as file:
                file.seek(start)
                data = file.read(stop - start)
        else:
            filesystem, path = _filesystem(uri)
            with absence_told_from_failure():
                data = filesystem.cat_file(path, start=start, end=stop)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"no such file: {shown(uri)}") from error
    except Exception as error:
        raise StorageError(f"cannot read {uri}: {_reason(error)}") from error
    if len(data) != stop - start:
        raise StorageError(f"{uri} is shorter than {stop} bytes: {len(data)} of {stop - start} came")
    return data


def file_size(uri: str) -> int:
    """The length of a file in bytes; raises as `read_bytes`."""
    if place := s3.parse(uri):
        return s3.size(place)
    try:
        if is_local(uri):
            with _open_local(uri) as file:
                return os.fstat(file.fileno()).st_size
        filesystem, path = _filesystem(uri)
        with absence_told_from_failure():
            return int(filesystem.info(path)["size"])
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"no such file: {shown(uri)}") from error
    except Exception as error:
        raise StorageError(f"cannot read {uri}: {_reason(error)}") from error


class RangeReader(io.RawIOBase):
    """A file read at any place by ranges; every range comes whole, or reading raises as `read_range`."""

    def __init__(self, uri: str) -> None:
        """Asks for the size; raises as `file_size`."""
        self.uri = uri
        self.size = file_size(uri)
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        )
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
    """A file to read at any place, as Parquet is; raises as `read_bytes`, while reading too."""
    if s3.parse(uri):
        return pa.PythonFile(RangeReader(uri), mode="r")
    if is_local(uri) and not _is_utf8(str(local_path(uri))):
        return pa.PythonFile(_open_local(uri), mode="r")  # Arrow takes no such name
    filesystem, path = arrow_filesystem(uri)
    return filesystem.open_input_file(path)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file; readers see the old or the new content, never a part."""
    if is_local(uri):
        path = local_path(uri)
        temporary = _write_temporary(path, data)
        os.replace(temporary, path)
        return
    if place := s3.parse(uri):
        s3.write(place, data)
        return
    filesystem, path_text = _filesystem(uri)
    try:
        filesystem.pipe_file(path_text, data)
    except Exception as error:
        raise StorageError(f"cannot write {uri}: {_reason(error)}") from error


def put_if_absent(uri: str, data: bytes) -> bool:
    """Create a file unless it exists; atomic between processes and machines.

    Locally a temporary file is synced and linked to the final name; on S3 it is a conditional put.
    A put whose answer was lost is refused by its own retry, so a refusal is read back before it counts.

    Returns:
        True if the file now holds `data`, False if something else stands there.
    """
    if is_local(uri):
        return _link_if_absent(local_path(uri), data)
    if place := s3.parse(uri):
        return s3.write_if_absent(place, data) or read_bytes(uri) == data
    filesystem, path = _filesystem(uri)
    try:
        filesystem.pipe_file(path, data, mode="create")
    except FileExistsError:
        return read_bytes(uri) == data
    except OSError as error:
        if exists(uri):
            return read_bytes(uri) == data
        raise StorageError(f"cannot write {uri}: {_reason(error)}") from error
    except Exception as error:
        raise StorageError(f"cannot write {uri}: {_reason(error)}") from error
    return True


def exists(uri: str) -> bool:
    """Whether a file stands at `uri`."""
    if place := s3.parse(uri):
        try:
            return s3.size(place) >= 0
        except FileNotFoundError:
            return False
    filesystem, path = _filesystem(uri)
    filesystem.invalidate_cache()
    try:
        # Not `isfile`, which takes every failure for a no.
        with absence_told_from_failure():
            return bool(filesystem.info(path)["type"] == "file")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except Exception as error:
        raise StorageError(f"cannot look at {uri}: {_reason(error)}") from error


def delete(uri: str) -> None:
    """Remove a file; one that is not there is no error."""
    if place := s3.parse(uri):
        s3.delete(place)
        return
    filesystem, path = _filesystem(uri)
    try:
        filesystem.rm_file(path)
    except FileNotFoundError:
        pass
    except Exception as error:
        raise StorageError(f"cannot delete {uri}: {_reason(error)}") from error


def list_files(
    uri: str, *, recursive: bool = True, skip: Callable[[str, str], None] | None = None
) -> Iterator[FileInfo]:
    """All files below a prefix in the order of their names; nothing if the prefix does not exist.

    Local folders and S3 are walked as the caller consumes them, folder by folder and page by page: memory
    does not grow with the number of files.

    Args:
        uri: the prefix.
        recursive: whether to go into folders.
        skip: is called with the name of what lies there and is no file, and what it is: "dangling link",
            "link loop" (a link to a folder that it lies in) or "special file".

    Raises:
        StorageError: the storage or the credentials failed.
    """
    try:
        if is_local(uri):
            root = local_path(uri).absolute()
            for name, size in _walk(root, "", recursive, skip or (lambda name, kind: None), ()):
                yield FileInfo(local_uri(f"{str(root).rstrip('/')}/{name}"), escaped(name), size)
        elif place := s3.parse(uri):
            root_uri = f"{uri.partition('://')[0]}://{place.bucket}/"
            prefix = place.key and place.key.removesuffix("/") + "/"
            for key, size in s3.list_keys(place.bucket, prefix, recursive=recursive):
                if len(key) > len(prefix) and not key.endswith("/"):  # such keys stand for folders
                    yield FileInfo(root_uri + key, key[len(prefix) :], size)
        else:
            for name, size in _list_arrow(uri, recursive):
                yield FileInfo(join(uri, name), name, size)
    except OSError as error:
        raise StorageError(f"cannot list {uri}: {_reason(error)}") from error


def _walk(
    folder: Path, prefix: str, recursive: bool, skip: Callable[[str, str], None], above: tuple[object, ...]
) -> Iterator[tuple[str, int]]:
    """Names and sizes below a local folder in the order of their whole names; `above` are its parents."""
    try:
        above = (*above, _identity(folder.stat()))
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    found: list[tuple[str, os.stat_result]] = []
    for entry in entries:
        try:
            found.append((entry.name, entry.stat()))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            skip(escaped(prefix + entry.name), "dangling link")  # or a file that was deleted meanwhile
    # A folder sorts as its content does, with the slash: "a-b" comes before "a/x".
    for name, status in sorted(found, key=lambda pair: pair[0] + "/" * stat.S_ISDIR(pair[1].st_mode)):
        if stat.S_ISREG(status.st_mode):
            yield prefix + name, status.st_size
        elif not stat.S_ISDIR(status.st_mode):
            skip(escaped(prefix + name), "special file")
        elif _identity(status) in above:
            skip(escaped(prefix + name), "link loop")
        elif recursive:
            yield from _walk(folder / name, f"{prefix}{name}/", recursive, skip, above)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _list_arrow(uri: str, recursive: bool) -> Iterator[tuple[str, int]]:
    try:
        filesystem, root = arrow_filesystem(uri)
        selector = pyarrow.fs.FileSelector(root, recursive=recursive, allow_not_found=True)
        found = sorted(filesystem.get_file_info(selector), key=lambda info: info.path)
    except (OSError, StorageError, UsageError):
        raise
    except Exception as error:  # those of fsspec's file systems have no common base
        raise StorageError(f"cannot list {uri}: {_reason(error)}") from error
    prefix = root.rstrip("/") + "/"
    if repeated := [one.path for one, next_one in itertools.pairwise(found) if one.path == next_one.path]:
        raise StorageError(f"cannot list {uri}: the storage lists {repeated[0]} twice")
    for info in found:
        if info.type == pyarrow.fs.FileType.File:
            yield info.path.removeprefix(prefix), info.size


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """pyarrow's file system for `uri` and the path inside it, for libraries that want one; to read a file,
    `open_input` is the way.
    """
    if is_local(uri):
        return pyarrow.fs.LocalFileSystem(), str(local_path(uri).absolute())
    filesystem, path = _filesystem(uri)
    return pyarrow.fs.PyFileSystem(StrictHandler(filesystem)), path  # type: ignore[abstract]  # the stubs omit its methods


def _read_local(uri: str, most: int | None) -> bytes:
    try:
        with _open_local(uri) as file:
            size = os.fstat(file.fileno()).st_size
            if most is not None and size > most:
                raise TooLarge(size)
            return file.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such file: {shown(uri)}") from error
    except OSError as error:
        raise StorageError(f"cannot read {uri}: {_reason(error)}") from error


def _open_local(uri: str) -> io.BufferedReader:
    """A regular file, opened; raises FileNotFoundError where a folder, a pipe or a device stands."""
    path = local_path(uri)
    # Without waiting for the writer of a pipe.
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} is no file") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(f"{path} is no regular file")
    return file


def _filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    # Neither a local path nor a key may be taken for a chain of file systems, "a::b".
    if is_local(uri):
        return fsspec.filesystem("file"), str(local_path(uri).absolute())
    if place := s3.parse(uri):
        options = {"anon": True} if s3.is_anonymous() else {}
        filesystem = fsspec.filesystem("s3", use_listings_cache=False, **options)
        return filesystem, f"{place.bucket}/{place.key}".rstrip("/")
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{uri}: {_reason(error)}") from error
    return filesystem, path


def _write_temporary(path: Path, data: bytes) -> str:
    """Data synced to a new file beside `path`, so that a rename or link of it is atomic and lasting."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if temporary is not None:
            os.unlink(temporary)
        raise StorageError(f"cannot write {path}: {_reason(error)}") from error
    os.chmod(temporary, 0o644)
    return temporary


def _link_if_absent(path: Path, data: bytes) -> bool:
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return path.read_bytes() == data
    except OSError as error:
        raise StorageError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        os.unlink(temporary)
    return True


def _reason(error: BaseException) -> str:
    return redacted(" ".join(str(error).split())) or type(error).__name__
