"""Files by URI: local paths, `s3://` through s3fs, `http(s)://` for reading, whatever else fsspec knows.

Control files (configs, commit records, checkpoints) go through fsspec. The bulk path reads images through
pyarrow's file systems (`arrow_filesystem`), which fetch small objects from S3 about twice as fast.
S3 takes endpoint (AWS_ENDPOINT_URL), profile (AWS_PROFILE), region and credentials from the usual AWS_*
environment variables; AWS_NO_SIGN_REQUEST=1 reads public buckets without any.
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
        # Not `isfile`, which takes every failure for a no.
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
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), path  # type: ignore[abstract]  # the stubs omit its methods


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
    return " ".join(str(error).split()) or type(error).__name__
