"""Files by URI: local paths, `s3://` through s3fs, `http(s)://` for reading, whatever else fsspec knows.

Control files (configs, commit records, checkpoints) go through fsspec. The bulk path reads images through
pyarrow's file systems (`arrow_filesystem`), which fetch small objects from S3 about twice as fast.
S3 takes endpoint (AWS_ENDPOINT_URL), profile (AWS_PROFILE), region and credentials from the usual AWS_*
environment variables; AWS_NO_SIGN_REQUEST=1 reads public buckets without any.
"""

import asyncio
import ftplib
import os
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs
from fsspec.asyn import AsyncFileSystem

from glied.errors import StorageError, UsageError
from glied.redaction import redacted, shown


@dataclass(frozen=True)
class FileInfo:
    """One file of a listing.

    Attributes:
        uri: where to read it.
        name: path below the listed prefix, "/"-separated.
        size: bytes.
    """

    uri: str
    name: str
    size: int


def join(uri: str, *parts: str) -> str:
    """`uri` with path parts appended."""
    return "/".join([uri.rstrip("/") or "/", *(part.strip("/") for part in parts)])


def is_local(uri: str) -> bool:
    """Whether `uri` names a file of this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The path of a local `uri`."""
    return Path(uri.removeprefix("file://"))


def read_bytes(uri: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is none.
        StorageError: the storage or the credentials failed.
    """
    filesystem, path = _filesystem(uri)
    try:
        with _absence_told_from_failure():
            return filesystem.cat_file(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"no such file: {shown(uri)}") from error
    except Exception as error:
        raise StorageError(f"cannot read {uri}: {_reason(error)}") from error


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file; readers see the old or the new content, never a part."""
    if is_local(uri):
        path = local_path(uri)
        temporary = _write_temporary(path, data)
        os.replace(temporary, path)
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
    filesystem, path = _filesystem(uri)
    try:
        filesystem.pipe_file(path, data, mode="create")
    except FileExistsError:
        return read_bytes(uri) == data
    except OSError as error:
        # A 412 without a condition arrives as EINVAL: look whether the file is there.
        if exists(uri):
            return read_bytes(uri) == data
        raise StorageError(f"cannot write {uri}: {_reason(error)}") from error
    except Exception as error:
        raise StorageError(f"cannot write {uri}: {_reason(error)}") from error
    return True


def exists(uri: str) -> bool:
    """Whether a file stands at `uri`."""
    filesystem, path = _filesystem(uri)
    filesystem.invalidate_cache()
    try:
        # Not `isfile`, which takes every failure for a no.
        with _absence_told_from_failure():
            return bool(filesystem.info(path)["type"] == "file")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except Exception as error:
        raise StorageError(f"cannot look at {uri}: {_reason(error)}") from error


def delete(uri: str) -> None:
    """Remove a file; one that is not there is no error."""
    filesystem, path = _filesystem(uri)
    try:
        filesystem.rm_file(path)
    except FileNotFoundError:
        pass
    except Exception as error:
        raise StorageError(f"cannot delete {uri}: {_reason(error)}") from error


def list_files(uri: str, *, recursive: bool = True) -> Iterator[FileInfo]:
    """All files below a prefix in the order of their names; nothing if the prefix does not exist.

    Local folders and S3 are walked as the caller consumes them, folder by folder and page by page: memory
    does not grow with the number of files.

    Raises:
        StorageError: the storage or the credentials failed.
    """
    root = uri.rstrip("/")
    try:
        if is_local(uri):
            listed = _walk(local_path(uri).absolute(), "", recursive)
        elif uri.startswith("s3://"):
            listed = _list_s3(root.removeprefix("s3://"), recursive)
        else:
            listed = _list_arrow(uri, recursive)
        for name, size in listed:
            yield FileInfo(join(root or "/", name), name, size)
    except OSError as error:
        raise StorageError(f"cannot list {uri}: {_reason(error)}") from error
    except StorageError:
        raise
    except Exception as error:  # botocore's exceptions have no common base here
        raise StorageError(f"cannot list {uri}: {_reason(error)}") from error


def _walk(folder: Path, prefix: str, recursive: bool) -> Iterator[tuple[str, int]]:
    """Names and sizes below a local folder, in the order of the whole names."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    # A folder sorts as its content does, with the slash: "a-b" comes before "a/x".
    for entry in sorted(entries, key=lambda entry: entry.name + "/" * entry.is_dir()):
        if entry.is_dir():
            if recursive:
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", recursive)
        elif entry.is_file():
            try:
                entry.name.encode()
            except UnicodeEncodeError as error:
                raise StorageError(f"{entry.path!r}: the name is no valid UTF-8") from error
            yield prefix + entry.name, entry.stat().st_size


def _list_s3(path: str, recursive: bool) -> Iterator[tuple[str, int]]:
    """Names and sizes below bucket/prefix, in the order of the keys, a page of 1,000 at a time."""
    bucket, _, prefix = path.partition("/")
    prefix = prefix + "/" if prefix else ""
    filesystem, _ = _filesystem(f"s3://{bucket}")
    request: dict[str, str] = {"Bucket": bucket, "Prefix": prefix}
    if not recursive:
        request["Delimiter"] = "/"
    while True:
        try:
            page = filesystem.call_s3("list_objects_v2", **request)
        except FileNotFoundError:
            return
        for item in page.get("Contents", []):
            name = item["Key"][len(prefix) :]
            if name and not name.endswith("/"):  # such keys stand for folders
                yield name, item["Size"]
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _list_arrow(uri: str, recursive: bool) -> Iterator[tuple[str, int]]:
    filesystem, root = arrow_filesystem(uri)
    selector = pyarrow.fs.FileSelector(root, recursive=recursive, allow_not_found=True)
    prefix = root.rstrip("/") + "/"
    for info in sorted(filesystem.get_file_info(selector), key=lambda info: info.path):
        if info.type == pyarrow.fs.FileType.File:
            yield info.path.removeprefix(prefix), info.size


def download_folder(uri: str) -> Path:
    """A local folder with the files of `uri`: the folder itself where it is local, else a temporary copy."""
    if is_local(uri):
        return local_path(uri)
    target = Path(tempfile.mkdtemp(prefix="glied-"))
    for file in list_files(uri):
        path = target / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(read_bytes(file.uri))
    return target


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """pyarrow's file system for `uri` and the path inside it: the fast way to many small objects."""
    if is_local(uri):
        return pyarrow.fs.LocalFileSystem(), str(local_path(uri).absolute())
    if uri.startswith("s3://"):
        return _arrow_s3(), uri.removeprefix("s3://").rstrip("/")
    filesystem, path = _filesystem(uri)
    return pyarrow.fs.PyFileSystem(_StrictHandler(filesystem)), path  # type: ignore[abstract]  # the stubs omit its methods


class _StrictHandler(pyarrow.fs.FSSpecHandler):  # type: ignore[misc]  # the stubs omit its methods
    """fsspec's file systems for Arrow, but a failure is a failure.

    Arrow's own handler asks `isfile`, `isdir` and `exists`, most of which answer no when the storage is down,
    and `find`, which leaves out the folders that it cannot list. An image would be taken for missing, and a
    prefix for empty.
    """

    def open_input_file(self, path: str) -> pa.PythonFile:
        """A file for reading; raises FileNotFoundError only where the storage says that there is none."""
        if self._type(path) != "file":
            raise FileNotFoundError(path)
        return pa.PythonFile(self.fs.open(path, mode="rb"), mode="r")

    open_input_stream = open_input_file

    def get_file_info(self, paths: list[str]) -> list[pyarrow.fs.FileInfo]:
        """What there is at the paths."""
        with _absence_told_from_failure():
            return super().get_file_info(paths)

    def get_file_info_selector(self, selector: pyarrow.fs.FileSelector) -> list[pyarrow.fs.FileInfo]:
        """The files below a folder; raises where any part of it cannot be listed."""
        try:
            if self._type(selector.base_dir) != "directory":
                raise NotADirectoryError(selector.base_dir)
        except FileNotFoundError:
            if selector.allow_not_found:
                return []
            raise
        with _absence_told_from_failure():
            found = list(self._listed(selector.base_dir, selector.recursive))
        root = selector.base_dir.strip("/")
        return [
            self._create_file_info(info["name"], info) for info in found if info["name"].strip("/") != root
        ]

    def _listed(self, folder: str, recursive: bool) -> Iterator[dict[str, Any]]:
        kind = type(self.fs)
        own = kind.find is not fsspec.AbstractFileSystem.find
        if isinstance(self.fs, AsyncFileSystem):
            own = kind._find is not AsyncFileSystem._find
        if own:  # one request for many folders
            yield from self.fs.find(
                folder, maxdepth=None if recursive else 1, withdirs=True, detail=True
            ).values()
            return
        for info in self.fs.ls(folder, detail=True):
            yield info
            if recursive and info["type"] == "directory" and info["name"].strip("/") != folder.strip("/"):
                yield from self._listed(info["name"], recursive)

    def _type(self, path: str) -> str:
        with _absence_told_from_failure():
            return str(self.fs.info(path)["type"])


@contextmanager
def _absence_told_from_failure() -> Iterator[None]:
    """Let a FileNotFoundError pass only if no failure stands behind it.

    Raises:
        OSError: a file system has called a failure a missing file.
    """
    try:
        yield
    except FileNotFoundError as error:
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        while cause is not None:
            if _is_failure(cause):
                raise OSError(_reason(cause)) from error
            cause = cause.__cause__
        raise


def _is_failure(cause: BaseException) -> bool:
    """Whether the error of a storage client means anything but "not there"."""
    response = getattr(cause, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:  # aiohttp; azure; requests
        status = getattr(cause, "status", None) or getattr(cause, "status_code", None)
        status = status or getattr(response, "status_code", None)
    if isinstance(status, int) and status:
        return status not in (404, 410)
    if isinstance(cause, ftplib.Error):
        return not isinstance(cause, ftplib.error_perm)
    if isinstance(cause, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return False
    return isinstance(cause, (OSError, asyncio.TimeoutError)) or type(cause).__module__.startswith("aiohttp")


def _arrow_s3() -> pyarrow.fs.S3FileSystem:
    endpoint = urllib.parse.urlsplit(
        os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    anonymous = _anonymous()
    if not endpoint.netloc:
        return pyarrow.fs.S3FileSystem(region=region, anonymous=anonymous)
    return pyarrow.fs.S3FileSystem(
        anonymous=anonymous,
        endpoint_override=endpoint.netloc,
        scheme="http" if endpoint.scheme == "http" else "https",
        region=region or "us-east-1",
    )


def _anonymous() -> bool:
    return os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("1", "YES", "TRUE")


def _filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    options = {"anon": True} if uri.startswith("s3://") and _anonymous() else {}
    try:
        filesystem, path = fsspec.core.url_to_fs(
            uri if not is_local(uri) else str(local_path(uri).absolute()), **options
        )
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
