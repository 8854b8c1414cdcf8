"""Readers and writers of published region features in their common formats, image by image.

- TSV of bottom-up attention (Anderson et al. 2018, arXiv 1707.07998): one line per image with image_id,
  image_w, image_h, num_boxes and base64 of little-endian float32 boxes [R, 4] and features [R, F]; no header.
- .npz per image: features under `feat`, `features`, `x` or `arr_0`; boxes under `bbox`, `boxes`, or in a .npy
  or .npz of the same name in another folder; size under image_w and image_h, or width and height.
- HDF5: `<id>_features` and `<id>_boxes` per image, a group `<id>` with `features` and `boxes`, or stacked
  arrays [N, R, F] and [N, R, 4] beside the ids.

Boxes are xyxy in pixels. Scores and labels are not read from any of these formats: scores are 0, labels
empty.
"""

import base64
import binascii
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from glied.errors import ImageError, UsageError

if TYPE_CHECKING:
    from glied.data.features import Described

TSV_FIELDS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
FEATURE_KEYS = ("feat", "features", "x", "arr_0")
BOX_KEYS = ("bbox", "boxes", "arr_0")
_WIDTH_KEYS, _HEIGHT_KEYS = ("image_w", "width"), ("image_h", "height")
_ID_KEYS = ("image_ids", "image_id", "img_id", "ids", "id")
_STACKED = {"features": ("features", "image_features"), "boxes": ("boxes", "image_bb", "bbox")}
_COUNT_KEYS = ("num_boxes", "num_bboxes")


@dataclass(frozen=True)
class Published:
    """Published regions of one image, with the attributes of `Regions`."""

    boxes: NDArray[np.float32]
    features: NDArray[np.float32]
    width: int
    height: int

    @property
    def scores(self) -> NDArray[np.float32]:
        """Zeros, since the formats have no scores."""
        return np.zeros(len(self.boxes), np.float32)

    @property
    def labels(self) -> list[str]:
        """Empty labels, since the formats have none."""
        return [""] * len(self.boxes)

    @property
    def attributes(self) -> list[list[str]]:
        """Empty lists, since the formats have no attributes."""
        return [[] for _ in self.boxes]

    def sized(self, width: int | None, height: int | None) -> "Published":
        """Set an unknown image size, by default to the extent of the boxes."""
        if self.width and self.height:
            return self
        reach = np.ceil(self.boxes.max(axis=0)).astype(int) if len(self.boxes) else np.zeros(4, int)
        return replace(self, width=width or max(int(reach[2]), 1), height=height or max(int(reach[3]), 1))


def parse_tsv(line: bytes) -> tuple[str, Published]:
    """Parse the id and the regions of a TSV line.

    Raises:
        ImageError: "corrupt", the line is malformed.
    """
    fields = line.rstrip(b"\r\n").split(b"\t")
    if len(fields) != len(TSV_FIELDS):
        raise ImageError("corrupt", f"the line has {len(fields)} fields, expected {len(TSV_FIELDS)}")
    image_id = fields[0].decode(errors="replace")
    try:
        width, height, count = (int(float(field)) for field in fields[1:4])
        boxes, values = (np.frombuffer(base64.b64decode(field, validate=True), "<f4") for field in fields[4:])
    except (ValueError, binascii.Error) as error:
        raise ImageError("corrupt", f"{image_id}: {error}") from error
    if count < 1 or len(boxes) != 4 * count or not len(values) or len(values) % count:
        sizes = f"{count} boxes with {len(boxes)} coordinates and {len(values)} feature values"
        raise ImageError("corrupt", f"{image_id}: {sizes} do not fit together")
    return image_id, Published(boxes.reshape(count, 4), values.reshape(count, -1), width, height)


def tsv_feature_size(line: bytes) -> int:
    """Compute F of a line from its field lengths alone; 0 if they are not those of a complete line.

    The published files contain a few truncated lines, and also complete lines of the same images. If a
    truncated line happens to have consistent lengths, its F differs from that of other lines.
    """
    fields = line.rstrip(b"\r\n").split(b"\t")
    if len(fields) != len(TSV_FIELDS) or not fields[3].isdigit():
        return 0
    count, (boxes, size) = int(fields[3]), map(_decoded_length, fields[4:])
    fits = count > 0 and boxes == 16 * count and size % (4 * count) == 0
    return size // (4 * count) if fits else 0


def _decoded_length(field: bytes) -> int:
    """Return the number of bytes that a base64 field encodes, or -1 if its length is not valid."""
    padding = len(field) - len(field.rstrip(b"="))
    return len(field) // 4 * 3 - padding if len(field) % 4 == 0 and padding <= 2 else -1


def format_tsv(image_id: str, regions: "Described") -> bytes:
    """Format a TSV line byte for byte as the published writer (Python's csv, tab-separated) does.

    Raises:
        UsageError: the id contains a tab or a line break.
    """
    if set(image_id) & set("\t\r\n"):
        raise UsageError(f"image id {image_id!r} contains a tab or a line break, which TSV does not allow")
    sizes = (image_id, regions.width, regions.height, len(regions.boxes))
    arrays = (np.ascontiguousarray(part, "<f4").tobytes() for part in (regions.boxes, regions.features))
    fields = [*(str(size).encode() for size in sizes), *map(base64.b64encode, arrays)]
    return b"\t".join(fields) + b"\r\n"


def parse_npz(data: bytes, boxes: bytes | None = None) -> Published:
    """Parse a .npz (or .npy) of features with boxes in the same or another file; does not unpickle.

    Raises:
        ImageError: "corrupt", a file is malformed.
    """
    members = _arrays(data)
    values = _member(members, FEATURE_KEYS, "features")
    beside = members if boxes is None else _arrays(boxes)
    return _fitted(
        _member(beside, BOX_KEYS, "boxes"),
        values,
        _number(members, _WIDTH_KEYS),
        _number(members, _HEIGHT_KEYS),
    )


def _arrays(data: bytes) -> Mapping[str, Any]:
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ImageError("corrupt", f"not a .npz or .npy: {error}") from error
    return {"arr_0": found} if isinstance(found, np.ndarray) else found


def _member(members: Mapping[str, Any], keys: Iterable[str], what: str) -> NDArray[np.float32]:
    for key in keys:
        if key in members:
            try:
                return np.asarray(members[key], np.float32)
            except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise ImageError("corrupt", f"{key}: {error}") from error
    raise ImageError("corrupt", f"no {what} ({' or '.join(keys)}) among {', '.join(members)}")


def _number(members: Mapping[str, Any], keys: Iterable[str]) -> int:
    found = [members[key] for key in keys if key in members]
    return int(found[0]) if found else 0


def _fitted(
    boxes: NDArray[np.float32], values: NDArray[np.float32], width: int = 0, height: int = 0
) -> Published:
    """Build regions from arrays with matching shapes.

    Also accepts features as [F, R], as some tools write.
    """
    if boxes.ndim == 2 and values.ndim == 2 and boxes.shape[1] == 4:
        if values.shape[0] != len(boxes) == values.shape[1]:
            values = np.ascontiguousarray(values.T)
        if len(boxes) == len(values) > 0 and values.shape[1] > 0:
            return Published(boxes, values, width, height)
    shapes = f"boxes {list(boxes.shape)} and features {list(values.shape)}"
    raise ImageError("corrupt", f"{shapes} do not fit together")


def import_h5py() -> ModuleType:
    """Import h5py, which only HDF5 files need.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise UsageError("HDF5 needs h5py: pip install 'glied[hdf5]', or pip install h5py") from error
    return h5py


class Hdf5:
    """An HDF5 file of features with access by image id; a context manager."""

    def __init__(self, file: str | BinaryIO, name: str) -> None:
        """Open `file`, a path or a seekable file; `name` is used in messages.

        Raises:
            UsageError: h5py is missing, or the file cannot be read.
        """
        try:
            self._file = import_h5py().File(file, "r")
        except OSError as error:
            raise UsageError(f"{name} is not a readable HDF5 file: {error}") from error
        self.name = name
        self._stacked = {
            what: self._first(keys) for what, keys in _STACKED.items() if self._first(keys) is not None
        }

    def __enter__(self) -> "Hdf5":
        """Return the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def _first(self, keys: Iterable[str]) -> Any:
        """Return the first dataset with one of these names, or None."""
        items = (self._file[key] for key in keys if key in self._file)
        return next((one for one in items if hasattr(one, "shape")), None)

    def ids(self) -> Iterator[tuple[str, int, int]]:
        """Yield id, index and size in bytes of each image.

        Raises:
            UsageError: the file has an unknown format.
        """
        if "features" in self._stacked:
            yield from self._stacked_ids()
            return
        found = False
        for number, (key, value) in enumerate(self._file.items()):
            if hasattr(value, "keys") and "features" in value:
                found = True
                yield key, number, int(value["features"].nbytes)
            elif key.endswith("_features"):
                found = True
                yield key.removesuffix("_features"), number, int(value.nbytes)
        if not found:
            keys = ", ".join(list(self._file)[:5])
            raise UsageError(f"{self.name}: neither <id>_features nor <id>/features; it holds {keys}")

    def _stacked_ids(self) -> Iterator[tuple[str, int, int]]:
        ids = self._first(_ID_KEYS)
        if ids is None:
            raise UsageError(
                f"{self.name}: stacked features need the ids beside them: {' or '.join(_ID_KEYS)}"
            )
        rows = self._stacked["features"]
        size = int(rows.nbytes) // max(len(rows), 1)
        for number, one in enumerate(ids[:]):
            yield (one.decode() if isinstance(one, bytes) else str(one)), number, size

    def read(self, image_id: str, number: int) -> Published:
        """Read the regions of an image that `ids` yielded.

        Raises:
            ImageError: "corrupt", its arrays are missing or their shapes do not match.
        """
        try:
            if "features" in self._stacked:
                return self._stacked_row(number)
            group = self._file.get(image_id)
            name = "{}" if group is not None else f"{image_id}_{{}}"
            place = group if group is not None else self._file
            sizes = [int(_size(place, keys)) for keys in (_WIDTH_KEYS, _HEIGHT_KEYS)]
            boxes, values = (
                np.asarray(place[name.format(what)], np.float32) for what in ("boxes", "features")
            )
        except (KeyError, OSError, ValueError) as error:
            raise ImageError("corrupt", f"{image_id}: {error}") from error
        return _fitted(boxes, values, *sizes)

    def _stacked_row(self, number: int) -> Published:
        counts = self._first(_COUNT_KEYS)
        boxes, values = (
            np.asarray(self._stacked[what][number], np.float32) for what in ("boxes", "features")
        )
        if counts is not None:
            boxes, values = boxes[: int(counts[number])], values[: int(counts[number])]
        return _fitted(boxes, values)


def _size(place: Any, keys: Iterable[str]) -> float:
    """Return the first attribute with one of these names, or 0."""
    values = [place.attrs[key] for key in keys if key in place.attrs]
    return values[0] if values else 0
