"""File names of sidecars: one for each id of a run, and safe below the destination."""

import hashlib
import posixpath
import re
from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from glied import s3, storage
from glied.bulk.exports.markers import STATE

NAME_BYTES = 236
"""Most bytes of a name in an id: 255, minus .txt and the additions of a temporary file's name."""
_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]+:/(/?)")


class SidecarNames:
    """Gives each id of a run its file name.

    The extension of an id is replaced by .txt. If an earlier id has that name already, or if it could be the
    name of another id that keeps its extension, .txt is appended: a.jpg gets a.txt, a.png gets a.png.txt.
    Names depend on the manifest alone, not on what was exported before. Ids are compared by 64-bit digests,
    which take 16 bytes per id; a collision only makes a name longer.
    """

    def __init__(self, ids: Iterable[list[str]], *, flat: bool = False) -> None:
        """Compare the ids of a manifest, given in its order.

        With `flat`, the files are local: a//b and a/./b are the same file as a/b.
        """
        self.flat = flat
        own, stems = array("Q"), array("Q")
        for batch in ids:
            paths = [self._path(image_id) for image_id in batch]
            own.extend(_digest_64(path) for path in paths)
            stems.extend(_digest_64(_stem(path)) for path in paths)
        own_array, stem_array = np.frombuffer(own, np.uint64), np.frombuffer(stems, np.uint64)
        self._first = _repeated(stem_array)
        self._first_own = _repeated(own_array)
        self._ids = set(np.intersect1d(stem_array[stem_array != own_array], own_array).tolist())

    def __call__(self, image_id: str, position: int) -> str | None:
        """The name for an id at a position of the manifest; None if it is the file of an earlier id."""
        path = self._path(image_id)
        if self._first_own.get(_digest_64(path), position) != position:
            return None
        stem = _stem(path)
        digest = _digest_64(stem)
        taken = self._first.get(digest, position) != position or digest in self._ids
        return f"{path}.txt" if taken or path == f"{stem}.txt" else f"{stem}.txt"

    def _path(self, image_id: str) -> str:
        # With the :// of an address, the path would be a URI.
        path = _SCHEME.sub(lambda match: match[0].replace("://", ":/"), image_id, count=1)
        parts = path.split("/")
        return "/".join(part for part in parts if part not in ("", ".")) if self.flat else path


def _repeated(digests: NDArray[np.uint64]) -> dict[int, int]:
    """The first position of each digest that occurs more than once."""
    unique, first, count = np.unique(digests, return_index=True, return_counts=True)
    return dict(zip(unique[count > 1].tolist(), first[count > 1].tolist(), strict=True))


def _stem(image_id: str) -> str:
    return posixpath.splitext(image_id)[0]


def _digest_64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def refusal(image_id: str, out: str) -> str | None:
    """Why the name of this id is not safe below the destination, or None."""
    local = storage.is_local(out)
    scheme = _SCHEME.match(image_id)
    path = image_id[scheme.end() :] if scheme else image_id
    parts = path.split("/")
    if (path.startswith("/") and local) or re.match("[A-Za-z]:", image_id):
        return "an absolute path"
    if ".." in parts:
        return "it leads out of the destination"
    if "\\" in image_id or "\0" in image_id:
        return "a backslash or a zero character"
    if "::" in image_id and not (local or s3.parse(out)):
        return ":: chains file systems"
    if parts[-1] in ("", ".") or (scheme and not scheme[1]):
        return "no file name"
    if STATE in (parts[0], next(part for part in parts if part not in ("", "."))):
        return f"{STATE} is the state of the export"
    if any(len(part.encode()) > NAME_BYTES for part in parts):
        return f"a name of more than {NAME_BYTES} bytes"
    return None
