"""Local files: walked without following loops, read only if regular, written completely or not at all."""

import errno
import io
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(
    folder: Path,
    *,
    recursive: bool,
    skip: Callable[[str, str], None],
    prefix: str = "",
    parents: tuple[tuple[int, int], ...] = (),
) -> Iterator[tuple[str, int]]:
    """Names and sizes of the files below a folder in the order of their whole names.

    Args:
        folder: where to begin; one that does not exist has no files.
        recursive: whether to enter folders.
        skip: called with the name and the kind of what is not a file; see `storage.list_files`.
        prefix: put before the names.
        parents: device and inode of the folders above, to find links that lead back to them.

    Raises:
        OSError: a folder cannot be read.
    """
    try:
        parents = (*parents, _identity(folder.stat()))
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
            skip(prefix + entry.name, "dangling link")  # or a file that was deleted meanwhile
    # A folder sorts as its content does, with the slash: "a-b" comes before "a/x".
    for name, status in sorted(found, key=lambda pair: pair[0] + "/" * stat.S_ISDIR(pair[1].st_mode)):
        if stat.S_ISREG(status.st_mode):
            yield prefix + name, status.st_size
        elif not stat.S_ISDIR(status.st_mode):
            skip(prefix + name, "special file")
        elif _identity(status) in parents:
            skip(prefix + name, "link loop")
        elif recursive:
            yield from walk(
                folder / name, recursive=True, skip=skip, prefix=f"{prefix}{name}/", parents=parents
            )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def open_file(path: Path) -> io.BufferedReader:
    """Open a regular file for reading.

    Raises:
        FileNotFoundError: there is none, but perhaps a folder, a pipe or a device.
        OSError: it cannot be opened.
    """
    try:
        # O_NONBLOCK: do not wait for the writer of a pipe.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} is not a file") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(f"{path} is not a regular file")
    return file


def write(path: Path, data: bytes) -> None:
    """Write a file; readers see the old or the new content, never a part.

    Raises:
        OSError: it cannot be written.
    """
    temporary = _write_temporary(path, data)
    try:
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def create(path: Path, data: bytes) -> bool:
    """Create a file unless it exists; returns whether the file has this content now.

    Raises:
        OSError: it cannot be written, or a folder has its name.
    """
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return path.read_bytes() == data
    finally:
        os.unlink(temporary)
    return True


def _write_temporary(path: Path, data: bytes) -> str:
    """Write and sync a new file beside `path`, so that renaming or linking it is atomic and durable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
    except OSError:
        os.unlink(temporary)
        raise
    return temporary
