"""Where the images come from: listing a prefix, and fetching the bytes of a chunk.

Fetching goes through pyarrow's file systems with threads. Only storage can fail here: such a failure is
retried a bounded number of times and then becomes the row's error, never the image's fault.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from glied import storage
from glied.bulk import tables
from glied.bulk.config import InputConfig
from glied.bulk.manifest import Entry
from glied.errors import UsageError

STORAGE = "storage"
"""Kind of error of a row whose bytes could not be read."""
TOO_LARGE = "too_large"

FETCHED = tables.schema(
    id=pa.string(), uri=pa.string(), data=pa.large_binary(), kind=pa.string(), error=pa.string()
)
"""What `Fetch` returns: `data` is null exactly where `kind` and `error` say why."""


class Listing:
    """The images under a prefix in the order of their names.

    Attributes:
        skipped: files that are not taken as images, by extension; complete once the iteration has ended.
    """

    def __init__(self, config: InputConfig, exclude: str) -> None:
        """`exclude` is the run folder: what lies in it is no input, should it lie under the prefix."""
        self.config = config
        self.uri = absolute(config.uri)
        self.exclude = absolute(exclude).rstrip("/") + "/"
        self.skipped: dict[str, int] = {}

    def __iter__(self) -> Iterator[Entry]:
        """Entries; at most `limit` of them.

        Raises:
            UsageError: the prefix is missing or cannot be listed.
            StorageError: a local file's name is no valid UTF-8.
        """
        taken = 0
        for file in storage.list_files(self.uri):
            if taken == self.config.limit:
                return
            if file.uri.startswith(self.exclude):
                continue
            if self.config.takes(file.name):
                taken += 1
                yield Entry(file.name, file.uri, file.size)
            else:
                extension = Path(file.name).suffix.lower() or "(none)"
                self.skipped[extension] = self.skipped.get(extension, 0) + 1

    def check(self) -> None:
        """Refuse a local prefix that is missing or no folder, before anything is written."""
        if not storage.is_local(self.uri):
            return
        path = storage.local_path(self.uri)
        if not path.exists():
            raise UsageError(f"input.uri {self.config.uri}: no such folder")
        if not path.is_dir():
            raise UsageError(
                f"input.uri {self.config.uri}: not a folder; for one file use jobs/caption_image.py"
            )


@dataclasses.dataclass(frozen=True)
class Fetch:
    """Reads the bytes of a chunk of images.

    Attributes:
        threads: files read at once.
        attempts: how often one file is tried before its row fails.
        max_bytes: larger files are not read; their rows are the image's fault.
        pause: seconds before the second attempt, doubled for each further one.
    """

    threads: int = 16
    attempts: int = 4
    max_bytes: int = 1 << 28
    pause: float = 0.5

    def __call__(self, table: pa.Table) -> pa.Table:
        """Columns id, uri, size to `FETCHED`; one row out per row in, in order."""
        rows = table.to_pylist()
        with ThreadPoolExecutor(self.threads) as pool:
            results = list(pool.map(lambda row: self._read(row["uri"], row["size"]), rows))
        columns: dict[str, Any] = {
            "id": table["id"],
            "uri": table["uri"],
            "data": [data for data, _, _ in results],
            "kind": [kind for _, kind, _ in results],
            "error": [error for _, _, error in results],
        }
        return pa.table(columns, schema=FETCHED)

    def _read(self, uri: str, size: int) -> tuple[bytes | None, str | None, str | None]:
        if size > self.max_bytes:
            return None, TOO_LARGE, f"{size} bytes are more than the {self.max_bytes} allowed"
        message = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                return _read_file(uri), None, None
            except FileNotFoundError:
                return None, STORAGE, "the file has vanished since it was listed"
            except OSError as error:
                message = " ".join(str(error).split())
        return None, STORAGE, f"not readable in {self.attempts} attempts: {message}"


def absolute(uri: str) -> str:
    """A local path as an absolute one, so that workers with another working directory find it."""
    return str(storage.local_path(uri).absolute()) if storage.is_local(uri) else uri.rstrip("/")


def _read_file(uri: str) -> bytes:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Path(uri).read_bytes()
    bucket, _, key = rest.partition("/")
    filesystem, root = _filesystem(f"{scheme}://{bucket}")
    with filesystem.open_input_file(f"{root}/{key}") as file:
        return file.read()


@functools.lru_cache(maxsize=32)
def _filesystem(root: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """One client per bucket and process: to make one costs more than to read an image."""
    return storage.arrow_filesystem(root)
