"""Files by URI: local paths, `s3://` through s3fs, `http(s)://` for reading, whatever else fsspec knows.

Control files (configs, commit records, checkpoints) go through fsspec. The bulk path reads images through
pyarrow's file systems (`arrow_filesystem`), which fetch small objects from S3 about twice as fast.
S3 takes endpoint and credentials from the usual AWS_* environment variables.
"""

import os
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pyarrow.fs

from glied.errors import StorageError, UsageError


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
        return filesystem.cat_file(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"no such file: {uri}") from error
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
        return bool(filesystem.isfile(path))
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
    """All files below a prefix, sorted by name within each folder; nothing if the prefix does not exist.

    Raises:
        StorageError: the storage or the credentials failed.
    """
    filesystem, root = arrow_filesystem(uri)
    selector = pyarrow.fs.FileSelector(root, recursive=recursive, allow_not_found=True)
    try:
        infos = filesystem.get_file_info(selector)
    except OSError as error:
        raise StorageError(f"cannot list {uri}: {_reason(error)}") from error
    prefix = root.rstrip("/") + "/"
    for info in sorted(infos, key=lambda info: info.path):
        if info.type == pyarrow.fs.FileType.File:
            name = info.path.removeprefix(prefix)
            yield FileInfo(join(uri, name), name, info.size)


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
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), path  # type: ignore[abstract]  # the stubs omit its methods


def _arrow_s3() -> pyarrow.fs.S3FileSystem:
    endpoint = urllib.parse.urlsplit(
        os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not endpoint.netloc:
        return pyarrow.fs.S3FileSystem(region=region)
    return pyarrow.fs.S3FileSystem(
        endpoint_override=endpoint.netloc,
        scheme="http" if endpoint.scheme == "http" else "https",
        region=region or "us-east-1",
    )


def _filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(
            uri if not is_local(uri) else str(local_path(uri).absolute())
        )
    except (ValueError, ImportError) as error:
        raise UsageError(f"{uri}: {_reason(error)}") from error
    return filesystem, path


def _write_temporary(path: Path, data: bytes) -> str:
    """Data synced to a new file beside `path`, so that a rename or link of it is atomic and lasting."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
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
    return " ".join(str(error).split()) or type(error).__name__
