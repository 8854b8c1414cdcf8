"""fsspec's file systems, made to distinguish a failing storage from a missing file."""

import asyncio
import ftplib
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs
from fsspec.asyn import AsyncFileSystem


class StrictHandler(pyarrow.fs.FSSpecHandler):
    """fsspec's file systems for Arrow, with errors where the storage fails.

    Arrow's own handler uses `isfile`, `isdir` and `exists`, most of which return False when the storage is
    down, and `find`, which omits the folders that it cannot list. An image would be taken for missing, and a
    prefix for empty.
    """

    fs: Any
    _create_file_info: Any

    def open_input_file(self, path: str) -> pa.PythonFile:
        """A file for reading; raises FileNotFoundError only if the storage says that there is none."""
        if self._type(path) != "file":
            raise FileNotFoundError(path)
        return pa.PythonFile(self.fs.open(path, mode="rb"), mode="r")

    open_input_stream = open_input_file

    def get_file_info(self, paths: Any) -> Any:
        """Type and size of what is at the paths."""
        with distinguish_absence():
            return super().get_file_info(paths)

    def get_file_info_selector(self, selector: pyarrow.fs.FileSelector) -> list[pyarrow.fs.FileInfo]:
        """The files below a folder; raises if any part of it cannot be listed."""
        try:
            if self._type(selector.base_dir) != "directory":
                raise NotADirectoryError(selector.base_dir)
        except FileNotFoundError:
            if selector.allow_not_found:
                return []
            raise
        with distinguish_absence():
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
        with distinguish_absence():
            return str(self.fs.info(path)["type"])


@contextmanager
def distinguish_absence() -> Iterator[None]:
    """Let a FileNotFoundError pass only if its cause is not a failure of the storage.

    Raises:
        OSError: a file system reported a failure as a missing file.
    """
    try:
        yield
    except FileNotFoundError as error:
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        while cause is not None:
            if _is_failure(cause):
                raise OSError(str(cause) or type(cause).__name__) from error
            cause = cause.__cause__
        raise


def _is_failure(cause: BaseException) -> bool:
    """Whether the error of a storage client means anything but "not found"."""
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


@functools.cache
def hub() -> fsspec.AbstractFileSystem:
    """The file system of the Hugging Face Hub; by default each thread has its own and lists all folders."""
    return fsspec.filesystem("hf", skip_instance_cache=True)
