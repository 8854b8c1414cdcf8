"""The zips in which datasets are published: photographs, and JSON files of captions and annotations."""

import json
import os
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from glied.data.coco import CaptionedImage
from glied.errors import JobError

MAX_IMAGE_BYTES = 1 << 28
MAX_JSON_BYTES = 1 << 31


def unpack(
    archives: Collection[Path], splits: Mapping[str, Sequence[CaptionedImage]], out: Path
) -> dict[str, int]:
    """Unpack photographs from zips into <out>/<split>/images; return their number per split.

    Only members whose file name is that of a needed image are read; folders in the archive are ignored. A
    file appears only when it is complete and its checksum matches; existing files are kept.

    Raises:
        JobError: an archive is broken, or needed images are in none of them.
    """
    targets = {one.file_name: out / split / "images" for split, images in splits.items() for one in images}
    for folder in set(targets.values()):
        folder.mkdir(parents=True, exist_ok=True)
    missing = set(targets)
    for archive in archives:
        try:
            with zipfile.ZipFile(archive) as opened:
                for member in opened.infolist():
                    name = PurePosixPath(member.filename).name
                    if name in missing and not member.is_dir():
                        _extract(opened, member, targets[name] / name)
                        missing.discard(name)
        # zipfile raises the last two for unknown compression and encryption.
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise JobError(
                f"{archive} is broken: {error}; delete it, and the same command downloads it again"
            ) from error
    if missing:
        raise JobError(f"{len(missing)} photographs are not in any archive, first {min(missing)}")
    return {split: len(images) for split, images in splits.items()}


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    if target.exists() and target.stat().st_size == member.file_size:
        return
    if member.file_size > MAX_IMAGE_BYTES:
        raise JobError(f"{archive.filename}: {member.filename} claims a size of {member.file_size} bytes")
    temporary = target.with_name(f".{target.name}.part")
    temporary.write_bytes(archive.read(member))
    os.replace(temporary, target)


def json_in(path: Path, name: str) -> Any:
    """Parse a JSON file, or the member `name` of a zip."""
    try:
        if not zipfile.is_zipfile(path):
            return json.loads(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            return json.loads(_read_member(archive, name))
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise JobError(f"{path}: {name} cannot be read: {error}") from error


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    for member in archive.infolist():
        if PurePosixPath(member.filename).name == name and not member.filename.startswith("__MACOSX"):
            if member.file_size > MAX_JSON_BYTES:
                raise JobError(f"{archive.filename}: {name} claims a size of {member.file_size} bytes")
            return archive.read(member)
    raise JobError(f"{archive.filename} has no {name}")


def annotated_images(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the image entries of all captions_*.json in a zip of COCO annotations."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {PurePosixPath(name).name for name in archive.namelist()}
            for name in sorted(name for name in names if name.startswith("captions_")):
                yield from json.loads(_read_member(archive, name))["images"]
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise JobError(f"{path} is not a zip of COCO annotations: {error}") from error
