"""Tars as WebDataset writes them: images, and beside them the .json and .txt of their samples."""

import functools
import io
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from glied import storage
from glied.bulk import tables
from glied.bulk.manifest import planned
from glied.bulk.parallel import InOrder, in_order
from glied.bulk.sources.listing import Files, passed_name, with_break
from glied.errors import StorageError, UsageError

SIDECARS = ("json", "txt")
SIDECAR_TYPE = tables.list_of(name=pa.string(), offset=pa.int64(), size=pa.int64())
_BUFFER = 1 << 16
"""Bytes read ahead between tar headers: small members come with them, large ones are skipped over."""


class TarSource:
    """The images in tars, as WebDataset writes them; shard and member name are the id."""

    def __init__(self, files: Files, index: InOrder = in_order) -> None:
        """Shards are read by means of `index`."""
        self.files = files
        self.index = index
        self.columns = pa.schema([(passed_name(name), pa.string()) for name in SIDECARS])
        self.skipped = files.skipped

    def __iter__(self) -> Iterator[pa.Table]:
        read = functools.partial(_index_tar, takes=self.files.config.takes)
        return self.index(read, self.files.shards(".tar"))


def _index_tar(shard: storage.FileInfo, takes: Callable[[str], bool]) -> pa.Table:
    """The images of a tar with the byte ranges of their sidecars, members in any order."""
    members, fault = _tar_members(shard.uri)
    sidecars: dict[str, list[dict[str, Any]]] = {}
    for member in members:
        key, extension = _sample_key(member.name)
        if extension in SIDECARS:
            place = {"name": extension, "offset": member.offset_data, "size": member.size}
            sidecars.setdefault(key, []).append(place)
    images = list({m.name: m for m in members if takes(m.name)}.values())  # of equal names the last counts
    ids = [f"{shard.name}/{member.name}" for member in images]
    table = planned(
        id=ids,
        uri=[f"{shard.uri}#{member.name}" for member in images],
        file=[shard.uri] * len(images),
        offset=[member.offset_data for member in images],
        size=[member.size for member in images],
    )
    places = [sidecars.get(_sample_key(member.name)[0], []) for member in images]
    return with_break(table, shard, fault).append_column(
        pa.field("sidecars", SIDECAR_TYPE), pa.array([*places, *[[]] * bool(fault)], SIDECAR_TYPE)
    )


def _sample_key(name: str) -> tuple[str, str]:
    """WebDataset's key of a member, all before the first dot of the base name, and its last extension."""
    folder, slash, base = name.rpartition("/")
    stem, _, extensions = base.partition(".")
    return folder + slash + stem, extensions.rpartition(".")[2].lower()


def _tar_members(uri: str) -> tuple[list[tarfile.TarInfo], str | None]:
    """The regular files of a tar, and what is wrong with it, if anything."""
    members: list[tarfile.TarInfo] = []
    try:
        with _open_seekable(uri) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.isreg() and member.offset_data + member.size > size:
                        return members, f"cut off inside {member.name}"
                    if member.isreg():
                        members.append(member)
                return members, _bad_end(file, tar.offset)
    except tarfile.TarError as error:
        return members, f"not readable as an uncompressed tar after {len(members)} members: {error}"
    except FileNotFoundError as error:
        raise UsageError(f"{uri}: no such file") from error
    except OSError as error:
        raise StorageError(f"cannot read {uri}: {error}") from error


def _bad_end(file: io.BufferedReader, position: int) -> str | None:
    """What is wrong where tarfile stopped: it ends at a damaged header as quietly as at the end marker."""
    file.seek(position)
    end = file.read(_BUFFER)
    if len(end) < tarfile.BLOCKSIZE:
        return f"cut off after byte {position}: the end marker is missing"
    if any(end):
        return f"damaged after byte {position}: neither a member nor the end marker"
    return None


def _open_seekable(uri: str) -> io.BufferedReader:
    filesystem, path = storage.arrow_filesystem(uri)
    return io.BufferedReader(filesystem.open_input_file(path), _BUFFER)  # type: ignore[arg-type]  # is raw IO
